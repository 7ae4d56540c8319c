"""The evaluation's figures where they are known: for true frames, for copies of the portrait, for known errors."""

from __future__ import annotations

import ctypes.util
import json
import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("moderngl", reason="moderngl draws the heads")

from inference.contract.bank import STARTER
from training.__main__ import main as command
from training.evaluate import (
    figures,
    measure,
    motion,
    people,
    pictures,
    recognition,
    report,
    voices,
)
from training.evaluate.puppet import (
    BankPuppet,
    appearing_at,
    resized,
)
from training.heads import (
    mesh,
    render,
)
from training.units import (
    EMOTIONS,
    LIP,
    NAMES,
    POSE,
)

pytestmark = pytest.mark.slow

SIZE, PERSONS = 64, (people.FIRST, people.FIRST + 1)


# -------------------------------------------------------------------------------------------- pixels and points


@pytest.fixture
def textures() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([cv2.GaussianBlur(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8), (0, 0), 2) for _ in range(2)])


def test_psnr_and_ssim_of_equal_pictures_and_of_a_known_error(textures) -> None:
    boxes = np.array([[8, 8, 40, 50], [0, 0, 64, 64]])
    assert np.isinf(pictures.psnr(textures, textures, boxes)).all()
    np.testing.assert_allclose(pictures.ssim(textures, textures, boxes), 1.0)
    brighter = np.clip(textures.astype(int) + 10, 0, 255).astype(np.uint8)
    np.testing.assert_allclose(pictures.psnr(brighter, textures, boxes), 20 * math.log10(25.5), atol=0.02)
    assert (pictures.ssim(np.zeros_like(textures), textures, boxes) < 0.2).all()
    outside = textures.copy()
    outside[0, :8] = 0
    assert np.isinf(pictures.psnr(outside, textures, boxes)[0])


def test_the_face_box_surrounds_the_points() -> None:
    points = np.array([[[-0.5, -0.25], [0.5, 0.75]]])
    assert pictures.face_boxes(points, 64).tolist() == [[16, 24, 48, 56]]


def test_background_change_ignores_the_person(textures) -> None:
    portrait, mask = textures[0], np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    masks = np.stack([np.roll(mask, 4, 1)] * 2)
    person = portrait.copy()
    person[16:48, 16:52] = 0
    far = person.copy()
    far[:4] = np.where(portrait[:4] > 127, portrait[:4] - 64, portrait[:4] + 64)
    inside, outside = pictures.background_change(np.stack([person, far]), portrait, masks, mask)
    assert inside == 0
    free = cv2.dilate(np.maximum(mask, masks[0]), np.ones((3, 3), np.uint8)) == 0
    assert outside == pytest.approx(64 * 4 * 64 / free.sum())
    assert np.isnan(pictures.background_change(portrait[None], portrait, masks[:1], np.full_like(mask, 255)))


def test_drift_measures_a_shift_of_the_picture(textures) -> None:
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (2, 50, 2)).astype(np.float32)
    visible = np.ones((2, 50), bool)
    assert pictures.drift(textures, textures, points, visible).max() < 0.01
    shifted = np.roll(textures, 2, 2)
    np.testing.assert_allclose(pictures.drift(shifted, textures, points, visible), 2 * 2 / 64, atol=0.01)


@pytest.mark.parametrize("size", [64, 256])
def test_points_are_found_by_inverting_the_flow(size: int) -> None:
    """A flow that rotates, scales and shifts the source is inverted exactly."""
    angle, scale, shift = 0.3, 1.15, torch.tensor([0.12, -0.08])
    turn = scale * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    line = (torch.arange(size) * 2 + 1) / size - 1
    places = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    grid = (places @ turn.T + shift).permute(2, 0, 1)[None]
    appears = torch.rand(1, 200, 2) * 1.2 - 0.6
    found = appearing_at(grid, appears @ turn.T + shift)
    torch.testing.assert_close(found, appears, atol=1e-3, rtol=0)


