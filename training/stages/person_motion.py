"""Give a bank the manner of a person who speaks in clips: how far, how often and when the head moves.

    python -m training audio2pose CLIP|FOLDER ... --bank B.safetensors --out B2.safetensors

The bank reads the head's pose in every clip (as in capture), and the sound is that of the clip. With ten minutes of
speech and a visible face, Audio2Pose is trained further from the weights of the bank, or of the starter bank. With one
to ten minutes, only the size of the motion in each band, the mean nod at strong accents and the mean delay are fitted.

A bank that does not say which sliders turn the head, such as one of the official weights, is trained for its own first
six pose coefficients; that takes ten minutes of footage.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.capture import capture
from inference.contract.arkit import HEAD_AXES
from inference.contract.bank import Bank, load_bank, save_bank
from inference.contract.errors import EDTalkError
from inference.contract.head import has_own_motion, head_matrix
from inference.media.clip import Clip
from inference.media.sound import load_speech
from inference.model.audio2pose import (
    BLOCK,
    POSE_FPS,
    PREFIX,
    Audio2Pose,
    from_bands,
    merge,
    to_bands,
)
from inference.model.load import networks_json
from inference.motion import at_times, draw_bands, flow_of, pose_features
from inference.prosody import prosody
from inference.renderer import FaceRenderer
from inference.speech_detection import has_speech

from ..export import in_half_precision
from .audio2pose_fit import BATCH, MIRROR, continued, fit

LEAST, ENOUGH = 60.0, 600.0  # seconds of footage: to fit moments, and to train
SHORTEST = 4.0  # seconds of a clip that counts
WINDOW = 4 * BLOCK  # rows of an example, 10 s
HELD_OUT = 0.15  # share of each clip, at its end, that is not trained on
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
DRAWS = 4  # motions of each clip with which the footage is compared
STRONG = 0.7  # strength of accents that count
LAGS = np.arange(-5, 6)  # rows, range of the delay: 0.4 s
LEAST_R = 0.1  # correlation of the pitch angle with the expected one, below which no delay is fitted
SMALLEST, LARGEST = 0.25, 4.0  # of fitted factors
FEWEST_ACCENTS = 10  # with fewer, nods are not fitted
NODS = (0.3, 3.0)  # range of the fitted factor of nods
PITCH = 1  # column of the motion


@dataclass(frozen=True, eq=False)
class Take:
    """A clip. motion: (T, 6) at 12.5 rows per second, its median 0. features: (17, T). accents: (n,) seconds of strong
    accents. T is a multiple of 32; rows from `count` on mirror the end."""

    motion: np.ndarray
    features: np.ndarray
    accents: np.ndarray
    count: int

    @property
    def seconds(self) -> float:
        return self.count / POSE_FPS


def adapt(args: argparse.Namespace) -> None:
    """Fit or train with the options of `stages.audio2pose`, and write the new bank. Raises EDTalkError."""
    if not args.bank:
        raise EDTalkError("Footage needs a bank that reads it.", "Add --bank BANK.", "input")
    bank = load_bank(args.bank)
    own = has_own_motion(bank) or not head_matrix(bank)[0]
    takes = [take for path in clips_in(args.clips) if (take := read_take(bank, path, own)) is not None]
    seconds = sum(take.seconds for take in takes)
    check_length(seconds, own)
    model = model_for(bank, own)
    if seconds < ENOUGH:
        factors = fit_moments(model, takes)
        print(f"{seconds / 60:.1f} min of footage: {factors}")
    else:
        out = argparse.Namespace(**vars(args) | {"out": args.out.with_suffix(".pt")})
        model = fit(out, model, lambda _renewed: Footage(takes, mirrored=not own), measured=False)
    write(bank, model, args.out)
    print(f"{args.out}: head motion from {seconds / 60:.1f} min of footage.")


def clips_in(places: Sequence[Path]) -> list[Path]:
    """The given files, and the videos in the given folders."""
    return [
        path
        for place in places
        for path in (sorted(place.iterdir()) if place.is_dir() else [place])
        if not place.is_dir() or path.suffix.lower() in VIDEOS
    ]


def check_length(seconds: float, own: bool) -> None:
    """Raise EDTalkError (kind "input") if there is too little footage. own: for a bank without named head sliders."""
    found = f"found {seconds:.0f} s"
    if seconds < LEAST:
        message = f"Head motion needs at least {LEAST:.0f} s of clips with a face and speech, {found}."
        raise EDTalkError(message, "Add more clips of the person.", "input")
    if own and seconds < ENOUGH:
        message = f"A bank that does not name its head sliders needs at least {ENOUGH:.0f} s of such clips, {found}."
        raise EDTalkError(message, "Add more clips, or name the sliders of the bank.", "input")


def read_take(bank: Bank, path: Path, own: bool) -> Take | None:
    """Read the pose and the prosody of a clip; None, with a message, if it has no speech or no face.

    own: the motion is in the units of the bank's first six pose coefficients, else in those of `contract.head`.
    """
    try:
        voice = prosody(load_speech(path)[0])
        if len(voice) < SHORTEST * 100 or not has_speech(voice):
            raise EDTalkError(f"no speech of at least {SHORTEST:g} s")
        captured = capture(FaceRenderer(bank, "cpu"), Clip(path, POSE_FPS), "auto")
    except EDTalkError as error:
        print(f"{path.name} was skipped: {error.message}", flush=True)
        return None
    first = bank.config.bank_slices["pose"].start
    columns = list(range(first, first + len(HEAD_AXES)))
    motion = captured.rows.values[:, columns]
    if not own:
        names, matrix = head_matrix(bank)
        motion = captured.rows.values[:, [bank.names.index(name) for name in names]] @ np.linalg.pinv(matrix).T
    begin, end = longest_seen(len(motion), captured.unseen)
    end = min(end, int(len(voice) / 100 * POSE_FPS))
    if end - begin < SHORTEST * POSE_FPS:
        print(f"{path.name} was skipped: no face is visible for {SHORTEST:g} s", flush=True)
        return None
    print(f"{path.name}: {(end - begin) / POSE_FPS:.1f} s", flush=True)
    strong = voice.accents[voice.accents[:, 1] > STRONG, 0] - begin / POSE_FPS
    rows = BLOCK * int(np.ceil(end / BLOCK))
    return take_of(motion[begin:end], pose_features(voice, rows)[:, begin:end], strong)


def take_of(motion: np.ndarray, features: np.ndarray, accents: np.ndarray) -> Take:
    """A take of motion (n, 6), prosody (17, n) and accents in seconds, lengthened to a multiple of 32 rows."""
    count = len(motion)
    spare = max(-count % BLOCK, WINDOW - count)
    motion = np.pad(motion - np.median(motion, axis=0), ((0, spare), (0, 0)), mode="symmetric").astype(np.float32)
    features = np.pad(features, ((0, 0), (0, spare)), mode="symmetric").astype(np.float32)
    return Take(motion, features, accents[(accents > 0.5) & (accents < count / POSE_FPS - 0.5)], count)


def longest_seen(count: int, unseen: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """First row, and row after the last, of the longest stretch between the ranges (first, last) of unseen rows."""
    edges = [-1, *(edge for pair in unseen for edge in pair), count]
    stretches = [(edges[k] + 1, edges[k + 1]) for k in range(0, len(edges), 2)]
    return max(stretches, key=lambda pair: pair[1] - pair[0])


def model_for(bank: Bank, own: bool) -> Audio2Pose:
    """The flow of the bank, or of the starter bank, with the parts that footage changes."""
    return continued(flow_of(bank), late=1, own=int(own))


@torch.no_grad()
def fit_moments(model: Audio2Pose, takes: Sequence[Take]) -> str:
    """Scale the model's bands to the deviations of the takes, then fit its nods and delay. Returns the factors.

    takes: in physical units.
    """
    assert model.mean is not None
    assert model.mean.lag is not None
    model.eval()
    lag = delay_of(model, takes)
    model.mean.lag += lag
    true = [to_bands(torch.from_numpy(take.motion.T)[None]) for take in takes]
    drawn_motions = [[torch.from_numpy(band)[None] for band in draw_bands(model, take.features, seed)]
            for take in takes for seed in range(DRAWS)]  # fmt: skip
    gains = (spread(true) / spread(drawn_motions).clamp(min=1e-9)).clamp(SMALLEST, LARGEST)  # (6, 6, 1)
    model.deviation *= gains
    model.mean.gain *= gains
    slower = [made_take[0] * gains[0] for made_take in drawn_motions]
    for number in range(1, len(gains)):
        scale = torch.cat([one.flatten(2) for one in slower], dim=-1).square().mean(dim=(0, 2)).sqrt()
        model.slow_deviation[number - 1] = scale.clamp(min=1e-9)[:, None]
        slower = [merge(one, bands[number] * gains[number]) for one, bands in zip(slower, drawn_motions, strict=True)]
    nods = nods_of(model, takes)
    model.mean.gain[:, PITCH] *= nods
    sizes = ", ".join(f"{value:.2f}" for value in gains[:, :3, 0].mean(dim=1).tolist())
    return f"motion of the bands x {sizes}; nods x {nods:.2f}; {1000 * lag:.0f} ms later"


def spread(bands: Sequence[Sequence[Tensor]]) -> Tensor:
    """(6, 6, 1) deviation of each band and column over several motions."""
    return torch.stack(
        [torch.cat(part, dim=-1).square().mean(dim=(0, 2)).sqrt()[:, None] for part in zip(*bands, strict=True)]
    )


def delay_of(model: Audio2Pose, takes: Sequence[Take]) -> float:
    """Seconds by which the heads' pitch is later than the expected one; 0 if they hardly correlate."""
    scores = np.zeros(len(LAGS))
    weights = np.zeros(2)
    for take in takes:
        expected, pitch = _faster(expected_of(model, take)[: take.count]), _faster(take.motion[: take.count, PITCH])
        inner = slice(LAGS[-1], len(pitch) - LAGS[-1])
        scores += [float(expected[inner] @ np.roll(pitch, -lag)[inner]) for lag in LAGS]
        weights += expected[inner] @ expected[inner], pitch[inner] @ pitch[inner]
    r = scores / max(float(np.sqrt(weights.prod())), 1e-9)
    best = int(r.argmax())
    if r[best] < LEAST_R:
        return 0.0
    shift = 0.0
    if 0 < best < len(r) - 1:
        bend = r[best - 1] - 2 * r[best] + r[best + 1]
        shift = 0.5 * (r[best - 1] - r[best + 1]) / bend if bend < 0 else 0.0
    return float(LAGS[best] + shift) / POSE_FPS


