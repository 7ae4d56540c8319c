"""The demo's material: a face, a line of dialogue and what is felt in it. Where they come from stands beside them."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "demo"

PORTRAIT = _FOLDER / "portrait_1.png"
LINE = _FOLDER / "line.wav"
EMOTIONS = "0=neutral 1.1=neutral 1.8=happy 3.1=happy 4.1=sad:0.9"  # seconds; follows the words of line.txt
