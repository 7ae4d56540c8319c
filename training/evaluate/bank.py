"""Evaluate a bank on people, photographs and voices it was not trained on, with copying the source as baseline.

    python -m training evaluate inference/banks/starter.safetensors --out DIR
    python -m training evaluate BANK --out DIR --size 128 --curve A.jsonl B.jsonl
    python -m training evaluate BANK --out DIR --quick

DIR/report.md has the table, plots and contact sheets, DIR/figures.json the numbers. Frames are rendered by
`FaceRenderer`, as in Blender.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from inference.contract.bank import Bank, load_bank
from training.units import EMOTIONS, NAMES

from . import figures as lines
from . import measure, people, photographs, report, voices
from .measure import Measurements
from .puppet import BankPuppet
from .recognition import confusion, train_classifiers
from .report import Figure

# Recordings that may not be published with the project; used where they exist.
MEDIA = Path(__file__).parents[2].parent / "shared" / "media"
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".m4a")


def sounds_in(places: Sequence[Path]) -> list[Path]:
    """The given files, and the sound files in the given folders."""
    found = []
    for place in places:
        inside = sorted(place.iterdir()) if place.is_dir() else [place]
        found += [path for path in inside if not place.is_dir() or path.suffix.lower() in SOUNDS]
    return found


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured of a bank.

    by_unit: by name, see `figures.disentanglement_figures`. by_column: see `figures.reading_figures`. spoken, acted: of
    voices and photographs. remarks: sentences for the report.
    """

    bank: Bank
    puppet: BankPuppet
    persons: range
    measured: Measurements
    by_unit: dict[str, np.ndarray]
    by_column: dict[str, np.ndarray]
    spoken: Sequence[voices.MouthMotion]
    acted: Sequence[photographs.Photograph]
    figures: list[Figure]
    remarks: list[str]


