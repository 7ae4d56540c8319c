"""What the worker does for Blender, and what it keeps between two requests: banks, and faces ready to be drawn."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..contract.coefficients import Coefficients
from ..contract.errors import EDTalkError
from ..contract.plate import media_sha256
from ..contract.protocol import ProtocolError
from ..contract.shot import Shot, as_crop
from ..drawing import ShotRenderer

if TYPE_CHECKING:
    from ..media.clip import Clip
    from .queue import Request

Answer = tuple[dict[str, Any], bytes]  # the fields and the payload of `done`


def torch_version() -> str:
    return torch.__version__


class Jobs:
    """The answers to Blender's requests, for one thread. Each raises EDTalkError, or CancelledError where it may stop.

    device, threads: see `ShotRenderer`; EDTalkError(kind="device") for a device that is not there.
    """

    def __init__(self, device: str = "auto", threads: int | None = None) -> None:
        self.shots = ShotRenderer(device, threads)
        self.device = self.shots.device

    @property
    def device_name(self) -> str:
        """What a person calls the device."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device).upper()

    def device_memory(self) -> int | None:
        """Bytes held on a graphics card, or None."""
        return torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else None

    def portrait(self, request: Request) -> Answer:
        """What a picture's face is doing, and the face."""
        loaded = self.shots.bank(request["bank"], request.progress)
        face = loaded.face(Path(request["picture"]), as_crop(request["crop"]))
        (row,) = face.renderer.source_coefficients.values.tolist()
        rest = dict(zip(loaded.bank.names, row, strict=True))
        return {"rest": rest, **face.place, "size": len(face.pixels)}, face.pixels.tobytes()

    def lip_sync(self, request: Request) -> Answer:
        """Lip coefficients of a sound at the times asked for."""
        from ..lipsync import lip_sync

        samples, times = _sound(request)
        bank = self.shots.bank(request["bank"], request.progress).bank

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
        loaded = self.shots.bank(request["bank"], request.progress)
        found = capture(loaded.renderer, clip, crop, step, which=which, rest=request.get("rest"))
        rows = found.rows
        fields = {"names": rows.names, "frames": len(rows), "fps": clip.fps, "start": clip.start}
        return fields | {"unseen": found.unseen, "note": found.note}, rows.values.astype("<f4").tobytes()

    def track(self, request: Request) -> Answer:
        """Where a face is in every frame of a movie or a folder of pictures, for dubbing."""
        from ..face.footage import track_media

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

        loaded, crop = self.shots.bank(request["bank"], request.progress), as_crop(request["crop"])
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
        loaded = self.shots.bank(request["bank"], request.progress)
        names, payload = loaded.bank.names, request.payload
        if len(payload) != 4 * len(names):
            raise ProtocolError(f"A preview needs {4 * len(names)} bytes of coefficients, found {len(payload)}.")
        face = loaded.face(Path(request["picture"]), as_crop(request["crop"]))
        row = Coefficients(np.frombuffer(payload, "<f4")[None], names)
        (pixels,) = face.renderer.render(row)
        return {"size": len(pixels)}, pixels.tobytes()

    def render(self, request: Request) -> Answer:
        """Write the pictures of a shot that are not there yet, and name those of all its rows as they become ready."""
        return self.shots.render(request, Shot.read(request["shot"])), b""

    def release(self) -> None:
        """Give back the memory of everything kept."""
        self.shots.clear()
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
