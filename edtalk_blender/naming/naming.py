"""Names for the sliders of a bank that only numbers them, and what becomes of everything that calls them by number.

The names are proposals until they are applied: then they go into a copy of the bank, whose weights are the same, and
the characters that used the old file use the copy. So undo brings back the old file with the old names, shots that were
written before can still be rendered, and no picture has to be rendered again.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import bpy
from bpy.props import CollectionProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

from ...inference.contract import arkit
from ...inference.contract.answers import Motion
from ...inference.contract.bank import Bank, Coefficient, copy_bank
from ...inference.contract.errors import EDTalkError
from .. import compat
from ..animation import keys
from ..character import character
from ..rig import rig

LONGEST = 60  # bytes of a slider's name
_NUMBERED = re.compile(r"[a-z]+_\d+")
_SLIDER = re.compile(r'^edtalk\["((?:[^"\\]|\\.)*)"\]')


# --- Proposals


class SliderName(bpy.types.PropertyGroup):
    """What one slider is to be called. `name` is what it is called now."""

    new_name: StringProperty(name="Name", description="What the slider is to be called")
    soft_min: FloatProperty(name="Least", description="Where the slider is to begin", default=-5.0)
    soft_max: FloatProperty(name="Most", description="Where the slider is to end", default=5.0)
    region: StringProperty(name="Moves", description="The part of the face in which most of the motion was seen")
    turn: FloatProperty(name="Turn", description="How far it goes for one degree of the head, if it turns the head")


class Naming(bpy.types.PropertyGroup):
    """Proposals for a character's sliders, until they are applied or discarded."""

    sliders: CollectionProperty(type=SliderName, name="Sliders")
    active: IntProperty(name="Active Slider")


def numbered(bank: Bank) -> tuple[str, ...]:
    """Names of the sliders that have only a number: lip_01, pose_02."""
    return tuple(name for name in bank.names if _NUMBERED.fullmatch(name))


def propose(obj: bpy.types.Object, motions: Iterable[Motion], names: Iterable[str]) -> None:
    """Offer names and ranges for some sliders, from what the engine saw them do; see `Motion`."""
    group, wanted = obj.edtalk_naming, set(names)
    group.sliders.clear()
    group.active = 0
    for motion in motions:
        if motion.name in wanted:
            item = group.sliders.add()
            item.name, item.new_name, item.region = motion.name, motion.suggestion, motion.region
            item.soft_min, item.soft_max = motion.soft_min, motion.soft_max
            item.turn = motion.arkit.get(motion.suggestion, 0.0) if motion.suggestion in arkit.HEAD else 0.0


def fault(obj: bpy.types.Object, item: SliderName) -> str:
    """Why a proposal cannot be applied, or an empty string."""
    name = item.new_name
    if not name.strip() or len(name.encode()) > LONGEST:
        return "A name has 1 to 60 letters"
    if item.soft_max <= item.soft_min:
        return f"The range of '{name}' ends before it begins"
    counts = Counter(new_names(obj).values())
    taken = character.reserved_names() | set(character.emotions(obj))
    return f"'{name}' is taken" if counts[name] > 1 or name in taken else ""


def new_names(obj: bpy.types.Object) -> dict[str, str]:
    """What every slider of the bank would be called, by what it is called now."""
    wanted = {item.name: item.new_name for item in obj.edtalk_naming.sliders}
    return {name: wanted.get(name, name) for name in character.bank_of(obj).names}


# --- Applying them


def apply(obj: bpy.types.Object, path: str) -> tuple[bpy.types.Object, ...]:
    """Write a bank with the proposed names, and have all characters that use the old one use it; returns those.

    path: the new file. Raises EDTalkError, having changed nothing, where a proposal or the file cannot be used.
    """
    for item in obj.edtalk_naming.sliders:
        if reason := fault(obj, item):
            raise EDTalkError(f"{reason}.", f"Choose another name or range for '{item.name}'.")
    old, names = character.bank_of(obj), new_names(obj)
    items = {item.name: item for item in obj.edtalk_naming.sliders}
    entries = tuple(_renamed(entry, items.get(entry.name)) for entry in old.coefficients)
    copy_bank(replace(old, coefficients=entries), character.resolve(path, obj))
    users = tuple(face for face in character.ensure_unique_ids() if _uses(face, old.path))
    for face in users:
        rename_sliders(face, names, path)
    obj.edtalk_naming.sliders.clear()
    return users


