"""What the worker does for Blender, and what it keeps between two requests: banks, and faces ready to be drawn."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..contract.bank import STARTER, load_bank
from ..contract.coefficients import Coefficients
from ..contract.errors import EDTalkError, disk_error
from ..contract.plate import media_sha256
from ..contract.protocol import ProtocolError
from ..contract.shot import Shot, as_crop
from ..drawing import Caller, LoadedBank, Recent
from ..dubbing import dub, plate_frames
from ..face.layers import Layering
from ..media.picture import Picture, clear_leftovers, load_picture, save_picture
from ..renderer import open_device

if TYPE_CHECKING:
    from ..media.clip import Clip
    from .queue import Request

BANKS = 2  # kept loaded

Answer = tuple[dict[str, Any], bytes]  # the fields and the payload of `done`


def torch_version() -> str:
    return torch.__version__


class Jobs:
    """The answers to Blender's requests, for one thread. Each raises EDTalkError, or CancelledError where it may stop.

    device, threads: see `FaceRenderer`; EDTalkError(kind="device") for a device that is not there.
    """

    def __init__(self, device: str = "auto", threads: int | None = None) -> None:
        if threads is not None:
            import cv2

            torch.set_num_threads(threads)
            cv2.setNumThreads(threads)
        self.device = open_device(device)
        self._banks: Recent[LoadedBank] = Recent(BANKS)

    @property
    def device_name(self) -> str:
        """What a person calls the device."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device).upper()

    def device_memory(self) -> int | None:
        """Bytes held on a graphics card, or None."""
        return torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else None

    def portrait(self, request: Request) -> Answer:
        """What a picture's face is doing, and the face."""
        loaded = self._bank(request, request["bank"])
        face = loaded.face(Path(request["picture"]), as_crop(request["crop"]))
        (row,) = face.renderer.source_coefficients.values.tolist()
        rest = dict(zip(loaded.bank.names, row, strict=True))
        return {"rest": rest, **face.place, "size": len(face.pixels)}, face.pixels.tobytes()

    def lip_sync(self, request: Request) -> Answer:
        """Lip coefficients of a sound at the times asked for."""
        from ..lipsync import lip_sync

        samples, times = _sound(request)
        bank = self._bank(request, request["bank"]).bank

        def progress(done: int, total: int) -> None:
            request.check()
            request.progress("listening", done, total)

        device = self.device if self.device.type == "cuda" else "cpu"
        rows = lip_sync(samples, int(request["rate"]), times, bank, device=device, progress=progress)
        names = bank.names_of("lip")
        if rows.shape[1] != len(names):
            message = f"The lip-sync network of the bank '{bank.name}' moves {rows.shape[1]} coefficients, the bank has"
            raise EDTalkError(f"{message} {len(names)}.", "Convert or train it again.", "bank")
        return {"names": names, "frames": len(rows)}, rows.astype("<f4").tobytes()

    def capture(self, request: Request) -> Answer:
        """Coefficients of a face in every frame of a clip, a folder of pictures or a picture."""
        from ..capture import capture

        def step(done: int, total: int) -> None:
            request.make_way()
            request.check()
            request.progress("watching", done, total)

        clip, crop, which = _footage(request), as_crop(request["crop"]), _which(request)
        loaded = self._bank(request, request["bank"])
        found = capture(loaded.renderer, clip, crop, step, which=which, rest=request.get("rest"))
        rows = found.rows
        fields = {"names": rows.names, "frames": len(rows), "fps": clip.fps, "start": clip.start}
        return fields | {"unseen": found.unseen, "note": found.note}, rows.values.astype("<f4").tobytes()

    def track(self, request: Request) -> Answer:
        """Where a face is in every frame of a movie or a folder of pictures, for dubbing."""
        from ..face.tracking import track_media

        def step(done: int, total: int) -> None:
            request.make_way()
            request.check()
            request.progress("tracking", done, max(done, total) if total else 0)

        media, crop, which = Path(request["media"]), as_crop(request["crop"]), _which(request)
        start, end = _span(request)
        found = track_media(media, crop, which=which, start=start, end=end, step=step)
        (width, height), track = found.size, found.track
        fields = {"frames": len(track), "width": width, "height": height, "fps": found.fps, "sha256":
                  media_sha256(media), "unseen": track.unseen, "note": found.note}  # fmt: skip
        return fields, track.to_bytes()

    def explore(self, request: Request) -> Answer:
        """What each coefficient of a bank does to a face."""
        from ..explore import explore

        loaded, crop = self._bank(request, request["bank"]), as_crop(request["crop"])
        face = loaded.face(Path(request["picture"]), crop)

        def draw(rows: np.ndarray) -> list[np.ndarray]:
            return list(face.renderer.render(rows.astype(np.float32)))

        def step(done: int, total: int) -> None:
            request.make_way()
            request.check()
            request.progress("exploring", done, total)

        rest = face.renderer.source_coefficients.values[0]
        found = explore(draw, rest, loaded.bank.coefficients, face.eyes, step)
        return {"motions": [motion.to_json() for motion in found]}, b""

    def preview(self, request: Request) -> Answer:
        """The face with one row of coefficients."""
        loaded = self._bank(request, request["bank"])
        names, payload = loaded.bank.names, request.payload
        if len(payload) != 4 * len(names):
            raise ProtocolError(f"A preview needs {4 * len(names)} bytes of coefficients, found {len(payload)}.")
        face = loaded.face(Path(request["picture"]), as_crop(request["crop"]))
        row = Coefficients(np.frombuffer(payload, "<f4")[None], names)
        (pixels,) = face.renderer.render(row)
        return {"size": len(pixels)}, pixels.tobytes()

    def render(self, request: Request) -> Answer:
        """Write the pictures of a shot that are not there yet, and name those of all its rows as they become ready."""
        return self.render_shot(request, Shot.read(request["shot"])), b""

    def render_shot(self, caller: Caller, shot: Shot, rows: Sequence[int] | None = None) -> dict[str, Any]:
        """`render` for any caller. rows: ascending, default all; the pictures of others are not looked at.

        Any number of processes may render one shot at once: each picture is written whole, and whoever comes second
        writes the same.
        """
        began = time.monotonic()
        rows = range(len(shot.coefficients)) if rows is None else rows
        names, missing = shot.file_names(), shot.missing(rows)
        if shot.plate is not None:  # footage is read forwards
            missing.sort(key=lambda row: shot.plate.times[row])
        waiting: dict[str, list[int]] = {names[row]: [] for row in missing}
        reused = 0
        for row in rows:
            if names[row] in waiting:
                waiting[names[row]].append(row)
            else:
                caller.tell("frame_file", index=row, file=names[row], reused=True)
                reused += 1
        rendered = 0
        for row, pixels in zip(missing, self._drawn(caller, shot, missing), strict=False):
            save_picture(shot.frames_folder / names[row], pixels)
            rendered += 1
            for place, index in enumerate(waiting[names[row]]):  # a hold: one picture, several frames
                caller.tell("frame_file", index=index, file=names[row], reused=place > 0)
                reused += place > 0
            caller.progress("rendering", rendered, len(missing))
            caller.make_way()
            if caller.cancelled:
                break
        seconds = round(time.monotonic() - began, 3)
        return {"rendered": rendered, "reused": reused, "cancelled": rendered < len(missing), "seconds": seconds}

    def _drawn(self, request: Caller, shot: Shot, rows: list[int]) -> Iterator[np.ndarray]:
        """Pictures of some rows of a shot, as they are computed; nothing is loaded for none."""
        if not rows or request.cancelled:
            return
        loaded = self._bank(request, shot.bank)
        if loaded.bank.sha256 != shot.bank_sha256:
            raise EDTalkError(
                f"{shot.bank} is not the bank that the shot was made with: expected weights "
                f"{shot.bank_sha256[:12]}..., found {loaded.bank.sha256[:12]}....",
                "Choose the bank again, and render again.",
                "bank",
            )
        layering = Layering(shot.layer, shot.mask, shot.feather)
        size = shot.size or (None if layering.needs_picture else loaded.size)
        if shot.size and shot.size < loaded.size:
            message = f"The bank '{loaded.bank.name}' draws {loaded.size} pixels, the shot asks for {shot.size}."
            raise EDTalkError(message, "Set the size to the bank's own.", "bank")
        face = None if shot.plate else loaded.face(shot.portrait, shot.crop, size)
        try:
            shot.frames_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(shot.frames_folder, error) from error
        clear_leftovers(shot.frames_folder)
        request.progress("rendering", 0, len(rows))
        table = Coefficients(shot.coefficients.values[rows], shot.coefficients.names)
        if face is not None:
            picture = load_picture(shot.portrait) if shot.layer != "square" else None
            for pixels in face.renderer.render(table):
                yield layering.compose(pixels, picture, face.square)
            return
        frames = plate_frames(shot.plate, rows, loaded.size)
        for rgb, crop, pixels in dub(loaded.renderer, frames, table.values, loaded.is_added, size):
            if crop is None:
                yield layering.without_face(rgb, size or loaded.size)
            else:
                yield layering.compose(pixels, Picture(rgb), crop)

    def release(self) -> None:
        """Give back the memory of everything kept."""
        self._banks.clear()
        gc.collect()
        with suppress(OSError, AttributeError, TypeError):  # only glibc has it, and would keep most for later
            ctypes.CDLL(None).malloc_trim(0)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def is_out_of_memory(self, error: Exception) -> bool:
        allocator = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # the CPU's
        return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or allocator

    def _bank(self, request: Caller, path: str | Path) -> LoadedBank:
        """The bank of a file, "" for the embedded one; read again when the file has changed."""
        path = Path(path or STARTER)
        try:
            status = path.stat()
            key = path, status.st_size, status.st_mtime_ns
        except OSError:
            key = path, 0, 0  # `load_bank` says what is wrong

        def load() -> LoadedBank:
            request.progress("loading", 0, 1)
            return LoadedBank(load_bank(path), self.device)

        return self._banks.get(key, load)


