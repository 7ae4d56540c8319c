"""Control the shape keys of a 3D head by a character's sliders, with drivers or baked keyframes.

The links between shape keys and sliders are stored on the head's object. A shape key is the sum of its links: gain
times the slider's offset from rest, with emotions, bank strengths and mutes as in the rendered face. Drivers use
Blender's simple expressions, which work without permission to run scripts. Baked keyframes have the same values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import bpy
import numpy as np
from bpy.app.handlers import persistent
from bpy.props import CollectionProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

from ...inference.contract.errors import EDTalkError
from ...inference.contract.mixing import EXPRESSION
from ..animation import curves, keys, sampling
from ..character import character, files, sliders

OVERRIDABLE = {"LIBRARY_OVERRIDABLE"}
LONGEST = 255  # characters in a driver's expression
_redrive_on_change = True  # whether a change of a link updates the drivers at once; see `changing`


# --- Stored properties


def _link_changed(link: ShapeLink, _context: bpy.types.Context) -> None:
    follow(link.id_data)


def _rig_changed(group: ShapeRig, _context: bpy.types.Context) -> None:
    follow(group.id_data)


def _is_character(_group: ShapeRig, obj: bpy.types.Object) -> bool:
    return character.is_character(obj)


def _slider_names(link: ShapeLink, _context: bpy.types.Context, text: str) -> list[str]:
    obj = link.id_data.edtalk_rig.character
    names = sliders.channel_names(obj) if obj else ()
    return [name for name in names if text.lower() in name.lower()]


class ShapeLink(bpy.types.PropertyGroup):
    """Link of one slider to one shape key. `name` is unique among the links of a head."""

    shape_key: StringProperty(
        name="Shape Key", description="Shape key to control", update=_link_changed, override=OVERRIDABLE
    )
    slider: StringProperty(
        name="Slider",
        description="Slider or emotion of the character that controls the shape key",
        search=_slider_names,
        update=_link_changed,
        override=OVERRIDABLE,
    )
    gain: FloatProperty(
        name="Gain",
        description="Change of the shape key when the slider is one unit above rest, usually from -2 to 2. "
        "Shape keys range from 0 to 1",
        default=1.0,
        soft_min=-2.0,
        soft_max=2.0,
        update=_link_changed,
        override=OVERRIDABLE,
    )
    offset: FloatProperty(
        name="Offset",
        description="Value of the shape key when the slider is at rest, usually from 0 to 1",
        default=0.0,
        soft_min=-1.0,
        soft_max=1.0,
        update=_link_changed,
        override=OVERRIDABLE,
    )


class ShapeRig(bpy.types.PropertyGroup):
    """Character and links of a head."""

    character: PointerProperty(
        type=bpy.types.Object,
        name="Character",
        description="Character whose sliders control this head",
        poll=_is_character,
        update=_rig_changed,
        override=OVERRIDABLE,
    )
    links: CollectionProperty(
        type=ShapeLink,
        name="Links",
        description="Shape keys and the sliders that drive them",
        override={"LIBRARY_OVERRIDABLE", "USE_INSERTION"},
    )
    active: IntProperty(name="Active Link", description="Number of the selected link, from 0", override=OVERRIDABLE)
    driven_by: StringProperty(
        name="Driven By", description="Signature of the drivers' formulas. Empty: no drivers", override=OVERRIDABLE
    )


def add_link(obj: bpy.types.Object, shape_key: str = "", slider: str = "", gain: float = 1.0) -> ShapeLink:
    """Add a link to a head. Its name is a new number, because library overrides match links by name."""
    links = obj.edtalk_rig.links
    number = 1 + max((int(link.name) for link in links if link.name.isdigit()), default=0)
    with changing(obj):
        link = links.add()
        link.name = str(number)
        link.shape_key, link.slider, link.gain = shape_key, slider, gain
    return link


# --- Heads


def has_shapes(obj: bpy.types.Object | None) -> bool:
    return obj is not None and getattr(obj.data, "shape_keys", None) is not None


def shape_keys(obj: bpy.types.Object) -> list[str]:
    """Names of all shape keys except the basis."""
    key = obj.data.shape_keys
    return [block.name for block in key.key_blocks if block != key.reference_key]


def editable_keys(obj: bpy.types.Object) -> bpy.types.Key:
    """The head's shape keys, editable. Linked ones are overridden, since an override of the object excludes them.

    Raises EDTalkError if that is not possible.
    """
    if reason := character.editable_reason(obj):
        raise EDTalkError(f"{reason}.")
    if obj.data.library is not None and obj.data.override_create(remap_local_usages=True) is None:
        raise EDTalkError(
            f"The shape keys of {obj.name} are linked and cannot be overridden.", f"Append {obj.name} instead."
        )
    override = obj.data.override_library
    if override is not None and override.is_system_override:
        override.is_system_override = False
    return obj.data.shape_keys


def character_of(obj: bpy.types.Object) -> bpy.types.Object:
    """The character that drives the head. Raises EDTalkError if none is chosen."""
    face = obj.edtalk_rig.character
    if face is None or not character.is_character(face):
        raise EDTalkError(f"{obj.name} has no character.", "Choose the character that drives it.")
    return face


def value_path(shape_key: str) -> str:
    """The data path of a shape key's value, from the data block of the shape keys."""
    return f'key_blocks["{bpy.utils.escape_identifier(shape_key)}"].value'