def _renamed(entry: Coefficient, item: SliderName | None) -> Coefficient:
    """A coefficient as proposed; what it has to do with ARKit follows from its name and range."""
    if item is None:
        return entry
    name, most = item.new_name, item.soft_max
    units = {unit: share * most for unit, share in arkit.derived(name).items()} if most > 0 else {}
    if name in arkit.HEAD and item.turn:
        units = {name: item.turn}
    return replace(entry, name=name, soft_min=item.soft_min, soft_max=most, arkit=units)


def _uses(obj: bpy.types.Object, path: Path) -> bool:
    return not character.editable_reason(obj) and character.bank_path(obj) == path


def rename_sliders(obj: bpy.types.Object, names: Mapping[str, str], bank: str) -> None:
    """Give a character a bank with the same sliders under other names; whatever uses them goes on doing so.

    Values, rest pose, own emotions, F-curves in its action and NLA strips, drivers on its sliders and drivers of others
    that read them, links of 3D heads. bank: the file, as the character's property has it.
    """
    group = obj.edtalk
    values = {name: group[name] for name in names if name in group}
    rest = {names.get(name, name): value for name, value in character.rest_values(obj).items()}
    presets = {
        emotion: {names.get(name, name): value for name, value in offsets.items()}
        for emotion, offsets in character.own_presets(obj).items()
    }
    drivers = obj.animation_data.drivers if obj.animation_data else ()
    for curve in [*_own_curves(obj), *drivers]:
        curve.data_path = _new_path(curve.data_path, names)
    for target in list(_targets(obj)):
        target.data_path = _new_path(target.data_path, names)
    for name in values:
        del group[name]
    for name, value in values.items():
        group[names[name]] = value
    group.rest, group.presets = json.dumps(rest), json.dumps(presets) if presets else ""
    character.set_bank(obj, bank)
    for head in bpy.data.objects:
        if head.library is None and head.edtalk_rig.character == obj:
            with rig.changing(head):
                for link in head.edtalk_rig.links:
                    link.slider = names.get(link.slider, link.slider)


def _new_path(path: str, names: Mapping[str, str]) -> str:
    found = _SLIDER.match(path)
    name = bpy.utils.unescape_identifier(found[1]) if found else ""
    return character.data_path(names[name]) + path[found.end() :] if name in names else path


def _own_curves(obj: bpy.types.Object) -> Iterator[bpy.types.FCurve]:
    """F-curves of the object's action and of its NLA strips; actions that others use too are copied first."""
    data = obj.animation_data
    if data is None:
        return
    if data.action is not None:
        yield from keys.own_channelbag(obj).fcurves
    for strip in (strip for track in data.nla_tracks for strip in track.strips if strip.action is not None):
        slot, action = strip.action_slot, strip.action
        others = slot is not None and any(user != obj for user in slot.users() if user.library is None)
        if action.library is not None or others:
            identifier = slot.identifier if slot else ""
            strip.action = action.copy()
            if identifier in strip.action.slots:
                strip.action_slot = strip.action.slots[identifier]
            if obj.edtalk.action == action:
                obj.edtalk.action = strip.action
        yield from compat.slot_fcurves(strip.action, strip.action_slot)


def _targets(obj: bpy.types.Object) -> Iterator[bpy.types.DriverTarget]:
    """What drivers anywhere in the file read of this object."""
    for owner in _animated():
        for curve in owner.animation_data.drivers:
            for variable in curve.driver.variables:
                yield from (target for target in variable.targets if target.id == obj)


def _animated() -> Iterator[bpy.types.ID]:
    """Everything of this file that has animation data, node trees inside materials and scenes among it."""
    collections: Sequence[Any] = [
        getattr(bpy.data, entry.identifier) for entry in bpy.data.bl_rna.properties if entry.type == "COLLECTION"
    ]
    for collection in collections:
        for owner in collection:
            for block in (owner, getattr(owner, "node_tree", None)):
                if block is not None and block.library is None and getattr(block, "animation_data", None):
                    yield block


CLASSES = (SliderName, Naming)

register_classes, unregister_classes = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    register_classes()
    bpy.types.Object.edtalk_naming = PointerProperty(
        type=Naming, name="Slider Names", description="Names that are proposed for the sliders"
    )


def unregister() -> None:
    del bpy.types.Object.edtalk_naming
    unregister_classes()
