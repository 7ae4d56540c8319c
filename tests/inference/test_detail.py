"""The source's own texture in the pictures: all of it at rest, moved with the flow, none where it does not belong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from inference.cli.bench import RandomBank
from inference.contract.config import GeneratorConfig
from inference.contract.errors import EDTalkError
from inference.detail import Detail, Workspace
from inference.face.crop import crop_from_box, whole
from inference.face.framing import cut_at
from inference.face.size import FaceSize
from inference.grain import new_grain
from inference.model.decoder import Drawn
from inference.model.fast_detail import FastDetail, with_detail
from inference.renderer import FaceRenderer

ROOT = Path(__file__).parents[2]
SMALL = GeneratorConfig(64, 32, {4: 24, 8: 24, 16: 16, 32: 8, 64: 8}, (("lip", 5), ("pose", 3), ("exp", 4)))
SIZES = (64, 100, 256)
NET = 64


def textured(size: int, seed: int = 0) -> np.ndarray:
    """A picture with something in every band, as fine as its pixels."""
    random, levels = np.random.default_rng(seed), np.zeros((size, size, 3))
    for cells in (4, 16, size):
        coarse = random.normal(0, 40, (cells, cells, 3))
        levels += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(levels + 128, 0, 255).astype(np.uint8)


def motion(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((frames, SMALL.coefficient_count)).astype(np.float32)


@pytest.fixture(scope="module")
def bank() -> RandomBank:
    return RandomBank.of(SMALL)


def renderer_of(bank: RandomBank, size: int, seed: int = 0, batch: int | None = None) -> FaceRenderer:
    renderer = FaceRenderer(bank, "cpu", batch=batch)
    renderer.set_source(textured(size, seed), textured(size, seed))
    return renderer


# ------------------------------------------------------------------------------------------------ the renderer


@pytest.mark.parametrize("size", SIZES)
def test_at_rest_a_frame_is_the_portrait(bank: RandomBank, size: int) -> None:
    renderer = renderer_of(bank, size)
    (rest,) = renderer.render(renderer.source_coefficients)
    assert (rest.dtype, rest.shape) == (np.uint8, (size, size, 3))
    assert np.abs(rest.astype(int) - textured(size)).max() <= 1
    moved = next(renderer.render(renderer.source_coefficients.values + motion(1)))
    assert np.abs(moved.astype(int) - textured(size)).mean() > 2


def test_frames_without_detail_do_not_change(bank: RandomBank) -> None:
    rows, plain = motion(3), FaceRenderer(bank, "cpu")
    plain.set_source(textured(256))
    before = list(plain.render(rows, np.float32))
    plain.set_source(textured(256), textured(256))
    assert next(plain.render(rows)).shape == (256, 256, 3)
    plain.set_source(textured(256))
    assert np.array_equal(before, list(plain.render(rows, np.float32)))


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("size", [64, 100])
def test_frames_are_bit_identical_however_the_clip_is_cut(bank: RandomBank, size: int, batch: int) -> None:
    rows, renderer = motion(7), renderer_of(bank, size, batch=batch)
    together = np.stack(list(renderer.render(rows)))
    parts = [frame for first, last in ((0, 1), (1, 6), (6, 7)) for frame in renderer.render(rows[first:last])]
    assert np.array_equal(parts, together)
    order = np.random.default_rng(1).permutation(7)
    assert np.array_equal(list(renderer_of(bank, size, batch=batch).render(rows[order])), together[order])


def test_frames_do_not_depend_on_the_number_of_threads(bank: RandomBank) -> None:
    renderer, rows, before = renderer_of(bank, 256), motion(2), cv2.getNumThreads()
    try:
        found = [(cv2.setNumThreads(count), list(renderer.render(rows)))[1] for count in (1, 3)]
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(*found)


def test_bytes_are_the_floats_clamped_and_rounded(bank: RandomBank) -> None:
    renderer, rows = renderer_of(bank, 100), motion(2) * 3
    pictures, values = (np.stack(list(renderer.render(rows, dtype))) for dtype in (np.uint8, np.float32))
    levels = (values + 1) * 127.5
    assert values.dtype == np.float32
    assert np.abs(pictures - np.clip(levels, 0, 255)).max() <= 0.501
    assert np.abs(values).max() > 1  # what was clamped


def test_sources_keep_their_own_detail(bank: RandomBank) -> None:
    """Renderers with the same weights, drawing in turn, and frames that are kept while others are drawn."""
    rows, one = motion(3), renderer_of(bank, 100)
    other = one.another()
    with pytest.raises(EDTalkError, match="No source picture"):
        other.render(rows)
    other.set_source(textured(100, 1), textured(100, 1))
    pairs = list(zip(one.render(rows), other.render(rows), strict=True))
    assert np.array_equal([pair[0] for pair in pairs], list(renderer_of(bank, 100).render(rows)))
    assert np.array_equal([pair[1] for pair in pairs], list(renderer_of(bank, 100, 1).render(rows)))
    one.set_source(textured(100, 1), textured(100, 1))
    assert np.array_equal(list(one.render(rows)), [pair[1] for pair in pairs])


def test_a_source_and_detail_for_every_frame(bank: RandomBank) -> None:
    images, rows = [textured(64, seed) for seed in range(3)], motion(3)
    details = [cv2.resize(image, (128, 128)) for image in images]
    renderer = FaceRenderer(bank, "cpu")
    frames = list(renderer.render_frames(images, rows, details=details))
    for frame, image, detail, row in zip(frames, images, details, rows, strict=True):
        renderer.set_source(image, detail)
        assert np.array_equal(frame, next(renderer.render(row[None])))
    still = renderer.render_frames(images, np.zeros_like(rows), added=np.ones(len(rows[0]), bool), details=details)
    assert np.array_equal(list(still), details)
    with pytest.raises(EDTalkError, match="detail"):
        list(renderer.render_frames(images, rows, details=details[:2]))


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        (textured(63), "at least 64 pixels.*found 63 x 63"),
        (textured(128)[:100], "square.*found 128 x 100"),
        (textured(64).astype(np.float32), "uint8"),
        (textured(64)[..., 0], "uint8"),
    ],
)
def test_unsuitable_details_are_refused(bank: RandomBank, detail: np.ndarray, expected: str) -> None:
    renderer = renderer_of(bank, 64)
    before = list(renderer.render(motion(1)))
    with pytest.raises(EDTalkError, match=expected):
        renderer.set_source(textured(64, 1), detail)
    assert np.array_equal(list(renderer.render(motion(1))), before)


# ------------------------------------------------------------------------------------------------ the transfer


Flow = tuple[np.ndarray, np.ndarray]  # places (2, S, S) and mask (S, S)


def flow_to(positions: np.ndarray, logit: np.ndarray | float = 4.0) -> Flow:
    """The places and mask of a network whose pixels look at `positions`, (S, S, 2) in pixels, with that logit."""
    places = ((positions * 2 + 1) / NET - 1).transpose(2, 0, 1)
    mask = 1 / (1 + np.exp(-np.broadcast_to(logit, (NET, NET))))
    return places.astype(np.float32), mask.astype(np.float32)


def place(x: float = 0.0, y: float = 0.0) -> np.ndarray:
    line = np.arange(NET)
    return np.stack(np.meshgrid(line, line), -1) + np.array([x, y])


def planes_of(picture: np.ndarray) -> np.ndarray:
    """What a network that draws softly would say of a picture of any size."""
    small = cv2.resize(picture.astype(np.float32), (NET, NET), interpolation=cv2.INTER_AREA)
    return (cv2.GaussianBlur(small, (0, 0), 2) / 127.5 - 1).transpose(2, 0, 1).astype(np.float32)


def detail_of(fine: np.ndarray, flow: Flow) -> Detail:
    return Detail(fine, planes_of(fine), *flow)


def transferred(detail: Detail, planes: np.ndarray, flow: Flow, whole_levels: bool = False) -> np.ndarray:
    (frame,) = detail(planes[None], *(part[None] for part in flow), Workspace(detail.size), whole_levels)
    return frame


def alone(planes: np.ndarray, size: int) -> np.ndarray:
    """What the network drew, enlarged."""
    levels = np.ascontiguousarray((planes.transpose(1, 2, 0) + 1) * 127.5)
    return np.clip(cv2.resize(levels, (size, size), interpolation=cv2.INTER_CUBIC), 0, 255)


def difference(found: np.ndarray, expected: np.ndarray, margin: int = 24) -> float:
    inside = np.s_[margin:-margin, margin:-margin]
    return float(np.abs(found[inside].astype(float) - expected[inside]).mean())


@pytest.mark.parametrize("resting", [place(), place(1.5, -0.75), place() * 1.03 - 1], ids=["none", "shift", "zoom"])
def test_texture_follows_the_flow_for_any_flow_at_rest(resting: np.ndarray) -> None:
    fine = textured(256)
    detail = detail_of(fine, flow_to(resting))
    moved = np.roll(fine, (-8, 12), (0, 1))  # of 4 network pixels to a fine one: by 3 to the right, 2 up
    there = place(-3, 2)  # where each pixel was at rest
    positions = np.stack([cv2.remap(resting[..., axis].astype(np.float32), there.astype(np.float32), None,
                                cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE) for axis in (0, 1)], -1)  # fmt: skip
    found = transferred(detail, planes_of(moved), flow_to(positions), whole_levels=True)
    assert difference(found, moved) < 1
    assert difference(alone(planes_of(moved), 256), moved) > 20


def test_frames_are_equal_in_batches_and_bands_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    random, detail = np.random.default_rng(0), detail_of(textured(256), flow_to(place()))
    flows = [flow_to(place() + cv2.GaussianBlur(random.normal(0, 40, (NET, NET, 2)), (0, 0), 4)) for _ in range(3)]
    planes = np.stack([planes_of(textured(256, seed)) for seed in range(3)])
    alone = [transferred(detail, *output, whole_levels=True) for output in zip(planes, flows, strict=True)]
    places, masks = (np.stack(part) for part in zip(*flows, strict=True))
    for band in (1, 20, 256):
        monkeypatch.setattr("inference.detail.BAND", band)
        assert np.array_equal(detail(planes, places, masks, Workspace(256)), alone)


def test_changes_by_the_network_are_kept() -> None:
    fine = textured(256) // 2 + 60
    brighter = np.clip(planes_of(fine) + 0.2, -1, 1)
    found = transferred(detail_of(fine, flow_to(place())), brighter, flow_to(place()))
    assert np.abs(found - (fine + 0.2 * 127.5)).max() < 0.1


REGION = np.zeros((NET, NET), bool)
REGION[20:44, 20:44] = True


def opened(kind: str) -> Flow:
    """A flow in whose REGION the source cannot show what is there, as in a mouth that opens."""
    middle = np.array([32.0, 32.0])
    if kind == "mask":
        return flow_to(place(), np.where(REGION, -8.0, 4.0))
    positions = place()
    if kind == "stretch":  # all of the region looks at a line, as an inside looks at the lips that were closed
        positions[REGION] = (positions[REGION] - middle) * (1, 0.05) + middle
    if kind == "fold":
        positions[REGION] = (positions[REGION] - middle) * (1, -1) + middle
    return flow_to(positions)


@pytest.mark.parametrize("kind", ["mask", "stretch", "fold"])
def test_no_texture_where_the_source_shows_nothing(kind: str) -> None:
    fine = textured(256)
    fine[120:136, 90:166] = 0  # closed lips
    within = textured(256, 5)
    drawn = planes_of(within)
    found = transferred(detail_of(fine, flow_to(place())), drawn, opened(kind))
    inside = np.s_[108:148, 108:148]
    assert np.abs(found - alone(drawn, 256))[inside].max() < 2
    ignored = transferred(detail_of(fine, flow_to(place())), drawn, flow_to(place()))
    assert np.abs(ignored - alone(drawn, 256))[inside].mean() > 10  # the check can fail


def test_texture_is_kept_where_it_is_stretched() -> None:
    """As on the near side of a turning head."""
    fine, positions = textured(256), place() * (0.4, 1) + (19, 0)
    matrix = np.array([[0.4, 0, 76.9], [0, 1, 0]])
    stretched = cv2.warpAffine(fine, matrix, (256, 256), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    found = transferred(detail_of(fine, flow_to(place())), planes_of(stretched), flow_to(positions))
    assert difference(found, stretched) < 0.4 * difference(alone(planes_of(stretched), 256), stretched)


def skin(size: int = 512) -> np.ndarray:
    """Smooth shading with weak grain and one mole."""
    random = np.random.default_rng(0)
    shade = cv2.resize(random.normal(150, 20, (4, 4, 3)), (size, size), interpolation=cv2.INTER_CUBIC)
    grain = cv2.GaussianBlur(random.normal(0, 14, (size, size)), (0, 0), 1)
    fine = np.clip(shade + grain[..., None], 0, 255).astype(np.uint8)
    fine[252:260, 252:260] = fine[252:260, 252:260] // 2
    return fine


def grain_of(picture: np.ndarray) -> tuple[float, float]:
    """Mean steps between neighbours of a picture's fine light, across and down, above the mole."""
    light = picture.astype(np.float32).mean(2)
    fine = (light - cv2.GaussianBlur(light, (0, 0), 2))[80:230, 128:384]
    return float(np.abs(np.diff(fine)).mean()), float(np.abs(np.diff(fine, axis=0)).mean())


