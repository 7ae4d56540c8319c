"""Renders a portrait with given coefficients. The interface uses numpy arrays; torch is used internally."""

from __future__ import annotations

import copy
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import groupby, islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from .batch import CardDetail, Decoded, PlannedBatch, PreparedSource, with_closed_mouths
from .card import AHEAD, Card, CudaQueue, ahead
from .contract.bank import Bank
from .contract.coefficients import Coefficients
from .contract.errors import EDTalkError
from .device import BATCH, LARGE, default_batch, open_device
from .lanes import FasterOf, Lanes, one_core_per_operator
from .media.picture import frames_to_network, from_network, to_network
from .model.batches import check_picture, pad_batch
from .model.correction import Correction
from .model.decoder import Canvas, Drawn, Source
from .model.fast_detail import FastDetail, with_detail
from .model.fast_gaze import TurnableEyes, turned_eyes
from .model.fast_unet import painting_type
from .model.insets import PlacedInset, Window, composite_insets
from .model.lids import FINEST, lid_insets, lid_position_insets, with_moved_skin
from .model.load import load_networks
from .model.plan import Plan, Planner
from .model.readers.face_reader import FaceReader
from .model.source_lips import SourceLips
from .model.tensor_trees import concatenated, split_sources

if TYPE_CHECKING:
    from .detail import Detail, Workspace
    from .teeth import TeethTexture

logger = logging.getLogger(__name__)