def _sound(request: Request) -> tuple[np.ndarray, np.ndarray]:
    """Samples (n,) float32 and times (T,) float64 of a lip-sync request."""
    samples, times = int(request["samples"]), int(request["times"])
    if min(samples, times) < 0 or len(request.payload) != 4 * samples + 8 * times:
        raise ProtocolError(
            f"A lip-sync of {samples} samples at {times} times needs {4 * samples + 8 * times} bytes, found "
            f"{len(request.payload)}."
        )
    sound = np.frombuffer(request.payload, "<f4", samples)
    return np.nan_to_num(sound, posinf=1.0, neginf=-1.0), np.frombuffer(request.payload, "<f8", times, 4 * samples)


def _footage(request: Request) -> Clip:
    """The clip of a capture request."""
    from ..media.clip import Clip
    from ..media.video import parse_fps

    path, fps, (start, end) = Path(request["media"]), request["fps"], _span(request)
    return Clip.at_own_rate(path, start, end) if fps is None else Clip(path, float(parse_fps(fps)), start, end)


def _span(request: Request) -> tuple[float, float | None]:
    start, end = float(request["start"]), request["end"]
    end = None if end is None else float(end)
    if start < 0 or (end is not None and end <= start):
        raise ProtocolError(f"A {request.kind} goes forwards from 0 or later, found {start:g} to {end}.")
    return start, end


def _which(request: Request) -> int | str | tuple[float, ...] | None:
    """Which of several faces is meant, see `inference.face.detect.choose_face`."""
    which = request.get("which")
    if which in (None, "largest") or (type(which) is int and which):
        return which
    with suppress(TypeError, ValueError):
        x, y = map(float, which)
        return x, y
    raise ProtocolError(f"A face is chosen by its number, 'largest' or a point, found {which!r}.")


# ------------------------------------------------------------------------------------------------ what is kept
