"""The relative reader: its windows, its flow, its blend weights, and how a bank holds it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.capture import capture, frame_at
from inference.contract.bank import load_bank, save_bank
from inference.contract.coefficients import Coefficients
from inference.contract.errors import EDTalkError
from inference.media.clip import Clip
from inference.media.picture import save_picture
from inference.model.insets import PREFIX as INSETS_PREFIX
from inference.model.insets import InsetConfig, Insets, InsetsConfig, windows_at
from inference.model.readers.absolute import ReaderConfig
from inference.model.readers.relative import (
    EXTENTS,
    EYE_FLOWS,
    FLOW_UNIT,
    PREFIXES,
    SIZES,
    WINDOW_CHANNELS,
    RelativeReader,
    RelativeReaderConfig,
    RestFlow,
    RestWindow,
    WindowReader,
    cut_windows,
)
from inference.model.refiner import PREFIX as REFINER_PREFIX
from inference.model.refiner import Refiner, RefinerConfig
from inference.neutral import nearest_to_rest
from inference.renderer import FaceRenderer
from training.export import starter_bank
from training.stages.generator import fresh, small_config

COUNT = 36
ANCHORS = torch.tensor([[[-0.3, -0.1], [0.3, -0.1], [0.0, 0.4]]])


@pytest.fixture
def relative_reader() -> RelativeReader:
    torch.manual_seed(0)
    return RelativeReader(RelativeReaderConfig((6, 8), 10, 12, COUNT)).eval().requires_grad_(False)


@pytest.fixture
def reader(relative_reader: RelativeReader) -> WindowReader:
    return relative_reader.windows


def test_windows_turn_and_grow_with_the_eyes() -> None:
    turned = torch.stack([-ANCHORS[..., 1], ANCHORS[..., 0]], -1) * 1.5  # a quarter turn about the picture's middle
    for before, after, extent in zip(*(windows_at(at, EXTENTS) for at in (ANCHORS, turned)), EXTENTS, strict=True):
        assert before.along[0, 0] == pytest.approx(0.6 * extent[0])
        for one, other in zip(before, after, strict=True):
            torch.testing.assert_close(torch.stack([-one[:, 1], one[:, 0]], 1) * 1.5, other)


def blobs(seed: int = 1) -> np.ndarray:
    """float32 (128, 128, 3) in [-1, 1]."""
    coarse = np.random.default_rng(seed).uniform(-1, 1, (8, 8, 3)).astype(np.float32)
    return cv2.resize(coarse, (128, 128), interpolation=cv2.INTER_CUBIC).clip(-1, 1)


def test_windows_of_a_shifted_picture_are_equal() -> None:
    picture = blobs()
    moved = np.roll(picture, (8, -16), (0, 1))
    shift = torch.tensor([-16, 8]) * 2 / 128
    shown = cut_windows([picture, moved], torch.cat([ANCHORS * 0.5, ANCHORS * 0.5 + shift]))
    for (here, there), size in zip(shown, SIZES, strict=True):
        assert here.shape == (*size, 3)
        np.testing.assert_allclose(here, there, atol=1e-3)
    levels = cut_windows([((picture + 1) * 127.5).astype(np.uint8)], ANCHORS * 0.5)
    np.testing.assert_allclose(levels[0][0] / 127.5 - 1, shown[0][0], atol=0.02)


def test_a_compared_window_holds_difference_and_flow() -> None:
    picture = blobs()
    rest, moved = picture[20:100, 20:100], picture[20:100, 23:103]  # three pixels to the left
    window = RestWindow(np.ascontiguousarray(rest))
    same = window.compare(np.ascontiguousarray(rest))
    assert same.shape == (80, 80, WINDOW_CHANNELS)
    np.testing.assert_array_equal(same[..., :3], rest)
    assert np.abs(same[..., 3:]).max() < 0.02
    seen = window.compare(np.ascontiguousarray(moved))
    np.testing.assert_allclose(seen[..., 3:6], moved - rest, atol=1e-6)
    inner = seen[10:-10, 10:-10]
    assert np.median(inner[..., 9]) * FLOW_UNIT == pytest.approx(-3, abs=0.1)
    assert abs(np.median(inner[..., 10])) * FLOW_UNIT < 0.1
    assert np.abs(inner[..., 6:9]).mean() < 0.2 * np.abs(inner[..., 3:6]).mean()


def test_the_estimate_is_blended_in(reader: WindowReader) -> None:
    seen, estimate = windows(), torch.rand(3, COUNT)
    own = reader.refine(seen, estimate)
    reader.share[0], reader.share[1] = 0.25, 2.0
    torch.testing.assert_close(reader.refine(seen, estimate), 0.25 * own + 2.0 * estimate)
    for row in range(3):
        alone = reader.refine([part[row : row + 1] for part in seen], estimate[row : row + 1])
        torch.testing.assert_close(alone, 0.25 * own[row : row + 1] + 2.0 * estimate[row : row + 1], atol=1e-5, rtol=0)


def test_a_mirrored_face_gives_mirrored_coefficients(reader: WindowReader) -> None:
    reader.mirror.copy_(torch.tensor([1, 0, *range(2, COUNT)]))
    reader.mirror_sign[2] = -1
    seen, estimate = windows(), torch.zeros(3, COUNT)
    turned = [part.flip(-1) for part in seen]
    for part in turned:
        part[:, 9] *= -1
    one, other = reader.refine(seen, estimate), reader.refine(turned, estimate)
    torch.testing.assert_close(other[:, [1, 0]], one[:, :2])
    torch.testing.assert_close(other[:, 2], -one[:, 2])
    torch.testing.assert_close(other[:, 3:], one[:, 3:])
    assert not torch.allclose(one, reader(seen))


def test_a_calibration_maps_the_blend_and_the_flow_of_the_eyes(reader: WindowReader) -> None:
    """Flow is averaged over both sides: motion apart counts, motion to one side does not."""
    seen, estimate = windows(), torch.rand(3, COUNT)
    blend, features = reader.refine(seen, estimate), reader.features(seen, estimate)
    assert features.shape == (3, COUNT + EYE_FLOWS)
    torch.testing.assert_close(features[:, :COUNT], blend, atol=0, rtol=0)
    sideways = [part.clone() for part in seen]
    sideways[1][:, -2] += 1.0
    there = reader.features(sideways, estimate)[:, COUNT:]
    torch.testing.assert_close(there, features[:, COUNT:])

    calibrated = WindowReader(replace(reader.config, calibrated=1)).eval().requires_grad_(False)
    calibrated.load_state_dict(reader.state_dict(), strict=False)
    weight = torch.eye(COUNT, COUNT + EYE_FLOWS)
    weight[5] = torch.rand(COUNT + EYE_FLOWS)
    calibrated.calibration.weight.copy_(weight)
    found, others = calibrated.refine(seen, estimate), torch.arange(COUNT) != 5
    torch.testing.assert_close(found[:, others], blend[:, others], atol=0, rtol=0)
    torch.testing.assert_close(found[:, 5], features @ weight[5])


def windows() -> list[torch.Tensor]:
    torch.manual_seed(4)
    return [torch.rand(3, WINDOW_CHANNELS, *size) for size in SIZES]


def test_the_flow_is_the_displacement_of_a_picture() -> None:
    rest, moved = (blobs()[20:84, 20 + shift : 84 + shift].transpose(2, 0, 1) for shift in (0, 3))
    flow = RestFlow(rest).to(moved)
    assert flow.shape == (2, 32, 32)
    np.testing.assert_allclose(np.median(flow, (1, 2)), (-3 / 32, 0), atol=0.004)


# ------------------------------------------------------------------------------------------------ in a bank


def stored(reader: RelativeReader) -> dict[str, np.ndarray]:
    """The reader's tensors by the names that banks use."""
    names = {inner: prefix for prefix, inner in PREFIXES.items()}
    state = reader.state_dict().items()
    return {
        prefix + name.removeprefix(inner): tensor.numpy()
        for name, tensor in state
        for inner, prefix in names.items()
        if name.startswith(inner)
    }


