"""Computes the answers to Blender's requests. The banks and portraits that were used last stay loaded."""

from __future__ import annotations

import ctypes
import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch

from .. import media
from ..contract import answers, requests
from ..contract.answers import Answer
from ..contract.coefficients import Coefficients
from ..contract.errors import EDTalkError
from ..contract.plate import media_sha256
from ..contract.protocol import ProtocolError
from ..contract.requests import Request
from ..contract.shot import Shot
from ..drawing import LoadedBank, ShotRenderer
from ..face.size import FaceSize
from ..media.clip import Clip
from .queue import RunningJob


def torch_version() -> str:
    return torch.__version__


class Jobs:
    """One method for each kind of request, for use by one thread.

    Each takes the request and the job, through which it reports progress and can be cancelled, and returns the result.
    Each raises EDTalkError, or CancelledError if the job was cancelled and has no partial result.
    device, threads: see `ShotRenderer`; EDTalkError(kind="device") if the device is not available.
    """

    def __init__(self, device: str = "auto", threads: int | None = None) -> None:
        self.shots = ShotRenderer(device, threads)
        self.device = self.shots.device

    @property
    def device_name(self) -> str:
        """Product name of the device, for users."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device).upper()

    def device_memory(self) -> int | None:
        """Bytes that are reserved on the graphics card, None without one."""
        return torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else None

    def do(self, request: Request, job: RunningJob) -> Answer:
        """Compute the answer to a request. Errors: see the class. Sends `Accepted` first, except for quick requests."""
        if isinstance(request, requests.Release):
            self.release()
            return answers.Done()
        if isinstance(request, requests.Ping):
            return answers.Done()
        methods: dict[type, Callable[..., Answer]] = {
            requests.Portrait: self.portrait,
            requests.LipSync: self.lip_sync,
            requests.Perform: self.perform,
            requests.Capture: self.capture,
            requests.Track: self.track,
            requests.ReadPlate: self.read_plate,
            requests.Explore: self.explore,
            requests.Preview: self.preview,
            requests.Render: self.render,
            requests.Encode: self.encode,
        }
        job.send(answers.Accepted())
        return methods[type(request)](request, job)

    def portrait(self, request: requests.Portrait, job: RunningJob) -> answers.PortraitResult:
        loaded = self._bank(request, job)
        face = loaded.face(request.picture, request.crop)
        (row,) = face.renderer.source_coefficients.values.tolist()
        rest = dict(zip(loaded.bank.names, row, strict=True))
        return answers.PortraitResult(rest, **face.place, pixels=face.pixels)

    def lip_sync(self, request: requests.LipSync, job: RunningJob) -> answers.LipSyncResult:
        from ..lipsync import lip_sync

        bank = self._bank(request, job).bank

        def progress(done: int, total: int) -> None:
            job.check_cancelled()
            job.progress("analyzing", done, total)

        samples = np.nan_to_num(request.samples, posinf=1.0, neginf=-1.0)
        device = self.device if self.device.type == "cuda" else "cpu"
        rows = lip_sync(samples, request.rate, request.times, bank, device=device, progress=progress)
        names = bank.names_of("lip")
        if rows.shape[1] != len(names):
            message = f"The lip-sync network of the bank '{bank.name}' has {rows.shape[1]} coefficients, the bank has"
            raise EDTalkError(f"{message} {len(names)}.", "Convert or train it again.", "bank")
        return answers.LipSyncResult(names, rows)

    def perform(self, request: requests.Perform, job: RunningJob) -> answers.PerformResult:
        from .. import expression, upper_face
        from ..media.speech import Speech
        from ..motion import SHORTEST, head_motion
        from ..prosody import cached_prosody

        bank = self._bank(request, job).bank

        def progress(done: int, total: int) -> None:
            job.check_cancelled()
            job.progress("analyzing", done, total)

        with media_warnings() as damage:
            samples = Speech(request.media, shortest=SHORTEST)
        want, times, seed = request.want, request.times, request.seeds[0]
        names: tuple[str, ...] = ()
        rows = np.zeros((len(request.seeds), len(times), 0), np.float32)
        found: dict[str, Any] = {"note": " ".join(damage)}
        if "head" in want:
            gains = {"sway": request.sway, "nods": request.nods}
            head = head_motion(bank, samples, times, request.seeds, **gains, progress=progress)
            names, rows, found["note"] = head.names, head.rows, " ".join(filter(None, [*damage, head.note]))
        if "emotion" in want:
            felt = expression.emotions(bank, samples, times, request.texts, source=request.emotion_from)
            found |= {"emotions": felt.rows, "suggestions": felt.suggestions, "emotion_note": felt.note}
        job.check_cancelled()
        voice = cached_prosody(samples)
        if "brows" in want:
            found["brow_names"], found["brows"] = upper_face.brow_accents(bank, voice, times, seed)
        if "blinks" in want:
            found["blinks"] = upper_face.speech_blinks(voice, times, seed)[:, None]
        if "gaze" in want:
            found["gaze"] = upper_face.speech_gaze(voice, times, seed)
        return answers.PerformResult(names, rows, **found)

    def capture(self, request: requests.Capture, job: RunningJob) -> answers.CaptureResult:
        from ..capture import capture

        clip = _clip(request)
        renderer = self._bank(request, job).renderer
        frames, reading, comparing = clip.expected() or 0, job.steps_of("reading"), job.steps_of("comparing")

        def step(done: int, total: int) -> None:
            """`capture` counts every frame twice if it compares them with a neutral one."""
            if total > frames and done >= frames:
                comparing(done - frames, frames)
            else:
                reading(done, frames)

        with media_warnings() as damage:
            found = capture(renderer, clip, request.crop, step, which=request.which, rest=request.rest)
        rows, note = found.rows, " ".join(filter(None, [*damage, found.note]))
        return answers.CaptureResult(rows.names, rows.values, clip.fps, clip.start, tuple(found.unseen), note)

    def track(self, request: requests.Track, job: RunningJob) -> answers.TrackResult:
        from ..face.footage import track_media

        path, start, end, step = request.media, request.start, request.end, job.steps_of("tracking")
        with media_warnings() as damage:
            found = track_media(path, request.crop, which=request.which, start=start, end=end, step=step)
        width, height = found.size
        unseen, note = tuple(found.track.unseen), " ".join(filter(None, [*damage, found.note]))
        return answers.TrackResult(
            found.track, width, height, found.fps, media_sha256(path), unseen, note, found.transfer
        )

    def read_plate(self, request: requests.ReadPlate, job: RunningJob) -> answers.ReadPlateResult:
        from ..plate_reading import read_plate

        renderer = self._bank(request, job).renderer
        return answers.ReadPlateResult(read_plate(renderer, request.media, request.track, job.steps_of("comparing")))

    def explore(self, request: requests.Explore, job: RunningJob) -> answers.ExploreResult:
        from ..explore import explore

        loaded = self._bank(request, job)
        face = loaded.face(request.picture, request.crop)

        def draw(rows: np.ndarray) -> list[np.ndarray]:
            return list(face.renderer.render(rows.astype(np.float32)))

        rest, step = face.renderer.source_coefficients.values[0], job.steps_of("exploring")
        return answers.ExploreResult(tuple(explore(draw, rest, loaded.bank.coefficients, face.eyes, step)))

    def preview(self, request: requests.Preview, job: RunningJob) -> answers.PreviewResult:
        loaded = self._bank(request, job)
        names, row = loaded.bank.names, request.coefficients
        if len(row) != len(names):
            raise ProtocolError(f"The bank '{loaded.bank.name}' has {len(names)} coefficients, found {len(row)}.")
        face = loaded.face(request.picture, request.crop, FaceSize(request.size))
        return answers.PreviewResult(face.renderer.frame(Coefficients(row[None], names)))

    def render(self, request: requests.Render, job: RunningJob) -> answers.RenderResult:
        shot = Shot.read(request.shot)
        rows = None if request.rows is None else range(request.rows[0], min(request.rows[1], len(shot.coefficients)))
        return answers.RenderResult(**self.shots.render(job, shot, rows))

    def encode(self, request: requests.Encode, job: RunningJob) -> answers.EncodeResult:
        from ..media.frames import encode_pictures

        began, step = time.monotonic(), job.steps_of("encoding")
        encode_pictures(
            request.pictures,
            request.movie,
            request.fps,
            request.sound,
            codec=request.codec,
            width=request.width,
            progress=lambda done: step(done, len(request.pictures)),
        )
        return answers.EncodeResult(len(request.pictures), round(time.monotonic() - began, 3))

    def release(self) -> None:
        """Free the memory of all banks and portraits."""
        self.shots.clear()
        gc.collect()
        with suppress(OSError, AttributeError, TypeError):  # only glibc has it; it keeps most freed memory otherwise
            ctypes.CDLL(None).malloc_trim(0)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether an exception means that the device or the computer has too little free memory."""
        on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or on_cpu

    def _bank(
        self,
        request: requests.FaceRequest | requests.LipSync | requests.Perform | requests.Capture | requests.ReadPlate,
        job: RunningJob,
    ) -> LoadedBank:
        return self.shots.bank(request.bank or "", job.progress)


@contextmanager
def media_warnings() -> Iterator[list[str]]:
    """Collect the warnings about damaged media that are logged within the block, each once, for an answer's note."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() not in found:
                found.append(record.getMessage())

    logger, handler = logging.getLogger(media.__name__), Collector(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


def _clip(request: requests.Capture) -> Clip:
    from ..media.video import parse_fps

    media, start, end = request.media, request.start, request.end
    if request.fps is None:
        return Clip.at_own_rate(media, start, end)
    return Clip(media, float(parse_fps(request.fps)), start, end)
