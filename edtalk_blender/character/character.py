"""A character: an object whose sliders are a bank's coefficients and emotions, and the row of numbers that they make.

The sliders are custom properties of `object.edtalk`, one float each, so that pressing I over one keys it alone, the
Graph Editor shows its name, and actions, NLA, drivers and library overrides work as they do for any property.
Objects are found again by `uid`, never kept.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import bpy
import numpy as np
from bpy.app.handlers import persistent

from ...inference.contract.bank import STARTER, Bank, read_bank
from ...inference.contract.errors import EDTalkError
from ...inference.contract.mixing import EXPRESSION, bank_strengths, final_rows
from . import exif

FACE_OF = "edtalk_face_of"  # custom property of an image that we draw: the uid of its character
BANK_TITLES = {"lip": "Mouth", "pose": "Head", "exp": "Expression"}
EMOTION_GROUP = "Emotion"
COEFFICIENT_LIMITS = (-1e3, 1e3)
EMOTION_LIMITS = (0.0, 1.5)
STRENGTH_LIMITS = (0.0, 10.0)
_NOISE = 1e-4  # of a coefficient that is read off a picture; no picture shows it

# Called with the character whose portrait or crop has changed; its rest pose is then to be found anew.
portrait_listeners: list[Callable[[bpy.types.Object], None]] = []


# --- Finding characters


def is_character(obj: bpy.types.Object | None) -> bool:
    return obj is not None and obj.edtalk.is_character


def characters(scene: bpy.types.Scene) -> list[bpy.types.Object]:
    """The scene's characters by name, linked ones too; changes nothing, so panels may ask."""
    return sorted((obj for obj in scene.objects if is_character(obj)), key=lambda obj: obj.name)


def active(context: bpy.types.Context) -> bpy.types.Object | None:
    """The character that panels show and buttons act on: the active object, or the only character of the scene."""
    obj = context.view_layer.objects.active if context.view_layer else None
    if is_character(obj):
        return obj
    everybody = characters(context.scene)
    return everybody[0] if len(everybody) == 1 else None


def find(uid: str) -> bpy.types.Object | None:
    """The character with this identity, or None; an override is preferred to what it overrides.

    Copies of an object have their original's identity until now: each but the oldest gets a new one.
    """
    everybody = ensure_unique_ids()
    found = [obj for obj in everybody if obj.edtalk.uid == uid]
    return min(found, key=lambda obj: obj.library is not None, default=None)


def ensure_unique_ids() -> list[bpy.types.Object]:
    """Give an identity to every character that has none, or has one that an older character of this file has.

    Returns all characters of the file, linked ones too.
    """
    seen = set()
    everybody = [obj for obj in bpy.data.objects if is_character(obj)]
    for obj in sorted((obj for obj in everybody if obj.library is None), key=lambda obj: obj.session_uid):
        if not obj.edtalk.uid or obj.edtalk.uid in seen:
            obj.edtalk.uid = new_uid()
        seen.add(obj.edtalk.uid)
    return everybody


def new_uid() -> str:
    return uuid.uuid4().hex[:16]


def editable_reason(obj: bpy.types.Object) -> str:
    """Why the character cannot be changed, or an empty string."""
    if obj.library is not None:
        return f"{obj.name} is linked from {Path(obj.library.filepath).name}: make a library override to animate it"
    if obj.override_library is not None and obj.override_library.is_system_override:
        return f"{obj.name} is a library override that is not editable yet: make it editable to animate it"
    return ""


# --- Making one


def create(
    where: bpy.types.Context | bpy.types.Scene, portrait: str = "", bank: str = "", name: str = ""
) -> bpy.types.Object:
    """A new character: an Empty that shows its portrait, upright and facing the front view, in the scene's collection.

    Raises EDTalkError for a bank that cannot be read, before anything is made. A portrait may still be missing.
    """
    scene = where.scene if isinstance(where, bpy.types.Context) else where
    load_bank_file(resolve(bank) if bank else STARTER)
    obj = bpy.data.objects.new(name or Path(portrait).stem or "Character", None)
    obj.empty_display_type = "IMAGE"
    obj.empty_image_depth = "FRONT"  # a new scene has a cube where it stands
    obj.empty_display_size = 1.0
    obj.rotation_euler.x = 0.5 * np.pi
    obj.location.x = 1.2 * len(characters(scene))
    scene.collection.objects.link(obj)
    adopt(obj, bank)
    obj.edtalk.portrait = portrait
    return obj