def write_bank(path: Path, reader: RelativeReader | None) -> Path:
    """A 128 px bank with all that the reader needs; its anchors do not depend on the picture."""
    torch.manual_seed(2)
    model = fresh(small_config(128))
    torch.manual_seed(3)
    inset = InsetConfig((16, 16), (8, 12))
    insets = Insets(InsetsConfig(ReaderConfig((8, 8, 8, 8), 16, 6), inset, inset, COUNT))
    for part in (insets.mouth, insets.eyes):
        part.placed((0.6, 0.5, 0.1), [(0.0, 0.9, 0.9)], torch.ones(COUNT), 1.0)
    insets.anchors.last.weight.data.zero_()
    insets.anchors.last.bias.data.copy_(ANCHORS.flatten())
    insets.pose[20:26] = 1
    refiner = Refiner(RefinerConfig((8, 8, 8), 16, (8, 8), (8, 16), COUNT, ((0, 0),), tuple(range(20, 26))))
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for prefix, part in ((REFINER_PREFIX, refiner), (INSETS_PREFIX, insets)):
        tensors |= {prefix + name: tensor.numpy() for name, tensor in part.state_dict().items()}
    save_bank(starter_bank(model.config), tensors | (stored(reader) if reader else {}), path)
    return path


@pytest.fixture
def face(relative_reader: RelativeReader, tmp_path: Path) -> FaceRenderer:
    relative_reader.windows.share[:] = 0.5
    return FaceRenderer(load_bank(write_bank(tmp_path / "bank.safetensors", relative_reader)), "cpu")


