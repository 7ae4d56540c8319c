"""The pictures of the manual that the first hour does not show. Runs in Blender after `first_hour.py` and `again`.

-- FOLDER OUT [FUNCTION]...   FOLDER holds shot.blend, shot.mp4, line.wav and portrait_2.png. FUNCTION: only these
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parent))
from artist import (  # fmt: skip
    HELP,
    Stage,
    Steps,
    area,
    click,
    close_other_windows,
    find,
    middle,
    move,
    over,
    press,
    region,
    scroll_up,
    show_sidebar,
    until,
    window,
)

FOLDER, OUT = (Path(argument) for argument in sys.argv[sys.argv.index("--") + 1 :][:2])
CHOSEN = sys.argv[sys.argv.index("--") + 3 :]
stage = Stage(OUT)
RIGHT = 700  # pixels of a maximized editor that a picture shows


def character() -> bpy.types.Object:
    return next(obj for obj in bpy.context.scene.objects if obj.edtalk.is_character)


def sequencer() -> bpy.types.Area:
    return area("SEQUENCE_EDITOR", "SEQUENCER")


def select(*strips: bpy.types.Strip) -> None:
    with over(sequencer()):
        bpy.ops.sequencer.select_all(action="DESELECT")
    for strip in strips:
        strip.select = True


def movie_strip() -> bpy.types.Strip:
    strips = bpy.context.scene.sequence_editor.strips
    found = [strip for strip in strips if strip.type == "MOVIE"]
    return found[0] if found else strips.new_movie("recording", str(FOLDER / "shot.mp4"), 6, 1)


def in_browser(name: str, operator: object, of: bpy.types.Area, kind: str = "WINDOW") -> Steps:
    """Picture of the file browser that an operator opens, with its options."""
    with over(of, kind):
        operator("INVOKE_DEFAULT")  # type: ignore[operator]
    yield 3.0
    yield from stage.screenshot(name)
    yield from close_other_windows()


def open_panel(of: bpy.types.Area, page: str) -> Steps:
    """Open a closed panel by a click on its header, which has the Help button for `page`."""
    _x, y = yield from find(of, f'page="{page}"', across=HELP)
    yield from click((region(of, "UI").x + 60, y))
    yield 1.0


def maximized(kind: str) -> Steps:
    """Toggle between one editor in the whole window and the workspace."""
    with over(area(kind)):
        bpy.ops.screen.screen_full_area()
    yield 2.0
    if kind == "SEQUENCE_EDITOR":
        with over(area(kind)):
            bpy.ops.sequencer.view_all()
        yield 1.0


def panel(name: str, *types: str) -> Steps:
    """Picture of an open panel of the sequencer's sidebar, with strips of these types selected."""
    select(*(strip for strip in bpy.context.scene.sequence_editor.strips if strip.type in types))
    yield from maximized("SEQUENCE_EDITOR")
    yield from show_sidebar(area("SEQUENCE_EDITOR"))
    yield from open_panel(area("SEQUENCE_EDITOR"), f"{name}.html")
    for _ in range(12):
        yield from press("WHEELDOWNMOUSE", middle(area("SEQUENCE_EDITOR"), "UI"))
    yield from move(middle(area("SEQUENCE_EDITOR")))  # no tooltip
    yield from stage.screenshot(name, area("SEQUENCE_EDITOR"), right=RIGHT)
    yield from open_panel(area("SEQUENCE_EDITOR"), f"{name}.html")  # closed again
    yield from maximized("SEQUENCE_EDITOR")


def capture() -> Steps:
    movie_strip()
    yield from panel("capture", "MOVIE")


def farm() -> Steps:
    yield from panel("farm", "IMAGE")


def dub() -> Steps:
    """The button Dub Movie is in the panel Dialogue, which is open."""
    movie_strip()
    select(*(strip for strip in bpy.context.scene.sequence_editor.strips if strip.type in ("MOVIE", "SOUND")))
    yield from maximized("SEQUENCE_EDITOR")
    yield from scroll_up(area("SEQUENCE_EDITOR"))
    yield from move(middle(area("SEQUENCE_EDITOR")))  # no tooltip
    yield from stage.screenshot("dub", area("SEQUENCE_EDITOR"), right=RIGHT)
    yield from maximized("SEQUENCE_EDITOR")


