"""The dialogue strips of a scene whose keys were written from speech, stored in the scene to find deleted ones.

A deleted strip takes its custom properties with it, so its character and frames are stored here. Only strips with
`sequencer.GENERATED` are stored: their keys can be distinguished from the artist's.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import bpy

from .. import compat
from . import sequencer


@dataclass(frozen=True)
class Line:
    """Where the keys of a dialogue strip are.

    character: uid of its character. start, end: its first frame and the one after its last. nla: name of the NLA strip
    that holds its keys, "" if they are in the character's action. motion: names of those with motion from its speech.
    """

    character: str
    start: int
    end: int
    nla: str
    motion: tuple[str, ...] = ()


def remember(scene: bpy.types.Scene) -> None:
    """Store the scene's dialogue strips. Strips that are no longer there stay stored until `forget`."""
    stored = _read(scene)
    for strip in compat.strips(scene):
        if sequencer.is_dialogue(strip):
            clock = sequencer.remembered_time(strip) if strip.get(sequencer.GENERATED) else None
            uid, own = strip.get(sequencer.ID, ""), strip[sequencer.CHARACTER]
            stored.pop(uid, None)
            if clock is not None:
                stored[uid] = Line(
                    own,
                    clock.start,
                    clock.end,
                    strip.get(sequencer.NLA, ""),
                    tuple(sequencer.all_motion_strips(strip)),
                )
    _write(scene, stored)


def forget(scene: bpy.types.Scene, identities: list[str]) -> None:
    """Note that the keys of deleted strips are removed, so that `restored` finds the strips if they are pasted."""
    _write(scene, _read(scene) | dict.fromkeys(identities))


def deleted(scene: bpy.types.Scene) -> dict[str, Line]:
    """The stored lines, by identity, whose strip is in no scene of the file."""
    missing = {uid: line for uid, line in _read(scene).items() if line is not None}
    if missing.keys() - _identities(scene):
        for other in bpy.data.scenes:  # copies of a scene share their characters
            missing = {uid: line for uid, line in missing.items() if uid not in _identities(other)}
        return missing
    return {}


def restored(scene: bpy.types.Scene) -> list[bpy.types.Strip]:
    """Strips that are there again after their keys were removed: they were cut and pasted."""
    gone = {uid for uid, line in _read(scene).items() if line is None}
    return [strip for strip in compat.strips(scene) if strip.get(sequencer.ID) in gone] if gone else []


def _identities(scene: bpy.types.Scene) -> set[str]:
    return {strip.get(sequencer.ID, "") for strip in compat.strips(scene)}


def _read(scene: bpy.types.Scene) -> dict[str, Line | None]:
    """The stored lines by identity; None for those whose keys are removed. Empty if the data is damaged."""
    try:
        stored = json.loads(sequencer.settings(scene).lines or "{}")
        return {uid: Line(**line) if line is not None else None for uid, line in stored.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def _write(scene: bpy.types.Scene, lines: dict[str, Line | None]) -> None:
    text = json.dumps({uid: asdict(line) if line is not None else None for uid, line in lines.items()})
    if sequencer.settings(scene).lines != text:
        sequencer.settings(scene).lines = text
