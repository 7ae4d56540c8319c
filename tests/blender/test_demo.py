"""The demo scene and idle motion."""

from __future__ import annotations

import bpy
import numpy as np
import pytest


@pytest.fixture
def obj(package, scene):
    made = package.demo.build(scene)
    package.demo.move_idly(scene, made)
    return made


def test_the_demo_is_ready_for_lip_sync(package, scene, obj):
    (strip,) = package.timeline.sequencer.dialogue(scene, obj)
    assert (scene.frame_start, scene.frame_end) == (1, package.compat.right_handle(strip) - 1)
    names = {curve.data_path for curve in package.compat.fcurves(obj)}
    assert {package.character.sliders.data_path(name) for name in ("happy", "sad", "eyeBlink", "headYaw")} <= names
    bpy.context.view_layer.objects.active = obj
    happy = [package.animation.sampling.sliders_at(obj, ["happy", "sad"], frame) for frame in (1, 60, 160)]
    assert [round(one["happy"], 3) for one in happy] == [0.0, 1.0, 0.0]
    assert [round(one["sad"], 3) for one in happy] == [0.0, 0.0, 0.9]


def test_the_demo_file_needs_no_other_files(package, scene, obj, tmp_path):
    """Portrait and sound are packed into the saved file."""
    (strip,) = package.timeline.sequencer.dialogue(scene, obj)
    before = package.timeline.audio.read(scene, strip, package.timeline.sequencer.time_map(scene, strip))
    obj.edtalk.portrait_image.filepath, strip.sound.filepath = "//gone.png", "//gone.wav"
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "demo.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "demo.blend"))
    scene = bpy.context.scene
    (obj,) = package.character.character.characters(scene)
    (strip,) = package.timeline.sequencer.dialogue(scene, obj)
    after = package.timeline.audio.read(scene, strip, package.timeline.sequencer.time_map(scene, strip))
    np.testing.assert_array_equal(after.samples, before.samples)
    assert package.character.files.portrait_path(obj).read_bytes() == package.demo.PORTRAIT.read_bytes()


def test_idle_motion_starts_at_rest_and_blinks(package, scene, obj):
    rows = package.animation.sampling.sample(scene, obj, range(scene.frame_start, scene.frame_end + 1))
    names = package.character.files.bank_of(obj).names
    rest = package.character.sliders.rest_row(obj)
    yaw, blink = (rows[:, names.index(name)] for name in ("headYaw", "eyeBlink"))
    assert abs(yaw[0] - rest[names.index("headYaw")]) < 0.01
    assert 0.02 < np.abs(yaw - yaw[0]).max() < 0.5
    assert blink.max() > 0.95
    assert np.median(blink) < 0.3


def test_idle_motion_keys_stay_within_the_maximum_error(package, scene, obj):
    curve = next(
        one for one in package.compat.fcurves(obj) if one.data_path == package.character.sliders.data_path("headYaw")
    )
    assert len(curve.keyframe_points) < (scene.frame_end - scene.frame_start) / 2


def test_idle_motion_is_limited_to_its_range(package, scene, obj):
    bpy.context.view_layer.objects.active = obj
    scene.use_preview_range, scene.frame_preview_start, scene.frame_preview_end = True, 200, 240
    before = package.animation.sampling.sliders_at(obj, ["headYaw"], 100)
    assert bpy.ops.edtalk.idle_motion(frames="PREVIEW", amount=2.0, blinks=False, seed=3) == {"FINISHED"}
    assert package.animation.sampling.sliders_at(obj, ["headYaw"], 100) == pytest.approx(before)
    assert bpy.ops.edtalk.demo.poll() is False


def test_the_demo_moves_with_the_speech_if_there_is_an_engine(package, scene, fake_engine):
    fake_engine()
    assert bpy.ops.edtalk.demo() == {"FINISHED"}
    (obj,) = package.character.character.characters(scene)
    path = package.character.sliders.data_path("headYaw")
    yaw = next(curve for curve in package.compat.fcurves(obj) if curve.data_path == path)
    assert np.ptp([yaw.evaluate(frame) for frame in range(20, 100)]) > 0.3, "the fake engine swings by 0.2 to each side"
    (strip,) = package.timeline.sequencer.dialogue(scene, obj)
    assert strip.edtalk_text.startswith("I am only a painting")


def test_the_demo_moves_idly_if_the_engine_fails(package, scene, fake_engine):
    fake_engine("--complain")
    assert bpy.ops.edtalk.demo() == {"FINISHED"}
    (obj,) = package.character.character.characters(scene)
    assert package.character.sliders.data_path("eyeBlink") in {curve.data_path for curve in package.compat.fcurves(obj)}
