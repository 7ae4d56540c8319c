"""Concatenates, splits and expands trees of tensors (dataclasses, lists, tuples) along the number of sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor


def concatenated(parts: Sequence[Any]) -> Any:
    """One tree for all sources. parts: trees of the same structure: dataclasses, lists, tuples or tensors."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, (list, tuple)):
        return type(first)(concatenated(each) for each in zip(*parts, strict=True))
    return type(first)(*(concatenated([getattr(part, field.name) for part in parts]) for field in fields(first)))


def split_sources(tree: Any, count: int) -> list[Any]:
    """One tree for each of the first `count` sources, without a copy."""
    return [_row(tree, row) for row in range(count)]


def _row(tree: Any, row: int) -> Any:
    if isinstance(tree, Tensor):
        return tree[row : row + 1]
    if isinstance(tree, (list, tuple)):
        return type(tree)(_row(part, row) for part in tree)
    return type(tree)(*(_row(getattr(tree, field.name), row) for field in fields(tree)))


def expanded(tree: Any, count: int) -> Any:
    """The tree for `count` frames: one source is repeated, without a copy; `count` sources stay as they are."""
    if isinstance(tree, Tensor):
        return tree.expand(count, *tree.shape[1:]) if len(tree) == 1 else tree
    if isinstance(tree, (list, tuple)):
        return type(tree)(expanded(part, count) for part in tree)
    return type(tree)(*(expanded(getattr(tree, field.name), count) for field in fields(tree)))
