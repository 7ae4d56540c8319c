"""Rendering on a graphics card: the order of copies, recorded batches, devices of tensors, and memory that is short.

Most tests run without a card: the renderer's path for cards does not depend on CUDA, except for the `Queue`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from inference.batch import CardDetail
from inference.card import MOST_GRAPHS, WARM_UP, Card, Downloads, Graphs, ahead
from inference.contract.bank import STARTER, Bank, load_bank
from inference.contract.demo import PORTRAIT
from inference.device import default_batch
from inference.face.framing import cut_at, frame_picture
from inference.media.picture import load_picture
from inference.model.fast_detail import FastDetail
from inference.model.insets import Inset, Insets
from inference.model.plan import Planner
from inference.renderer import FaceRenderer

SIZES = 0, 256  # pixels of detail; 0 for none
SIMILAR = 45.0  # dB between frames of two devices: lids are fitted in steps, and their fit may change with the rounding


class LateQueue:
    """A stand-in for a card, on the CPU: each copy to the CPU is carried out only when it is waited for.

    A result that is overwritten or freed too early therefore arrives damaged.
    """

    def __init__(self) -> None:
        self.recorded = self.fetched = self.waited = 0

    def memory(self, like: Tensor) -> Tensor:
        return torch.full_like(like, 77)

    def send(self, numbers: Tensor, to: Tensor | None = None) -> Tensor:
        return numbers.clone() if to is None else to.copy_(numbers)

    def fetch(self, found: Tensor, into: Tensor) -> Callable[[], None]:
        assert found.is_contiguous()
        self.fetched += 1

        def wait() -> None:
            self.waited += 1
            with torch.inference_mode():
                into.copy_(found)

        return wait

    def record(self, work: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
        self.recorded += 1
        results = [torch.full_like(result, 55) for result in work()]  # nothing is computed while it is recorded

        def replay() -> None:
            for result, found in zip(results, work(), strict=True):
                result.copy_(found)

        return replay, results


class EarlyQueue(LateQueue):
    """Each copy is carried out at once, so a buffer that is used again too early is overwritten."""

    def fetch(self, found: Tensor, into: Tensor) -> Callable[[], None]:
        self.fetched += 1
        into.copy_(found)
        return lambda: None


@pytest.fixture(scope="module")
def bank() -> Bank:
    return load_bank(STARTER)


@pytest.fixture(scope="module")
def portrait(bank: Bank) -> dict[int, np.ndarray]:
    """The demo's face at some sizes."""
    picture = load_picture(PORTRAIT).opaque
    square = frame_picture(picture, bank.config.size, "auto", label=PORTRAIT.name)
    return {size: cut_at(picture, square, size) for size in (bank.config.size, 256)}


@pytest.fixture(scope="module")
def cpu(bank: Bank) -> FaceRenderer:
    return FaceRenderer(bank, "cpu", threads=1, batch=2)


@pytest.fixture(scope="module")
def without_numbers(bank: Bank, cpu: FaceRenderer) -> FaceRenderer:
    """A renderer on the device "meta", which computes shapes only: a copy of them to the CPU is an error."""
    to_cpu = Tensor.cpu
    with pytest.MonkeyPatch.context() as patch:  # the numbers that the CPU reads while a bank is loaded
        patch.setattr(
            Tensor, "cpu", lambda one: torch.zeros(one.shape, dtype=one.dtype) if one.is_meta else to_cpu(one)
        )
        renderer = FaceRenderer(bank, "meta", batch=2)
    renderer._planner = Planner(bank, cpu.reader.networks.insets)
    return renderer


def on_card(cpu: FaceRenderer, queue: LateQueue, graphs: bool = True) -> FaceRenderer:
    """A renderer with the same weights that takes the path for cards with a stand-in."""
    renderer = cpu.another()
    renderer._card = Card(queue, graphs)
    return renderer


def set_source(renderer: FaceRenderer, portrait: dict[int, np.ndarray], size: int) -> None:
    renderer.set_source(portrait[renderer.config.size], portrait[size] if size else None)


def moving(renderer: FaceRenderer, count: int) -> np.ndarray:
    """Rows in which head, mouth and eyes move; the emotion is constant."""
    rows = np.repeat(renderer.source_coefficients.values, count, 0)
    names, time = renderer.bank.names, np.linspace(0, 3, count)
    for name, amount in (("jawOpen", 0.8), ("mouthSmile", 0.5), ("eyeYaw", 0.6)):
        rows[:, names.index(name)] += amount * np.sin(time)
    rows[:, renderer.config.bank_slices["pose"].start] += 0.2 * np.cos(time)
    return rows


