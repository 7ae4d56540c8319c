"""Run a script of this folder in a real Blender window, and take the screenshots that it asks for.

    EDTALK_GUI_BLENDER="blender" DISPLAY=:0 python -m tests.gui.window first_hour:install first_hour:engine first_hour

EDTALK_GUI_BLENDER is the command that starts a Blender 5.2 or later; it may have several words, for example a chroot
command. EDTALK_GUI_FOLDER is a folder that both can access under the same path (default: build/gui). Scripts, material
and results are placed there. Screenshots need ImageMagick's `import`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GEOMETRY = ("0", "0", "1600", "1000")


def command() -> list[str]:
    """The command that starts Blender; empty if no window is available."""
    return shlex.split(os.environ.get("EDTALK_GUI_BLENDER", "")) if os.environ.get("DISPLAY") else []


def folder(default: Path = ROOT / "build" / "gui") -> Path:
    return Path(os.environ.get("EDTALK_GUI_FOLDER", default))


def prepare(where: Path) -> None:
    """Copy the scripts and the demo's portraits and line into a folder."""
    where.mkdir(parents=True, exist_ok=True)
    demo = ROOT / "inference" / "demo"
    for file in (*HERE.glob("*.py"), *demo.glob("*.png"), demo / "line.wav"):
        shutil.copy(file, where)


def run(script: str, where: Path, *arguments: str, timeout: float = 1500, events: bool = True) -> dict[str, Any]:
    """Run a script in Blender until it has written its results, and return them.

    Raises AssertionError if Blender ends or hangs before, or if a step failed.
    """
    out, wanted = where / f"{script}{''.join(arguments)}.json", where / "shots.txt"
    for old in (out, wanted):
        old.unlink(missing_ok=True)
    simulate = ["--enable-event-simulate"] if events else []
    options = ["--window-geometry", *GEOMETRY, *simulate, "--python", str(where / f"{script}.py")]
    blender = subprocess.Popen([*command(), *options, "--", str(where), str(out), *arguments])
    try:
        until = time.monotonic() + timeout
        while not out.exists() and time.monotonic() < until and blender.poll() is None:
            if wanted.exists():
                time.sleep(1.0)
                take(where, **json.loads(wanted.read_text()))
                wanted.unlink()
            time.sleep(0.2)
    finally:
        if blender.poll() is None:
            time.sleep(4.0)
            blender.kill()
    assert out.exists(), f"Blender quit or hung before the end of {script}"
    done: dict[str, Any] = json.loads(out.read_text())
    assert "error" not in done, done["error"]
    return done


def take(where: Path, name: str, box: str) -> None:
    """Save a screenshot as NAME.png. box: area of the window as WxH+X+Y, empty for all of it."""
    if shutil.which("import"):
        crop = ["-crop", box] if box else []
        subprocess.run(["import", "-window", "root", *crop, "+repage", str(where / f"{name}.png")], check=True)


def main() -> None:
    where = folder()
    prepare(where)
    for script in sys.argv[1:]:
        name, *arguments = script.split(":")
        print(json.dumps(run(name, where, *arguments), indent=1))


if __name__ == "__main__":
    main()