# --- Formula of a shape key


@dataclass
class Mix:
    """Formula of a shape key: `constant + sum over banks of strength * (offset + sum of gain * slider)`.

    strength is the bank's strength, 0 if it is muted. The keys of `offsets` and `gains` are indices of banks.
    """

    constant: float = 0.0
    offsets: dict[int, float] = field(default_factory=dict)
    gains: dict[int, dict[str, float]] = field(default_factory=dict)

    def add(self, bank: int, slider: str, gain: float, rest: float = 0.0) -> None:
        """Add `gain * (slider - rest)`, scaled by the strength of the bank with this index."""
        part = self.gains.setdefault(bank, {})
        part[slider] = part.get(slider, 0.0) + gain
        self.offsets[bank] = self.offsets.get(bank, 0.0) - gain * rest

    @property
    def sliders(self) -> list[str]:
        return list(dict.fromkeys(slider for part in self.gains.values() for slider in part))

    def values(self, columns: dict[str, np.ndarray], strengths: np.ndarray) -> np.ndarray:
        """Values (T,) of the shape key. columns: slider values (T,) by name. strengths: (T, banks), 0 if muted."""
        total = np.full(len(strengths), self.constant)
        for bank, part in self.gains.items():
            offset = self.offsets[bank] + sum(gain * columns[slider] for slider, gain in part.items())
            total += strengths[:, bank] * offset
        return total

    def expression(self, names: dict[str, str], banks: int) -> str:
        """The formula as a driver expression.

        names: variable names by slider. Variables s0, m0 and o0 are strength, mute and solo of the bank with index 0.
        """
        text = _number(self.constant)
        for bank, part in self.gains.items():
            others = "".join(f"-o{other}" for other in range(banks) if other != bank)
            terms = [f"{_number(gain)}*{names[slider]}" for slider, gain in part.items()]
            if _number(self.offsets[bank]) != "0":
                terms.append(_number(self.offsets[bank]))
            text += f"+s{bank}*(1-m{bank})*max(o{bank},1{others})*({'+'.join(terms)})"
        return text.replace("+-", "-")


def _number(value: float) -> str:
    """Decimal notation without exponent, as simple expressions require."""
    return f"{round(value, 5) + 0.0:.5f}".rstrip("0").rstrip(".")


def mixes(obj: bpy.types.Object) -> dict[str, Mix]:
    """Formulas by shape key. Links to missing shape keys or sliders are ignored.

    Raises EDTalkError if the character or its bank is missing.
    """
    face = character_of(obj)
    bank, rest = files.bank_of(face), sliders.rest_values(face)
    order = [name for name, _count in bank.config.banks]
    emotions = sliders.emotions(face) if EXPRESSION in order else {}
    expression = bank.names_of(EXPRESSION)
    coefficients = {entry.name: entry for entry in bank.coefficients}
    existing = set(shape_keys(obj))
    formulas: dict[str, Mix] = {}
    for link in obj.edtalk_rig.links:
        entry = coefficients.get(link.slider)
        if link.shape_key not in existing or (entry is None and link.slider not in emotions):
            continue
        mix = formulas.setdefault(link.shape_key, Mix())
        mix.constant += link.offset
        if entry is None:
            mix.add(order.index(EXPRESSION), link.slider, link.gain)
            continue
        mix.add(order.index(entry.bank), entry.name, link.gain, rest.get(entry.name, entry.rest))
        if entry.bank == EXPRESSION:
            for emotion, offsets in emotions.items():
                if share := float(offsets[expression.index(entry.name)]):
                    mix.add(order.index(EXPRESSION), emotion, link.gain * share)
    return formulas


