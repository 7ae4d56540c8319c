"""What was measured as a table, plots and contact sheets."""

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

TILE = 192  # pixels, the most that a picture of a sheet has
UNITS = {"%": (100.0, 1, " %"), "dB": (1.0, 2, " dB"), "r": (1.0, 2, ""), "": (1.0, 2, ""), "levels": (1.0, 1, "")}
UNITS |= {"ratio": (1.0, 1, " : 1"), "fps": (1.0, 0, " a second"), "frames": (1.0, 0, " frames")}

METHOD = """\
- The portrait is not quite at rest. Six driven frames talk and act at random (pose deviation {sway}), two turn, tilt
  or shift the head alone, by {SWEEP} of what a pose coefficient of 1 amounts to. The face region is the box of the
  tracked face points. Size and place of a head that is not at rest cannot be told from those of another that is. Two
  kinds of lines drive the same frames without that doubt: "from a portrait exactly at rest", and "driven from where the
  portrait is", in which coefficients say how frames differ from it, as when an artist keys it from where it is.
- Landmarks are 830 tracked vertices of the face. A result's are the portrait's, moved by the bank's own flow turned
  round; those hidden in portrait or frame do not count. Optical flow between truth and result is a second opinion
  that looks at pixels alone: it sees small errors well and large ones only in part, as its figure for copying shows.
- Disentanglement: each coefficient alone at 0.7, the head's movement taken out. A face unit's own region is what moves
  at least a quarter as far as its furthest point in the truth about that person, the rest what moves at most a
  twentieth as far. No unit is left out for its name, only those that move no point by 2 % of the eye distance. For the
  pose it is movement that a solid head explains over movement that it does not.
- Coefficients are read as a film is captured: against the portrait, by the bank's relative and close readers, and added
  to what is read off the portrait. Correlations are means over a bank's coefficients, or of all numbers together, as
  capture's is.
- Identity is a proxy: Fisherfaces learnt from rendered truth of other people, as no recognition network comes with the
  project. They look at grey values of the face turned upright.
- Emotions are told by a linear discriminant of the landmarks' displacement from the portrait at rest, learnt from
  rendered truth of other people, with points as unsure as the landmark target allows.
- Lips are closed when they are within 4 % of the eye distance in a frame during the sound; the mouth is at rest when
  shut and within 3 % of its place. Both are judged by the mouth that the audio network asks for, on the mesh that the
  coefficients mean: in the picture, a bank that hardly opens its mouth would be praised for closing it."""


@dataclass(frozen=True)
class Figure:
    """One line of the table. A share is given in 0..1 with the unit "%".

    copy: the same of the portrait, unmoved. truth: the same of the truth, the most that could be had. target: at least
    this, or at most where `at_most`; None where the figure is for information. A value of NaN or None was not measured.
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
    head = "| figure | bank | copying the source | the truth itself | target | met |\n|---|---|---|---|---|---|"
    return "\n".join([head, *(figure.line() for figure in figures)])


def save_json(figures: Sequence[Figure], details: Mapping[str, Any], path: Path) -> None:
    """All figures by key, numbers that are none as null, and `details` beside them."""
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
    """Rows of square uint8 pictures, the shorter ones filled up with white."""
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
    """A figure and its axes; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        return None
    canvas = Canvas((width, height), dpi=90, layout="constrained")
    return canvas, np.atleast_1d(canvas.subplots(1, columns))


def can_plot() -> bool:
    return _axes(1, 1) is not None


def plot_bars(
    names: Sequence[str], series: Mapping[str, Sequence[float]], path: Path, label: str, target: float | None = None
) -> None:
    """Bars side by side for each name, NaN as none."""
    made = _axes(0.32 * len(names) + 2, 4)
    if made is None:
        return
    canvas, (axes,) = made
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
    """Every frame's score beside that of copying, and how they are spread."""
    made = _axes(9, 4, 2)
    if made is None:
        return
    canvas, (points, spread) = made
    finite = np.isfinite(bank) & np.isfinite(copy)
    bank, copy = bank[finite], copy[finite]
    points.scatter(copy, bank, 5, alpha=0.4)
    both = [copy.min(), copy.max()] if len(copy) else [0, 1]
    points.plot(both, both, color="grey", label="no better than copying")
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
    made = _axes(5, 4.6)
    if made is None:
        return
    canvas, (axes,) = made
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(shares > 0.005):
        share = shares[row, column]
        colour = "white" if share > 0.5 else "black"
        axes.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("told as")
    axes.set_ylabel("acted")
    canvas.savefig(path)


def plot_voice(
    times: np.ndarray, curves: Mapping[str, np.ndarray], path: Path, closures: Sequence[tuple[float, float]],
    silences: Sequence[tuple[float, float]],
) -> None:  # fmt: skip
    """Curves over seconds, each scaled to its own peak, on closures (red) and silences (grey)."""
    made = _axes(12, 3)
    if made is None:
        return
    canvas, (axes,) = made
    for name, curve in curves.items():
        axes.plot(times, curve / max(float(np.abs(curve).max()), 1e-9), label=name, linewidth=1)
    for spans, colour in ((closures, "tab:red"), (silences, "grey")):
        for start, end in spans:
            axes.axvspan(start, end, color=colour, alpha=0.25, linewidth=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("of its peak")
    axes.legend(fontsize=8)
    axes.margins(x=0)
    canvas.savefig(path)


def plot_curves(logs: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> list[str]:
    """Every held-out figure of training logs against minutes, one panel a figure, "_copy" of it dashed; their names.

    logs: by name, one mapping a line, as `train_generator` writes them; lines without "minutes" are skipped.
    """
    known = dict.fromkeys(
        key for lines in logs.values() for line in lines for key in line
        if key not in ("minutes", "step") and isinstance(line[key], (int, float))
    )  # fmt: skip
    names = [key for key in known if not key.endswith(("_copy", "_rest"))]
    made = _axes(3.6 * max(1, len(names)), 3.2, max(1, len(names)))
    if made is None or not names:
        return names
    canvas, panels = made
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
    """The lines of a training log; one cut short by an interruption is left out."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return [line for line in lines if isinstance(line, dict)]


def last_third(name: str, lines: Sequence[Mapping[str, float]], figure: str = "psnr") -> list[str]:
    """What a training log's last third of the time brought, as a sentence; none where it does not say."""
    at = [(line["minutes"], line[figure]) for line in lines if "minutes" in line and figure in line]
    if len(at) < 3:
        return []
    minutes, values = np.array(at).T
    before = float(np.interp(minutes[0] + 2 / 3 * (minutes[-1] - minutes[0]), minutes, values))
    return [
        f"{name}: {figure} {values[-1]:.2f} after {minutes[-1]:.0f} minutes of training, "
        f"{values[-1] - before:+.2f} in the last third of them."
    ]
