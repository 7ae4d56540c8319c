"""Renders the frames of a shot. The worker, the command line and render farms all use this module."""

from __future__ import annotations

import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image

from .contract.bank import STARTER, Bank, load_bank
from .contract.coefficients import Coefficients
from .contract.errors import EDTalkError, disk_error
from .contract.references import References
from .contract.shot import Shot, file_sha256
from .device import open_device
from .dubbing import dub, plate_frames
from .face.paste import Layering
from .face.size import BANK_SIZE, FaceSize
from .media.display import displayed
from .media.picture import Picture, clear_leftovers, from_network, load_picture, save_picture, to_network
from .renderer import FaceRenderer

BANKS = 2  # loaded banks that are kept
FACES = 8  # encoded portraits that are kept for each bank
WRITERS = 2  # threads that write files while the next frames are drawn
CARD_WRITERS = 8  # the same, at most, when a graphics card draws

T = TypeVar("T")
ReportProgress = Callable[[str, int, int], None]  # phase, steps done, steps in total


class Caller(Protocol):
    """Receives the progress of a render and may cancel it: a request from Blender, or the command line."""

    @property
    def cancelled(self) -> bool: ...
    def frame_file(self, index: int, file: str, reused: bool) -> None: ...
    def progress(self, phase: str, done: int, total: int) -> None: ...
    def run_previews(self) -> None: ...


def ignore_progress(phase: str, done: int, total: int) -> None:
    """The `ReportProgress` of a caller that shows none."""


