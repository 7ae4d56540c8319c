"""The insets: their windows, their compositing, and how a bank stores them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import (
    load_bank,
    save_bank,
)
from inference.contract.errors import EDTalkError
from inference.detail import (
    Detail,
    Workspace,
)
from inference.face.framing import load_portrait
from inference.media.picture import to_network
from inference.model.correction import Correction
from inference.model.decoder import Drawn
from inference.model.fast_gaze import TurnableEyes
from inference.model.fast_unet import FastUNet
from inference.model.generator import warp_grid
from inference.model.insets import (
    CHANGE,
    DENSE,
    INPUTS,
    LIDS,
    OPEN,
    PREFIX,
    Inset,
    InsetConfig,
    Insets,
    InsetsConfig,
    PlacedInset,
    Window,
    colours,
    composite_insets,
    logarithms,
)
from inference.model.layout import upsample
from inference.model.load import INSETS, load_network
from inference.model.plan import Planner
from inference.model.readers.absolute import ReaderConfig
from inference.model.refiner import FOUND, Refiner, RefinerConfig, UNet, warped
from inference.model.refiner import PREFIX as REFINER_PREFIX
from inference.renderer import FaceRenderer
from training.export import starter_bank
from training.stages.generator import (
    fresh,
    small_config,
)

INFERENCE = Path(__file__).parents[2] / "inference"
STARTER, DEMO = INFERENCE / "banks" / "starter.safetensors", INFERENCE / "demo"
SIZE, COUNT, LIP, POSE = 64, 36, 3, 22
FIELDS = COUNT + 1
ANCHORS = torch.tensor([[[-0.3, -0.1], [0.3, -0.1], [0.0, 0.4]]])


def still(count: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """`positions` and `residual` of pictures without motion."""
    line = (torch.arange(SIZE // 2) * 2 + 1) / (SIZE // 2) - 1
    centres = torch.stack(torch.meshgrid(line, line, indexing="xy"))[None]
    return centres.expand(count, -1, -1, -1), torch.zeros(count, 2, SIZE // 2, SIZE // 2)


def small_refiner() -> Refiner:
    return Refiner(RefinerConfig((8, 8, 8), 16, (8, 8), (8, 16), COUNT, ((0, 0),), (POSE,)))


@pytest.fixture
def insets() -> Insets:
    """Insets of random weights, with an alpha of about one half."""
    torch.manual_seed(0)
    pose = torch.zeros(COUNT)
    pose[20:26] = 1
    oval = [(0.0, 0.9, 0.9)]
    sizes = (InsetConfig(size, (8, 12)) for size in ((16, 16), (12, 24)))
    made = Insets(InsetsConfig(ReaderConfig((8, 8, 8, 8), 16, 6), *sizes, COUNT)).eval().requires_grad_(False)
    made.pose.copy_(pose)
    for part in (made.mouth, made.eyes):
        part.placed((0.6, 0.5, 0.1), oval, 1 - pose, 1.0).paint.weight.normal_(0, 0.1)
    return made


def test_an_inset_draws_only_inside_its_ovals() -> None:
    ovals = [(-0.5, 0.3, 0.8), (0.5, 0.3, 0.8)]
    inset = Inset(InsetConfig((20, 40), (8, 12)), COUNT).placed((0.6, 0.5, 0.1), ovals, torch.ones(COUNT), 1.0)
    feather = inset.feather[0, 0]
    assert feather[10, [9, 10, 29, 30]].min() == 1  # the eyes
    assert not feather[:, 19:21].any()  # the nose
    assert not feather[[0, -1]].any()
    torch.testing.assert_close(feather, feather.flip(-1))


def test_an_inset_continues_the_picture_at_its_border() -> None:
    inset = Inset(InsetConfig((48, 64), (8, 12)), COUNT).eval()
    inset.placed((0.6, 0.5, 0.1), [(0.0, 0.9, 0.9)], torch.ones(COUNT), 1.0)
    seen = torch.zeros(2, INPUTS, 48, 64)
    seen[:, 7:10] = 0.2  # the source's window, all skin
    seen[0, :3], seen[1, :3] = 0.2, 0.5
    with torch.no_grad():
        drawn = inset(seen, torch.zeros(2, COUNT), inset.border_skin(seen[:, 7:10]))
    for one, level in zip(drawn, (0.2, 0.5), strict=True):
        torch.testing.assert_close(one[:3], torch.full((3, 48, 64), level))
    assert (drawn[:, 3:] == 0.5 * inset.feather).all()


def test_an_inset_follows_the_lighting(insets: Insets) -> None:
    """A tint of the source tints the inset alike, if the network ignores the skin's colour."""
    inset, light = insets.mouth, torch.tensor([0.2, -0.1, -0.3])
    for conv in (part for part in inset.unet.modules() if getattr(part, "condition", None) is not None):
        conv.condition.weight[:, -3:] = 0.0
    torch.manual_seed(3)
    seen = torch.rand(1, INPUTS, 16, 16) - 0.5
    for part in (slice(0, 3), slice(7, 10)):
        seen[:, part] += torch.tensor([0.25, 0.0, -0.25])[:, None, None]  # not black and white
    lit = seen.clone()
    for part in (slice(0, 3), slice(7, 10)):
        lit[:, part] = colours(logarithms(seen[:, part]) + light[:, None, None])
    one, other = (inset(part, torch.ones(1, COUNT), inset.border_skin(part[:, 7:10]))[:, :3] for part in (seen, lit))
    torch.testing.assert_close(logarithms(other), logarithms(one) + light[:, None, None], atol=1e-4, rtol=1e-4)


