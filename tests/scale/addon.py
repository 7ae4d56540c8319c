"""Processor time and memory of the add-on, in Blender as a Python module, with the fake worker.

All times are those of one thread, Blender's main thread, so other programs do not change them.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
EXTENSION = "bl_ext.user_default.edtalk"
FRAMES = 250, 2500, 10_000, 30_000, 90_000  # 10 s to 1 h at 25 fps
CHARACTERS = 1, 5, 10, 20
FILES = 1000, 10_000, 100_000
KEYS = 100, 1000, 10_000, 100_000
SLIDERS = 12  # that move
SHORT = 250  # frames of a shot where others than the frames are varied
_PNG = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"


def run() -> dict[str, Any]:
    """Measure. Returns figures by name, all as JSON values; times in seconds of the main thread."""
    with tempfile.TemporaryDirectory(prefix="edtalk_scale_") as folder:
        os.environ["BLENDER_USER_RESOURCES"] = folder
        package = _enable()
        import bpy

        return {
            "blender": bpy.app.version_string,
            "frames": {str(count): shot(package, Path(folder), count) for count in FRAMES},
            "characters": {str(count): cast(package, Path(folder), count) for count in CHARACTERS},
            "files": {str(count): cache(package, Path(folder), count) for count in FILES},
            "keys": {str(count): keys(package, count) for count in KEYS},
        }


def shot(package: ModuleType, folder: Path, frames: int) -> dict[str, float]:
    """One character and a shot of some frames, of which all pictures are in the folder when the worker is asked."""
    import bpy

    scene = _scene(frames)
    obj = _character(package, scene, "Anna")
    _animate(package, obj, frames)
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / f"shot_{frames}.blend"))
    _fake_engine(package)
    package.engine.session.wait(package.character.rest_pose.measure(obj))
    face_shot = package.render.face_shot
    face = package.character.snapshot.read(obj)
    span = 1, frames + 1
    found = {"peak_before_mib": _peak_mib()}
    made, found["sample_s"] = _timed(lambda: face_shot.shot_of(scene, obj, face, span))
    _, found["name_s"] = _timed(made.file_names)
    _, found["write_s"] = _timed(lambda: made.write(folder / f"written_{frames}"))
    found |= _press(package, scene, [obj])
    (task,) = package.engine.session.tasks
    (strip,) = package.timeline.sequencer.faces(scene, obj)
    handles = package.compat.left_handle(strip), package.compat.right_handle(strip)
    assert handles == span, f"the strip is {handles}, not {span}"
    while not task.finished:  # the fake worker writes a file per frame
        ticks = _ticks(package)
        found["longest_tick_s"] = max(found.get("longest_tick_s", 0.0), max(ticks))
        found["ticks_s"] = found.get("ticks_s", 0.0) + sum(ticks)
    assert not task.error, task.error
    assert not package.render.face_strip.waiting_frames(strip)
    _, found["find_again_s"] = _timed(lambda: made.missing())
    found |= {f"again_{name}": value for name, value in _press(package, scene, [obj]).items()}
    assert not package.engine.session.tasks
    found |= _check(package)
    found |= _steps("survey", package.render.survey.steps())
    purge = package.render.cache_limit.Purge([Path(bpy.path.abspath(strip.directory))], 0)
    found["longest_delete_step_s"] = _longest_purge_step(purge)
    found |= _steps("recovery", package.render.recovery.steps())
    _, found["settle_s"] = _timed(lambda: package.handlers.settle_scene(scene))
    found["peak_mib"] = _peak_mib()
    return found


def cast(package: ModuleType, folder: Path, count: int) -> dict[str, float]:
    """Several characters, each with a shot of its own, rendered one after the other."""
    import bpy

    scene = _scene(SHORT)
    objects = [_character(package, scene, f"Face {number}") for number in range(count)]
    for number, obj in enumerate(objects):
        _animate(package, obj, SHORT, seed=number)
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / f"cast_{count}.blend"))
    _fake_engine(package)
    session = package.engine.session
    session.wait(*(package.character.rest_pose.measure(obj) for obj in objects))
    found = _press(package, scene, objects) | {"longest_tick_s": 0.0, "ticks_s": 0.0}
    tasks = list(session.tasks)
    while any(not task.finished for task in tasks):
        ticks = _ticks(package)
        found["longest_tick_s"] = max(found["longest_tick_s"], max(ticks))
        found["ticks_s"] += sum(ticks)
    found |= _check(package)
    found |= _steps("recovery", package.render.recovery.steps())
    _, found["settle_s"] = _timed(lambda: package.handlers.settle_scene(scene))
    return found


def cache(package: ModuleType, folder: Path, files: int) -> dict[str, float]:
    """A folder of rendered frames, of which 1,000 are shown."""
    import bpy

    scene = _scene(SHORT)
    frames = folder / f"cache_{files}" / "frames"
    frames.mkdir(parents=True)
    names = [f"{number:020x}.png" for number in range(files)]
    for name in names:
        (frames / name).write_bytes(b"".join(_PNG))
        os.utime(frames / name, (0, 0))
    strip = package.compat.new_image(scene, "face", frames / names[0], 1, 1)
    package.compat.set_files(strip, names[:1000])
    face_strip, cache_limit = package.render.face_strip, package.render.cache_limit
    shown, survey = cache_limit.shown_names(), package.render.survey
    found = {}
    _, found["list_s"] = _timed(lambda: face_strip.pictures_in(frames))
    _, found["list_again_s"] = _timed(lambda: face_strip.pictures_in(frames))
    _, found["use_s"] = _timed(lambda: cache_limit.use(cache_limit.sizes(frames), shown))
    _, found["use_again_s"] = _timed(lambda: cache_limit.use(cache_limit.sizes(frames), shown))
    found |= _steps("survey", survey.steps())
    (frames / f"{files:020x}.png").touch()
    _, found["use_after_a_change_s"] = _timed(lambda: cache_limit.use(cache_limit.sizes(frames), shown))
    purge = cache_limit.Purge([frames], 0)
    found["longest_delete_step_s"] = _longest_purge_step(purge)
    assert bpy.data.scenes
    return found


def keys(package: ModuleType, count: int) -> dict[str, float]:
    """One slider with some keyframes: written at once, sampled at 1,000 frames, one inserted."""
    scene = _scene(SHORT)
    obj = _character(package, scene, "Anna")
    frames, values = np.arange(1.0, count + 1), np.sin(np.arange(count) / 7)
    found = {}
    animation = package.animation
    _, found["write_s"] = _timed(lambda: animation.keys.write_curves(obj, {"jawOpen": values}, frames))
    _, found["sample_1000_s"] = _timed(lambda: animation.sampling.sample(scene, obj, np.linspace(1.0, count, 1000)))
    _, found["insert_s"] = _timed(lambda: animation.keys.insert_keys(obj, {"jawOpen": 0.5}, count / 2 + 0.25))
    return found


# --- Parts


def _enable() -> ModuleType:
    import bpy

    folder = Path(bpy.utils.user_resource("EXTENSIONS", path="user_default", create=True))
    (folder / "edtalk").symlink_to(ROOT, target_is_directory=True)
    bpy.ops.extensions.repo_refresh_all()
    bpy.ops.preferences.addon_enable(module=EXTENSION)
    for name in ("render.outdated", "render.cache_limit", "character.rest_pose", "animation.sampling", "handlers"):
        import_module(f"{EXTENSION}.edtalk_blender.{name}")
    return sys.modules[EXTENSION].edtalk_blender


def _scene(frames: int) -> Any:
    import bpy

    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    scene = bpy.context.scene
    if hasattr(bpy.context.workspace, "sequencer_scene"):
        bpy.context.workspace.sequencer_scene = scene
    scene.frame_start, scene.frame_end, scene.render.fps = 1, frames, 25
    scene.sequence_editor_create()
    return scene


def _character(package: ModuleType, scene: Any, name: str) -> Any:
    portrait = ROOT / "inference" / "demo" / "portrait_1.png"
    return package.character.character.create(scene, str(portrait), name=name)


def _animate(package: ModuleType, obj: Any, frames: int, seed: int = 0) -> None:
    """Every frame differs: sliders with a keyframe in every second frame, as after a lip sync."""
    names = list(package.character.files.bank_of(obj).names)[:SLIDERS]
    at, random = np.arange(1.0, frames + 2, 2), np.random.default_rng(seed)
    curves = {name: random.uniform(-0.5, 0.5, len(at)) for name in names}
    package.animation.keys.write_curves(obj, curves, at)


def _fake_engine(package: ModuleType) -> None:
    session, client = package.engine.session, package.engine.client
    session.restart()
    session._state.client = client.Client([sys.executable, str(ROOT / "tests" / "fake_worker.py")])


def _press(package: ModuleType, scene: Any, objects: list[Any]) -> dict[str, float]:
    """Render Face as its button does it: the press, the steps of the timer, and those that show a strip."""
    session, steps = package.engine.session, package.render.render.steps
    found = {"longest_prepare_s": 0.0, "longest_commit_s": 0.0}
    chains, took = _timed(lambda: [session.Chain(steps(scene, obj, "SCENE")) for obj in objects])
    found |= {"press_s": took, "render_face_s": took}
    while preparing := [task for task in session.tasks if task.in_steps]:
        _, took = _timed(session.pump)
        found["render_face_s"] += took
        is_commit = len(preparing) > len([task for task in session.tasks if task.in_steps])
        kind = "longest_commit_s" if is_commit else "longest_prepare_s"
        found[kind] = max(found[kind], took)
        time.sleep(0.001)
    errors = [chain.error for chain in chains if chain.error]
    assert not errors, errors
    return found


def _ticks(package: ModuleType, count: int = 20) -> list[float]:
    """Processor time of some calls of the timer, 10 ms apart."""
    found = []
    for _ in range(count):
        found.append(_timed(package.engine.session.pump)[1])
        time.sleep(0.01)
    return found


def _check(package: ModuleType) -> dict[str, float]:
    """The check for frames that are out of date, which a timer does in steps."""
    return _steps("check", package.render.outdated.check())


def _steps(name: str, running: Any) -> dict[str, float]:
    """Work that a timer does in steps: all of them, and the longest."""
    steps = []
    while True:
        done, took = _timed(lambda: next(running, "end"))
        steps.append(took)
        if done == "end":
            return {f"{name}_s": sum(steps), f"longest_{name}_step_s": max(steps)}
        if done is None:
            time.sleep(0.005)


def _longest_purge_step(purge: Any) -> float:
    """The longest of all steps of a timer that deletes files."""
    longest = 0.0
    while True:
        wait, took = _timed(purge.step)
        longest = max(longest, took)
        if wait is None:
            return longest
        time.sleep(0.002)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    before = time.thread_time()
    result = work()
    return result, time.thread_time() - before


def _peak_mib() -> float:
    """Peak memory of this process so far."""
    import resource  # POSIX only

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
