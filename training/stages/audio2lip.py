"""Train the starter bank's Audio2Lip on speech that espeak-ng speaks (`voices.speech`) in rooms (`voices.rooms`).

    python -m training.stages.audio2lip --out audio2lip.safetensors --minutes 20 [--resume] [--listen voice.wav]

Bounded by time, whatever the machine. `--resume` goes on from the checkpoint beside --out; --minutes is the total.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from inference.lipsync import PREFIX, SMOOTH_TAPS, frame_times, lip_sync, mel_spectrogram, windows_at
from inference.media.sound import RATE, UPSTREAM_FPS, load_sound, to_16k
from inference.model.audio2lip import Audio2Lip, Audio2LipConfig

from ..learning.course import save_checkpoint
from ..units import LIP
from ..voices.rooms import begun, lived_in, nobody
from ..voices.speech import CURVE_FPS, HELD_OUT_VARIANTS, VISEMES, Take, recording, take

CONFIG = Audio2LipConfig(channels=(8, 16, 48, 96, 192), lip_dim=len(LIP))
FPS = UPSTREAM_FPS
CLIPS, FRAMES = 16, 10  # a batch: clips of consecutive frames
POOL = 96  # recordings at hand; the oldest gives way to a new one every RENEWAL steps
RENEWAL = 2
WARM_UP = 60
NAMES = tuple(unit.name for unit in LIP)
# The most that speech makes of each unit (1 where it makes nothing of it), and what makes speech readable.
REACH = torch.tensor([max(viseme.shape.get(name, 0.0) for viseme in VISEMES.values()) or 1.0 for name in NAMES])
WEIGHTS = torch.tensor([{"jawOpen": 4.0, "mouthPress": 2.0, "mouthPucker": 2.0}.get(name, 1.0) for name in NAMES])
CLOSING = 5.0  # how much more an error counts while the lips are pressed together
RESTING = 2.0  # and while nobody speaks
# How far each unit opens the lips, in eye distances, fitted to the average head over what speech asks for.
OPENING = torch.tensor([
    {"jawOpen": 0.48, "mouthFunnel": 0.13, "mouthLowerDown": 0.1, "mouthUpperUp": 0.06, "mouthPress": -0.04,
     "mouthRollLower": -0.05, "mouthRollUpper": -0.045, "mouthShrugUpper": 0.06}.get(name, 0.0)
    for name in NAMES
])  # fmt: skip
SHUT = 0.03  # eye distances: a smaller gap is not seen
GAP_WEIGHT = 2.0  # of every eye distance by which lips that ought to be shut are apart
BEGINNINGS = 0.1  # share of a batch's clips that are the first moments of a recording
JAW, PRESS = NAMES.index("jawOpen"), NAMES.index("mouthPress")


class Pool:
    """Recordings as (mel (80, n), curves (m, 20)); number k follows from the seed and k, so it resumes."""

    def __init__(self, seed: int, first: int) -> None:
        self._seed, self._next = seed, first
        self.recordings: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=POOL)
        for _ in range(POOL):
            self.renew()

    def renew(self) -> None:
        made = heard(np.random.default_rng((self._seed, 1, self._next)))
        self.recordings.append((mel_spectrogram(made.samples), made.curves))
        self._next += 1


def heard(rng: np.random.Generator) -> Take:
    """A recording to learn from: half in rooms that are heard, some with nobody in them, half cut from the middle."""
    if rng.random() < 0.1:
        return nobody(rng)
    made = recording(rng)
    if rng.random() < 0.55:
        made = lived_in(made, rng)
    return begun(made, rng) if rng.random() < 0.5 else made


def draw(pool: Pool, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch: mel windows (CLIPS * FRAMES, 1, 80, 16) and lip units (CLIPS, FRAMES, 20), from any 5 ms on."""
    inputs, targets = [], []
    for index in rng.integers(len(pool.recordings), size=CLIPS):
        mel, curves = pool.recordings[index]
        first = 0 if rng.random() < BEGINNINGS else rng.integers(len(curves) - CURVE_FPS // FPS * FRAMES)
        rows = first + np.arange(FRAMES) * (CURVE_FPS // FPS)
        inputs.append(windows_at(mel, rows / CURVE_FPS))
        targets.append(curves[rows])
    return torch.from_numpy(np.concatenate(inputs)), torch.from_numpy(np.stack(targets))


def loss_of(raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Error of the answers (B, F, 20) as inference will smooth them, + 0.1 of the error of their frame differences.

    Learning through the smoothing lets closures of one frame survive it; a little of the unsmoothed error keeps the
    net from sharpening without end. Errors are relative to the unit's reach, squared where small: an absolute error
    asks for the median, which of a unit that is mostly off, as pressed lips are, is 0. Lips that ought to be shut and
    are not count once more, by the gap between them: it is what is seen.
    """
    gap, raw, target = target[:, 1:-1] @ OPENING, raw / REACH, target / REACH
    smooth = sum(float(tap) * raw[:, i : raw.shape[1] - 2 + i] for i, tap in enumerate(SMOOTH_TAPS))
    inner = target[:, 1:-1]
    error = _robust(smooth - inner) + 0.15 * _robust(raw[:, 1:-1] - inner)
    change = _robust(smooth.diff(dim=1) - inner.diff(dim=1))
    closing = 1 + CLOSING * inner[..., PRESS, None]  # closures are short, and seen at once when missed
    resting = 1 + RESTING * (inner == 0).all(-1, keepdim=True)
    ajar = F.relu(smooth @ (OPENING * REACH) - SHUT)[gap < SHUT].sum() / gap.numel()
    return (error * closing * resting * WEIGHTS).mean() + 0.1 * (change * WEIGHTS).mean() + GAP_WEIGHT * ajar


def _robust(error: torch.Tensor) -> torch.Tensor:
    return F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=0.4)


@dataclass
class Figures:
    """On held-out voices: correlation with the true jaw, share of lip closures that close, error and rest in pauses."""

    jaw_correlation: float
    closure_rate: float
    mean_error: float
    rest_level: float


def evaluate(model: Audio2Lip, seed: int = 0, takes: int = 12, clean: bool = False) -> Figures:
    """Held-out voices through the very path that a user's sound takes, at 25 fps."""
    bank = SimpleNamespace(tensors=bank_tensors(model))
    predicted, truth = [], []
    for number in range(takes):
        rng = np.random.default_rng((seed, 2, number))
        made: Take = (take if clean else recording)(rng, HELD_OUT_VARIANTS)
        times = frame_times(len(made.samples) / RATE, FPS)
        predicted.append(lip_sync(made.samples, RATE, times, bank))
        truth.append(made.curves[np.round(times * CURVE_FPS).astype(int)])
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
    """Best correlation of a jaw curve (T,) at 25 fps with the loudness of its 16 kHz sound, and its lag in frames."""
    starts = np.arange(len(jaw)) * (RATE // FPS)
    power = np.convolve(np.square(samples, dtype=np.float64), np.hanning(1600), "same")
    loudness = np.sqrt(power[starts])
    lags = range(-5, 6)
    scores = [np.corrcoef(np.roll(jaw, -lag)[5:-5], loudness[5:-5])[0, 1] for lag in lags]
    best = int(np.argmax(scores))
    return float(scores[best]), lags[best]


def bank_tensors(model: Audio2Lip) -> dict[str, np.ndarray]:
    return {PREFIX + name: value.numpy() for name, value in model.state_dict().items()}


@torch.no_grad()
def follow(average: Audio2Lip, model: Audio2Lip, decay: float) -> None:
    """Move the running average, batch-norm statistics included, towards the model."""
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def train(
    out: Path, minutes: float, seed: int, resume: bool, start: Path | None = None, peak: float = 3e-3
) -> Audio2Lip:
    """Train until `minutes` have been spent in all; returns the averaged model.

    start: a bank, or weights, to begin from; peak: the highest learning rate.
    """
    torch.manual_seed(seed)
    model = Audio2Lip(CONFIG).to(memory_format=torch.channels_last)
    if start:
        learnt = load_file(start)
        marked = PREFIX if PREFIX + next(iter(model.state_dict())) in learnt else ""
        model.load_state_dict({name: learnt[marked + name] for name in model.state_dict()})
    average = Audio2Lip(CONFIG)
    average.load_state_dict(model.state_dict())
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    step, spent = 0, 0.0
    checkpoint = out.with_suffix(".checkpoint.pt")
    if resume:
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        step, spent = saved["step"], saved["spent"]

    def save() -> None:
        state = {"model": model.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
        save_checkpoint(state | {"step": step, "spent": spent}, checkpoint)

    pool = Pool(seed, first=step // RENEWAL)
    started, reported, running = time.monotonic() - spent, time.monotonic(), None
    while (spent := time.monotonic() - started) < minutes * 60:
        progress = spent / (minutes * 60)
        rate = peak * min(1, (step + 1) / WARM_UP) * (0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2)
        for group in optimiser.param_groups:
            group["lr"] = rate
        inputs, target = draw(pool, np.random.default_rng((seed, 3, step)))
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            raw = model(inputs.contiguous(memory_format=torch.channels_last)).float().view(CLIPS, FRAMES, -1)
        loss = loss_of(raw, target)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        follow(average, model, min(0.995, (1 + step) / (10 + step)))
        if step % RENEWAL == 0:
            pool.renew()
        running = loss.item() if running is None else 0.95 * running + 0.05 * loss.item()
        step += 1
        if time.monotonic() - reported > 60 or step == 1:
            reported = time.monotonic()
            print(f"{spent / 60:5.1f} min  step {step}  loss {running:.4f}  rate {rate:.1e}", flush=True)
            save()
    save()
    return average.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--minutes", type=float, default=20, help="time to train, in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint beside --out")
    parser.add_argument("--start", type=Path, help="a bank, or weights, to begin with")
    parser.add_argument("--rate", type=float, default=3e-3, help="the highest learning rate")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--listen", type=Path, help="a real voice: also report how the jaw follows its loudness")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)

    model = train(options.out, options.minutes, options.seed, options.resume, options.start, options.rate)
    figures = {"held_out_clean": asdict(evaluate(model, clean=True)), "held_out_recorded": asdict(evaluate(model))}
    if options.listen:
        samples = to_16k(*load_sound(options.listen))
        jaw = lip_sync(
            samples, RATE, frame_times(len(samples) / RATE, FPS), SimpleNamespace(tensors=bank_tensors(model))
        )[:, JAW]
        figures["real_voice"] = dict(zip(("correlation", "lag"), envelope_agreement(samples, jaw), strict=True))
    metadata = {
        "config": json.dumps(asdict(model.config)),
        "names": json.dumps(NAMES),
        "figures": json.dumps(figures),
    }
    save_file(model.state_dict(), options.out, metadata)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
