"""Batches of a fixed size. Library kernels may round differently in a batch of another size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np

from ..contract.errors import EDTalkError

T = TypeVar("T")


def batches(items: Iterable[T], size: int) -> Iterator[tuple[list[T], int]]:
    """Yield lists of exactly `size` items, each with the number of items that are not padding; see `pad_batch`."""
    waiting = iter(items)
    while chunk := list(islice(waiting, size)):
        yield pad_batch(chunk, size), len(chunk)


def pad_batch(rows: list[T], count: int) -> list[T]:
    """The rows, padded to `count` by repeating the last one."""
    return rows + rows[-1:] * (count - len(rows))


def check_picture(image: np.ndarray) -> np.ndarray:
    """The picture as an array. Raises EDTalkError if it is not uint8 (height, width, 3)."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise EDTalkError(f"A picture must be uint8 (height, width, 3), found {image.dtype} {image.shape}.")
    return image