def decibel(one: np.ndarray, other: np.ndarray) -> float:
    """The least peak signal-to-noise ratio of two series of pictures."""
    error = np.square(one.astype(np.float64) - other).mean((1, 2, 3))
    return float((10 * np.log10(255**2 / np.maximum(error, 1e-9))).min())


# ------------------------------------------------------------------------------------------------ copies and graphs


@pytest.mark.parametrize("queue", [LateQueue, EarlyQueue])
@pytest.mark.parametrize("held", [0, 1, 3])
def test_results_come_in_order_and_are_not_overwritten(queue: type[LateQueue], held: int) -> None:
    downloads, values = Downloads(queue()), range(9)
    begun = (downloads.begin([torch.full((3, 2), float(at)), torch.tensor([at])]) for at in values)
    found = [read() for read in ahead(begun, held)]  # all are kept, as a slow consumer does
    assert [int(one[0, 0]) for one, _ in found] == list(values)
    assert [int(one[0]) for _, one in found] == list(values)


def test_buffers_are_used_again_once_they_are_read() -> None:
    queue = LateQueue()
    made, memory = [], queue.memory
    queue.memory = lambda like: made.append(like.shape) or memory(like)  # type: ignore[method-assign]
    downloads = Downloads(queue)
    for read in ahead((downloads.begin([torch.ones(5)]) for _ in range(20)), 1):
        read()
    assert len(made) == 2, "a double buffer"


def test_batches_are_begun_ahead_and_errors_come_in_their_place() -> None:
    begun: list[int] = []

    def work() -> Iterator[int]:
        for at in range(5):
            begun.append(at)
            if at == 3:
                raise ValueError("the fourth")
            yield at

    items = ahead(work(), 1)
    assert next(items) == 0
    assert begun == [0, 1]
    assert next(items) == 1
    with pytest.raises(ValueError, match="the fourth"):
        list(items)


def test_a_kind_of_batch_is_recorded_and_replayed_with_new_numbers() -> None:
    queue, calls = LateQueue(), []
    graphs = Graphs(queue)

    def work(numbers: Tensor) -> list[Tensor]:
        calls.append(1)
        return [numbers * 2]

    found = [graphs.run("kind", work, torch.tensor([[float(at)]]))[0] for at in range(WARM_UP + 4)]
    assert [one.item() for one in found] == [2.0 * at for at in range(WARM_UP + 4)]
    assert queue.recorded == 1
    for at in range(3 * MOST_GRAPHS):
        graphs.run(at, work, torch.zeros(1, 1))
    assert len(graphs._kinds) == MOST_GRAPHS
    assert graphs.run(None, work, torch.ones(1, 1))[0].item() == 2.0
    assert len(graphs._kinds) == MOST_GRAPHS, "nothing is recorded without a key"


