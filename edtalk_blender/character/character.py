"""A character: an object with sliders for its bank's coefficients and emotions, and the coefficients they give.

The sliders are custom properties of `object.edtalk`, one float each. So pressing I over one keys it alone, the Graph
Editor shows its name, and actions, NLA, drivers and library overrides work as they do for any property.
No reference to an object is kept between events; it is found again by its `uid`.
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

FACE_OF = "edtalk_face_of"  # of an image with a rendered face: the uid of its character
BANK_TITLES = {"lip": "Mouth", "pose": "Head", "exp": "Expression"}
EMOTION_GROUP = "Emotion"
COEFFICIENT_LIMITS = (-1e3, 1e3)
EMOTION_LIMITS = (0.0, 1.5)
STRENGTH_LIMITS = (0.0, 10.0)
_NOISE = 1e-4  # noise of coefficients measured from a portrait; not visible in a render

# Called with a character whose portrait, crop or bank has changed, because its rest pose must be measured again.
portrait_listeners: list[Callable[[bpy.types.Object], None]] = []


# --- Finding characters


def is_character(obj: bpy.types.Object | None) -> bool:
    return obj is not None and obj.edtalk.is_character


def characters(scene: bpy.types.Scene) -> list[bpy.types.Object]:
    """The scene's characters sorted by name, linked ones too. Read-only, so panels may call it."""
    return sorted((obj for obj in scene.objects if is_character(obj)), key=lambda obj: obj.name)


def active(context: bpy.types.Context) -> bpy.types.Object | None:
    """The character that panels and operators use: the active object, else the only character of the scene."""
    obj = context.view_layer.objects.active if context.view_layer else None
    if is_character(obj):
        return obj
    all_characters = characters(context.scene)
    return all_characters[0] if len(all_characters) == 1 else None


def find(uid: str) -> bpy.types.Object | None:
    """The character with this identity, or None; a library override is preferred to the linked original.

    Copies of an object share its identity until this assigns new ones, see `ensure_unique_ids`.
    """
    found = [obj for obj in ensure_unique_ids() if obj.edtalk.uid == uid]
    return min(found, key=lambda obj: obj.library is not None, default=None)


def ensure_unique_ids() -> list[bpy.types.Object]:
    """Assign a new identity to characters without one, and to all but the oldest of those that share one.

    Returns all characters of the file, linked ones too.
    """
    seen = set()
    all_characters = [obj for obj in bpy.data.objects if is_character(obj)]
    for obj in sorted((obj for obj in all_characters if obj.library is None), key=lambda obj: obj.session_uid):
        if not obj.edtalk.uid or obj.edtalk.uid in seen:
            obj.edtalk.uid = new_uid()
        seen.add(obj.edtalk.uid)
    return all_characters


def new_uid() -> str:
    return uuid.uuid4().hex[:16]


def editable_reason(obj: bpy.types.Object) -> str:
    """Why the character cannot be edited, without a period; empty when it can."""
    if obj.library is not None:
        return f"{obj.name} is linked from {Path(obj.library.filepath).name}. Make a library override to animate it"
    if obj.override_library is not None and obj.override_library.is_system_override:
        return f"{obj.name} is a library override that is not editable. Make it editable to animate it"
    return ""


# --- Creating a character


def create(
    where: bpy.types.Context | bpy.types.Scene, portrait: str = "", bank: str = "", name: str = ""
) -> bpy.types.Object:
    """A new character: an image Empty that faces the front view, in the scene's collection.

    where: a scene, or the context for its scene. portrait: a file, may be set later. bank: a file, "" for the starter
    bank. Raises EDTalkError for a bank that cannot be read, before anything is created.
    """
    scene = where.scene if isinstance(where, bpy.types.Context) else where
    load_bank_file(resolve(bank) if bank else STARTER)
    obj = bpy.data.objects.new(name or Path(portrait).stem or "Character", None)
    obj.empty_display_type = "IMAGE"
    obj.empty_image_depth = "FRONT"  # visible in front of the default cube
    obj.empty_display_size = 1.0
    obj.rotation_euler.x = 0.5 * np.pi
    obj.location.x = 1.2 * len(characters(scene))
    scene.collection.objects.link(obj)
    adopt(obj, bank)
    obj.edtalk.portrait = portrait
    return obj


