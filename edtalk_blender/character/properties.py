"""What a character stores on its object: everything here is saved, copied, undone and library-overridable.

The coefficients and emotions themselves are custom properties of the same group, `object.edtalk["jawOpen"]`, because
their names, ranges and defaults come from the bank; `character.setup_channels` makes them.
"""

from __future__ import annotations

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    FloatVectorProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)

from ...inference.contract.shot import FEATHER
from . import character

OVERRIDABLE = {"LIBRARY_OVERRIDABLE"}


def _is_picture(_group: Character, image: bpy.types.Image) -> bool:
    """Offers pictures from files as portraits, not the faces that we draw ourselves nor render results."""
    return image.source == "FILE" and character.FACE_OF not in image


def _get_portrait(group: Character) -> str:
    return group.portrait_image.filepath if group.portrait_image else ""


def _set_portrait(group: Character, path: str) -> None:
    group.portrait_image = character.load_picture(path) if path else None


def _portrait_changed(group: Character, _context: bpy.types.Context) -> None:
    character.portrait_changed(group.id_data)


def _bank_changed(group: Character, _context: bpy.types.Context) -> None:
    group.id_data.update_tag()


class BankState(bpy.types.PropertyGroup):
    """One bank of a character: how much of it is used. `name` is the bank's own, "lip", "pose" or "exp"."""

    strength: FloatProperty(
        name="Strength",
        description="How much of this bank is used: 0 is the rest pose, 1 as animated, more exaggerates",
        default=1.0,
        min=character.STRENGTH_LIMITS[0],
        soft_max=2.0,
        max=character.STRENGTH_LIMITS[1],
        update=_bank_changed,
        override=OVERRIDABLE,
    )
    mute: BoolProperty(
        name="Mute",
        description="Leave this bank at rest, without touching its animation",
        update=_bank_changed,
        override=OVERRIDABLE,
    )
    solo: BoolProperty(
        name="Solo",
        description="Leave all other banks at rest, without touching their animation",
        update=_bank_changed,
        override=OVERRIDABLE,
    )


