"""A pose library for characters: emotions and mouth shapes as action assets with pictures.

Blender's own pose library applies poses to bones only. These assets are ordinary actions with one key per slider; the
asset shelf of the 3D Viewport and the context menu of the Asset Browser apply them to the active character.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import bpy
import numpy as np
from bpy.props import EnumProperty, StringProperty

from ...inference.contract.errors import EDTalkError
from .. import compat
from ..character import character, files, sliders, viewport
from ..character.operators import OnCharacter
from ..engine.operator_base import DialogOperator
from ..lipsync import mouth_shapes
from . import emotion_pictures, keys, pose_operators

TAG = "EDTalk"  # of the assets
SIDE = 128  # pixels of a picture
FRAME = 1.0  # of the only key


# --- Making assets


def library_poses(obj: bpy.types.Object) -> dict[str, tuple[dict[str, float], str]]:
    """Poses of the character's bank by name: offsets of sliders from rest, and the name of the picture."""
    bank, emotions = files.bank_of(obj), sliders.emotions(obj)
    found = {
        sliders.title(name): ({other: float(other == name) for other in emotions}, name)
        for name in ("neutral", *emotions)
    }
    lips = bank.names_of("lip")
    if mouth_shapes.is_known(lips):
        for name, shape in mouth_shapes.MOUTH_SHAPES.items():
            offsets = {slider: shape.get(slider, 0.0) for slider in lips}
            found[f"Mouth {name}"] = offsets, f"mouth_{name}"
    return found


def make(obj: bpy.types.Object, name: str, offsets: Mapping[str, float]) -> bpy.types.Action:
    """An action asset with the pose, in the current file. An asset of this name is replaced.

    offsets: of sliders from rest, by name.
    """
    action = next((one for one in bpy.data.actions if one.name == name and is_pose(one.asset_data)), None)
    if action is None:
        action = bpy.data.actions.new(name)
    bag = compat.action_channelbag(action, compat.fitting_slot(action, obj))
    bag.fcurves.clear()
    for slider, offset in offsets.items():
        path, group = sliders.data_path(slider), keys.group_of(obj, slider)
        keys.write_curve(bag, path, np.array([FRAME]), np.array([offset]), group=group)
    action.asset_mark()
    if TAG not in action.asset_data.tags:
        action.asset_data.tags.new(TAG)
    action.asset_data.description = "Pose of a talking face"
    return action


def is_pose(metadata: bpy.types.AssetMetaData | None) -> bool:
    """Whether the metadata of an action is that of such an asset."""
    return metadata is not None and TAG in metadata.tags


