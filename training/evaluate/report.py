"""Output of the evaluation: table, plots and contact sheets."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

TILE = 192  # largest side of a picture in a sheet, in pixels
UNITS = {"%": (100.0, 1, " %"), "dB": (1.0, 2, " dB"), "r": (1.0, 2, ""), "": (1.0, 2, ""), "levels": (1.0, 1, "")}
UNITS |= {"ratio": (1.0, 1, " : 1"), "fps": (1.0, 0, " per second"), "frames": (1.0, 0, " frames")}

METHOD = """\
- The portrait is not quite at rest. Six driven frames talk and act at random (pose deviation {sway}); two rotate,
  tilt or shift the head alone, by {SWEEP} of a pose coefficient of 1. The face region is the bounding box of the
  tracked face points. Size and position of a head that is not at rest cannot be distinguished from those of another
  head. Two other groups of rows drive the same frames without this ambiguity: "from a portrait exactly at rest",
  and "relative to the portrait", where coefficients are differences from it, as when an artist adds keys to a
  portrait.
- Landmarks are 830 tracked vertices of the face. A result's landmarks are those of the portrait, moved by the
  inverse of the bank's flow; those hidden in portrait or frame do not count. Optical flow between truth and result
  is an independent check that uses pixels alone: it detects small errors well and large ones only in part, as its
  value for copying shows.
- Disentanglement: each coefficient alone at 0.7, with head movement subtracted. A face unit's own region are the
  points whose true movement is at least a quarter of the largest, the rest those with at most a twentieth. Units
  that move no point by 2 % of the eye distance are left out. For the pose it is movement that a rigid head explains
  over movement that it does not explain.
- Coefficients are read as in capture: relative to the portrait, by the bank's relative reader, and added
  to what is read from the portrait. Correlations are means over a bank's coefficients, or of all values pooled, as
  for capture.
- Identity is a proxy: Fisherfaces trained on rendered people, because the project contains no face recognition
  network. They use grey values of the aligned face.
- Emotions are recognised by a linear discriminant of the landmarks' displacement from the portrait at rest, trained
  on rendered people, with noise as large as the landmark target.
- Lips are closed if the gap is below 4 % of the eye distance in a frame during the sound; the mouth is at rest if
  closed and displaced by less than 3 %. Both are measured on the mesh with the coefficients that the audio network
  requests: in the picture, a bank that hardly opens its mouth would score well."""


@dataclass(frozen=True)
class Figure:
    """One row of the table. Shares are given in 0..1 with the unit "%".

    copy: value of copying the portrait; truth: value of the true frames, the best possible; target: lower limit, or
    upper limit if `at_most`; None if there is no target. A value of NaN or None was not measured.
    """

    key: str
    what: str
    value: float | None
    unit: str = ""
    copy: float | None = None
    truth: float | None = None
    target: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.target is None or self.value is None or math.isnan(self.value):
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target

    def shown(self, value: float | None) -> str:
        if value is None or math.isnan(value):
            return "-"
        if math.isinf(value):
            return "infinite"
        factor, digits, unit = UNITS[self.unit]
        return f"{value * factor:.{digits}f}{unit}"

    def line(self) -> str:
        target = "" if self.target is None else f"{'<=' if self.at_most else '>='} {self.shown(self.target)}"
        unmeasured = "" if self.target is None else "not measured"
        met = {True: "yes", False: "**no**", None: unmeasured}[self.met]
        cells = (self.what, self.shown(self.value), self.shown(self.copy), self.shown(self.truth), target, met)
        return f"| {' | '.join(cells)} |"


def table(figures: Iterable[Figure]) -> str:
    """The figures as a table in Markdown."""
    head = "| figure | bank | copying the source | the truth itself | target | met |\n|---|---|---|---|---|---|"
    return "\n".join([head, *(figure.line() for figure in figures)])


def save_json(figures: Sequence[Figure], details: Mapping[str, Any], path: Path) -> None:
    """Save figures by key, together with `details`; NaN and infinity become null."""
    data = {figure.key: asdict(figure) | {"met": figure.met} for figure in figures} | dict(details)
    path.write_text(json.dumps(_plain(data), indent=1) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return round(float(value), 5) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def save_sheet(rows: Sequence[Sequence[np.ndarray]], path: Path) -> None:
    """Save rows of square uint8 pictures as one picture; shorter rows are padded with white."""
    if not rows:
        return
    side = min(TILE, len(rows[0][0]))
    sheet = np.full((side * len(rows), side * max(map(len, rows)), 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
            sheet[y * side : (y + 1) * side, x * side : (x + 1) * side] = small
    Image.fromarray(sheet).save(path, quality=90)


# ------------------------------------------------------------------------------------------------------- plots


def _axes(width: float, height: float, columns: int = 1) -> Any:
    """A figure and its axes; None if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        return None
    canvas = Canvas((width, height), dpi=90, layout="constrained")
    return canvas, np.atleast_1d(canvas.subplots(1, columns))


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return _axes(1, 1) is not None


