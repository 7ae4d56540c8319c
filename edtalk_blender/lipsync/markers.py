"""Words, mouth shapes or detected emotions of the dialogue as timeline markers, under the waveform in the Sequencer.

A strip stores them at seconds of its sound, so the markers follow when it is moved, trimmed or
retimed, and disappear with it. Markers are placed anew whenever that changes; the artist's own markers are kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import bpy
import numpy as np
from bpy.props import EnumProperty, PointerProperty, StringProperty

from ...inference.contract.errors import EDTalkError
from .. import compat
from ..animation import keys
from ..character import files, sliders
from ..engine import session
from ..timeline import sequencer
from ..timeline.timemap import TimeMap
from ..translations.context import CONTEXT
from . import mouth_shapes, words

FOUND = {  # of a strip: JSON [[second of the sound, name], ...]
    "WORDS": "edtalk_words",
    "SHAPES": "edtalk_shapes",
    "EMOTIONS": "edtalk_emotions",
}


# --- Placing markers


def place(scene: bpy.types.Scene) -> None:
    """Place the markers that the scene's settings ask for, and remove others of this module."""
    wanted = set(_wanted(scene)) if scene.sequence_editor else set()
    present = {(marker.frame, marker.name): marker for marker in own(scene)}
    for place_and_name, marker in present.items():
        if place_and_name not in wanted:
            scene.timeline_markers.remove(marker)
    for frame, name in sorted(wanted - present.keys()):
        scene.timeline_markers.new(name, frame=frame).select = False
    text = json.dumps(sorted(wanted)) if wanted else ""
    if scene.edtalk_markers.placed != text:
        scene.edtalk_markers.placed = text


def own(scene: bpy.types.Scene) -> list[bpy.types.TimelineMarker]:
    """The markers that this module placed and that the artist has not moved or renamed since."""
    try:
        placed = {(int(frame), str(name)) for frame, name in json.loads(scene.edtalk_markers.placed or "[]")}
    except (ValueError, TypeError):
        return []
    found = []
    for marker in scene.timeline_markers:
        if (marker.frame, marker.name) in placed:
            placed.remove((marker.frame, marker.name))
            found.append(marker)
    return found


def forget(strip: bpy.types.Strip) -> None:
    """Find words and mouth shapes of a strip anew at the next `place`, because its keys have changed."""
    for name in (FOUND["WORDS"], FOUND["SHAPES"]):
        if name in strip:
            del strip[name]


def suggest(scene: bpy.types.Scene, strip: bpy.types.Strip, emotions: Sequence[tuple[float, str]]) -> None:
    """Show emotions, with their seconds of the sound, as markers. [] removes those of the strip."""
    if sequencer.remembered_time(strip) is None:
        sequencer.remember_time(strip, sequencer.time_map(scene, strip))
    strip[FOUND["EMOTIONS"]] = json.dumps([[round(second, 5), name] for second, name in emotions])
    if emotions:
        scene.edtalk_markers.show = "EMOTIONS"
    place(scene)


def _wanted(scene: bpy.types.Scene) -> Iterator[tuple[int, str]]:
    """Frame and name of each marker."""
    kind = scene.edtalk_markers.show
    if kind == "NONE":
        return
    for strip in compat.strips(scene):
        if not (sequencer.is_dialogue(strip) and sequencer.remembered_time(strip)):
            continue
        clock = sequencer.time_map(scene, strip)
        for second, name in _found(scene, strip, kind):
            frame = round(float(clock.frame_of(second)))
            if clock.start <= frame < clock.end:
                yield frame, name.encode()[:63].decode(errors="ignore")  # as long as Blender's names


def _found(scene: bpy.types.Scene, strip: bpy.types.Strip, kind: str) -> list[tuple[float, str]]:
    """Seconds and names of a strip's words or mouth shapes; stored in the strip when they are first found."""
    stored = strip.get(FOUND[kind])
    if stored is None and kind == "EMOTIONS":
        return []
    if stored is None and kind == "WORDS" and _search_later(scene, strip):
        return []
    if stored is None:
        strip[FOUND[kind]] = stored = json.dumps(find(scene, strip, kind))
    try:
        return [(float(second), str(name)) for second, name in json.loads(stored)]
    except (ValueError, TypeError):
        return []


# --- Finding words and mouth shapes


def find(scene: bpy.types.Scene, strip: bpy.types.Strip, kind: str) -> list[tuple[float, str]]:
    """Seconds of the sound and names of a strip's words or mouth shapes, read from its lip-sync keys.

    Empty if the strip has no speaker or text, or if the bank's sliders have no names that tell mouth shapes apart.
    """
    clock, names, rows = _shown(scene, strip)
    if not names:
        return []
    if kind == "SHAPES":
        return _at_seconds(clock, mouth_shapes.runs(names, rows))
    spoken = words.words_of(strip.edtalk_text)
    return _named(clock, spoken, words.align(spoken, names, rows, clock.fps))


def _shown(scene: bpy.types.Scene, strip: bpy.types.Strip) -> tuple[TimeMap, tuple[str, ...], np.ndarray]:
    """The time of a strip, its mouth sliders, and their values (T, n) as offsets from rest; no names if unknown."""
    obj, clock = sequencer.speaker(strip), sequencer.time_map(scene, strip)
    try:
        names = files.bank_of(obj).names_of("lip") if obj is not None else ()
    except EDTalkError:  # a panel reports the missing bank
        names = ()
    if obj is None or not mouth_shapes.is_known(names):
        return clock, (), np.zeros((0, 0))
    return clock, names, _mouth(obj, strip, names, clock.frames)


