"""The reader that looks closely at mouth and eyes: its windows, its share, and how a bank carries it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import (
    load_bank,
    save_bank,
)
from inference.contract.errors import EDTalkError
from inference.model.insets import PREFIX as INSETS_PREFIX
from inference.model.insets import (
    Inset,
    Insets,
    windows_at,
)
from inference.model.readers.absolute import Reader
from inference.model.readers.close import EXTENTS, FLOW_UNIT, PREFIX, SEEN, SIZES, CloseReader, RestWindow, look_at
from inference.model.readers.relative import PREFIX as RELATIVE_PREFIX
from inference.model.readers.relative import RelativeReader
from inference.model.refiner import PREFIX as REFINER_PREFIX
from inference.model.refiner import Refiner
from inference.renderer import FaceRenderer
from training.export import starter_bank
from training.stages.generator import (
    fresh,
    small_config,
)

COUNT = 36
ANCHORS = torch.tensor([[[-0.3, -0.1], [0.3, -0.1], [0.0, 0.4]]])


@pytest.fixture
def reader() -> CloseReader:
    torch.manual_seed(0)
    return CloseReader((6, 8), 10, 12, COUNT).eval().requires_grad_(False)


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


def test_the_same_face_looks_the_same_wherever_it_is() -> None:
    picture = blobs()
    moved = np.roll(picture, (8, -16), (0, 1))
    shift = torch.tensor([-16, 8]) * 2 / 128
    shown = look_at([picture, moved], torch.cat([ANCHORS * 0.5, ANCHORS * 0.5 + shift]))
    for (here, there), size in zip(shown, SIZES, strict=True):
        assert here.shape == (*size, 3)
        np.testing.assert_allclose(here, there, atol=1e-3)
    levels = look_at([((picture + 1) * 127.5).astype(np.uint8)], ANCHORS * 0.5)
    np.testing.assert_allclose(levels[0][0] / 127.5 - 1, shown[0][0], atol=0.02)


def test_beside_the_rest_is_seen_what_differs_and_how_it_flows() -> None:
    picture = blobs()
    rest, moved = picture[20:100, 20:100], picture[20:100, 23:103]  # three pixels to the left
    window = RestWindow(np.ascontiguousarray(rest))
    same = window.beside(np.ascontiguousarray(rest))
    assert same.shape == (80, 80, SEEN)
    np.testing.assert_array_equal(same[..., :3], rest)
    assert np.abs(same[..., 3:]).max() < 0.02
    seen = window.beside(np.ascontiguousarray(moved))
    np.testing.assert_allclose(seen[..., 3:6], moved - rest, atol=1e-6)
    inner = seen[10:-10, 10:-10]
    assert np.median(inner[..., 9]) * FLOW_UNIT == pytest.approx(-3, abs=0.1)
    assert abs(np.median(inner[..., 10])) * FLOW_UNIT < 0.1
    assert np.abs(inner[..., 6:9]).mean() < 0.2 * np.abs(inner[..., 3:6]).mean()


def test_what_is_read_has_its_share_of_what_is_thought(reader: CloseReader) -> None:
    seen, thought = windows(), torch.rand(3, COUNT)
    own = reader.read(seen, thought)
    reader.share[0], reader.share[1] = 0.25, 2.0
    torch.testing.assert_close(reader.read(seen, thought), 0.25 * own + 2.0 * thought)
    for row in range(3):
        alone = reader.read([part[row : row + 1] for part in seen], thought[row : row + 1])
        torch.testing.assert_close(alone, 0.25 * own[row : row + 1] + 2.0 * thought[row : row + 1], atol=1e-5, rtol=0)


def test_a_face_in_a_mirror_does_the_same_to_the_other_side(reader: CloseReader) -> None:
    """Whatever the network makes of it."""
    reader.mirror.copy_(torch.tensor([1, 0, *range(2, COUNT)]))
    reader.mirror_sign[2] = -1
    seen, thought = windows(), torch.zeros(3, COUNT)
    turned = [part.flip(-1) for part in seen]
    for part in turned:
        part[:, 9] *= -1
    one, other = reader.read(seen, thought), reader.read(turned, thought)
    torch.testing.assert_close(other[:, [1, 0]], one[:, :2])
    torch.testing.assert_close(other[:, 2], -one[:, 2])
    torch.testing.assert_close(other[:, 3:], one[:, 3:])
    assert not torch.allclose(one, reader(seen))


def windows() -> list[torch.Tensor]:
    torch.manual_seed(4)
    return [torch.rand(3, SEEN, *size) for size in SIZES]


# ------------------------------------------------------------------------------------------------ in a bank


def write_bank(path: Path, *parts: tuple[str, torch.nn.Module]) -> Path:
    torch.manual_seed(2)
    model = fresh(small_config(128))
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for prefix, part in parts:
        floats = {name: part for name, part in part.state_dict().items() if "num_batches" not in name}
        tensors |= {prefix + name: tensor.numpy() for name, tensor in floats.items()}
    save_bank(starter_bank(model.config), tensors, path)
    return path


@pytest.fixture
def parts() -> list[tuple[str, torch.nn.Module]]:
    """All that a close reader goes by; anchors are where they are, whatever the picture."""
    torch.manual_seed(3)
    pose = torch.zeros(COUNT)
    pose[20:26] = 1
    insets = [Inset((16, 16), (0.6, 0.5, 0.1), [(0.0, 0.9, 0.9)], (8, 12), torch.ones(COUNT), 1.0) for _ in range(2)]
    anchors = Reader((8, 8, 8, 8), 16, 6)
    anchors.last.weight.data.zero_()
    anchors.last.bias.data.copy_(ANCHORS.flatten())
    return [
        (REFINER_PREFIX, Refiner((8, 8, 8), 16, (8, 8), (8, 16), COUNT, [(0, 0)], range(20, 26))),
        (INSETS_PREFIX, Insets(anchors, *insets, pose)),
        (RELATIVE_PREFIX, RelativeReader((8, 8, 8, 8, 8), 16, COUNT, (16, 32))),
    ]


def test_a_face_is_compared_with_the_close_reader_that_a_bank_carries(
    reader: CloseReader, parts: list[tuple[str, torch.nn.Module]], tmp_path: Path
) -> None:
    """Half of what it says of the windows, and half of what is thought without it; alone as among others."""
    reader.share[:] = 0.5
    without = FaceRenderer(load_bank(write_bank(tmp_path / "without.safetensors", *parts)), "cpu")
    closely = FaceRenderer(load_bank(write_bank(tmp_path / "with.safetensors", *parts, (PREFIX, reader))), "cpu")
    assert (without.comparing_size, closely.comparing_size) == (128, 256)
    rest, *frames = np.random.default_rng(0).integers(0, 256, (4, 256, 256, 3), np.uint8)
    encoded = np.random.default_rng(1).normal(0, 0.1, (3, COUNT)).astype(np.float32)
    thought = without.compare(rest, frames, encoded)
    found = closely.compare(rest, frames, encoded)
    refiner, insets = parts[0][1].eval(), parts[1][1]
    large = [picture / np.float32(127.5) - 1 for picture in (rest, *frames)]
    with torch.no_grad():
        small = torch.nn.functional.avg_pool2d(torch.from_numpy(large[0]).permute(2, 0, 1)[None], 2)
        known = insets.know(small, refiner.motion_of(small), ANCHORS)
        then = known.anchors_at(refiner.amounts(torch.from_numpy(thought) * insets.pose))
        seen = []
        for (still,), moved in zip(look_at(large[:1], ANCHORS), look_at(large[1:], then), strict=True):
            beside = np.stack([RestWindow(still).beside(window) for window in moved])
            seen.append(torch.from_numpy(beside).permute(0, 3, 1, 2))
        own = reader.read(seen, torch.zeros(3, COUNT)) / 0.5
    np.testing.assert_allclose(found, 0.5 * own.numpy() + 0.5 * thought, atol=2e-2)
    assert np.abs(found - thought).max() > 0.05
    for row in range(3):
        alone = closely.compare(rest, [frames[row]], encoded[row : row + 1])
        np.testing.assert_array_equal(alone[0], found[row])


def test_a_close_reader_that_does_not_fit_is_refused(parts: list[tuple[str, torch.nn.Module]], tmp_path: Path) -> None:
    path = write_bank(tmp_path / "bank.safetensors", *parts, (PREFIX, CloseReader((6, 8), 10, 12, 5)))
    with pytest.raises(EDTalkError, match="The close reader in the bank 'starter' does not fit"):
        FaceRenderer(load_bank(path), "cpu")