def adopt(obj: bpy.types.Object, bank: str = "") -> None:
    """Make a character of an object; an image that an Empty shows becomes its portrait.

    Raises EDTalkError for a bank that cannot be read, before anything is changed.
    """
    load_bank_file(resolve(bank, obj) if bank else STARTER)
    obj.edtalk.is_character = True
    obj.edtalk.uid = new_uid()
    obj.edtalk.bank = bank
    setup_channels(obj)
    if obj.type == "EMPTY" and obj.data is not None:
        obj.edtalk.portrait_image = obj.data


def setup_channels(obj: bpy.types.Object, rest: Mapping[str, float] | None = None) -> tuple[str, ...]:
    """Give the object the sliders of its bank and of its own emotions; returns names of sliders that had to go.

    rest: the values at which its portrait is rendered as it is, by name; those left out keep what they had. They become
    the sliders' defaults, and the values of sliders that were at rest before. F-curves are not touched, not even those
    of sliders that have gone: with the old bank they move again.
    Raises EDTalkError where the bank cannot be read or names a slider like one of our own properties.
    """
    group, bank = obj.edtalk, bank_of(obj)
    before = rest_values(obj)
    usual = {entry.name: entry.rest for entry in bank.coefficients}
    after = usual | {name: value for name, value in before.items() if name in usual}
    after |= {name: _settled(value, usual[name]) for name, value in (rest or {}).items() if name in usual}
    emotion_names = emotions(obj)
    _check_names(bank, emotion_names)

    dropped = tuple(name for name in channel_names(obj) if name not in after and name not in emotion_names)
    for name in dropped:
        del group[name]
    if after != before:
        group.rest = json.dumps(after)
    group.name = "Face"  # what the Graph Editor puts in brackets behind a slider's name
    for entry in bank.coefficients:
        name, value = entry.name, after[entry.name]
        if name not in group or group[name] == before.get(name):
            group[name] = value
        text = f"{title(name)}. 1.0 is {entry.unit}" if entry.unit else title(name)
        _describe(group, name, COEFFICIENT_LIMITS, (entry.soft_min, entry.soft_max), value, text)
    for name in emotion_names:
        if name not in group:
            group[name] = 0.0
        text = f"How {name} the face is, from neutral (0) to fully so (1)"
        _describe(group, name, EMOTION_LIMITS, (0.0, 1.0), 0.0, text)
    for name in (*after, *emotion_names):
        group.property_overridable_library_set(f'["{bpy.utils.escape_identifier(name)}"]', True)
    _setup_bank_states(group, bank)
    obj.update_tag()
    return dropped


def _describe(
    group: bpy.types.PropertyGroup,
    name: str,
    limits: tuple[float, float],
    usual: tuple[float, float],
    default: float,
    description: str,
) -> None:
    group.id_properties_ui(name).update(
        min=limits[0],
        max=limits[1],
        soft_min=usual[0],
        soft_max=usual[1],
        default=default,
        precision=3,
        step=1.0,
        description=description,
    )


def set_bank(obj: bpy.types.Object, bank: str) -> tuple[str, ...]:
    """Give the character another bank ("" is the starter bank), keeping sliders of the same names.

    Returns names of sliders that the new bank does not have. Raises EDTalkError, having changed nothing, for a file
    that is no bank.
    """
    load_bank_file(resolve(bank, obj) if bank else STARTER)
    previous, obj.edtalk.bank = obj.edtalk.bank, bank
    try:
        dropped = setup_channels(obj)
    except EDTalkError:
        obj.edtalk.bank = previous
        raise
    if obj.edtalk.portrait_image:
        portrait_changed(obj)  # another bank measures the same face differently
    return dropped


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
                f"The bank '{bank.name}' cannot be used: it names a slider '{name}', which stands for something else.",
                "Choose another bank.",
                "bank",
            )