def test_stretched_skin_has_no_streaks(monkeypatch: pytest.MonkeyPatch) -> None:
    fine, flow = skin(), flow_to(place() * (0.5, 1) + (16, 0))
    detail = detail_of(fine, flow_to(place()))
    found = transferred(detail, planes_of(fine), flow)
    assert np.array_equal(found, transferred(detail, planes_of(fine), flow))
    monkeypatch.setattr("inference.detail.grain.new_grain", lambda fine: None)
    streaky = transferred(detail_of(fine, flow_to(place())), planes_of(fine), flow)
    (own, _), (x, y), (streaks, high) = (grain_of(picture) for picture in (fine, found, streaky))
    assert streaks < 0.55 * high
    assert 0.7 * own < x < 1.1 * own
    assert 0.8 * own < y < 1.2 * own
    assert difference(cv2.GaussianBlur(found, (0, 0), 4), cv2.GaussianBlur(streaky, (0, 0), 4)) < 1
    assert abs(found - streaky)[253:259, 250:262].mean() < 2, "the mole is no grain"


def test_new_grain_fades_in_as_a_head_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    fine, strengths = skin(), []
    detail, plain = (detail_of(fine, flow_to(place())) for _ in range(2))
    monkeypatch.setattr(plain, "_new_grain", None)
    for width in np.arange(0.72, 0.5, -0.01):
        flow = flow_to(place() * (width, 1) + (32 * (1 - width), 0))
        streaky, found = (transferred(one, planes_of(fine), flow)[80:230, 128:384] for one in (plain, detail))
        strengths.append(float(np.abs(found - streaky).mean()))
    assert strengths[0] == 0 < strengths[-1]
    assert np.diff(strengths).max() < 0.12 * strengths[-1]


