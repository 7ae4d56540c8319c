"""Head motion from speech: the flow against the gesture model that it was trained on, and against simpler motion.

    python -m training evaluate-performance inference/banks/starter.safetensors --out DIR

DIR/performance.md has the table. Baselines: Idle Motion; an autoregressive process of second order for each angle,
fitted to the gesture model; and the flow with the prosody of another speech. --clips compares with people in clips.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.signal import lfilter

from inference.contract.bank import load_bank
from inference.contract.idle import SWAY, add_idle_motion
from inference.media.sound import load_speech
from inference.model.audio2pose import BLOCK, POSE_FPS, Audio2Pose, to_bands
from inference.motion import at_times, flow_of, pose
from inference.prosody import Prosody, prosody

from ..stages.audio2pose import ROWS, Example, example, held_out
from ..stages.audio2pose_fit import likelihoods
from ..voices.gestures import performance
from ..voices.speech import HELD_OUT_VARIANTS
from .bank import MEDIA, sounds_in
from .clip_motion import clip_rows, takes_in
from .head_motion import DRAWS, PITCH, WINDOW, Motions, flow_draw, nod_counts, speeds
from .rows import Row, goals_met, table

STRONG = 0.7  # strength of the accents that count
LAGS = np.arange(-12, 13) / 25  # seconds around an accent
SEEDS = 16  # for figures of real voices and of drift
MINUTES = 10.0

Draw = Callable[[Example, int], np.ndarray]


def idle_draw(_speech: Example, seed: int) -> np.ndarray:
    """Idle Motion (512, 6), angles in degrees."""
    times = 5.0 + np.arange(ROWS) / POSE_FPS
    columns = add_idle_motion(np.zeros((ROWS, 3), np.float32), list(SWAY)[:3], times, 1.0, seed)
    return np.concatenate([columns * [30, 20, 20], np.zeros((ROWS, 3))], axis=1)


def autoregressive(motions: Motions) -> Draw:
    """Motion of a process of second order with the variance and the correlations of `motions` at lags 1 and 2."""
    table = np.stack(motions)[..., :3]
    centred = table - table.mean(axis=1, keepdims=True)
    r0, r1, r2 = ((centred[:, : ROWS - lag] * centred[:, lag:]).mean(axis=(0, 1)) for lag in (0, 1, 2))
    first = r1 * (r0 - r2) / (r0**2 - r1**2)
    second = (r0 * r2 - r1**2) / (r0**2 - r1**2)
    noise = np.sqrt(np.maximum(r0 - first * r1 - second * r2, 1e-9))

    def draw(_speech: Example, seed: int) -> np.ndarray:
        white = np.random.default_rng((7, seed)).standard_normal((ROWS + 200, 3)) * noise
        columns = [lfilter([1], [1, -first[k], -second[k]], white[:, k])[200:] for k in range(3)]
        return np.concatenate([np.stack(columns, axis=1), np.zeros((ROWS, 3))], axis=1)

    return draw


def answer(motions: Motions, speeches: list[Example]) -> np.ndarray:
    """(25,) mean pitch in degrees around strong accents, less its mean within half a second; see LAGS."""
    rows = []
    for number, motion in enumerate(motions):
        accents = speeches[number // DRAWS].speech.accents
        strong = accents[(accents[:, 1] > STRONG) & (accents[:, 0] > 1) & (accents[:, 0] < ROWS / POSE_FPS - 1), 0]
        if len(strong):
            at = at_times(motion[:, PITCH : PITCH + 1], (strong[:, None] + LAGS).ravel()).reshape(len(strong), -1)
            rows.append(at - at.mean(axis=1, keepdims=True))
    return np.concatenate(rows).mean(axis=0)


def power(motions: Motions) -> np.ndarray:
    """(6,) mean power of each band in dB, over the angles."""
    bands = to_bands(torch.from_numpy(np.stack(motions)[..., :3].swapaxes(1, 2).astype(np.float32)))
    return np.array([10 * np.log10(band.square().mean().item()) for band in bands])


def apart(motions: Motions) -> float:
    """Mean distance in degrees of the angles of two motions of the same speech."""
    pairs = [(motions[k], motions[k + 1]) for k in range(0, len(motions), 2)]
    return float(np.mean([np.linalg.norm(one[:, :3] - other[:, :3], axis=1).mean() for one, other in pairs]))


def activity(motion: np.ndarray, voice: Prosody) -> tuple[float, float]:
    """Mean speed in speech and in pauses, in degrees per second."""
    speed = np.linalg.norm(np.diff(motion[:, :3], axis=0), axis=1) * POSE_FPS
    rows = np.minimum((np.arange(len(speed)) + 0.5) * 100 / POSE_FPS, len(voice) - 1).astype(int)
    inside = (np.arange(len(speed)) + 1) / POSE_FPS < len(voice) / 100
    spoken = voice.speech[rows]
    return float(speed[spoken & inside].mean()), float(
        speed[~spoken & inside].mean() if (~spoken & inside).any() else 0
    )


def nods_and_accents(model: Audio2Pose, voice: Prosody) -> tuple[np.ndarray, np.ndarray]:
    """Mean number of nods, and number of accents, in each window of a voice."""
    edges = np.arange(0, len(voice) / 100 - WINDOW / 2, WINDOW)
    edges = np.append(edges, edges[-1] + WINDOW)
    counts = []
    for seed in range(SEEDS):
        pitch = pose(model, voice, seed, 0.0, 1.0)[:, PITCH]
        counts.append(nod_counts(pitch, edges))
    return np.mean(counts, axis=0), np.histogram(voice.accents[:, 0], edges)[0].astype(float)


def synthetic_rows(model: Audio2Pose, count: int) -> list[Row]:
    """Figures of held-out synthetic voices, for which performances of the gesture model are known."""
    speeches = [example((99, 5, number), HELD_OUT_VARIANTS) for number in range(count)]
    others = {one: speeches[(number + 1) % count] for number, one in enumerate(speeches)}

    def drawn(draw: Draw) -> Motions:
        return [draw(one, 100 * number + k) for number, one in enumerate(speeches) for k in range(DRAWS)]

    teacher = drawn(lambda one, seed: performance(one.speech, np.random.default_rng((5, seed))))
    flow = drawn(lambda one, seed: flow_draw(model, one.features, seed))
    exchanged = drawn(lambda one, seed: flow_draw(model, others[one].features, seed))
    baselines = {"Idle Motion": drawn(idle_draw), "AR(2)": drawn(autoregressive(teacher))}
    rows = []

    deviation = [np.concatenate(one)[:, :3].std(axis=0) for one in (flow, teacher)]
    ratio = deviation[0] / deviation[1]
    rows.append(Row(
        "deviation of yaw, pitch, roll", _degrees(deviation[0]), "within 15 % of the model's",
        bool((np.abs(ratio - 1) < 0.15).all()),
        (("gesture model", _degrees(deviation[1])), *_each(baselines, lambda one: _degrees(_deviation(one)))),
    ))  # fmt: skip
    quantiles = [np.percentile(speeds(one), [50, 90, 99]) for one in (flow, teacher)]
    rows.append(Row(
        "speed, 50th, 90th and 99th percentile, degrees/s", _numbers(quantiles[0]), "50th, 90th within 20 %",
        bool((np.abs(quantiles[0] / quantiles[1] - 1)[:2] < 0.2).all()),
        (("gesture model", _numbers(quantiles[1])),
         *_each(baselines, lambda one: _numbers(np.percentile(speeds(one), [50, 90, 99])))),
    ))  # fmt: skip
    difference = power(flow) - power(teacher)
    rows.append(Row(
        "power of the six bands less the model's, dB", _numbers(difference), "within 2 dB",
        bool((np.abs(difference) < 2).all()), _each(baselines, lambda one: _numbers(power(one) - power(teacher))),
    ))  # fmt: skip
    curves = {name: answer(one, speeches) for name, one in
              {"flow": flow, "model": teacher, "other audio": exchanged, **baselines}.items()}  # fmt: skip
    peak = int(curves["model"].argmax())
    sizes = {name: float(curve[max(peak - 2, 0) : peak + 3].max()) for name, curve in curves.items()}
    late = 1000 * float(LAGS[int(curves["flow"].argmax())] - LAGS[peak])
    share = sizes["flow"] / sizes["model"]
    rows.append(Row(
        "mean nod at strong accents, degrees", f"{sizes['flow']:.2f}", ">= 70 % of the model's", share >= 0.7,
        (("gesture model", f"{sizes['model']:.2f}"), *((name, f"{sizes[name]:.2f}") for name in baselines)),
    ))  # fmt: skip
    rows.append(Row("its lag against the model's", f"{late:.0f} ms", "within 80 ms", abs(late) <= 80))
    rows.append(Row(
        "the same with other audio, share of the model's", f"{100 * sizes['other audio'] / sizes['model']:.0f} %",
        "<= 10 %", sizes["other audio"] / sizes["model"] <= 0.1,
    ))  # fmt: skip
    own, gained = likelihoods(model, held_out())
    rows.append(Row(
        "likelihood gained by the own audio in bands h4, h3, h2, h1, nats a number", _numbers(gained[2:].numpy(), 3),
        ">= 0.05 in h4, h3, h2", bool((gained[2:5] >= 0.05).all()),
        (("likelihoods", _numbers(own.numpy())),),
    ))  # fmt: skip
    distance = apart(flow) / apart(teacher)
    rows.append(Row(
        "two seeds apart, against two performances of the model", f"{distance:.2f}", "0.85 to 1.15",
        0.85 <= distance <= 1.15, (("degrees", f"{apart(flow):.2f}"),),
    ))  # fmt: skip
    return rows


def sound_rows(model: Audio2Pose, samples: np.ndarray) -> list[Row]:
    """Figures of a sound: locality, drift and time."""
    voice = prosody(samples)
    half = len(samples) // 2
    changed = samples.copy()
    changed[half:] = changed[half:][::-1]
    one, other = pose(model, voice, 3), pose(model, prosody(changed, voice.speaker), 3)
    middle = round(half / 16_000 * POSE_FPS)
    change = np.abs(one - other)[:, :3].max(axis=1)
    before = [float(change[: middle - round(seconds * POSE_FPS)].max()) for seconds in (6, 3)]
    rows = [Row(
        "change of the motion 6 s and 3 s before a change of the sound, degrees", _numbers(np.array(before), 3),
        "0.01, 0.1", before[0] <= 0.01 and before[1] <= 0.1,
    )]  # fmt: skip
    times = int(np.ceil(MINUTES * 60 * 16_000 / len(samples)))
    began = time.process_time()
    long = prosody(np.tile(samples, times)[: int(MINUTES * 60 * 16_000)])
    heard = time.process_time() - began
    minute = round(60 * POSE_FPS)
    began = time.process_time()
    motions = [pose(model, long, seed) for seed in range(SEEDS)]
    took = (time.process_time() - began) / SEEDS
    drift = np.abs(np.mean([one[-minute - BLOCK : -BLOCK, :3].mean(axis=0) - one[:minute, :3].mean(axis=0)
                            for one in motions], axis=0))  # fmt: skip
    rows.append(Row(
        f"mean of the last minute of {MINUTES:g} less that of the first, over {SEEDS} seeds", _degrees(drift),
        "<= 0.5 degrees", bool((drift <= 0.5).all()),
    ))  # fmt: skip
    rows.append(Row(
        "60 s of sound: features, and motion of one seed, CPU seconds", f"{heard / MINUTES:.2f}, {took / MINUTES:.2f}",
        "2, 0.3", heard / MINUTES <= 2 and took / MINUTES <= 0.3,
    ))  # fmt: skip
    return rows


def real_rows(model: Audio2Pose, sounds: list[Path]) -> list[Row]:
    """Figures of recordings of real voices."""
    speech, pauses, idle, nods, accents = [], [], [], [], []
    for path in sounds:
        voice = prosody(load_speech(path)[0])
        if len(voice) < 200:
            continue
        for seed in range(SEEDS):
            inside, outside = activity(pose(model, voice, seed), voice)
            speech.append(inside)
            pauses.append(outside)
        found = nods_and_accents(model, voice)
        nods.append(found[0])
        accents.append(found[1])
        rows = idle_draw(None, 3)  # type: ignore[arg-type]
        idle.append(activity(np.tile(rows, (3, 1))[: int(len(voice) / 100 * POSE_FPS)], voice))
    moving = np.array(pauses) > 0
    ratio = float(np.mean(np.array(speech)[moving]) / np.mean(np.array(pauses)[moving]))
    still = np.array(idle)[np.array(idle)[:, 1] > 0].mean(axis=0)
    r = float(np.corrcoef(np.concatenate(nods), np.concatenate(accents))[0, 1])
    return [
        Row(f"motion in speech over motion in pauses, {len(sounds)} real voices", f"{ratio:.2f}", ">= 1.2",
            ratio >= 1.2, (("Idle Motion", f"{still[0] / still[1]:.2f}"),)),
        Row(f"r of nods and accents in {WINDOW:g} s, {len(sounds)} real voices", f"{r:.2f}", ">= 0.3", r >= 0.3),
    ]  # fmt: skip


def _each(baselines: dict[str, Motions], shown: Callable[[Motions], str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, shown(one)) for name, one in baselines.items())


def _deviation(motions: Motions) -> np.ndarray:
    return np.concatenate(motions)[:, :3].std(axis=0)


def _degrees(values: np.ndarray) -> str:
    return _numbers(values) + " degrees"


def _numbers(values: np.ndarray, digits: int = 2) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


def measure(bank_path: Path, sounds: list[Path], count: int) -> list[Row]:
    """All rows. count: number of synthetic speeches."""
    model = flow_of(load_bank(bank_path))
    rows = synthetic_rows(model, count)
    longest = max((load_speech(path)[0] for path in sounds), key=len, default=None)
    if longest is not None:
        rows += sound_rows(model, np.tile(longest, 3)) + real_rows(model, sounds)
    return rows


def run(args: argparse.Namespace) -> None:
    """Measure with the options of `add_options`, write the table and print it."""
    torch.set_num_threads(1)
    sounds = sounds_in(args.voices if args.voices is not None else [MEDIA, MEDIA / "voices"] if MEDIA.is_dir() else [])
    rows = measure(args.bank, sounds, args.speeches)
    title = f"# Head motion of {args.bank.name}\n\n{goals_met(rows)}"
    text = f"{title}\n\n{table(rows, 'flow')}\n\n"
    text += f"{args.speeches} held-out synthetic voices of 41 s, {DRAWS} motions each.\n"
    if args.clips:
        bank = load_bank(args.bank)
        if takes := takes_in(bank, args.clips):
            text += f"\n## People in clips\n\n{table(clip_rows(flow_of(bank), takes), 'flow')}\n"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "performance.md").write_text(text)
    print(text)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("bank", type=Path, help="bank (.safetensors) with Audio2Pose")
    parser.add_argument("--out", type=Path, required=True, help="folder of the table")
    parser.add_argument("--speeches", type=int, default=24, help="number of synthetic speeches (default 24)")
    parser.add_argument("--voices", type=Path, nargs="*", help="recordings of real voices, or folders of them")
    parser.add_argument("--clips", type=Path, nargs="*", help="clips of people who speak, or folders of them")
