"""The trainer of the reader that compares a frame with a picture at rest, on a made-up data set, and such a reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.capture import (
    capture,
    frame_at,
    nearest_to_rest,
)
from inference.contract.bank import (
    Bank,
    load_bank,
    save_bank,
)
from inference.contract.coefficients import Coefficients
from inference.contract.errors import EDTalkError
from inference.media.clip import Clip
from inference.media.picture import save_picture
from inference.model.readers.relative import (
    PREFIX,
    RelativeReader,
    RestFlow,
    misfits,
)
from inference.renderer import FaceRenderer
from training.export import starter_bank
from training.learning.augment import recorded_pair
from training.stages.generator import (
    fresh,
    small_config,
)
from training.stages.relative_reader import fit_share
from training.units import NAMES

pytestmark = pytest.mark.slow

SIDE = 64


def textured(shifts: np.ndarray, size: int) -> np.ndarray:
    """(N, size, size, 3) uint8 of one pattern, moved by (N, 2) picture widths right and down."""
    line = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(line, line)
    x, y = x - shifts[:, :1, None], y - shifts[:, 1:, None]
    pattern = np.sin(23 * x + 3 * y) + np.sin(19 * y - 5 * x) + np.sin(11 * (x + y) ** 2)
    return (127 + 40 * pattern).clip(0, 255).astype(np.uint8)[..., None].repeat(3, -1)


# ------------------------------------------------------------------------------------------------ in a bank


@pytest.fixture(scope="module")
def plain() -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    return {name: tensor.numpy() for name, tensor in fresh(small_config(SIDE)).state_dict().items()}


def carried(reader: RelativeReader) -> dict[str, np.ndarray]:
    state = reader.state_dict().items()
    return {PREFIX + name: tensor.numpy() for name, tensor in state if tensor.is_floating_point()}


def small(channels: tuple[int, ...] = (8, 8, 8, 8), outputs: int = len(NAMES)) -> RelativeReader:
    torch.manual_seed(0)
    reader = RelativeReader(channels, 16, outputs, (16, 32)).eval().requires_grad_(False)
    reader.share.copy_(torch.linspace(0.2, 0.9, 2 * outputs).view(2, -1))
    return reader


@pytest.fixture(scope="module")
def bank(plain: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Bank:
    path = tmp_path_factory.mktemp("bank") / "compares.safetensors"
    save_bank(starter_bank(small_config(SIDE)), plain | carried(small()), path)
    return load_bank(path)


@pytest.fixture(scope="module")
def face(bank: Bank) -> FaceRenderer:
    return FaceRenderer(bank, "cpu")


def test_every_picture_is_compared_by_itself(face: FaceRenderer) -> None:
    assert face.can_compare
    rest, *pictures = textured(np.random.default_rng(0).uniform(-0.05, 0.05, (4, 2)), SIDE)
    none = np.zeros((3, len(NAMES)), np.float32)
    rows = face.compare(rest, pictures, none)
    assert rows.shape == (3, len(NAMES))
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(face.compare(rest, pictures[::-1], none)[::-1], rows)
    np.testing.assert_array_equal(face.compare(rest, iter(pictures[:1]), none[:1]), rows[:1])
    assert face.compare(rest, [], none[:0]).shape == (0, len(NAMES))
    planes = torch.from_numpy(np.stack([rest, *pictures])).permute(0, 3, 1, 2).float() / 127.5 - 1
    flows = torch.from_numpy(np.stack([RestFlow(planes[0].numpy()).to(plane.numpy()) for plane in planes[1:]]))
    own = small()(planes[:1].expand(3, -1, -1, -1), planes[1:], flows).numpy()
    np.testing.assert_allclose(own * small().share[0].numpy(), rows, atol=1e-4)
    more = face.compare(rest, pictures, none + 1) - rows
    np.testing.assert_allclose(more, np.broadcast_to(small().share[1].numpy(), rows.shape), atol=1e-5)


def test_a_bank_without_one_reads_as_before(plain: dict[str, np.ndarray], tmp_path: Path, face: FaceRenderer) -> None:
    save_bank(starter_bank(small_config(SIDE)), plain, tmp_path / "plain.safetensors")
    other = FaceRenderer(load_bank(tmp_path / "plain.safetensors"), "cpu")
    assert not other.can_compare
    pictures = textured(np.random.default_rng(1).uniform(-0.05, 0.05, (2, 2)), SIDE)
    np.testing.assert_array_equal(other.encode(pictures).values, face.encode(pictures).values)


@pytest.mark.parametrize(("channels", "outputs"), [((8, 8, 8), 36), ((8, 8, 8, 8), 35)])
def test_one_that_does_not_fit_is_refused(
    plain: dict[str, np.ndarray], tmp_path: Path, channels: tuple[int, ...], outputs: int
) -> None:
    tensors = plain | carried(small(channels, outputs))
    bank = save_bank(starter_bank(small_config(SIDE)), tensors, tmp_path / "bank.safetensors")
    with pytest.raises(EDTalkError, match="The relative reader in the bank 'starter'"):
        FaceRenderer(bank, "cpu")


# ------------------------------------------------------------------------------------------------ in a capture


def test_a_clip_is_read_against_the_frame_at_rest(face: FaceRenderer, tmp_path: Path) -> None:
    pictures = textured(np.random.default_rng(2).uniform(-0.05, 0.05, (5, 2)), SIDE)
    for number, picture in enumerate(pictures):
        save_picture(tmp_path / f"{number}.png", picture)
    clip, looked_at = Clip(tmp_path, 25.0), []
    plain = face.encode(pictures)
    for rest, number in ((3 / 25, 3), (None, nearest_to_rest(plain, np.ones(5, bool)))):
        found = capture(face, clip, "none", lambda done, total: looked_at.append((done, total)), rest=rest)
        more = face.compare(pictures[number], pictures, plain.values - plain.values[number])
        wanted = more + np.median(plain.values - more, axis=0)
        np.testing.assert_array_equal(found.rows.values, wanted)
    assert looked_at[-10:] == [(done, 10) for done in range(10)], "each frame is looked at twice"
    alone = capture(face, Clip(tmp_path / "0.png", 25.0), "none")
    np.testing.assert_array_equal(alone.rows.values, plain.values[:1])


def test_rest_is_where_a_face_that_is_seen_does_least() -> None:
    values = np.full((4, 2), 0.5, np.float32)
    values[1], values[2] = 0.0, 0.1
    rows = Coefficients(values, ("one", "other"))
    assert nearest_to_rest(rows, np.ones(4, bool)) == 1
    assert nearest_to_rest(rows, np.array([True, False, True, True])) == 2
    assert nearest_to_rest(rows, np.zeros(4, bool)) == 1


@pytest.mark.parametrize(("time", "number"), [(2.0, 0), (2.5, 5), (2.59, 5), (1.0, 0), (99.0, 19)])
def test_the_frame_on_screen_at_a_time(time: float, number: int) -> None:
    assert frame_at(Clip(Path("film.mp4"), 10.0, 2.0), time, 20) == number


# ------------------------------------------------------------------------------------------------ what it sees


def test_a_flow_says_how_far_a_picture_moved() -> None:
    rest, moved = (textured(np.array([shift]), 128)[0] for shift in ((0.0, 0.0), (0.03, -0.02)))
    flow = RestFlow(plane(rest)).to(plane(moved))
    assert flow.shape == (2, 64, 64)
    np.testing.assert_allclose(np.median(flow, (1, 2)), (0.06, -0.04), atol=0.004)


def plane(picture: np.ndarray) -> np.ndarray:
    return (picture.transpose(2, 0, 1) / 127.5 - 1).astype(np.float32)


def test_a_misfit_is_least_at_the_place_that_matches() -> None:
    rest, moved = (textured(np.array([[shift, 0.0]]), 64)[0, ..., 0] / 127.5 - 1 for shift in (0.0, 2 / 64))
    found = misfits(*(torch.from_numpy(part)[None, None].float() for part in (rest, moved)))
    assert found.shape == (1, 7 * 7 + 9 * 9, 32, 32)
    inside = found[0, :, 8:24, 8:24].mean((1, 2))
    assert divmod(int(inside[:49].argmin()), 7) == (3, 5), "two pixels to the right"
    assert divmod(int(inside[49:].argmin()), 9) == (4, 5), "one of two pixels"


# ------------------------------------------------------------------------------------------------ its trainer


def test_both_pictures_of_a_recorded_pair_are_cropped_alike() -> None:
    two = textured(np.zeros((2, 2)), 128)
    recorded, crop = recorded_pair(two, np.random.default_rng(3))
    assert recorded.shape == two.shape
    assert 0.7 < crop.scale.item() < 1.4
    moved = np.abs(recorded[0].astype(float) - two[0]).mean()
    assert np.abs(recorded[0].astype(float) - recorded[1]).mean() < moved / 2


def test_shares_are_what_comes_nearest_to_the_truth() -> None:
    rng = torch.Generator().manual_seed(4)
    own, plain = torch.randn(2, 200, 3, generator=rng)
    wanted = torch.tensor([[0.7, 1.0, 0.0], [0.3, 0.0, 0.5]])
    share = fit_share(own, plain, own * wanted[0] + plain * wanted[1])
    np.testing.assert_allclose(share.numpy(), wanted.numpy(), atol=1e-3)
