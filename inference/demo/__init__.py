"""The demo's material: a face, a line of dialogue and what is felt in it. Where they come from stands beside them."""

from __future__ import annotations

from pathlib import Path

PORTRAIT = Path(__file__).with_name("portrait_1.png")
LINE = Path(__file__).with_name("line.wav")
EMOTIONS = "0=neutral 1.1=neutral 1.8=happy 3.1=happy 4.1=sad:0.9"  # seconds; follows the words of line.txt
