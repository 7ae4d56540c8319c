"""Draws contact sheets: frames with their time, emotions, sound and mouth, and a timeline of the whole clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

FACE, CAPTION, STRIP, GAP = 224, 20, 40, 8  # pixels
COLUMNS = 4
TIMELINE = 150
WINDOW = 0.8  # seconds of sound below each frame
PAPER, INK, FAINT, SOUND, MOUTH = "#16181d", "#e8e8ea", "#33363f", "#6d7482", "#ffb454"
EMOTIONS = ("#7fd962", "#73b8ff", "#f07178", "#d2a6ff", "#95e6cb", "#e6b673", "#f29668")


@dataclass(frozen=True)
class Line:
    """What was rendered. times: (T,) of the frames in seconds. samples: of the sound. mouth: (T,) opening, 0 to 1.
    emotions: (T,) strengths by name."""

    times: np.ndarray
    samples: np.ndarray
    rate: int
    mouth: np.ndarray
    emotions: Mapping[str, np.ndarray]

    @property
    def duration(self) -> float:
        return max(len(self.samples) / self.rate, float(self.times[-1]) + 1e-3)


def evenly(frames: int, count: int) -> list[int]:
    """`count` frames distributed evenly over a clip."""
    return [int((index + 0.5) * frames / count) for index in range(min(count, frames))]


def draw(line: Line, frames: Mapping[int, np.ndarray], title: str = "") -> np.ndarray:
    """The sheet, uint8 (H, W, 3). frames: uint8 (h, w, 3) by frame number."""
    order = sorted(frames)
    rows = -(-len(order) // COLUMNS)
    cell = FACE + CAPTION + STRIP + GAP
    width = COLUMNS * (FACE + GAP) + GAP
    top = 2 * CAPTION + GAP if title else GAP
    sheet = Image.new("RGB", (width, top + rows * cell + TIMELINE + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((GAP, GAP), title, INK, _font(16))
    for place, frame in enumerate(order):
        x, y = GAP + place % COLUMNS * (FACE + GAP), top + place // COLUMNS * cell
        face = ImageOps.contain(Image.fromarray(frames[frame]), (FACE, FACE), Image.Resampling.LANCZOS)
        sheet.paste(face, (x + (FACE - face.width) // 2, y + (FACE - face.height) // 2))
        _caption(pen, x, y + FACE, line, frame)
        middle = float(line.times[frame])
        area = (x, y + FACE + CAPTION, x + FACE, y + FACE + CAPTION + STRIP)
        _strip(pen, area, line, middle - WINDOW / 2, middle + WINDOW / 2, [middle])
    area = (GAP, top + rows * cell, width - GAP, top + rows * cell + TIMELINE)
    _timeline(pen, area, line, order)
    return np.asarray(sheet)


def _caption(pen: ImageDraw.ImageDraw, x: int, y: int, line: Line, frame: int) -> None:
    pen.text((x, y + 3), f"{line.times[frame]:.2f} s", INK, _font(13))
    x += 58
    shown = [(name, colour, curve[frame]) for name, colour, curve in _coloured(line) if abs(curve[frame]) >= 0.005]
    for name, colour, strength in shown or [("neutral", SOUND, None)]:
        text = name if strength is None else f"{name} {strength:.2f}"
        pen.text((x, y + 3), text, colour, _font(13))
        x += int(pen.textlength(text, _font(13))) + 8


def _timeline(pen: ImageDraw.ImageDraw, area: tuple[int, int, int, int], line: Line, order: Sequence[int]) -> None:
    """The timeline: emotions above, sound and mouth below."""
    left, top, right, bottom = area
    half = (top + bottom) // 2
    _strip(pen, (left, half, right, bottom), line, 0.0, line.duration, [float(line.times[frame]) for frame in order])
    x = left
    for name, colour, curve in _coloured(line):
        top_most = max(1.0, float(np.abs(curve).max(initial=0.0)))
        points = _polyline(line.times, np.abs(curve) / top_most, (left, top + CAPTION, right, half - 4), line.duration)
        pen.line(points, colour, 2)
        pen.text((x, top), name, colour, _font(13))
        x += int(pen.textlength(name, _font(13))) + 14
    pen.text((x, top), "mouth", MOUTH, _font(13))
    pen.text((x + 54, top), "sound", SOUND, _font(13))


def _strip(
    pen: ImageDraw.ImageDraw, area: tuple[int, int, int, int], line: Line, start: float, end: float, marks: list[float]
) -> None:
    """Draw the sound from `start` to `end` seconds, the mouth opening as a curve and `marks` as vertical lines."""
    left, top, right, bottom = area
    pen.rectangle(area, FAINT)
    loudest = float(np.abs(line.samples).max(initial=1e-6))
    middle, half = (top + bottom) / 2, (bottom - top) / 2 - 2
    edges = np.rint(np.linspace(start, end, right - left + 1) * line.rate).astype(int).clip(0)
    for column in range(right - left):
        heard = line.samples[edges[column] : edges[column + 1]]
        if len(heard):
            high = float(np.abs(heard).max()) / loudest * half
            pen.line((left + column, middle - high, left + column, middle + high), SOUND)
    inside = (line.times >= start) & (line.times <= end)
    points = _polyline(line.times[inside] - start, line.mouth[inside], (left, top + 2, right, bottom - 2), end - start)
    if len(points) > 1:
        pen.line(points, MOUTH, 2)
    for mark in marks:
        x = left + (mark - start) / (end - start) * (right - left)
        pen.line((x, top, x, bottom), INK)


def _polyline(
    times: np.ndarray, values: np.ndarray, area: tuple[int, int, int, int], duration: float
) -> list[tuple[float, float]]:
    left, top, right, bottom = area
    x = left + times / duration * (right - left)
    y = bottom - np.clip(values, 0.0, 1.0) * (bottom - top)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _coloured(line: Line) -> list[tuple[str, str, np.ndarray]]:
    return [(name, EMOTIONS[place % len(EMOTIONS)], curve) for place, (name, curve) in enumerate(line.emotions.items())]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
