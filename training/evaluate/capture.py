"""Measures capture of small motions: brows, lids, smiles and jaw.

    python -m training evaluate-capture BANK --clips CLIPS --assets FOLDER --out report

*Rendered heads* perform films whose coefficients are known, by people that no bank is trained on; in the last frames
they hold still before a noisy camera. Figures: slope and correlation of the captured coefficients against the true
ones, and the deviation of each captured curve while the head holds still.

*Clips of real people* have no truth. Their frame at rest is drawn again with the captured coefficients, and the same
measures are taken in the clip's frames and in the drawn ones, see `MEASURES`: slope and correlation of drawn against
real motion. What the head's pose explains is subtracted from both. Brows are measured by optical flow, because the
landmark network hardly sees brows move: on lifelike heads it finds .007 of the eye distance for a raise of .04, while
the flow finds .047. A slope is given over the clips in which a measure moves by LEAST or more. Clips in which the head
travels far spoil the measure as well as the capture.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from inference.capture import capture
from inference.contract.bank import load_bank
from inference.contract.errors import EDTalkError
from inference.face.crop import EYES, TEMPLATE, Crop
from inference.face.framing import cut_at, frame_clip
from inference.face.landmarks import LEFT_LIDS, RIGHT_LIDS, find_each, square_at
from inference.lower_face import heights
from inference.media.clip import Clip
from inference.media.video_writer import VideoWriter
from inference.model.readers.relative import CELL, EXTENTS, FLOW_UNIT, SIZES
from inference.neutral import distance_from_rest
from inference.renderer import FaceRenderer

from ..heads.identity import identity
from ..heads.lifelike_render import renderer_of
from ..heads.sampling import limited
from ..units import NAMES as UNITS
from ..units import POSE_COLUMNS
from .photographs import CLIPS, portraits_in
from .recognition import correlations
from .report import save_sheet

FIRST = 100_200  # first person; blend weights and other tests use people before
UNITS_MEASURED = ("browDown", "browInnerUp", "browOuterUp", "eyeBlink", "eyeSquint", "mouthSmile", "jawOpen")
MEASURES = {  # and the deviation in eye distances from which a clip counts
    "inner brows": 0.015,
    "outer brows": 0.015,
    "lids": 0.014,  # opening of the eyes
    "smile": 0.02,  # height of the mouth's corners
    "jaw": 0.03,  # height of chin and lower lip
}
SIZE = 256  # pixels of the pictures
FPS = 25.0  # of the films of rendered heads
ACTED, STILL, KEY = 48, 12, 6  # frames of a film that move, that hold still, and between two keys
SWAY = 0.12  # deviation of the pose in the keys
LARGEST = 0.7  # of a coefficient in the keys
GRAIN = 2.0  # deviation of the camera's noise, in levels of 255
AT_ONCE = 8  # pictures
SHOWN = 9  # frames of a clip in the sheet


def film(person: int) -> np.ndarray:
    """(1 + ACTED + STILL, 36) coefficients: at rest, UNITS_MEASURED and the pose moving, and at rest again."""
    rng = np.random.default_rng([person, 4])
    keys = np.zeros((ACTED // KEY + 1, len(UNITS)))
    for row in keys[1:-1]:
        row[POSE_COLUMNS] = np.clip(rng.normal(0, SWAY, POSE_COLUMNS.stop - POSE_COLUMNS.start), -1, 1)
        for name in rng.choice(UNITS_MEASURED, 3, replace=False):
            row[UNITS.index(name)] = rng.uniform(0.05, LARGEST)
        row[:] = limited(row)
    at = np.arange(ACTED) / KEY
    part = (0.5 - 0.5 * np.cos(np.pi * (at % 1)))[:, None]
    moved = keys[at.astype(int)] * (1 - part) + keys[at.astype(int) + 1] * part
    return np.concatenate([np.zeros((1, len(UNITS))), moved, np.zeros((STILL, len(UNITS)))]).astype(np.float32)


def heads_captured(renderer: FaceRenderer, persons: Sequence[int], assets: Path | None) -> tuple[np.ndarray, ...]:
    """True and captured motion (N, 36) of films from their first frame, and captured motion (M, 36) while still.

    assets: of lifelike heads; None for drawn ones.
    """
    drawer, truths, reads, still = renderer_of(SIZE, assets), [], [], []
    for person in persons:
        rows, rng = film(person), np.random.default_rng([person, 5])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "film.mp4"
            with drawer.context, VideoWriter(path, FPS, (SIZE, SIZE)) as writer:
                drawer.show(identity(person))
                for row in rows:
                    image = drawer.render(row).image + rng.normal(0, GRAIN, (SIZE, SIZE, 3))
                    writer.write(np.clip(image + 0.5, 0, 255).astype(np.uint8))
            read = capture(renderer, Clip(path, FPS), "none", rest=0.0).rows.values[:, : len(UNITS)]
        truths.append(rows[1 : 1 + ACTED])
        reads.append(read[1 : 1 + ACTED] - read[0])
        still.append(read[1 + ACTED :] - read[1 + ACTED :].mean(0))
    return np.concatenate(truths), np.concatenate(reads), np.concatenate(still)


def slopes(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n,) slope of each column of `found` (T, n) against that of `truth`."""
    found, truth = found - found.mean(0), truth - truth.mean(0)
    return (found * truth).sum(0) / np.maximum(np.square(truth).sum(0), 1e-12)