@torch.inference_mode()
def test_a_card_gives_the_same_grain() -> None:
    fine, rest, moved = skin(), flow_to(place()), flow_to(place() * (0.5, 1) + (16, 0))
    planes = planes_of(fine)
    known, drawn = (
        Drawn(*map(torch.from_numpy, (planes[None], at[None], np.log(mask / (1 - mask))[None, None])))
        for at, mask in (rest, moved)
    )
    new = new_grain(fine)
    assert new is not None
    card = FastDetail.of(torch.from_numpy(fine), known, 0, torch.from_numpy(new))
    (found,) = next(with_detail([card], drawn, []))
    expected = transferred(detail_of(fine, rest), planes, moved)
    assert difference((found.permute(1, 2, 0).numpy() + 1) * 127.5, expected) < 0.5


def test_a_mask_that_is_faint_at_rest_keeps_the_texture() -> None:
    """How far an official checkpoint's mask opens at all is its own affair: only closing counts."""
    fine, flow = textured(256), flow_to(place(), -1.0)
    assert np.array_equal(transferred(detail_of(fine, flow), planes_of(fine), flow, whole_levels=True), fine)


def test_extreme_flows_give_finite_pictures() -> None:
    random, fine = np.random.default_rng(0), textured(100)
    wild = random.uniform(-2, 2, (2, NET, NET)).astype(np.float32)
    mask = random.integers(0, 2, (NET, NET)).astype(np.float32)
    detail = detail_of(fine, (wild, mask))
    for places in (wild, -wild, random.normal(0, 0.5, (2, NET, NET)).astype(np.float32)):
        assert np.isfinite(transferred(detail, planes_of(fine), (places, 1 - mask))).all()


