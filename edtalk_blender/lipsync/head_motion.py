"""Head motion from speech, in several variations: its seed, and the variation that is used.

Motion depends on the sound file, the place in it, the character and the seed only, so trimmed, split and retimed strips
keep theirs. `performing` requests it, `motion_keys` writes it.
"""

from __future__ import annotations

import zlib

import bpy

from ...inference.contract.head import LARGEST_SEED
from ..animation import keys
from ..timeline import audio, sequencer


def seed_of(strip: bpy.types.SoundStrip, obj: bpy.types.Object) -> int:
    """The seed of a character's first variation for the sound of a strip: other sounds and characters get others."""
    name = f"{audio.file_path(strip).name}/{obj.name}"
    if strip.sound.packed_file is not None:
        name = f"{strip.sound.name}/{obj.name}"
    return (zlib.crc32(name.encode("utf-8", "surrogatepass")) + obj.edtalk.head_seed) % (LARGEST_SEED + 1)


def seeds_of(strip: bpy.types.SoundStrip, obj: bpy.types.Object) -> tuple[int, ...]:
    """The seeds of all variations that the character's settings ask for."""
    first = seed_of(strip, obj)
    return tuple((first + number) % (LARGEST_SEED + 1) for number in range(obj.edtalk.head_variations))


def variations(strip: bpy.types.Strip) -> list[str]:
    """Names of the NLA strips with the variations of a dialogue strip; [] if there is only one or none."""
    titles = sequencer.motion_strips(strip, "head")
    return titles if len(titles) > 1 else []


def used_variation(obj: bpy.types.Object, strip: bpy.types.Strip) -> str:
    """Name of the variation that is not muted, or ""."""
    for title in variations(strip):
        found = keys.find_strip(obj, title)
        if found and not found[1].mute:
            return title
    return ""
