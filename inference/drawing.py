"""From a shot to frames."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from .contract.bank import Bank
from .contract.shot import file_sha256
from .media.picture import from_network, load_picture, to_network
from .renderer import FaceRenderer

FACES = 8  # kept ready to be drawn, of each bank

T = TypeVar("T")


class Caller(Protocol):
    """Whom a render reports to, and who may stop it: a request of Blender's, or the command line."""

    @property
    def cancelled(self) -> bool: ...
    def tell(self, kind: str, **fields: Any) -> None: ...
    def progress(self, phase: str, done: int, total: int) -> None: ...
    def make_way(self) -> None: ...


class LoadedBank:
    """A bank's weights on the device, once they draw, and the faces drawn with them."""

    def __init__(self, bank: Bank, device: torch.device) -> None:
        self.bank, self._device = bank, device
        self.size = bank.config.size
        self._faces: Recent[_Face] = Recent(FACES)

    @cached_property
    def renderer(self) -> FaceRenderer:
        return FaceRenderer(self.bank, str(self._device))

    @property
    def is_added(self) -> np.ndarray:
        """(n,) bool: the coefficients that dubbing adds to a frame's own, all but the lips'."""
        return np.array([coefficient.bank != "lip" for coefficient in self.bank.coefficients])

    def face(self, picture: Path, crop: str | tuple[float, ...], size: int | None = 0) -> _Face:
        """The face of a picture, known again by the picture's content wherever its file lies.

        size: pixels of what it draws; 0: the bank's own; None: those of a few sizes that lose least of the picture.
        """
        key = file_sha256(picture), crop, size
        return self._faces.get(key, lambda: _Face(self.renderer.another(), picture, crop, size))


class _Face:
    """A renderer with its source picture set. pixels: uint8 (size, size, 3), what the network sees of it, cut out of
    the picture by `square`."""

    def __init__(self, renderer: FaceRenderer, picture: Path, crop: str | tuple[float, ...], size: int | None) -> None:
        from .face.framing import cut, cut_at, fitting_size, frame_picture, is_whole

        rgb, own_size = load_picture(picture).rgb, renderer.config.size
        square = frame_picture(rgb, own_size, crop, label=picture.name)
        self.renderer = renderer
        self.pixels = from_network(to_network(cut(rgb, square), own_size))
        self._whole, self.square = is_whole(rgb, square), square
        self._was_placed_by_eyes = crop == "auto" and not self._whole
        side = fitting_size(square, own_size) if size is None else size or own_size
        renderer.set_source(self.pixels, self.pixels if side == own_size else cut_at(rgb, square, side))

    @property
    def eyes(self) -> np.ndarray | None:
        """(2, 2) centres of the right and left eye in `pixels`; None where "auto" puts them, or if none are seen."""
        from .face.detect import detect_faces

        if self._was_placed_by_eyes:
            return None
        faces = [face for face in detect_faces(self.pixels, upright_only=True) if face.landmarks is not None]
        return max(faces, key=lambda face: face.score).landmarks[:2] if faces else None

    @property
    def place(self) -> dict[str, Any]:
        """Where the face was cut out, as a message says it."""
        if self._whole:
            return {"crop": "none", "angle": 0.0}
        *crop, angle = self.square.box
        return {"crop": crop, "angle": angle}


class Recent(Generic[T]):
    """The last few of something costly, by what it was made from."""

    def __init__(self, count: int) -> None:
        self._count, self._made = count, OrderedDict()

    def get(self, key: object, make: Callable[[], T]) -> T:
        if key not in self._made:
            while len(self._made) >= self._count:  # before the new one is made: memory is what is short
                self._made.popitem(last=False)
            self._made[key] = make()
        self._made.move_to_end(key)
        return self._made[key]

    def clear(self) -> None:
        self._made.clear()