def is_valid(obj: bpy.types.Object, link: ShapeLink) -> bool:
    """Whether the link's shape key and slider exist."""
    face = obj.edtalk_rig.character
    return face is not None and link.slider in face.edtalk and link.shape_key in shape_keys(obj)


# --- Drivers


def drive(obj: bpy.types.Object) -> int:
    """Add drivers to the linked shape keys, in place of existing ones from here. Returns the number of drivers.

    The drivers are generated from the current links and the portrait's current rest pose. Raises EDTalkError if a
    formula is too long, or if the shape keys are not editable or have other drivers.
    """
    face, formulas = character_of(obj), mixes(obj)
    for shape_key, mix in formulas.items():
        if len(mix.expression(_variables(mix), len(face.edtalk.banks))) > LONGEST:
            raise EDTalkError(
                f"'{shape_key}' has too many links for one driver.", "Remove some of them, or use Bake instead."
            )
    key = editable_keys(obj)
    _check_free(obj, formulas)
    original = obj.data.override_library.reference.shape_keys if obj.data.override_library else None
    if original is not None and original.animation_data is not None:
        library = original.library.name
        raise EDTalkError(
            f"The shape keys of {obj.name} are animated in {library}, so Blender would lose new drivers on reload.",
            "Use Bake instead.",
        )
    remove_drivers(obj)
    for shape_key, mix in formulas.items():
        driver = key.driver_add(value_path(shape_key)).driver
        driver.type = "SCRIPTED"
        names = _variables(mix)
        for slider, name in names.items():
            _add_variable(driver, name, face, sliders.data_path(slider))
        for bank, state in enumerate(face.edtalk.banks):
            properties = {"s": "strength", "m": "mute", "o": "solo"} if bank in mix.gains else {"o": "solo"}
            for letter, name in properties.items():
                _add_variable(driver, f"{letter}{bank}", face, state.path_from_id(name))
        driver.expression = mix.expression(names, len(face.edtalk.banks))
    obj.edtalk_rig.driven_by = _signature(formulas)
    obj.update_tag()
    return len(formulas)


def _variables(mix: Mix) -> dict[str, str]:
    return {slider: f"v{index}" for index, slider in enumerate(mix.sliders)}


def _add_variable(driver: bpy.types.Driver, name: str, owner: bpy.types.Object, path: str) -> None:
    variable = driver.variables.new()
    variable.name = name
    variable.targets[0].id = owner
    variable.targets[0].data_path = path


def remove_drivers(obj: bpy.types.Object, names: Iterable[str] | None = None) -> int:
    """Remove the drivers made by `drive` from the named shape keys, or from all. Returns their number."""
    key = obj.data.shape_keys
    paths = None if names is None else {value_path(name) for name in names}
    ours = [curve for curve in _drivers(key) if paths is None or curve.data_path in paths]
    for path in [curve.data_path for curve in ours]:
        key.driver_remove(path)
    if not any(True for _ in _drivers(key)):
        obj.edtalk_rig.driven_by = ""
    obj.update_tag()
    return len(ours)


def _check_free(obj: bpy.types.Object, names: Iterable[str]) -> None:
    """Raise EDTalkError if the shape keys have drivers that `drive` did not make, such as those of a rig."""
    key = obj.data.shape_keys
    ours, paths = {curve.data_path for curve in _drivers(key)}, {value_path(name): name for name in names}
    drivers = key.animation_data.drivers if key.animation_data else ()
    driven_keys = [
        paths[curve.data_path] for curve in drivers if curve.data_path in paths and curve.data_path not in ours
    ]
    if driven_keys:
        names = f"'{driven_keys[0]}'" + (f" and {len(driven_keys) - 1} more shape keys" if len(driven_keys) > 1 else "")
        raise EDTalkError(
            f"Other drivers already control {names} of {obj.name}.",
            "Remove those drivers, or the links of these shape keys.",
        )