def adopt(obj: bpy.types.Object, bank: str = "") -> None:
    """Turn an object into a character; the image of an Empty becomes its portrait.

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
    """Create the sliders of the object's bank and emotions; returns the names of sliders that were removed.

    rest: by name, values at which the portrait is rendered unchanged; others keep theirs. They become the sliders'
    defaults, and the values of sliders that were at rest. F-curves are kept, also those of removed sliders, which work
    again with the old bank.
    Raises EDTalkError where the bank cannot be read or a slider has the name of one of the add-on's properties.
    """
    group, bank = obj.edtalk, bank_of(obj)
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
        text = f"{title(name)}. 1.0 is {entry.unit}" if entry.unit else title(name)
        _describe(group, name, COEFFICIENT_LIMITS, (entry.soft_min, entry.soft_max), value, text)
    for name in emotion_names:
        if name not in group:
            group[name] = 0.0
        text = f"Strength of the emotion '{name}' (0 to 1)"
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


def set_bank(obj: bpy.types.Object, bank: str) -> tuple[str, ...]:
    """Set the character's bank ("" for the starter bank); sliders that both banks have keep their animation.

    Returns the names of sliders that the new bank does not have. Raises EDTalkError, having changed nothing, for a file
    that is not a bank.
    """
    load_bank_file(resolve(bank, obj) if bank else STARTER)
    previous, obj.edtalk.bank = obj.edtalk.bank, bank
    try:
        dropped = setup_channels(obj)
    except EDTalkError:
        obj.edtalk.bank = previous
        raise
    if obj.edtalk.portrait_image:
        portrait_changed(obj)  # the rest pose depends on the bank
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
                f"The bank '{bank.name}' cannot be used: the slider name '{name}' is reserved or used twice.",
                "Choose another bank.",
                "bank",
            )


def reserved_names() -> frozenset[str]:
    """Names that no slider may have, because they are properties of the character."""
    return frozenset(bpy.types.Object.bl_rna.properties["edtalk"].fixed_type.properties.keys())


# --- Bank, portrait, crop


def bank_path(obj: bpy.types.Object) -> Path:
    """The character's bank file, absolute; it may be missing."""
    return resolve(obj.edtalk.bank, obj) if obj.edtalk.bank else STARTER


def bank_of(obj: bpy.types.Object) -> Bank:
    """The metadata of the character's bank, cached until the file changes; EDTalkError if missing."""
    return load_bank_file(bank_path(obj))


def load_bank_file(path: Path) -> Bank:
    try:
        state = path.stat()
    except OSError:
        return read_bank(path)  # raises EDTalkError with the reason
    return _read_bank(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=32)
def _read_bank(path: Path, _changed: int, _size: int) -> Bank:
    return read_bank(path)


def resolve(path: str, obj: bpy.types.Object | None = None) -> Path:
    """An absolute path; `//` is the folder of the .blend, or of the library that a linked object comes from."""
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
    """Raise EDTalkError where a file is not an image that Blender can read; leaves no data-block behind."""
    file = resolve(path)
    if not file.is_file():
        raise EDTalkError(f"{file} does not exist.", "Choose an image of a face.")
    image = bpy.data.images.load(path)
    try:
        if not all(image.size):
            raise EDTalkError(f"{file} is not a readable image.", "Choose a PNG or JPEG of a face.")
    finally:
        bpy.data.images.remove(image)


def load_picture(path: str) -> bpy.types.Image:
    """The image data-block of a file. A missing file gets one too, so that its path can be shown and corrected."""
    try:
        return bpy.data.images.load(path, check_existing=True)
    except RuntimeError:
        image = bpy.data.images.new(Path(path).name, 1, 1)
        image.source = "FILE"
        image.filepath = path
        return image


def portrait_size(obj: bpy.types.Object) -> tuple[int, int]:
    """Width and height of the portrait after EXIF rotation, as the engine sees it; EDTalkError if missing."""
    width, height = obj.edtalk.portrait_image.size
    on_its_side = exif.is_on_its_side(exif.orientation(portrait_path(obj)))
    return (height, width) if on_its_side else (width, height)


def portrait_path(obj: bpy.types.Object) -> Path:
    """The portrait's file, absolute. A packed portrait is written to a temporary file for the worker.

    Raises EDTalkError where none is set or the file is missing.
    """
    image = obj.edtalk.portrait_image
    if image is None:
        raise EDTalkError(f"{obj.name} has no portrait yet.", "Choose a portrait.")
    if image.packed_file is not None:
        return _unpacked(image)
    path = Path(image.filepath_from_user())
    if not image.filepath:
        raise EDTalkError(f"The portrait '{image.name}' of {obj.name} has not been saved.", "Save or pack the image.")
    if not path.is_file():
        raise EDTalkError(f"The portrait of {obj.name} does not exist: {path}.", "Choose the portrait again.")
    return path


def _unpacked(image: bpy.types.Image) -> Path:
    data = image.packed_file.data
    suffix = Path(image.filepath).suffix or ".png"
    path = Path(bpy.app.tempdir) / f"edtalk_{hashlib.sha256(data).hexdigest()[:20]}{suffix}"
    if not path.is_file():
        path.write_bytes(data)
    return path


def crop_of(obj: bpy.types.Object) -> str | tuple[float, float, float]:
    """ "auto", "none", or left, top and side of the face's square in pixels of the portrait."""
    group = obj.edtalk
    return tuple(group.crop) if group.crop_mode == "box" else group.crop_mode