def reserved_names() -> frozenset[str]:
    """Names that no slider may have, because the character's own properties bear them."""
    return frozenset(bpy.types.Object.bl_rna.properties["edtalk"].fixed_type.properties.keys())


# --- Bank, portrait, crop


def bank_path(obj: bpy.types.Object) -> Path:
    """The character's bank file, absolute, whether it exists or not."""
    return resolve(obj.edtalk.bank, obj) if obj.edtalk.bank else STARTER


def bank_of(obj: bpy.types.Object) -> Bank:
    """The character's bank without its weights, read again only when the file has changed; EDTalkError if missing."""
    return load_bank_file(bank_path(obj))


def load_bank_file(path: Path) -> Bank:
    try:
        state = path.stat()
    except OSError:
        return read_bank(path)  # which says what is wrong
    return _read_bank(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=32)
def _read_bank(path: Path, _changed: int, _size: int) -> Bank:
    return read_bank(path)


def resolve(path: str, obj: bpy.types.Object | None = None) -> Path:
    """An absolute path; `//` stands for the folder of the .blend, or of the library that a linked object comes from."""
    here = Path(bpy.path.abspath(path))
    library = _library(obj) if obj else None
    if library is not None and path.startswith("//") and not here.exists():
        return Path(bpy.path.abspath(path, library=library))
    return here


def _library(obj: bpy.types.Object) -> bpy.types.Library | None:
    if obj.override_library is not None and obj.override_library.reference is not None:
        return obj.override_library.reference.library
    return obj.library


def check_picture(path: str) -> None:
    """Raise EDTalkError, leaving nothing behind, where there is no picture that Blender can read."""
    file = resolve(path)
    if not file.is_file():
        raise EDTalkError(f"{file} does not exist.", "Choose a picture of a face.")
    image = bpy.data.images.load(path)
    try:
        if not all(image.size):
            raise EDTalkError(f"{file} is no picture that Blender can read.", "Choose a PNG or JPEG of a face.")
    finally:
        bpy.data.images.remove(image)


def load_picture(path: str) -> bpy.types.Image:
    """Blender's image of this file. A file that is missing has one too, so that its path can be shown and mended."""
    try:
        return bpy.data.images.load(path, check_existing=True)
    except RuntimeError:
        image = bpy.data.images.new(Path(path).name, 1, 1)
        image.source = "FILE"
        image.filepath = path
        return image


def portrait_size(obj: bpy.types.Object) -> tuple[int, int]:
    """Width and height of the portrait held upright, as the engine has it; EDTalkError where it is missing."""
    width, height = obj.edtalk.portrait_image.size
    on_its_side = exif.is_on_its_side(exif.orientation(portrait_path(obj)))
    return (height, width) if on_its_side else (width, height)


def portrait_path(obj: bpy.types.Object) -> Path:
    """The portrait's file, absolute; a portrait packed into the .blend is written out for the worker to read.

    Raises EDTalkError where there is none or it is missing.
    """
    image = obj.edtalk.portrait_image
    if image is None:
        raise EDTalkError(f"{obj.name} has no portrait yet.", "Choose its portrait.")
    if image.packed_file is not None:
        return _unpacked(image)
    path = Path(image.filepath_from_user())
    if not image.filepath:
        raise EDTalkError(f"The portrait '{image.name}' of {obj.name} has no file yet.", "Save or pack the image.")
    if not path.is_file():
        raise EDTalkError(f"{obj.name}'s portrait {path} does not exist.", "Choose the portrait again.")
    return path


def _unpacked(image: bpy.types.Image) -> Path:
    data = image.packed_file.data
    suffix = Path(image.filepath).suffix or ".png"
    path = Path(bpy.app.tempdir) / f"edtalk_{hashlib.sha256(data).hexdigest()[:20]}{suffix}"
    if not path.is_file():
        path.write_bytes(data)
    return path