def _drivers(key: bpy.types.Key) -> Iterator[bpy.types.FCurve]:
    """Drivers made by `drive`: those that read only a character's properties."""
    for curve in key.animation_data.drivers if key.animation_data else ():
        targets = [target for variable in curve.driver.variables for target in variable.targets]
        if targets and all(target.data_path.startswith("edtalk") for target in targets):
            yield curve


def is_driven(obj: bpy.types.Object) -> bool:
    return bool(obj.edtalk_rig.driven_by)


def is_stale(obj: bpy.types.Object) -> bool:
    """Whether rest pose, emotions, bank or links have changed since the drivers were made; False if unknown."""
    if not is_driven(obj):
        return False
    try:
        return obj.edtalk_rig.driven_by != _signature(mixes(obj))
    except EDTalkError:
        return False


def _signature(formulas: dict[str, Mix]) -> str:
    parts = {name: [mix.constant, mix.offsets, mix.gains] for name, mix in formulas.items()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def follow(obj: bpy.types.Object) -> None:
    """Update the drivers of a driven head. If that fails, it keeps the old ones."""
    if _redrive_on_change and is_driven(obj) and has_shapes(obj):
        try:
            drive(obj)
        except EDTalkError:
            return  # the panel shows that they are out of date


@contextmanager
def changing(obj: bpy.types.Object) -> Iterator[None]:
    """Update the drivers once at the end of the block instead of after every change of a link."""
    global _redrive_on_change
    before, _redrive_on_change = _redrive_on_change, False
    try:
        yield
    finally:
        _redrive_on_change = before
        follow(obj)


# --- Keyframes


def bake(
    scene: bpy.types.Scene, obj: bpy.types.Object, frames: Sequence[int] | np.ndarray, simplify: float = -1.0
) -> int:
    """Bake the linked shape keys to keyframes at `frames`, in place of drivers and of keyframes in that range.

    simplify: largest error of the decimated curves; below 0 every frame gets a keyframe. Values are clamped to the
    range of their shape key. Returns the number of shape keys. Raises EDTalkError if the shape keys are not editable or
    have other drivers.
    """
    face, formulas = character_of(obj), mixes(obj)
    times = np.asarray(frames, np.float64)
    values, strengths, emotions = sampling.sample_sliders(scene, face, times)
    columns = dict(zip(files.bank_of(face).names, values.T, strict=True))
    columns |= dict(zip(sliders.emotions(face), emotions.T, strict=True))
    key = editable_keys(obj)
    _check_free(obj, formulas)
    remove_drivers(obj, formulas)
    bag = keys.own_channelbag(key)
    for shape_key, mix in formulas.items():
        block = key.key_blocks[shape_key]
        column = np.clip(mix.values(columns, strengths), block.slider_min, block.slider_max)
        kept = curves.decimate(times, column, simplify)
        ends = times[0], times[-1]
        keys.write_curve(bag, value_path(shape_key), times[kept], column[kept], replace=ends, group="Face")
    obj.update_tag()
    return len(formulas)


# --- Registration


@persistent
def _create_reference_groups(*_: object) -> None:
    """Before saving, create the property groups of linked objects that are overridden, with default values.

    Blender saves an override of `links` only if the linked object has the property group. A rig made without this
    extension has none. Reading a property creates its group in memory and changes nothing else.
    """
    for obj in bpy.data.objects:
        if obj.override_library is not None and obj.override_library.reference is not None:
            _ = obj.override_library.reference.edtalk, obj.override_library.reference.edtalk_rig


CLASSES = (ShapeLink, ShapeRig)

register_classes, unregister_classes = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    register_classes()
    bpy.types.Object.edtalk_rig = PointerProperty(
        type=ShapeRig, name="3D Face", description="Character and links of the shape keys", override=OVERRIDABLE
    )
    bpy.app.handlers.save_pre.append(_create_reference_groups)


def unregister() -> None:
    bpy.app.handlers.save_pre.remove(_create_reference_groups)
    del bpy.types.Object.edtalk_rig
    unregister_classes()