def test_a_face_is_compared_with_the_windows_that_follow_its_head(
    relative_reader: RelativeReader, face: FaceRenderer
) -> None:
    """Half of the estimate from the flow and half of the windows' reading; alone as among others."""
    assert face.reader.comparing_size == 256
    rest, *frames = np.random.default_rng(0).integers(0, 256, (4, 256, 256, 3), np.uint8)
    found = face.reader.compare(face.reader.rest_reference(rest), frames)
    assert found.dtype == np.float32
    large = [picture / np.float32(127.5) - 1 for picture in (rest, *frames)]
    networks = face.reader.networks
    with torch.no_grad():
        small = torch.nn.functional.avg_pool2d(torch.from_numpy(np.stack(large)).permute(0, 3, 1, 2), 2)
        flow = RestFlow(small[0].numpy())
        flows = torch.from_numpy(np.stack([flow.to(plane.numpy()) for plane in small[1:]]))
        estimate = relative_reader.estimate(flows)
        known = networks.insets.prepare(small[:1], networks.refiner.motion_fields(small[:1]), ANCHORS)
        then = known.anchors_at(networks.refiner.motion_weights(estimate * networks.insets.pose))
        windows = []
        for (still,), moved in zip(cut_windows(large[:1], ANCHORS), cut_windows(large[1:], then), strict=True):
            compared = np.stack([RestWindow(still).compare(window) for window in moved])
            windows.append(torch.from_numpy(compared).permute(0, 3, 1, 2))
        expected = relative_reader.refine(windows, estimate)
    np.testing.assert_allclose(found[:, :COUNT], expected.numpy(), atol=2e-2)
    for row in range(3):
        alone = face.reader.compare(face.reader.rest_reference(rest), [frames[row]])
        np.testing.assert_array_equal(alone[0], found[row])
    assert face.reader.compare(face.reader.rest_reference(rest), []).shape == (0, len(face.bank.names))


def test_a_bank_without_a_relative_reader_cannot_compare(face: FaceRenderer, tmp_path: Path) -> None:
    plain = FaceRenderer(load_bank(write_bank(tmp_path / "plain.safetensors", None)), "cpu")
    assert face.reader.can_compare
    assert not plain.reader.can_compare
    pictures = np.random.default_rng(1).integers(0, 256, (2, 128, 128, 3), np.uint8)
    np.testing.assert_array_equal(plain.encode(pictures).values, face.encode(pictures).values)


