"""What coefficients do is found out from pictures: motion that is put there by construction comes back by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from inference.contract import arkit
from inference.contract.answers import Answer, read_answer
from inference.contract.arkit import HEAD_AXES
from inference.contract.bank import STARTER, Coefficient, read_bank
from inference.contract.head import head_matrix, head_reason
from inference.contract.requests import Explore
from inference.explore import REGIONS, explore
from inference.face.crop import EYES
from inference.worker.jobs import Jobs
from inference.worker.queue import CancelledError
from tests.synthetic_inputs import picture

pytestmark = pytest.mark.slow

SIZE = 256
DISTANCE = float(np.hypot(*(EYES[1] - EYES[0])))
CENTRE = EYES.mean(0)
Y, X = (part - centre for part, centre in zip(np.mgrid[:SIZE, :SIZE], CENTRE[::-1], strict=True))
X, Y = X / DISTANCE, Y / DISTANCE  # of every pixel, in eye distances from between the eyes


def blob(x: float, y: float, wide: float, high: float) -> np.ndarray:
    return np.exp(-(((X - x) / wide) ** 2) - ((Y - y) / high) ** 2)


def flow(x: np.ndarray | float = 0.0, y: np.ndarray | float = 0.0) -> np.ndarray:
    return np.stack([np.broadcast_to(x, X.shape), np.broadcast_to(y, X.shape)], axis=-1)


def both(y: float, wide: float, high: float, x: float = 0.5) -> np.ndarray:
    return blob(-x, y, wide, high) + blob(x, y, wide, high)


CHIN, LIPS, LIDS = blob(0, 1.75, 0.6, 0.35), blob(0, 1.15, 0.5, 0.25), both(-0.1, 0.3, 0.12)
# Where pixels go, in eye distances, when a coefficient is 1; and what that is.
MOTIONS: dict[str, tuple[np.ndarray, str]] = {
    "jawOpen": (flow(y=0.3 * CHIN), "jaw"),
    "jawLeft": (flow(x=0.3 * CHIN), "jaw"),
    "mouthSmile": (flow(y=-0.2 * both(1.1, 0.2, 0.2, 0.45)), "mouth"),
    "mouthFrown": (flow(y=0.2 * both(1.1, 0.2, 0.2, 0.45)), "mouth"),
    "mouthStretch": (flow(x=0.2 * (blob(0.45, 1.12, 0.25, 0.2) - blob(-0.45, 1.12, 0.25, 0.2))), "mouth"),
    "mouthPucker": (flow(x=-0.2 * (blob(0.45, 1.12, 0.25, 0.2) - blob(-0.45, 1.12, 0.25, 0.2))), "mouth"),
    "mouthLeft": (flow(x=0.2 * LIPS), "mouth"),
    "mouthRight": (flow(x=-0.2 * LIPS), "mouth"),
    "eyeBlink": (flow(y=0.15 * LIDS), "eyes"),
    "eyeBlinkLeft": (flow(y=0.15 * blob(0.5, -0.1, 0.3, 0.12)), "eyes"),
    "eyeWide": (flow(y=-0.15 * LIDS), "eyes"),
    "browUp": (flow(y=-0.2 * both(-0.48, 0.55, 0.18)), "brows"),
    "browDown": (flow(y=0.2 * both(-0.48, 0.55, 0.18)), "brows"),
    "browInnerUp": (flow(y=-0.2 * blob(0, -0.48, 0.35, 0.18)), "brows"),
    "headYaw": (flow(x=0.35 * np.sqrt(np.clip(1 - (X / 1.3) ** 2, 0, 1))), "head"),
    "headPitch": (flow(y=0.35 * np.sqrt(np.clip(1 - ((Y - 0.55) / 1.8) ** 2, 0, 1))), "head"),
    "headShiftX": (flow(x=0.3), "head"),
    "headShiftY": (flow(y=0.3), "head"),
    "headRoll": (flow(x=-0.2 * (Y - 0.55), y=0.2 * X), "head"),
    "headScale": (flow(x=0.15 * X, y=0.15 * (Y - 0.55)), "head"),
}


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """Texture everywhere, so that motion can be seen anywhere."""
    return cv2.GaussianBlur(picture("face", SIZE, SIZE), (0, 0), 1.0)


def drawing(face: np.ndarray, flows: list[np.ndarray], bend: Callable = lambda row: row) -> Callable:
    """Draws the face with every pixel moved by the sum of coefficients times their flows."""
    grid = np.stack([np.arange(SIZE)[None].repeat(SIZE, 0), np.arange(SIZE)[:, None].repeat(SIZE, 1)], -1)

    def draw(rows: np.ndarray):
        for row in rows:
            moved = DISTANCE * sum(value * part for value, part in zip(bend(row), flows, strict=True))
            source = grid - moved
            for _ in range(3):  # where the pixel came from that is here now
                there = cv2.remap(moved.astype(np.float32), source.astype(np.float32), None, cv2.INTER_LINEAR)
                source = grid - there
            yield cv2.remap(face, source.astype(np.float32), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)

    return draw


def look(face, *flows, rest=0.0, bend=lambda row: row, soft=5.0):
    """What `explore` makes of motions; every coefficient is called by its number."""
    names = [Coefficient(f"lip_{index + 1:02d}", "lip", rest, rest - soft, rest + soft) for index in range(len(flows))]
    return explore(drawing(face, list(flows), bend), np.full(len(flows), rest), names)


@pytest.mark.parametrize("name", MOTIONS)
def test_a_motion_is_located_and_named(face, name):
    moved, region = MOTIONS[name]
    (motion,) = look(face, moved)
    assert motion.region == region, motion.shares
    assert sum(motion.shares.values()) == pytest.approx(1, abs=1e-3)
    assert set(motion.shares) == set(REGIONS)
    assert motion.suggestion == name
    assert motion.name == "lip_01"


@pytest.mark.parametrize("name", ["headYaw", "headPitch", "headRoll", "jawOpen"])
def test_direction_and_arkit_weight_have_the_motions_sign(face, name):
    moved, _ = MOTIONS[name]
    forth, back = look(face, moved)[0], look(face, -moved)[0]
    if name == "headRoll":
        assert forth.arkit.keys() == back.arkit.keys() == {name}
        assert forth.arkit[name] == pytest.approx(1 / np.degrees(np.arctan(0.2)), rel=0.1)
        assert back.arkit[name] == pytest.approx(-forth.arkit[name], rel=0.1)
    elif name == "jawOpen":
        assert (back.suggestion, back.arkit) == ("jawClose", {})
        assert forth.direction[1] > 0 > back.direction[1]
        assert forth.arkit["jawOpen"] == forth.soft_max
    else:
        axis = 0 if name == "headYaw" else 1
        assert forth.direction[axis] > 0 > back.direction[axis]
        assert forth.arkit[name] > 0 > back.arkit[name]


@pytest.mark.parametrize("scale", [0.02, 0.3, 8.0, 60.0])
@pytest.mark.parametrize("name", ["jawOpen", "eyeBlink", "headYaw"])
def test_ranges_scale_with_the_coefficient(face, name, scale):
    """However much a coefficient does, its range is where the motion is a full one."""
    moved, region = MOTIONS[name]
    plain, scaled = look(face, moved)[0], look(face, moved * scale)[0]
    assert scaled.region == region
    if scale > 0.1:
        assert scaled.soft_max * scale == pytest.approx(plain.soft_max, rel=0.3)
    assert scaled.soft_min == -scaled.soft_max


def test_a_range_contains_rest_and_is_one_sided_for_one_sided_motion(face):
    moved, _ = MOTIONS["jawOpen"]
    assert look(face, moved, rest=2.0)[0].soft_min == pytest.approx(4 - look(face, moved, rest=2.0)[0].soft_max)
    (opening,) = look(face, moved, bend=lambda row: np.maximum(row, 0))
    assert opening.soft_min == 0 < opening.soft_max
    (closing,) = look(face, moved, bend=lambda row: np.minimum(row, 0))
    assert closing.soft_max == 0 > closing.soft_min
    assert closing.arkit == {}


def test_a_coefficient_without_motion_keeps_name_and_range(face):
    (motion,) = look(face, flow())
    assert (motion.region, motion.suggestion, motion.arkit) == ("none", "lip_01", {})
    assert (motion.soft_min, motion.soft_max) == (-5, 5)


def test_head_motion_is_not_mistaken_for_the_mouth(face):
    """With a little of everything on top, what is most of it names it."""
    head, jaw, lids = MOTIONS["headYaw"][0], MOTIONS["jawOpen"][0], MOTIONS["eyeBlink"][0]
    assert look(face, head + 0.3 * jaw + 0.2 * lids)[0].region == "head"
    assert look(face, jaw + 0.15 * head)[0].region == "jaw"
    assert look(face, lids + 0.05 * head)[0].region == "eyes"


def test_suggested_names_are_unique(face):
    jaw, head = MOTIONS["jawOpen"][0], MOTIONS["headYaw"][0]
    found = look(face, jaw + 0.15 * head, jaw, jaw + 0.1 * head, head)
    names = [motion.suggestion for motion in found]
    assert sorted(names) == ["headYaw", "jawOpen", "jawOpen2", "jawOpen3"]
    assert names[1] == "jawOpen"
    assert [bool(motion.arkit) for motion in found] == [False, True, False, True]


def test_each_side_of_the_face(face):
    left, right = (look(face, flow(y=0.15 * blob(side * 0.5, -0.1, 0.3, 0.12)))[0] for side in (1, -1))
    assert left.asymmetry > 0.6 and left.suggestion == "eyeBlinkLeft"  # noqa: PT018
    assert right.asymmetry < -0.6 and right.suggestion == "eyeBlinkRight"  # noqa: PT018
    assert abs(look(face, MOTIONS["eyeBlink"][0])[0].asymmetry) < 0.2


@pytest.mark.parametrize("turn", [0.0, 12.0])
def test_the_face_may_be_anywhere_in_the_picture(face, turn):
    """The same motion about eyes that are nearer to each other, moved and turned."""
    matrix = cv2.getRotationMatrix2D(tuple(CENTRE), -turn, 0.8)
    matrix[:, 2] += (9, -6)
    eyes = EYES @ matrix[:, :2].T + matrix[:, 2]

    def draw(rows):
        for drawn in drawing(face, [MOTIONS["mouthSmile"][0]])(rows):
            yield cv2.warpAffine(drawn, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT)

    (motion,) = explore(draw, np.zeros(1), [Coefficient("exp_01", "exp")], eyes)
    assert (motion.region, motion.suggestion) == ("mouth", "mouthSmile")


@pytest.mark.parametrize("size", [64, 128, 512])
def test_pictures_of_any_size(face, size):
    def draw(rows):
        for drawn in drawing(face, [MOTIONS["jawOpen"][0]])(rows):
            yield cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA)

    (motion,) = explore(draw, np.zeros(1), [Coefficient("lip_01", "lip")])
    assert motion.region == "jaw"


def test_progress_is_reported_and_can_stop_it(face):
    calls = []
    names = [Coefficient(f"lip_{index}", "lip") for index in range(3)]
    flows = [MOTIONS[name][0] for name in ("jawOpen", "eyeBlink", "headYaw")]
    explore(drawing(face, flows), np.zeros(3), names, step=lambda *counts: calls.append(counts))
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]

    def stop(done, _total):
        if done:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        explore(drawing(face, flows), np.zeros(3), names, step=stop)


def test_arkit_names_are_arkits_own(face):
    for name, (moved, _region) in MOTIONS.items():
        (motion,) = look(face, moved)
        assert set(motion.arkit) <= set(arkit.NAMES)
        assert bool(motion.arkit) == bool(arkit.derived(name, "1 degrees"))


# --- Asked for by Blender


class Job:
    """A job of the worker that records its progress, and is cancelled after some steps."""

    def __init__(self, cancel_after: int = 1000) -> None:
        self.reports, self.left = [], cancel_after

    def send(self, answer: Answer) -> None:
        assert answer.kind == "accepted"

    def progress(self, phase: str, done: int, total: int) -> None:
        self.reports.append((phase, done, total))

    def steps_of(self, phase: str) -> Callable[[int, int], None]:
        def step(done: int, total: int) -> None:
            self.left -= 1
            if self.left < 0:
                raise CancelledError
            self.progress(phase, done, total)

        return step


@pytest.fixture
def request_of_face(material) -> Explore:
    return Explore(material.bank, material.source, "none")


def test_the_worker_measures_every_coefficient(material, request_of_face):
    job = Job()
    answer = Jobs("cpu", 1).do(request_of_face, job)
    motions, entries = answer.motions, read_bank(material.bank).coefficients
    assert [motion.name for motion in motions] == [entry.name for entry in entries]
    assert len({motion.suggestion for motion in motions}) == len(entries)
    assert all(motion.soft_min <= motion.soft_max for motion in motions)
    assert job.reports[-1] == ("exploring", 36, 36)
    assert read_answer(answer.to_message(1), request_of_face).motions[0].name == entries[0].name


def test_the_worker_can_be_cancelled_between_coefficients(request_of_face):
    with pytest.raises(CancelledError):
        Jobs("cpu", 1).do(request_of_face, Job(cancel_after=2))


# --- The head of a bank whose coefficients mix several motions

HEAD_MOVES = {  # what the head motions of MOTIONS are in the units of `contract.head`
    "headYaw": np.degrees(0.35 / 1.5),
    "headPitch": np.degrees(0.35 / 1.5),
    "headRoll": np.degrees(0.2),
    "headShiftX": 0.3 * DISTANCE / SIZE,
    "headShiftY": 0.3 * DISTANCE / SIZE,
    "headScale": 0.15,
}


def bank_of(motions, soft=5.0):
    """A bank whose coefficients move the head as measured."""
    entries = tuple(
        Coefficient(f"pose_{number}", "pose", 0.0, -soft, soft, moves=motion.moves)
        for number, motion in enumerate(motions)
    )
    return replace(read_bank(STARTER), name="mixed", coefficients=entries)


@pytest.mark.parametrize("name", HEAD_MOVES)
def test_head_motion_is_measured_along_its_axis(face, name):
    (motion,) = look(face, MOTIONS[name][0])
    usual = dict(zip(HEAD_AXES, (4.0, 2.5, 2.5, 0.02, 0.02, 0.02), strict=True))
    for axis, size in usual.items():
        expected = HEAD_MOVES[name] if axis == name else 0.0
        assert motion.moves[axis] / size == pytest.approx(expected / size, abs=0.12 * HEAD_MOVES[name] / usual[name])


def test_coefficients_that_mix_head_motions_are_unmixed(face):
    """Six coefficients, each a mixture of all head motions: the map gives each motion alone."""
    mixing = np.linalg.qr(np.random.default_rng(4).normal(size=(6, 6)))[0]
    flows = np.array([MOTIONS[name][0] for name in HEAD_AXES])
    mixed = np.tensordot(mixing, flows, 1)
    bank = bank_of(look(face, *mixed))
    names, matrix = head_matrix(bank)
    assert len(names) == 6
    assert head_reason(bank) == ""
    for axis, name in enumerate(HEAD_AXES):
        physical = np.zeros(6)
        physical[axis] = HEAD_MOVES[name]
        drawn = np.tensordot(matrix @ physical, mixed, 1)
        assert np.linalg.norm(drawn - flows[axis]) < 0.3 * np.linalg.norm(flows[axis]), name


def test_coefficients_that_move_the_head_alike_are_refused(face):
    names = ("headYaw", "headPitch", "headRoll", "headShiftX", "headShiftY")
    flows = [MOTIONS[name][0] for name in names]
    assert head_reason(bank_of(look(face, *flows))) == "", "five axes are enough without the scale"
    alike = bank_of(look(face, *flows, flows[0] + 0.05 * flows[1]))
    assert head_matrix(alike)[0] == ()
    assert "too similarly" in head_reason(alike)
    assert "do not turn the head in headRoll" in head_reason(bank_of(look(face, *flows[:2])))
