"""Lip-sync for a bank from footage: the starter bank's audio network stays as it is, its last layer is solved by ridge.

The clips' own sound and lip codes are the targets. Only clips with sound count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from inference.contract.bank import AUDIO_PREFIX, load_bank
from inference.lipsync import FRAME_SAMPLES, SMOOTH_TAPS, gain_to, mel_spectrogram, windows_at
from inference.media.sound import SMOOTH_SPACING
from inference.model.audio2lip import Audio2Lip
from inference.model.load import AUDIO2LIP, load_network

from ..footage.named import KnownTake
from ..footage.takes import Footage

LEAST_SECONDS = 60.0  # of frames with sound
LEAST_R = 0.3  # mean correlation on held-out time, below which a bank is written without lip-sync
LOUDER = (-6.0, 0.0, 6.0)  # dB: levels at which the speech is heard, around that of the starter bank
RIDGE = (0.01, 0.1, 1.0, 10.0)  # of the mean diagonal; the one that is best on the last part of the training time
BATCH = 256


@dataclass(frozen=True)
class Hearing:
    """tensors: of the audio network, by their names in a bank; {} without lip-sync. sentence: how well it hears.

    r: correlation of every slider with the clips' codes on held-out time; empty if it was not measured.
    """

    tensors: Mapping[str, np.ndarray]
    sentence: str
    r: tuple[float, ...] = ()


@torch.inference_mode()
def heard(network: Audio2Lip, level: float | None, samples: np.ndarray, times: np.ndarray, louder: float) -> np.ndarray:
    """(T, e) what the network's last layer sees at `times`, smoothed as `inference.lipsync` smooths its output."""
    mel = mel_spectrogram(samples, gain_to(level, samples) * 10 ** (louder / 20))
    last = (len(samples) // FRAME_SAMPLES - 1) * SMOOTH_SPACING
    parts = []
    for tap, shift in zip(SMOOTH_TAPS, (-SMOOTH_SPACING, 0.0, SMOOTH_SPACING), strict=True):
        shown = windows_at(mel, np.clip(times + shift, 0.0, max(last, 0.0)))
        pieces = [network.audio_encoder(torch.from_numpy(part)).flatten(1) for part in np.array_split(
            shown, max(1, len(shown) // BATCH))]  # fmt: skip
        parts.append(tap * torch.cat(pieces).numpy())
    return np.sum(parts, 0)


def features(footage: Footage, takes: list[KnownTake], louder: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, e) of the frames that have sound, and their frame numbers (n,)."""
    starter = load_bank()
    network = load_network(starter, AUDIO2LIP)
    assert isinstance(network, Audio2Lip)
    found, rows = [np.zeros((0, network.mapping.in_features))], [np.zeros(0, np.int64)]
    for number in np.unique(footage.take_ids):
        samples, chosen = takes[number].samples(), np.flatnonzero(footage.take_ids == number)
        if samples is None or len(samples) < FRAME_SAMPLES:
            continue
        found.append(heard(network, starter.speech_level, samples, footage.seconds[chosen], louder))
        rows.append(chosen)
    return np.concatenate(found), np.concatenate(rows)


def solved(rows: np.ndarray, targets: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight (e, d) and bias (d,) of a ridge regression."""
    mean, goal = rows.mean(0), targets.mean(0)
    centred = (rows - mean).astype(np.float64)
    square = centred.T @ centred
    square += strength * np.trace(square) / len(square) * np.eye(len(square))
    weight = np.linalg.solve(square, centred.T @ (targets - goal))
    return weight, goal - mean @ weight


def correlations(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(d,) correlation of the columns of two tables (n, d)."""
    one, other = (part - part.mean(0) for part in (found, wanted))
    size = np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0)
    return (one * other).sum(0) / np.maximum(size, 1e-9)


def learn_hearing(
    trained: Footage, heldout: Footage, lips: np.ndarray, held_lips: np.ndarray, weights: np.ndarray,
    takes: list[KnownTake],
) -> Hearing:  # fmt: skip
    """Solve the last layer for lip coefficients (N, d) of the trained frames, and measure it on held-out time.

    weights: (d,) of each slider in the mean correlation, such as the size of its effect.
    """
    louder = [features(trained, takes, level) for level in LOUDER]
    rows = louder[0][1]
    seconds = sum(
        np.ptp(trained.seconds[rows[trained.take_ids[rows] == take]]) for take in np.unique(trained.take_ids[rows])
    )
    if seconds < LEAST_SECONDS:
        return Hearing({}, f"No lip-sync: the clips have {seconds:.0f} s of sound, {LEAST_SECONDS:.0f} s are needed.")
    early = np.ones(len(rows), bool)
    for take in np.unique(trained.take_ids[rows]):
        of_take = np.flatnonzero(trained.take_ids[rows] == take)
        early[of_take[round(0.85 * len(of_take)) :]] = False

    def mean_r(found: np.ndarray, wanted: np.ndarray) -> float:
        return float(correlations(found, wanted) @ weights / weights.sum())

    def fit(chosen: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
        return solved(
            np.concatenate([part[chosen] for part, _ in louder]),
            np.tile(lips[rows[chosen]], (len(louder), 1)),
            strength,
        )

    middle = louder[len(LOUDER) // 2][0]
    tried: dict[float, float] = {}
    for strength in RIDGE:
        weight, bias = fit(early, strength)
        tried[strength] = mean_r(middle[~early] @ weight + bias, lips[rows[~early]])
    weight, bias = fit(np.ones(len(rows), bool), max(tried, key=lambda strength: tried[strength]))
    held, held_rows = features(heldout, takes, 0.0)
    r = correlations(held @ weight + bias, held_lips[held_rows])
    mean = float(r @ weights / weights.sum())
    each = tuple(round(float(value), 3) for value in r)
    if mean < LEAST_R:
        return Hearing(
            {}, f"No lip-sync: it follows the lips with r {mean:.2f} on held-out time, below {LEAST_R}.", each
        )
    network = load_network(load_bank(), AUDIO2LIP)
    assert isinstance(network, Audio2Lip)
    state: dict[str, Any] = {name: part.numpy() for name, part in network.state_dict().items()}
    state |= {"mapping.weight": weight.T.astype(np.float32), "mapping.bias": bias.astype(np.float32)}
    named = {AUDIO_PREFIX + name: part for name, part in state.items()}
    return Hearing(named, f"Lip-sync follows the lips with r {mean:.2f} on held-out time.", each)