class Character(bpy.types.PropertyGroup):
    """A talking face on an object."""

    is_character: BoolProperty(name="Is Character", override=OVERRIDABLE)
    uid: StringProperty(
        name="Identity", description="Tells characters apart, whatever they are called", override=OVERRIDABLE
    )

    portrait_image: PointerProperty(
        type=bpy.types.Image,
        name="Portrait",
        description="The picture that is brought to life. With every slider at rest, it is rendered as it is",
        poll=_is_picture,
        update=_portrait_changed,
        override=OVERRIDABLE,
    )
    # Not overridable: Blender would call the setter while it reads a file, when no image can be loaded.
    portrait: StringProperty(
        name="Portrait File",
        description="File of the portrait",
        subtype="FILE_PATH",
        options={"PATH_SUPPORTS_BLEND_RELATIVE"},
        get=_get_portrait,
        set=_set_portrait,
    )
    bank: StringProperty(
        name="Bank",
        description="File of the bank, which draws the face and names its sliders. Empty: the starter bank",
        subtype="FILE_PATH",
        options={"PATH_SUPPORTS_BLEND_RELATIVE"},
        override=OVERRIDABLE,
    )
    crop_mode: EnumProperty(
        name="Crop",
        description="Which part of the portrait is the face",
        items=(
            ("auto", "Find Face", "Find the face in the portrait"),
            ("none", "Whole Picture", "The portrait is a face already, cut as the bank wants it"),
            ("box", "Manual", "A square given in pixels of the portrait"),
        ),
        default="auto",
        update=_portrait_changed,
        override=OVERRIDABLE,
    )
    crop: FloatVectorProperty(
        name="Square",
        description="Left edge, top edge and side of the square, in pixels of the portrait from its top left corner",
        size=3,
        default=(0.0, 0.0, 0.0),
        step=100,
        precision=1,
        update=_portrait_changed,
        override=OVERRIDABLE,
    )
    layer: EnumProperty(
        name="Layer",
        description="What the rendered pictures hold",
        items=(
            ("square", "Face Square", "The square of the face, opaque"),
            ("matte", "Matte", "The square of the face, transparent towards its border"),
            (
                "plate",
                "Plate Layer",
                "The whole picture of the plate, transparent but for the face: to be laid over the plate",
            ),
            ("pasted", "Pasted on Plate", "The whole picture of the plate, opaque, with the face laid in"),
        ),
        default="square",
        override=OVERRIDABLE,
    )
    size: EnumProperty(
        name="Size",
        description="Pixels of a side of the rendered face. The portrait's own detail is kept as far as it has any",
        items=(
            ("0", "Bank's Own", "As large as the bank draws, the fastest"),
            ("512", "512", "512 pixels, or the bank's own where that is more"),
            ("1024", "1024", "1024 pixels, or the bank's own where that is more"),
        ),
        default="512",
        override=OVERRIDABLE,
    )
    mask: EnumProperty(
        name="Mask",
        description="What is laid over the plate",
        items=(
            ("face", "Face", "All of the face"),
            ("mouth", "Mouth", "The mouth and what moves with it; the rest stays the plate's own"),
        ),
        default="face",
        override=OVERRIDABLE,
    )
    feather: FloatProperty(
        name="Feather",
        description="Width of the mask's soft edge, as a share of its half width",
        default=FEATHER,
        min=0.01,
        max=1.0,
        precision=2,
        subtype="FACTOR",
        override=OVERRIDABLE,
    )
    which: IntProperty(
        name="Face Number",
        description="Which face of a film is meant where it shows several: 1 is the first from the left, -1 the first "
        "from the right. 0 where there is only one",
        min=-20,
        max=20,
        override=OVERRIDABLE,
    )
    banks: CollectionProperty(type=BankState, name="Banks", override={"LIBRARY_OVERRIDABLE", "USE_INSERTION"})
    rest: StringProperty(
        name="Rest Pose",
        description="Value of every slider at which the portrait is rendered as it is (JSON)",
        override=OVERRIDABLE,
    )
    rest_of: StringProperty(
        name="Rest Pose Of",
        description="Portrait, crop and bank that the rest pose was measured from",
        override=OVERRIDABLE,
    )
    presets: StringProperty(
        name="Own Emotions",
        description="Emotions of this character besides those of its bank (JSON)",
        override=OVERRIDABLE,
    )

    action: PointerProperty(
        type=bpy.types.Action,
        name="Dialogue Action",
        description="The action that lip sync and emotions were last written to",
        override=OVERRIDABLE,
    )
    face_strip: StringProperty(
        name="Face Strip", description="The strip that shows this character's rendered frames", override=OVERRIDABLE
    )
    lip_nla: BoolProperty(
        name="As NLA Strip",
        description="Write each line of dialogue as a strip of its own in the Nonlinear Animation editor",
        override=OVERRIDABLE,
    )
    lip_smooth: FloatProperty(
        name="Smooth",
        description="Average the mouth's motion over this many frames (standard deviation). 0 keeps it as it is",
        default=0.0,
        min=0.0,
        soft_max=3.0,
        max=20.0,
        override=OVERRIDABLE,
    )
    lip_decimate: FloatProperty(
        name="Simplify",
        description="Leave out keys where the curve stays within this distance without them. 0 writes every frame",
        default=0.0,
        min=0.0,
        soft_max=0.1,
        max=10.0,
        precision=3,
        override=OVERRIDABLE,
    )
    lip_step: IntProperty(
        name="Every",
        description="Hold each pose for this many frames: 1 on ones, 2 on twos",
        default=1,
        min=1,
        soft_max=4,
        max=25,
        override=OVERRIDABLE,
    )


CLASSES = (BankState, Character)

register_classes, unregister_classes = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    register_classes()
    bpy.types.Object.edtalk = PointerProperty(
        type=Character, name="EDTalk", description="Talking face", override=OVERRIDABLE
    )


def unregister() -> None:
    del bpy.types.Object.edtalk
    unregister_classes()
