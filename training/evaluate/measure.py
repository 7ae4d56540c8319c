"""Drives the portraits of test people with a puppet and compares the frames with the true ones; measures speed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from inference.contract.bank import Bank
from inference.renderer import FaceRenderer
from training.units import NAMES

from . import people
from .motion import point_errors
from .people import EYE_DISTANCE, PersonFrames
from .pictures import background_change, drift, face_boxes, psnr, ssim
from .puppet import Puppet
from .recognition import Classifiers

SHOWN = 10  # people in the contact sheet
WORST = 10  # frames with the lowest PSNR that are kept
SPEED_FRAMES, SPEED_SECONDS = 5, 8.0  # frames per run, and seconds for all runs
SWEPT = {  # coefficients of the sweep sheets, first and last value
    "headYaw": (-1.0, 1.0),
    "headPitch": (-1.0, 1.0),
    "headRoll": (-1.0, 1.0),
    "jawOpen": (0.0, 1.0),
    "mouthPucker": (0.0, 1.0),
    "eyeBlink": (0.0, 1.0),
    "mouthSmile": (0.0, 1.0),
    "browInnerUp": (0.0, 1.0),
}
SWEEP_STEPS = 7


@dataclass
class Measurements:
    """Measurements of I people with T driven frames each, and pictures.

    scores: (I, T) by name. Prefix "rest_": portrait exactly at rest; "led_": driven relative to the portrait. Suffix
        "_copy": copying the source instead of the result.
    driving: (I * T, 36) true coefficients.
    read: (I * T, 36) coefficients read from results, true frames and copies, "rest_" as above.
    embedded: identity embeddings of portraits (I, d), results and true frames (I, T, d).
    emotion_labels, recognised: (8 * I,) true and recognised emotions, the latter of results and true frames.
    """

    scores: dict[str, np.ndarray]
    driving: np.ndarray
    read: dict[str, np.ndarray]
    embedded: dict[str, np.ndarray]
    emotion_labels: np.ndarray
    recognised: dict[str, np.ndarray]
    sheet: list[list[np.ndarray]] = field(default_factory=list)  # portrait, then truth and result in turn
    emotions: list[list[np.ndarray]] = field(default_factory=list)  # truths above results
    worst: list[list[np.ndarray]] = field(default_factory=list)  # portrait, truth, result


def measure_people(
    puppet: Puppet,
    persons: Sequence[int],
    size: int,
    classifiers: Classifiers,
    sway: float = people.SWAY,
    progress: Callable[[int], None] = lambda done: None,
) -> Measurements:
    """Measure the puppet on every person: talking frames from a portrait and from rest, and emotions from rest.

    persons: numbers of test people. size: pixels of the frames. classifiers: recognise identity and emotion.
    sway: deviation of the pose coefficients. progress: called after each person with the number of people done.
    """
    found = _Collected()
    for number, person in enumerate(persons):
        shots = people.render_person(person, people.evaluation_rows(person, sway), size)
        portrait, truth = shots[:1], shots[1:]
        found.add_talk(puppet, classifiers, portrait, truth, shown=number < SHOWN)
        found.add_from_rest(puppet, classifiers, person, truth, shown=number < 2)
        progress(number + 1)
    return found.measurements()


@dataclass
class _Collected:
    """What is measured of the people so far, see `Measurements`."""

    scores: list[dict[str, np.ndarray]] = field(default_factory=list)
    driving: list[np.ndarray] = field(default_factory=list)
    read: defaultdict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    embedded: defaultdict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    labels: list[np.ndarray] = field(default_factory=list)
    recognised: defaultdict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    sheet: list[list[np.ndarray]] = field(default_factory=list)
    emotions: list[list[np.ndarray]] = field(default_factory=list)
    worst: list[tuple[float, list[np.ndarray]]] = field(default_factory=list)

    def add_talk(
        self, puppet: Puppet, classifiers: Classifiers, portrait: PersonFrames, truth: PersonFrames, *, shown: bool
    ) -> None:
        """Drive a portrait with a pose of its own through the true coefficients. shown: in the contact sheet."""
        puppet.show(portrait.images[0])
        result = puppet.pictures(truth.coefficients)
        positions = puppet.moved(truth.coefficients, portrait.points[0])
        scores = _scores(result, positions, portrait, truth)
        led = truth.coefficients + (puppet.own() - portrait.coefficients[0])
        from_there = _scores(puppet.pictures(led), puppet.moved(led, portrait.points[0]), portrait, truth)
        self.scores.append(scores | {f"led_{name}": values for name, values in from_there.items()})
        self.driving.append(truth.coefficients)
        own = puppet.read(portrait.images)
        self.read["result"].append(puppet.read(result))
        self.read["truth"].append(puppet.read(truth.images))
        self.read["copy"].append(own.repeat(len(result), 0))
        visible = portrait.visible & truth.visible
        self.embedded["portrait"].append(classifiers.embedding(portrait.images, portrait.points, portrait.visible))
        self.embedded["result"].append(classifiers.embedding(result, positions, visible))
        self.embedded["truth"].append(classifiers.embedding(truth.images, truth.points, visible))
        if shown:
            tiles = [tile for pair in zip(truth.images, result, strict=True) for tile in pair]
            self.sheet.append([portrait.images[0], *tiles[:6], *tiles[-2:]])
        for row, score in enumerate(scores["psnr"]):
            self.worst.append((float(score), [portrait.images[0], truth.images[row], result[row]]))
        self.worst = sorted(self.worst, key=lambda one: one[0])[:WORST]

    def add_from_rest(
        self, puppet: Puppet, classifiers: Classifiers, person: int, truth: PersonFrames, *, shown: bool
    ) -> None:
        """Drive a portrait exactly at rest, through the same coefficients and to emotions. shown: the emotions."""
        rows, labels = people.emotion_rows(person)
        draw = rows if shown else rows[:0]
        size = truth.images.shape[1]
        rest = people.render_person(person, np.concatenate([np.zeros_like(rows[:1]), draw]), size)
        puppet.show(rest.images[0])
        driven = puppet.pictures(truth.coefficients)
        from_rest = _scores(driven, puppet.moved(truth.coefficients, rest.points[0]), rest[:1], truth)
        self.scores[-1] |= {f"rest_{name}": values for name, values in from_rest.items()}
        self.read["rest_result"].append(puppet.read(driven))
        self.read["rest_truth"].append(puppet.read(truth.images))
        acted = people.render_person(person, rows, 64)
        positions = puppet.moved(rows, rest.points[0])
        self.recognised["truth"].append(classifiers.emotion(acted.points, rest.points[0]))
        self.recognised["result"].append(classifiers.emotion(positions, rest.points[0]))
        self.labels.append(labels)
        if shown:
            self.emotions += [list(rest.images), [rest.images[0], *puppet.pictures(rows)]]

    def measurements(self) -> Measurements:
        return Measurements(
            {name: np.stack([score[name] for score in self.scores]) for name in self.scores[0]},
            np.concatenate(self.driving),
            {name: np.concatenate(rows) for name, rows in self.read.items()},
            {
                name: np.concatenate(rows) if name == "portrait" else np.stack(rows)
                for name, rows in self.embedded.items()
            },
            np.concatenate(self.labels),
            {name: np.concatenate(rows) for name, rows in self.recognised.items()},
            self.sheet, self.emotions, [tiles for _, tiles in self.worst],
        )  # fmt: skip


def _scores(
    result: np.ndarray, positions: np.ndarray, portrait: PersonFrames, truth: PersonFrames
) -> dict[str, np.ndarray]:
    """(T,) scores by name. result: (T, S, S, 3) frames of a puppet; positions: (T, F, 2), their tracked points."""
    size = truth.images.shape[1]
    copy = np.broadcast_to(portrait.images, truth.images.shape)
    boxes = face_boxes(truth.points, size)
    visible = truth.visible & portrait.visible
    errors, still = (point_errors(points, truth.points, visible) for points in (positions, portrait.points))
    return {
        "psnr": psnr(result, truth.images, boxes),
        "psnr_copy": psnr(copy, truth.images, boxes),
        "ssim": ssim(result, truth.images, boxes),
        "ssim_copy": ssim(copy, truth.images, boxes),
        "drift": drift(result, truth.images, truth.points, visible) / EYE_DISTANCE,
        "drift_copy": drift(copy, truth.images, truth.points, visible) / EYE_DISTANCE,
        "background": background_change(result, portrait.images[0], truth.masks, portrait.masks[0]),
    } | {f"points_{name}": error for name, error in errors.items()} | {
        f"points_{name}_copy": error for name, error in still.items()
    }  # fmt: skip


def sweeps(puppet: Puppet, person: int, size: int) -> list[list[np.ndarray]]:
    """A row of true frames above a row of results for each coefficient of SWEPT, in seven steps."""
    rows = np.zeros((1 + len(SWEPT) * SWEEP_STEPS, len(NAMES)), np.float32)
    for number, (name, (first, last)) in enumerate(SWEPT.items()):
        part = slice(1 + number * SWEEP_STEPS, 1 + (number + 1) * SWEEP_STEPS)
        rows[part, NAMES.index(name)] = np.linspace(first, last, SWEEP_STEPS)
    shots = people.render_person(person, rows, size)
    puppet.show(shots.images[0])
    results = puppet.pictures(rows)
    return [
        list(pictures[1 + number * SWEEP_STEPS : 1 + (number + 1) * SWEEP_STEPS])
        for number in range(len(SWEPT))
        for pictures in (shots.images, results)
    ]


def frames_per_second(bank: Bank, threads: int = 2, detail: int | None = None) -> float:
    """Frames per second of `FaceRenderer.render` with coefficients that change every frame, best of many short runs.

    Other processes can only slow it down, hence the best run. NaN if even that run got less than one core, because two
    threads that wait for each other are much slower. detail: pixels with detail transfer; default without.
    """
    before = torch.get_num_threads()
    renderer = FaceRenderer(bank, "cpu", threads)
    rng = np.random.default_rng(0)
    side = detail or bank.config.size
    source = rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
    renderer.set_source(source, source if detail else None)
    rows = (bank.rest + rng.normal(0, 0.2, (SPEED_FRAMES, len(bank.names)))).astype(np.float32)
    runs: list[tuple[float, float]] = []
    began = time.perf_counter()
    while not runs or time.perf_counter() - began < SPEED_SECONDS:
        started, working = time.perf_counter(), time.process_time()
        for _picture in renderer.render(rows):
            pass
        runs.append((time.perf_counter() - started, time.process_time() - working))
    torch.set_num_threads(before)
    seconds, worked = min(runs)
    return SPEED_FRAMES / seconds if worked >= seconds else float("nan")