class ShotRenderer:
    """Renders shots on one device. Keeps the banks and portraits that were used last. Not thread-safe.

    device: "auto" (CUDA, else MPS, else CPU) or a torch device name. threads: number of CPU threads, for the whole
    process; default all. Raises EDTalkError(kind="device") if the device is not available.
    """

    def __init__(self, device: str = "auto", threads: int | None = None) -> None:
        if threads is not None:
            import cv2

            torch.set_num_threads(threads)
            cv2.setNumThreads(threads)
        self.device = open_device(device)
        self._banks: RecentlyUsed[LoadedBank] = RecentlyUsed(BANKS)

    def bank(self, path: str | Path, progress: ReportProgress = ignore_progress) -> LoadedBank:
        """The bank in a file ("": the embedded starter bank). It is loaded again if the file has changed.

        Raises EDTalkError(kind="bank") if the file is missing or damaged.
        """
        path = Path(path or STARTER)
        try:
            status = path.stat()
            key = path, status.st_size, status.st_mtime_ns
        except OSError:
            key = path, 0, 0  # `load_bank` raises the error

        def load() -> LoadedBank:
            progress("loading", 0, 1)
            return LoadedBank(load_bank(path), self.device)

        return self._banks.get(key, load)

    def render(self, caller: Caller, shot: Shot, rows: Sequence[int] | None = None) -> dict[str, Any]:
        """Write the frames of a shot that have no file yet, and report the file of every row to the caller.

        rows: ascending row numbers, default all; the files of other rows are not checked. Several processes may render
        one shot at the same time: each file is written atomically, and all processes write the same content.
        Returns the numbers of rendered and reused frames, whether the caller cancelled, and the seconds it took.
        """
        began = time.monotonic()
        rows = range(len(shot.coefficients)) if rows is None else rows
        names, missing = shot.file_names(), shot.missing(rows)
        if (plate := shot.plate) is not None:  # reading footage in the order of its frames is fastest
            missing.sort(key=lambda row: plate.times[row])
        waiting: dict[str, list[int]] = {names[row]: [] for row in missing}
        reused = 0
        for row in rows:
            if names[row] in waiting:
                waiting[names[row]].append(row)
            else:
                caller.frame_file(row, names[row], True)
                reused += 1
        rendered = 0

        def report(row: int, written: Future[None]) -> None:
            nonlocal rendered, reused
            written.result()
            rendered += 1
            for place, index in enumerate(waiting[names[row]]):  # a hold: one file, several frames
                caller.frame_file(index, names[row], place > 0)
                reused += place > 0
            caller.progress("rendering", rendered, len(missing))

        to_draw = [] if caller.cancelled else missing
        writing: deque[tuple[int, Future[None]]] = deque()
        writers = WRITERS if self.device.type != "cuda" else max(WRITERS, min(os.cpu_count() or 1, CARD_WRITERS))
        with ThreadPoolExecutor(writers, "writer") as pool:
            for row, pixels in zip(to_draw, self.draw(shot, to_draw, caller.progress), strict=True):
                if row == to_draw[0]:
                    _open_folder(shot.frames_folder)
                writing.append((row, pool.submit(save_picture, shot.frames_folder / names[row], pixels)))
                while writing and (len(writing) > writers or writing[0][1].done()):
                    report(*writing.popleft())
                caller.run_previews()
                if caller.cancelled:
                    break
            for row, written in writing:
                report(row, written)
        seconds = round(time.monotonic() - began, 3)
        return {"rendered": rendered, "reused": reused, "cancelled": rendered < len(missing), "seconds": seconds}

    def draw(self, shot: Shot, rows: Sequence[int], progress: ReportProgress = ignore_progress) -> Iterator[np.ndarray]:
        """Render some rows of a shot, one at a time: uint8 (H, W, 3), or (H, W, 4) with straight alpha.

        Memory does not grow with the number of rows. Without rows nothing is loaded.
        """
        if not rows:
            return
        loaded = self.bank(shot.bank, progress)
        if loaded.bank.sha256 != shot.bank_sha256:
            raise EDTalkError(
                f"{shot.bank} is not the bank that the shot was made with: expected weights "
                f"{shot.bank_sha256[:12]}..., found {loaded.bank.sha256[:12]}....",
                "Choose the bank again, then render again.",
                "bank",
            )
        progress("rendering", 0, len(rows))
        draw = self._draw_portrait if shot.plate is None else self._draw_plate
        for pixels in draw(loaded, shot, rows):
            if shot.plate is not None and shot.plate.display:
                pixels = displayed(pixels, shot.plate.display)
            yield pixels if shot.fills_picture else _resized(pixels, shot.size or loaded.size)

    def _draw_portrait(self, loaded: LoadedBank, shot: Shot, rows: Sequence[int]) -> Iterator[np.ndarray]:
        assert shot.portrait is not None, "a shot without a plate has a portrait"
        layering = Layering(shot.layer, shot.mask, shot.feather)
        face = loaded.face(shot.portrait, shot.crop, FaceSize.of(shot.layer, shot.size, shot.detail))
        picture = load_picture(shot.portrait) if shot.layer != "square" else None
        for pixels in face.renderer.render(_rows_of(shot, rows)):
            yield layering.compose(pixels, picture, face.square)

    def _draw_plate(self, loaded: LoadedBank, shot: Shot, rows: Sequence[int]) -> Iterator[np.ndarray]:
        assert shot.plate is not None
        if shot.references is not None:
            yield from self._draw_mouths(loaded, shot, shot.references, rows)
            return
        layering = Layering(shot.layer, shot.mask, shot.feather)
        frames = plate_frames(shot.plate, rows, loaded.size)
        values, added = _rows_of(shot, rows).values, loaded.added(shot.added)
        size = FaceSize.of(shot.layer, shot.size, shot.detail)
        for rgb, crop, pixels in dub(loaded.renderer, frames, values, added, size):
            if crop is None or pixels is None:
                yield layering.without_face(rgb, loaded.size)
            else:
                yield layering.compose(pixels, Picture(rgb), crop)

    def _draw_mouths(
        self, loaded: LoadedBank, shot: Shot, references: References, rows: Sequence[int]
    ) -> Iterator[np.ndarray]:
        """As `draw`, with the mouths from reference frames of the clip."""
        from .mouth import MouthDrawer

        assert shot.plate is not None
        size = FaceSize.of(shot.layer, shot.size, shot.detail)
        drawer = MouthDrawer(loaded.renderer, shot.plate, references, shot.feather)
        values = _rows_of(shot, rows).values
        frames = plate_frames(shot.plate, rows, loaded.size)
        for number, row, (rgb, crop) in zip(rows, values, frames, strict=True):
            if crop is None:
                yield Layering(shot.layer).without_face(rgb, loaded.size)
            else:
                drawn = drawer.draw(rgb, crop, number, row)
                yield drawn.as_layer(shot.layer, crop.at_size(size.side(loaded.size, crop)))

    def clear(self) -> None:
        """Drop all loaded banks and portraits."""
        self._banks.clear()


