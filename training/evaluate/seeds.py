"""Head motion of one line, drawn with several seeds and with shuffled audio, as clips and one contact sheet.

    python -m training compare-seeds inference/banks/starter.safetensors --out DIR

DIR has a clip for each motion, with the mouth of lip-sync, and sheet.png: frames at stressed syllables and in pauses,
and below them the head's angles over the line. For shuffled audio, motion is drawn from the prosody of the same sound
with its parts of half a second in another order, and shown with the original sound. Default: the line and the portrait
of the demo.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from inference.contract.bank import Bank, load_bank
from inference.contract.demo import LINE, PORTRAIT
from inference.contract.head import head_matrix
from inference.face.framing import load_portrait
from inference.lipsync import frame_times, lip_sync
from inference.media.picture import save_picture
from inference.media.sound import RATE, load_speech
from inference.media.video_writer import VideoWriter
from inference.model.audio2pose import POSE_FPS
from inference.motion import at_times, eased, flow_of, pose
from inference.prosody import Prosody, prosody
from inference.renderer import FaceRenderer

from ..stages.person_motion import PITCH, STRONG, answers
from .performance import activity

FPS = 25
PART = 0.5  # seconds of a part of shuffled audio
FRAMES = 8  # of each motion on the sheet
FACE, GRAPH, GAP = 132, 96, 8  # pixels
DEGREES = 12.0  # half the height of a graph
PAPER, INK, FAINT, SPOKEN = "#16181d", "#e8e8ea", "#3c404b", "#262a33"
ANGLES = {"yaw": "#73b8ff", "pitch": "#ffb454", "roll": "#7fd962"}


@dataclass(frozen=True, eq=False)
class Performance:
    """One motion. rows: (T, 6) at 12.5 rows a second, in physical units. frames: uint8 (h, w, 3) by frame number."""

    name: str
    rows: np.ndarray
    frames: dict[int, np.ndarray]


def shuffled(samples: np.ndarray, seed: int = 0) -> np.ndarray:
    """The samples (n,) with their parts of half a second in another order; the last, shorter part stays."""
    size = round(PART * RATE)
    count = len(samples) // size
    parts = samples[: count * size].reshape(count, size)
    return np.concatenate([parts[np.random.default_rng(seed).permutation(count)].ravel(), samples[count * size :]])


def moments(voice: Prosody, seconds: float, count: int = FRAMES) -> list[float]:
    """Seconds of the frames that are shown: the strongest accents, the middles of pauses, and the end."""
    edges = np.flatnonzero(np.diff(np.r_[True, voice.speech, True].astype(np.int8))).reshape(-1, 2) / 100
    pauses = [float(start + end) / 2 for start, end in edges if start > 0 and end < seconds - 0.1]
    fixed = [*pauses[: count // 2 - 1], seconds - 0.1]
    strongest = voice.accents[np.argsort(-voice.accents[:, 1]), 0]
    return sorted([*fixed, *strongest[: count - len(fixed)].tolist()])


def figures(rows: np.ndarray, voice: Prosody) -> str:
    """What the motion does in one line: nods at strong accents, speed in speech and in pauses, and drift."""
    strong = voice.accents[voice.accents[:, 1] > STRONG, 0]
    inside = strong[(strong > 0.5) & (strong < len(voice) / 100 - 0.5)]
    nod = float(answers(rows[:, PITCH], inside).mean()) if len(inside) else float("nan")
    speech, pauses = activity(rows, voice)
    second = round(POSE_FPS)
    count = int(len(voice) / 100 * POSE_FPS)
    drift = float(np.linalg.norm(rows[count - second : count, :3].mean(axis=0) - rows[:second, :3].mean(axis=0)))
    speed = f"{speech:.1f}°/s in speech, {pauses:.1f}°/s in pauses"
    return f"nod at {len(inside)} strong accents {nod:+.1f}°; {speed}; last second {drift:.1f}° from the first"


def perform(
    bank: Bank,
    renderer: FaceRenderer,
    sound: Path,
    name: str,
    voice: Prosody,
    seed: int,
    out: Path,
    moments: list[float],
) -> Performance:
    """Draw a motion for the prosody `voice`, render it to `out` with the mouth of `sound`, and keep what is shown."""
    samples, seconds = load_speech(sound)
    times = frame_times(seconds, FPS)
    rows = pose(flow_of(bank), voice, seed)
    names, matrix = head_matrix(bank)
    motion = dict(zip(names, eased(at_times(rows, times) @ matrix.T, times, seconds).T, strict=True))
    mouth = lip_sync(samples, RATE, times, bank) - bank.rest[bank.config.bank_slices["lip"]]
    motion |= dict(zip(bank.names_of("lip"), mouth.T, strict=True))
    frame_numbers = {min(round(at * FPS), len(times) - 1) for at in moments}
    kept: dict[int, np.ndarray] = {}
    size = renderer.config.size
    with VideoWriter(out, FPS, (size, size), sound=sound) as writer:
        for number, frame in enumerate(renderer.render(renderer.moved(motion))):
            writer.write(frame)
            if number in frame_numbers:
                kept[number] = frame
    return Performance(name, rows, kept)


def sheet(performances: list[Performance], voice: Prosody, seconds: float, title: str) -> np.ndarray:
    """uint8 (H, W, 3): for each motion a title, its frames and a graph of its angles.

    Accents are vertical lines, as high as they are strong. Speech is lighter than pauses.
    """
    width = FRAMES * (FACE + GAP) + GAP
    block = 20 + FACE + GAP + GRAPH + GAP
    image = Image.new("RGB", (width, 28 + len(performances) * block), PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((GAP, GAP), title, INK, ImageFont.load_default(13))
    for place, (name, colour) in enumerate(ANGLES.items()):
        pen.text((width - 170 + 55 * place, GAP), name, colour, ImageFont.load_default(13))
    for number, one in enumerate(performances):
        top = 28 + number * block
        pen.text((GAP, top), f"{one.name}: {figures(one.rows, voice)}", INK, ImageFont.load_default(12))
        for place, frame in enumerate(sorted(one.frames)):
            face = Image.fromarray(one.frames[frame]).resize((FACE, FACE), Image.Resampling.LANCZOS)
            image.paste(face, (GAP + place * (FACE + GAP), top + 18))
        _graph(pen, (GAP, top + 18 + FACE + GAP, width - GAP, top + 18 + FACE + GAP + GRAPH), one, voice, seconds)
    return np.asarray(image)


def _graph(
    pen: ImageDraw.ImageDraw, area: tuple[int, int, int, int], one: Performance, voice: Prosody, seconds: float
) -> None:
    left, top, right, bottom = area
    pen.rectangle(area, FAINT)

    def x(time: float) -> float:
        return left + (right - left) * min(time / seconds, 1.0)

    for start, end in np.flatnonzero(np.diff(np.r_[0, voice.speech.astype(np.int8), 0])).reshape(-1, 2) / 100:
        pen.rectangle((x(start), top, x(end), bottom), SPOKEN)
    for time, strength in voice.accents:
        pen.line([(x(time), bottom), (x(time), bottom - strength * GRAPH / 3)], INK)
    for frame in one.frames:
        pen.polygon([(x(frame / FPS) - 3, top), (x(frame / FPS) + 3, top), (x(frame / FPS), top + 6)], INK)
    times = np.arange(0, seconds, 1 / FPS)
    angles = eased(at_times(one.rows, times), times, seconds)
    for column, colour in enumerate(ANGLES.values()):  # a nod, which is positive, goes down
        y = (top + bottom) / 2 + np.clip(angles[:, column] / DEGREES, -1, 1) * GRAPH / 2
        pen.line([(x(time), height) for time, height in zip(times, y, strict=True)], colour, 2)


def run(args: argparse.Namespace) -> None:
    """Render with the options of `add_options`, and print the figures."""
    bank = load_bank(args.bank)
    samples, seconds = load_speech(args.audio)
    voice = prosody(samples)
    renderer = FaceRenderer(bank, "cpu", threads=args.threads)
    renderer.set_source(load_portrait(args.portrait))
    args.out.mkdir(parents=True, exist_ok=True)
    shown = moments(voice, seconds)
    performances = []
    other = prosody(shuffled(samples), voice.speaker)
    for name, heard, seed in [*((f"seed {seed}", voice, seed) for seed in args.seeds), ("shuffled audio", other, 0)]:
        clip = args.out / f"{name.replace(' ', '_')}.mp4"
        performances.append(perform(bank, renderer, args.audio, name, heard, seed, clip, shown))
        print(f"{name}: {figures(performances[-1].rows, voice)}", flush=True)
    title = f"{args.audio.name}, head motion: frames at stressed syllables, in pauses and at the end"
    save_picture(args.out / "sheet.png", sheet(performances, voice, seconds, title))
    print(args.out / "sheet.png")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("bank", type=Path, help="bank (.safetensors) with Audio2Pose")
    parser.add_argument("--out", type=Path, required=True, help="folder of the clips and the sheet")
    parser.add_argument("--audio", type=Path, default=LINE, help="the line (default: that of the demo)")
    parser.add_argument("--portrait", type=Path, default=PORTRAIT, help="the portrait (default: that of the demo)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the motions (default 0 1 2)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
