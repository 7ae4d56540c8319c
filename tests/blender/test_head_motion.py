"""Head motion from speech in Blender: keyframes, their neighbours, variations and moved strips."""

import bpy
import numpy as np
import pytest

from tests.strip_material import RATE, keys, noise, select, set_speed, write_sound


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Four seconds of noise."""
    return write_sound(tmp_path_factory.mktemp("sounds") / "line.wav", noise(4.0, RATE))


@pytest.fixture
def strip(package, scene, sound):
    return package.compat.new_sound(scene, "line", sound, 1, 10)


def head_motion(scene, *strips, **options):
    select(scene, *strips)
    return bpy.ops.edtalk.head_motion(**options)


def value(package, obj, name, frame):
    path = package.character.sliders.data_path(name)
    (curve,) = [curve for curve in package.compat.fcurves(obj) if curve.data_path == path]
    return curve.evaluate(frame)


def samples(package, obj, frames, name="headYaw"):
    return np.array([value(package, obj, name, frame) for frame in frames])


def test_head_sliders_are_keyed_in_the_strip_only(package, scene, strip, obj, fake_engine):
    fake_engine()
    assert head_motion(scene, strip) == {"FINISHED"}
    keyed = {curve.data_path for curve in package.compat.fcurves(obj)}
    names = [name for name in package.character.files.bank_of(obj).names if name.startswith("head")]
    assert keyed == {package.character.sliders.data_path(name) for name in names}
    frames = keys(package, obj, "headYaw")[:, 0]
    assert frames.min() >= 10
    assert frames.max() < package.compat.right_handle(strip)
    assert np.ptp(keys(package, obj, "headYaw")[:, 1]) > 0.1
    assert package.timeline.sequencer.speaker(strip) == obj


def test_motion_begins_and_ends_in_the_surrounding_pose(package, scene, strip, obj, fake_engine):
    fake_engine()
    package.animation.keys.insert_keys(obj, {"headYaw": 0.6}, 1)
    package.animation.keys.insert_keys(obj, {"headYaw": -0.4}, 200)
    before = samples(package, obj, [9, 10, 105, 106])
    head_motion(scene, strip)
    after = samples(package, obj, [9, 10, 105, 106])
    np.testing.assert_allclose(after, before, atol=0.05)
    assert [key for key in keys(package, obj, "headYaw").tolist() if key[0] in (1, 200)] == [
        [1.0, pytest.approx(0.6)],
        [200.0, pytest.approx(-0.4)],
    ]


def test_again_replaces_its_own_keys_and_another_seed_moves_otherwise(package, scene, strip, obj, fake_engine):
    fake_engine()
    head_motion(scene, strip)
    first = keys(package, obj, "headYaw")
    head_motion(scene, strip)
    np.testing.assert_array_equal(keys(package, obj, "headYaw"), first)
    obj.edtalk.head_seed = 1
    head_motion(scene, strip)
    frames = np.arange(30, 90)
    other = samples(package, obj, frames)
    obj.edtalk.head_seed = 0
    head_motion(scene, strip)
    assert np.abs(samples(package, obj, frames) - other).max() > 0.02


def test_keyframes_by_hand_are_kept_unless_replaced(package, scene, strip, obj, fake_engine):
    fake_engine()
    package.animation.keys.insert_keys(obj, {"headPitch": 0.3}, 40)
    head_motion(scene, strip, existing="EMPTY")
    pitch = keys(package, obj, "headPitch")
    assert [40.0, pytest.approx(0.3)] in pitch.tolist()
    assert value(package, obj, "headPitch", 41) == pytest.approx(0.3, abs=0.02)
    assert np.ptp(samples(package, obj, range(60, 100), "headPitch")) > 0.05
    head_motion(scene, strip, replace=True)
    pitch = keys(package, obj, "headPitch")
    assert len(pitch) > 3
    assert [40.0, pytest.approx(0.3)] not in pitch.tolist()


def test_a_layer_is_added_to_keyframes_by_hand(package, scene, strip, obj, fake_engine):
    fake_engine()
    package.animation.keys.insert_keys(obj, {"headPitch": 0.3}, 40)
    package.animation.keys.insert_keys(obj, {"headPitch": 0.5}, 60)
    posed = samples(package, obj, (45, 50, 55), "headPitch")
    head_motion(scene, strip)
    rest = package.character.sliders.rest_values(obj)
    (title,) = package.timeline.sequencer.motion_strips(strip, "head")
    _track, layer = package.animation.keys.find_strip(obj, title)
    assert layer.blend_type == "ADD"
    added = {}
    for curve in package.compat.slot_fcurves(layer.action, layer.action_slot):
        added[curve.data_path] = [curve.evaluate(frame) for frame in (45, 50, 55)]
    pitch, yaw = ([], [])
    for frame in (45, 50, 55):
        scene.frame_set(frame)
        pitch.append(obj.edtalk["headPitch"])
        yaw.append(obj.edtalk["headYaw"])
    path = package.character.sliders.data_path
    np.testing.assert_allclose(pitch, posed + added[path("headPitch")], atol=1e-5)
    np.testing.assert_allclose(yaw, rest["headYaw"] + np.array(added[path("headYaw")]), atol=1e-5)
    head_motion(scene, strip)
    assert package.timeline.sequencer.motion_strips(strip, "head") == [title]
    scene.frame_set(50)
    assert obj.edtalk["headPitch"] == pytest.approx(pitch[1], abs=1e-5), "the layer is replaced, not added again"


def test_a_split_strip_keeps_its_motion(package, scene, sound, obj, fake_engine):
    fake_engine()
    whole = package.compat.new_sound(scene, "line", sound, 1, 10)
    head_motion(scene, whole)
    expected = samples(package, obj, range(10, 106))
    package.compat.set_strip_value(whole, "right_handle", 60)
    rest = package.compat.new_sound(scene, "rest", sound, 2, 10)
    package.compat.set_strip_value(rest, "left_handle", 60)
    rest.sound = whole.sound
    head_motion(scene, whole, rest)
    head_motion(scene, whole, rest)  # now both know that the other one goes on
    np.testing.assert_allclose(samples(package, obj, range(10, 106)), expected, atol=0.005)


def test_keys_move_with_the_strip(package, scene, strip, obj, fake_engine):
    fake_engine()
    head_motion(scene, strip)
    before = keys(package, obj, "headYaw")
    strip.frame_start += 33
    package.follow.follow(scene)
    np.testing.assert_allclose(keys(package, obj, "headYaw"), before + np.array([33, 0]), atol=1e-4)


def test_a_retimed_strip_moves_slower(package, scene, strip, obj, fake_engine):
    fake_engine()
    head_motion(scene, strip)
    middle = value(package, obj, "headYaw", 10 + 48)
    bpy.context.view_layer.update()
    set_speed(package, scene, strip, 50)
    package.follow.follow(scene)
    head_motion(scene, strip)
    assert value(package, obj, "headYaw", 10 + 96) == pytest.approx(middle, abs=0.01)


def test_amounts_scale_the_motion_and_zero_writes_nothing(package, scene, strip, obj, fake_engine):
    fake_engine()
    head_motion(scene, strip)
    full = np.abs(samples(package, obj, range(30, 90))).max()
    obj.edtalk.head_sway = obj.edtalk.head_nods = 0.5
    head_motion(scene, strip)
    assert np.abs(samples(package, obj, range(30, 90))).max() == pytest.approx(full / 2, rel=0.1)
    obj.edtalk.head_sway = obj.edtalk.head_nods = 0.0
    head_motion(scene, strip)
    assert not package.compat.fcurves(obj)


def test_variations_are_nla_strips_of_which_one_is_used(package, scene, strip, obj, fake_engine):
    fake_engine()
    obj.edtalk.head_variations = 3
    head_motion(scene, strip)
    heads = package.lipsync.head_motion
    names = heads.variations(strip)
    assert len(names) == 3
    assert heads.used_variation(obj, strip) == names[0]
    found = [package.animation.keys.find_strip(obj, name)[1] for name in names]
    assert [one.mute for one in found] == [False, True, True]
    assert len({one.action for one in found}) == 3
    select(scene, strip)
    assert bpy.ops.edtalk.use_variation(name=names[2]) == {"FINISHED"}
    assert heads.used_variation(obj, strip) == names[2]
    start = found[0].frame_start
    strip.frame_start += 20
    package.follow.follow(scene)
    assert package.animation.keys.find_strip(obj, names[0])[1].frame_start == start + 20
    obj.edtalk.head_variations = 1
    head_motion(scene, strip)
    assert not any(track.strips for track in obj.animation_data.nla_tracks)
    assert heads.variations(strip) == []


def test_the_used_variation_moves_the_head(package, scene, strip, obj, fake_engine):
    fake_engine()
    obj.edtalk.head_variations = 2
    head_motion(scene, strip)
    seen = []
    for name in package.lipsync.head_motion.variations(strip):
        bpy.ops.edtalk.use_variation(name=name)
        for frame in (40, 50, 60):
            scene.frame_set(frame)
            seen.append(obj.edtalk["headYaw"])
    assert np.ptp(seen[:3]) > 0.01
    assert not np.allclose(seen[:3], seen[3:])


@pytest.mark.parametrize("mute", [True, False])
def test_reasons_are_given(package, scene, strip, obj, fake_engine, write_bank, mute):
    fake_engine()
    if mute:
        strip.mute = True
        with pytest.raises(RuntimeError, match="muted"):
            head_motion(scene, strip)
    else:
        obj.edtalk.bank = str(write_bank())
        with pytest.raises(RuntimeError, match="which of its sliders turn the head"):
            head_motion(scene, strip)


@pytest.mark.slow
def test_the_engine_moves_the_head_with_the_demo_line(package, scene, obj, engine, demo):
    strip = package.compat.new_sound(scene, "line", demo / "line.wav", 1, 1)
    assert head_motion(scene, strip) == {"FINISHED"}
    end = package.compat.right_handle(strip)
    yaw, pitch = (samples(package, obj, range(1, end), name) for name in ("headYaw", "headPitch"))
    assert 0.02 < np.ptp(yaw) < 1.5
    assert 0.05 < np.ptp(pitch) < 1.5
