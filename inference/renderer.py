"""Pictures from coefficients, and coefficients from pictures: numpy outside, torch inside."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
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
from .model.insets import Known, Laid, laid_over
from .model.load import load_networks
from .model.readers.face_reader import FaceReader

if TYPE_CHECKING:
    from .detail import Detail, Workspace

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
GPU_BATCH = 8


class FaceRenderer:
    """One bank on one device, with one source picture at a time.

    A frame is bit for bit the same whether it is rendered alone, in any batch or in any part of a clip: every batch has
    the same size, the last one filled up, and on the CPU that size is one (larger ones gain nothing there). Memory
    does not grow with the clip. Not for use by several threads at once.

    device: "auto" (cuda, else mps, else cpu) or torch's name for one. threads: CPU threads, for the whole process.
    dtype: what the decoder's convolutions compute in; latents, flow, warp and colours stay float32. compile: let
    torch.compile fuse the decoder; the first frame then takes minutes. batch: frames computed together.
    Raises EDTalkError, kind "device" for a device that is not there, "bank" for a bank that lacks tensors.
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
            raise EDTalkError(f"A renderer computes in {', '.join(DTYPES)}, found '{dtype}'.")
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
        """image uint8 (H, W, 3) RGB, resized to the network's size; all that depends on it alone is computed now.

        detail: uint8 (D, D, 3), the same at D pixels: pictures are then D wide, and sharp (`inference.detail`). D is
        the network's size or more. Default: pictures as the network draws them.
        """
        pixels, detail = to_network(checked(image), self.config.size), self._checked_detail(detail)
        self._source, values = self._encode_source(pixels, image if detail is None else detail)
        self._source_coefficients = Coefficients(values, self.bank.names)
        self._canvases = {}
        self._detail = self._detail_of(self._source, values[0], detail, self._canvases)

    def another(self) -> FaceRenderer:
        """A renderer with the same weights, held once in memory, and a source of its own; for the same thread."""
        other = copy.copy(self)
        other._source = other._source_coefficients = other._detail = None
        other._canvases = {}
        return other

    @property
    def source_coefficients(self) -> Coefficients:
        """What the source picture is doing, one row: rendering it gives the picture itself."""
        if self._source_coefficients is None:
            raise _no_source()
        return self._source_coefficients

    def encode(self, images: Iterable[np.ndarray]) -> Coefficients:
        """Absolute coefficients of each picture, uint8 (H, W, 3) RGB: N rows in order. See `FaceReader.encode`."""
        return self.reader.encode(images)

    def render(
        self, coefficients: Coefficients | np.ndarray, dtype: type[np.uint8] | type[np.float32] = np.uint8
    ) -> Iterator[np.ndarray]:
        """Pictures (size, size, 3) RGB of the source with each row's coefficients, in order, as they are computed.

        size is the network's, or that of the source's detail. coefficients: (T, n), absolute, in the bank's column
        order. dtype: np.uint8, or np.float32 for what was computed, nominally in [-1, 1], not clamped. Raises
        EDTalkError at once for a missing source or foreign rows.
        """
        values, dtype = self._values(coefficients), _pixel_type(dtype)
        if self._source is None:
            raise _no_source()
        return self._render(self._source, self._detail, values, dtype)

    def places(self, coefficients: Coefficients | np.ndarray) -> np.ndarray:
        """(T, 2, S, S), x and y in [-1, 1]: where in the source each pixel of each row's picture looks.

        S is the network's size. As for `render`; not streamed.
        """
        if self._source is None:
            raise _no_source()
        found = [np.zeros((0, 2, self.config.size, self.config.size), np.float32)]
        values, grid = self._values(coefficients), warp_grid(self.config.size)[0].permute(2, 0, 1).numpy()
        for start in range(0, len(values), self.batch):
            rows = list(values[start : start + self.batch])
            flows = self._decode(self._source, np.stack(filled(rows, self.batch)), self._canvases).flows
            found.append(grid + np.tanh(flows[: len(rows), :2]))
        return np.concatenate(found)

    def render_frames(
        self,
        images: Iterable[np.ndarray],
        coefficients: Coefficients | np.ndarray,
        dtype: type[np.uint8] | type[np.float32] = np.uint8,
        added: np.ndarray | None = None,
        details: Iterable[np.ndarray] | None = None,
    ) -> Iterator[np.ndarray]:
        """As `render`, but each row has a source picture of its own, as when a video's lips are changed.

        images: uint8 (H, W, 3), one a row, read as needed. added: (n,) bool, coefficients that are added to what the
        picture itself is doing; default none. details: a detail for each picture, as in `set_source`; default none. The
        source that was set is neither used nor changed. Raises EDTalkError, on the way, when pictures and rows differ
        in number.
        """
        details = None if details is None else iter(details)
        return self._render_frames(iter(images), self._values(coefficients), _pixel_type(dtype), added, details)

    def _render(
        self, source: Source, detail: Detail | None, values: np.ndarray, dtype: np.dtype
    ) -> Iterator[np.ndarray]:
        for start in range(0, len(values), self.batch):
            rows = list(values[start : start + self.batch])
            decoded = self._decode(source, np.stack(filled(rows, self.batch)), self._canvases)
            yield from _pictures(decoded, len(rows), detail, dtype)

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
                raise EDTalkError(f"Every frame needs a picture: expected {len(values)}, found {index}.")
            fine = None
            if details is not None and (fine := self._checked_detail(next(details, None))) is None:
                raise EDTalkError(f"Every frame needs a detail: expected {len(values)}, found {index}.")
            pixels = frames_to_network(checked(image)[None], self.config.size)[0]
            source, own = self._encode_source(pixels, image if fine is None else fine)
            if added is not None:
                row = np.where(added, own[0] + row, row)
            canvases: dict[bytes, Canvas] = {}
            detail = self._detail_of(source, own[0], fine, canvases)
            decoded = self._decode(source, np.stack(filled([row], self.batch)), canvases)
            yield from _pictures(decoded, 1, detail, dtype)
        if next(images, None) is not None:
            raise EDTalkError(f"There are more pictures than the {len(values)} rows of coefficients.")

    def _values(self, coefficients: Coefficients | np.ndarray) -> np.ndarray:
        names = self.bank.names
        if not isinstance(coefficients, Coefficients):
            coefficients = Coefficients(coefficients, names)
        elif coefficients.names != names:
            raise EDTalkError(
                f"These coefficients are not the bank '{self.bank.name}'s: expected {_summary(names)}, found "
                f"{_summary(coefficients.names)}."
            )
        return coefficients.values

    def _checked_detail(self, detail: np.ndarray | None) -> np.ndarray | None:
        if detail is None:
            return None
        height, width, _ = checked(detail).shape
        if height != width or height < self.config.size:
            raise EDTalkError(
                f"A source's detail is a square of at least {self.config.size} pixels, the size of the bank "
                f"'{self.bank.name}', found {width} x {height}."
            )
        return np.ascontiguousarray(detail)

    def _detail_of(
        self, source: Source, own: np.ndarray, fine: np.ndarray | None, canvases: dict[bytes, Canvas]
    ) -> Detail | None:
        """own (n,): what the source is doing."""
        if fine is None:
            return None
        from .detail import (
            Detail,
            Workspace,  # it brings OpenCV
        )

        decoded = self._decode(source, np.stack(filled([own], self.batch)), canvases)
        size = len(fine)
        if size not in self._workspaces:
            self._workspaces[size] = Workspace(size)
        return Detail(fine, decoded.planes[0], decoded.flows[0], self._workspaces[size])

    @torch.no_grad()
    def _encode_source(self, pixels: np.ndarray, fine: np.ndarray) -> tuple[Source, np.ndarray]:
        """pixels (3, S, S); fine (H, W, 3), the same at any size."""
        picture = torch.from_numpy(pixels[None]).to(self.device)
        latent, features = self._encoder(picture)
        source = self._decoder.source(latent, features)
        if self._refiner is None:
            return source, self._encoder.coefficients(latent).cpu().numpy()
        own, motion = self._refiner.read(picture), self._refiner.motion_of(picture)
        source = replace(source, seen=(picture, motion, own))
        if self._insets is not None:
            seen = picture
            if min(fine.shape[:2]) >= 2 * self.config.size:  # they see twice as much as the network
                seen = torch.from_numpy(to_network(fine, 2 * self.config.size)[None]).to(self.device)
            known = self._insets.know(seen, motion, self._insets.find(picture))
            source = replace(source, known=known)
        return source, own.cpu().numpy().copy()  # the source's own is not the caller's to change

    @torch.no_grad()
    def _decode(self, source: Source, values: np.ndarray, canvases: dict[bytes, Canvas]) -> Decoded:
        """values (batch, n). canvases: by expression; left with those of this batch."""
        alpha = torch.from_numpy(values).to(self.device)
        expression = alpha[:, self.config.bank_slices.get("exp", slice(0))]
        keys = [row.tobytes() for row in expression.cpu().numpy()]
        known = {key: canvases[key] for key in keys if key in canvases}
        for index, key in enumerate(keys):
            if key not in known:
                known[key] = self._decoder.canvas(source, expression[index : index + 1])
        canvases.clear()
        canvases.update(known)
        insets: list[Laid] = []
        planes, flows = self._draw(source, Canvas.stack([known[key] for key in keys]), alpha)
        if source.seen is not None:
            refined = self._refiner(*_repeated(source.seen, len(planes)), flows, planes, alpha)
            if self._insets is not None:
                known, own = Known(*_repeated(source.known, len(planes))), source.seen[2]
                turned = self._refiner.amounts(alpha * self._insets.pose) - self._refiner.amounts(
                    own * self._insets.pose
                )
                insets = self._insets(known, turned, alpha - own, refined.looks, refined.missed, alpha)
            flows, planes = refined.flow, refined.rgb
        return Decoded(planes.cpu().numpy(), flows.cpu().numpy(), [laid.cpu() for laid in insets])


