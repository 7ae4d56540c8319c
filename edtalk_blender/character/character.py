"""Find and create characters, and change their bank or portrait.

A character is an object with the properties `object.edtalk`. No reference to an object is kept between events; a
character is found again by its `uid`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import bpy
import numpy as np
from bpy.app.handlers import persistent

from ...inference.contract.bank import STARTER
from ...inference.contract.errors import EDTalkError
from . import files, placement, sliders, viewport

# Called with a character whose portrait, crop or bank has changed, because its rest pose must be measured again.
portrait_listeners: list[Callable[[bpy.types.Object], None]] = []
# Called with a character whose square is being changed by hand; many calls may follow each other.
crop_listeners: list[Callable[[bpy.types.Object], None]] = []


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
    """Why the character cannot be edited, without a period; empty if it can."""
    if obj.library is not None:
        return f"{obj.name} is linked from {Path(obj.library.filepath).name}. Make a library override to animate it"
    if obj.override_library is not None and obj.override_library.is_system_override:
        return f"{obj.name} is a library override that is not editable. Make it editable to animate it"
    return ""


# --- Creating a character


def create(
    where: bpy.types.Context | bpy.types.Scene, portrait: str = "", bank: str = "", name: str = ""
) -> bpy.types.Object:
    """A new character: an image Empty that stands upright and faces the front view, beside other objects.

    where: a scene, or the context for its scene and active collection. portrait: a file, may be set later. bank: a
    file, "" for the starter bank. Raises EDTalkError for a bank that cannot be read, before anything is created.
    """
    scene = where.scene if isinstance(where, bpy.types.Context) else where
    files.load_bank_file(files.resolve(bank) if bank else STARTER)
    obj = bpy.data.objects.new(name or Path(portrait).stem or "Character", None)
    obj.empty_display_type = "IMAGE"
    obj.empty_image_depth = "FRONT"  # visible in front of other objects
    obj.empty_display_size = 1.0
    obj.rotation_euler.x = 0.5 * np.pi
    obj.location = placement.free_location(scene, obj.empty_display_size)
    _collection(where).objects.link(obj)
    adopt(obj, bank)
    obj.edtalk.portrait = portrait
    return obj


def _collection(where: bpy.types.Context | bpy.types.Scene) -> bpy.types.Collection:
    """The active collection if objects can be added to it and are visible there, else the scene's."""
    if isinstance(where, bpy.types.Scene):
        return where.collection
    active = where.view_layer.active_layer_collection if where.view_layer else None
    if active is None or not active.is_visible or active.exclude or active.collection.library is not None:
        return where.scene.collection
    return active.collection


def remove(obj: bpy.types.Object) -> None:
    """Remove a character that was just created, and the images that only it uses."""
    images = {image for image in (obj.edtalk.portrait_image, obj.data) if image is not None}
    bpy.data.objects.remove(obj)
    for image in images:
        if not image.users:
            bpy.data.images.remove(image)


def adopt(obj: bpy.types.Object, bank: str = "") -> None:
    """Turn an object into a character; the image of an Empty becomes its portrait.

    Raises EDTalkError for a bank that cannot be read, before anything is changed.
    """
    files.load_bank_file(files.resolve(bank, obj) if bank else STARTER)
    obj.edtalk.is_character = True
    obj.edtalk.uid = new_uid()
    obj.edtalk.bank = bank
    sliders.setup_channels(obj)
    if obj.type == "EMPTY" and obj.data is not None:
        obj.edtalk.portrait_image = obj.data


def select(context: bpy.types.Context, obj: bpy.types.Object) -> None:
    """Select only this object of the view layer, and make it active."""
    for other in context.selected_objects:
        other.select_set(False)
    obj.select_set(True)
    context.view_layer.objects.active = obj


# --- Changing the bank or portrait


def set_bank(obj: bpy.types.Object, bank: str) -> tuple[str, ...]:
    """Set the character's bank ("" for the starter bank); sliders that both banks have keep their animation.

    Returns the names of sliders that the new bank does not have. Raises EDTalkError, having changed nothing, for a file
    that is not a bank.
    """
    files.load_bank_file(files.resolve(bank, obj) if bank else STARTER)
    previous, obj.edtalk.bank = obj.edtalk.bank, bank
    try:
        dropped = sliders.setup_channels(obj)
    except EDTalkError:
        obj.edtalk.bank = previous
        raise
    if obj.edtalk.portrait_image:
        portrait_changed(obj)  # the rest pose depends on the bank
    return dropped


def portrait_changed(obj: bpy.types.Object) -> None:
    """Show the portrait and notify `portrait_listeners`; called when portrait, crop or bank have changed."""
    viewport.show_portrait(obj)
    for listener in portrait_listeners:
        listener(obj)


def crop_changed(obj: bpy.types.Object) -> None:
    """Notify `crop_listeners`; called while the square is changed. The face is shown until the new one is measured."""
    for listener in crop_listeners:
        listener(obj)


# --- Registration


@persistent
def _restore_sliders(*_: object) -> None:
    """After loading: create the sliders and defaults of library overrides, which Blender restores from the library, and
    those that the bank of an older file did not have.
    """
    for obj in bpy.data.objects:
        if is_character(obj) and obj.library is None:
            try:
                if obj.override_library is not None or sliders.lacks_channels(obj):
                    sliders.setup_channels(obj)
            except EDTalkError:
                continue  # the panel reports a missing bank


def register() -> None:
    bpy.app.handlers.load_post.append(_restore_sliders)


def unregister() -> None:
    bpy.app.handlers.load_post.remove(_restore_sliders)
    portrait_listeners.clear()
    crop_listeners.clear()