def test_a_black_and_white_picture_stays_black_and_white() -> None:
    inset = load_network(load_bank(STARTER), INSETS).mouth
    torch.manual_seed(0)
    seen = torch.rand(1, INPUTS, *inset.config.size)
    seen[:, :3], seen[:, 7:10] = seen[:, :1], seen[:, 7:8]
    skin = logarithms(torch.full((1, 3, 1, 1), 0.3))[:, :, 0, 0]
    drawn = inset(seen, torch.full((1, 36), 0.3), skin)[:, :3]
    assert drawn.std() > 0.01
    assert (drawn.amax(1) - drawn.amin(1)).max() < 1e-3


def test_colours_invert_logarithms() -> None:
    levels = torch.linspace(-1, 1, 101)
    torch.testing.assert_close(colours(logarithms(levels)), levels)
    assert logarithms(torch.tensor([-3.0])).isfinite().all()  # where a filter has overshot


def changed(amount: float, column: int, count: int = 1) -> torch.Tensor:
    values = torch.zeros(count, COUNT)
    values[:, column] = amount
    return values


def test_inside_inverts_places() -> None:
    torch.manual_seed(0)
    along = torch.randn(3, 2)
    window = Window(torch.randn(3, 2), along, 0.4 * torch.stack([-along[:, 1], along[:, 0]], 1))
    here = window.inside(window.places(10, 20))
    y, x = torch.meshgrid((torch.arange(10) * 2 + 1) / 10 - 1, (torch.arange(20) * 2 + 1) / 20 - 1, indexing="ij")
    torch.testing.assert_close(here, torch.stack([x, y])[None].expand(3, -1, -1, -1), atol=1e-4, rtol=0)


