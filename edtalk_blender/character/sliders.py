"""The sliders of a character: creating and naming them, and mixing their values to the coefficients to render.

A slider is a custom property of `object.edtalk`, one float for each coefficient of the bank and for each emotion.
Pressing I over a slider keys it alone, the Graph Editor shows its name, and actions, NLA, drivers and library overrides
work as they do for any property.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache

import bpy
import numpy as np

from ...inference.contract.bank import Bank
from ...inference.contract.errors import EDTalkError
from ...inference.contract.mixing import EXPRESSION, bank_strengths, final_rows
from ...inference.contract.parsing import MALFORMED, finite, parse_json
from . import files
from .slider_tips import emotion_tip, slider_tip

BANK_TITLES = {"lip": "Mouth", "pose": "Head", "exp": "Expression", "eye": "Gaze"}
EMOTION_GROUP = "Emotion"
COEFFICIENT_LIMITS = (-1e3, 1e3)
EMOTION_LIMITS = (0.0, 1.5)
STRENGTH_LIMITS = (0.0, 10.0)
_NOISE = 1e-4  # noise of coefficients measured from a portrait; not visible in a render


def setup_channels(obj: bpy.types.Object, rest: Mapping[str, float] | None = None) -> tuple[str, ...]:
    """Create the sliders of the object's bank and emotions; returns the names of sliders that were removed.

    rest: by name, values at which the portrait is rendered unchanged; others keep theirs. They become the sliders'
    defaults, and the values of sliders that were at rest. F-curves are kept, also those of removed sliders, which work
    again with the old bank.
    Raises EDTalkError if the bank cannot be read or a slider has the name of one of the add-on's properties.
    """
    group, bank = obj.edtalk, files.bank_of(obj)
    before = rest_values(obj)
    bank_rest = {entry.name: entry.rest for entry in bank.coefficients}
    after = bank_rest | {name: value for name, value in before.items() if name in bank_rest}
    after |= {name: _without_noise(value, bank_rest[name]) for name, value in (rest or {}).items() if name in bank_rest}
    emotion_names = emotions(obj)
    _check_names(bank, emotion_names)

    dropped = tuple(name for name in channel_names(obj) if name not in after and name not in emotion_names)
    for name in dropped:
        del group[name]
    if after != before:
        group.rest = json.dumps(after)
    group.name = "Face"  # shown in brackets after a slider's name in the Graph Editor
    for entry in bank.coefficients:
        name, value = entry.name, after[entry.name]
        if name not in group or group[name] == before.get(name):
            group[name] = value
        text = slider_tip(entry, title(name))
        _describe(group, name, COEFFICIENT_LIMITS, (entry.soft_min, entry.soft_max), value, text)
    for name in emotion_names:
        if name not in group:
            group[name] = 0.0
        _describe(group, name, EMOTION_LIMITS, (0.0, 1.0), 0.0, emotion_tip(name))
    for name in (*after, *emotion_names):
        group.property_overridable_library_set(f'["{bpy.utils.escape_identifier(name)}"]', True)
    _setup_bank_states(group, bank)
    obj.update_tag()
    return dropped


def lacks_channels(obj: bpy.types.Object) -> bool:
    """Whether a character with sliders lacks some of its bank. Raises EDTalkError if the bank cannot be read."""
    names = set(files.bank_of(obj).names)
    there = names & set(channel_names(obj))
    return bool(there) and there != names


def _describe(
    group: bpy.types.PropertyGroup,
    name: str,
    limits: tuple[float, float],
    soft_limits: tuple[float, float],
    default: float,
    description: str,
) -> None:
    group.id_properties_ui(name).update(
        min=limits[0],
        max=limits[1],
        soft_min=soft_limits[0],
        soft_max=soft_limits[1],
        default=default,
        precision=3,
        step=1.0,
        description=description,
    )


def _setup_bank_states(group: bpy.types.PropertyGroup, bank: Bank) -> None:
    wanted = [name for name, _count in bank.config.banks]
    for index in reversed(range(len(group.banks))):
        if group.banks[index].name not in wanted:
            group.banks.remove(index)
    for name in wanted:
        if name not in group.banks:
            group.banks.add().name = name


def _check_names(bank: Bank, emotion_names: Mapping[str, np.ndarray]) -> None:
    taken = reserved_names()
    for name in (*bank.names, *emotion_names):
        if name in taken or (name in emotion_names and name in bank.names):
            raise EDTalkError(
                f"The bank '{bank.name}' cannot be used: the slider name '{name}' is reserved or used twice.",
                "Choose another bank.",
                "bank",
            )


def reserved_names() -> frozenset[str]:
    """Names that no slider may have, because they are properties of the character."""
    return frozenset(bpy.types.Object.bl_rna.properties["edtalk"].fixed_type.properties.keys())


def data_path(name: str) -> str:
    """RNA path of a slider, relative to its object: `edtalk["jawOpen"]`."""
    return f'edtalk["{bpy.utils.escape_identifier(name)}"]'


def channel_names(obj: bpy.types.Object) -> tuple[str, ...]:
    """Names of all sliders on the object, coefficients and emotions, also those that its bank does not have."""
    reserved = reserved_names()
    return tuple(name for name in obj.edtalk.keys() if name not in reserved)  # noqa: SIM118  a group, not a dict


def title(name: str) -> str:
    """A slider's name for the UI: `mouthUpperUp` becomes "Mouth Upper Up"."""
    spaced = "".join(f" {letter}" if letter.isupper() else letter for letter in name.replace("_", " "))
    return " ".join(word[:1].upper() + word[1:] for word in spaced.split())