DTYPES = {"auto": torch.float32, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
GRAPHS = "EDTALK_CUDA_GRAPHS"  # environment variable; 0 switches them off
R = TypeVar("R")
Chunk = TypeVar("Chunk", np.ndarray, "list[SourceRow]")  # what a batch is made of
SourceRow = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # coefficients, a picture and its detail
Pictures = Callable[[], list[np.ndarray]]  # waits for the pictures of a batch that has been begun


class FaceRenderer:
    """Renders with one bank on one device: `set_source` once, then `render` any number of frames.

    A frame is bit-identical whether it is rendered alone, in any batch or in any part of a clip: all batches have the
    same size, and the last one is padded. Several batches are computed at once, each by one thread (`inference.lanes`);
    a graphics card computes one while the pictures of the one before are copied (`inference.card`).
    Only where a card has too little memory, the size is halved; then frames may differ in rounding. Memory use does not
    depend on the length of the clip. Not thread-safe.

    device: "auto" (cuda, else mps, else cpu) or a torch device name. threads: CPU threads, for the whole process.
    dtype: precision of the convolutions; latents, flow, warp and colours stay float32. "auto": float32 for the decoder,
    and for refiner and insets the type with which they were trained, bfloat16, where the processor or the card
    multiplies it directly. compile: compile the decoder with torch.compile; the first frame then takes minutes. batch:
    frames computed together; default 8, on the CPU 1 for banks of more than 128 px, with CUDA 32 or fewer. graphs:
    record batches with CUDA graphs; default True, unless the environment variable EDTALK_CUDA_GRAPHS is 0.
    Raises EDTalkError of kind "device" if the device is not available, "bank" if the bank lacks tensors.

    Attributes: config, the bank's `GeneratorConfig`; reader, a `FaceReader` with the same weights; painting, the
    precision of the convolutions of refiner and insets.
    """

    def __init__(
        self,
        bank: Bank,
        device: str = "auto",
        threads: int | None = None,
        dtype: str = "auto",
        compile: bool = False,
        batch: int | None = None,
        graphs: bool | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise EDTalkError(f"dtype must be one of {', '.join(DTYPES)}, found '{dtype}'.")
        if threads is not None:
            torch.set_num_threads(threads)
        self.bank, self.config = bank, bank.config
        self.device = open_device(device)
        on_cpu = self.device.type == "cpu"
        self.batch = batch or default_batch(self.device, bank.config.size)
        self._card: Card | None = None
        if self.device.type == "cuda":
            graphs = os.environ.get(GRAPHS, "1") != "0" if graphs is None else graphs
            self._card = Card(CudaQueue(self.device), graphs)
        self.lanes = Lanes(torch.get_num_threads() if on_cpu else 1)
        with torch.inference_mode():
            networks = load_networks(bank, self.device, DTYPES[dtype])
            self.painting = painting_type(self.device) if dtype == "auto" else DTYPES[dtype]
            self._correction: Correction | None = None
            if networks.refiner is not None:
                self._correction = Correction(networks.refiner, networks.insets, self.painting, networks.teeth)
        self._encoder, self._decoder = networks.encoder, networks.decoder
        self._teeth: np.ndarray | None = None
        if networks.teeth is not None:
            from .teeth import softened

            self._teeth = softened(networks.teeth.get_buffer("texture").cpu().numpy())
        # Reading a face takes longer on the CPU than on a card: several threads share it.
        reading = Lanes(torch.get_num_threads()) if self._card else self.lanes
        self.reader = FaceReader(networks, bank, self.device, BATCH if self._card else self.batch, reading)
        self._planner = Planner(bank, networks.insets, reading if self._card else None)
        self._draw = torch.compile(self._decoder) if compile else self._decoder
        self._source: PreparedSource | None = None
        self._source_coefficients: Coefficients | None = None
        self._canvases: dict[bytes, Canvas] = {}
        self._detail: Detail | CardDetail | None = None
        self._workspaces, self._faster = threading.local(), FasterOf()

    def set_source(self, image: np.ndarray, detail: np.ndarray | None = None) -> None:
        """Set the portrait, and compute everything that depends on it alone.

        image: uint8 (H, W, 3) RGB, resized to the bank's size. detail: uint8 (D, D, 3), the same picture at D pixels,
        at least the bank's size; frames then are D pixels wide and keep the portrait's texture (`inference.detail`).
        Default: frames of the bank's size.
        """
        pixels, detail = to_network(check_picture(image), self.config.size), self._checked_detail(detail)
        (self._source,) = self._encode_sources([pixels], [image if detail is None else detail])
        own = self._source.own.copy()  # so that callers cannot change the source
        self._source_coefficients, self._canvases = Coefficients(own, self.bank.names), {}
        self._detail = None
        if detail is not None:
            with one_core_per_operator():
                rows = pad_batch([own[0]], self.batch)
                (self._detail,) = self._details_of([self._source], rows, [detail], self._canvases)

    def another(self, *, closes: bool = True) -> FaceRenderer:
        """One that shares the weights, for the same thread. closes: whether it closes mouths (`inference.closing`)."""
        other = copy.copy(self)
        other._source = other._source_coefficients = other._detail = None
        other._canvases = {}
        other._planner = self._planner if closes else self._planner.without_closing()
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

    def frame(self, coefficients: Coefficients | np.ndarray) -> np.ndarray:
        """One frame of the source as soon as possible, uint8 (size, size, 3); one row of coefficients as for `render`.

        It is computed alone, so it may differ from the frame of `render` in rounding.
        """
        if self._source is None:
            raise _no_source()
        source, rows = self._source, list(self._values(coefficients))

        def draw() -> np.ndarray:
            return self._begun([source], rows, self._canvases, [self._detail], np.dtype(np.uint8))()[0]

        return self._faster.run(draw)

    def places(self, coefficients: Coefficients | np.ndarray) -> np.ndarray:
        """Sampling positions in the source of each pixel of each frame: (T, 2, S, S), x and y in [-1, 1].

        S is the bank's size. Coefficients as for `render`. All frames are returned at once.
        """
        if self._source is None:
            raise _no_source()
        source, canvases = self._source, self._canvases
        found = [np.zeros((0, 2, self.config.size, self.config.size), np.float32)]

        def places(rows: np.ndarray) -> np.ndarray:
            return self._decode([source], pad_batch(list(rows), self.batch), canvases, of_lids=True).places[: len(rows)]

        found.extend(self._in_batches(self._chunks(self._values(coefficients)), places))
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
        self, source: PreparedSource, detail: Detail | CardDetail | None, values: np.ndarray, dtype: np.dtype
    ) -> Iterator[np.ndarray]:
        canvases = self._canvases

        def draw(rows: np.ndarray) -> Pictures:
            return self._begun([source], pad_batch(list(rows), self.batch), canvases, [detail] * len(rows), dtype)

        for pictures in self._in_batches(self._chunks(values), draw):
            yield from pictures()

    def _render_frames(
        self,
        images: Iterator[np.ndarray],
        values: np.ndarray,
        dtype: np.dtype,
        added: np.ndarray | None,
        details: Iterator[np.ndarray] | None,
    ) -> Iterator[np.ndarray]:
        read = 0

        def pairs() -> Iterator[SourceRow]:
            nonlocal read
            for row in values:
                image, fine = next(images, None), None
                if image is None:
                    raise EDTalkError(f"There must be one picture per row: expected {len(values)}, found {read}.")
                if details is not None and (fine := self._checked_detail(next(details, None))) is None:
                    raise EDTalkError(f"There must be one detail per row: expected {len(values)}, found {read}.")
                read += 1
                yield row, check_picture(image), fine

        def chunks() -> Iterator[list[SourceRow]]:
            for _, alike in groupby(pairs(), self._shows_large):
                while chunk := list(islice(alike, self.batch)):
                    yield chunk

        def draw(chunk: list[SourceRow]) -> Pictures:
            pixels = [frames_to_network(image[None], self.config.size)[0] for _, image, _ in chunk]
            sources = self._encode_sources(pixels, [image if fine is None else fine for _, image, fine in chunk])
            own = pad_batch([source.own[0] for source in sources], self.batch)
            rows = [
                row if added is None else np.where(added, source.own[0] + row, row)
                for source, (row, *_) in zip(sources, chunk, strict=True)
            ]
            chunk_details: Sequence[Detail | CardDetail | None] = [None] * len(chunk)
            sources = pad_batch(sources, self.batch)
            if details is not None:
                chunk_details = self._details_of(sources, own, [fine for *_, fine in chunk if fine is not None], {})
            return self._begun(sources, pad_batch(rows, self.batch), {}, chunk_details, dtype)

        for pictures in self._in_batches(chunks(), draw):
            yield from pictures()
        if next(images, None) is not None:
            raise EDTalkError(
                f"There must be one picture per row: found more than the {len(values)} rows of coefficients."
            )

    def _shows_large(self, row: SourceRow) -> bool:
        """Whether the insets see this picture at twice the bank's size, see `_encoded`: those of a batch are alike."""
        _, image, fine = row
        return min((image if fine is None else fine).shape[:2]) >= 2 * self.config.size

    def _chunks(self, values: np.ndarray) -> Iterator[np.ndarray]:
        """The rows of each batch; the last one may have fewer."""
        size = self.batch
        return (values[at : at + size] for at in range(0, len(values), size))

    def _in_batches(self, chunks: Iterable[Chunk], work: Callable[[Chunk], R]) -> Iterator[R]:
        """Yield the results of `work` for the rows of each batch, in order. A card is given one batch ahead of them."""
        with closing(self.lanes.map(partial(self._fitted, work), chunks)) as results:
            for found in ahead(results, AHEAD if self._card else 0):
                yield from found

    def _fitted(self, work: Callable[[Chunk], R], chunk: Chunk) -> list[R]:
        """The result of `work` for a batch, or several if the device has too little memory for so many frames.

        The renderer's batch size is halved permanently then.
        """
        results = []
        while len(chunk):
            size = self.batch
            try:
                results.append(work(chunk[:size]))
            except torch.cuda.OutOfMemoryError:
                if size == 1:
                    raise
            else:
                chunk = chunk[size:]
                continue
            # Outside of the `except` block, in which the exception keeps the tensors alive.
            if self.batch == size:
                logger.warning("Too little memory for %d frames at once, continuing with %d.", size, size // 2)
                self.batch = size // 2
            self._canvases.clear()
            if self._card is not None:
                self._card.graphs.clear()
            torch.cuda.empty_cache()
        return results

    def _values(self, coefficients: Coefficients | np.ndarray) -> np.ndarray:
        """(T, n) float32. Raises EDTalkError if the coefficients are not those of the bank."""
        names = self.bank.names
        older = names[: self.config.generator.coefficient_count]  # rows from before the bank had painted banks
        if older != names and getattr(coefficients, "names", older) == older:
            values = np.asarray(getattr(coefficients, "values", coefficients), np.float32)
            if values.shape[1:] == (len(older),):
                coefficients = self._padded(values)
        if not isinstance(coefficients, Coefficients):
            coefficients = Coefficients(coefficients, names)
        elif coefficients.names != names:
            raise EDTalkError(
                f"The coefficients do not match the bank '{self.bank.name}': expected {_summary(names)}, found "
                f"{_summary(coefficients.names)}."
            )
        return coefficients.values

    def _padded(self, rows: np.ndarray) -> np.ndarray:
        """A copy of rows (T, m) of the generator's coefficients with zeros for those that it does not draw, (T, n)."""
        return np.pad(rows, ((0, 0), (0, len(self.bank.names) - rows.shape[1])))

    def _checked_detail(self, detail: np.ndarray | None) -> np.ndarray | None:
        if detail is None:
            return None
        height, width, _ = check_picture(detail).shape
        if height != width or height < self.config.size:
            raise EDTalkError(
                f"The detail must be a square of at least {self.config.size} pixels, the size of the bank "
                f"'{self.bank.name}', found {width} x {height}."
            )
        return np.ascontiguousarray(detail)

    @torch.inference_mode()
    def _details_of(
        self,
        sources: Sequence[PreparedSource],
        rows: list[np.ndarray],
        fine: Sequence[np.ndarray],
        canvases: dict[bytes, Canvas],
    ) -> list[Detail | CardDetail]:
        """The details of the first sources of a batch, as many as `fine` has. rows: the sources' own coefficients."""
        from .detail import Detail  # imports OpenCV

        size = max(map(len, fine))
        if self._card is None:
            rest = self._decode(sources, rows, canvases, size, at_rest=True)
            teeth = [self._teeth_of(one, rest.insets, row, sources[row]) for row, one in enumerate(fine)]
            return [
                Detail(one, rest.planes[row], rest.places[row], rest.mask[row], teeth[row])
                for row, one in enumerate(fine)
            ]
        batch = self._planned(sources, rows, canvases, size, at_rest=True)
        drawn, insets = self._drawn(batch, self._on_device(batch.plan))
        insets = [laid.cpu() for laid in insets if laid.teeth is not None]
        teeth = [self._teeth_of(one, insets, row, sources[row]) for row, one in enumerate(fine)]
        return [CardDetail(self._card_detail(one, drawn, row), teeth[row]) for row, one in enumerate(fine)]

    def _card_detail(self, fine: np.ndarray, at_rest: Drawn, row: int) -> FastDetail:
        from .grain import new_grain

        new = new_grain(fine) if len(fine) >= 2 * self.config.size else None
        on_card = None if new is None else torch.from_numpy(new).to(self.device)
        return FastDetail.of(torch.tensor(fine).to(self.device), at_rest, row, on_card)

    def _teeth_of(
        self, fine: np.ndarray, at_rest: Sequence[PlacedInset], row: int, source: PreparedSource
    ) -> TeethTexture | None:
        """The texture of a source's teeth. at_rest: insets of which `row` is the source with its own coefficients."""
        if self._teeth is None or not self._shows_teeth(len(fine)):
            return None
        from .teeth import TeethTexture

        teeth, lips = TeethTexture(self._teeth), source.lips
        mouth = None if lips is None else lips.open_mouth(len(fine))
        for to_picture, _, planes in (laid.frames()[row] for laid in at_rest):
            if planes is not None:
                teeth = teeth.of_source(fine, to_picture, planes, mouth)
        return teeth

    def _shows_teeth(self, size: int) -> bool:
        """Whether frames of that size show single teeth: in smaller ones, a tooth is about a pixel wide."""
        return size >= 2 * self.config.size

    @one_core_per_operator()
    @torch.inference_mode()
    def _encode_sources(self, pixels: list[np.ndarray], fine: Sequence[np.ndarray]) -> list[PreparedSource]:
        """Encode source pictures: pixels (3, S, S); fine: (H, W, 3), the same pictures at any size.

        A card encodes several at once, as many as a batch has.
        """
        if self._card is None or len(pixels) == 1:
            return [self._encoded(one[None], [large])[0] for one, large in zip(pixels, fine, strict=True)]
        return self._encoded(np.stack(pad_batch(pixels, self.batch)), fine)

    def _encoded(self, pixels: np.ndarray, fine: Sequence[np.ndarray]) -> list[PreparedSource]:
        """pixels: (N, 3, S, S); fine: at most N, the rest of the pixels is padding."""
        from .monochrome import tone_of  # imports OpenCV

        pictures = torch.from_numpy(pixels).to(self.device)
        latent, features = self._encoder(pictures)
        generator = self._decoder.source(latent, features)
        if self._correction is None:
            own = self._padded(self._encoder.coefficients(latent).cpu().numpy())
            return [
                PreparedSource(one, None, own[row : row + 1], tone=tone_of(fine[row]))
                for row, one in enumerate(split_sources(generator, len(fine)))
            ]
        seen, largest = pictures, 2 * self.config.size  # insets render at twice the resolution
        if self._correction.insets is not None and min(min(one.shape[:2]) for one in fine) >= largest:
            large = pad_batch([to_network(one, largest) for one in fine], len(pixels))
            seen = torch.from_numpy(np.stack(large)).to(self.device)
        corrected = self._correction.prepare(pictures, seen)
        own = self._padded(corrected.coefficients.cpu().numpy())
        found = []
        for row, parts in enumerate(
            zip(split_sources(generator, len(fine)), split_sources(corrected, len(fine)), strict=True)
        ):
            eyes = lips = None
            if self._correction.insets is not None:
                eyes = TurnableEyes(fine[row], parts[1].anchors)
                read = torch.from_numpy(own[row, : self.config.generator.coefficient_count])
                lips = SourceLips(eyes, parts[1].motion, self._correction.refiner, read)
            found.append(PreparedSource(*parts, own[row : row + 1], eyes, tone_of(fine[row]), lips))
        return found

    @torch.inference_mode()
    def _decode(
        self,
        sources: Sequence[PreparedSource],
        rows: list[np.ndarray],
        canvases: dict[bytes, Canvas] | None = None,
        size: int = 0,
        at_rest: bool = False,
        of_lids: bool = False,
    ) -> Decoded:
        """Render rows (n,) of one source, or of as many sources.

        canvases: cache by expression for one source; it holds the last expression that all rows of a batch had. size:
        width in pixels of the frames, if detail is added; default the bank's. at_rest: find the teeth of the sources,
        if the bank has a network for it. of_lids: return the sampling positions of drawn lids too; otherwise those of
        the picture below them.
        """
        batch = self._planned(sources, rows, {} if canvases is None else canvases, size, at_rest)
        plan = self._on_device(batch.plan)
        drawn, insets = self._drawn(batch, plan, of_lids)
        parts = (drawn.rgb, drawn.places, torch.sigmoid(drawn.logit[:, 0]))
        rgb, places, mask = (part.cpu().numpy() for part in parts)
        if of_lids:
            layers = [np.ascontiguousarray(one.transpose(1, 2, 0)) for one in places]
            places = np.stack(with_closed_mouths(layers, batch.plan, sources, shade=False)).transpose(0, 3, 1, 2)
        return Decoded(rgb, places, mask, [laid.cpu() for laid in insets], batch.plan)

    def _on_device(self, plan: Plan) -> Plan:
        return plan if self.device.type == "cpu" else plan.unpacked(plan.packed().to(self.device))

    def _planned(
        self,
        sources: Sequence[PreparedSource],
        rows: list[np.ndarray],
        canvases: dict[bytes, Canvas],
        size: int,
        at_rest: bool,
    ) -> PlannedBatch:
        """Decide what to draw; arguments as for `_decode`."""
        source = PreparedSource.concatenated(sources)
        eyes = [one.eyes for one in sources if one.eyes is not None]
        has_teeth = self._shows_teeth(size) and self._correction is not None and self._correction.teeth is not None
        plan = self._planner.plan(rows, source.own, eyes, mouth_at_rest=at_rest and has_teeth)
        canvas = self._kept_canvas(source.generator, self._expression(plan), canvases)
        teeth = has_teeth and plan.strengths[0] is not None
        return PlannedBatch(plan, source, eyes, canvas, size or self.config.size, teeth)

    def _drawn(self, batch: PlannedBatch, plan: Plan, of_lids: bool = False) -> tuple[Drawn, list[PlacedInset]]:
        """The pictures of a batch, and the insets to composite over them.

        plan: that of the batch, on the device. of_lids: see `_decode`.
        """
        source, corrected, alpha = batch.source, batch.source.corrected, plan.alpha
        canvas = batch.canvas or self._decoder.canvas(source.generator, self._expression(plan))
        drawn = self._draw(source.generator, canvas, alpha)
        insets: list[PlacedInset] = []
        if self._correction is None:
            return drawn, insets
        assert corrected is not None, "a bank with a refiner prepares its sources for it"
        step, picture = _eye_step(batch.size), corrected.inset_picture
        if plan.turns is not None:  # the insets read the portrait with turned eyes, and are composited over them
            sheet = concatenated([eyes.sheet for eyes in batch.eyes])
            own_step = min(_eye_step(picture.shape[-1]), FINEST)
            picture = composite_insets(picture, turned_eyes(sheet, plan.turns, own_step))
        drawn, insets = self._correction.correct(
            replace(corrected, inset_picture=picture), drawn, alpha, plan.strengths, batch.teeth
        )
        if plan.turns is None and plan.lids is None:
            return drawn, insets
        moved = drawn.places, corrected.anchors, self._correction.anchors_at(corrected, alpha)
        if plan.turns is not None:
            insets = turned_eyes(sheet, plan.turns, min(step, FINEST), *moved) + insets
        if plan.lids is not None and plan.lid_turns is not None:
            parts = concatenated([eyes.lids for eyes in batch.eyes])
            insets = lid_insets(parts, plan.lids, plan.lid_turns, step, *moved) + insets
            drawn = with_moved_skin(parts, plan.lids, drawn, *moved[1:])
            if of_lids:
                lids = lid_position_insets(parts, plan.lids, plan.lid_turns, *moved)
                drawn = drawn._replace(places=composite_insets(drawn.places, lids))
        return drawn, insets

    def _expression(self, plan: Plan) -> Tensor:
        return plan.alpha[:, self.config.bank_slices.get("exp", slice(0))]

    def _kept_canvas(self, source: Source, expression: Tensor, canvases: dict[bytes, Canvas]) -> Canvas | None:
        """The canvas of one source with one expression (N, m), on the CPU; None if each frame needs its own."""
        rows = expression.numpy()
        if len(source.styles) > 1 or (rows != rows[:1]).any():
            return None
        key = rows.tobytes()  # of all rows: a batch of another size may differ in rounding
        canvas = canvases.get(key) or self._decoder.canvas(source, expression.to(self.device), same=True)
        canvases.clear()
        canvases[key] = canvas
        return canvas

    @torch.inference_mode()
    def _begun(
        self,
        sources: Sequence[PreparedSource],
        rows: list[np.ndarray],
        canvases: dict[bytes, Canvas],
        details: Sequence[Detail | CardDetail | None],
        dtype: np.dtype,
    ) -> Pictures:
        """Begin to draw a batch. details: one for each picture that is wanted. Other arguments: see `_decode`."""
        size = max(0 if detail is None else detail.size for detail in details)
        tones = [source.tone for source in sources] * (len(details) if len(sources) == 1 else 1)

        def finished(pictures: list[np.ndarray], plan: Plan) -> list[np.ndarray]:
            return _toned(with_closed_mouths(pictures, plan, sources), tones)

        if self._card is None:
            decoded = self._decode(sources, rows, canvases, size)
            pictures = self._pictures(decoded, [one for one in details if not isinstance(one, CardDetail)], dtype)
            pictures = finished(pictures, decoded.plan)
            return lambda: pictures
        textures = [one for one in details if isinstance(one, CardDetail)]
        batch = self._planned(sources, rows, canvases, size, at_rest=False)
        read = self._begun_on_card(self._card, batch, len(sources), textures, dtype == np.uint8)
        return lambda: finished(read()[: len(details)], batch.plan)

    def _begun_on_card(
        self, card: Card, batch: PlannedBatch, sources: int, textures: Sequence[CardDetail], whole: bool
    ) -> Pictures:
        """Begin to draw a batch on a graphics card. The CPU adds its teeth when the pictures are read.

        sources: their number. textures: one for each picture, or none. whole: for levels from 0 to 255.
        """
        one_source = sources == 1
        fine = [one.texture for one in (textures[:1] if one_source else pad_batch(list(textures), sources))]

        def draw(numbers: Tensor) -> list[Tensor]:
            drawn, insets = self._drawn(batch, batch.plan.unpacked(numbers))
            pictures = with_detail(fine, drawn, insets) if fine else [composite_insets(drawn.rgb, insets)]
            results = [(to_levels(part) if whole else part).permute(0, 2, 3, 1).contiguous() for part in pictures]
            for laid in insets:
                if fine and laid.teeth is not None:
                    results += [*(part.contiguous() for part in laid.window), laid.teeth.contiguous()]
            return results

        key = batch.plan.shape, *map(id, (batch.source, batch.canvas, *fine)), batch.size, whole
        read = card.begin(key if one_source else None, draw, batch.plan.packed())

        def pictures() -> list[np.ndarray]:
            results = read()
            teeth = results[-4:] if fine and batch.teeth else []
            frames = [frame for part in results[: len(results) - len(teeth)] for frame in part]
            if teeth:
                _lay_teeth(frames, textures, teeth)
            return frames

        return pictures

    def _pictures(self, decoded: Decoded, details: Sequence[Detail | None], dtype: np.dtype) -> list[np.ndarray]:
        """A picture for each of the details, one per row of the batch: (S, S, 3), or (D, D, 3) with a detail."""
        whole = dtype == np.uint8
        if details[0] is None:
            planes = composite_insets(torch.from_numpy(decoded.planes), decoded.insets).numpy()[: len(details)]
            return list(from_network(planes) if whole else np.ascontiguousarray(planes.transpose(0, 2, 3, 1)))
        result, insets = [], [laid.frames() for laid in decoded.insets]
        for detail, group in groupby(range(len(details)), details.__getitem__):
            assert detail is not None
            frames = list(group)
            rows = slice(frames[0], frames[-1] + 1)
            output = decoded.planes[rows], decoded.places[rows], decoded.mask[rows]
            over = [[laid[frame] for laid in insets] for frame in frames]
            result.extend(detail(*output, self._workspace(detail.size), whole, over))
        return result if whole else [levels / np.float32(127.5) - np.float32(1) for levels in result]

    def _workspace(self, size: int) -> Workspace:
        """The calling thread's memory for frames of that size."""
        from .detail import Workspace

        if getattr(self._workspaces, "size", None) != size:
            self._workspaces.size, self._workspaces.memory = size, Workspace(size)
        return self._workspaces.memory


def _lay_teeth(pictures: Sequence[np.ndarray], details: Sequence[CardDetail], teeth: Sequence[np.ndarray]) -> None:
    """Composite the teeth that a card has placed over its pictures. teeth: the parts of their window, and planes."""
    *window, planes = map(torch.from_numpy, teeth)
    placed = PlacedInset(Window(*window), planes, planes).frames()
    for picture, detail, (to_picture, _, teeth_planes) in zip(pictures, details, placed, strict=False):
        assert teeth_planes is not None
        detail.lay_teeth(picture, to_picture, teeth_planes)


def _toned(pictures: list[np.ndarray], tones: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """The pictures, those of monochrome sources in their tone; tones: one per picture or more."""
    if not any(tone is not None for tone in tones):
        return pictures
    from .monochrome import toned  # imports OpenCV

    pairs = zip(pictures, tones, strict=False)
    return [picture if tone is None else toned(picture, tone) for picture, tone in pairs]


def _eye_step(size: int) -> int:
    """Pixels of an eye's window per pixel that is drawn, for pictures of `size` pixels: more would not be seen."""
    return 4 if size <= LARGE else 2 if size <= 2 * LARGE else 1


def to_levels(rgb: Tensor) -> Tensor:
    """As `media.picture.from_network`, without the change of layout."""
    return ((rgb.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


def _pixel_type(dtype: type) -> np.dtype:
    if np.dtype(dtype) not in (np.uint8, np.float32):
        raise EDTalkError(f"dtype must be uint8 or float32, found {np.dtype(dtype)}.")
    return np.dtype(dtype)


def _summary(names: tuple[str, ...]) -> str:
    return f"{len(names)} ({names[0]}, ... {names[-1]})" if names else "none"


def _no_source() -> EDTalkError:
    return EDTalkError("No source picture is set.", "Call set_source first.")
