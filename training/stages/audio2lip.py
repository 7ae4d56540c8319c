"""Train Audio2Lip on synthetic speech, in simulated rooms (`voices.rooms`).

    python -m training audio2lip --out A.pt --minutes 60 [--start BANK] [--listen voice.wav]

The speech is that of espeak-ng (`voices.speech`) and of the installed voices that were built from recordings
(`voices.recorded`). Run the same command again to resume. A log (A.jsonl) is written beside the checkpoint.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from inference.contract.bank import AUDIO_PREFIX as PREFIX
from inference.lipsync import SMOOTH_TAPS, frame_times, gain_to, lip_sync, mel_spectrogram, windows_at
from inference.media.sound import RATE, UPSTREAM_FPS, load_sound, to_16k
from inference.model.audio2lip import Audio2Lip, Audio2LipConfig

from ..learning.optimiser import minimise
from ..learning.trainer import Trainer, add_trainer_options, limits, seeded
from ..units import LIP
from ..voices import recorded
from ..voices.rooms import cropped_start, silence, with_room
from ..voices.speech import CURVE_FPS, HELD_OUT_VARIANTS, VISEMES, Take, recorded_with_microphone, recording, take

CONFIG = Audio2LipConfig(channels=(8, 16, 48, 96, 192), lip_dim=len(LIP))
FPS = UPSTREAM_FPS
CLIPS, FRAMES = 16, 10  # clips per step, and consecutive frames per clip
POOL = 96  # recordings in memory; the oldest is replaced every RENEWAL steps
RENEWAL = 5
SPEECH_LEVEL = -22.0  # dB, to which sounds are brought, see `Bank.speech_level`
LEVEL_ERROR = 2.0  # dB, standard deviation: levels measured in noise and music are not exact
NAMES = tuple(unit.name for unit in LIP)
# Largest value of each unit in speech (1 for units that speech does not use), and loss weights of the units.
REACH = torch.tensor([max(viseme.shape.get(name, 0.0) for viseme in VISEMES.values()) or 1.0 for name in NAMES])
WEIGHTS = torch.tensor([{"jawOpen": 4.0, "mouthPress": 2.0, "mouthPucker": 2.0}.get(name, 1.0) for name in NAMES])
CLOSING = 8.0  # extra loss weight while the lips are pressed together
RESTING = 2.0  # extra loss weight in silence
ONSET = 1.5  # extra loss weight in the first frames after a pause
ONSET_FRAMES = 3
# Lip opening by each unit in eye distances, fitted to the average head over the shapes of speech.
OPENING = torch.tensor([
    {"jawOpen": 0.48, "mouthFunnel": 0.13, "mouthLowerDown": 0.1, "mouthUpperUp": 0.06, "mouthPress": -0.04,
     "mouthRollLower": -0.05, "mouthRollUpper": -0.045, "mouthShrugUpper": 0.06}.get(name, 0.0)
    for name in NAMES
])  # fmt: skip
SHUT = 0.03  # eye distances: a smaller gap between the lips is invisible
GAP_WEIGHT = 4.0  # loss per eye distance of gap between lips that should be closed
BEGINNINGS = 0.1  # share of clips that are the start of a recording
SILENT, NOISY, CROPPED = 0.1, 0.55, 0.5  # shares of recordings: without speech, in a room, cropped at the start
RECORDED = 0.6  # share of voices that were built from recordings, if any is installed
JAW, PRESS = NAMES.index("jawOpen"), NAMES.index("mouthPress")


class Pool:
    """POOL recordings as (mel (80, n), curves (m, 20)). `renew` replaces the oldest one.

    Recording k depends only on the seed, on k and on the installed voices, so a resumed training uses the same ones.
    """

    def __init__(self, seed: int, first: int) -> None:
        self._seed, self._next = seed, first
        self._voices = recorded.installed(recorded.TRAINING)
        self.recordings: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=POOL)
        for _ in range(POOL):
            self.renew()

    def renew(self) -> None:
        rng = np.random.default_rng((self._seed, 1, self._next))
        new_take = training_take(rng, self._voices)
        gain = gain_to(SPEECH_LEVEL, new_take.samples) * 10 ** (LEVEL_ERROR * rng.standard_normal() / 20)
        self.recordings.append((mel_spectrogram(new_take.samples, gain), new_take.curves))
        self._next += 1


def training_take(rng: np.random.Generator, voices: tuple[recorded.RecordedVoice, ...]) -> Take:
    """A random recording to train on, see SILENT, RECORDED, NOISY and CROPPED. voices: installed ones."""
    if rng.random() < SILENT:
        return silence(rng)
    if voices and rng.random() < RECORDED:
        made = recorded_with_microphone(recorded.take(rng, voices), rng)
    else:
        made = recording(rng)
    if rng.random() < NOISY:
        made = with_room(made, rng)
    return cropped_start(made, rng) if rng.random() < CROPPED else made


def draw(pool: Pool, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch: mel windows (CLIPS * FRAMES, 1, 80, 16) and lip units (CLIPS, FRAMES, 20), at random 5 ms steps."""
    inputs, targets = [], []
    for index in rng.integers(len(pool.recordings), size=CLIPS):
        mel, curves = pool.recordings[index]
        first = 0 if rng.random() < BEGINNINGS else rng.integers(len(curves) - CURVE_FPS // FPS * FRAMES)
        rows = first + np.arange(FRAMES) * (CURVE_FPS // FPS)
        inputs.append(windows_at(mel, rows / CURVE_FPS))
        targets.append(curves[rows])
    return torch.from_numpy(np.concatenate(inputs)), torch.from_numpy(np.stack(targets))


def loss_of(raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Error of the output (B, F, 20) after the smoothing of inference, plus 0.1 of the error of its frame differences.

    The loss includes the smoothing so that the network learns closures of a single frame that are still visible after
    it. A part of the unsmoothed error prevents the network from exaggerating. Errors are relative to the unit's largest
    value, and squared where they are small: an absolute error has its minimum at the median, which is 0 for units that
    are mostly off, such as pressed lips. Closures, rest and the first frames of speech count more. Where the lips
    should be closed, the gap between them is added.
    """
    gap, raw, target = target[:, 1:-1] @ OPENING, raw / REACH, target / REACH
    smooth = sum(float(tap) * raw[:, i : raw.shape[1] - 2 + i] for i, tap in enumerate(SMOOTH_TAPS))
    inner = target[:, 1:-1]
    error = _huber(smooth - inner) + 0.15 * _huber(raw[:, 1:-1] - inner)
    change = _huber(smooth.diff(dim=1) - inner.diff(dim=1))
    closing = 1 + CLOSING * inner[..., PRESS, None]  # closures are short, and visible when missed
    rests = (target == 0).all(-1)
    resting = 1 + RESTING * rests[:, 1:-1, None]
    # The largest of this frame and the ones before it: whether the mouth rested a moment ago.
    lately = F.max_pool1d(F.pad(rests.float(), (ONSET_FRAMES, 0)), ONSET_FRAMES + 1, 1) * ~rests
    onset = 1 + ONSET * lately[:, 1:-1, None]
    ajar = F.relu(smooth @ (OPENING * REACH) - SHUT)[gap < SHUT].sum() / gap.numel()
    return (error * closing * resting * onset * WEIGHTS).mean() + 0.1 * (change * WEIGHTS).mean() + GAP_WEIGHT * ajar


def _huber(error: torch.Tensor) -> torch.Tensor:
    return F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=0.4)


@dataclass
class Figures:
    """On held-out voices: correlation with the true jaw, share of closures reached, mean error, jaw in silence."""

    jaw_correlation: float
    closure_rate: float
    mean_error: float
    rest_level: float


def held_out(kind: str, takes: int = 8, seed: int = 0) -> list[Take]:
    """Takes of voices that are not trained on.

    kind: "clean" or "noisy" for espeak-ng's, without and with microphone and noise; "people" for the installed voices
    of `recorded.HELD_OUT`, every other one in a room.
    """
    voices = recorded.installed(recorded.HELD_OUT)
    result = []
    for number in range(takes):
        rng = np.random.default_rng((seed, 2, number))
        if kind == "people":
            if voices:
                one = recorded.take(rng, (voices[number % len(voices)],))
                result.append(with_room(one, rng) if number % 2 else one)
        else:
            result.append((take if kind == "clean" else recording)(rng, HELD_OUT_VARIANTS))
    return result


def figures_of(model: Audio2Lip, takes: Sequence[Take]) -> Figures:
    """Figures of takes at 25 fps, computed like lip-sync from a sound file."""
    bank = trained_bank(model)
    predicted, truth = [], []
    for voice in takes:
        times = frame_times(len(voice.samples) / RATE, FPS)
        predicted.append(lip_sync(voice.samples, RATE, times, bank))
        truth.append(voice.curves[np.round(times * CURVE_FPS).astype(int)])
    mouth, true = np.concatenate(predicted), np.concatenate(truth)
    closed = (true[:, PRESS] > 0.2) & (true[:, JAW] < 0.08)
    edges = np.flatnonzero(np.diff(np.r_[0, closed.astype(int), 0]))
    closures = [mouth[start:end, JAW].min() < 0.12 for start, end in edges.reshape(-1, 2)]
    silent = np.convolve((true == 0).all(axis=1), np.ones(5), "same") == 5  # 0.2 s of rest
    return Figures(
        float(np.corrcoef(mouth[:, JAW], true[:, JAW])[0, 1]),
        float(np.mean(closures)),
        float(np.abs(mouth - true).mean()),
        float(np.abs(mouth[silent, JAW]).mean()),
    )


def envelope_agreement(samples: np.ndarray, jaw: np.ndarray) -> tuple[float, int]:
    """Best correlation of a jaw curve (T,) at 25 fps with the loudness of its 16 kHz sound, and the lag in frames."""
    starts = np.arange(len(jaw)) * (RATE // FPS)
    power = np.convolve(np.square(samples, dtype=np.float64), np.hanning(1600), "same")
    loudness = np.sqrt(power[starts])
    lags = range(-5, 6)
    scores = [np.corrcoef(np.roll(jaw, -lag)[5:-5], loudness[5:-5])[0, 1] for lag in lags]
    best = int(np.argmax(scores))
    return float(scores[best]), lags[best]


def bank_tensors(model: Audio2Lip) -> dict[str, np.ndarray]:
    """The network's tensors by their names in a bank."""
    return {PREFIX + name: value.numpy() for name, value in model.state_dict().items()}


def trained_bank(model: Audio2Lip) -> SimpleNamespace:
    """An object with the attributes that `lip_sync` reads from a bank, for a network that is being trained."""
    return SimpleNamespace(
        name="in training", names=NAMES, networks=None, tensors=bank_tensors(model), speech_level=SPEECH_LEVEL
    )


def started_from(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of the audio network in a bank or in a file of weights (.safetensors)."""
    state = load_file(path)
    marked = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in (marked or state).items()
    }


def train(args: argparse.Namespace) -> None:
    """Train with the options of `add_options`."""
    seeded(args)
    model = Audio2Lip(CONFIG).to(memory_format=torch.channels_last)
    if args.start:
        model.load_state_dict(started_from(args.start))
    average = Audio2Lip(CONFIG)
    average.load_state_dict(model.state_dict())
    average.eval()
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.rate, betas=(0.9, 0.98), weight_decay=0.01)
    trainer = Trainer(
        args, {"model": model, "average": average, "optimiser": optimiser}, {"audio2lip": limits(args)},
        np.random.default_rng(args.seed), averaged=(model, average), longest=0.995,
        extra=lambda: {"config": json.dumps(asdict(CONFIG)), "speech_level": SPEECH_LEVEL},
    )  # fmt: skip
    pool = Pool(args.seed, first=trainer.step // RENEWAL)

    heldout = {kind: held_out(kind) for kind in ("clean", "noisy", "people")}

    def evaluate() -> dict[str, object]:
        figures: dict[str, object] = {
            kind: asdict(figures_of(average, takes)) for kind, takes in heldout.items() if takes
        }
        if args.listen:
            figures["real_voice"] = dict(zip(("correlation", "lag"), listen(average, args.listen), strict=True))
        return figures

    model.train()
    for _ in trainer.steps("audio2lip", optimiser, evaluate):
        inputs, target = draw(pool, np.random.default_rng((args.seed, 3, trainer.step)))
        with torch.autocast("cpu", torch.bfloat16):
            raw = model(inputs.contiguous(memory_format=torch.channels_last)).float().view(CLIPS, FRAMES, -1)
        loss = loss_of(raw, target)
        minimise(loss, optimiser, model.parameters())
        if (trainer.step + 1) % RENEWAL == 0:
            pool.renew()
        trainer.note({"error": loss})


def listen(model: Audio2Lip, path: Path) -> tuple[float, int]:
    """Best correlation of the jaw with the loudness of a sound file, and its lag, see `envelope_agreement`."""
    samples = to_16k(*load_sound(path))
    times = frame_times(len(samples) / RATE, FPS)
    curves = lip_sync(samples, RATE, times, trained_bank(model))
    return envelope_agreement(samples, curves[:, JAW])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    add_trainer_options(parser, minutes=20.0, rate=3e-3)
    parser.add_argument("--start", type=Path, help="bank or weights (.safetensors) to start from")
    parser.add_argument("--listen", type=Path, help="recording of a real voice; the log states how the jaw follows it")
