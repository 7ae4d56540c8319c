"""Renew docs/manual/images and docs/first-hour.md from a run of the scripts in a real window:

python -m tests.gui.window first_hour:install first_hour:engine first_hour first_hour:again manual_pictures
python -m tests.gui.publish
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from tests.gui import window

IMAGES, CHECKLIST = window.ROOT / "docs" / "manual" / "images", window.ROOT / "docs" / "first-hour.md"
WIDTH, QUALITY = 1000, 66  # pixels, JPEG

SOURCES = {  # picture of the manual: end of a screenshot's name
    "3d-face": "3d-face",
    "arkit": "arkit",
    "capture": "capture",
    "character": "_slider",
    "compositing": "compositing",
    "dub": "dub",
    "edit": "_moved",
    "emotion": "dialog_change_emotion",
    "export": "export",
    "farm": "farm",
    "head-motion": "_idle",
    "install": "install",
    "lip-sync": "_lip_sync",
    "render": "rendering",
    "several-characters": "several-characters",
    "troubleshooting": "troubleshooting",
    "workspace": "_result",
}
INTRODUCTION = """# The first hour

Measured by `tests/gui/first_hour.py` in a window of Blender {version}, from the zip to an exported movie. *Clicks*
counts the mouse clicks and keys of a step. *Seconds* is the time from the last of them to the result, on two cores that
other programs used as well; Blender drew with the processor. *Undo*: the script undid the step, found its result gone,
redid it and found it back. *Next:* is what the sidebar shows as the next step, where it changed.

| | step | clicks | seconds | what the screen says | undo |
|---|---|---|---|---|---|
"""


def publish(where: Path) -> None:
    IMAGES.mkdir(exist_ok=True)
    for name, source in SOURCES.items():
        picture = next(iter(where.glob(f"*{source}.png" if source.startswith("_") else f"{source}.png")), None)
        if picture is None:
            print(f"kept: {name}.jpg")
            continue
        with Image.open(picture) as image:
            small = image.convert("RGB")
            small.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
            small.save(IMAGES / f"{name}.jpg", quality=QUALITY, optimize=True, progressive=True)
    results = [where / f"first_hour{part}.json" for part in ("install", "engine", "", "again")]
    runs = [json.loads(path.read_text()) for path in results if path.exists()]
    steps = [step for run in runs for step in run["steps"]]
    for step in steps:
        if "failed" in step:
            print(f"left out: {step['step']}: {step['failed']}")
    shown = [step for step in steps if "failed" not in step]
    rows = [_row(number, step, before) for number, (before, step) in enumerate(pairwise([{}, *shown]), 1)]
    CHECKLIST.write_text(INTRODUCTION.format(version=runs[0]["version"]) + "\n".join(rows) + "\n", encoding="utf-8")


def _row(number: int, step: dict[str, Any], before: dict[str, Any]) -> str:
    says = [*step.get("says", []), step.get("next") if step.get("next") != before.get("next") else ""]
    phases: dict[str, str] = {}  # one text for each phase of a task, without its numbers
    for text in filter(None, says):
        phases.setdefault(re.sub(r"\d+ of .*", "", text), text)
    shown = "; ".join(f"*{text.replace('|', '/')}*" for text in phases.values())
    undo = "yes" if step.get("undo") else ""
    return f"| {number} | {step['step']} | {step['clicks']} | {step['seconds']} | {shown} | {undo} |"


if __name__ == "__main__":
    publish(window.folder())