def evaluate(args: argparse.Namespace) -> list[Figure]:
    """Measure everything, write the report and return its figures."""
    began = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)

    def progress(text: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {text}", flush=True)

    found = measured_bank(args, progress)
    write_report(args, found)
    progress(f"{args.out / 'report.md'}")
    return found.figures


def measured_bank(args: argparse.Namespace, progress: Callable[[str], None]) -> Evaluation:
    """Measure a bank on people, voices and photographs, and its speed. progress: called with what is done."""
    bank, size = load_bank(args.bank), args.size
    if bank.names[: bank.config.generator.coefficient_count] != NAMES:
        raise SystemExit(
            f"{args.bank} has other coefficients than the rendered heads, so there is no ground truth for it. "
            "Choose a bank that was exported by `python -m training export`."
        )
    count = min(args.identities, 8) if args.quick else args.identities
    persons = range(args.first, args.first + count)
    classifiers = train_classifiers(12 if args.quick else 50)
    progress("classifiers trained")
    puppet = BankPuppet(bank, size, detail=args.detail)
    measured = measure.measure_people(
        puppet,
        persons,
        size,
        classifiers,
        args.sway,
        lambda done: progress(f"{done} people") if done % 10 == 0 else None,
    )
    apart, by_unit = lines.disentanglement_figures(puppet, persons[: max(1, count // 6)], size)
    progress("disentanglement")
    reading, by_column = lines.reading_figures(measured)
    figures = [*lines.people_figures(measured), *apart, *reading, *lines.person_figures(measured)]

    sounds = sounds_in(args.voices if args.voices is not None else [MEDIA] if MEDIA.is_dir() else [])
    more, spoken, remarks = lines.voice_figures(bank, puppet, sounds, persons[0], size, 4 if args.quick else 24)
    progress("voices")
    figures += more
    acted: list[photographs.Photograph] = []
    folder = args.photographs or MEDIA
    if folder.is_dir():
        more, acted, photograph_remarks = lines.photograph_figures(puppet, folder, size, classifiers)
        figures += more
        remarks = [*remarks, *photograph_remarks]
        progress("photographs")
    else:
        remarks = [*remarks, "No photographs were given (--photographs)."]
    speeds = lines.speed_figures(bank)
    progress("speed")
    return Evaluation(
        bank, puppet, persons, measured, by_unit, by_column, spoken, acted, [*figures, *speeds],
        [*remarks, *_speed_remarks(speeds)],
    )  # fmt: skip


def _speed_remarks(speeds: Sequence[Figure]) -> Iterator[str]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    yield f"Load of the machine while speed was measured: {load:.1f}. Above 2, other processes slow it down."
    if any(np.isnan(figure.value or 0) for figure in speeds if figure.key.startswith("speed")):
        yield "Missing speeds could not be measured because other processes used the cores. Repeat on a quiet machine."


def write_report(args: argparse.Namespace, found: Evaluation) -> None:
    """Write the report, its numbers, plots and contact sheets into the folder `args.out`."""
    out, measured = args.out, found.measured
    shares = confusion(measured.emotion_labels, measured.recognised["result"])
    details: dict[str, Any] = {
        "units": {
            name: dict(zip(("own", "rest", "share_of_truth", "head", "truth"), row, strict=True))
            for name, row in found.by_unit.items()
        },
        "read_r": {name: dict(zip(NAMES, row, strict=True)) for name, row in found.by_column.items()},
        "confusion": shares,
    }
    for number, person in enumerate(found.persons[:2]):
        report.save_sheet(measure.sweeps(found.puppet, person, args.size), out / f"sweeps-{number + 1}.jpg")
    logs = {path.stem: report.read_log(path) for path in args.curve}
    _plots(out, found, shares, logs)
    report.save_sheet(measured.sheet, out / "people.jpg")
    report.save_sheet(measured.emotions, out / "emotions.jpg")
    report.save_sheet(measured.worst, out / "worst.jpg")
    report.save_sheet(list(_photograph_rows(found.acted)), out / "photographs.jpg")
    report.save_json(found.figures, details, out / "figures.json")
    (out / "report.md").write_text(_text(args, found, logs))


def _photograph_rows(acted: Sequence[photographs.Photograph]) -> Iterator[list[np.ndarray]]:
    for one in acted:
        few = np.linspace(0, len(one.results) - 1, 8).round().astype(int)
        if one.truth is not None:
            yield [one.portrait, *one.truth[few]]
        yield [one.portrait, *one.results[few]]


def _plots(out: Path, found: Evaluation, shares: np.ndarray, logs: dict[str, list[dict[str, float]]]) -> None:
    scores = found.measured.scores
    report.plot_scores(scores["psnr"].ravel(), scores["psnr_copy"].ravel(), out / "psnr.png", "dB", 26.0)
    units = np.array([found.by_unit[name] for name in NAMES])
    of_truth = np.maximum(units[:, 4], 1e-9)
    shown = {
        "own region": units[:, 0] / of_truth,
        "the rest": units[:, 1] / of_truth,
        "in the true direction": units[:, 2],
    }
    report.plot_bars(NAMES, shown, out / "units.png", "of the true movement")
    shown = {"driven frames": found.by_column["result"], "true pictures": found.by_column["truth"]}
    report.plot_bars(NAMES, shown, out / "reading.png", "correlation", 0.9)
    report.plot_confusion(shares, list(EMOTIONS), out / "emotions.png")
    heard = [one for one in found.spoken if one.seen is not None] or list(found.spoken[:1])
    for one in heard[:1]:
        times = one.heard.times
        curves = {"lip opening asked for": one.gap, "voice": voices.loudness(one.heard.samples, times)}
        curves |= {} if one.seen is None else {"lip opening in the picture": one.seen}
        report.plot_voice(times, curves, out / "voice.png", one.heard.closures, one.heard.silences)
    if logs:
        report.plot_curves(logs, out / "curve.png")


def _text(args: argparse.Namespace, found: Evaluation, logs: dict) -> str:
    """The report in Markdown."""
    bank, measured, remarks = found.bank, found.measured, found.remarks
    asked = [figure for figure in found.figures if figure.target is not None]
    met = sum(figure.met is True for figure in asked)
    count, driven = len(measured.embedded["portrait"]), measured.scores["psnr"].shape[1]
    enlarged = f", enlarged from {bank.config.size} px" if bank.config.size < args.size else ""
    enlarged = ", with detail transfer" if args.detail else enlarged
    last = args.first + count - 1
    pictures = [
        (
            "people.jpg",
            "One person per row: portrait, then truth and result in pairs; the last pair is a pose sweep.",
        ),
        ("worst.jpg", "Frames with the lowest PSNR: portrait, truth, result."),
        ("sweeps-1.jpg", f"One coefficient at a time, truth above result: {', '.join(measure.SWEPT)}."),
        ("sweeps-2.jpg", "The same of another person."),
        ("emotions.jpg", f"Truth above result: at rest, {', '.join(EMOTIONS)}; half of them talking."),
    ]
    if found.acted:
        pictures.append(("photographs.jpg", "Real pictures, and real clips with the true frames above."))
    plots = [
        ("psnr.png", "PSNR of every driven frame, and of copying its source."),
        (
            "units.png",
            "Each coefficient alone: movement of its own region and of the rest, relative to the true movement.",
        ),
        ("reading.png", "Correlation of each coefficient as read from frames."),
        ("emotions.png", "Emotions, and how they were recognised."),
        ("voice.png", "Lip opening and loudness; red: /p b m/, grey: silence."),
    ] + [
        ("curve.png", "Held-out figures against training time; dashed: copying the source or predicting rest.")
    ] * bool(logs)
    shown = [
        f"![{Path(name).stem}]({name})\n{words}" for name, words in [*plots, *pictures] if (args.out / name).exists()
    ]
    remarks = [*remarks, *(sentence for name, lines in logs.items() for sentence in report.last_third(name, lines))]
    if not report.can_plot():
        remarks = [*remarks, "There are no plots because matplotlib is not installed."]
    return "\n\n".join([
        f"# Evaluation of {args.bank.name}",
        f"{count} people that were not trained on (identities {args.first} to {last}), {driven} driven frames each at "
        f"{args.size} px{enlarged}. {met} of {len(asked)} targets are met.",
        report.table(found.figures),
        "## How it is measured\n" + report.METHOD.format(sway=args.sway, **vars(people)),
        "## Remarks\n" + "\n".join(f"- {remark}" for remark in remarks),
        "## Pictures",
        *shown,
    ]) + "\n"  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Evaluate with the options of `add_options`, and print the table."""
    cv2.setNumThreads(1)
    torch.set_num_threads(args.threads)
    print(report.table(evaluate(args)))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("bank", type=Path, help="bank (.safetensors) to evaluate")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--identities", type=int, default=100, help="number of people (default 100)")
    parser.add_argument("--first", type=int, default=people.FIRST, help=f"first person (default {people.FIRST})")
    parser.add_argument("--size", type=int, default=256, help="pixels of the true frames (default 256)")
    parser.add_argument(
        "--sway",
        type=float,
        default=people.SWAY,
        help=f"deviation of the pose in driven frames (default {people.SWAY})",
    )
    parser.add_argument("--detail", action="store_true", help="use detail transfer, as shots above the bank's size do")
    parser.add_argument("--voices", type=Path, nargs="*", help="sound files, or folders of them")
    parser.add_argument("--photographs", type=Path, help="folder of pictures and clips of one face each")
    parser.add_argument("--curve", type=Path, nargs="*", default=[], help="training logs (.jsonl) to plot")
    parser.add_argument("--quick", action="store_true", help="few people and voices; takes less than a minute")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, except for the speed (default 1)")