def nods_of(model: Audio2Pose, takes: Sequence[Take]) -> float:
    """The factor of the expected pitch with which the mean nod at strong accents is that of the takes."""
    target, flow, expected = [], [], []
    for take in takes:
        target.append(answers(take.motion[:, PITCH], take.accents))
        expected.append(answers(expected_of(model, take), take.accents))
        for seed in range(DRAWS):
            bands = [torch.from_numpy(band)[None] for band in draw_bands(model, take.features, seed)]
            flow.append(answers(from_bands(bands)[0, PITCH].numpy(), take.accents))
    person = np.concatenate(target)
    own, all_of_it = (float(np.concatenate(part).mean()) for part in (expected, flow))
    if len(person) < FEWEST_ACCENTS or not own > 1e-3:
        return 1.0
    difference = float(person.mean()) - all_of_it
    # A minute has about 25 strong accents, whose nods differ much: an uncertain difference counts less.
    certain = difference**2 / (difference**2 + person.var() / len(person) + 1e-9)
    return float(np.clip(1 + certain * difference / own, *NODS))


def answers(pitch: np.ndarray, accents: np.ndarray) -> np.ndarray:
    """(n,) pitch at accents, less its mean half a second before and after."""
    around = at_times(pitch[:, None].astype(np.float64), (accents[:, None] + [-0.5, 0.0, 0.5]).ravel()).reshape(-1, 3)
    return around[:, 1] - (around[:, 0] + around[:, 2]) / 2