def test_point_errors_are_shares_of_the_eye_distance() -> None:
    count = people.FACE.stop
    truth = np.random.default_rng(0).uniform(-0.5, 0.5, (3, count, 2))
    visible = np.ones((3, count), bool)
    assert all((error == 0).all() for error in motion.point_errors(truth, truth, visible).values())
    pixel = 2 / 256
    for error in motion.point_errors(truth + np.array([pixel, 0]), truth, visible).values():
        np.testing.assert_allclose(error, pixel / people.EYE_DISTANCE)
    wrong = truth.copy()
    wrong[:, people.GROUPS["mouth"]] += 1
    visible[:, people.GROUPS["mouth"]] = False
    errors = motion.point_errors(wrong, truth, visible)
    assert errors["face"].max() == errors["mouth"].max() == 0


def test_head_movement_is_fitted() -> None:
    rng = np.random.default_rng(0)
    space = rng.normal(0, 0.2, (100, 3))
    start, everywhere = space[:, :2], np.ones(100, bool)
    turn = 1.1 * np.array([[math.cos(0.2), -math.sin(0.2)], [math.sin(0.2), math.cos(0.2)]])
    shift = start @ turn.T + [0.1, 0.05] - start
    np.testing.assert_allclose(motion.similarity_part(start, shift, everywhere), shift, atol=1e-9)
    jaw = np.arange(100) < 20
    moved = shift + jaw[:, None] * [0, 0.1]
    np.testing.assert_allclose(moved - motion.similarity_part(start, moved, ~jaw), jaw[:, None] * [0, 0.1], atol=1e-9)
    turned = space @ render.rotation(0.4, -0.2, 0.1).T
    solid = turned[:, :2] - start
    np.testing.assert_allclose(motion.camera_part(space, solid, everywhere), solid, atol=1e-9)
    assert np.abs(motion.similarity_part(start, solid, everywhere) - solid).max() > 0.02


def test_disentanglement_adds_up_by_bank() -> None:
    units = [
        motion.UnitMotion("jawOpen", 0.3, 0.01, 1, 0),
        motion.UnitMotion("mouthPress", 0.1, 0.03, 1, 0),
        motion.UnitMotion("headYaw", 1, 0, 1, 0),
    ]
    assert motion.disentanglement(units, "lip") == pytest.approx(10)
    assert motion.disentanglement(units, "pose") == math.inf
    assert math.isnan(motion.disentanglement(units, "exp"))


def test_correlation_by_column() -> None:
    truth = np.random.default_rng(0).normal(size=(50, 4))
    truth[:, 3] = 0
    read = np.stack([3 * truth[:, 0] + 1, -truth[:, 1], np.ones(50), truth[:, 0]], 1)
    np.testing.assert_allclose(recognition.correlations(read, truth), [1, -1, 0, np.nan])


def test_likeness_is_relative_to_other_people() -> None:
    portraits = np.eye(3)
    same = np.repeat(portraits[:, None], 2, 1)
    assert recognition.relative_distance(portraits, same) == 0
    exchanged = np.roll(same, 1, 0)
    assert recognition.relative_distance(portraits, exchanged, same) == 1


# ------------------------------------------------------------------------------------ puppets with known figures


class Perfect:
    """Returns the true frames of PERSONS."""

    def __init__(self) -> None:
        self.known: dict[bytes, int] = {}
        self.doing: dict[bytes, np.ndarray] = {}
        for person in PERSONS:
            rows = np.concatenate([np.zeros((1, len(NAMES)), np.float32), people.evaluation_rows(person)])
            for image, row in zip(people.render_person(person, rows, SIZE).images, rows, strict=True):
                self.known[image.tobytes()], self.doing[image.tobytes()] = person, row

    def show(self, portrait: np.ndarray) -> None:
        self.person, self.portrait = self.known[portrait.tobytes()], portrait

    def own(self) -> np.ndarray:
        return self.doing[self.portrait.tobytes()]

    def pictures(self, rows: np.ndarray) -> np.ndarray:
        return people.render_person(self.person, rows, SIZE).images

    def moved(self, rows: np.ndarray, points: np.ndarray) -> np.ndarray:
        return people.render_person(self.person, rows, SIZE).points

    def read(self, frames: np.ndarray) -> np.ndarray:
        return np.stack([self.doing[frame.tobytes()] for frame in frames])


