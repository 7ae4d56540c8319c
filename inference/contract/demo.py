"""The files of the demo: a portrait, a line of dialogue and its emotions. Their origins are in the demo folder."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "demo"

PORTRAIT = _FOLDER / "portrait_1.png"
LINE = _FOLDER / "line.wav"
TEXT = "I am only a painting, but somebody just brought me to life! Promise to remember me, when I must stop."
EMOTIONS = "0=neutral 1.1=neutral 1.8=happy 3.1=happy 4.1=sad:0.9"  # times in seconds, matching the words in line.txt