def plot_bars(
    names: Sequence[str], series: Mapping[str, Sequence[float]], path: Path, label: str, target: float | None = None
) -> None:
    """Grouped bars for each name; NaN is drawn as 0."""
    figure_and_axes = _axes(0.32 * len(names) + 2, 4)
    if figure_and_axes is None:
        return
    canvas, (axes,) = figure_and_axes
    place, width = np.arange(len(names)), 0.8 / len(series)
    for number, (name, values) in enumerate(series.items()):
        axes.bar(place + (number + 0.5) * width - 0.4, np.nan_to_num(values), width, label=name)
    if target is not None:
        axes.axhline(target, color="grey", linestyle="--", label=f"target {target:g}")
    axes.set_xticks(place, names, rotation=90, fontsize=8)
    axes.set_ylabel(label)
    axes.margins(x=0.01)
    axes.legend(fontsize=8)
    canvas.savefig(path)


def plot_scores(bank: np.ndarray, copy: np.ndarray, path: Path, label: str, target: float) -> None:
    """Scatter plot of every frame's score against copying, and histograms of both."""
    figure_and_axes = _axes(9, 4, 2)
    if figure_and_axes is None:
        return
    canvas, (points, spread) = figure_and_axes
    finite = np.isfinite(bank) & np.isfinite(copy)
    bank, copy = bank[finite], copy[finite]
    points.scatter(copy, bank, 5, alpha=0.4)
    both = [copy.min(), copy.max()] if len(copy) else [0, 1]
    points.plot(both, both, color="grey", label="equal to copying")
    points.set_xlabel(f"copying the source, {label}")
    points.set_ylabel(f"bank, {label}")
    points.axhline(target, color="grey", linestyle="--", label="target")
    points.legend(fontsize=8)
    spread.hist([bank, copy], 30, label=["bank", "copying"])
    spread.axvline(target, color="grey", linestyle="--")
    spread.set_xlabel(label)
    spread.set_ylabel("frames")
    spread.legend(fontsize=8)
    canvas.savefig(path)


def plot_confusion(shares: np.ndarray, names: Sequence[str], path: Path) -> None:
    figure_and_axes = _axes(5, 4.6)
    if figure_and_axes is None:
        return
    canvas, (axes,) = figure_and_axes
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(shares > 0.005):
        share = shares[row, column]
        colour = "white" if share > 0.5 else "black"
        axes.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("recognised")
    axes.set_ylabel("true")
    canvas.savefig(path)


def plot_voice(
    times: np.ndarray, curves: Mapping[str, np.ndarray], path: Path, closures: Sequence[tuple[float, float]],
    silences: Sequence[tuple[float, float]],
) -> None:  # fmt: skip
    """Curves over seconds, each scaled to its own peak, on closures (red) and silences (grey)."""
    figure_and_axes = _axes(12, 3)
    if figure_and_axes is None:
        return
    canvas, (axes,) = figure_and_axes
    for name, curve in curves.items():
        axes.plot(times, curve / max(float(np.abs(curve).max()), 1e-9), label=name, linewidth=1)
    for spans, colour in ((closures, "tab:red"), (silences, "grey")):
        for start, end in spans:
            axes.axvspan(start, end, color=colour, alpha=0.25, linewidth=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("relative to the peak")
    axes.legend(fontsize=8)
    axes.margins(x=0)
    canvas.savefig(path)


def plot_curves(logs: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> list[str]:
    """Plot the figures of training logs against minutes, one panel per figure; returns their names.

    logs: lines by name of the log, as the trainer writes them; those without "minutes" are skipped. Figures with the
    suffix "_copy" or "_rest" are dashed lines in the panel of the figure.
    """
    known = dict.fromkeys(
        key for lines in logs.values() for line in lines for key in line
        if key not in ("minutes", "step") and isinstance(line[key], (int, float))
    )  # fmt: skip
    names = [key for key in known if not key.endswith(("_copy", "_rest"))]
    figure_and_axes = _axes(3.6 * max(1, len(names)), 3.2, max(1, len(names)))
    if figure_and_axes is None or not names:
        return names
    canvas, panels = figure_and_axes
    for axes, name in zip(panels, names, strict=True):
        for log, lines in logs.items():
            for key, style in ((name, "-"), (f"{name}_copy", "--"), (f"{name}_rest", "--")):
                at = [(line["minutes"], line[key]) for line in lines if "minutes" in line and key in line]
                if at:
                    axes.plot(*zip(*at, strict=True), style, linewidth=1, label=f"{log} {key}")
        axes.set_xlabel("minutes of training")
        axes.set_title(name, fontsize=9)
        axes.legend(fontsize=6)
    canvas.savefig(path)
    return names


def read_log(path: Path) -> list[dict[str, float]]:
    """Lines of a training log, without one that was cut off by an interruption."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return [line for line in lines if isinstance(line, dict)]


def last_third(name: str, lines: Sequence[Mapping[str, float]], figure: str = "psnr") -> list[str]:
    """A sentence on the gain in the last third of a training; none if the log has too few lines."""
    at = [(line["minutes"], line[figure]) for line in lines if "minutes" in line and figure in line]
    if len(at) < 3:
        return []
    minutes, values = np.array(at).T
    before = float(np.interp(minutes[0] + 2 / 3 * (minutes[-1] - minutes[0]), minutes, values))
    return [
        f"{name}: {figure} {values[-1]:.2f} after {minutes[-1]:.0f} minutes of training, "
        f"{values[-1] - before:+.2f} in the last third."
    ]
