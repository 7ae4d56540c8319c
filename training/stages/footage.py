"""Make a bank from footage without labels: from clips of people, or from rendered heads as a proof.

    python -m training footage CLIPS --check
    python -m training footage CLIPS --out mine.safetensors --size 128 --minutes 480 --start starter --consent
    python -m training footage --heads 600 --size 64 --start none --out proof.safetensors

Steps, each resumable by the same command: prepare the clips, learn the codes of mouth and pose, stage 0 (encoder and
decoder: appearance and motion), stage 1 (mouth and pose part), stage 2 (expression), finish (ranges, axes, presets, the
bank).
Checkpoints, logs and figures are written into the folder --work, as is status.json, which other programs read. A file
STOP there, SIGTERM or Ctrl-C ends the training, with a bank of the best state so far; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inference.contract.bank import STARTER, load_bank
from inference.contract.errors import EDTalkError
from inference.contract.files import atomic_write
from inference.model.generator import Generator

from ..footage.heads import HeadsAsFootage
from ..footage.look import as_text, look_at_clips
from ..footage.motion import POOL_DRIVINGS, POOL_SOURCES, MotionPool, measure_motion_pool
from ..footage.named import KnownTake, known_takes, read_table
from ..footage.prepare import LEAST, clips_in, prepared
from ..footage.takes import COUNT, NINE, Footage, Split, split_in_time
from ..learning.devices import Devices
from ..learning.losses import weighted_sum
from ..learning.trainer import Limits, Unstable, seeded
from ..learning.watch import Stopped, Watch, add_progress_option
from .contact import write_sheet
from .expression import train_expression
from .expression_motion import train_expression_motion
from .finish_bank import FACES, Material, finish
from .footage_generator import footage_config
from .generator import fresh
from .mouth import MotionCodes, load_or_learn_codes
from .mouth_pose import WEIGHTS, MouthPoseLosses, draw_pairs, pair_batch, train_mouth_pose
from .reenactment import train_reenactment
from .transfer import StartBank, generator_of, transfer
from .upper_face import UpperFace, driving_codes, load_or_fit_upper_face

# Shares of --minutes without those of FIRST, which are a matter of minutes, whatever the length of the training.
SHARES = {
    "common-motion": 0.04, "own-motion": 0.14, "self": 0.28, "mouth-pose": 0.12, "expression-motion": 0.28,
    "expression": 0.14,
}  # fmt: skip
FIRST = {"mouth": (0.05, 6.0), "motion": (0.03, 3.0)}  # share of --minutes, and most minutes
ADVISED_STEPS = 4000  # of stage 1
PAIR_BYTES = 2e8  # of memory that a pair of stage 1 takes at 128 px
CONSENT = "I may use these recordings"
COPIES = 25  # of all weights in the checkpoints: averages, best states and optimisers of four stages
AVERAGE_POINTS = (
    (-0.3, -0.2), (0.3, -0.2), (0.0, 0.13), (-0.22, 0.4), (0.22, 0.4), (0.0, 0.33), (0.0, 0.5), (0.0, 0.4), (0.0, 0.75),
)  # fmt: skip
HEAD_FRAMES, HEAD_SIZE = 10, 128  # pictures of a rendered person, and their least size in pixels

Figures = Callable[[MotionCodes, UpperFace], Callable[[Generator], Mapping[str, Any]]]


def stage_args(args: argparse.Namespace, name: str, **more: Any) -> argparse.Namespace:
    """Options of one stage. more: options that only some stages have."""
    common = {"out": args.work / f"{name}.pt", "rate": args.rate, "size": args.size, "seed": args.seed}
    return argparse.Namespace(**common, watch=getattr(args, "watch", None), **more)


def planned_minutes(args: argparse.Namespace) -> dict[str, float]:
    """Minutes of every phase in order, --minutes in all. With a start file there is no common motion."""
    first = {name: min(share * args.minutes, most) for name, (share, most) in FIRST.items()}
    left = args.minutes - sum(first.values())
    shares = {name: share for name, share in SHARES.items() if args.start == "none" or name != "common-motion"}
    return first | {name: left * share / sum(shares.values()) for name, share in shares.items()}


def stage_limits(args: argparse.Namespace) -> dict[str, Limits]:
    """Limits of every phase: its part of --minutes, or --steps."""
    planned = planned_minutes(args)
    return {name: Limits(planned.get(name, 0.0), args.steps) for name in SHARES}


def load_or_measure_pool(
    path: Path,
    footage: Footage,
    seed: int,
    sources: int,
    *,
    minutes: float = math.inf,
    on_progress: Callable[[float, int], object] = lambda share, step: None,
) -> MotionPool:
    """Load the motion pool from `path`, or measure it and write it there.

    minutes, on_progress: see `measure_motion_pool`.
    """
    if path.exists():
        saved = torch.load(path, weights_only=False)
        return MotionPool(*saved)
    rng = np.random.default_rng(seed)
    pool = measure_motion_pool(footage, sources, POOL_DRIVINGS, rng, minutes=minutes, on_progress=on_progress)
    parts = (pool.source_rows, pool.driving_rows, pool.source, pool.driving, pool.inside)
    partial = path.with_suffix(".partial")
    torch.save(parts, partial)
    partial.replace(path)
    return pool


def load_start_bank(name: str, size: int) -> StartBank | None:
    """The bank that a training starts from; None for "none". Raises EDTalkError for another size or other widths."""
    if name == "none":
        return None
    bank = load_bank(STARTER if name == "starter" else Path(name))
    theirs, ours = bank.config.generator, footage_config(size)
    if theirs.size != size:
        raise EDTalkError(
            f"{bank.path} draws {theirs.size} px, but --size is {size}.", f"Give --size {theirs.size}.", "bank"
        )
    if (theirs.style_dim, dict(theirs.channels)) != (ours.style_dim, dict(ours.channels)):
        raise EDTalkError(
            f"{bank.path} has layers of other widths than a bank from footage has: a latent of {theirs.style_dim} "
            f"numbers, expected {ours.style_dim}.",
            "Start from the starter bank, or from a bank that was made from footage.", "bank",
        )  # fmt: skip
    return StartBank(bank, generator_of(bank))


def train_all(
    args: argparse.Namespace,
    split: Split,
    figures: Figures,
) -> tuple[Generator, MotionCodes, UpperFace]:
    """Train or resume stages 0 to 2.

    figures: given the codes, returns a function that computes further figures of a generator for the logs.

    Returns the generator with three banks, the codes of mouth and pose, and those of the upper face. Raises Stopped or
    Unstable, with both codes in their `codes`.
    """
    rng = seeded(args)
    args.work.mkdir(parents=True, exist_ok=True)
    devices = Devices(args.devices, accumulate=args.accumulate)
    args.pairs = devices.fitted(args.pairs, PAIR_BYTES * (args.size / 128) ** 2, "pairs")
    watch: Watch | None = getattr(args, "watch", None)
    start = load_start_bank(args.start, args.size)
    teacher = load_or_learn_codes(
        split.trained, args.work / "mouth.pt", rng, steps=args.mouth_steps, minutes=planned_minutes(args)["mouth"],
        on_progress=_reporting(watch, "mouth"),
    )  # fmt: skip
    upper = load_or_fit_upper_face(args.work / "upper_face.pt", split.trained)
    further_figures = figures(teacher, upper)
    sheet, heldout_codes = args.work / "sheet.jpg", driving_codes(teacher, upper, split.heldout)

    def evaluate(model: Generator) -> Mapping[str, Any]:
        if watch is not None:
            write_sheet(model, split.heldout, heldout_codes, sheet)
            watch.shown(sheet)
        return further_figures(model)

    pool = load_or_measure_pool(
        args.work / "motion.pt", split.trained, args.seed, args.pool, minutes=planned_minutes(args)["motion"],
        on_progress=_reporting(watch, "motion"),
    )  # fmt: skip
    if watch is not None:
        watch.at("motion", 1.0)  # also if it was measured before; reading the clips by the start bank takes a while
    try:
        model = train_stages(args, split, teacher, upper, pool, start, devices, rng, evaluate)
    except (Stopped, Unstable) as end:
        end.codes = teacher, upper
        raise
    return model, teacher, upper


def _reporting(watch: Watch | None, phase: str) -> Callable[[float, int], object]:
    return lambda share, step: watch.go_on(phase, share, step) if watch is not None else None


def train_stages(
    args: argparse.Namespace,
    split: Split,
    teacher: MotionCodes,
    upper: UpperFace,
    pool: MotionPool,
    start: StartBank | None,
    devices: Devices,
    rng: np.random.Generator,
    evaluate: Callable[[Generator], Mapping[str, Any]],
) -> Generator:
    """Train or resume the generator in its four stages. Raises Stopped or Unstable."""
    limits, parts = stage_limits(args), (split.trained, split.heldout)
    stage0_limits = {name: limits[name] for name in ("common-motion", "own-motion", "self")}

    def begin(model: Generator, codes: np.ndarray) -> None:
        assert start is not None
        transfer(model, start, split.trained, codes, rng)

    model = train_reenactment(
        stage_args(args, "stage0", sources=args.sources), *parts, teacher, stage0_limits, rng, evaluate, pool=pool,
        start=None if start is None else begin,
    )  # fmt: skip
    model = train_mouth_pose(
        stage_args(args, "stage1", pairs=args.pairs), model, *parts, teacher, limits["mouth-pose"], rng, evaluate,
        pool=pool, region=None if args.reach == "none" else args.reach, devices=devices,
    )  # fmt: skip
    model = train_expression_motion(
        stage_args(args, "expression_motion", sources=args.sources), model, *parts, teacher, upper,
        limits["expression-motion"], rng, evaluate, pool=pool, started=start is not None,
    )  # fmt: skip
    return train_expression(
        stage_args(args, "expression", sources=args.sources), model, *parts, teacher, upper, limits["expression"], rng,
        evaluate, pool=pool, devices=devices,
    )  # fmt: skip


def can_render(phase: str, start: str) -> bool:
    """Whether a generator that stopped in this phase can render pictures. start: value of --start."""
    return phase in ("self", "mouth-pose", "expression-motion", "expression") or (
        phase == "own-motion" and start != "none"
    )


def proof_figures(args: argparse.Namespace) -> Figures:
    """Figures of rendered people, for which the truth is known: the gates of the proof."""
    from ..evaluate.disentangled import Truth, gate_figures

    truth = Truth(args.heads, args.train, people=args.measured)
    return lambda teacher, upper: lambda model: gate_figures(model, truth, teacher, upper)


def read_tables(args: argparse.Namespace) -> tuple[dict[str, str] | None, dict[str, str] | None]:
    """Person and emotion by name of a clip, from the CSV files of --person-of and --emotion-of; None without a file.

    Raises EDTalkError for files or clips that cannot be used.
    """
    names = {clip.name for clip, _ in clips_in(args.clips)}
    people = read_table(args.person_of, "person", names) if args.person_of else None
    emotions = read_table(args.emotion_of, "emotion", names) if args.emotion_of else None
    return people, emotions


def check_clips(args: argparse.Namespace) -> None:
    """Check the clips, print a report and write check.json into --work. Raises SystemExit(1) if there is a problem."""
    report = look_at_clips(
        args.clips, args.work, args.size, args.minutes, lambda: measured_step(args.size, args.pairs),
        SHARES["mouth-pose"], ADVISED_STEPS, checkpoint_bytes(args.size),
    )  # fmt: skip
    try:
        read_tables(args)
    except EDTalkError as error:
        if report["ok"]:
            report |= {"ok": False, "problem": error.message, "hint": error.hint}
    args.work.mkdir(parents=True, exist_ok=True)
    with atomic_write(args.work / "check.json") as partial:
        partial.write_text(json.dumps(report, indent=1))
    print(json.dumps(report) if args.json else as_text(report), flush=True)
    if not report["ok"]:
        raise SystemExit(1)


def measured_step(size: int, pairs: int) -> float:
    """Seconds of a step of stage 1 on this machine, from two steps with one pair."""
    rng = np.random.default_rng(0)
    points = np.zeros((4, COUNT, 2), np.float32)
    points[:, : len(NINE)] = AVERAGE_POINTS
    frames = rng.integers(0, 255, (4, size, size, 3), dtype=np.uint8)
    footage = Footage(frames, points, np.array([0, 0, 1, 1]), np.zeros(4, np.int64), np.arange(4.0))
    losses_of, codes = MouthPoseLosses(fresh(footage_config(size))), np.zeros((4, 26), np.float32)
    seconds = []
    for _ in range(2):
        start_time = time.perf_counter()
        losses = losses_of(pair_batch(footage, codes, size, draw_pairs(footage, rng, 1), rng))
        weighted_sum(losses, WEIGHTS).backward()
        seconds.append(time.perf_counter() - start_time)
    return pairs * min(seconds)


def checkpoint_bytes(size: int) -> float:
    """Bytes of all checkpoints of a training."""
    weights = sum(part.numel() for part in fresh(footage_config(size)).parameters())
    return 4.0 * COPIES * weights


def run(args: argparse.Namespace) -> None:
    """Train with the options of `add_options`. Raises SystemExit if neither clips nor heads are given."""
    if bool(args.clips) == bool(args.heads):
        raise SystemExit(
            "Give either clips (files or folders of movies), or --heads with a number of people to render."
        )
    if args.out is None and not (args.check and args.clips):
        raise SystemExit("Give --out, the bank (.safetensors) to write.")
    if args.out is not None and args.out.suffix != ".safetensors":
        found = f"the ending {args.out.suffix}" if args.out.suffix else "no ending"
        raise EDTalkError(
            f"--out {args.out} is not a bank: expected a name that ends in .safetensors, found {found}.",
            f"Give a name such as {args.out.with_suffix('.safetensors').name}.",
        )
    args.work = args.work or (args.out or Path("check")).with_suffix(".work")
    torch.set_num_threads(args.threads)
    if args.check:
        check_clips(args)
        return
    planned = {"prepare": None} | planned_minutes(args) | {"finish": None}
    with Watch(args.work, "footage", planned, args.out, openjd=args.progress == "openjd") as args.watch:
        make_bank(args, args.watch)


def make_bank(args: argparse.Namespace, watch: Watch) -> None:
    """Prepare, train and write the bank; after a stop or an unstable training too, if the generator can render.

    Raises EDTalkError for input that cannot be used, and Unstable after writing the bank.
    """
    load_start_bank(args.start, args.size)  # raises before hours of work
    end: Stopped | Unstable | None = None
    try:
        split, material, figures = read_material(args, watch)
        model, teacher, upper = train_all(args, split, figures)
    except (Stopped, Unstable) as ended:
        end = ended
        if end.best is None or not can_render(end.phase, args.start):
            if isinstance(end, Unstable):
                raise
            watch.end("stopped", "The training has stopped before it could draw. The same command goes on.")
            return
        model, (teacher, upper) = end.best, end.codes
    watch.at("finish", 0.0)
    finish(model, teacher, upper, split, args.out, material, start=args.start, licence=args.licence, faces=FACES)
    watch.wrote(args.out)
    if isinstance(end, Unstable):
        raise end
    if end is not None:
        watch.end("stopped", f"The training has stopped. {args.out.name} has its best state; the same command goes on.")
        return
    watch.end("done", f"The training is done: {args.out.name}.")


def require_consent(given: bool) -> None:
    """Raise EDTalkError unless consent was given."""
    if not given:
        raise EDTalkError("The clips cannot be used without consent.", f'Add --consent, which states: "{CONSENT}".')


def require_same_clips(work: Path, takes: Sequence[KnownTake]) -> None:
    """Raise EDTalkError if a training was started with other clips: its codes and checkpoints belong to them."""
    listed, now = work / "trained_on.json", {take.sha256: take.clip for take in takes}
    before = json.loads(listed.read_text()) if listed.exists() else now
    changed = [f"{now[key]} is new" for key in now if key not in before]
    changed += [f"{before[key]} is missing" for key in before if key not in now]
    if changed:
        raise EDTalkError(
            f"The training in {work} was started with other clips: {', '.join(changed)}.",
            "Give the same clips, or another folder for the training.",
        )
    with atomic_write(listed) as partial:
        partial.write_text(json.dumps(now, indent=1))


def render_heads(args: argparse.Namespace) -> None:
    """Render `args.heads` people to train on and `args.measured` to evaluate into --work, or resume this.

    Raises EDTalkError if `args.heads` is neither a folder nor a number.
    """
    from ..heads.dataset import render_dataset

    if not str(args.heads).isdecimal() or int(str(args.heads)) < 2:
        raise EDTalkError(
            f"--heads {args.heads} is neither a folder nor a number of people.",
            "Give a data set of `python -m training heads`, or how many people to render, such as 600.",
        )
    args.train, args.heads = int(str(args.heads)), args.work / "heads"
    render_dataset(args.heads, args.train + args.measured, HEAD_FRAMES, max(args.size, HEAD_SIZE))


def read_material(args: argparse.Namespace, watch: Watch) -> tuple[Split, Material, Figures]:
    """Footage to train on, its origin, and further figures of a generator.

    Raises EDTalkError without consent or for clips that cannot be used, and Stopped.
    """
    if args.heads:
        if not args.heads.is_dir():
            render_heads(args)
        split = Split(HeadsAsFootage(args.heads, 0, args.train), HeadsAsFootage(args.heads, args.train))
        return split, Material(f"{args.train} rendered people (CC0), seen without labels"), proof_figures(args)
    require_consent(args.consent)
    people, emotions = read_tables(args)
    folder = args.work / "footage"
    footage, origin = prepared(
        args.clips, folder, args.size, least=LEAST, people=people, emotions=emotions,
        on_progress=lambda share, clip: watch.go_on("prepare", share, doing=clip),
    )  # fmt: skip
    require_same_clips(args.work, known_takes(folder))
    known = Material(f"{origin}. {CONSENT}.", CONSENT, tuple(known_takes(folder)))
    return split_in_time(footage), known, lambda teacher, upper: lambda model: {}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("clips", nargs="*", type=Path, help="movies, or folders of movies")
    parser.add_argument(
        "--heads", type=Path, help="number of rendered people to use as footage, as a proof, or a data set of them"
    )
    parser.add_argument("--train", type=int, default=600, help="with a data set: people to train on (default 600)")
    parser.add_argument(
        "--measured", type=int, default=40, help="with --heads: held-out people to measure (default 40)"
    )
    parser.add_argument("--out", type=Path, help="bank (.safetensors) to write")
    parser.add_argument("--consent", action="store_true", help=f'states "{CONSENT}"; needed with clips')
    parser.add_argument(
        "--check", action="store_true", help="only look at the clips: what is usable, and what a training needs"
    )
    parser.add_argument("--json", action="store_true", help="with --check: print JSON, as it is in check.json")
    parser.add_argument("--work", type=Path, help="folder of checkpoints and logs (default: OUT with .work)")
    add_progress_option(parser)
    parser.add_argument("--person-of", type=Path, help="CSV file of clip,person (default: the clip's folder)")
    parser.add_argument(
        "--emotion-of", type=Path, help="CSV file of clip,emotion (default: a folder such as happy, else none)"
    )
    parser.add_argument("--size", type=int, default=128, choices=(32, 64, 128, 256), help="pixels (default 128)")
    parser.add_argument("--start", default="none", help='bank to take encoder and decoder from, "starter" or "none"')
    parser.add_argument("--minutes", type=float, default=480.0, help="time of training in all (default 480)")
    parser.add_argument("--steps", type=int, help="limit of each phase in steps (default: none)")
    parser.add_argument("--mouth-steps", type=int, default=900, help="steps of the mouth's code (default 900)")
    parser.add_argument(
        "--pool", type=int, default=POOL_SOURCES, help=f"sources with known motion (default {POOL_SOURCES})"
    )
    parser.add_argument("--sources", type=int, default=8, help="sources per step (default 8)")
    parser.add_argument("--pairs", type=int, default=6, help="pairs per step of stage 1 (default 6)")
    parser.add_argument("--reach", default="chin", choices=("chin", "lips", "none"), help="patch of the mouth swap")
    parser.add_argument("--devices", type=int, default=1, help="devices for stages 1 and 2 (default 1)")
    parser.add_argument("--accumulate", type=int, default=1, help="steps whose gradients are averaged (default 1)")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate (default 0.003)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    parser.add_argument("--licence", default="", help="terms of the footage (default: yours; made from your footage)")