def crop_of(obj: bpy.types.Object) -> str | tuple[float, float, float]:
    """The words "auto" or "none", or left, top and side of the face's square in pixels of the portrait."""
    group = obj.edtalk
    return tuple(group.crop) if group.crop_mode == "box" else group.crop_mode


def portrait_changed(obj: bpy.types.Object) -> None:
    """Show the portrait and have its rest pose found; called whenever portrait, crop or bank have changed."""
    show_portrait(obj)
    for listener in portrait_listeners:
        listener(obj)


# --- What the sliders say


def data_path(name: str) -> str:
    """Path of a slider from its object, as F-curves and drivers have it: `edtalk["jawOpen"]`."""
    return f'edtalk["{bpy.utils.escape_identifier(name)}"]'


def channel_names(obj: bpy.types.Object) -> tuple[str, ...]:
    """Names of all sliders that the object has, coefficients and emotions, whatever its bank says."""
    reserved = reserved_names()
    return tuple(name for name in obj.edtalk.keys() if name not in reserved)  # noqa: SIM118  a group, not a dict


def title(name: str) -> str:
    """`mouthUpperUp` as a person reads it: "Mouth Upper Up"."""
    spaced = "".join(f" {letter}" if letter.isupper() else letter for letter in name.replace("_", " "))
    return " ".join(word[:1].upper() + word[1:] for word in spaced.split())


def rest_values(obj: bpy.types.Object) -> dict[str, float]:
    """Value at rest by name, for every coefficient that has been set up."""
    return dict(_parse(obj.edtalk.rest))


def own_presets(obj: bpy.types.Object) -> dict[str, dict[str, float]]:
    """The character's own emotions: by name, how far each expression coefficient moves from rest."""
    return {name: dict(offsets) for name, offsets in _parse(obj.edtalk.presets).items()}


def set_own_presets(obj: bpy.types.Object, presets: Mapping[str, Mapping[str, float]]) -> None:
    """Replace the character's own emotions and give it their sliders; EDTalkError for a name that is taken."""
    bank = bank_of(obj)
    taken = reserved_names() | set(bank.names) | set(bank.presets)
    for name in presets:
        if name in taken or not name.strip() or len(name.encode()) > 60:
            raise EDTalkError(
                f"An emotion cannot be called '{name}': "
                + ("that name is taken." if name in taken else "a name has 1 to 60 letters."),
                "Choose another name.",
            )
    obj.edtalk.presets = json.dumps(presets)
    setup_channels(obj)


def emotions(obj: bpy.types.Object) -> dict[str, np.ndarray]:
    """The character's emotions by name, the bank's first: each as its difference (m,) from neutral."""
    bank = bank_of(obj)
    columns = bank.names_of(EXPRESSION)
    found = bank.emotion_offsets()
    for name, offsets in _parse(obj.edtalk.presets).items():
        found[name] = np.array([offsets.get(column, 0.0) for column in columns])
    return found


def strengths(obj: bpy.types.Object) -> np.ndarray:
    """(number of banks,) strength of each bank in the bank's order; 0 where it is muted or only others are solo."""
    states = [bank_state(obj, name) for name, _count in bank_of(obj).config.banks]
    columns = np.array([(state.strength, state.mute, state.solo) if state else (1.0, False, False) for state in states])
    strength, mute, solo = columns.T[:, None]
    return bank_strengths(strength, mute > 0, solo > 0)[0]


def bank_state(obj: bpy.types.Object, name: str) -> bpy.types.PropertyGroup | None:
    """Strength, mute and solo of one of the character's banks."""
    return obj.edtalk.banks.get(name)


def values(obj: bpy.types.Object) -> np.ndarray:
    """(n,) what the coefficient sliders say, in the bank's order; rest where there is no slider."""
    rest = rest_row(obj)
    return np.array([obj.edtalk.get(name, rest[index]) for index, name in enumerate(bank_of(obj).names)])


def emotion_values(obj: bpy.types.Object) -> np.ndarray:
    """(k,) what the emotion sliders say, in the order of `emotions`."""
    return np.array([obj.edtalk.get(name, 0.0) for name in emotions(obj)])


