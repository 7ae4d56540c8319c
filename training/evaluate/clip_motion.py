"""Head motion of people in clips, beside what the flow draws for the same voices.

The pose is read as by `capture`. Clips without a face or without speech of at least 4 s are left out. Music with a
melody counts as speech, so choose clips in which a person speaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from inference.contract.bank import Bank
from inference.model.audio2pose import POSE_FPS, Audio2Pose, from_bands, to_bands
from inference.motion import SWAY_BANDS
from inference.prosody import FEATURES

from ..stages.person_motion import LAGS, PITCH, Take, answers, clips_in, read_take
from .head_motion import DRAWS, WINDOW, Motions, flow_draw, nod_counts, speeds
from .rows import Row

SPEECH = FEATURES.index("speech")


def takes_in(bank: Bank, places: Sequence[Path]) -> list[Take]:
    """The takes of clips, or of folders of clips."""
    takes = [read_take(bank, path, own=False) for path in clips_in(places)]
    return [take for take in takes if take is not None]


def clip_rows(model: Audio2Pose, takes: Sequence[Take]) -> list[Row]:
    """The figures of `performance` for the flow, and for people with the same voices."""
    parts = {"people": [[take.motion] for take in takes], "flow": [], "other audio": []}
    for number, take in enumerate(takes):
        other = takes[(number + 1) % len(takes)].features
        other = other[:, np.arange(take.features.shape[1]) % other.shape[1]]
        parts["flow"].append([flow_draw(model, take.features, seed) for seed in range(DRAWS)])
        parts["other audio"].append([flow_draw(model, other, seed) for seed in range(DRAWS)])

    def row(what: str, values: dict[str, str]) -> Row:
        return Row(what, values["flow"], others=tuple((name, values[name]) for name in ("people", "other audio")))

    cut = {name: _cut(motions, takes) for name, motions in parts.items()}
    nods = {name: [_nods(one, take) for one, take in _pairs(motions, takes)] for name, motions in parts.items()}
    late = {name: LAGS[int(np.argmax([_nod(motions, takes, lag / POSE_FPS) for lag in LAGS]))] / POSE_FPS
            for name, motions in parts.items()}  # fmt: skip
    strong = sum(len(take.accents) for take in takes)
    seconds = sum(take.count for take in takes) / POSE_FPS
    return [
        row("deviation of yaw, pitch, roll, degrees",
            {name: _listed(np.concatenate(motions)[:, :3].std(axis=0)) for name, motions in cut.items()}),
        row("speed, 50th, 90th and 99th percentile, degrees/s",
            {name: _listed(np.percentile(speeds(motions), [50, 90, 99])) for name, motions in cut.items()}),
        row("power of the six bands, dB", {name: _listed(_power(motions)) for name, motions in parts.items()}),
        row(f"mean nod at {strong} strong accents, degrees, and its standard error", {
            name: f"{np.concatenate(motions).mean():.2f} ({np.concatenate(motions).std() / np.sqrt(strong):.2f})"
            for name, motions in nods.items()}),
        row("its lag, ms", {name: f"{1000 * one:.0f}" for name, one in late.items()}),
        row("motion in speech over motion in pauses",
            {name: f"{_in_speech(motions, takes):.2f}" for name, motions in parts.items()}),
        row(f"r of nods and strong accents in {WINDOW:g} s, {seconds:.0f} s of {len(takes)} clips",
            {name: f"{_agreement(motions, takes):.2f}" for name, motions in parts.items()}),
    ]  # fmt: skip


def _cut(motions: list[Motions], takes: Sequence[Take]) -> Motions:
    """All motions, each without its mirrored end and less its median."""
    kept = [one[: take.count] for one, take in _pairs(motions, takes)]
    return [one - np.median(one, axis=0) for one in kept]


def _pairs(found: list[Motions], takes: Sequence[Take]) -> list[tuple[np.ndarray, Take]]:
    return [(one, take) for motions, take in zip(found, takes, strict=True) for one in motions]


def _nods(motion: np.ndarray, take: Take, lag: float = 0.0) -> np.ndarray:
    return answers(motion[:, PITCH], take.accents + lag)


def _nod(motions: list[Motions], takes: Sequence[Take], lag: float) -> float:
    return float(np.concatenate([_nods(one, take, lag) for one, take in _pairs(motions, takes)]).mean())


def _power(found: list[Motions]) -> np.ndarray:
    """(6,) mean power of each band in dB, over the angles."""
    every = [to_bands(torch.from_numpy(one.T[None, :3].astype(np.float32))) for motions in found for one in motions]
    return np.array(
        [10 * np.log10(torch.cat(band, dim=-1).square().mean().item()) for band in zip(*every, strict=True)]
    )


def _in_speech(motions: list[Motions], takes: Sequence[Take]) -> float:
    """Mean speed in speech over that in pauses, within all clips together."""
    sums = np.zeros((2, 2))  # speech and pauses; degrees and rows
    for one, take in _pairs(motions, takes):
        speed = speeds([one[: take.count]])
        spoken = take.features[SPEECH, 1 : take.count] > 0.5
        sums += [[speed[spoken].sum(), spoken.sum()], [speed[~spoken].sum(), (~spoken).sum()]]
    return float(np.divide(*(sums[:, 0] / np.maximum(sums[:, 1], 1))))


def _agreement(all_motions: list[Motions], takes: Sequence[Take]) -> float:
    """Correlation of the numbers of nods, in the mean of a voice's motions, and of strong accents in windows."""
    nods, accents = [], []
    for motions, take in zip(all_motions, takes, strict=True):
        edges = np.arange(0, take.count / POSE_FPS + 1e-6, WINDOW)
        counts = []
        for one in motions:
            bands = to_bands(torch.from_numpy(one.T[None].astype(np.float32)))
            quick = [torch.zeros_like(band) if number < SWAY_BANDS else band for number, band in enumerate(bands)]
            pitch = from_bands(quick)[0, PITCH].numpy()
            counts.append(nod_counts(pitch, edges))
        nods.append(np.mean(counts, axis=0))
        accents.append(np.histogram(take.accents, edges)[0])
    return float(np.corrcoef(np.concatenate(nods), np.concatenate(accents))[0, 1])


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{value:.1f}" for value in values)