def _rows_of(shot: Shot, rows: Sequence[int]) -> Coefficients:
    return Coefficients(shot.coefficients.values[list(rows)], shot.coefficients.names)


def _resized(pixels: np.ndarray, side: int) -> np.ndarray:
    """uint8 (S, S, 3 or 4) -> (side, side, 3 or 4)."""
    if len(pixels) == side:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))


def _open_folder(folder: Path) -> None:
    """Create the folder for rendered frames. Raises EDTalkError(kind="disk")."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from error
    clear_leftovers(folder)


class LoadedBank:
    """A bank with its weights on the device, and the portraits encoded with it."""

    def __init__(self, bank: Bank, device: torch.device) -> None:
        self.bank, self._device = bank, device
        self.size = bank.config.size
        self._faces: RecentlyUsed[Face] = RecentlyUsed(FACES)

    @cached_property
    def renderer(self) -> FaceRenderer:
        return FaceRenderer(self.bank, str(self._device))

    def added(self, names: Sequence[str] | None) -> np.ndarray:
        """(n,) bool: the coefficients that a dubbed shot adds to a frame's own, see `Shot.added`."""
        if names is None:
            return np.array([coefficient.bank != "lip" for coefficient in self.bank.coefficients])
        return np.isin(self.bank.names, list(names))

    def face(self, picture: Path, crop: str | tuple[float, ...], size: FaceSize = BANK_SIZE) -> Face:
        """The face in a picture. The cache is keyed by the picture's content, not by its path.

        Raises EDTalkError, kind "media" or "face".
        """
        key = file_sha256(picture), crop, size
        return self._faces.get(key, lambda: Face(self.renderer.another(), picture, crop, size))


class Face:
    """A renderer whose source is the face in a picture.

    picture: path of the portrait. crop: see `inference.contract.shot.as_crop`. size: at which the face is rendered.
    pixels: uint8 (S, S, 3) at the bank's size S, the network's input. square: the crop that was cut out.
    Raises EDTalkError, kind "media" or "face".
    """

    def __init__(self, renderer: FaceRenderer, picture: Path, crop: str | tuple[float, ...], size: FaceSize) -> None:
        from .face.framing import cut, cut_at, frame_picture, is_whole

        rgb, native = load_picture(picture).opaque, renderer.config.size
        square = frame_picture(rgb, native, crop, label=picture.name)
        self.renderer = renderer
        self.pixels = from_network(to_network(cut(rgb, square), native))
        self._whole, self.square = is_whole(rgb, square), square
        self._was_placed_by_eyes = crop == "auto" and not self._whole
        side, detail = size.side(native, square), None
        if size.detail:
            detail = self.pixels if side == native else cut_at(rgb, square, side)
        renderer.set_source(self.pixels, detail)

    @property
    def eyes(self) -> np.ndarray | None:
        """(2, 2) centres of the right and left eye in `pixels`. None if "auto" aligned them, or none are detected."""
        from .face.detect import detect_faces

        if self._was_placed_by_eyes:
            return None
        faces = detect_faces(self.pixels, upright_only=True)
        found = [(face.score, face.landmarks) for face in faces if face.landmarks is not None]
        return max(found, key=lambda face: face[0])[1][:2] if found else None

    @property
    def place(self) -> dict[str, Any]:
        """Where the face was cut out, as fields of an answer."""
        if self._whole:
            return {"crop": "none", "angle": 0.0}
        *crop, angle = self.square.box
        return {"crop": crop, "angle": angle}


class RecentlyUsed(Generic[T]):
    """A cache that keeps the `count` objects that were used last."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._made: OrderedDict[object, T] = OrderedDict()

    def get(self, key: object, make: Callable[[], T]) -> T:
        """The object stored under `key`. If there is none, it is created by `make`."""
        if key not in self._made:
            while len(self._made) >= self._count:  # removed first, so that the old and the new are not both in memory
                self._made.popitem(last=False)
            self._made[key] = make()
        self._made.move_to_end(key)
        return self._made[key]

    def clear(self) -> None:
        self._made.clear()
