"""Dubbing from reference frames: readings of a plate, and mouths drawn from other frames of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference import mouth as mouth_module
from inference.contract.coefficients import Coefficients
from inference.contract.demo import PORTRAIT
from inference.contract.errors import EDTalkError
from inference.contract.plate import Plate, Track, media_sha256
from inference.contract.references import Readings, References
from inference.contract.shot import Shot
from inference.drawing import ShotRenderer
from inference.face.framing import load_portrait
from inference.mouth import _beside, _hair, find_outlines, find_points
from inference.plate_reading import can_read, read_plate
from tests.cli_material import Material, render, run, write_wav

SIDE, LEFT, TOP = 256, 60, 20  # pixels: the face's square and its place in a frame
HEIGHT, WIDTH = 300, 400
JAWS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.45, 0.3, 0.15, 0.0, 0.0, 0.0)  # readings are smoothed over five frames
LAST = len(JAWS) - 1


@pytest.fixture(scope="module")
def shots() -> ShotRenderer:
    return ShotRenderer("cpu")


@pytest.fixture(scope="module")
def loaded(shots):
    return shots.bank("")


@pytest.fixture(scope="module")
def film(loaded, tmp_path_factory) -> Path:
    """A folder of images in which the demo portrait opens its mouth and closes it."""
    folder = tmp_path_factory.mktemp("plate")
    renderer = loaded.renderer.another()
    face = load_portrait(PORTRAIT, SIDE)
    renderer.set_source(face, face)
    rows = renderer.moved({"jawOpen": np.array(JAWS), "headYaw": np.linspace(-0.05, 0.05, len(JAWS))})
    surroundings = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    for number, picture in enumerate(renderer.render(rows)):
        surroundings[TOP : TOP + SIDE, LEFT : LEFT + SIDE] = picture
        Image.fromarray(surroundings).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def track() -> Track:
    return Track(np.arange(len(JAWS)), np.tile([LEFT, TOP, SIDE, 0.0], (len(JAWS), 1)))


@pytest.fixture(scope="module")
def readings(loaded, film, track) -> Readings:
    return read_plate(loaded.renderer, film, track)


@pytest.fixture
def shot(loaded, film, track, readings, tmp_path):
    """Makes shots that show the frames of the film with the mouth of the rows, by default their own mouth."""
    bank = loaded.bank

    def make(rows: np.ndarray | None = None, chosen=(), shown: np.ndarray | None = None, **changes) -> Shot:
        lips = np.isin(bank.names, bank.names_of("lip"))
        rows = np.where(lips, readings.rows, 0) if rows is None else rows
        references = References.of(bank, track, readings, track.times, chosen=chosen, shown=shown)
        given = {"bank": bank.path, "bank_sha256": bank.sha256, "portrait": None, "crop": "auto",
                 "coefficients": Coefficients(rows, bank.names, 25), "frames_folder": tmp_path / "frames",
                 "layer": "pasted", "mask": "mouth", "references": references,
                 "plate": Plate.of(film, media_sha256(film), track, track.times)}  # fmt: skip
        return Shot(**(given | changes))

    return make


def frames(film: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(film / f"{number}.png")) for number in range(len(JAWS))]


def mouth(picture: np.ndarray) -> np.ndarray:
    return picture[TOP + 150 : TOP + 230, LEFT + 80 : LEFT + 180].astype(np.float32)


def test_readings_follow_the_jaw(loaded, readings):
    jaw = readings.rows[:, loaded.bank.names.index("jawOpen")]
    assert np.corrcoef(jaw, JAWS)[0, 1] > 0.95
    assert abs(jaw[LAST]) < 0.05, "closed"
    assert readings.seen.all()
    assert (readings.looks[:, 0] > 0).all()


def test_frames_without_a_face_are_not_read(loaded, film, track, readings):
    crops = track.crops.copy()
    crops[[2, 3]] = np.nan
    steps = []
    found = read_plate(
        loaded.renderer, film, Track(track.times, crops), lambda done, total: steps.append((done, total))
    )
    assert np.flatnonzero(~found.seen).tolist() == [2, 3]
    total = 2 * (len(JAWS) - 2)  # every frame with a face is looked at, then compared
    assert steps == [(done, total) for done in range(total)]
    with pytest.raises(EDTalkError, match="No face was found"):
        read_plate(loaded.renderer, film, Track(track.times, np.full((len(JAWS), 4), np.nan)))


def test_a_clip_that_does_not_fit_into_memory_is_decoded_again(loaded, film, track, readings, monkeypatch):
    monkeypatch.setattr("inference.plate_reading.HELD_BYTES", 3 * 256 * 256 * 3)
    again = read_plate(loaded.renderer, film, track)
    np.testing.assert_array_equal(again.rows, readings.rows)


def test_a_bank_without_a_reader_is_refused(material: Material, shots, film, track):
    loaded = shots.bank(material.bank)
    assert not can_read(loaded.renderer)
    with pytest.raises(EDTalkError, match="no relative reader"):
        read_plate(loaded.renderer, film, track)


def test_a_mouth_from_other_frames_is_like_the_frames_own(shots, film, shot):
    """Frames 1 to 4, whose own mouth comes from frames that are not among them, are nearer than an unmoved mouth."""
    truth = frames(film)
    made = list(shots.draw(shot(chosen=[0, 5, 7]), range(LAST)))
    for number in (2, 3, 4):
        error, unmoved = (np.square(mouth(one) - mouth(truth[number])).mean() for one in (made[number], truth[0]))
        assert error < unmoved / 2.5, number  # 4 dB


def test_only_the_mouth_changes_in_every_layer(shots, film, shot):
    truth = frames(film)
    rows = np.zeros((len(JAWS), len(shot().coefficients.names)), np.float32)
    rows[:, 0] = 0.5
    (pasted,) = shots.draw(shot(rows), [0])
    (plate,) = shots.draw(shot(rows, layer="plate"), [0])
    (square,) = shots.draw(shot(rows, layer="square", size=SIDE), [0])
    (matte,) = shots.draw(shot(rows, layer="matte", size=SIDE), [0])
    outside = plate[..., 3] == 0
    np.testing.assert_array_equal(pasted[outside], truth[0][outside])
    assert np.abs(mouth(pasted) - mouth(truth[0])).mean() > 3, "the mouth opens"
    assert outside[: TOP + 125].all(), "the eyes"
    assert outside[:, : LEFT + 40].all(), "the surroundings"
    alpha = plate[..., 3:] / np.float32(255)
    np.testing.assert_allclose(plate[..., :3] * alpha + truth[0] * (1 - alpha), pasted, atol=1.5)
    inside = (slice(TOP, TOP + SIDE), slice(LEFT, LEFT + SIDE))
    np.testing.assert_allclose(square.astype(int), pasted[inside], atol=1)
    np.testing.assert_allclose(matte[..., 3].astype(int), plate[inside][..., 3], atol=1)


def test_the_mask_ends_at_the_jaw_line(loaded, shots, film, shot):
    """Beside the jaw and below the chin the frame stays; an opened jaw is within the mask."""
    face = np.ascontiguousarray(frames(film)[0][TOP : TOP + SIDE, LEFT : LEFT + SIDE])
    points = find_points(loaded.renderer, face)
    jaw = find_outlines(face, points).jaw
    eyes = np.linalg.norm(points.right - points.left)
    rows = np.zeros((len(JAWS), len(loaded.bank.names)), np.float32)
    opened = rows.copy()
    opened[:, loaded.bank.names.index("jawOpen")] = 0.6
    closed, wide = (next(shots.draw(shot(one, layer="plate"), [0]))[..., 3] for one in (rows, opened))

    def at(alpha: np.ndarray, place: np.ndarray) -> int:
        x, y = np.rint(place).astype(int)
        return int(alpha[TOP + y, LEFT + x])

    for place in jaw[3:-3]:
        outwards = (place - points.mouth) / np.linalg.norm(place - points.mouth)
        assert at(closed, place + 0.3 * eyes * outwards) == 0
    chin, down = jaw[len(jaw) // 2], np.array([0, eyes])
    assert at(closed, chin - 0.2 * down) > 200
    assert at(closed, chin + 0.2 * down) < 20
    assert at(wide, chin + 0.15 * down) > at(closed, chin + 0.15 * down) + 80


def test_the_mask_contains_the_lips_of_the_plate(loaded, shots, film, shot, monkeypatch):
    """A corner that a grimace lifts above the usual mask would stay beside the new mouth."""
    monkeypatch.setattr(mouth_module, "_ABOVE", 0.0)  # the usual mask begins at the middle of the mouth
    made = shot(np.zeros((len(JAWS), len(loaded.bank.names)), np.float32), layer="plate")
    for number in (0, 4):
        face = np.ascontiguousarray(frames(film)[number][TOP : TOP + SIDE, LEFT : LEFT + SIDE])
        lips = find_outlines(face, find_points(loaded.renderer, face)).lips
        alpha = next(shots.draw(made, [number]))[..., 3]
        x, y = np.rint(lips).astype(int).T
        assert alpha[TOP + y, LEFT + x].min() > 200
        left, top, right, bottom = x.min(), y.min(), x.max(), y.max()
        steps = np.abs(np.diff(alpha[TOP + top - 40 : TOP + bottom, LEFT + left : LEFT + right].astype(int), axis=0))
        assert steps.max() < 60, "a soft edge above them, too"


def test_the_plate_is_kept_where_hair_lies_beside_the_mouth():
    """Hair in the plate stays, that of a reference is not drawn, and an open mouth is no hair."""
    eyes, size = 80, 200
    places = np.stack(np.meshgrid(*[np.arange(size, dtype=np.float32)] * 2), -1)
    points = [np.array([60.0, 40.0]), np.array([140.0, 40.0]), np.array([100.0, 100.0])]
    beside, mask = _beside(points, places), np.ones((size, size), np.float32)
    skin = np.full((size, size, 3), 160, np.float32)
    hair, mouth = skin.copy(), skin.copy()
    hair[80:160, 160:180] = 40
    mouth[90:110, 80:120] = 20
    for old, new in ((skin, hair), (hair, skin)):
        kept = _hair(old, new, mask, beside, eyes)
        assert kept[90:150, 163:177].min() > 0.95
        assert np.abs(np.diff(kept)).max() < 0.2, "a soft edge"
        assert not kept[:, :130].any()
    for old, new in ((skin, mouth), (mouth, skin), (0.75 * skin, skin)):
        assert not _hair(old, new, mask, beside, eyes).any()


def test_a_picture_without_a_face_has_no_outlines(loaded):
    blank = np.full((SIDE, SIDE, 3), 128, np.uint8)
    outlines = find_outlines(blank, find_points(loaded.renderer, blank))
    assert outlines.jaw.shape == outlines.lips.shape == (0, 2)


def test_frames_do_not_depend_on_the_others(shots, shot):
    made = shot(chosen=[0, 4])
    whole = list(shots.draw(made, range(5)))
    for number in (3, 1):
        (alone,) = shots.draw(made, [number])
        np.testing.assert_array_equal(alone, whole[number])


def test_a_pause_keeps_the_plate(shots, film, shot):
    shown = np.ones(len(JAWS))
    shown[3], shown[4] = 0, 0.5
    truth, made = frames(film), list(shots.draw(shot(shown=shown, chosen=[0]), [3, 4]))
    np.testing.assert_array_equal(made[0], truth[3])
    assert np.abs(mouth(made[1]) - mouth(truth[4])).mean() < 12, "half way"


def test_a_wider_mouth_than_any_reference_is_drawn_by_the_network(shots, film, shot):
    """From closed mouths alone the jaw still opens."""
    rows = np.zeros((len(JAWS), len(shot().coefficients.names)), np.float32)
    rows[:, 0] = 0.7
    (made,) = shots.draw(shot(rows, chosen=[0, LAST]), [0])
    assert np.abs(mouth(made) - mouth(frames(film)[0])).mean() > 5


# ------------------------------------------------------------------------------------------------ the command line


@pytest.mark.slow
def test_the_command_line_dubs_from_references(film, material: Material, tmp_path, capfd):
    """By default only the mouth changes; a chosen reference and kept pauses give other pictures."""
    words = ["render", "--source", film, "--crop", f"{LEFT},{TOP},{SIDE}", "--audio", material.voice, "--paste-back",
             "--frames", "2-3", "--device", "cpu", "--out"]  # fmt: skip
    made = {}
    for name, options in {"auto": [], "one": ["--references", "0"], "none": ["--references", "none"]}.items():
        assert run(*words, tmp_path / name, *options) == 0, capfd.readouterr().err
        made[name] = [np.asarray(Image.open(path)) for path in sorted((tmp_path / name).glob("*.png"))]
    truth = frames(film)[2:4]
    for pictures in made.values():
        for picture, rgb in zip(pictures, truth, strict=True):
            assert np.array_equal(picture[: TOP + 100], rgb[: TOP + 100]), "the upper face"
    assert not np.array_equal(made["one"][0], made["none"][0])


@pytest.mark.slow
def test_references_may_be_later_than_the_sound_but_not_than_the_clip(film, tmp_path, capfd):
    """The sound ends at frame 4. A reference behind it is used itself, not the last frame that is shown."""
    sound, made = write_wav(tmp_path / "short.wav", np.zeros(3200)), {}
    words = ["render", "--source", film, "--crop", f"{LEFT},{TOP},{SIDE}", "--audio", sound, "--paste-back",
             "--frames", "0-0", "--device", "cpu"]  # fmt: skip
    for reference in (4, LAST):
        assert run(*words, "--references", reference, "--out", tmp_path / str(reference)) == 0, capfd.readouterr().err
        made[reference] = np.asarray(Image.open(*(tmp_path / str(reference)).glob("*.png")))
    assert not np.array_equal(made[4], made[LAST])
    assert run(*words, "--references", f"0,{LAST + 1}", "--out", tmp_path / "late") == 2
    assert f"{film} has no reference frame at {LAST + 1}: its last frame is at image {LAST}." in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--references", "soon"], "expected auto, none or up to"),
        (["--references", "-1"], "expected"),
        (["--references", "1"], "--references and --keep-pauses require a source clip"),
        (["--keep-pauses"], "--references and --keep-pauses require a source clip"),
    ],
)
def test_options_that_make_no_sense(material: Material, tmp_path, capfd, words, expected):
    assert run(*render(material, "--audio", material.voice, "--out", tmp_path / "out.mp4", *words)) == 2
    assert expected in capfd.readouterr().err