def test_windows_follow_the_head_but_not_the_mouth(insets: Insets) -> None:
    motion = torch.zeros(1, FIELDS, 2, SIZE // 2, SIZE // 2)
    motion[:, POSE, 0], motion[:, LIP, 1] = 0.2, 0.3
    known = insets.prepare(torch.zeros(1, 3, SIZE, SIZE), motion, ANCHORS)
    positions, residual = still()
    turned, talked = torch.zeros(1, FIELDS), torch.zeros(1, FIELDS)
    turned[:, POSE] = 1.0
    rest = insets.windows(ANCHORS)
    for amounts, shift in ((turned, 0.2), (talked, 0.0)):
        laid = insets(known, amounts, changed(1.0, LIP), positions, residual, changed(1.0, LIP))
        for one, before in zip(laid, rest, strict=True):
            moved = one.window.middle - before.middle
            torch.testing.assert_close(moved, torch.tensor([[shift, 0.0]]), atol=1e-5, rtol=0)
            torch.testing.assert_close(one.window.along, before.along)


def test_the_sources_own_coefficients_need_no_inset(insets: Insets) -> None:
    """Whatever its head does; and the more it changes, the more is laid over it."""
    known = insets.prepare(torch.rand(1, 3, SIZE, SIZE), torch.zeros(1, FIELDS, 2, SIZE // 2, SIZE // 2), ANCHORS)

    def laid(change: torch.Tensor) -> torch.Tensor:
        return insets(known, torch.zeros(1, FIELDS), change, *still(), torch.ones(1, COUNT))[0].drawn

    picture = torch.rand(1, 3, SIZE, SIZE)
    at_rest = insets(known, torch.zeros(1, FIELDS), changed(0.8, POSE), *still(), torch.ones(1, COUNT))
    assert torch.equal(composite_insets(picture, at_rest), picture)
    torch.testing.assert_close(laid(changed(CHANGE / 2, LIP)) * 2, laid(changed(-3.0, LIP)))
    assert laid(changed(1.0, LIP)).abs().max() > 0.1


def test_a_batch_is_its_rows(insets: Insets) -> None:
    torch.manual_seed(1)
    motion = 0.1 * torch.randn(1, FIELDS, 2, SIZE // 2, SIZE // 2)
    known = insets.prepare(torch.rand(1, 3, SIZE, SIZE), motion, ANCHORS)
    turned, change, coefficients = (torch.rand(3, n) for n in (FIELDS, COUNT, COUNT))
    positions, residual = (part + 0.05 * torch.rand(3, 2, SIZE // 2, SIZE // 2) for part in still(3))
    whole = type(known)(*(part.expand(3, *part.shape[1:]) for part in known))
    together = insets(whole, turned, change, positions, residual, coefficients)
    for row in range(3):
        one = slice(row, row + 1)
        alone = insets(known, turned[one], change[one], positions[one], residual[one], coefficients[one])
        for part, of_batch in zip(alone, together, strict=True):
            torch.testing.assert_close(part.drawn, of_batch.drawn[one], atol=1e-4, rtol=0)


def test_an_inset_lies_in_its_window_at_every_size() -> None:
    """On the network's picture and on one with detail: the same rectangle, and nothing beside it."""
    window = Window(torch.tensor([[0.25, -0.125]]), torch.tensor([[0.375, 0.0]]), torch.tensor([[0.0, 0.25]]))
    drawn = torch.ones(1, 4, 16, 16)
    drawn[:, :3] = 0.5
    over = composite_insets(torch.zeros(1, 3, 128, 128), [PlacedInset(window, drawn)])[0]
    rows, columns = slice(42, 70), slice(58, 102)
    assert (over[:, rows, columns] == 0.5).all()
    assert over.abs().sum() < 0.5 * 3 * 32 * 49  # half a pixel around it at the most
    flat = np.zeros((256, 256, 3), np.uint8)
    flow, work = (warp_grid(128)[0].permute(2, 0, 1).numpy(), np.full((128, 128), 0.5, np.float32)), Workspace(256)
    detail = Detail(flat, np.full((3, 128, 128), -1, np.float32), *flow)
    black, flows = np.full((1, 3, 128, 128), -1, np.float32), [part[None] for part in flow]
    (fine,) = detail(black, *flows, work, True, [PlacedInset(window, drawn).frames()])
    assert (fine[2 * rows.start : 2 * rows.stop, 2 * columns.start : 2 * columns.stop] == 191).all()
    assert not fine[:77].any()
    assert not fine[:, :108].any()
    drawn[:, 3], drawn[:, :3] = 0.5, 0.25
    (levels,) = detail(black, *flows, work, False, [PlacedInset(window, drawn).frames()])
    np.testing.assert_allclose(levels[100, 160], 0.5 * 191.25, atol=1e-3)


# ------------------------------------------------------------------------------------------------ in a bank


def write_bank(path: Path, insets: Insets | None) -> Path:
    torch.manual_seed(2)
    model = fresh(small_config(SIZE))
    refiner = small_refiner().eval()
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for prefix, part in ((REFINER_PREFIX, refiner), (PREFIX, insets)):
        if part is not None:
            tensors |= {prefix + name: tensor.numpy() for name, tensor in part.state_dict().items()}
    save_bank(starter_bank(model.config), tensors, path)
    return path


def test_insets_survive_a_bank(insets: Insets, tmp_path: Path) -> None:
    found = load_network(load_bank(write_bank(tmp_path / "bank.safetensors", insets)), INSETS)
    state = found.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in insets.state_dict().items())
    assert load_network(load_bank(write_bank(tmp_path / "plain.safetensors", None)), INSETS) is None


def test_insets_that_do_not_fit_are_refused(insets: Insets, tmp_path: Path) -> None:
    foreign = Insets(replace(insets.config, coefficients=5))
    with pytest.raises(EDTalkError, match="The network 'insets' in the bank 'starter' is not usable"):
        FaceRenderer(load_bank(write_bank(tmp_path / "bank.safetensors", foreign)), "cpu")


def test_an_inset_is_drawn_only_for_its_coefficients(insets: Insets) -> None:
    insets.eyes.called_by.zero_()
    insets.eyes.called_by[30] = 1
    known = insets.prepare(torch.rand(1, 3, SIZE, SIZE), torch.zeros(1, FIELDS, 2, SIZE // 2, SIZE // 2), ANCHORS)
    for column, count in ((LIP, 1), (30, 2), (POSE, 0)):
        laid = insets(known, torch.zeros(1, FIELDS), changed(0.5, column), *still(), torch.ones(1, COUNT))
        assert len(laid) == count


def test_a_mouth_that_does_not_move_stays_the_sources(insets: Insets) -> None:
    """Where only the head moves, around the mouth, and not where the far side of the head is compressed."""
    window = insets.windows(ANCHORS)[0]
    turned, talking = changed(0.5, POSE), changed(0.5, LIP)
    (positions, residual), none = still(), torch.zeros(1, 1, 1, 1)
    opened = insets.source_mouth_logit(window, turned, None, positions, residual)[0, 0]
    row, column = (int((at + 1) / 2 * SIZE / 2) for at in window.middle[0].flip(0))
    assert opened[row, column] == OPEN
    assert opened[: SIZE // 4].max() == opened[:, :4].max() == 0
    assert torch.equal(insets.source_mouth_logit(window, turned, none, positions, residual)[0, 0], opened)
    assert not insets.source_mouth_logit(window, changed(0.0, POSE), None, positions, residual).any()
    assert not insets.source_mouth_logit(window, talking, insets.mouth.strength(talking), positions, residual).any()
    assert not insets.source_mouth_logit(window, turned, None, positions, residual + 2 * FOUND).any()
    assert not insets.source_mouth_logit(window, turned, None, positions * (DENSE[1] + 0.1), residual).any()


def test_the_inset_of_the_mouth_is_called_where_lips_open_or_close() -> None:
    """Otherwise, and in a smile of lips that are apart, the mouth is warped from the source."""
    bank = load_bank(STARTER)
    planner, own = Planner(bank, load_network(bank, INSETS)), np.zeros((1, len(bank.names)), np.float32)

    def strength(apart: float, **moved: float) -> float:
        row, eyes = own[0].copy(), TurnableEyes(np.zeros((SIZE, SIZE, 3), np.uint8), ANCHORS)
        eyes.__dict__["lips_apart"] = apart  # as found in a picture
        for name, value in moved.items():
            row[bank.names.index(name)] = value
        found = planner.plan([row], own, [eyes]).strengths[0]
        return 0.0 if found is None else float(found)

    for name in ("browInnerUp", "mouthFrown", "mouthLeft", "headYaw"):
        assert strength(0.0, **{name: 0.8}) == 0, name
    assert strength(0.0, jawOpen=0.8) == strength(1.0, jawOpen=0.8, mouthSmile=0.8) == 1
    assert [strength(apart, mouthSmile=0.8) for apart in (0.0, 0.5, 1.0)] == [1, 0.5, 0]


def test_lips_that_are_apart_are_seen() -> None:
    """On the demo's portrait, and with its mouth open."""
    bank, portrait = load_bank(STARTER), load_portrait(DEMO / "portrait_1.png")
    renderer, insets = FaceRenderer(bank, "cpu"), load_network(bank, INSETS)
    renderer.set_source(portrait, portrait)
    found = []
    for frame in renderer.render(renderer.moved({"jawOpen": np.array([0, 0.5])})):
        anchors = insets.find_anchors(torch.from_numpy(to_network(frame, bank.config.size))[None])
        found.append(TurnableEyes(frame, anchors).lips_apart)
    assert found == [0, 1]


def test_the_inset_of_the_eyes_reaches_no_brow(insets: Insets) -> None:
    extent = (1.05, 0.5, -0.1)
    insets.eyes.placed(extent, [(0.0, 1.6, 1.6)], 1 - insets.pose, 1.0)  # nearly the whole window
    known = insets.prepare(torch.rand(1, 3, SIZE, SIZE), torch.zeros(1, FIELDS, 2, SIZE // 2, SIZE // 2), ANCHORS)
    _mouth, eyes = insets(known, torch.zeros(1, FIELDS), changed(1.0, LIP), *still(), torch.ones(1, COUNT))
    alpha = eyes.drawn[0, 3]
    y, x = ((torch.arange(count) * 2 + 1) / count - 1 for count in alpha.shape)
    across, above = (x.abs() * extent[0] - 0.5)[None].abs(), -(y * extent[1] + extent[2])[:, None]
    assert not alpha[(above > LIDS[1]) & (across < 1)].any(), "a brow is above the lids"
    assert alpha[(above.abs() < 0.1) & (across < 0.15)].min() > 0.1, "the eye is covered"


def test_the_renderer_composites_insets_over_changed_faces(insets: Insets, tmp_path: Path) -> None:
    insets.anchors.last.weight.zero_()
    insets.anchors.last.bias.copy_(ANCHORS.flatten())
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    made = {}
    for name, part in (("with", insets), ("without", None)):
        renderer = FaceRenderer(load_bank(write_bank(tmp_path / f"{name}.safetensors", part)), "cpu")
        for fine in (None, picture):
            renderer.set_source(picture, fine)
            own = renderer.source_coefficients.values[:, :COUNT]  # without gaze
            rows = np.concatenate([own, own + changed(0.9, LIP).numpy(), own + changed(0.9, POSE).numpy()])
            made[name, fine is None] = np.stack(list(renderer.render(rows)))
    renderer.source_coefficients.values[:] += 0.5  # a copy: the source does not change
    np.testing.assert_array_equal(np.stack(list(renderer.render(rows))), made["without", False])
    for plain in (True, False):
        differs = (made["with", plain].astype(int) - made["without", plain]).any((1, 2, 3))
        assert differs.tolist() == [False, True, True]
        # A head that only turns keeps its own mouth, and nothing else changes.
        rows_differ, columns_differ = (made["with", plain][2] != made["without", plain][2]).any(2).nonzero()
        size = len(made["with", plain][2])
        assert rows_differ.min() > size * 0.45
        assert size * 0.2 < columns_differ.min() <= columns_differ.max() < size * 0.8
    in_batches = FaceRenderer(load_bank(tmp_path / "with.safetensors"), "cpu", batch=2)
    in_batches.set_source(picture, picture)
    again = np.stack(list(in_batches.render(rows)))
    assert np.abs(again.astype(int) - made["with", False]).max() <= 1


# ------------------------------------------------------------------------------------------------ the fast form


def scrambled(network: torch.nn.Module, scale: float = 0.1) -> None:
    """Random weights, so that no layer's result is zero."""
    torch.manual_seed(1)
    for weight in network.parameters():
        weight.copy_(torch.randn_like(weight) * scale)


@torch.no_grad()
def test_the_fast_unet_equals_the_unet() -> None:
    unet, last = UNet(7, (6, 10, 12), 8, condition=5), torch.nn.Conv2d(8, 4, 3, padding=1)
    for network in (unet, last):
        scrambled(network, 0.3)
    x, condition = torch.randn(3, 7, 16, 24), torch.randn(3, 5)
    expected = last(unet(x, condition))
    found = FastUNet(unet, last, torch.float32)(x, condition)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    split_sources = FastUNet(unet, last, torch.float32, fixed=3)
    found = split_sources(x[:, :4], condition, split_sources.prepare(x[:, 4:]))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    rough = FastUNet(unet, last, torch.bfloat16)(x, condition)
    assert (rough - expected).square().mean() < 1e-3 * expected.square().mean()


@torch.no_grad()
def test_the_fast_correction_equals_refiner_and_insets(insets: Insets) -> None:
    refiner = small_refiner().eval()
    insets.eyes.called_by.zero_()
    insets.eyes.called_by[30] = 1
    for network in (refiner.painter, refiner.paint, insets.mouth.unet, insets.mouth.paint, insets.eyes.paint):
        scrambled(network)
    correction = Correction(refiner, insets, torch.float32)
    pictures, alpha = torch.rand(2, 3, SIZE, SIZE) * 2 - 1, torch.zeros(2, COUNT)
    alpha[0, LIP], alpha[1, 30], alpha[1, POSE] = 0.8, 0.9, 0.4
    flow, rgb = torch.randn(2, 3, SIZE, SIZE) * 0.05, torch.rand(2, 3, SIZE, SIZE) * 2 - 1
    places = warp_grid(SIZE).permute(0, 3, 1, 2) + torch.tanh(flow[:, :2])
    for sources in (pictures, pictures[:1]):
        motion, own, anchors = refiner.motion_fields(sources), refiner.read(sources), insets.find_anchors(sources)
        known = type(insets.prepare(sources, motion, anchors))(
            *(part.expand(2, *part.shape[1:]) for part in insets.prepare(sources, motion, anchors))
        )
        own, each = own.expand(2, -1), sources.expand(2, -1, -1, -1)
        expected = refiner(each, motion.expand(2, -1, -1, -1, -1), own, flow, rgb, alpha)
        turned = refiner.motion_weights(alpha * insets.pose) - refiner.motion_weights(own * insets.pose)
        laid = insets(known, turned, alpha - own, expected.positions, expected.residual, alpha)
        drawn, found = correction.correct(correction.prepare(sources, sources), Drawn(rgb, places, flow[:, 2:]), alpha)
        sampled = warp_grid(SIZE).permute(0, 3, 1, 2) + torch.tanh(expected.flow[:, :2])
        assert torch.allclose(drawn.places, sampled, atol=1e-4)
        mouth = insets.windows(known.anchors_at(turned))[0]
        strength = insets.mouth.strength(alpha - own)
        opened = insets.source_mouth_logit(mouth, alpha - own, strength, expected.positions, expected.residual)
        logit = expected.flow[:, 2:] + upsample(opened)
        painted, now = 1 - torch.sigmoid(expected.flow[:, 2:]), torch.sigmoid(logit)
        rgb = warped(each, sampled) * now + (expected.rgb - warped(each, sampled) * (1 - painted)) / painted * (1 - now)
        assert torch.allclose(drawn.logit, logit, atol=1e-4)
        assert torch.allclose(drawn.rgb, rgb, atol=1e-4)
        for one, other in zip(found, laid, strict=True):
            assert torch.allclose(one.drawn, other.drawn, atol=1e-4)
            assert torch.allclose(torch.stack(one.window), torch.stack(other.window), atol=1e-5)
