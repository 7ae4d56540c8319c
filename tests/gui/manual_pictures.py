"""The pictures of the manual that the first hour does not show. Runs in Blender after `first_hour.py` and `again`.

-- FOLDER OUT      FOLDER holds shot.blend, shot.mp4, line.wav and portrait_2.png
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parent))
from artist import Stage, Steps, area, close_other_windows, middle, over, press, show_sidebar, window

FOLDER, OUT, *_ = (Path(argument) for argument in sys.argv[sys.argv.index("--") + 1 :])
stage = Stage(OUT)


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


def panels() -> Steps:
    """The end of the sequencer's sidebar, with a recording selected: Render Farm, Capture and Plate."""
    select(movie_strip())
    for _ in range(6):
        yield from press("WHEELDOWNMOUSE", middle(sequencer(), "UI"))
    yield from stage.screenshot("panels", sequencer())


def export() -> Steps:
    yield from in_browser("export", bpy.ops.edtalk.export_movie, sequencer())


def arkit() -> Steps:
    yield from in_browser("arkit", bpy.ops.edtalk.import_arkit, area("VIEW_3D"))


def problem() -> Steps:
    obj = character()
    obj.edtalk.bank = "//missing.safetensors"
    yield 2.0
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
    view = area("VIEW_3D")
    yield 1.0
    with over(view):
        bpy.ops.edtalk.match_shapes()
        bpy.ops.edtalk.drive_shapes()
    yield 1.0
    yield from stage.screenshot("3d-face", view)


def two() -> Steps:
    """Two speakers. Their faces are rendered over five frames, so that they stand side by side."""
    scene = bpy.context.scene
    first = character()
    bpy.ops.edtalk.add_character(filepath=str(FOLDER / "portrait_2.png"))
    second = bpy.context.active_object
    sound = scene.sequence_editor.strips.new_sound("answer", str(FOLDER / "line.wav"), 3, 180)
    select(sound)
    with over(sequencer()):
        bpy.ops.edtalk.assign_strip(uid=second.edtalk.uid)
    scene.use_preview_range, scene.frame_preview_start, scene.frame_preview_end = True, 70, 72
    with over(sequencer()):
        bpy.ops.edtalk.render_face(frames="PREVIEW", uid=second.edtalk.uid)
    scene.use_preview_range = False
    scene.frame_set(71)
    bpy.context.view_layer.objects.active = first
    with over(sequencer()):
        bpy.ops.sequencer.view_all()
    yield 4.0
    yield from stage.screenshot("several-characters")


def nodes() -> Steps:
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
    yield 4.0
    yield from stage.screenshot("install")
    yield from close_other_windows()


def pictures() -> Steps:
    bpy.ops.wm.open_mainfile(filepath=str(FOLDER / "shot.blend"))
    yield 4.0
    yield from show_sidebar(area("VIEW_3D"))
    yield from show_sidebar(sequencer())
    bpy.context.scene.frame_set(72)
    failed: dict[str, str] = {}
    stage.results["failed"] = failed
    for make in (preferences, arkit, problem, panels, two, head, nodes, export):
        try:
            yield from make()
        except Exception as error:
            failed[make.__name__] = repr(error)


def main() -> Iterator[float]:
    yield from pictures()


stage.play(main())