def _named(clock: TimeMap, spoken: Sequence[words.Word], spans: words.Spans) -> list[tuple[float, str]]:
    return _at_seconds(clock, [(start, word.text) for word, (start, _end) in zip(spoken, spans, strict=False)])


def _at_seconds(clock: TimeMap, starts: Sequence[tuple[int, str]]) -> list[tuple[float, str]]:
    """Rows and names as seconds of the sound and names."""
    seconds = clock.seconds(clock.frames[[row for row, _name in starts]]) if starts else ()
    return [(round(float(second), 5), name) for second, (_row, name) in zip(seconds, starts, strict=True)]


def _mouth(obj: bpy.types.Object, strip: bpy.types.Strip, names: tuple[str, ...], frames: np.ndarray) -> np.ndarray:
    """(T, n) mouth sliders as offsets from rest, from the F-curves of the action or of the strip's NLA strip."""
    placed = keys.find_strip(obj, strip[sequencer.NLA]) if strip.get(sequencer.NLA) else None
    if placed is not None:
        _track, written = placed
        curves = compat.slot_fcurves(written.action, written.action_slot)
        frames = frames - written.frame_start + written.action_frame_start
    else:
        curves = compat.fcurves(obj)
    by_path = {curve.data_path: curve for curve in curves}
    rest = sliders.rest_values(obj)
    rows = np.zeros((len(frames), len(names)))
    for column, name in enumerate(names):
        curve = by_path.get(sliders.data_path(name))
        if curve is not None:
            rows[:, column] = keys.evaluate(curve, frames) - rest[name]
    return rows


# --- Long texts


@dataclass
class _Search:
    """The search for the words of a long text, which a timer continues. Undo replaces strips, so it is found by id."""

    scene: str
    strip: str
    text: str
    steps: Generator[None, None, list[tuple[float, str]]]


_LONG = 60  # words that are found at once, in about 0.05 s
_SLICE = 0.008  # seconds of one call of the timer
_searches: dict[tuple[str, str], _Search] = {}


def _search_later(scene: bpy.types.Scene, strip: bpy.types.Strip) -> bool:
    """Begin to find the words of a strip with a long text. Returns False if they are to be found at once."""
    text = strip.edtalk_text
    if session.blocking() or len(text.split()) <= _LONG:
        return False
    search = _Search(scene.name, sequencer.identity(strip), text, _find_words(*_shown(scene, strip), text))
    _searches[search.scene, search.strip] = search
    if not bpy.app.timers.is_registered(continue_searches):
        bpy.app.timers.register(continue_searches, first_interval=0.0, persistent=True)
    return True


def _find_words(
    clock: TimeMap, names: tuple[str, ...], rows: np.ndarray, text: str
) -> Generator[None, None, list[tuple[float, str]]]:
    if not names:
        return []
    spoken = words.words_of(text)
    yield
    return _named(clock, spoken, (yield from words.align_in_steps(spoken, names, rows, clock.fps)))


def continue_searches() -> float | None:
    """Timer: continue the search for words for some milliseconds. Returns the seconds until the next call."""
    until = time.perf_counter() + _SLICE
    while _searches and session.may_apply():
        key, search = next(iter(_searches.items()))
        try:
            while True:
                next(search.steps)
                if time.perf_counter() > until:
                    return 0.01
        except StopIteration as end:
            del _searches[key]
            _store(search, end.value)
    return 0.1 if _searches else None


def _store(search: _Search, found: list[tuple[float, str]]) -> None:
    scene = bpy.data.scenes.get(search.scene)
    strip = sequencer.find(scene, search.strip) if scene else None
    if scene is None or strip is None or strip.edtalk_text != search.text:
        return  # deleted or edited meanwhile
    strip[FOUND["WORDS"]] = json.dumps(found)
    place(scene)
    session.edited("Word Markers")


# --- Settings


def _show_changed(settings: MarkerSettings, _context: bpy.types.Context) -> None:
    place(settings.id_data)


def _text_changed(strip: bpy.types.Strip, _context: bpy.types.Context) -> None:
    if FOUND["WORDS"] in strip:
        del strip[FOUND["WORDS"]]
    place(strip.id_data)


class MarkerSettings(bpy.types.PropertyGroup):
    """Which markers a scene shows."""

    show: EnumProperty(
        name="Markers",
        description="Timeline markers for the lip-synced dialogue, which follow its strips",
        items=(
            ("NONE", "None", "No markers"),
            ("WORDS", "Words", "A marker at the start of each word of the strip's text"),
            ("SHAPES", "Mouth Shapes", "A marker where the mouth takes another shape, such as A, O or MBP"),
            ("EMOTIONS", "Emotions", "A marker where Detect Emotion suggests an emotion, with its strength"),
        ),
        default="NONE",
        update=_show_changed,
    )
    placed: StringProperty(
        name="Placed", description="Frames and names of the markers that were placed (JSON)", options={"HIDDEN"}
    )


def register() -> None:
    bpy.utils.register_class(MarkerSettings)
    bpy.types.Scene.edtalk_markers = PointerProperty(type=MarkerSettings, name="EDTalk Markers")
    bpy.types.Strip.edtalk_text = StringProperty(
        name="Text",
        description="What is said in this strip, word by word. Used to place a marker at the start of each word, "
        "and to detect emotion",
        translation_context=CONTEXT,
        update=_text_changed,
    )


def unregister() -> None:
    if bpy.app.timers.is_registered(continue_searches):
        bpy.app.timers.unregister(continue_searches)
    _searches.clear()
    del bpy.types.Strip.edtalk_text
    del bpy.types.Scene.edtalk_markers
    bpy.utils.unregister_class(MarkerSettings)
