"""Renders a portrait with given coefficients. The interface uses numpy arrays; torch is used internally."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .contract.bank import Bank
from .contract.coefficients import Coefficients
from .contract.errors import EDTalkError
from .media.picture import frames_to_network, from_network, to_network
from .model.batches import checked, filled
from .model.decoder import Canvas, Source
from .model.generator import warp_grid
from .model.insets import InsetSource, PlacedInset, composite_insets
from .model.load import load_networks
from .model.readers.face_reader import FaceReader

if TYPE_CHECKING:
    from .detail import Detail, Workspace

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
GPU_BATCH = 8


class FaceRenderer:
    """Renders with one bank on one device: `set_source` once, then `render` any number of frames.

    A frame is bit-identical whether it is rendered alone, in any batch or in any part of a clip: all batches have the
    same size, the last one is padded, and on the CPU the size is 1 (larger batches are not faster there). Only where a
    GPU has too little memory, the size is halved; then frames may differ in rounding. Memory use does not depend on the
    length of the clip. Not thread-safe.

    device: "auto" (cuda, else mps, else cpu) or a torch device name. threads: CPU threads, for the whole process.
    dtype: precision of the decoder's convolutions; latents, flow, warp and colours stay float32. compile: compile the
    decoder with torch.compile; the first frame then takes minutes. batch: frames computed together; default 1 on the
    CPU, 8 on a GPU.
    Raises EDTalkError of kind "device" if the device is not available, "bank" if the bank lacks tensors.

    Attributes: config, the bank's `GeneratorConfig`; reader, a `FaceReader` with the same weights.
    """

    def __init__(
        self,
        bank: Bank,
        device: str = "auto",
        threads: int | None = None,
        dtype: str = "float32",
        compile: bool = False,
        batch: int | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise EDTalkError(f"dtype must be one of {', '.join(DTYPES)}, found '{dtype}'.")
        if threads is not None:
            torch.set_num_threads(threads)
        self.bank, self.config = bank, bank.config
        self.device = open_device(device)
        self.batch = batch or (1 if self.device.type == "cpu" else GPU_BATCH)
        with torch.no_grad():
            networks = load_networks(bank, self.device, DTYPES[dtype])
        self._encoder, self._decoder = networks.encoder, networks.decoder
        self._refiner, self._insets = networks.refiner, networks.insets
        self.reader = FaceReader(networks, bank.names, bank.config.size, self.device, self.batch)
        self._draw = torch.compile(self._decoder) if compile else self._decoder
        self._source: Source | None = None
        self._source_coefficients: Coefficients | None = None
        self._canvases: dict[bytes, Canvas] = {}
        self._detail: Detail | None = None
        self._workspaces: dict[int, Workspace] = {}

    def set_source(self, image: np.ndarray, detail: np.ndarray | None = None) -> None:
        """Set the portrait, and compute everything that depends on it alone.

        image: uint8 (H, W, 3) RGB, resized to the bank's size. detail: uint8 (D, D, 3), the same picture at D pixels,
        at least the bank's size; frames then are D pixels wide and keep the portrait's texture (`inference.detail`).
        Default: frames of the bank's size.
        """
        pixels, detail = to_network(checked(image), self.config.size), self._checked_detail(detail)
        self._source, values = self._encode_source(pixels, image if detail is None else detail)
        self._source_coefficients = Coefficients(values, self.bank.names)
        self._canvases = {}
        self._detail = self._detail_of(self._source, values[0], detail, self._canvases)

    def another(self) -> FaceRenderer:
        """A renderer that shares the weights but has its own source; for use in the same thread."""
        other = copy.copy(self)
        other._source = other._source_coefficients = other._detail = None
        other._canvases = {}
        return other

    @property
    def source_coefficients(self) -> Coefficients:
        """The coefficients of the source picture, one row: rendering them gives the picture itself."""
        if self._source_coefficients is None:
            raise _no_source()
        return self._source_coefficients

    def moved(
        self, motion: Mapping[str, float | np.ndarray], frames: int | None = None, fps: float | None = None
    ) -> Coefficients:
        """Rows to render that move the portrait from its own pose: `source_coefficients` plus `motion`.

        motion: by coefficient name, one number for all frames or (T,) values, in the bank's units, 0 for no motion.
        frames: T, needed only if `motion` has no (T,) values. fps: rows per second. Returns T rows. Rows without motion
        render the portrait itself. Raises EDTalkError without a source, for an unknown name, for values of another
        shape, or if they differ in length.
        """
        lengths = {len(values) for values in map(np.asarray, motion.values()) if values.ndim == 1}
        lengths |= set() if frames is None else {frames}
        if len(lengths) > 1:
            raise EDTalkError(f"All motion must have the same number of frames, found {sorted(lengths)}.")
        (count,) = lengths or {1}
        rows = Coefficients(np.tile(self.source_coefficients.values, (count, 1)), self.bank.names, fps)
        for name, values in motion.items():
            if np.ndim(values) > 1:
                raise EDTalkError(f"The motion of '{name}' must be a number or (T,) values, found {np.shape(values)}.")
            rows.column(name)[:] += values
        return rows

    def encode(self, images: Iterable[np.ndarray]) -> Coefficients:
        """Absolute coefficients of each picture, uint8 (H, W, 3) RGB: N rows in order. See `FaceReader.encode`."""
        return self.reader.encode(images)

    def render(
        self, coefficients: Coefficients | np.ndarray, dtype: type[np.uint8] | type[np.float32] = np.uint8
    ) -> Iterator[np.ndarray]:
        """Yield a frame (size, size, 3) RGB of the source for each row of coefficients, in order.

        size: the bank's, or that of the source's detail. coefficients: (T, n), absolute, in the bank's column order.
        dtype: np.uint8 in 0..255, or np.float32, nominally in [-1, 1] but not clamped. Raises EDTalkError at once if
        there is no source or if the coefficients are not the bank's.
        """
        values, pixel_type = self._values(coefficients), _pixel_type(dtype)
        if self._source is None:
            raise _no_source()
        return self._render(self._source, self._detail, values, pixel_type)

    def places(self, coefficients: Coefficients | np.ndarray) -> np.ndarray:
        """Sampling positions in the source of each pixel of each frame: (T, 2, S, S), x and y in [-1, 1].

        S is the bank's size. Coefficients as for `render`. All frames are returned at once.
        """
        if self._source is None:
            raise _no_source()
        found = [np.zeros((0, 2, self.config.size, self.config.size), np.float32)]
        values, grid = self._values(coefficients), warp_grid(self.config.size)[0].permute(2, 0, 1).numpy()
        for decoded, count in self._decode(self._source, values, self._canvases):
            found.append(grid + np.tanh(decoded.flows[:count, :2]))
        return np.concatenate(found)

    def render_frames(
        self,
        images: Iterable[np.ndarray],
        coefficients: Coefficients | np.ndarray,
        dtype: type[np.uint8] | type[np.float32] = np.uint8,
        added: np.ndarray | None = None,
        details: Iterable[np.ndarray] | None = None,
    ) -> Iterator[np.ndarray]:
        """As `render`, but with a source picture for each row, for example to change the lips in a video.

        images: uint8 (H, W, 3), one per row, read as needed. added: (n,) bool, coefficients to add to the picture's own
        instead of replacing them; default none. details: a detail for each picture, as in `set_source`; default none.
        The source that was set is neither used nor changed. Raises EDTalkError during iteration if the numbers of
        pictures and rows differ.
        """
        details = None if details is None else iter(details)
        return self._render_frames(iter(images), self._values(coefficients), _pixel_type(dtype), added, details)

    def _render(
        self, source: Source, detail: Detail | None, values: np.ndarray, dtype: np.dtype
    ) -> Iterator[np.ndarray]:
        for decoded, count in self._decode(source, values, self._canvases):
            yield from _pictures(decoded, count, detail, dtype)

    def _render_frames(
        self,
        images: Iterator[np.ndarray],
        values: np.ndarray,
        dtype: np.dtype,
        added: np.ndarray | None,
        details: Iterator[np.ndarray] | None,
    ) -> Iterator[np.ndarray]:
        for index, row in enumerate(values):
            image = next(images, None)
            if image is None:
                raise EDTalkError(f"There must be one picture per row: expected {len(values)}, found {index}.")
            fine = None
            if details is not None and (fine := self._checked_detail(next(details, None))) is None:
                raise EDTalkError(f"There must be one detail per row: expected {len(values)}, found {index}.")
            pixels = frames_to_network(checked(image)[None], self.config.size)[0]
            source, own = self._encode_source(pixels, image if fine is None else fine)
            if added is not None:
                row = np.where(added, own[0] + row, row)
            canvases: dict[bytes, Canvas] = {}
            detail = self._detail_of(source, own[0], fine, canvases)
            for decoded, count in self._decode(source, row[None], canvases):
                yield from _pictures(decoded, count, detail, dtype)
        if next(images, None) is not None:
            raise EDTalkError(
                f"There must be one picture per row: found more than the {len(values)} rows of coefficients."
            )

    def _values(self, coefficients: Coefficients | np.ndarray) -> np.ndarray:
        """(T, n) float32. Raises EDTalkError if the coefficients are not those of the bank."""
        names = self.bank.names
        if not isinstance(coefficients, Coefficients):
            coefficients = Coefficients(coefficients, names)
        elif coefficients.names != names:
            raise EDTalkError(
                f"The coefficients do not match the bank '{self.bank.name}': expected {_summary(names)}, found "
                f"{_summary(coefficients.names)}."
            )
        return coefficients.values

    def _checked_detail(self, detail: np.ndarray | None) -> np.ndarray | None:
        if detail is None:
            return None
        height, width, _ = checked(detail).shape
        if height != width or height < self.config.size:
            raise EDTalkError(
                f"The detail must be a square of at least {self.config.size} pixels, the size of the bank "
                f"'{self.bank.name}', found {width} x {height}."
            )
        return np.ascontiguousarray(detail)

    def _detail_of(
        self, source: Source, own: np.ndarray, fine: np.ndarray | None, canvases: dict[bytes, Canvas]
    ) -> Detail | None:
        """The detail of a source, or None if there is no picture `fine`. own: (n,), the source's coefficients."""
        if fine is None:
            return None
        from .detail import (
            Detail,
            Workspace,  # imports OpenCV
        )

        decoded, _ = next(self._decode(source, own[None], canvases))
        size = len(fine)
        if size not in self._workspaces:
            self._workspaces[size] = Workspace(size)
        return Detail(fine, decoded.planes[0], decoded.flows[0], self._workspaces[size])

    @torch.no_grad()
    def _encode_source(self, pixels: np.ndarray, fine: np.ndarray) -> tuple[Source, np.ndarray]:
        """Encode a source picture. Returns the source and its coefficients (1, n).

        pixels: (3, S, S); fine: (H, W, 3), the same picture at any size.
        """
        picture = torch.from_numpy(pixels[None]).to(self.device)
        latent, features = self._encoder(picture)
        source = self._decoder.source(latent, features)
        if self._refiner is None:
            return source, self._encoder.coefficients(latent).cpu().numpy()
        own, motion = self._refiner.read(picture), self._refiner.motion_of(picture)
        source = replace(source, refiner_inputs=(picture, motion, own))
        if self._insets is not None:
            seen = picture
            if min(fine.shape[:2]) >= 2 * self.config.size:  # insets render at twice the resolution
                seen = torch.from_numpy(to_network(fine, 2 * self.config.size)[None]).to(self.device)
            prepared = self._insets.prepare(seen, motion, self._insets.find_anchors(picture))
            source = replace(source, inset_source=prepared)
        return source, own.cpu().numpy().copy()  # a copy, so that callers cannot change the source

    def _decode(
        self, source: Source, values: np.ndarray, canvases: dict[bytes, Canvas]
    ) -> Iterator[tuple[Decoded, int]]:
        """Yield the batches of rendered rows, each with the number of rows that are not padding. values: (T, n).

        If the device has too little memory for a batch, the renderer's batch size is halved permanently.
        """
        start = 0
        while start < len(values):
            rows = list(values[start : start + self.batch])
            try:
                decoded: Decoded | None = self._decode_batch(source, np.stack(filled(rows, self.batch)), canvases)
            except torch.cuda.OutOfMemoryError:
                if self.batch == 1:
                    raise
                decoded = None
            if decoded is None:  # outside of the `except` block, in which the exception keeps the tensors alive
                logger.warning("Too little memory for %d frames at once, continuing with fewer.", self.batch)
                self.batch //= 2
                canvases.clear()
                torch.cuda.empty_cache()
                continue
            yield decoded, len(rows)
            start += len(rows)

    @torch.no_grad()
    def _decode_batch(self, source: Source, values: np.ndarray, canvases: dict[bytes, Canvas]) -> Decoded:
        """Render coefficients (batch, n). canvases: cache by expression; afterwards it holds those of this batch."""
        alpha = torch.from_numpy(values).to(self.device)
        expression = alpha[:, self.config.bank_slices.get("exp", slice(0))]
        keys = [row.tobytes() for row in expression.cpu().numpy()]
        known = {key: canvases[key] for key in keys if key in canvases}
        for index, key in enumerate(keys):
            if key not in known:
                known[key] = self._decoder.canvas(source, expression[index : index + 1])
        canvases.clear()
        canvases.update(known)
        insets: list[PlacedInset] = []
        planes, flows = self._draw(source, Canvas.stack([known[key] for key in keys]), alpha)
        if source.refiner_inputs is not None:
            refined = self._refiner(*_repeated(source.refiner_inputs, len(planes)), flows, planes, alpha)
            if self._insets is not None:
                portrait, own = InsetSource(*_repeated(source.inset_source, len(planes))), source.refiner_inputs[2]
                turned = self._refiner.amounts(alpha * self._insets.pose) - self._refiner.amounts(
                    own * self._insets.pose
                )
                insets = self._insets(portrait, turned, alpha - own, refined.positions, refined.residual, alpha)
            flows, planes = refined.flow, refined.rgb
        return Decoded(planes.cpu().numpy(), flows.cpu().numpy(), [laid.cpu() for laid in insets])


