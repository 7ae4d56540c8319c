"""The pose library: action assets with pictures, applied to characters."""

import bpy
import numpy as np
import pytest


@pytest.fixture
def assets(package):
    return package.animation.pose_assets


def made(assets):
    return {action.name: action for action in bpy.data.actions if assets.is_pose(action.asset_data)}


def test_emotions_and_mouth_shapes_become_assets_with_pictures(package, obj, assets):
    assert bpy.ops.edtalk.create_pose_library() == {"FINISHED"}
    found = made(assets)
    emotions = {package.character.sliders.title(name) for name in ("neutral", *package.character.sliders.emotions(obj))}
    shapes = {f"Mouth {name}" for name in package.lipsync.mouth_shapes.MOUTH_SHAPES}
    assert set(found) == emotions | shapes
    pictures = {name: np.array(action.preview.image_pixels_float) for name, action in found.items()}
    assert all(picture.reshape(-1, 4)[:, 3].min() > 0.9 for picture in pictures.values())
    assert np.abs(pictures["Happy"] - pictures["Sad"]).mean() > 0.01
    assert bpy.ops.edtalk.create_pose_library() == {"FINISHED"}
    assert len(made(assets)) == len(found), "replaced, not added"


def test_applying_an_asset_sets_the_sliders_relative_to_rest(package, obj, assets):
    bpy.ops.edtalk.create_pose_library()
    package.character.sliders.setup_channels(obj, {"jawOpen": 0.1})
    found = made(assets)
    obj.edtalk["sad"] = 0.7
    assets.apply(bpy.context, obj, "Happy", assets.offsets_of(found["Happy"]))
    assert (obj.edtalk["happy"], obj.edtalk["sad"]) == (1.0, 0.0)
    assets.apply(bpy.context, obj, "Mouth A", assets.offsets_of(found["Mouth A"]))
    assert obj.edtalk["jawOpen"] == pytest.approx(0.78, abs=1e-5)
    assert obj.edtalk["happy"] == 1.0, "mouth and emotion combine"


def test_applying_keys_with_auto_keying(package, obj, scene, assets):
    bpy.ops.edtalk.create_pose_library()
    scene.tool_settings.use_keyframe_insert_auto = True
    assets.apply(bpy.context, obj, "Happy", assets.offsets_of(made(assets)["Happy"]))
    assert [curve.data_path for curve in package.compat.fcurves(obj)] == ['edtalk["happy"]']


def test_the_current_pose_becomes_an_asset_for_another_character(package, obj, scene, assets):
    with pytest.raises(RuntimeError, match="at rest"):
        bpy.ops.edtalk.save_pose_asset(name="smirk")
    obj.edtalk["mouthSmile"], obj.edtalk["headYaw"] = 0.4, -0.2
    assert bpy.ops.edtalk.save_pose_asset(name="smirk") == {"FINISHED"}
    other = package.character.character.create(scene, name="Ben")
    offsets = assets.offsets_of(made(assets)["smirk"])
    assert offsets == pytest.approx({"mouthSmile": 0.4, "headYaw": -0.2})
    assets.apply(bpy.context, other, "smirk", offsets)
    assert other.edtalk["mouthSmile"] == pytest.approx(0.4)


def test_an_asset_of_another_bank_is_refused(package, obj, scene, assets, write_bank):
    bpy.ops.edtalk.create_pose_library()
    sliders = {"lip": ("a",), "pose": ("b",), "exp": ("c", "d")}
    other = package.character.character.create(scene, bank=str(write_bank("other", sliders)))
    with pytest.raises(assets.EDTalkError, match="none of the sliders of 'Mouth E'"):
        assets.apply(bpy.context, other, "Mouth E", assets.offsets_of(made(assets)["Mouth E"]))


def test_the_user_library_gets_a_file_and_this_file_none(obj, assets, tmp_path):
    libraries = bpy.context.preferences.filepaths.asset_libraries
    before = libraries[0].path
    libraries[0].path = str(tmp_path / "assets")
    try:
        assert bpy.ops.edtalk.create_pose_library(where="USER") == {"FINISHED"}
    finally:
        libraries[0].path = before
    assert made(assets) == {}
    (path,) = (tmp_path / "assets").glob("*.blend")
    with bpy.data.libraries.load(str(path), link=False, assets_only=True) as (source, target):
        target.actions = list(source.actions)
    assert {"Happy", "Mouth A"} <= set(made(assets))
    assert assets.offsets_of(made(assets)["Happy"])["happy"] == 1.0


def test_making_and_applying_are_undone_in_one_step(obj, assets):
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.edtalk.create_pose_library()
    bpy.ops.ed.undo_push(message="Create Pose Library")
    assert made(assets)
    bpy.ops.ed.undo()
    assert not made(assets)


def test_applying_without_a_selected_asset_gives_a_reason(package, obj, assets):
    assert not bpy.ops.edtalk.apply_pose_asset.poll()
    assert "Asset Browser" in assets.EDTALK_OT_apply_pose_asset.disabled_reason(bpy.context)


def test_the_asset_shelf_offers_poses_of_faces_only(obj, assets):
    bpy.ops.edtalk.create_pose_library()
    other = bpy.data.actions.new("walk")
    other.asset_mark()
    assert assets.is_pose(made(assets)["Happy"].asset_data)
    assert not assets.is_pose(other.asset_data)
    assert not assets.is_pose(None)
    assert assets.EDTALK_AST_poses.poll(bpy.context)
    bpy.context.view_layer.objects.active = None
    assert not assets.EDTALK_AST_poses.poll(bpy.context)