def set_picture(action: bpy.types.Action, pixels: np.ndarray) -> None:
    """Set the asset's picture. pixels: (H, W, 4) float32, 0 to 1, bottom row first; sampled at SIDE pixels."""
    rows, columns = (np.arange(SIDE) * count // SIDE for count in pixels.shape[:2])
    preview = action.preview_ensure()
    preview.image_size = SIDE, SIDE
    preview.image_pixels_float.foreach_set(np.ascontiguousarray(pixels[rows[:, None], columns], np.float32).ravel())


def _picture(name: str) -> np.ndarray | None:
    """(H, W, 4) of an emotion or mouth shape, bottom row first; None if there is none."""
    path = emotion_pictures.FOLDER / f"{name}.png"
    if not path.is_file():
        return None
    image = bpy.data.images.load(str(path))
    try:
        return _pixels(image)
    finally:
        bpy.data.images.remove(image)


def _pixels(image: bpy.types.Image) -> np.ndarray:
    width, height = image.size
    pixels = np.empty(width * height * 4, np.float32)
    image.pixels.foreach_get(pixels)
    return pixels.reshape(height, width, 4)


# --- Reading assets


def offsets_of(action: bpy.types.Action) -> dict[str, float]:
    """Offsets of sliders from rest, by name, that a pose asset holds."""
    curves = (curve for slot in action.slots for curve in compat.slot_fcurves(action, slot))
    found = ((re.fullmatch(r'edtalk\["(.+)"\]', curve.data_path), curve) for curve in curves)
    return {bpy.utils.unescape_identifier(path[1]): curve.evaluate(FRAME) for path, curve in found if path}


def _read(asset: bpy.types.AssetRepresentation) -> dict[str, float]:
    """The offsets of an asset of this file or of a library. Raises EDTalkError if it cannot be read."""
    if asset.local_id is not None:
        return offsets_of(asset.local_id)
    path = asset.full_library_path
    try:
        with bpy.data.libraries.load(path, link=False) as (source, target):
            target.actions = [name for name in source.actions if name == asset.name]
    except OSError as error:
        raise EDTalkError(f"{path} could not be read: {error}.", "Check the asset library.") from error
    if not target.actions or target.actions[0] is None:
        raise EDTalkError(f"{path} has no action '{asset.name}'.", "Refresh the Asset Browser.")
    action = target.actions[0]
    offsets = offsets_of(action)
    bpy.data.actions.remove(action)
    return offsets


# --- Operators


class EDTALK_OT_create_pose_library(OnCharacter, bpy.types.Operator):
    """Make assets of all emotions and mouth shapes, for the Asset Browser and the asset shelf of the 3D Viewport"""

    bl_idname = "edtalk.create_pose_library"
    bl_label = "Create Pose Library"
    bl_options = {"REGISTER", "UNDO"}

    where: EnumProperty(
        name="Library",
        description="Where to store the poses",
        items=(
            ("FILE", "Current File", "In this file, to use them here"),
            ("USER", "User Library", "In the first asset library of the preferences, to use them in all files"),
        ),
        default="FILE",
    )

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj, before = character.active(context), set(bpy.data.actions)
        made = []
        for name, (offsets, picture) in library_poses(obj).items():
            made.append(make(obj, name, offsets))
            if (pixels := _picture(picture)) is not None:
                set_picture(made[-1], pixels)
        if self.where == "USER":
            count = len(made)
            try:
                path = _write(context, files.bank_of(obj).name, made)
            finally:
                for action in set(made) - before:
                    bpy.data.actions.remove(action)
            self.report({"INFO"}, f"Wrote {count} poses to {path}")
        else:
            self.report({"INFO"}, f"Made {len(made)} poses. Open the Asset Browser, or the asset shelf with Alt Space")
        return None


def _write(context: bpy.types.Context, bank: str, actions: Collection[bpy.types.Action]) -> Path:
    """Write assets to a file in the first asset library. Raises EDTalkError if that is not possible."""
    libraries = context.preferences.filepaths.asset_libraries
    if not libraries:
        raise EDTalkError("There is no asset library.", "Add one in Preferences > File Paths.")
    name = re.sub(r"[^\w -]", "_", bank)[:60]
    path = Path(libraries[0].path) / f"EDTalk {name}.blend"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        bpy.data.libraries.write(str(path), set(actions), fake_user=True)
    except (OSError, RuntimeError) as error:
        raise EDTalkError(f"{path} could not be written: {error}.", "Check the folder of the asset library.") from error
    return path


class EDTALK_OT_save_pose_asset(DialogOperator, OnCharacter, bpy.types.Operator):
    """Make an asset of the current pose, with all sliders that are not at rest"""

    bl_idname = "edtalk.save_pose_asset"
    bl_label = "Save Pose as Asset"
    bl_options = {"REGISTER", "UNDO"}

    name: StringProperty(name="Name", description="Name of the asset", default="Pose")

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        offsets = {name: value for name, value in pose_operators.pose_of(obj).items() if abs(value) > 1e-6}
        if not offsets:
            raise EDTalkError("All sliders are at rest.", "Change the pose first.")
        action = make(obj, self.name, offsets)
        image = viewport.face_image(obj) or obj.edtalk.portrait_image
        if image is not None and image.has_data:
            set_picture(action, _pixels(image))
        self.report({"INFO"}, f"Saved the asset '{action.name}'")
        return None


class EDTALK_OT_apply_pose_asset(OnCharacter, bpy.types.Operator):
    """Set the sliders of the active character to this pose, and key them if auto keying is enabled"""

    bl_idname = "edtalk.apply_pose_asset"
    bl_label = "Apply Pose to Face"
    bl_options = {"REGISTER", "UNDO"}

    # Set by the asset shelf, which calls this operator like Blender's own. The context has the asset.
    asset_library_type: EnumProperty(
        name="Library Type",
        items=(
            ("LOCAL", "Local", "", 1),
            ("ALL", "All", "", 2),
            ("ESSENTIALS", "Essentials", "", 3),
            ("CUSTOM", "Custom", "", 100),
        ),
        options={"HIDDEN", "SKIP_SAVE"},
    )
    asset_library_identifier: StringProperty(name="Library Identifier", options={"HIDDEN", "SKIP_SAVE"})
    relative_asset_identifier: StringProperty(name="Asset Identifier", options={"HIDDEN", "SKIP_SAVE"})

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        if reason := super().disabled_reason(context):
            return reason
        asset = context.asset
        if asset is None or asset.id_type != "ACTION" or not is_pose(asset.metadata):
            return "Select a pose of a talking face in the Asset Browser first"
        return ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj, name = character.active(context), context.asset.name
        apply(context, obj, name, _read(context.asset))
        self.report({"INFO"}, f"{obj.name}: {name}")
        return None


def apply(context: bpy.types.Context, obj: bpy.types.Object, name: str, offsets: Mapping[str, float]) -> None:
    """Set sliders to a pose. Raises EDTalkError if the character has none of its sliders."""
    known = set(sliders.channel_names(obj))
    fitting = {slider: offset for slider, offset in offsets.items() if slider in known}
    if not fitting:
        message = f"{obj.name} has none of the sliders of '{name}'."
        raise EDTalkError(message, "Use a pose of a character with this bank.")
    pose_operators.pose_from_rest(context, obj, fitting)


class EDTALK_AST_poses(bpy.types.AssetShelf):
    """Poses of talking faces in the 3D Viewport"""

    bl_space_type = "VIEW_3D"
    bl_activate_operator = "EDTALK_OT_apply_pose_asset"
    bl_options = {"NO_ASSET_DRAG"}
    bl_default_preview_size = 64
    filter_action = True

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.mode == "OBJECT" and character.is_character(context.view_layer.objects.active)

    @classmethod
    def asset_poll(cls, asset: bpy.types.AssetRepresentation) -> bool:
        return asset.id_type == "ACTION" and is_pose(asset.metadata)


def _draw_in_asset_menu(menu: bpy.types.Menu, context: bpy.types.Context) -> None:
    asset = getattr(context, "asset", None)
    if asset is not None and asset.id_type == "ACTION" and is_pose(asset.metadata):
        menu.layout.separator()
        menu.layout.operator("edtalk.apply_pose_asset", icon="USER")


CLASSES = (EDTALK_OT_create_pose_library, EDTALK_OT_save_pose_asset, EDTALK_OT_apply_pose_asset, EDTALK_AST_poses)

register_classes, unregister_classes = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    register_classes()
    bpy.types.ASSETBROWSER_MT_context_menu.append(_draw_in_asset_menu)


def unregister() -> None:
    bpy.types.ASSETBROWSER_MT_context_menu.remove(_draw_in_asset_menu)
    unregister_classes()
