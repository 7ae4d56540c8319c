"""Renew docs/manual/images and docs/first-hour.md from a run of the scripts in a real window:

python -m tests.gui.window first_hour first_hour:again manual_pictures
python -m tests.gui.publish
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from tests.gui import window

IMAGES, CHECKLIST = window.ROOT / "docs" / "manual" / "images", window.ROOT / "docs" / "first-hour.md"
WIDTH, QUALITY = 1100, 78  # pixels, JPEG

SOURCES = {  # picture of the manual: end of a screenshot's name
    "3d-face": "3d-face",
    "arkit": "arkit",
    "character": "_slider",
    "compositing": "compositing",
    "edit": "_moved",
    "emotion": "dialog_change_emotion",
    "export": "export",
    "head-motion": "_idle",
    "install": "install",
    "lip-sync": "_lip_sync",
    "panels": "panels",
    "render": "rendering",
    "several-characters": "several-characters",
    "troubleshooting": "troubleshooting",
    "workspace": "_result",
}
INTRODUCTION = """# The first hour

Measured by `tests/gui/first_hour.py` in a window of Blender {version}, from the tab to an exported movie. *Clicks*
counts the mouse clicks and keys of a step. *Seconds* is the time from the last of them to the result, on two cores that
other programs used as well. *Undo*: the script undid the step, found its result gone, redid it and found it back.

| | step | clicks | seconds | what the screen says meanwhile | undo |
|---|---|---|---|---|---|
"""


def publish(where: Path) -> None:
    IMAGES.mkdir(exist_ok=True)
    for name, source in SOURCES.items():
        (picture,) = where.glob(f"*{source}.png" if source.startswith("_") else f"{source}.png")
        with Image.open(picture) as image:
            small = image.convert("RGB")
            small.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
            small.save(IMAGES / f"{name}.jpg", quality=QUALITY, optimize=True, progressive=True)
    runs = [json.loads((where / f"first_hour{part}.json").read_text()) for part in ("", "again")]
    steps = [step for run in runs for step in run["steps"]]
    for step in steps:
        if "failed" in step:
            print(f"left out: {step['step']}: {step['failed']}")
    rows = [_row(number, step) for number, step in enumerate((step for step in steps if "failed" not in step), 1)]
    CHECKLIST.write_text(INTRODUCTION.format(version=runs[0]["version"]) + "\n".join(rows) + "\n", encoding="utf-8")


def _row(number: int, step: dict[str, Any]) -> str:
    says = "; ".join(f"*{text.replace('|', '/')}*" for text in step.get("says", []))
    undo = "yes" if step.get("undo") else ""
    return f"| {number} | {step['step']} | {step['clicks']} | {step['seconds']} | {says} | {undo} |"


if __name__ == "__main__":
    publish(window.folder())