def rest_row(obj: bpy.types.Object) -> np.ndarray:
    """(n,) float64 row at which the portrait is rendered as it is."""
    found = _parse(obj.edtalk.rest)
    return np.array([found.get(entry.name, entry.rest) for entry in bank_of(obj).coefficients])


def row(obj: bpy.types.Object) -> np.ndarray:
    """(n,) float32 coefficients to render, in the bank's order: sliders, bank strengths, mutes and emotions together.

    obj: a character, or its evaluated copy where drivers and NLA count. Raises EDTalkError where its bank is missing.
    """
    return rows(obj, values(obj)[None], strengths(obj)[None], emotion_values(obj)[None])[0]


def rows(
    obj: bpy.types.Object, value_rows: np.ndarray, strength_rows: np.ndarray, emotion_rows: np.ndarray
) -> np.ndarray:
    """(T, n) float32 rows to render, from T rows of `values`, `strengths` and `emotion_values`."""
    bank = bank_of(obj)
    offsets = np.array(list(emotions(obj).values())).reshape(emotion_rows.shape[1], len(bank.names_of(EXPRESSION)))
    return final_rows(bank.config.banks, rest_row(obj), value_rows, strength_rows, emotion_rows, offsets)


@lru_cache(maxsize=256)
def _parse(text: str) -> Mapping:
    return json.loads(text) if text else {}


def _settled(value: float, usual: float) -> float:
    """What a face is doing, read off its picture, as float32; what is only noise about the bank's own rest is that."""
    return usual if abs(value - usual) < _NOISE else float(np.float32(value))


# --- What the viewport shows


def show_portrait(obj: bpy.types.Object) -> None:
    """Have the Empty show the portrait as it is; objects of other kinds keep their data."""
    if obj.type == "EMPTY" and obj.data != obj.edtalk.portrait_image:
        obj.data = obj.edtalk.portrait_image


def show_pixels(obj: bpy.types.Object, rgba: np.ndarray) -> bpy.types.Image:
    """Show a rendered face: in the character's own image, and on its Empty.

    rgba: (H, W, 4) float32, 0..1, sRGB, bottom row first. Returns the image, "NAME face", which is made when needed.
    """
    height, width = rgba.shape[:2]
    image = face_image(obj)
    if image is None:
        image = bpy.data.images.new(f"{obj.name} face", width, height, alpha=True)
        image[FACE_OF] = obj.edtalk.uid
    elif tuple(image.size) != (width, height):
        image.scale(width, height)
    image.pixels.foreach_set(np.ascontiguousarray(rgba, np.float32).ravel())
    if obj.type == "EMPTY" and obj.data != image:
        obj.data = image
    return image


def face_image(obj: bpy.types.Object) -> bpy.types.Image | None:
    """The image that shows this character's rendered face, if one has been made."""
    uid = obj.edtalk.uid
    return next((image for image in bpy.data.images if image.get(FACE_OF) == uid and image.library is None), None)


# --- Blender's events


@persistent
def _pack_faces(*_: object) -> None:
    """Before saving: keep the faces last shown in the .blend, so that Blender does not ask what to do with them."""
    for image in bpy.data.images:
        if FACE_OF in image and image.is_dirty and image.library is None:
            image.pack()


@persistent
def _restore_overrides(*_: object) -> None:
    """After loading: an override has its library's defaults and only the library's sliders, until set up again."""
    for obj in bpy.data.objects:
        if is_character(obj) and obj.library is None and obj.override_library is not None:
            try:
                setup_channels(obj)
            except EDTalkError:
                continue  # its bank is missing, which the panel says


def register() -> None:
    bpy.app.handlers.save_pre.append(_pack_faces)
    bpy.app.handlers.load_post.append(_restore_overrides)


def unregister() -> None:
    bpy.app.handlers.load_post.remove(_restore_overrides)
    bpy.app.handlers.save_pre.remove(_pack_faces)
    portrait_listeners.clear()
    _read_bank.cache_clear()
    _parse.cache_clear()
