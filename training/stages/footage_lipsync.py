"""Lip-sync for a bank from footage: the starter bank's audio network with a new last layer, fitted by ridge regression.

The targets are the lip codes of the clips at the times of their sound. Only clips with sound are used.
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
GAINS = (-6.0, 0.0, 6.0)  # dB: augmentation of the level of speech, relative to that of the starter bank
RIDGE = (0.01, 0.1, 1.0, 10.0)  # of the mean diagonal; chosen on the last part of the training time
BATCH = 256


@dataclass(frozen=True)
class LipSyncFit:
    """An audio network for a bank, and its accuracy.

    tensors: by their names in a bank; {} without lip-sync. sentence: the accuracy, or why there is no lip-sync. r:
    correlation of each lip coefficient with the codes on held-out time; empty if it was not measured.
    """

    tensors: Mapping[str, np.ndarray]
    sentence: str
    r: tuple[float, ...] = ()


def fit_lip_sync(
    trained: Footage, heldout: Footage, lips: np.ndarray, heldout_lips: np.ndarray, weights: np.ndarray,
    takes: list[KnownTake],
) -> LipSyncFit:  # fmt: skip
    """Fit the last layer to lip coefficients (N, d) of the trained frames, and measure it on held-out time.

    weights: (d,) of each coefficient in the mean correlation, such as the size of its effect.
    """
    inputs_by_gain = [last_layer_inputs(trained, takes, gain) for gain in GAINS]
    rows = inputs_by_gain[0][1]
    seconds = sum(
        np.ptp(trained.seconds[rows[trained.take_ids[rows] == take]]) for take in np.unique(trained.take_ids[rows])
    )
    if seconds < LEAST_SECONDS:
        return LipSyncFit(
            {}, f"No lip-sync: the clips have {seconds:.0f} s of sound, {LEAST_SECONDS:.0f} s are needed."
        )
    early = np.ones(len(rows), bool)
    for take in np.unique(trained.take_ids[rows]):
        of_take = np.flatnonzero(trained.take_ids[rows] == take)
        early[of_take[round(0.85 * len(of_take)) :]] = False

    def fit(chosen: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
        inputs = np.concatenate([part[chosen] for part, _ in inputs_by_gain])
        return ridge_regression(inputs, np.tile(lips[rows[chosen]], (len(GAINS), 1)), strength)

    inputs = inputs_by_gain[len(GAINS) // 2][0]
    scores: dict[float, float] = {}
    for strength in RIDGE:
        weight, bias = fit(early, strength)
        r = correlations(inputs[~early] @ weight + bias, lips[rows[~early]])
        scores[strength] = float(r @ weights / weights.sum())
    weight, bias = fit(np.ones(len(rows), bool), max(scores, key=lambda strength: scores[strength]))
    heldout_inputs, heldout_rows = last_layer_inputs(heldout, takes, 0.0)
    r = correlations(heldout_inputs @ weight + bias, heldout_lips[heldout_rows])
    mean = float(r @ weights / weights.sum())
    rounded = tuple(round(float(value), 3) for value in r)
    if mean < LEAST_R:
        return LipSyncFit(
            {}, f"No lip-sync: it follows the lips with r {mean:.2f} on held-out time, below {LEAST_R}.", rounded
        )
    network = load_network(load_bank(), AUDIO2LIP)
    assert isinstance(network, Audio2Lip)
    state: dict[str, Any] = {name: part.numpy() for name, part in network.state_dict().items()}
    state |= {"mapping.weight": weight.T.astype(np.float32), "mapping.bias": bias.astype(np.float32)}
    tensors = {AUDIO_PREFIX + name: part for name, part in state.items()}
    return LipSyncFit(tensors, f"Lip-sync follows the lips with r {mean:.2f} on held-out time.", rounded)


def last_layer_inputs(footage: Footage, takes: list[KnownTake], gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, e) of the last layer at the frames that have sound, and their frame numbers (n,). gain: in dB."""
    starter = load_bank()
    network = load_network(starter, AUDIO2LIP)
    assert isinstance(network, Audio2Lip)
    inputs, rows = [np.zeros((0, network.mapping.in_features))], [np.zeros(0, np.int64)]
    for number in np.unique(footage.take_ids):
        samples, chosen = takes[number].samples(), np.flatnonzero(footage.take_ids == number)
        if samples is None or len(samples) < FRAME_SAMPLES:
            continue
        inputs.append(smoothed_features(network, starter.speech_level, samples, footage.seconds[chosen], gain))
        rows.append(chosen)
    return np.concatenate(inputs), np.concatenate(rows)


@torch.inference_mode()
def smoothed_features(
    network: Audio2Lip, level: float | None, samples: np.ndarray, times: np.ndarray, gain: float
) -> np.ndarray:
    """Features (T, e) of the audio encoder at `times` (T,), smoothed like the output in `inference.lipsync`.

    level: see `Bank.speech_level`. samples: (n,) at 16 kHz. gain: in dB.
    """
    mel = mel_spectrogram(samples, gain_to(level, samples) * 10 ** (gain / 20))
    last = (len(samples) // FRAME_SAMPLES - 1) * SMOOTH_SPACING
    features = []
    for tap, shift in zip(SMOOTH_TAPS, (-SMOOTH_SPACING, 0.0, SMOOTH_SPACING), strict=True):
        windows = windows_at(mel, np.clip(times + shift, 0.0, max(last, 0.0)))
        batches = np.array_split(windows, max(1, len(windows) // BATCH))
        encoded = [network.audio_encoder(torch.from_numpy(batch)).flatten(1) for batch in batches]
        features.append(tap * torch.cat(encoded).numpy())
    return np.sum(features, 0)


def ridge_regression(rows: np.ndarray, targets: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight (e, d) and bias (d,) from rows (N, e) to targets (N, d). strength: of the mean diagonal."""
    row_mean, target_mean = rows.mean(0), targets.mean(0)
    centred = (rows - row_mean).astype(np.float64)
    square = centred.T @ centred
    square += strength * np.trace(square) / len(square) * np.eye(len(square))
    weight = np.linalg.solve(square, centred.T @ (targets - target_mean))
    return weight, target_mean - row_mean @ weight


def correlations(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Correlation (d,) of each column of two tables (n, d)."""
    prediction, target = (part - part.mean(0) for part in (prediction, target))
    size = np.linalg.norm(prediction, axis=0) * np.linalg.norm(target, axis=0)
    return (prediction * target).sum(0) / np.maximum(size, 1e-9)
