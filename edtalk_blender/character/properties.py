"""The properties of a character, `object.edtalk`. All are saved, copied, undone and library-overridable.

The sliders of coefficients and emotions are custom properties of the same group, `object.edtalk["jawOpen"]`, because
their names, ranges and defaults come from the bank; `sliders.setup_channels` creates them.
"""

from __future__ import annotations

import math
from contextlib import suppress

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

from ...inference.contract.errors import EDTalkError
from ...inference.contract.shot import FEATHER
from . import character, files, sliders, viewport

OVERRIDABLE = {"LIBRARY_OVERRIDABLE"}


def _is_picture(_group: Character, image: bpy.types.Image) -> bool:
    """Offer images from files as portraits, but no rendered faces and no render results."""
    return image.source == "FILE" and viewport.FACE_OF not in image


def _get_portrait(group: Character) -> str:
    return group.portrait_image.filepath if group.portrait_image else ""


def _set_portrait(group: Character, path: str) -> None:
    group.portrait_image = files.load_picture(path) if path else None


def _portrait_changed(group: Character, _context: bpy.types.Context) -> None:
    group.found_crop = (0.0, 0.0, 0.0, 0.0)
    character.portrait_changed(group.id_data)


def _crop_mode_changed(group: Character, _context: bpy.types.Context) -> None:
    if group.crop_mode == "box" and group.crop[2] <= 0:
        with suppress(EDTalkError):  # the panel reports a missing portrait
            files.set_crop(group.id_data, files.first_square(group.id_data))
    character.portrait_changed(group.id_data)


def _crop_changed(group: Character, _context: bpy.types.Context) -> None:
    if group.crop_mode == "box":
        character.crop_changed(group.id_data)


def _bank_changed(group: Character, _context: bpy.types.Context) -> None:
    group.id_data.update_tag()


class BankState(bpy.types.PropertyGroup):
    """Strength, mute and solo of one bank. `name` is the bank's, such as "lip"."""

    strength: FloatProperty(
        name="Strength",
        description="Strength of these sliders, from 0 to 10. 0 is the rest pose, 1 is as animated, more exaggerates",
        default=1.0,
        min=sliders.STRENGTH_LIMITS[0],
        soft_max=2.0,
        max=sliders.STRENGTH_LIMITS[1],
        update=_bank_changed,
        override=OVERRIDABLE,
    )
    mute: BoolProperty(
        name="Mute",
        description="Ignore the animation of these sliders",
        update=_bank_changed,
        override=OVERRIDABLE,
    )
    solo: BoolProperty(
        name="Solo",
        description="Solo: ignore the animation of all other sliders",
        update=_bank_changed,
        override=OVERRIDABLE,
    )