def arkit() -> Steps:
    yield from in_browser("arkit", bpy.ops.edtalk.import_arkit, area("VIEW_3D"))


def problem() -> Steps:
    obj = character()
    obj.edtalk.bank = "//missing.safetensors"
    yield from scroll_up(area("VIEW_3D"))
    yield from stage.screenshot("troubleshooting", area("VIEW_3D"))
    obj.edtalk.bank = ""
    yield 1.0


def head() -> Steps:
    """A mesh with a few shape keys, driven by the character."""
    bpy.ops.mesh.primitive_uv_sphere_add(location=(4.5, 0.0, 0.0))
    mesh = bpy.context.active_object
    mesh.shape_key_add(name="Basis")
    for name in ("jawOpen", "mouthSmileLeft", "mouthSmileRight", "browInnerUp", "eyeBlinkLeft", "eyeBlinkRight"):
        mesh.shape_key_add(name=name)
    mesh.edtalk_rig.character = character()
    yield 1.0
    with over(area("VIEW_3D")):
        bpy.ops.edtalk.match_shapes()
        bpy.ops.edtalk.drive_shapes()
    yield from maximized("VIEW_3D")
    yield from show_sidebar(area("VIEW_3D"))
    with over(area("VIEW_3D")):
        bpy.ops.view3d.view_selected()
    yield from open_panel(area("VIEW_3D"), "3d-face.html")
    yield from stage.screenshot("3d-face", area("VIEW_3D"), right=RIGHT)
    yield from maximized("VIEW_3D")


def two() -> Steps:
    """Two speakers. Their faces are rendered over a few frames, so that they stand side by side."""
    scene = bpy.context.scene
    first = character()
    bpy.ops.edtalk.add_character(filepath=str(FOLDER / "portrait_2.png"))
    second = bpy.context.active_object
    sound = scene.sequence_editor.strips.new_sound("answer", str(FOLDER / "line.wav"), 3, 60)
    select(sound)
    with over(sequencer()):
        bpy.ops.edtalk.assign_strip(uid=second.edtalk.uid)
    scene.use_preview_range, scene.frame_preview_start, scene.frame_preview_end = True, 70, 80
    with over(sequencer()):
        bpy.ops.edtalk.render_face(frames="PREVIEW", everybody=True)
    session = import_module("bl_ext.user_default.edtalk.edtalk_blender.engine.session")
    yield from until(lambda: not session.tasks, 120)
    scene.use_preview_range = False
    scene.frame_set(75)
    bpy.context.view_layer.objects.active = first
    with over(sequencer()):
        bpy.ops.sequencer.view_all()
    yield 4.0
    yield from stage.screenshot("several-characters")


def nodes() -> Steps:
    bpy.context.view_layer.objects.active = character()
    with over(sequencer()):
        bpy.ops.edtalk.build_compositor()
    window().workspace = bpy.data.workspaces["Compositing"]
    yield 3.0
    editor = area("NODE_EDITOR")
    if hasattr(bpy.context.scene, "compositing_node_group"):
        editor.spaces.active.node_tree = bpy.context.scene.compositing_node_group
    yield 1.0
    with over(editor):
        bpy.ops.node.view_all()
    yield 3.0
    yield from stage.screenshot("compositing", editor)


def preferences() -> Steps:
    bpy.ops.edtalk.show_preferences()
    yield 8.0  # the engine starts
    yield from stage.screenshot("install", of=bpy.context.window_manager.windows[-1])
    yield from close_other_windows()


def pictures() -> Steps:
    bpy.ops.wm.open_mainfile(filepath=str(FOLDER / "shot.blend"))
    yield 4.0
    yield from show_sidebar(area("VIEW_3D"))
    yield from show_sidebar(sequencer())
    bpy.context.scene.frame_set(72)
    failed: dict[str, str] = {}
    stage.results["failed"] = failed
    for make in (preferences, arkit, problem, farm, two, capture, dub, head, nodes):
        if CHOSEN and make.__name__ not in CHOSEN:
            continue
        try:
            yield from make()
        except Exception as error:
            failed[make.__name__] = repr(error)


def main() -> Iterator[float]:
    yield from pictures()


stage.play(main())
