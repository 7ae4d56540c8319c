"""The first hour of an artist in a real window, as clicks and keys. `tests/gui/window.py` runs it in Blender.

    -- FOLDER OUT install  the zip; FOLDER holds edtalk.zip
    -- FOLDER OUT engine   Install Engine, which needs a network
    -- FOLDER OUT          from the portrait to a saved file; FOLDER holds portrait_1.png (or .jpg) and line.wav; with
                           clip.mp4 in it, that movie is dubbed with the line
    -- FOLDER OUT again    the same file after quitting: its frames, the export, the manual

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
    click,
    close_other_windows,
    find,
    hand,
    middle,
    note,
    over,
    press,
    press_button,
    redo,
    region,
    scroll_up,
    show_sidebar,
    type_text,
    undo,
    until,
    window,
)

FOLDER, OUT, *PART = sys.argv[sys.argv.index("--") + 1 :]
LINE, BLEND, MOVIE, ZIP, CLIP = (
    Path(FOLDER) / name for name in ("line.wav", "shot.blend", "shot.mp4", "edtalk.zip", "clip.mp4")
)
PORTRAIT = next(Path(FOLDER).glob("portrait_1.[jp][pn]g"), Path(FOLDER) / "portrait_1.png")
CLIP_START = 220  # frame at which the clip is added
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
    texts = [task.texts[0] for task in session.tasks if task.label]
    texts += [problem.message for problem in session.problems] + list(session.notices)
    if (running := buttons.installation()) is not None:
        texts.append(f"Installing: {running.phase}")
    return texts


def step(
    what: str,
    does: Steps,
    done: Callable[[], object] = lambda: True,
    seconds: float = 120,
    undone: Callable[[], object] | None = None,
    picture: str = "",
) -> Steps:
    """Carry out one step and note it. undone: whether its result is gone; then the step is undone and redone.

    picture: take a screenshot with this name when it is done.
    """
    entry: dict[str, object] = {"step": what}
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
    said_before = said()
    clicks, hand.pressed, reached = hand.clicks, time.monotonic(), 0.0
    for wait in does:
        yield wait
        if reached < hand.pressed and _holds(done):
            reached = time.monotonic()
    while reached < hand.pressed:
        assert time.monotonic() - hand.pressed < seconds, f"no result after {seconds} s: {said()}"
        seen += [text for text in said() if text not in seen]
        yield 0.1
        if _holds(done):
            reached = time.monotonic()
    seen += [text for text in said() if text not in seen]
    entry["next"] = module("panels.next_step").next_step(character()) if is_enabled() and character() else ""
    entry |= {
        "clicks": hand.clicks - clicks,
        "seconds": round(reached - hand.pressed, 1),
        "says": [text for text in seen if text not in said_before][:12],
    }
    if picture:
        yield from stage.screenshot(f"{len(checklist):02}_{picture}")
    if undone is not None:
        where = middle(area("VIEW_3D"))
        yield from undo(where)
        yield from until(undone, 15)
        yield from redo(where)
        yield from until(done, 15)
        entry["undo"] = True


def _holds(done: Callable[[], object]) -> bool:
    """Whether a result is there; not while what it looks at does not exist yet."""
    try:
        return bool(done())
    except (AttributeError, IndexError, KeyError, ImportError):
        return False


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


def open_extensions() -> Steps:
    """Preferences > Get Extensions."""
    yield from press("COMMA", middle(view()), ctrl=True)
    yield from until(lambda: len(bpy.context.window_manager.windows) > 1, 10)
    yield 2.0
    one = bpy.context.window_manager.windows[-1]
    sections = region(one.screen.areas[0], "NAVIGATION_BAR" if bpy.app.version < (5, 0) else "UI")
    for y in range(sections.y + sections.height - 20, sections.y + 20, -20):
        if bpy.context.preferences.active_section == "EXTENSIONS":
            return
        hand.clicks -= 1  # an artist sees which one it is
        yield from click((sections.x + sections.width // 2, y), one)
    hand.clicks += 1


def install_zip() -> Steps:
    """The menu at the top right of Get Extensions, its last item, the file."""
    one = bpy.context.window_manager.windows[-1]
    main = region(one.screen.areas[0])
    menu = main.x + main.width - 20, main.y + main.height - 18
    yield from click(menu, one)
    yield 1.0
    yield from press("UP_ARROW", menu, one)
    yield from stage.screenshot("install_menu")
    yield from press("RET", menu, one)
    yield from choose_file(ZIP)


def and_confirm(action: str) -> Steps:
    """Press a button that asks, and confirm."""
    yield from in_view(action)
    yield 1.0
    yield from stage.screenshot("dialog_" + action.partition(".")[2].partition("(")[0])
    yield from confirm()


def save_preferences() -> Steps:
    bpy.ops.wm.save_userpref()
    yield 0.5


def extensions_are_shown() -> bool:
    return bpy.context.preferences.active_section == "EXTENSIONS"


def is_enabled() -> bool:
    return PACKAGE in bpy.context.preferences.addons


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
    """Add > Sound of the sequencer."""
    note(middle(sequencer()))
    note(middle(sequencer()))
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


def key_strength() -> Steps:
    """Type 1 into the slider Surprised, and insert a key."""
    where = yield from find(view(), '"surprised"]')
    yield from press("RET", where)
    yield from press("A", where, ctrl=True)
    yield from type_text("1", where)
    yield from press("RET", where)
    yield from press("I", where)


def keys_of(name: str) -> int:
    curves = module("compat").fcurves(character())
    return sum(len(curve.keyframe_points) for curve in curves if name in curve.data_path)


def in_timeline(frame: int, channel: float = 0) -> tuple[int, int]:
    """Where a frame is in the sequencer: in the time scale at the top, or in a channel."""
    shown = region(sequencer())
    x, y = shown.view2d.view_to_region(frame, channel + 0.5, clip=False)
    return shown.x + x, shown.y + (y if channel else shown.height - 12)


def scrub(frame: int) -> Steps:
    """A click in the time scale. The pixels of a narrow sequencer are wider than a frame."""
    yield from click(in_timeline(frame))
    yield 1.5


def is_at(frame: int) -> Callable[[], bool]:
    return lambda: abs(scene().frame_current - frame) <= 2


def movie_from_browser() -> Steps:
    """Add > Movie of the sequencer, then View All."""
    note(middle(sequencer()))
    note(middle(sequencer()))
    with over(sequencer()):
        bpy.ops.sequencer.movie_strip_add("INVOKE_DEFAULT", frame_start=CLIP_START, channel=1, move_strips=False)
    yield from choose_file(CLIP)


def line_for_movie() -> Steps:
    """Add > Sound again, below the movie."""
    note(middle(sequencer()))
    note(middle(sequencer()))
    with over(sequencer()):
        bpy.ops.sequencer.sound_strip_add("INVOKE_DEFAULT", frame_start=CLIP_START, channel=4, move_strips=False)
    yield from choose_file(LINE)
    yield from press("HOME", middle(sequencer()))
    yield 1.0


def select_movie_and_line() -> Steps:
    movie, line = strips("MOVIE")[0], max(strips("SOUND"), key=lambda strip: strip.channel)
    yield from click(in_timeline(int(movie.left_handle + 40), movie.channel))
    yield from press("LEFTMOUSE", in_timeline(int(line.left_handle + 40), line.channel), shift=True)


def open_plate_panel() -> Steps:
    """Click the header of the panel Plate, left of its Help button."""
    where = yield from find(sequencer(), 'edtalk.open_manual(page="dub.html', across=HELP)
    shown = region(sequencer(), "UI")
    yield from click((shown.x + shown.width // 2, where[1]))
    yield 1.0


def preview_of_frame() -> Steps:
    yield from scrub(CLIP_START + 30)
    yield from in_sequencer("edtalk.dub_movie(current_frame=True)")


def faces_over_movie() -> list[bpy.types.Strip]:
    return [strip for strip in strips("IMAGE") if strip.left_handle >= CLIP_START]


def undo_and_redo(count: int) -> Steps:
    where = middle(view())
    for _ in range(count):
        yield from undo(where)
    yield from stage.screenshot("undone")
    for _ in range(count):
        yield from redo(where)


def move_strip(kind: str, by: str) -> Steps:
    strip = strips(kind)[0]
    where = in_timeline(int(strip.left_handle + 40), strip.channel)
    yield from click(where)
    yield from press("G", where)
    yield from type_text(by, where)
    yield from press("RET", where)
    yield 1.0


def cancel_render() -> Steps:
    yield from scroll_up(view())
    yield from in_sequencer("edtalk.render_face(")
    yield from until(lambda: strips("IMAGE"), 60)
    yield 1.0
    yield from in_view("edtalk.cancel(number", CROSS)


def save_file() -> Steps:
    yield from press("S", middle(view()), ctrl=True)
    if not bpy.data.filepath:
        yield from choose_file(BLEND)


def play(seconds: float) -> Steps:
    yield from press("SPACE", middle(view()))
    yield seconds
    yield from press("SPACE", middle(view()))


def installing() -> Steps:
    yield from step("Open Preferences > Get Extensions", open_extensions(), extensions_are_shown)
    yield from step("Install from Disk, choose the zip", install_zip(), is_enabled, picture="installed")
    yield from close_other_windows()
    yield from step("Open the sidebar, tab EDTalk", show_sidebar(view()), picture="no_engine")
    if not bpy.app.online_access and not ready():
        yield from step(
            "Press Allow Online Access, confirm",
            and_confirm("edtalk.allow_online_access("),
            lambda: bpy.app.online_access,
        )
    yield from save_preferences()


def installing_engine() -> Steps:
    yield from show_sidebar(view())
    yield from step(
        "Press Install Engine, confirm",
        and_confirm("edtalk.install_engine("),
        lambda: ready() or module("engine.session").problems,
        1200,
        picture="engine",
    )
    if not ready():  # the package index has no small build
        yield from step(
            "Press Install for CUDA of the message, confirm",
            and_confirm("edtalk.install_engine(backend"),
            ready,
            1200,
            picture="engine",
        )
    yield from save_preferences()


def before_quitting() -> Steps:
    yield from step("Open the sidebar, tab EDTalk", show_sidebar(view()), picture="tab")
    yield from step(
        "Press Add Character, choose the portrait",
        portrait_from_browser(),
        character,
        undone=lambda: character() is None,
    )
    yield from step(
        "Wait until the engine has read the portrait",
        nothing(),
        lambda: character().edtalk.rest_of and not tasks(),
        picture="character",
    )
    yield from step(
        "Type 1 into the slider Brow Inner Up",
        jaw_by_typing(),
        lambda: character().edtalk["browInnerUp"] > 0.9,
        undone=lambda: character().edtalk["browInnerUp"] < 0.5,
        picture="slider",
    )
    yield from step(
        "Press Reset",
        in_view("edtalk.reset(", 0.095),
        lambda: character().edtalk["browInnerUp"] < 0.5,
        undone=lambda: character().edtalk["browInnerUp"] > 0.9,
    )
    yield from scroll_up(view())
    yield from step(
        "Press Talking Face Workspace",
        in_view("edtalk.add_workspace("),
        lambda: window().workspace.name == "Talking Face" and sequencer(),
    )
    yield 4.0
    yield from stage.screenshot("workspace")
    yield from step(
        "Add > Sound, choose the line",
        sound_from_browser(),
        lambda: strips("SOUND"),
        undone=lambda: not strips("SOUND"),
        picture="sound",
    )
    yield from step(
        "Press Lip Sync",
        in_sequencer("edtalk.lip_sync("),
        lambda: keyed("jawOpen") and not tasks(),
        undone=lambda: not keyed("jawOpen"),
        picture="lip_sync",
    )
    shown = region(area("GRAPH_EDITOR"))
    stage.results["graph editor shows"] = [shown.view2d.region_to_view(0, y)[1] for y in (0, shown.height)]
    yield from step("Play for 3 seconds", play(3.0), lambda: not window().screen.is_animation_playing)
    yield from step("Scrub to frame 40", scrub(40), is_at(40), picture="scrubbed")
    yield from step(
        "Press Change Emotion, confirm Happy",
        emotion_dialog(),
        lambda: keyed("happy"),
        undone=lambda: not keyed("happy"),
        picture="emotion",
    )
    yield from step("Scrub to frame 90", scrub(90), is_at(90))
    keys = keys_of("surprised")
    yield from step(
        "Key the slider Surprised with I",
        key_slider(),
        lambda: keys_of("surprised") == keys + 1,
        undone=lambda: keys_of("surprised") == keys,
    )
    yield from step(
        "Press Idle Motion",
        in_view("edtalk.idle_motion("),
        lambda: keyed("headYaw"),
        undone=lambda: not keyed("headYaw"),
        picture="idle",
    )
    yield from step(
        "Press Render Face, cancel it at once",
        cancel_render(),
        lambda: strips("IMAGE") and waiting() and not tasks(),
        picture="cancelled",
    )
    stage.results["waiting after cancelling"] = waiting()
    yield from step(
        "Press Render Face again, which continues", in_sequencer("edtalk.render_face("), rendered, 900, picture="done"
    )
    yield from step("Scrub to frame 60 of the rendered strip", scrub(60), is_at(60), picture="result")
    yield from step("Scrub to frame 120", scrub(120), is_at(120))
    keys_then = keys_of("surprised")
    yield from step(
        "Type 1 into Surprised and key it with I",
        key_strength(),
        lambda: keys_of("surprised") == keys_then + 1,
        undone=lambda: keys_of("surprised") == keys_then,
        picture="changed",
    )
    yield from step(
        "Press Render Face: only the changed frames",
        in_sequencer("edtalk.render_face("),
        rendered,
        900,
        picture="again",
    )
    start = strips("SOUND")[0].left_handle
    yield from step(
        "Move the sound by 12 frames: select, G, 12",
        move_strip("SOUND", "12"),
        lambda: strips("SOUND")[0].left_handle == start + 12 and strips("IMAGE")[0].left_handle == start + 12,
        undone=lambda: strips("SOUND")[0].left_handle == start and strips("IMAGE")[0].left_handle == start,
        picture="moved",
    )
    keys_then = keys_of("")
    yield from step(
        "Undo four steps and redo them",
        undo_and_redo(4),
        lambda: strips("SOUND")[0].left_handle == start + 12 and keys_of("") == keys_then,
        picture="redone",
    )
    if CLIP.exists():
        yield from dubbing()
    yield from step("Save the file with Ctrl S", save_file(), lambda: BLEND.exists(), picture="saved")
    yield from step("Save again with Ctrl S", save_file(), lambda: not bpy.data.is_dirty)
    stage.results["windows after saving"] = len(bpy.context.window_manager.windows)


def dubbing() -> Steps:
    yield from step("Add > Movie, choose the clip", movie_from_browser(), lambda: strips("MOVIE"), picture="movie")
    sounds = len(strips("SOUND"))
    yield from step("Add > Sound, choose the line", line_for_movie(), lambda: len(strips("SOUND")) > sounds)
    yield from step(
        "Select the movie and the line",
        select_movie_and_line(),
        lambda: sum(strip.select for strip in (*strips("SOUND"), *strips("MOVIE"))) == 3,  # and the movie's own sound
    )
    yield from step("Open the panel Plate", open_plate_panel(), picture="plate")
    yield from step(
        "Press Preview Frame", preview_of_frame(), lambda: faces_over_movie() and not tasks(), 900, picture="preview"
    )
    yield from step("Press Dub Movie", in_sequencer("edtalk.dub_movie()"), rendered, 900, picture="dubbed")
    yield from step("Scrub to the middle of the clip", scrub(CLIP_START + 50), is_at(CLIP_START + 50), picture="dub")


def after_reopening() -> Steps:
    yield from step("Quit, start Blender, open the file", open_file(), lambda: bpy.data.filepath == str(BLEND))
    yield 4.0
    yield from show_sidebar(sequencer())
    yield from step("Its frames are there: scrub to frame 72", scrub(72), lambda: waiting() == 0, picture="reopened")
    stage.results["missing after reopening"] = waiting()
    lost = delete_pictures(10)
    yield from save_file()  # scrubbing changed the file
    yield from step(
        "Delete 10 pictures, open the file again",
        open_file(),
        lambda: bpy.data.filepath == str(BLEND) and waiting() == lost and module("render.survey").latest(),
        picture="missing",
    )
    yield from show_sidebar(sequencer())
    yield from step(
        "Press Render Missing Frames",
        in_sequencer("edtalk.render_face(frames='STRIP'"),
        lambda: waiting() == 0 and not tasks(),
        picture="completed",
    )
    before = scene().render.filepath
    yield from step("Press Export Movie, choose a file", export(), is_exported, 600)
    yield from stage.screenshot(f"{len(checklist):02}_exported")
    stage.results["movie"] = MOVIE.stat().st_size
    stage.results["output path is kept"] = scene().render.filepath == before
    yield from step("Press Help in the panel Face", in_sequencer('edtalk.open_manual(page="render.html"', HELP))
    yield 6.0
    yield from stage.screenshot("manual")
    yield from step("Save with Ctrl S", save_file(), lambda: not bpy.data.is_dirty)


def delete_pictures(count: int) -> int:
    """Delete some pictures of the first face strip. Returns their number."""
    strip = strips("IMAGE")[0]
    folder = Path(bpy.path.abspath(strip.directory))
    names = sorted({element.filename for element in strip.elements})[:count]
    for name in names:
        (folder / name).unlink()
    return len(names)


def is_exported() -> bool:
    return MOVIE.exists() and not tasks() and not bpy.app.is_job_running("RENDER")


def open_file() -> Steps:
    note(middle(view()))  # quit
    note(middle(view()))  # start Blender
    yield from press("O", middle(view()), ctrl=True)
    yield from choose_file(BLEND)


def export() -> Steps:
    MOVIE.unlink(missing_ok=True)
    yield from in_sequencer("edtalk.export_movie(")
    yield from until(lambda: len(bpy.context.window_manager.windows) > 1, 20)
    yield 2.0
    yield from stage.screenshot("export")
    yield from choose_file(MOVIE)


PARTS = {"": before_quitting, "install": installing, "engine": installing_engine, "again": after_reopening}
stage.play(PARTS["".join(PART)]())