def landmarks_of(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """(N, COUNT, 2) landmarks in pixels of face crops, uint8 (S, S, 3) each."""
    found = []
    for at in range(0, len(pictures), AT_ONCE):
        some = pictures[at : at + AT_ONCE]
        squares = [square_at((EYES + 0.5) * len(one) / TEMPLATE - 0.5) for one in some]
        found.append(find_each(some, squares, lips=False).points)
    return np.concatenate(found).astype(np.float64)


def brows(flow: np.ndarray) -> np.ndarray:
    """(N, 2) height of the inner and of the outer brows over the nose's bridge, in eye distances.

    flow: (N, 2, rows, columns) in the cells of the eyes' window, in FLOW_UNIT, see `WindowReader.features`.
    """
    (height, width), (across, down, below) = SIZES[1], EXTENTS[1]
    up = -flow[:, 1] * (FLOW_UNIT * 2 * across / width)
    y = below + down * (2 * (np.arange(height // CELL) + 0.5) / (height // CELL) - 1)
    x = np.abs(across * (2 * (np.arange(width // CELL) + 0.5) / (width // CELL) - 1))

    def mean(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return up[:, rows][:, :, columns].mean((1, 2))

    brow, bridge = (y > -0.38) & (y < -0.22), (y > 0.1)
    nose = mean(bridge, x < 0.17)
    return np.stack([mean(brow, x < 0.33) - nose, mean(brow, (x > 0.35) & (x < 0.83)) - nose], 1)


def lower_face_and_lids(points: np.ndarray) -> np.ndarray:
    """(N, 3) opening of the eyes, height of the mouth's corners, and depth of chin and lower lip, in eye distances.

    points: (N, COUNT, 2) landmarks. Heights are measured from the nose's base, in the frame of the eyes' corners.
    """
    at = points @ (1, 1j)
    right, left = (at[:, [lids[0], lids[4]]].mean(1) for lids in (RIGHT_LIDS, LEFT_LIDS))
    at = (at / (left - right)[:, None]).imag
    upper, lower = ([*RIGHT_LIDS[part], *LEFT_LIDS[part]] for part in (slice(1, 4), slice(5, 8)))
    jaw, corners = heights(points).T
    return np.stack([at[:, lower].mean(1) - at[:, upper].mean(1), corners, jaw], 1)


def measured(renderer: FaceRenderer, rest: np.ndarray, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """(N, 5) the MEASURES of pictures, uint8 (SIZE, SIZE, 3), of the same person as in the picture `rest`."""
    reference, found = renderer.reader.rest_reference(rest), []
    for at in range(0, len(pictures), AT_ONCE):
        windows, _ = renderer.reader.compared_windows(reference, pictures[at : at + AT_ONCE])
        found.append(brows(F.avg_pool2d(windows[1][:, -2:], CELL).cpu().numpy()))
    return np.concatenate([np.concatenate(found), lower_face_and_lids(landmarks_of(pictures))], 1)


def without_pose(values: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Values (N, n) less their mean and what yaw, pitch and roll, (N, 3 or more), explain."""
    angles = pose[:, :3] - pose[:, :3].mean(0)
    terms = np.column_stack([np.ones(len(angles)), angles, angles**2, angles[:, 0] * angles[:, 1]])
    return values - terms @ np.linalg.lstsq(terms, values, rcond=1e-4)[0]


def redrawn(renderer: FaceRenderer, rest: np.ndarray, motion: np.ndarray) -> list[np.ndarray]:
    """The picture `rest` (SIZE, SIZE, 3) moved by coefficients (N, n)."""
    renderer.set_source(rest, rest)
    return list(renderer.render(renderer.source_coefficients.values + motion))


def clip_measured(renderer: FaceRenderer, path: Path, fps: float, most: int) -> tuple[np.ndarray, np.ndarray, list]:
    """(N, 5) real and drawn motion, and a row of real and of drawn pictures in the order of the brows' height."""
    clip = Clip(path, fps, 0.0, most / fps)
    crop: Crop = frame_clip(clip.frames(), fps, SIZE, which="largest", label=path.name)
    pictures = [cut_at(rgb, crop, SIZE) for rgb in clip.frames()]
    rest = int(distance_from_rest(landmarks_of(pictures)).argmin())
    rows = capture(renderer, clip, crop, rest=rest / fps).rows.values
    drawn = redrawn(renderer, pictures[rest], rows - rows[rest])
    pose = rows[:, POSE_COLUMNS]
    real, made = (without_pose(measured(renderer, pictures[rest], shown), pose) for shown in (pictures, drawn))
    order = np.argsort(real[:, 0])[np.linspace(0, len(real) - 1, SHOWN).astype(int)]
    return real, made, [[shown[row] for row in order] for shown in (pictures, drawn)]


def heads_table(truth: np.ndarray, read: np.ndarray, still: np.ndarray) -> str:
    """Markdown table of `heads_captured`."""
    lines = ["| coefficient | slope | r | deviation while still |", "|---|---|---|---|"]
    slope, r, noise = slopes(read, truth), correlations(read, truth), still.std(0)
    for name in UNITS_MEASURED:
        k = UNITS.index(name)
        lines.append(f"| {name} | {slope[k]:.2f} | {r[k]:.2f} | {noise[k]:.3f} |")
    return "\n".join(lines)


def clips_table(found: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Markdown table of real and drawn motion (N, 5) by clip: deviation, slope and r of each measure."""
    head = " | ".join(MEASURES)
    lines = [f"| clip | {head} |", "|---" * (1 + len(MEASURES)) + "|"]
    every = {}
    for name, (real, drawn) in found.items():
        every[name] = np.stack([real.std(0), slopes(drawn, real), correlations(drawn, real)])
        cells = " | ".join(f"{sd:.3f}: {slope:.2f}, {r:.2f}" for sd, slope, r in every[name].T)
        lines.append(f"| {name} | {cells} |")
    values, least = np.stack(list(every.values())), np.array(list(MEASURES.values()))
    medians = []
    for column, moves in enumerate((values[:, 0] >= least).T):
        slope, r = np.median(values[moves, 1:, column], 0) if moves.any() else (np.nan, np.nan)
        medians.append(f"{moves.sum()} clips: {slope:.2f}, {r:.2f}")
    return "\n".join([*lines, f"| median where it moves | {' | '.join(medians)} |"])


def run(args: argparse.Namespace) -> None:
    """Measure with the options of `add_options`, write the report and print its tables."""
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    bank = load_bank(args.bank)
    renderer, text = FaceRenderer(bank, "cpu"), [f"# Capture of small motions by {args.bank.name}"]
    if not renderer.reader.can_compare or bank.names[: len(UNITS)] != UNITS:
        raise SystemExit(f"{args.bank} has no relative reader for the coefficients of the rendered heads.")
    persons = range(args.first, args.first + args.people)
    table = heads_table(*heads_captured(renderer, persons, args.assets))
    kind = "lifelike" if args.assets else "drawn"
    text += [f"## {args.people} {kind} heads, {ACTED} frames of each", table]
    print(table, flush=True)
    if args.clips:
        found, sheet = {}, []
        for path in portraits_in(args.clips):
            if path.suffix.lower() not in CLIPS:
                continue
            try:
                real, drawn, rows = clip_measured(renderer, path, args.fps, args.most)
            except EDTalkError as error:
                print(f"{path.name}: {error}", flush=True)
                continue
            found[path.stem] = real, drawn
            sheet += rows
            print(clips_table({path.stem: found[path.stem]}).splitlines()[2], flush=True)
            save_sheet(sheet, args.out / "clips.jpg")
        if found:
            what = f"Deviation of real motion in eye distances: slope and r of drawn motion, at {args.fps:g} fps."
            text += ["## Clips of real people", what, clips_table(found)]
            print(text[-1], flush=True)
    (args.out / "capture.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("bank", type=Path, metavar="BANK")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of capture.md and clips.jpg")
    parser.add_argument("--clips", type=Path, metavar="FOLDER", help="clips of one person each")
    parser.add_argument("--assets", type=Path, help="folder of MakeHuman's CC0 assets, for lifelike heads")
    parser.add_argument("--people", type=int, default=8, help="number of rendered people (default 8)")
    parser.add_argument("--first", type=int, default=FIRST, help=f"first of them (default {FIRST})")
    parser.add_argument("--fps", type=float, default=8.0, help="frames of a clip that are read per second (default 8)")
    parser.add_argument("--most", type=int, default=80, help="frames of a clip that are read at most (default 80)")