def test_without_recording_frames_are_drawn_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    queue = LateQueue()

    def refuse(work: Callable[[], list[Tensor]]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    queue.record = refuse  # type: ignore[method-assign]
    graphs = Graphs(queue)
    with caplog.at_level(logging.WARNING):
        for at in range(WARM_UP + 3):
            assert graphs.run("kind", lambda numbers: [numbers + 1], torch.tensor([[at]]))[0].item() == at + 1
    assert len(caplog.records) == 1
    assert caplog.messages[0].endswith("stream is capturing")


# ------------------------------------------------------------------------------------------------ frames


@pytest.mark.parametrize("size", SIZES)
def test_frames_are_those_of_the_cpu(cpu: FaceRenderer, portrait: dict[int, np.ndarray], size: int) -> None:
    queue = LateQueue()
    card = on_card(cpu, queue)
    for renderer in (cpu, card):
        set_source(renderer, portrait, size)
    rows = moving(cpu, 7)
    expected, found = (np.stack(list(one.render(rows))) for one in (cpu, card))
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert decibel(found, expected) > 55
    assert queue.recorded >= 1
    floats = np.stack(list(card.render(rows[:2], np.float32)))
    assert np.abs((floats.clip(-1, 1) + 1) * 127.5 - found[:2]).max() <= 1, "teeth are laid over levels"
    (rest,), own = card.render(card.source_coefficients), portrait[size or cpu.config.size]
    assert np.abs(rest.astype(int) - next(cpu.render(cpu.source_coefficients))).max() <= 1
    assert not size or np.abs(rest.astype(int) - own).max() <= 1
    assert decibel(card.frame(rows[5:6])[None], found[5:6]) > 50


def test_frames_do_not_depend_on_their_neighbours_nor_on_recording(
    cpu: FaceRenderer, portrait: dict[int, np.ndarray]
) -> None:
    card = on_card(cpu, LateQueue())
    set_source(card, portrait, 256)
    plain = copy.copy(card)
    plain._card = Card(EarlyQueue(), graphs=False)
    rows = moving(card, 7)
    whole = np.stack(list(card.render(rows)))
    assert np.array_equal(np.stack(list(plain.render(rows))), whole)
    assert np.array_equal(np.stack([next(card.render(row[None])) for row in rows[:2]]), whole[:2])
    assert np.array_equal(np.stack([*card.render(rows[:5]), *card.render(rows[5:])]), whole)


def test_a_source_for_every_frame(cpu: FaceRenderer, portrait: dict[int, np.ndarray]) -> None:
    card = on_card(cpu, LateQueue())
    pictures = [np.roll(portrait[256], 2 * at, 1) for at in range(2)]
    small = [picture[::2, ::2] for picture in pictures]
    cpu.set_source(portrait[cpu.config.size])
    rows = moving(cpu, 4)
    for details in (None, [*pictures, *small]):
        expected, found = (list(one.render_frames(pictures * 2, rows, details=details)) for one in (cpu, card))
        assert [one.shape for one in found] == [one.shape for one in expected]
        for one, other in zip(found, expected, strict=True):
            assert decibel(one[None], other[None]) > SIMILAR


def test_a_render_that_is_given_up_leaves_the_renderer_usable(
    cpu: FaceRenderer, portrait: dict[int, np.ndarray]
) -> None:
    card = on_card(cpu, LateQueue())
    set_source(card, portrait, 0)
    rows = moving(card, 5)
    whole = np.stack(list(card.render(rows)))
    frames = card.render(rows)
    next(frames)
    frames.close()
    assert np.array_equal(np.stack(list(card.render(rows))), whole)


def test_a_batch_that_does_not_fit_is_halved(
    cpu: FaceRenderer,
    portrait: dict[int, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    card = on_card(cpu, LateQueue())
    set_source(card, portrait, 0)
    rows, draw = moving(card, 3), card._draw
    expected, dubbed = np.stack(list(card.render(rows))), [portrait[256]] * 3
    expected_dubbed = np.stack(list(card.render_frames(dubbed, rows)))

    def refuse(source: Any, canvas: Any, alpha: Tensor) -> Any:
        if len(alpha) > 1:
            raise torch.cuda.OutOfMemoryError("tried to allocate 5 GiB")
        return draw(source, canvas, alpha)

    monkeypatch.setattr(card, "_draw", refuse)
    found = np.stack(list(card.render_frames(iter(dubbed), rows)))
    assert decibel(found, expected_dubbed) > SIMILAR, "no picture of the clip is lost"
    assert card.batch == 1
    assert "Too little memory for 2 frames at once, continuing with 1" in caplog.text
    assert decibel(np.stack(list(card.render(rows))), expected) > SIMILAR


def test_batches_fit_the_device() -> None:
    sizes = {
        kind: [default_batch(torch.device(kind), size) for size in (64, 128, 256, 1024)] for kind in ("cpu", "cuda")
    }
    assert sizes["cpu"] == [8, 8, 1, 1]
    assert sizes["cuda"] == [32, 32, 8, 1]


# ------------------------------------------------------------------------------------------------ devices


class OneDevice(TorchDispatchMode):
    """Fails where tensors of two devices meet, and where the CPU waits for the card, here the device "meta"."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # which would import PyTorch's compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.__name__.split(".")[0], kwargs or {}
        tensors = [one for one in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        devices = {one.device.type for one in tensors if one.dim() or one.device.type != "cpu"}
        assert name not in ("_local_scalar_dense", "nonzero", "is_nonzero", "item"), f"{name} waits for the card"
        result = func(*args, **kwargs)
        made = {one.device.type for one in torch.utils._pytree.tree_leaves(result) if isinstance(one, Tensor)}
        assert len(devices | made) <= 1, f"{name} is given tensors of {devices} and returns one of {made}"
        assert not devices or devices == {"meta"}, f"{name} is computed on the CPU"
        return result


def moved_to(known: Any, device: str) -> Any:
    """A copy of dataclasses, lists and tuples of tensors on another device."""
    if isinstance(known, Tensor):
        return known.to(device)
    if isinstance(known, (list, tuple)):
        return type(known)(moved_to(part, device) for part in known)
    return type(known)(*(moved_to(getattr(known, field.name), device) for field in dataclasses.fields(known)))


@torch.inference_mode()
def test_a_batch_is_drawn_on_one_device_without_waiting(
    cpu: FaceRenderer,
    without_numbers: FaceRenderer,
    portrait: dict[int, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_source(cpu, portrait, 256)
    rows, card, size = list(moving(cpu, 2)), without_numbers, 256
    queue = LateQueue()
    card._card = Card(queue, graphs=False)

    known = cpu._source
    assert known is not None
    assert known.eyes is not None
    source = dataclasses.replace(
        known, generator=moved_to(known.generator, "meta"), corrected=moved_to(known.corrected, "meta")
    )
    _ = known.eyes.found_lids  # read on the CPU
    known.eyes._anchors = known.eyes._anchors.to("meta")
    begin, picture = card._card.begin, torch.zeros(size, size, 3, dtype=torch.uint8, device="meta")
    batch = card._planned([source], rows, {}, size, at_rest=True)
    fine = FastDetail.of(picture, card._drawn(batch, card._on_device(batch.plan))[0], 0)

    def begin_checked(key: Any, work: Any, numbers: Tensor) -> Any:
        work(numbers.to("meta"))  # parts of the eyes are copied once
        given = numbers.to("meta")
        with OneDevice():
            return begin(key, lambda _: work(given), numbers)

    monkeypatch.setattr(card._card, "begin", begin_checked)
    queue.send = lambda numbers, to=None: numbers  # type: ignore[method-assign]
    queue.memory = lambda like: torch.empty(0)  # type: ignore[method-assign]
    details = [CardDetail(fine, None)] * 2
    straight = [np.append(row[:-2], np.float32([0, 0])) for row in rows]
    card._begun([source], rows, {}, details, np.dtype(np.uint8))
    card._begun([source], straight, {}, [None, None], np.dtype(np.uint8))
    unclear = dataclasses.replace(known.eyes.found_lids, clear=torch.zeros(1, 1))  # eyes are turned without their lids
    known.eyes.__dict__.update(found_lids=unclear)
    card._begun([source], rows, {}, details, np.dtype(np.uint8))
    assert queue.fetched >= 3


@torch.inference_mode()
def test_a_source_is_encoded_on_one_device(without_numbers: FaceRenderer, monkeypatch: pytest.MonkeyPatch) -> None:
    card, size = without_numbers, without_numbers.config.size
    faces = torch.ones(2, size // 2, size // 2, device="meta")  # landmarks are found on the CPU
    monkeypatch.setattr(Insets, "find_faces", lambda self, source: (self.read_anchors(source), faces))
    # The median of the border is taken of a number of pixels that only the mask tells.
    monkeypatch.setattr(Inset, "border_skin", lambda self, own: own[:, :, 0, 0])
    pictures = torch.zeros(2, 3, size, size, device="meta")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # "meta" has none
    large = torch.zeros(2, 3, 2 * size, 2 * size, device="meta")
    with OneDevice():
        latent, features = card._encoder(pictures)
        card._decoder.source(latent, features)
        assert card._correction is not None
        assert card._correction.prepare(pictures, large).coefficients.is_meta


# ------------------------------------------------------------------------------------------------ on a card


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA graphics card and a CUDA build")


@needs_cuda
@pytest.mark.parametrize("size", SIZES)
def test_a_card_draws_the_frames_of_the_cpu(bank: Bank, portrait: dict[int, np.ndarray], size: int) -> None:
    """At least 45 dB: bfloat16 and other kernels round differently, and lids are fitted in steps."""
    cpu, card, plain = FaceRenderer(bank, "cpu"), FaceRenderer(bank, "cuda"), FaceRenderer(bank, "cuda", graphs=False)
    for renderer in (cpu, card, plain):
        set_source(renderer, portrait, size)
    rows = moving(cpu, 5 * card.batch + 1)
    found = np.stack(list(card.render(rows)))
    assert decibel(found, np.stack(list(cpu.render(rows)))) >= SIMILAR
    assert np.array_equal(np.stack(list(plain.render(rows))), found), "recorded batches give the same frames"
    assert np.array_equal(np.stack([*card.render(rows[:7]), *card.render(rows[7:])]), found)
    assert card._card is not None
    assert card._card.graphs.enabled, "batches can be recorded"
    assert decibel(np.stack([card.frame(row[None]) for row in rows[:3]]), found[:3]) >= SIMILAR


@needs_cuda
def test_a_card_dubs_and_reads_as_the_cpu(bank: Bank, portrait: dict[int, np.ndarray]) -> None:
    cpu, card = FaceRenderer(bank, "cpu"), FaceRenderer(bank, "cuda")
    cpu.set_source(portrait[bank.config.size])
    pictures, rows = [portrait[256]] * 5, moving(cpu, 5)
    expected, found = (np.stack(list(one.render_frames(pictures, rows, details=pictures))) for one in (cpu, card))
    assert decibel(found, expected) >= SIMILAR
    assert np.abs(cpu.encode(pictures).values - card.encode(pictures).values).max() < 0.02
