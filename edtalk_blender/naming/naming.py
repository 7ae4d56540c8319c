"""Name the sliders of a bank that only numbers them, and update everything that refers to them.

Names are proposals until they are applied. Applying writes a copy of the bank with the same weights and the new names,
and switches the characters to the copy. The old file stays, so undo works, older shots can still be rendered and
rendered frames stay valid.
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
from ..character import character, files, sliders
from ..rig import rig

LONGEST = 60  # bytes of a slider's name
_NUMBERED = re.compile(r"[a-z]+_\d+")
_SLIDER = re.compile(r'^edtalk\["((?:[^"\\]|\\.)*)"\]')


# --- Proposals


class SliderName(bpy.types.PropertyGroup):
    """Proposed name and range of one slider. `name` is its current name."""

    new_name: StringProperty(name="Name", description="New name of the slider")
    soft_min: FloatProperty(name="Min", description="Lower end of the slider's range, in slider units", default=-5.0)
    soft_max: FloatProperty(name="Max", description="Upper end of the slider's range, in slider units", default=5.0)
    region: StringProperty(name="Region", description="Part of the face with most of the slider's motion")
    turn: FloatProperty(name="Turn", description="Slider value per degree of head rotation, for head sliders")
    moves: StringProperty(name="Head Motion", description="How a value of 1 moves the head along each axis (JSON)")


class Naming(bpy.types.PropertyGroup):
    """Proposals for a character's sliders."""

    sliders: CollectionProperty(type=SliderName, name="Sliders", description="Sliders and their proposed names")
    active: IntProperty(name="Active Slider", description="Number of the selected slider, from 0")


def numbered(bank: Bank) -> tuple[str, ...]:
    """Names of sliders that only have a number, such as lip_01."""
    return tuple(name for name in bank.names if _NUMBERED.fullmatch(name))


def propose(obj: bpy.types.Object, motions: Iterable[Motion], names: Iterable[str]) -> None:
    """Store proposals for the sliders in `names`. motions: what the engine measured, see `Motion`."""
    group, wanted = obj.edtalk_naming, set(names)
    group.sliders.clear()
    group.active = 0
    for motion in motions:
        if motion.name in wanted:
            item = group.sliders.add()
            item.name, item.new_name, item.region = motion.name, motion.suggestion, motion.region
            item.soft_min, item.soft_max = motion.soft_min, motion.soft_max
            item.moves = json.dumps(motion.moves) if motion.moves else ""
            item.turn = motion.arkit.get(motion.suggestion, 0.0) if motion.suggestion in arkit.HEAD else 0.0


def fault(obj: bpy.types.Object, item: SliderName) -> str:
    """Why a proposal cannot be applied, without a full stop; empty if it can."""
    name = item.new_name
    if not name.strip() or len(name.encode()) > LONGEST:
        return f"A name must have 1 to {LONGEST} characters"
    if item.soft_max <= item.soft_min:
        return f"The maximum of '{name}' must be above its minimum"
    counts = Counter(new_names(obj).values())
    taken = sliders.reserved_names() | set(sliders.emotions(obj))
    return f"The name '{name}' is already in use" if counts[name] > 1 or name in taken else ""


def new_names(obj: bpy.types.Object) -> dict[str, str]:
    """New name of every slider of the bank by its current name; both are equal without a proposal."""
    wanted = {item.name: item.new_name for item in obj.edtalk_naming.sliders}
    return {name: wanted.get(name, name) for name in files.bank_of(obj).names}


# --- Applying proposals


def apply(obj: bpy.types.Object, path: str) -> tuple[bpy.types.Object, ...]:
    """Write a bank with the proposed names to `path`, and switch all characters of the old bank to it.

    Returns those characters. Raises EDTalkError, without any change, if a proposal or the file cannot be used.
    """
    for item in obj.edtalk_naming.sliders:
        if reason := fault(obj, item):
            raise EDTalkError(f"{reason}.", f"Change the name or range of '{item.name}'.")
    old, names = files.bank_of(obj), new_names(obj)
    items = {item.name: item for item in obj.edtalk_naming.sliders}
    entries = tuple(_renamed(entry, items.get(entry.name)) for entry in old.coefficients)
    copy_bank(replace(old, coefficients=entries), files.resolve(path, obj))
    users = tuple(face for face in character.ensure_unique_ids() if old.path and _uses(face, old.path))
    for face in users:
        rename_sliders(face, names, path)
    obj.edtalk_naming.sliders.clear()
    return users


def _renamed(entry: Coefficient, item: SliderName | None) -> Coefficient:
    """The coefficient with its proposal applied. Its ARKit mapping is derived from the new name and range."""
    if item is None:
        return entry
    name, most = item.new_name, item.soft_max
    units = {unit: share * most for unit, share in arkit.derived(name).items()} if most > 0 else {}
    if name in arkit.HEAD and item.turn:
        units = {name: item.turn}
    moves = json.loads(item.moves) if item.moves else {}
    return replace(entry, name=name, soft_min=item.soft_min, soft_max=most, arkit=units, moves=moves)


def _uses(obj: bpy.types.Object, path: Path) -> bool:
    return not character.editable_reason(obj) and files.bank_path(obj) == path


def rename_sliders(obj: bpy.types.Object, names: Mapping[str, str], bank: str) -> None:
    """Switch a character to a bank with the same sliders under other names, and update all references to them.

    These are values, rest pose, custom emotions, F-curves of its action and NLA strips, drivers on its sliders, drivers
    that read its sliders, and links of 3D heads. bank: path of the bank, as in the character's property.
    """
    group = obj.edtalk
    values = {name: group[name] for name in names if name in group}
    rest = {names.get(name, name): value for name, value in sliders.rest_values(obj).items()}
    presets = {
        emotion: {names.get(name, name): value for name, value in offsets.items()}
        for emotion, offsets in sliders.own_presets(obj).items()
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
    return sliders.data_path(names[name]) + path[found.end() :] if name in names else path


def _own_curves(obj: bpy.types.Object) -> Iterator[bpy.types.FCurve]:
    """F-curves of the object's action and NLA strips. Actions shared with other objects are copied first."""
    data = obj.animation_data
    if data is None:
        return
    if compat.fcurves(obj):
        yield from keys.own_channelbag(obj).fcurves
    for strip in (strip for track in data.nla_tracks for strip in track.strips if strip.action is not None):
        slot, action = strip.action_slot, strip.action
        if action.library is not None or (slot is not None and compat.is_shared(slot, obj)):
            identifier = slot.identifier if slot else ""
            strip.action = action.copy()
            if identifier in strip.action.slots:
                strip.action_slot = strip.action.slots[identifier]
            if obj.edtalk.action == action:
                obj.edtalk.action = strip.action
        yield from compat.slot_fcurves(strip.action, strip.action_slot)


def _targets(obj: bpy.types.Object) -> Iterator[bpy.types.DriverTarget]:
    """Driver targets in the whole file that read this object."""
    for owner in _animated():
        for curve in owner.animation_data.drivers:
            for variable in curve.driver.variables:
                yield from (target for target in variable.targets if target.id == obj)


def _animated() -> Iterator[bpy.types.ID]:
    """All local data-blocks with animation data, including embedded node trees."""
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
        type=Naming, name="Slider Names", description="Proposed names of the sliders"
    )


def unregister() -> None:
    del bpy.types.Object.edtalk_naming
    unregister_classes()