def test_a_bank_may_have_a_calibration(relative_reader: RelativeReader, tmp_path: Path) -> None:
    calibrated = RelativeReader(replace(relative_reader.config, calibrated=1)).eval().requires_grad_(False)
    calibrated.load_state_dict(relative_reader.state_dict(), strict=False)
    rest, frame = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), np.uint8)
    found = []
    for name, reader, gain in (("plain", relative_reader, 1.0), ("calibrated", calibrated, 2.0)):
        if reader is calibrated:
            reader.windows.calibration.weight.copy_(gain * torch.eye(COUNT, COUNT + EYE_FLOWS))
        face = FaceRenderer(load_bank(write_bank(tmp_path / f"{name}.safetensors", reader)), "cpu").reader
        found.append(face.compare(face.rest_reference(rest), [frame])[:, :COUNT] / gain)
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)


def test_stages_of_older_relative_readers_are_ignored(relative_reader: RelativeReader, tmp_path: Path) -> None:
    path = write_bank(tmp_path / "bank.safetensors", relative_reader)
    bank, old = load_bank(path), {"relative.stages.0.last.bias": np.ones(COUNT), "relative.share": np.ones((2, COUNT))}
    save_bank(bank, dict(bank.tensors) | old, tmp_path / "old.safetensors")
    rest, frame = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), np.uint8)
    readers = [FaceRenderer(load_bank(file), "cpu").reader for file in (path, tmp_path / "old.safetensors")]
    one, other = (reader.compare(reader.rest_reference(rest), [frame]) for reader in readers)
    np.testing.assert_array_equal(one, other)


def test_a_relative_reader_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = write_bank(tmp_path / "bank.safetensors", RelativeReader(RelativeReaderConfig((6, 8), 10, 12, 5)))
    with pytest.raises(EDTalkError, match="The network 'relative_reader' in the bank 'starter' is not usable"):
        FaceRenderer(load_bank(path), "cpu")


# ------------------------------------------------------------------------------------------------ in a capture


def test_a_clip_is_compared_with_its_frame_at_rest(face: FaceRenderer, tmp_path: Path) -> None:
    pictures = [cv2.resize(blobs(seed), (256, 256)) for seed in range(5)]
    pictures = [((picture + 1) * 127.5).astype(np.uint8) for picture in pictures]
    (tmp_path / "clip").mkdir()
    for number, picture in enumerate(pictures):
        save_picture(tmp_path / "clip" / f"{number}.png", picture)
    clip, steps = Clip(tmp_path / "clip", 25.0), []
    plain = face.encode(pictures)
    drawn = face.config.generator.coefficient_count
    still = Coefficients(np.where(np.arange(len(plain.names)) < drawn, plain.values, 0), plain.names)
    for rest, number in ((3 / 25, 3), (None, nearest_to_rest(still, np.ones(5, bool)))):
        found = capture(face, clip, "none", lambda done, total: steps.append((done, total)), rest=rest)
        difference = face.reader.compare(face.reader.rest_reference(pictures[number]), pictures)
        wanted = difference + np.median(plain.values - difference, axis=0)
        wanted[:, drawn:] = plain.values[:, drawn:]
        np.testing.assert_allclose(found.rows.values[:, :drawn], wanted[:, :drawn], atol=1e-5)
        # Landmarks of a batch round differently from those of one picture, and blobs enlarge it.
        np.testing.assert_allclose(found.rows.values[:, drawn:], wanted[:, drawn:], atol=5e-3)
    assert steps[-10:] == [(done, 10) for done in range(10)], "each frame is read twice"
    alone = capture(face, Clip(tmp_path / "clip" / "0.png", 25.0), "none")
    np.testing.assert_allclose(alone.rows.values, plain.values[:1], atol=1e-5)


@pytest.mark.parametrize(("time", "number"), [(2.0, 0), (2.5, 5), (2.59, 5), (1.0, 0), (99.0, 19)])
def test_the_frame_on_screen_at_a_time(time: float, number: int) -> None:
    assert frame_at(Clip(Path("film.mp4"), 10.0, 2.0), time, 20) == number
