"""What an artist does in a Blender window, as simulated events: move, click, press keys, type, wait.

Runs inside a Blender that was started with `--enable-event-simulate`. Every function is a generator that yields the
seconds to wait for the window; `play` runs them from a timer. Buttons are found as an artist finds them, by moving over
the region: Blender then tells which operator or property is under the pointer.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import bpy

Steps = Generator[float, None, None]

ROW = 14  # pixels between two places to look for a button; buttons are 20 pixels high
DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
KEYS = {" ": "SPACE", **{str(number): name for number, name in enumerate(DIGITS)}}
HELP, CROSS = -60, -48  # pixels from the right edge of a sidebar: Help buttons, buttons that cancel
TABS = 20  # pixels, width of the tabs beside a sidebar
SCROLL = ("WHEELUPMOUSE", "WHEELDOWNMOUSE")


@dataclass
class Hand:
    """clicks: clicks and keys so far, without scrolling. pressed: time of the last one. where: its place."""

    clicks: int = 0
    pressed: float = 0.0
    where: tuple[int, int] = (0, 0)


hand = Hand()
_places: dict[tuple[str, str, str], tuple[int, int]] = {}  # where buttons were found last


def window() -> bpy.types.Window:
    return bpy.context.window_manager.windows[0]


def area(kind: str, view: str = "") -> bpy.types.Area:
    """The largest area of a type; view: "SEQUENCER" or "PREVIEW"."""
    found = [area for area in window().screen.areas if area.type == kind]
    if view:
        found = [area for area in found if area.spaces.active.view_type == view]
    return max(found, key=lambda area: area.width * area.height)


def region(of: bpy.types.Area, kind: str = "WINDOW") -> bpy.types.Region:
    return next(region for region in of.regions if region.type == kind)


def middle(of: bpy.types.Area, kind: str = "WINDOW") -> tuple[int, int]:
    found = region(of, kind)
    return found.x + found.width // 2, found.y + found.height // 2


def over(of: bpy.types.Area, kind: str = "WINDOW") -> AbstractContextManager[object]:
    """A context with this area, for Blender's operators and for reading the button under the pointer."""
    return bpy.context.temp_override(window=window(), area=of, region=region(of, kind))


def move(where: tuple[int, int], of: bpy.types.Window | None = None) -> Steps:
    (of or window()).event_simulate(type="MOUSEMOVE", value="NOTHING", x=where[0], y=where[1])
    yield 0.03


def press(key: str, where: tuple[int, int], of: bpy.types.Window | None = None, **modifiers: bool) -> Steps:
    of = of or window()
    yield from move(where, of)
    yield 0.1
    note(where, key not in SCROLL)
    of.event_simulate(type=key, value="PRESS", x=where[0], y=where[1], **modifiers)
    of.event_simulate(type=key, value="RELEASE", x=where[0], y=where[1], **modifiers)
    yield 0.3


def note(where: tuple[int, int], counts: bool = True) -> None:
    """Note a click or key, also one for which a script takes a shorter way, such as a choice in the file browser."""
    if counts:
        hand.clicks, hand.pressed, hand.where = hand.clicks + 1, time.monotonic(), where


def click(where: tuple[int, int], of: bpy.types.Window | None = None) -> Steps:
    yield from press("LEFTMOUSE", where, of)


def type_text(words: str, where: tuple[int, int], of: bpy.types.Window | None = None) -> Steps:
    of = of or window()
    for letter in words:
        key = KEYS.get(letter, letter.upper())
        note(where)
        of.event_simulate(type=key, value="PRESS", unicode=letter, x=where[0], y=where[1])
        of.event_simulate(type=key, value="RELEASE", x=where[0], y=where[1])
        yield 0.05


def search(words: str, where: tuple[int, int]) -> Steps:
    """Run an operator through the menu search: F3, its name, Return."""
    yield from press("F3", where)
    yield 0.5
    yield from type_text(words, where)
    yield 0.5
    yield from press("RET", where)


def undo(where: tuple[int, int]) -> Steps:
    yield from press("Z", where, ctrl=True)
    yield 0.7


def redo(where: tuple[int, int]) -> Steps:
    yield from press("Z", where, ctrl=True, shift=True)
    yield 0.7


def until(what: Callable[[], object], seconds: float, every: float = 0.25) -> Steps:
    for _ in range(int(seconds / every)):
        if what():
            return
        yield every
    raise AssertionError(f"no result within {seconds} s")


def show_sidebar(of: bpy.types.Area, tab: str = "EDTalk") -> Steps:
    if not of.spaces.active.show_region_ui:
        yield from press("N", middle(of))
        yield 1.0
    region(of, "UI").active_panel_category = tab
    yield 0.7


def scroll_up(of: bpy.types.Area) -> Steps:
    """Scroll a sidebar to its top."""
    for _ in range(12):
        yield from press("WHEELUPMOUSE", middle(of, "UI"))


