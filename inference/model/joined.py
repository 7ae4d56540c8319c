"""Joins, parts and expands dataclasses of tensors along their first dimension, the number of sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor


def joined(parts: Sequence[Any]) -> Any:
    """One object for all sources. parts: of the same type, a dataclass, list or tuple of tensors or a tensor."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, (list, tuple)):
        return type(first)(joined(each) for each in zip(*parts, strict=True))
    return type(first)(*(joined([getattr(part, field.name) for part in parts]) for field in fields(first)))


def parted(known: Any, count: int) -> list[Any]:
    """The first `count` sources of an object as one object each, without a copy. known: as in `joined`."""
    return [_row(known, row) for row in range(count)]


def _row(known: Any, row: int) -> Any:
    if isinstance(known, Tensor):
        return known[row : row + 1]
    if isinstance(known, (list, tuple)):
        return type(known)(_row(part, row) for part in known)
    return type(known)(*(_row(getattr(known, field.name), row) for field in fields(known)))


def expanded(known: Any, count: int) -> Any:
    """The same for `count` frames: the parts of one source are repeated, without a copy. known: as in `joined`."""
    if isinstance(known, Tensor):
        return known.expand(count, *known.shape[1:]) if len(known) == 1 else known
    if isinstance(known, (list, tuple)):
        return type(known)(expanded(part, count) for part in known)
    return type(known)(*(expanded(getattr(known, field.name), count) for field in fields(known)))
