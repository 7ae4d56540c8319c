"""The first ten minutes in a real Blender window. Run it manually on a machine with a display:

    EDTALK_GUI_BLENDER="blender" DISPLAY=:0 python -m pytest tests/gui -s

EDTALK_GUI_BLENDER is the command that starts a Blender (5.2 or later) with the extension installed. It may have several
words, for example a chroot command. EDTALK_GUI_FOLDER is a folder that the test and Blender can both access (default: a
temporary folder). Screenshots are saved there; they require ImageMagick's `import`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT = 420  # seconds

pytestmark = pytest.mark.gui


@pytest.fixture
def command() -> list[str]:
    words = shlex.split(os.environ.get("EDTALK_GUI_BLENDER", ""))
    if not words or not os.environ.get("DISPLAY"):
        pytest.skip("needs a window: set EDTALK_GUI_BLENDER and DISPLAY (see this file)")
    return words


def test_the_first_ten_minutes(command: list[str], tmp_path: Path) -> None:
    folder = Path(os.environ.get("EDTALK_GUI_FOLDER", tmp_path))
    material = ROOT / "inference" / "demo"
    files = [shutil.copy(material / name, folder / name) for name in ("portrait_1.png", "line.wav")]
    script = shutil.copy(ROOT / "tests" / "gui" / "first_ten_minutes.py", folder)
    outcome, wanted = folder / "outcome.json", folder / "shots.txt"
    for old in (outcome, wanted):
        old.unlink(missing_ok=True)
    arguments = ["--window-geometry", "0", "0", "1600", "1000", "--enable-event-simulate", "--python", script, "--"]
    blender = subprocess.Popen([*command, *arguments, *files, str(outcome)])
    try:
        until = time.monotonic() + TIMEOUT
        while not outcome.exists() and time.monotonic() < until and blender.poll() is None:
            if wanted.exists() and (name := wanted.read_text()):
                time.sleep(1.0)
                if shutil.which("import"):
                    subprocess.run(["import", "-window", "root", str(folder / f"{name}.png")], check=True)
                wanted.unlink()
            time.sleep(0.2)
    finally:
        if blender.poll() is None:
            time.sleep(3.0)
            blender.kill()
    assert outcome.exists(), "Blender quit or hung before the end"
    done = json.loads(outcome.read_text())
    assert "error" not in done, done["error"]
    assert done["finished"]
    assert done["placed at once"]
    assert done["frames"] > 100
    assert done["pictures"] > 50