def choose_file(path: Path) -> Steps:
    """Choose a file in the file browser that a button has opened, in a window of its own or in an area."""
    yield from until(lambda: _browser() is not None, 20)
    yield 1.0
    of, browser = _browser()
    space = browser.spaces.active
    space.params.directory, space.params.filename = str(path.parent).encode(), path.name
    note(middle(browser))
    yield 1.5
    yield from press("RET", middle(browser), of)
    yield from until(lambda: _browser() is None, 30)
    yield 0.5


def close_other_windows() -> Steps:
    for one in list(bpy.context.window_manager.windows)[1:]:
        with bpy.context.temp_override(window=one):
            bpy.ops.wm.window_close()
    yield 1.0


def _browser() -> tuple[bpy.types.Window, bpy.types.Area] | None:
    for one in bpy.context.window_manager.windows:
        for found in one.screen.areas:
            if found.type == "FILE_BROWSER" and found.spaces.active.active_operator is not None:
                return one, found
    return None


def under_pointer(of: bpy.types.Area, kind: str) -> str:
    """What the button under the pointer does: Python ("bpy.ops.edtalk.reset(bank='')"), or the path of its property."""
    with over(of, kind):
        if bpy.ops.ui.copy_python_command_button.poll():
            bpy.ops.ui.copy_python_command_button()
            return bpy.context.window_manager.clipboard
        found = bpy.context.property
        return found[1] if found else ""


def find(
    of: bpy.types.Area, action: str, kind: str = "UI", across: float = 0.5
) -> Generator[float, None, tuple[int, int]]:
    """Move over the region, and scroll, until the pointer is over a button that does `action`. Returns the place.

    action: part of what `under_pointer` returns, such as "edtalk.lip_sync(" or ".threads". across: where to look,
    from 0 for the left to 1 for the right edge of the region; negative: pixels from its right edge.
    """
    shown = region(of, kind)
    last = _places.get((of.type, kind, action))
    if last is not None:
        yield from move(last)
        if action in under_pointer(of, kind):
            return last
    seen: dict[str, None] = {}
    x = shown.x + (int((shown.width - TABS) * across) if across > 0 else shown.width + int(across))
    for wheel, turns in (("", 0), ("WHEELUPMOUSE", 10), *[("WHEELDOWNMOUSE", 3)] * 6):
        for _ in range(turns):
            yield from press(wheel, middle(of, kind))
        for y in range(shown.y + shown.height - 10, shown.y + 4, -ROW):
            yield from move((x, y))
            seen[under_pointer(of, kind)] = None
            if action in under_pointer(of, kind):
                yield 0.3  # a region scrolls smoothly
                rows = []
                for row in range(y + 4, y - 24, -4):
                    yield from move((x, row))
                    rows += [row] if action in under_pointer(of, kind) else []
                if rows:
                    _places[of.type, kind, action] = x, sum(rows) // len(rows)
                    return _places[of.type, kind, action]
    raise AssertionError(f"no button of the {of.type} does {action}, but {list(seen)}")


def press_button(of: bpy.types.Area, action: str, kind: str = "UI", across: float = 0.5) -> Steps:
    """Click a button of a region, see `find`."""
    yield from click((yield from find(of, action, kind, across)))


class Stage:
    """The channel to the program that started this Blender: screenshots and results.

    out: JSON file of the results; it is written at the end. Screenshots are requested with a file beside it.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.wanted = out, out.with_name("shots.txt")
        self.results: dict[str, object] = {}

    def screenshot(
        self, name: str, *areas: bpy.types.Area, right: int = 0, of: bpy.types.Window | None = None
    ) -> Steps:
        """Have a screenshot taken, of these areas, of a smaller window or of everything.

        right: only so many pixels at the right of the areas.
        """
        yield 0.5
        box = f"{of.width}x{of.height}+{of.x}+{window().height - of.y - of.height}" if of else ""
        if areas:
            left, bottom = min(one.x for one in areas), min(one.y for one in areas)
            top = max(one.y + one.height for one in areas)
            edge = max(one.x + one.width for one in areas)
            left = max(left, edge - right) if right else left
            box = f"{edge - left}x{top - bottom}+{left}+{window().height - top}"
        partial = self.wanted.with_suffix(".part")
        partial.write_text(json.dumps({"name": name, "box": box}))
        partial.rename(self.wanted)
        while self.wanted.exists():
            yield 0.2

    def play(self, steps: Iterator[float], quits: bool = True) -> None:
        """Run the steps from a timer, write the results and quit."""
        bpy.context.preferences.view.show_splash = False

        def tick() -> float | None:
            try:
                return next(steps)
            except StopIteration:
                self.results["finished"] = True
            except Exception:
                self.results["error"] = traceback.format_exc()
            self.out.write_text(json.dumps(self.results, indent=1))
            if quits:
                bpy.ops.wm.quit_blender()
            return None

        bpy.app.timers.register(tick, first_interval=3.0, persistent=True)