class Copy(Perfect):
    """Returns copies of the portrait."""

    def show(self, portrait: np.ndarray) -> None:
        self.portrait = portrait

    def pictures(self, rows: np.ndarray) -> np.ndarray:
        return np.repeat(self.portrait[None], len(rows), 0)

    def moved(self, rows: np.ndarray, points: np.ndarray) -> np.ndarray:
        return np.repeat(points[None], len(rows), 0)


class Entangled(Perfect):
    """Every coefficient also moves the whole face a little, in a non-rigid way."""

    def moved(self, rows: np.ndarray, points: np.ndarray) -> np.ndarray:
        wobble = np.sin(40 * points)[None] * 0.02 * np.abs(rows).sum(1)[:, None, None]
        return super().moved(rows, points) + wobble


@pytest.fixture(scope="module")
def heads() -> Iterator[None]:
    """Skips the test if heads cannot be rendered; caches what was rendered."""
    try:
        mesh.data_folder()
        render.renderer(SIZE)
    except Exception as failure:  # moderngl raises bare exceptions where EGL is absent
        pytest.skip(f"heads cannot be rendered: {failure}")
    render_person, rendered = people.render_person, {}

    def cached(person: int, rows: np.ndarray, size: int) -> people.PersonFrames:
        key = person, np.asarray(rows, np.float32).tobytes(), size
        if key not in rendered:
            rendered[key] = render_person(person, rows, size)
        return rendered[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(people, "render_person", cached)
        yield


@pytest.fixture(scope="module")
def classifiers(heads) -> recognition.Classifiers:
    return recognition.train_classifiers(6, 1)


@pytest.fixture(scope="module")
def perfect(heads) -> Perfect:
    return Perfect()


def by_key(lines: list[report.Figure]) -> dict[str, report.Figure]:
    return {line.key: line for line in lines}


def test_true_frames_meet_every_target(perfect, classifiers) -> None:
    measured = measure.measure_people(perfect, PERSONS, SIZE, classifiers)
    table = by_key(
        [*figures.people_figures(measured), *figures.reading_figures(measured)[0], *figures.person_figures(measured)]
    )
    for case in ("", "rest_", "led_"):
        assert table[f"{case}psnr"].value == math.inf
        assert table[f"{case}points_face"].value == 0
    assert table["ssim"].value == pytest.approx(1)
    assert table["points_face"].value == table["points_mouth"].value == 0
    assert table["points_face"].copy > 0.05
    assert table["background"].value < 0.5  # rounding at the person's outline
    for bank in ("lip", "pose", "exp"):
        assert table[f"read_{bank}"].value == pytest.approx(1)
        assert table[f"rest_read_{bank}"].value == pytest.approx(1)
    assert table["read"].value == table["rest_read"].value == pytest.approx(1)
    assert table["identity"].value == pytest.approx(table["identity"].truth)
    assert table["emotions"].value == table["emotions"].truth
    assert table["emotions"].value > 0.8
    assert all(line.met for line in table.values() if line.target is not None and "gain" not in line.key)
    assert [len(row) for row in measured.sheet] == [9, 9]


def test_copies_have_the_figures_of_the_baseline(heads, classifiers) -> None:
    measured = measure.measure_people(Copy(), PERSONS, SIZE, classifiers)
    for name in ("psnr", "ssim", "drift", "points_mouth", "points_face"):
        np.testing.assert_array_equal(measured.scores[name], measured.scores[f"{name}_copy"])
    table = by_key([*figures.people_figures(measured), *figures.person_figures(measured)])
    assert table["psnr_gain"].value == 0
    assert table["background"].value == 0
    assert table["identity"].value < 0.01  # its points are aligned by the visible points of the truth
    assert table["emotions"].value == pytest.approx(1 / len(EMOTIONS))


def test_disentanglement_detects_entangled_units(perfect) -> None:
    made, true = motion.single_unit_motions(perfect, PERSONS[:1], SIZE)
    assert made == true
    assert {one.bank for one in made} == {"lip", "pose", "exp"}
    assert all(one.share == pytest.approx(1) for one in made)
    for bank in ("lip", "pose", "exp"):
        assert motion.disentanglement(made, bank) > 20
    entangled, _ = motion.single_unit_motions(Entangled(), PERSONS[:1], SIZE)
    for bank in ("lip", "exp"):
        assert motion.disentanglement(entangled, bank) < 0.2 * motion.disentanglement(made, bank)
    still, _ = motion.single_unit_motions(Copy(), PERSONS[:1], SIZE)
    assert all(one.own == one.rest == one.share == 0 for one in still)


def test_test_people_are_reproducible_and_have_pose_sweeps(heads) -> None:
    rows = people.evaluation_rows(people.FIRST + 4)
    np.testing.assert_array_equal(rows, people.evaluation_rows(people.FIRST + 4))
    assert rows.shape == (1 + people.DRIVEN + 2, len(NAMES))
    assert (np.count_nonzero(rows[-2:], axis=1) == 1).all()
    swept = {(*np.flatnonzero(row), row.sum() > 0) for n in range(6) for row in people.evaluation_rows(n)[-2:]}
    assert len(swept) == 2 * len(POSE)


def test_a_bank_returns_frames_of_the_given_size_and_points_that_follow_its_flow(heads, starter_bank) -> None:
    puppet = BankPuppet(starter_bank, 96)
    shots = people.render_person(people.FIRST, np.zeros((1, len(NAMES)), np.float32), 96)
    puppet.show(shots.images[0])
    rows = np.zeros((2, len(NAMES)), np.float32)
    rows[1, NAMES.index("headShiftX")] = 1
    assert puppet.pictures(rows).shape == (2, 96, 96, 3)
    moved = puppet.moved(rows, shots.points[0])
    shift = (moved[1] - moved[0])[shots.visible[0]].mean(0)
    assert shift[0] == pytest.approx(2 * render.SHIFT, rel=0.25)
    assert abs(shift[1]) < 0.03
    assert puppet.read(shots.images).shape == (1, len(NAMES))
    with_detail = BankPuppet(starter_bank, 192, detail=True)
    with_detail.show(resized(shots.images[0], 192))
    assert with_detail.pictures(rows).shape == (2, 192, 192, 3)


# ------------------------------------------------------------------------------------------------------- voices


def test_lip_opening_follows_the_units(heads) -> None:
    rows = np.zeros((4, len(LIP)), np.float32)
    jaw, close = NAMES.index("jawOpen"), NAMES.index("mouthClose")
    rows[1, jaw], rows[2, jaw] = 0.1, 1
    rows[3, [jaw, close]] = 0.5
    gap, moved = voices.mouth(rows)
    assert gap[0] == moved[0] == 0
    assert 0 < gap[1] < gap[2]
    assert gap[2] > 0.3
    assert gap[3] < voices.CLOSED < gap[2] / 2
    assert moved[2] > moved[1] > 0


def test_closures_and_rest_are_counted_frame_by_frame() -> None:
    gap = np.full(50, 0.2)
    gap[10:12] = 0.0
    closures = [(0.4, 0.44), (1.0, 1.06), (9.0, 9.1)]  # the last one after the end
    assert voices.closure_rate(gap, closures) == 0.5
    assert math.isnan(voices.closure_rate(gap, []))
    gap[25:] = 0.0
    still = np.zeros(50)
    assert voices.rest_rate(gap, still, [(1.0, 2.0)]) == 1
    still[35:] = 1
    assert 0.2 < voices.rest_rate(gap, still, [(1.0, 2.0)]) < 0.8
    assert math.isnan(voices.rest_rate(gap, still, [(0.0, 0.1)]))


@pytest.mark.parametrize("late", [-2, 0, 3])
def test_agreement_finds_the_lag(late: int) -> None:
    envelope = np.abs(np.random.default_rng(0).normal(size=200))
    r, lag = voices.agreement(np.roll(envelope, late), envelope)
    assert (round(r, 6), lag) == (1, late)
    assert voices.agreement(np.zeros(200), envelope) == (0, 0)


def test_silence_is_found_by_level() -> None:
    rng = np.random.default_rng(0)
    samples = (0.3 * rng.normal(size=3 * voices.RATE)).astype(np.float32)
    samples[voices.RATE : 2 * voices.RATE] *= 1e-3
    ((start, end),) = voices.level_silences(samples)
    assert (start, end) == (pytest.approx(1, abs=0.03), pytest.approx(2, abs=0.03))


@pytest.mark.skipif(not ctypes.util.find_library("espeak-ng"), reason="espeak-ng is not installed")
def test_true_curves_close_the_lips_and_rest_in_silence(heads) -> None:
    spoken = [
        voices.MouthMotion(heard, *voices.mouth(heard.truth), *voices.mouth(heard.truth))
        for heard in voices.synthetic(6)  # some are rooms without speech
    ]
    assert sum(len(one.heard.closures) for one in spoken) > 10
    assert any(one.heard.silences for one in spoken)
    closed, rest = voices.rates(spoken)
    assert closed > 0.85
    assert rest == 1


def test_real_voices_are_aligned_by_installed_packages(media: Path) -> None:
    heard = voices.real(media / "mouth_source.wav")
    seconds = len(heard.samples) / voices.RATE
    assert all(0 <= start < end <= seconds + 0.1 for start, end in [*heard.closures, *heard.silences])
    assert ("not installed" in heard.how) or heard.closures


# ------------------------------------------------------------------------------------------------------- report


def test_the_table_shows_met_missed_and_missing_targets(tmp_path: Path) -> None:
    lines = [
        report.Figure("a", "higher is better", 27.0, "dB", 18.0, math.inf, 26.0),
        report.Figure("b", "lower is better", 0.05, "%", 0.3, 0.0, 0.04, at_most=True),
        report.Figure("c", "not there", math.nan, "%", None, None, 0.8),
        report.Figure("d", "to know", 3.0, "levels"),
    ]
    assert [line.met for line in lines] == [True, False, None, None]
    _, _, *rows = report.table(lines).splitlines()
    assert rows[0] == "| higher is better | 27.00 dB | 18.00 dB | infinite | >= 26.00 dB | yes |"
    assert rows[1] == "| lower is better | 5.0 % | 30.0 % | 0.0 % | <= 4.0 % | **no** |"
    assert rows[2].endswith("| - | - | - | >= 80.0 % | not measured |")
    assert rows[3].endswith("|  |  |")
    report.save_json(lines, {"more": np.array([1.0, np.nan])}, tmp_path / "figures.json")
    found = json.loads((tmp_path / "figures.json").read_text(), parse_constant=pytest.fail)
    assert (found["a"]["value"], found["a"]["truth"], found["b"]["met"]) == (27.0, None, False)
    assert found["more"] == [1.0, None]


def test_training_logs_are_read_and_plotted(tmp_path: Path) -> None:
    log = tmp_path / "run.jsonl"
    lines = [json.dumps({"minutes": m, "step": m, "psnr": 20 + m, "psnr_copy": 18}) for m in range(3)]
    log.write_text("\n".join([*lines, '{"minutes": 3, "ps']))
    read = report.read_log(log)
    assert len(read) == 3
    assert report.plot_curves({"run": read}, tmp_path / "curve.png") == ["psnr"]
    assert (tmp_path / "curve.png").exists() == report.can_plot()
    (sentence,) = report.last_third("run", [*read, {"minutes": 3, "psnr": 23.5}])
    assert "23.50 after 3 minutes" in sentence
    assert "+1.50 in the last third" in sentence
    assert report.last_third("run", read[:1]) == []


def test_sheets_contain_every_picture(tmp_path: Path) -> None:
    red = np.full((32, 32, 3), (255, 0, 0), np.uint8)
    report.save_sheet([[red, red, red], [red]], tmp_path / "sheet.jpg")
    sheet = cv2.imread(str(tmp_path / "sheet.jpg"))
    assert sheet.shape == (64, 96, 3)
    assert sheet[48, 16].argmax() == 2
    assert sheet[48, 80].min() > 250


def test_the_whole_report(heads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SPEED_SECONDS", 0.1)
    bank = STARTER
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    options = ["--quick", "--identities", "2", "--size", "64", "--voices", str(nothing), "--photographs", str(nothing)]
    command(["evaluate", str(bank), "--out", str(tmp_path / "out"), *options])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "PSNR, face region" in text
    assert "No recording of a voice was given" in text
    assert all(
        (tmp_path / "out" / name).exists() for name in ("figures.json", "people.jpg", "sweeps-1.jpg", "worst.jpg")
    )
    for name in text.split("](")[1:]:
        assert (tmp_path / "out" / name.split(")")[0]).exists()