class Character(bpy.types.PropertyGroup):
    """A talking face on an object."""

    is_character: BoolProperty(name="Is Character", description="The object is a talking face", override=OVERRIDABLE)
    uid: StringProperty(name="Identifier", description="Unique identifier of the character", override=OVERRIDABLE)

    portrait_image: PointerProperty(
        type=bpy.types.Image,
        name="Portrait",
        description="Portrait to animate. At rest it is rendered unchanged",
        poll=_is_picture,
        update=_portrait_changed,
        override=OVERRIDABLE,
    )
    # Not overridable: Blender would call the setter while it reads a file, when no image can be loaded.
    portrait: StringProperty(
        name="Portrait File",
        description="Image file of the portrait",
        subtype="FILE_PATH",
        options={"PATH_SUPPORTS_BLEND_RELATIVE"},
        get=_get_portrait,
        set=_set_portrait,
    )
    bank: StringProperty(
        name="Bank",
        description="File of the bank, which renders the face and defines its sliders. Empty: the starter bank",
        subtype="FILE_PATH",
        options={"PATH_SUPPORTS_BLEND_RELATIVE"},
        override=OVERRIDABLE,
    )
    crop_mode: EnumProperty(
        name="Crop",
        description="Part of the portrait to use as the face",
        items=(
            ("auto", "Detect Face", "Detect the face in the portrait"),
            ("none", "Full Image", "Use the full image, which should be a square around the face already"),
            ("box", "Manual", "Use a square given in pixels of the portrait. It starts as the detected one"),
        ),
        default="auto",
        update=_crop_mode_changed,
        override=OVERRIDABLE,
    )
    crop: FloatVectorProperty(
        name="Square",
        description="Left edge, top edge and size of the square in pixels, from the top left corner of the portrait",
        size=3,
        default=(0.0, 0.0, 0.0),
        step=100,
        precision=1,
        update=_crop_changed,
        override=OVERRIDABLE,
    )
    crop_angle: FloatProperty(
        name="Angle",
        description="Clockwise rotation of the square about its centre, from -180 to 180 degrees",
        subtype="ANGLE",
        min=-math.pi,
        max=math.pi,
        update=_crop_changed,
        override=OVERRIDABLE,
    )
    found_crop: FloatVectorProperty(
        name="Detected Square",
        description="Left edge, top edge, size and angle of the detected square, in pixels and degrees. All 0: unknown",
        size=4,
        override=OVERRIDABLE,
    )
    layer: EnumProperty(
        name="Layer",
        description="Content of the rendered images",
        items=(
            ("square", "Face Square", "The square around the face, opaque"),
            ("matte", "Matte", "The square around the face, fading to transparent at its border"),
            (
                "plate",
                "Plate Layer",
                "An image of the plate's size, transparent except for the face, to lay over the plate",
            ),
            ("pasted", "Pasted on Plate", "The full image of the plate, opaque, with the face pasted in"),
        ),
        default="square",
        override=OVERRIDABLE,
    )
    size: EnumProperty(
        name="Size",
        description="Resolution of the rendered face in pixels. Detail is limited by the portrait",
        items=(
            ("0", "Bank's Native", "Native resolution of the bank, the fastest"),
            ("512", "512", "512 pixels, or the bank's native resolution if that is higher"),
            ("1024", "1024", "1024 pixels, or the bank's native resolution if that is higher"),
        ),
        default="512",
        override=OVERRIDABLE,
    )
    mask: EnumProperty(
        name="Mask",
        description="Part of the face to lay over the plate",
        items=(
            ("face", "Face", "The whole face"),
            ("mouth", "Mouth", "The mouth and the area around it; the rest of the plate is unchanged"),
        ),
        default="face",
        override=OVERRIDABLE,
    )
    feather: FloatProperty(
        name="Feather",
        description="Width of the mask's soft edge, from 0.01 to 1. 1 is half the width of the mask",
        default=FEATHER,
        min=0.01,
        max=1.0,
        precision=2,
        subtype="FACTOR",
        override=OVERRIDABLE,
    )
    dub_references: EnumProperty(
        name="References",
        description="Frames of the movie from which the dubbed mouth is taken. Used with the mask Mouth",
        items=(
            ("auto", "Automatic", "Frames of the movie that cover its mouth shapes, head poses and lighting"),
            ("chosen", "Chosen Frames", "The frames that you list"),
            ("none", "None", "Move the mouth of each frame itself"),
        ),
        default="auto",
        override=OVERRIDABLE,
    )
    dub_frames: StringProperty(
        name="Frames",
        description="Scene frames whose mouth is used, separated by commas, up to 32. The first should show a closed "
        "mouth, others teeth and an open mouth",
        override=OVERRIDABLE,
    )
    dub_keep_pauses: BoolProperty(
        name="Keep Mouth in Pauses",
        description="Keep the movie's own mouth where the dialogue pauses for at least 0.35 seconds",
        default=False,
        override=OVERRIDABLE,
    )
    which: IntProperty(
        name="Face Number",
        description="Number of the face in a movie that shows several, counted from the left (negative: from the "
        "right). 0 if there is only one",
        min=-20,
        max=20,
        override=OVERRIDABLE,
    )
    banks: CollectionProperty(
        type=BankState,
        name="Banks",
        description="Strength, mute and solo of each bank",
        override={"LIBRARY_OVERRIDABLE", "USE_INSERTION"},
    )
    rest: StringProperty(
        name="Rest Pose",
        description="Slider values at which the portrait is rendered unchanged (JSON)",
        override=OVERRIDABLE,
    )
    rest_of: StringProperty(
        name="Rest Pose Of",
        description="Identifier of the portrait, crop and bank that the rest pose was measured from",
        override=OVERRIDABLE,
    )
    presets: StringProperty(
        name="Own Emotions",
        description="Emotions of this character in addition to its bank's (JSON)",
        override=OVERRIDABLE,
    )

    last_emotion: StringProperty(
        name="Last Emotion",
        description="Emotion that Key Emotion and Change Emotion use next",
        override=OVERRIDABLE,
    )

    action: PointerProperty(
        type=bpy.types.Action,
        name="Dialogue Action",
        description="Action that lip sync and emotions were last written to",
        override=OVERRIDABLE,
    )
    base_strip: StringProperty(
        name="Base Strip",
        description="NLA strip with the keys that motion from speech is added to",
        override=OVERRIDABLE,
    )
    face_strip: StringProperty(
        name="Face Strip",
        description="Identifier of the strip that shows this character's rendered frames",
        override=OVERRIDABLE,
    )
    head_sway: FloatProperty(
        name="Sway",
        description="Amount of slow head motion from speech, such as changes of posture. 0 is none, 1 is natural, "
        "2 is the most",
        default=1.0,
        min=0.0,
        max=2.0,
        override=OVERRIDABLE,
    )
    head_nods: FloatProperty(
        name="Nods",
        description="Amount of fast head motion from speech, such as nods. 0 is none, 1 is natural, 2 is the most",
        default=1.0,
        min=0.0,
        max=2.0,
        override=OVERRIDABLE,
    )
    head_seed: IntProperty(
        name="Seed",
        description="Number of the head motion. Another number draws another motion for the same speech",
        min=0,
        override=OVERRIDABLE,
    )
    head_variations: IntProperty(
        name="Variations",
        description="Number of different motions to write, 1 to 6. Several are written to NLA strips, of which all but "
        "the first are muted",
        default=1,
        min=1,
        max=6,
        override=OVERRIDABLE,
    )
    speech_kinds: EnumProperty(
        name="Animate",
        description="What Animate from Speech writes",
        items=(
            ("LIPS", "Lips", "Mouth keys, as Lip Sync writes them", 1),
            ("HEAD", "Head", "Head keys, as Head Motion writes them", 2),
            ("EMOTION", "Emotion", "Emotion keys or markers, as Detect Emotion writes them", 4),
            ("EYES", "Eyes", "Blinks, and movements of the gaze if the bank has sliders for it", 8),
        ),
        default={"LIPS", "HEAD", "EMOTION", "EYES"},
        options={"ENUM_FLAG"},
        override=OVERRIDABLE,
    )
    emotion_from: EnumProperty(
        name="From",
        description="Source of the emotion: the voice, the words of the text, or both",
        items=(
            ("BOTH", "Both", "The voice, and the words if a text is known"),
            ("VOICE", "Voice", "Pitch, loudness and pace of the voice"),
            ("WORDS", "Words", "The text of the strip"),
        ),
        default="BOTH",
        override=OVERRIDABLE,
    )
    emotion_amount: FloatProperty(
        name="Amount",
        description="Factor of the detected strengths, from 0 to 1.5. 0 writes no emotion",
        default=1.0,
        min=0.0,
        max=1.5,
        override=OVERRIDABLE,
    )
    emotion_as: EnumProperty(
        name="Write",
        description="How detected emotions are written",
        items=(
            ("KEYS", "Keys", "Keyframes of the emotion sliders"),
            ("MARKERS", "Markers", "Timeline markers with the emotion and its strength"),
        ),
        default="KEYS",
        override=OVERRIDABLE,
    )
    brow_accents: BoolProperty(
        name="Brow Accents",
        description="Raise the brows at some stressed syllables. Their F-curves have a group of their own",
        default=True,
        override=OVERRIDABLE,
    )
    lip_nla: BoolProperty(
        name="As NLA Strip",
        description="Write each dialogue strip's keys to a separate strip in the Nonlinear Animation editor",
        override=OVERRIDABLE,
    )
    lip_smooth: FloatProperty(
        name="Smooth",
        description="Smooth the mouth motion over about this number of frames (standard deviation), usually from 0 "
        "to 3. 0 is off",
        default=0.0,
        min=0.0,
        soft_max=3.0,
        max=20.0,
        override=OVERRIDABLE,
    )
    lip_decimate: FloatProperty(
        name="Simplify",
        description="Remove keys that change the curves by at most this value, in slider units, usually from 0 to 0.1: "
        "0.02 is 2 % of a fully open mouth. 0 writes a key on every frame",
        default=0.02,
        min=0.0,
        soft_max=0.1,
        max=10.0,
        precision=3,
        override=OVERRIDABLE,
    )
    lip_step: IntProperty(
        name="Hold",
        description="Hold each mouth pose for this number of frames, usually 1 to 4: 1 animates on ones, 2 on twos",
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