# ------------------------------------------------------------------------------------------------ what it is cut from


def test_a_detail_shows_the_same_area_as_the_crop() -> None:
    picture = cv2.resize(textured(64), (600, 400), interpolation=cv2.INTER_CUBIC)
    crop = crop_from_box(120, 40, 300, NET, 10)
    fine = cut_at(picture, crop, 256)
    assert fine.shape == (256, 256, 3)
    assert difference(cv2.resize(fine, (NET, NET), interpolation=cv2.INTER_AREA), cut_at(picture, crop, NET), 2) < 2
    square = textured(90)
    assert np.array_equal(cut_at(square, whole(square, NET), 90), square)


def test_the_fitting_size_keeps_all_pixels() -> None:
    sides = {40: 64, 200: 256, 256: 256, 257: 512, 900: 1024, 5000: 1024}
    assert {side: FaceSize(None).side(NET, crop_from_box(0, 0, side, NET)) for side in sides} == sides
    assert FaceSize(None).side(512, crop_from_box(0, 0, 100, 512)) == 512


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clip() -> None:
    pytest.importorskip("resource", reason="this system does not tell a process's peak memory")
    script = """
import numpy as np
from inference.cli.bench import RandomBank, peak_memory_mib
from inference.contract.config import GeneratorConfig
from inference.renderer import FaceRenderer
config = GeneratorConfig(32, 16, {4: 8, 8: 8, 16: 8, 32: 8}, (("lip", 2), ("pose", 2), ("exp", 2)))
renderer = FaceRenderer(RandomBank.of(config), "cpu", threads=1)
image = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
def clip(frames):
    rows = np.random.default_rng(0).standard_normal((frames, 6)).astype(np.float32)
    renderer.set_source(image, image)
    for _ in renderer.render(rows): pass
    for _ in renderer.render_frames((image for _ in range(20)), rows[:20], details=(image for _ in range(20))): pass
    return peak_memory_mib()
print(clip(20), clip(100))
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    short, long = map(float, result.stdout.split())
    assert long <= 1.1 * short