class Decoded(NamedTuple):
    """A batch of pictures and flows, (batch, 3, S, S) each, and the insets to composite over the pictures."""

    planes: np.ndarray
    flows: np.ndarray
    insets: list[PlacedInset]


def open_device(name: str) -> torch.device:
    """The device of that name, or with "auto" the fastest one, set up for deterministic results.

    Raises EDTalkError of kind "device" if it is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
        raise EDTalkError(
            f"The device '{name}' is not available.",
            "Choose auto or cpu, or install PyTorch with support for it.",
            "device",
        ) from error
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # ten bits of mantissa are too few for a flow
        torch.backends.cudnn.deterministic = True
    return device


def _pixel_type(dtype: type) -> np.dtype:
    if np.dtype(dtype) not in (np.uint8, np.float32):
        raise EDTalkError(f"dtype must be uint8 or float32, found {np.dtype(dtype)}.")
    return np.dtype(dtype)


def _repeated(parts: tuple[Tensor, ...], count: int) -> Iterator[Tensor]:
    """The parts of one source, repeated for each frame of a batch."""
    return (part.expand(count, *part.shape[1:]) for part in parts)


def _pictures(decoded: Decoded, count: int, detail: Detail | None, dtype: np.dtype) -> Iterator[np.ndarray]:
    """The first `count` pictures of a batch: (S, S, 3), or (D, D, 3) with a detail."""
    if detail is not None:
        for row, (one, flow) in enumerate(zip(decoded.planes[:count], decoded.flows, strict=False)):
            over = [laid.frame(row) for laid in decoded.insets]
            levels = detail(one, flow, dtype == np.uint8, over)
            yield levels if dtype == np.uint8 else levels / np.float32(127.5) - np.float32(1)
        return
    planes = composite_insets(torch.from_numpy(decoded.planes), decoded.insets).numpy()[:count]
    yield from from_network(planes) if dtype == np.uint8 else np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def _summary(names: tuple[str, ...]) -> str:
    return f"{len(names)} ({names[0]}, ... {names[-1]})" if names else "none"


def _no_source() -> EDTalkError:
    return EDTalkError("No source picture is set.", "Call set_source first.")