def rest_values(obj: bpy.types.Object) -> dict[str, float]:
    """Rest value by name, for every coefficient slider."""
    return dict(_parse_rest(obj.edtalk.rest))


def own_presets(obj: bpy.types.Object) -> dict[str, dict[str, float]]:
    """The character's own emotions: by name, the offset of each expression coefficient from rest."""
    return {name: dict(offsets) for name, offsets in _parse_presets(obj.edtalk.presets).items()}


def set_own_presets(obj: bpy.types.Object, presets: Mapping[str, Mapping[str, float]]) -> None:
    """Replace the character's own emotions and create their sliders. Raises EDTalkError for a name that is in use."""
    bank = files.bank_of(obj)
    taken = reserved_names() | set(bank.names) | set(bank.presets)
    for name in presets:
        if name in taken or not name.strip() or len(name.encode()) > 60:
            raise EDTalkError(
                f"'{name}' cannot be used as the name of an emotion: "
                + ("it is in use." if name in taken else "a name has 1 to 60 characters."),
                "Choose another name.",
            )
    obj.edtalk.presets = json.dumps(presets)
    setup_channels(obj)


def emotions(obj: bpy.types.Object) -> dict[str, np.ndarray]:
    """The character's emotions by name, the bank's first, as offsets (m,) of the expression bank from neutral."""
    bank = files.bank_of(obj)
    columns = bank.names_of(EXPRESSION)
    found = bank.emotion_offsets()
    for name, offsets in _parse_presets(obj.edtalk.presets).items():
        found[name] = np.array([offsets.get(column, 0.0) for column in columns])
    return found


def strengths(obj: bpy.types.Object) -> np.ndarray:
    """(number of banks,) effective strengths; 0 for a bank that is muted, or not solo while another one is."""
    states = [bank_state(obj, name) for name, _count in files.bank_of(obj).config.banks]
    columns = np.array([(state.strength, state.mute, state.solo) if state else (1.0, False, False) for state in states])
    strength, mute, solo = columns.T[:, None]
    return bank_strengths(strength, mute > 0, solo > 0)[0]


def bank_state(obj: bpy.types.Object, name: str) -> bpy.types.PropertyGroup | None:
    """Strength, mute and solo of one of the character's banks; None before it is set up."""
    return obj.edtalk.banks.get(name)


def values(obj: bpy.types.Object) -> np.ndarray:
    """(n,) values of the coefficient sliders in the bank's order; rest where there is no slider."""
    rest = rest_row(obj)
    return np.array([obj.edtalk.get(name, rest[index]) for index, name in enumerate(files.bank_of(obj).names)])


def emotion_values(obj: bpy.types.Object) -> np.ndarray:
    """(k,) values of the emotion sliders in the order of `emotions`."""
    return np.array([obj.edtalk.get(name, 0.0) for name in emotions(obj)])


def rest_row(obj: bpy.types.Object) -> np.ndarray:
    """(n,) float64 coefficients at which the portrait is rendered unchanged."""
    found = _parse_rest(obj.edtalk.rest)
    return np.array([found.get(entry.name, entry.rest) for entry in files.bank_of(obj).coefficients])


def row(obj: bpy.types.Object) -> np.ndarray:
    """(n,) float32 coefficients to render, mixed from sliders, bank strengths, mutes and emotions.

    obj: a character, or its evaluated copy, which includes drivers and NLA. Raises EDTalkError if its bank is
    missing.
    """
    return rows(obj, values(obj)[None], strengths(obj)[None], emotion_values(obj)[None])[0]


def rows(
    obj: bpy.types.Object, value_rows: np.ndarray, strength_rows: np.ndarray, emotion_rows: np.ndarray
) -> np.ndarray:
    """(T, n) float32 rows to render, from T rows of `values`, `strengths` and `emotion_values`."""
    bank = files.bank_of(obj)
    offsets = np.array(list(emotions(obj).values())).reshape(emotion_rows.shape[1], len(bank.names_of(EXPRESSION)))
    return final_rows(bank.config.banks, rest_row(obj), value_rows, strength_rows, emotion_rows, offsets)


@lru_cache(maxsize=256)
def _parse_rest(text: str) -> Mapping[str, float]:
    """Numbers by name; none if the text, which a .blend from elsewhere may have, is of another form."""
    try:
        return {name: finite(value) for name, value in (parse_json(text) if text else {}).items()}
    except MALFORMED:
        return {}


@lru_cache(maxsize=256)
def _parse_presets(text: str) -> Mapping[str, Mapping[str, float]]:
    """Numbers by emotion and name; none if the text is of another form."""
    try:
        data = parse_json(text) if text else {}
        return {emotion: {name: finite(value) for name, value in row.items()} for emotion, row in data.items()}
    except MALFORMED:
        return {}


def _without_noise(value: float, bank_rest: float) -> float:
    """A rest value measured from a portrait, as float32; exactly the bank's where the difference is only noise."""
    return bank_rest if abs(value - bank_rest) < _NOISE else float(np.float32(value))


def unregister() -> None:
    _parse_rest.cache_clear()
    _parse_presets.cache_clear()
