"""The first ten minutes of a user as simulated events in a real window. `test_window.py` runs it inside Blender.

The extension is only used through menus and keys; Python only checks the results. Every step yields the seconds to wait
for the window. The results are written to the JSON file given on the command line.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import bpy

PORTRAIT, LINE, OUT = (Path(argument) for argument in sys.argv[sys.argv.index("--") + 1 :])
SHOTS = OUT.with_name("shots.txt")  # name of the screenshot that the test should take now
done: dict[str, object] = {}


def window() -> bpy.types.Window:
    return bpy.context.window_manager.windows[0]


def area(kind: str, view: str = "") -> bpy.types.Area:
    found = (area for area in window().screen.areas if area.type == kind)
    return next(one for one in found if not view or one.spaces.active.view_type == view)


def middle(area: bpy.types.Area) -> tuple[int, int]:
    region = next(region for region in area.regions if region.type == "WINDOW")
    return region.x + region.width // 2, region.y + region.height // 2


def press(key: str, where: tuple[int, int], of: bpy.types.Window | None = None, **modifiers: bool) -> Iterator[float]:
    of = of or window()
    of.event_simulate(type="MOUSEMOVE", value="NOTHING", x=where[0], y=where[1])
    yield 0.2
    of.event_simulate(type=key, value="PRESS", x=where[0], y=where[1], **modifiers)
    of.event_simulate(type=key, value="RELEASE", x=where[0], y=where[1], **modifiers)
    yield 0.3


def search(words: str, where: tuple[int, int]) -> Iterator[float]:
    """Run an operator through the menu search: F3, its name, Return."""
    yield from press("F3", where)
    yield 0.5
    for letter in words:
        key = "SPACE" if letter == " " else letter.upper()
        window().event_simulate(type=key, value="PRESS", unicode=letter, x=where[0], y=where[1])
        window().event_simulate(type=key, value="RELEASE", x=where[0], y=where[1])
        yield 0.05
    yield 0.5
    yield from press("RET", where)


def screenshot(name: str) -> Iterator[float]:
    SHOTS.write_text(name)
    while SHOTS.exists():
        yield 0.2


def until(what, seconds: float) -> Iterator[float]:
    for _ in range(int(seconds / 0.5)):
        if what():
            return
        yield 0.5
    raise AssertionError(f"no result within {seconds} s")


def show_sidebar(of: bpy.types.Area) -> Iterator[float]:
    if not of.spaces.active.show_region_ui:
        yield from press("N", middle(of))
    yield 1.0
    next(region for region in of.regions if region.type == "UI").active_panel_category = "EDTalk"
    yield 0.5


def characters() -> list[bpy.types.Object]:
    return [obj for obj in bpy.context.scene.objects if obj.edtalk.is_character]


def artist() -> Iterator[float]:
    view = area("VIEW_3D")
    yield from show_sidebar(view)
    view.spaces.active.region_3d.view_rotation = (0.7071, 0.7071, 0.0, 0.0)
    yield from search("talking face", middle(view))
    yield from until(lambda: len(bpy.context.window_manager.windows) > 1, 10)  # the file browser
    browser = bpy.context.window_manager.windows[-1]
    files = browser.screen.areas[0].spaces.active
    files.params.directory, files.params.filename = str(PORTRAIT.parent).encode(), PORTRAIT.name
    yield 1.0
    yield from press("RET", (browser.width // 2, browser.height // 2), browser)
    yield from until(lambda: len(characters()) == 1, 10)
    (obj,) = characters()
    done["character"] = obj.name
    yield from until(lambda: obj.edtalk.rest_of, 90)  # the engine has read the portrait
    done["rest"] = True
    yield from screenshot("view3d")

    startup = Path(bpy.utils.system_resource("SCRIPTS")) / "startup/bl_app_templates_system/Video_Editing/startup.blend"
    with bpy.context.temp_override(window=window()):
        bpy.ops.workspace.append_activate(idname="Video Editing", filepath=str(startup))
    yield 1.0
    window().workspace = bpy.data.workspaces["Video Editing"]
    yield 1.0
    window().workspace.sequencer_scene = bpy.context.scene
    strips = area("SEQUENCE_EDITOR", "SEQUENCER")
    with bpy.context.temp_override(window=window(), area=strips, region=strips.regions[-1]):
        bpy.ops.sequencer.sound_strip_add(filepath=str(LINE), frame_start=1, channel=1, move_strips=False)
    yield from show_sidebar(strips)
    yield from press("A", middle(strips))
    yield from search("lip sync", middle(strips))

    def spoken() -> bool:
        animated = obj.animation_data and obj.animation_data.action
        return bool(animated) and obj.edtalk.face_strip == "" and "edtalk_time" in sounds()[0]

    def sounds() -> list[bpy.types.Strip]:
        return [strip for strip in bpy.context.scene.sequence_editor.strips if strip.type == "SOUND"]

    yield from until(spoken, 90)
    done["lip sync"] = True
    yield from search("render face", middle(strips))
    yield 1.0
    images = [strip for strip in bpy.context.scene.sequence_editor.strips if strip.type == "IMAGE"]
    done["placed at once"] = len(images) == 1
    folder = Path(bpy.path.abspath(images[0].directory))
    waiting = images[0].elements[-1].filename  # the placeholder of frames that are not rendered yet

    def names() -> set[str]:
        return {element.filename for element in images[0].elements}

    yield from until(lambda: waiting not in names() and all((folder / name).is_file() for name in names()), 120)
    done["frames"] = len(images[0].elements)
    done["pictures"] = len(names())
    bpy.context.scene.frame_set(40)
    yield 2.0
    yield from screenshot("sequencer")


steps = artist()


def tick() -> float | None:
    try:
        return next(steps)
    except StopIteration:
        done["finished"] = True
    except Exception:
        done["error"] = traceback.format_exc()
    OUT.write_text(json.dumps(done))
    bpy.ops.wm.quit_blender()
    return None


bpy.context.preferences.view.show_splash = False
bpy.app.timers.register(tick, first_interval=3.0, persistent=True)
