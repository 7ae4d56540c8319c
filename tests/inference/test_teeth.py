"""Single teeth: their planes, their texture at the output's resolution, and how a bank stores them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import STARTER, Bank, load_bank, save_bank
from inference.contract.errors import EDTalkError
from inference.model.fast_unet import FastUNet
from inference.model.load import TEETH, load_network
from inference.model.teeth import MASKS, PLANES, PREFIX, SEEN, SMOOTH, STRIP, Teeth, TeethConfig, planes_of
from inference.renderer import FaceRenderer
from inference.teeth import TeethTexture, softened
from inference.tongue import interior

COUNT, SIDE = 36, 72
TO_PICTURE = np.array([[1 / SIDE, 0, -0.5 + 0.5 / SIDE], [0, 1 / SIDE, -0.5 + 0.5 / SIDE]])  # the middle of a picture
GREY, BRIGHT = np.log(0.3), np.log(0.6)


def strips(stripes: int, opacity: float = 1.0, contrast: float = 2.0) -> np.ndarray:
    """A texture of vertical stripes; contrast: of bright to dark ones."""
    made = np.zeros((2, 4, *STRIP), np.float32)
    dark = (np.arange(STRIP[1]) * stripes * 2 // STRIP[1]) % 2
    made[:, :3], made[:, 3] = -np.log(contrast) * dark, opacity
    return made


def planes(inside: float = 20.0, upper: float = 20.0, lower: float = -20.0, opacity: float = 1.0) -> np.ndarray:
    """Planes of a window that shows the whole upper row."""
    made = np.zeros((SIDE, SIDE, PLANES), np.float32)
    line = (np.arange(SIDE) * 2 + 1) / SIDE - 1
    made[..., :MASKS] = upper, lower, inside
    made[..., [MASKS, MASKS + 2]] = line[:, None]
    made[..., [MASKS + 1, MASKS + 3]] = ((line + 1) / 2)[:, None, None]
    made[..., MASKS + 4 : MASKS + 7], made[..., MASKS + 7 : MASKS + 10], made[..., -1] = BRIGHT, GREY, opacity
    return made


def drawn(texture: TeethTexture, found: np.ndarray, size: int = 512, kind: type = np.uint8) -> np.ndarray:
    picture = np.full((size, size, 3), 100, kind)
    texture.lay_over(picture, TO_PICTURE, found)
    return picture


@pytest.mark.parametrize("size", [256, 512, 1024])
def test_single_teeth_have_sharp_borders_at_every_size(size: int) -> None:
    middle = drawn(TeethTexture(strips(8)), planes(), size)[
        size // 2, size // 4 + size // 64 : -size // 4 - size // 64, 0
    ].astype(int)
    bright = middle > (middle.max() + middle.min()) / 2
    assert np.count_nonzero(np.diff(bright)) == 15, "eight stripes and the gaps between them"
    assert 1.6 < middle.max() / middle.min() < 2.4
    between = np.abs(middle - (middle.max() + middle.min()) / 2) < 0.25 * np.ptp(middle)
    assert between.mean() < 0.25, "the borders are sharp"


def test_teeth_are_drawn_only_inside_the_lips() -> None:
    texture, before = TeethTexture(strips(8)), np.full((512, 512, 3), 100, np.uint8)
    for hidden in (planes(inside=-20.0), planes(opacity=0.0)):
        assert np.array_equal(drawn(texture, hidden), before)
    half = planes()
    half[:36, :, MASKS - 1] = -20.0
    over = drawn(texture, half)
    assert (over[:250] == 100).all()
    assert (over[270:380, 140:370] != 100).any(-1).all()
    assert (over[390:] == 100).all(), "nothing outside of the window"
    levels = drawn(texture, half, kind=np.float32)
    assert np.abs(levels - over).max() <= 0.51


def test_what_is_not_teeth_shows_the_mouth() -> None:
    for found, made in ((planes(upper=-20.0), strips(8)), (planes(), strips(8, opacity=0.0))):
        over = drawn(TeethTexture(made, depth=0.0), found)[140:370, 140:370]
        assert np.abs(over.astype(float) - (255 * 0.3 * np.array([0.8, 0.95, 0.95]) - 12.75)).max() < 1


def test_teeth_of_the_source_replace_the_textures() -> None:
    plain = TeethTexture(strips(1) * 0 + np.array([0, 0, 0, 1], np.float32)[:, None, None])
    source = drawn(TeethTexture(strips(8, contrast=1.4)), planes())
    own = plain.of_source(source, TO_PICTURE, planes())
    again, unseen = drawn(own, planes()).astype(int), plain.of_source(source, TO_PICTURE, planes(inside=-20.0))
    assert np.abs(again - source).mean() < 0.2 * np.abs(drawn(plain, planes()).astype(int) - source).mean()
    assert np.array_equal(drawn(unseen, planes()), drawn(plain, planes())), "the source shows none"


def test_the_tone_of_own_teeth_applies_to_hidden_ones() -> None:
    """A source that shows the front teeth only: those beside them have the same colour."""
    plain, shown = strips(1) * 0 + np.array([0, 0, 0, 1], np.float32)[:, None, None], planes()
    shown[:, :24, MASKS - 1] = shown[:, 48:, MASKS - 1] = -20.0
    yellow = np.tile(np.array([150, 140, 120], np.uint8), (512, 512, 1))
    over = drawn(TeethTexture(plain).of_source(yellow, TO_PICTURE, shown), planes())
    assert np.abs(over[140:370, 140:370].astype(int) - [150, 140, 120]).mean() < 6


def test_a_few_own_teeth_give_only_their_tone() -> None:
    """Otherwise a single tooth differs from those beside it."""
    plain, shown = strips(1) * 0 + np.array([0, 0, 0, 1], np.float32)[:, None, None], planes()
    shown[..., MASKS - 1] = -20.0
    shown[30:34, 34:38, MASKS - 1] = 20.0
    yellow = np.tile(np.array([150, 140, 120], np.uint8), (512, 512, 1))
    striped = yellow.copy()
    striped[:, 250::4] -= 12
    over = drawn(TeethTexture(plain).of_source(striped, TO_PICTURE, shown), planes())[150:360, 150:360].astype(int)
    assert np.ptp(over.reshape(-1, 3), axis=0).max() <= 1, "all teeth are alike"
    assert over[0, 0, 0] - over[0, 0, 2] > 15, "and yellow"


def test_a_black_and_white_source_gets_grey_gums_and_mouth() -> None:
    gums = strips(1) * 0 + np.array([0, -1, -1, 1], np.float32)[:, None, None]
    grey, red = (np.tile(np.array(colour, np.uint8), (512, 512, 1)) for colour in ((120, 120, 120), (170, 110, 90)))
    for found in (planes(), planes(upper=-20.0)):
        shown = [
            drawn(TeethTexture(gums).of_source(source, TO_PICTURE, found), found)[256, 256] for source in (grey, red)
        ]
        assert np.ptp(shown[0].astype(int)) <= 1
    closed = planes(inside=-20.0)
    over = drawn(TeethTexture(gums).of_source(red, TO_PICTURE, closed), planes())
    assert over[256, 256, 0] > 1.5 * over[256, 256, 1]


# ---------------------------------------------------------------------------------------- the inside of the mouth


def opened(gap: int, teeth: float = -20.0) -> np.ndarray:
    """Planes of an oval mouth, open by so many pixels of the window. teeth: logit of lower teeth in its lowest rows."""
    made, y, x = planes(upper=-20.0), *np.mgrid[:SIDE, :SIDE]
    middle = SIDE / 2 - 0.5
    made[..., MASKS - 1] = 20 * (1 - np.hypot((x - middle) / 25, (y - middle) / max(gap / 2, 0.1))).clip(-1, 1)
    made[..., 1] = np.where(y > middle + gap / 2 - 4, teeth, -20.0)
    return made


@pytest.mark.parametrize("teeth", [-20.0, 20.0])
def test_an_open_mouth_shows_a_tongue_and_is_dark_behind_it(teeth: float) -> None:
    factors = interior(opened(28, teeth)).mean(-1)
    back, tongue = factors[24:30, 30:42].mean(), factors[36:44, 30:42].mean()
    assert back < -0.05
    assert tongue > back + 0.5
    assert np.abs(factors - factors[:, ::-1]).max() < 1e-3, "a mouth that is symmetric stays so"
    near = np.abs(np.diff(factors, axis=0))[opened(28, teeth)[1:, :, MASKS - 1] > 0]
    assert near.max() < 0.4, "without edges"


def test_the_tongue_appears_smoothly_while_the_mouth_opens() -> None:
    def factors(gap: float) -> np.ndarray:
        found = interior(opened(gap))
        return np.zeros((SIDE, SIDE, 3), np.float32) if found is None else found

    assert interior(opened(1)) is None
    assert interior(planes(inside=-20.0)) is None
    inside = opened(2)[..., MASKS - 1] > 0
    steps = [np.abs(factors(gap + 0.5) - factors(gap))[inside].max() for gap in np.arange(1, 30, 0.5)]
    assert max(steps) < 0.25


@pytest.mark.parametrize("gap", [3, 6, 20])
def test_a_part_of_the_window_gives_the_same_tongue(gap: int) -> None:
    found = opened(gap)
    part = slice(SIDE // 2 - 15, SIDE // 2 + 15), slice(5, -5)
    assert np.abs(interior(found[part]) - interior(found)[part]).max() < 0.02


def test_the_mouth_of_a_black_and_white_source_is_shaded_without_colour() -> None:
    grey = np.tile(np.array((120, 120, 120), np.uint8), (512, 512, 1))
    found = opened(28)
    texture = TeethTexture(strips(8)).of_source(grey, TO_PICTURE, found)
    over = drawn(texture, found)[200:310, 200:310].astype(int)
    assert np.ptp(over, axis=-1).max() <= 1
    assert np.ptp(over[..., 0]) > 30


def test_back_teeth_are_dark_and_without_gaps() -> None:
    made = softened(strips(32))
    for row in made[:, 0]:
        assert np.ptp(row[:, :16]) < 0.3 * np.ptp(row[:, 120:136])
        assert row[:, :16].mean() < row[:, 120:136].mean() - 0.15
    assert np.array_equal(made[:, 3], strips(32)[:, 3])


# ------------------------------------------------------------------------------------------------- the network


@pytest.fixture
def teeth() -> Teeth:
    """A network of random weights that sees teeth everywhere."""
    torch.manual_seed(0)
    made = Teeth(TeethConfig((8, 12), COUNT)).eval().requires_grad_(False)
    made.paint.weight.normal_(0, 0.05)
    made.paint.bias[: 4 * MASKS] = 6.0
    made.texture.copy_(torch.from_numpy(strips(12)))
    return made


def test_planes_are_smooth_and_grey_in_black_and_white(teeth: Teeth) -> None:
    seen, condition = torch.randn(2, SEEN, 36, 36), torch.randn(2, COUNT + 3)
    skin = torch.tensor([[-0.7, -0.7, -0.7], [-0.5, -0.8, -1.0]])
    found = teeth(seen, condition, skin)
    assert found.shape == (2, MASKS + SMOOTH, 72, 72)
    front = found[:, MASKS + 4 : MASKS + 7]
    assert (front.amax(1) - front.amin(1))[0].max() < 1e-5
    assert (front.amax(1) - front.amin(1))[1].max() > 1e-3
    fast = planes_of(FastUNet(teeth.unet, teeth.paint, torch.float32)(seen, condition), skin)
    torch.testing.assert_close(fast, found, rtol=1e-3, atol=1e-3)


def with_teeth(teeth: Teeth | None, path: Path) -> Bank:
    """The starter bank with these teeth, or without any."""
    bank = load_bank(STARTER)
    tensors = {name: part for name, part in bank.tensors.items() if not name.startswith(PREFIX)}
    networks = {name: part for name, part in (bank.networks or {}).items() if name != TEETH}
    if teeth is not None:
        tensors |= {PREFIX + name: part.numpy() for name, part in teeth.state_dict().items()}
        networks[TEETH] = {"channels": list(teeth.config.channels), "coefficients": teeth.config.coefficients}
    save_bank(replace(bank, networks=networks), tensors, path)
    return load_bank(path)


def test_teeth_are_drawn_in_large_frames_of_an_open_mouth(teeth: Teeth, tmp_path: Path) -> None:
    banks = [with_teeth(part, tmp_path / f"{number}.safetensors") for number, part in enumerate((teeth, None))]
    picture = np.random.default_rng(0).integers(60, 200, (16, 16, 3), np.uint8).repeat(32, 0).repeat(32, 1)
    small, frames = np.ascontiguousarray(picture[::4, ::4]), []
    for bank in banks:
        renderer = FaceRenderer(bank, "cpu", threads=1)
        for fine in (None, picture):
            renderer.set_source(small, fine)
            rows = np.concatenate([renderer.moved({}, frames=1).values, renderer.moved({"jawOpen": 0.7}).values])
            frames.append(np.stack(list(renderer.render(rows))))
    same = [(frames[0] == frames[2]).all((1, 2, 3)).tolist(), (frames[1] == frames[3]).all((1, 2, 3)).tolist()]
    assert same == [[True, True], [True, False]], "not at the bank's size, and not at rest"


def test_teeth_survive_a_bank_and_are_refused_if_they_do_not_fit(teeth: Teeth, tmp_path: Path) -> None:
    found = load_network(with_teeth(teeth, tmp_path / "bank.safetensors"), TEETH)
    assert found is not None
    assert all(torch.equal(found.state_dict()[name], part) for name, part in teeth.state_dict().items())
    assert load_network(with_teeth(None, tmp_path / "plain.safetensors"), TEETH) is None
    foreign = with_teeth(Teeth(TeethConfig((8, 12), 5)), tmp_path / "foreign.safetensors")
    with pytest.raises(EDTalkError, match="The network 'teeth' in the bank 'starter' is not usable"):
        load_network(foreign, TEETH)