@torch.no_grad()
def expected_of(model: Audio2Pose, take: Take) -> np.ndarray:
    """(T,) the expected pitch of a take."""
    return from_bands(model.expected_bands(torch.from_numpy(take.features)[None]))[0, PITCH].numpy()


def _faster(values: np.ndarray) -> np.ndarray:
    """Values (T,) less their mean over 2 s."""
    width = round(2 * POSE_FPS)
    return (
        values
        - np.convolve(np.pad(values, width // 2, mode="edge"), np.ones(width) / width, "same")[
            width // 2 : width // 2 + len(values)
        ]
    )


class Footage:
    """Windows of takes to train on. mirrored: whether half of them are mirrored, for motion in physical units."""

    def __init__(self, takes: Sequence[Take], *, mirrored: bool) -> None:
        self.takes, self.mirrored = list(takes), mirrored
        self.limits = [max(WINDOW, BLOCK * int(len(take.motion) * (1 - HELD_OUT) / BLOCK)) for take in self.takes]

    def draw(self, rng: np.random.Generator, count: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
        """Motion (B, 6, 128), prosody (B, 17, 128), and the motion again: it is the mean of one."""
        share = np.array(self.limits) / sum(self.limits)
        motion, features = [], []
        for number in rng.choice(len(self.takes), count, p=share):
            first = int(rng.integers(self.limits[number] - WINDOW + 1))
            part = self.takes[number].motion[first : first + WINDOW]
            motion.append(part * MIRROR if self.mirrored and rng.random() < 0.5 else part)
            features.append(self.takes[number].features[:, first : first + WINDOW])
        return _batch(motion, features)

    def held_out(self) -> tuple[Tensor, Tensor, Tensor]:
        """The last windows of the takes that are longer than what is trained on; all last windows if none is."""
        longer = [take for take, limit in zip(self.takes, self.limits, strict=True) if len(take.motion) > limit]
        motion = [take.motion[-WINDOW:] for take in longer or self.takes]
        return _batch(motion, [take.features[:, -WINDOW:] for take in longer or self.takes])

    def renew(self) -> None:
        """Nothing: the footage is all there is."""


def _batch(motion: list[np.ndarray], features: list[np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
    moved = torch.from_numpy(np.stack(motion).swapaxes(1, 2).astype(np.float32))
    return moved, torch.from_numpy(np.stack(features)), moved


def write(bank: Bank, model: Audio2Pose, out: Path) -> None:
    """The bank with another flow."""
    tensors = {name: part for name, part in bank.tensors.items() if not name.startswith(PREFIX)}
    tensors |= in_half_precision({PREFIX + name: part.numpy() for name, part in model.state_dict().items()})
    save_bank(replace(bank, networks=networks_json(tensors)), tensors, out)
