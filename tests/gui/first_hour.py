"""The first hour of an artist in a real window, as clicks and keys. `tests/gui/window.py` runs it in Blender.

    -- FOLDER OUT        from the zip to a saved file; FOLDER holds portrait_1.png, line.wav and optionally edtalk.zip
    -- FOLDER OUT again  the same file after quitting: its frames, the export, the manual

Every step is clicked as an artist would click it. Python only checks what came of it. For each step the results list
clicks and keys, the seconds until the result is there, what the screen says meanwhile, and whether undo works.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parent))
from artist import (  # fmt: skip
    CROSS,
    HELP,
    Stage,
    Steps,
    area,
    choose_file,
    close_other_windows,
    find,
    middle,
    over,
    press,
    press_button,
    redo,
    show_sidebar,
    type_text,
    undo,
    until,
    window,
)

FOLDER, OUT, *AGAIN = sys.argv[sys.argv.index("--") + 1 :]
PORTRAIT, LINE, BLEND, MOVIE, ZIP = (
    Path(FOLDER) / name for name in ("portrait_1.png", "line.wav", "shot.blend", "shot.mp4", "edtalk.zip")
)
PACKAGE = "bl_ext.user_default.edtalk"

stage = Stage(Path(OUT))
checklist: list[dict[str, object]] = []
stage.results |= {"version": bpy.app.version_string, "steps": checklist}


def module(name: str) -> object:
    return import_module(f"{PACKAGE}.edtalk_blender.{name}")


def said() -> list[str]:
    """What the sidebar says about running tasks and problems, and the last report."""
    if PACKAGE not in bpy.context.preferences.addons:
        return []
    session, buttons = module("engine.session"), module("engine.operators")
    texts = [f"{task.label}: {task.status}" for task in session.tasks if task.label]
    texts += [problem.message for problem in session.problems]
    if (running := buttons.installation()) is not None:
        texts.append(f"Installing: {running.phase}")
    return texts


def step(
    what: str,
    clicks: int,
    does: Steps,
    done: Callable[[], object] = lambda: True,
    seconds: float = 120,
    undone: Callable[[], object] | None = None,
    picture: str = "",
) -> Steps:
    """Carry out one step and note it. undone: whether its result is gone; then the step is undone and redone.

    picture: take a screenshot with this name when it is done.
    """
    entry: dict[str, object] = {"step": what, "clicks": clicks}
    checklist.append(entry)
    try:
        yield from _carry_out(entry, does, done, seconds, undone, picture)
    except Exception as error:  # the next steps may work, and the list shows which one did not
        entry["failed"] = repr(error)
        yield from stage.screenshot(f"{len(checklist):02}_failed")
    print(len(checklist), entry, flush=True)


def _carry_out(
    entry: dict[str, object],
    does: Steps,
    done: Callable[[], object],
    seconds: float,
    undone: Callable[[], object] | None,
    picture: str,
) -> Steps:
    seen: list[str] = []
    started = time.monotonic()
    yield from does
    acted = time.monotonic()
    while not done():
        assert time.monotonic() - acted < seconds, f"no result after {seconds} s: {said()}"
        seen += [text for text in said() if text not in seen]
        yield 0.1
    seen += [text for text in said() if text not in seen]
    entry |= {"seconds": round(time.monotonic() - acted, 1), "acting": round(acted - started, 1), "says": seen[:4]}
    if picture:
        yield from stage.screenshot(f"{len(checklist):02}_{picture}")
    if undone is not None:
        where = middle(area("VIEW_3D"))
        yield from undo(where)
        yield from until(undone, 15)
        yield from redo(where)
        yield from until(done, 15)
        entry["undo"] = True


# --- What came of it


def scene() -> bpy.types.Scene:
    return bpy.context.scene


def character() -> bpy.types.Object | None:
    return next((obj for obj in scene().objects if obj.edtalk.is_character), None)


def strips(kind: str) -> list[bpy.types.Strip]:
    editor = scene().sequence_editor
    return [strip for strip in editor.strips if strip.type == kind] if editor else []


def keyed(*names: str) -> bool:
    """Whether any of the sliders has keys."""
    curves = module("compat").fcurves(character()) if character() else []
    return any(name in curve.data_path for curve in curves for name in names)


def waiting() -> int:
    """Frames of the face strip that are not rendered yet or missing."""
    face_strip = module("render.face_strip")
    return sum(face_strip.waiting_frames(strip) + face_strip.missing_frames(strip) for strip in strips("IMAGE"))


def rendered() -> bool:
    return bool(strips("IMAGE")) and waiting() == 0 and not tasks()


def tasks() -> list[object]:
    return list(module("engine.session").tasks)


# --- The steps


def nothing() -> Steps:
    yield 0.1


def view() -> bpy.types.Area:
    return area("VIEW_3D")


def sequencer() -> bpy.types.Area:
    return area("SEQUENCE_EDITOR", "SEQUENCER")


def in_view(action: str, across: float = 0.5) -> Steps:
    yield from press_button(view(), action, across=across)


def in_sequencer(action: str, across: float = 0.5) -> Steps:
    yield from press_button(sequencer(), action, across=across)


def confirm() -> Steps:
    """Return, in the dialog under the pointer."""
    yield 1.0
    yield from press("RET", (window().width // 2, window().height // 2))


def install_zip() -> Steps:
    bpy.ops.extensions.package_install_files(repo="user_default", filepath=str(ZIP), enable_on_install=True)
    yield 1.0


def ready() -> bool:
    return module("engine.session").find_engine().usable and module("engine.operators").installation() is None


def portrait_from_browser() -> Steps:
    yield from in_view("edtalk.add_character(")
    yield from choose_file(PORTRAIT)


def jaw_by_typing() -> Steps:
    where = yield from find(view(), '"browInnerUp"]')
    yield from press("RET", where)
    yield from type_text("1", where)
    yield from press("RET", where)


def sound_from_browser() -> Steps:
    with over(sequencer()):
        bpy.ops.sequencer.sound_strip_add("INVOKE_DEFAULT", frame_start=1, channel=1, move_strips=False)
    yield from choose_file(LINE)


def emotion_dialog() -> Steps:
    yield from in_view("edtalk.emotion_change(")
    yield 1.5
    yield from stage.screenshot("dialog_change_emotion")
    yield from confirm()


def key_slider() -> Steps:
    where = yield from find(view(), '"surprised"]')
    yield from press("I", where)


def jump(frame: int) -> Steps:
    scene().frame_set(frame)
    yield 1.5


def move_strip(kind: str, by: str) -> Steps:
    with over(sequencer()):
        bpy.ops.sequencer.select_all(action="DESELECT")
    strips(kind)[0].select = True
    where = middle(sequencer())
    yield from press("G", where)
    yield from type_text(by, where)
    yield from press("RET", where)
    yield 1.0


def render_again() -> Steps:
    yield from in_sequencer("edtalk.render_face(")
    yield 3.0
    yield from stage.screenshot("rendering")


def cancel_render() -> Steps:
    yield from in_sequencer("edtalk.render_face(")
    yield from until(lambda: strips("IMAGE"), 60)
    yield from in_view("edtalk.cancel(number", CROSS)


def save_file() -> Steps:
    yield from press("S", middle(view()), ctrl=True)
    if not bpy.data.filepath:
        yield from choose_file(BLEND)


def play(seconds: float) -> Steps:
    yield from press("SPACE", middle(view()))
    yield seconds
    yield from press("SPACE", middle(view()))


def before_quitting() -> Steps:
    v = view()
    if ZIP.exists() and PACKAGE not in bpy.context.preferences.addons:
        yield from step(
            "Install the zip from disk", 6, install_zip(), lambda: PACKAGE in bpy.context.preferences.addons
        )
    yield from step("Open the sidebar, tab EDTalk", 2, show_sidebar(v), picture="tab")
    if not ready():
        if not bpy.app.online_access:
            yield from step(
                "Allow online access", 1, in_view("edtalk.allow_online_access("), lambda: bpy.app.online_access
            )
        yield from step("Press Install Engine", 1, in_view("edtalk.install_engine("), ready, 1200, picture="engine")
    yield from step(
        "Add Character, choose the portrait", 3, portrait_from_browser(), character, undone=lambda: character() is None
    )
    yield from step(
        "Wait until the engine has read the portrait",
        0,
        nothing(),
        lambda: character() and character().edtalk.rest_of,
        picture="character",
    )
    yield from step(
        "Type 1 into the slider Brow Inner Up",
        3,
        jaw_by_typing(),
        lambda: character().edtalk["browInnerUp"] > 0.9,
        undone=lambda: character().edtalk["browInnerUp"] < 0.5,
        picture="slider",
    )
    yield from step(
        "Press Reset", 1, in_view("edtalk.reset(", 0.095), lambda: character().edtalk["browInnerUp"] < 0.5,
        undone=lambda: character().edtalk["browInnerUp"] > 0.9,
    )  # fmt: skip
    yield from step(
        "Press Talking Face Workspace",
        1,
        in_view("edtalk.add_workspace("),
        lambda: window().workspace.name == "Talking Face" and sequencer(),
    )
    yield 4.0
    yield from stage.screenshot("workspace")
    yield from step(
        "Add the sound to the sequencer", 4, sound_from_browser(), lambda: strips("SOUND"),
        undone=lambda: not strips("SOUND"), picture="sound",
    )  # fmt: skip
    yield from step(
        "Press Lip Sync",
        1,
        in_sequencer("edtalk.lip_sync("),
        lambda: keyed("jawOpen") and not tasks(),
        undone=lambda: not keyed("jawOpen"),
        picture="lip_sync",
    )
    yield from step("Play for 3 seconds", 2, play(3.0), lambda: not window().screen.is_animation_playing)
    yield from step("Scrub to frame 40", 1, jump(40), picture="scrubbed")
    yield from step(
        "Press Change Emotion and confirm",
        2,
        emotion_dialog(),
        lambda: any(keyed(name) for name in ("angry", "happy", "surprised", "sad", "contempt", "disgusted", "fear")),
        undone=lambda: not keyed("happy", "angry", "surprised", "sad"),
        picture="emotion",
    )
    yield from step("Scrub to frame 90", 1, jump(90))
    yield from step("Key the slider Surprised with I", 1, key_slider(), lambda: keyed("surprised"))
    yield from step(
        "Press Idle Motion",
        1,
        in_view("edtalk.idle_motion("),
        lambda: keyed("headYaw"),
        undone=lambda: not keyed("headYaw"),
        picture="idle",
    )
    yield from step("Press Render Face, cancel it", 2, cancel_render(), lambda: waiting() and not tasks())
    yield from step("Look at the cancelled strip", 0, nothing(), picture="cancelled")
    yield from step(
        "Press Render Face again, which continues",
        1,
        in_sequencer("edtalk.render_face("),
        rendered,
        900,
        picture="rendered",
    )
    yield from step("Scrub to frame 60 of the rendered strip", 1, jump(60), picture="result")
    yield from step("Scrub to frame 100", 1, jump(100))
    yield from step("Key the slider Surprised again", 1, key_slider())
    yield from step(
        "Press Render Face: only changed frames", 1, in_sequencer("edtalk.render_face("), rendered, 900, picture="again"
    )
    start = strips("SOUND")[0].left_handle
    yield from step(
        "Move the sound by 12 frames",
        3,
        move_strip("SOUND", "12"),
        lambda: strips("SOUND")[0].left_handle == start + 12 and strips("IMAGE")[0].left_handle == start + 12,
        undone=lambda: strips("SOUND")[0].left_handle == start and strips("IMAGE")[0].left_handle == start,
        picture="moved",
    )
    yield from step("Save the file with Ctrl S", 3, save_file(), lambda: BLEND.exists(), picture="saved")
    yield from step("Save again with Ctrl S", 1, save_file(), lambda: not bpy.data.is_dirty)
    stage.results["windows after saving"] = len(bpy.context.window_manager.windows)
    yield from step("Quit", 1, nothing())


def after_reopening() -> Steps:
    yield from step("Open the file again", 3, open_file(), lambda: bpy.data.filepath == str(BLEND))
    yield 4.0
    yield from step("Its frames are there", 0, jump(72), lambda: strips("IMAGE") and waiting() == 0, picture="reopened")
    stage.results["missing after reopening"] = waiting()
    yield from step("Press Export Movie, choose a file", 3, export(), lambda: MOVIE.exists(), 600)
    yield from step(
        "Wait for the movie", 0, nothing(), lambda: not bpy.app.is_job_running("RENDER"), 600, picture="exported"
    )
    yield from close_other_windows()
    stage.results["movie"] = MOVIE.stat().st_size
    yield from step("Press Help in the panel Face", 1, in_sequencer("edtalk.open_manual(page='render.html'", HELP))
    yield 4.0
    yield from stage.screenshot("manual")
    yield from step("Save with Ctrl S", 1, save_file(), lambda: not bpy.data.is_dirty)


def open_file() -> Steps:
    bpy.ops.wm.open_mainfile(filepath=str(BLEND))
    yield 3.0


def export() -> Steps:
    yield from in_sequencer("edtalk.export_movie(")
    yield from choose_file(MOVIE)


stage.play(after_reopening() if AGAIN else before_quitting())
