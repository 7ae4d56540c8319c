"""The whole workflow in background mode, run by demo.sh with Blender's Python.

Builds the extension, installs it into a separate user folder, and creates a scene with a character, a line of dialogue
and emotions. Writes lips, head motion and blinks from the speech, renders the face to a strip, saves demo.blend and
exports demo.mp4.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent
BUILD = ROOT / "build"
LOG = BUILD / "demo.log"
ENGINE = ROOT / ".venv" / "worker" / "bin" / "python"
WIDTH = 512  # pixels of the exported clip


terminal = os.fdopen(os.dup(1), "w")  # stdout itself goes to LOG, because Blender prints every frame there


def say(text: str) -> None:
    print(f"demo: {text}", file=terminal, flush=True)


@contextlib.contextmanager
def into_log() -> Iterator[None]:
    """Redirect stdout and stderr, including those of Blender and subprocesses, to LOG. Print its end on an error."""
    BUILD.mkdir(exist_ok=True)
    with LOG.open("w") as log:
        stderr = os.dup(2)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(stderr, 2)
            print("".join(LOG.read_text().splitlines(keepends=True)[-20:]), file=sys.stderr)
            raise


def build_zip() -> Path:
    """Build the extension with Blender's own tool. Returns the zip file."""
    import bpy

    tool = Path(bpy.utils.resource_path("LOCAL")) / "scripts/addons_core/bl_pkg/cli/blender_ext.py"
    target = BUILD / "edtalk.zip"
    command = [sys.executable, str(tool), "build", "--source-dir", str(ROOT), "--output-filepath", str(target)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return target


def install(extension: Path) -> ModuleType:
    """Install and enable the extension. Returns its package."""
    import bpy

    bpy.ops.extensions.package_install_files(repo="user_default", filepath=str(extension), enable_on_install=True)
    return importlib.import_module("bl_ext.user_default.edtalk")


def make(package: str, blend: Path, movie: Path) -> Path:
    """Create, animate, render, save and export the demo scene. Returns the folder of the rendered shot."""
    import bpy

    names = "cli", "compat", "demo", "character.rest_pose", "timeline.sequencer", "engine.session", "render.export"
    cli, compat, demo, rest_pose, sequencer, session, render, performing = (
        importlib.import_module(f"{package}.edtalk_blender.{name}") for name in (*names, "lipsync.performing")
    )
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    scene = bpy.context.scene
    scene.render.resolution_x = scene.render.resolution_y = WIDTH
    bpy.ops.wm.save_as_mainfile(filepath=str(blend))  # frames are stored next to the file

    obj = demo.build(scene)
    session.wait(rest_pose.measure(obj))
    cli.lip_sync(scene, sequencer.dialogue(scene, obj))
    kinds = {"HEAD", "EYES"}
    session.wait(*(performing.perform(scene, strip, obj, kinds) for strip in sequencer.dialogue(scene, obj)))
    say(f"{obj.name} animated from speech: {len(compat.fcurves(obj))} F-curves")
    started = time.monotonic()
    plan = cli.render_faces(scene, [obj])[obj.name]
    say(f"{plan.missing} frames rendered in {time.monotonic() - started:.1f} s, {plan.reused} already rendered")
    bpy.ops.wm.save_as_mainfile(filepath=str(blend))
    render.export_movie(scene, movie)
    session.restart()
    return plan.folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "demo", help="output path without suffix (default: demo)")
    out = parser.parse_args().out.resolve()
    blend, movie, sheet = (out.with_suffix(suffix) for suffix in (".blend", ".mp4", ".png"))
    os.environ["BLENDER_USER_RESOURCES"] = str(BUILD / "demo-user")  # before bpy is imported: it is read only then
    os.environ.setdefault("EDTALK_WORKER_PYTHON", str(ENGINE))
    shutil.rmtree(BUILD / "demo-user", ignore_errors=True)

    with into_log():
        package = install(build_zip())
        say("extension built and installed")
        shot = make(package.__name__, blend, movie)
        demo = importlib.import_module(f"{package.__name__}.edtalk_blender.demo")
        title = f"{demo.PORTRAIT.name} says {demo.LINE.name}: {demo.EMOTIONS}"
        options = ["--video", movie, "--audio", demo.LINE, "--shot", shot, "--emotion", demo.EMOTIONS, "--title", title]
        command = [ENGINE, "-m", "inference", "sheet", *options, "--out", sheet, "--overwrite"]
        subprocess.run([str(word) for word in command], check=True, cwd=ROOT)
    say(f"wrote {blend.name}, {movie.name} and {sheet.name}")


if __name__ == "__main__":
    main()