def portrait_changed(obj: bpy.types.Object) -> None:
    """Show the portrait and notify `portrait_listeners`; called when portrait, crop or bank have changed."""
    show_portrait(obj)
    for listener in portrait_listeners:
        listener(obj)


# --- Sliders


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
    return dict(_parse(obj.edtalk.rest))


def own_presets(obj: bpy.types.Object) -> dict[str, dict[str, float]]:
    """The character's own emotions: by name, the offset of each expression coefficient from rest."""
    return {name: dict(offsets) for name, offsets in _parse(obj.edtalk.presets).items()}


def set_own_presets(obj: bpy.types.Object, presets: Mapping[str, Mapping[str, float]]) -> None:
    """Replace the character's own emotions and create their sliders; EDTalkError for a name that is in use."""
    bank = bank_of(obj)
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
    bank = bank_of(obj)
    columns = bank.names_of(EXPRESSION)
    found = bank.emotion_offsets()
    for name, offsets in _parse(obj.edtalk.presets).items():
        found[name] = np.array([offsets.get(column, 0.0) for column in columns])
    return found


def strengths(obj: bpy.types.Object) -> np.ndarray:
    """(number of banks,) effective strengths; 0 for a bank that is muted, or not solo while another one is."""
    states = [bank_state(obj, name) for name, _count in bank_of(obj).config.banks]
    columns = np.array([(state.strength, state.mute, state.solo) if state else (1.0, False, False) for state in states])
    strength, mute, solo = columns.T[:, None]
    return bank_strengths(strength, mute > 0, solo > 0)[0]


def bank_state(obj: bpy.types.Object, name: str) -> bpy.types.PropertyGroup | None:
    """Strength, mute and solo of one of the character's banks; None before it is set up."""
    return obj.edtalk.banks.get(name)


def values(obj: bpy.types.Object) -> np.ndarray:
    """(n,) values of the coefficient sliders in the bank's order; rest where there is no slider."""
    rest = rest_row(obj)
    return np.array([obj.edtalk.get(name, rest[index]) for index, name in enumerate(bank_of(obj).names)])


def emotion_values(obj: bpy.types.Object) -> np.ndarray:
    """(k,) values of the emotion sliders in the order of `emotions`."""
    return np.array([obj.edtalk.get(name, 0.0) for name in emotions(obj)])


def rest_row(obj: bpy.types.Object) -> np.ndarray:
    """(n,) float64 coefficients at which the portrait is rendered unchanged."""
    found = _parse(obj.edtalk.rest)
    return np.array([found.get(entry.name, entry.rest) for entry in bank_of(obj).coefficients])


def row(obj: bpy.types.Object) -> np.ndarray:
    """(n,) float32 coefficients to render, mixed from sliders, bank strengths, mutes and emotions.

    obj: a character, or its evaluated copy, which includes drivers and NLA. Raises EDTalkError where its bank is
    missing.
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


def _without_noise(value: float, bank_rest: float) -> float:
    """A rest value measured from a portrait, as float32; exactly the bank's where the difference is only noise."""
    return bank_rest if abs(value - bank_rest) < _NOISE else float(np.float32(value))


# --- Viewport


def show_portrait(obj: bpy.types.Object) -> None:
    """Show the portrait on the character's Empty; other types of objects are not changed."""
    if obj.type == "EMPTY" and obj.data != obj.edtalk.portrait_image:
        obj.data = obj.edtalk.portrait_image


def show_pixels(obj: bpy.types.Object, rgba: np.ndarray) -> bpy.types.Image:
    """Show a rendered face in the character's image "NAME face" and on its Empty; returns the image.

    rgba: (H, W, 4) float32, 0 to 1, sRGB, bottom row first.
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
    """The image of this character's rendered face; None before the first preview."""
    uid = obj.edtalk.uid
    return next((image for image in bpy.data.images if image.get(FACE_OF) == uid and image.library is None), None)


# --- Handlers


@persistent
def _pack_faces(*_: object) -> None:
    """Before saving: pack the rendered faces, so that Blender does not ask to save them as files."""
    for image in bpy.data.images:
        if FACE_OF in image and image.is_dirty and image.library is None:
            image.pack()


@persistent
def _restore_overrides(*_: object) -> None:
    """After loading: create the sliders and defaults of library overrides, which Blender restores from the library."""
    for obj in bpy.data.objects:
        if is_character(obj) and obj.library is None and obj.override_library is not None:
            try:
                setup_channels(obj)
            except EDTalkError:
                continue  # the panel reports a missing bank


def register() -> None:
    bpy.app.handlers.save_pre.append(_pack_faces)
    bpy.app.handlers.load_post.append(_restore_overrides)


def unregister() -> None:
    bpy.app.handlers.load_post.remove(_restore_overrides)
    bpy.app.handlers.save_pre.remove(_pack_faces)
    portrait_listeners.clear()
    _read_bank.cache_clear()
    _parse.cache_clear()