class Decoded(NamedTuple):
    """A batch of pictures and flows, (batch, 3, S, S) each, and what is still to be laid over the pictures."""

    planes: np.ndarray
    flows: np.ndarray
    insets: list[Laid]


def open_device(name: str) -> torch.device:
    """The device of that name, "auto" for the fastest one, set to compute the same numbers every time.

    Raises EDTalkError(kind="device") when it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
        raise EDTalkError(
            f"There is no device '{name}' to compute on.", "Choose auto or cpu, or install torch for it.", "device"
        ) from error
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # ten bits of mantissa show in a flow; float16 is asked for by name
        torch.backends.cudnn.deterministic = True
    return device


def _pixel_type(dtype: type) -> np.dtype:
    if np.dtype(dtype) not in (np.uint8, np.float32):
        raise EDTalkError(f"Pictures come as uint8 or float32, found {np.dtype(dtype)}.")
    return np.dtype(dtype)


def _repeated(parts: tuple[Tensor, ...], count: int) -> Iterator[Tensor]:
    """Parts of one source, for each frame of a batch."""
    return (part.expand(count, *part.shape[1:]) for part in parts)


def _pictures(decoded: Decoded, count: int, detail: Detail | None, dtype: np.dtype) -> Iterator[np.ndarray]:
    """The first `count` of a batch -> pictures (S, S, 3), or (D, D, 3) with a source's detail."""
    if detail is not None:
        for row, (one, flow) in enumerate(zip(decoded.planes[:count], decoded.flows, strict=False)):
            over = [laid.frame(row) for laid in decoded.insets]
            levels = detail(one, flow, dtype == np.uint8, over)
            yield levels if dtype == np.uint8 else levels / np.float32(127.5) - np.float32(1)
        return
    planes = laid_over(torch.from_numpy(decoded.planes), decoded.insets).numpy()[:count]
    yield from from_network(planes) if dtype == np.uint8 else np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def _summary(names: tuple[str, ...]) -> str:
    return f"{len(names)} ({names[0]}, ... {names[-1]})" if names else "none"


def _no_source() -> EDTalkError:
    return EDTalkError("There is no source picture yet.", "Call set_source first.")
