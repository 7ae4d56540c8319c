"""Lip sync: the keys of the mouth, their character, and problems."""

import time
import wave

import bpy
import numpy as np
import pytest

from tests.pumping import pump_until
from tests.strip_material import RATE, keys, noise, select, set_speed, write_sound

JAW = 'edtalk["jawOpen"]'


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Two seconds: loud, silent, loud, silent, half a second each."""
    path = tmp_path_factory.mktemp("sounds") / "line.wav"
    pattern = np.repeat([1.0, 0.0, 1.0, 0.0], RATE // 2).astype(np.float32)
    return write_sound(path, (noise(2.0) + 0.3) * pattern)


@pytest.fixture
def obj(obj):
    """The character, with mouth keys on every frame."""
    obj.edtalk.lip_decimate = 0.0
    return obj


@pytest.fixture
def strip(package, scene, sound):
    return package.compat.new_sound(scene, "line", sound, 1, 10)


def lip_sync(scene, *strips, **options):
    select(scene, *strips)
    return bpy.ops.edtalk.lip_sync(**options)


def jaw_at(package, obj, frame):
    (curve,) = [curve for curve in package.compat.fcurves(obj) if curve.data_path == JAW]
    return curve.evaluate(frame)


# --- The keys


def test_a_strip_gives_one_key_per_frame_and_rest_around_it(package, scene, strip, obj, fake_engine):
    fake_engine()
    assert lip_sync(scene, strip) == {"FINISHED"}
    found = keys(package, obj)
    assert found[:, 0].tolist() == list(range(9, package.compat.right_handle(strip) + 1))
    assert found[[0, -1], 1].tolist() == [0.0, 0.0]
    loud, silent = jaw_at(package, obj, 10 + 6), jaw_at(package, obj, 10 + 18)
    assert loud > 0.3 > 0.05 > silent
    assert package.timeline.sequencer.speaker(strip) == obj
    assert {curve.data_path for curve in package.compat.fcurves(obj)} == {
        package.character.sliders.data_path(name) for name in package.character.files.bank_of(obj).names_of("lip")
    }


def test_keys_are_sparse_by_default(package, scene, strip, obj, fake_engine):
    fake_engine()
    lip_sync(scene, strip)
    dense = keys(package, obj)
    obj.edtalk.property_unset("lip_decimate")
    error = obj.edtalk.lip_decimate
    lip_sync(scene, strip)
    assert len(keys(package, obj)) < 0.7 * len(dense)
    assert max(abs(jaw_at(package, obj, frame) - value) for frame, value in dense) <= error + 1e-6


@pytest.mark.parametrize(("fps", "base"), [(24, 1.001), (24, 1.0), (25, 1.0), (30, 1.001), (50, 1.0), (60, 1.0)])
def test_the_mouth_opens_at_the_same_second_at_every_rate(package, scene, sound, obj, fake_engine, fps, base):
    fake_engine()
    scene.render.fps, scene.render.fps_base = fps, base
    strip = package.compat.new_sound(scene, "line", sound, 1, 1)
    lip_sync(scene, strip)
    frames, values = keys(package, obj).T
    opened = frames[values > 0.25]
    second = (opened - 1) * base / fps
    assert second.min() == pytest.approx(0.0, abs=1 / fps)
    assert second[second > 0.75].min() == pytest.approx(1.0, abs=1.5 / fps)
    assert second.max() == pytest.approx(1.5, abs=1.5 / fps)


def test_a_slowed_down_strip_opens_the_mouth_later(package, scene, strip, obj, fake_engine):
    fake_engine()
    set_speed(package, scene, strip, 50)
    lip_sync(scene, strip)
    assert jaw_at(package, obj, 10 + 12) > 0.3
    assert jaw_at(package, obj, 10 + 36) < 0.05
    assert jaw_at(package, obj, 10 + 60) > 0.3


def test_only_the_trimmed_range_is_lip_synced(package, scene, strip, obj, fake_engine):
    fake_engine()
    package.compat.set_strip_value(strip, "left_handle", 24)
    package.compat.set_strip_value(strip, "right_handle", 40)
    lip_sync(scene, strip)
    assert keys(package, obj)[:, 0].tolist() == list(range(23, 41))


def test_the_mouth_rests_between_strips_but_not_within_them(package, scene, sound, obj, fake_engine):
    fake_engine()
    one = package.compat.new_sound(scene, "one", sound, 1, 10)
    end = package.compat.right_handle(one)
    two = package.compat.new_sound(scene, "two", sound, 2, end)  # follows without a gap
    three = package.compat.new_sound(scene, "three", sound, 1, end + 200)
    lip_sync(scene, one, two, three)
    assert jaw_at(package, obj, end) > 0.3, "the rest key of the first strip does not cover the second"
    assert jaw_at(package, obj, end + 100) == 0.0
    assert jaw_at(package, obj, end + 199) == 0.0


def test_lip_sync_again_replaces_only_the_strips_own_keys(package, scene, strip, obj, fake_engine):
    fake_engine()
    package.animation.keys.insert_keys(obj, {"jawOpen": 0.7, "headYaw": 0.5}, 200)
    lip_sync(scene, strip)
    count = len(keys(package, obj))
    lip_sync(scene, strip)
    assert len(keys(package, obj)) == count
    package.compat.set_strip_value(strip, "right_handle", 30)
    lip_sync(scene, strip)
    assert keys(package, obj)[:, 0].tolist() == [*range(9, 31), 200], "keys outside the new range are removed"
    assert keys(package, obj, "headYaw").tolist() == [[200.0, 0.5]]


def test_muted_and_silent_strips_close_the_mouth_without_an_engine(package, scene, strip, obj, monkeypatch):
    monkeypatch.setattr(package.engine.session, "client", lambda: pytest.fail("the engine is not needed"))
    strip.mute = True
    lip_sync(scene, strip)
    assert set(keys(package, obj)[:, 1]) == {0.0}
    assert len(keys(package, obj)) == 4


def test_on_twos_every_second_pose_is_held(package, scene, strip, obj, fake_engine):
    fake_engine()
    obj.edtalk.lip_step = 2
    lip_sync(scene, strip)
    assert keys(package, obj)[1:5, 0].tolist() == [10, 12, 14, 16]
    assert jaw_at(package, obj, 13) == jaw_at(package, obj, 12)


def test_simplified_keys_stay_within_the_maximum_error(package, scene, strip, obj, fake_engine):
    fake_engine()
    lip_sync(scene, strip)
    dense = keys(package, obj)
    obj.edtalk.lip_decimate = 0.05
    lip_sync(scene, strip)
    assert len(keys(package, obj)) < 0.8 * len(dense)
    assert max(abs(jaw_at(package, obj, frame) - value) for frame, value in dense) < 0.051


def test_dialogue_can_be_written_to_an_nla_strip(package, scene, strip, obj, fake_engine):
    fake_engine()
    obj.edtalk.lip_nla = True
    lip_sync(scene, strip)
    (track,) = obj.animation_data.nla_tracks
    (written,) = track.strips
    assert (written.frame_start, written.frame_end) == (9, package.compat.right_handle(strip))
    scene.frame_set(16)
    evaluated = obj.evaluated_get(bpy.context.view_layer.depsgraph)
    assert evaluated.edtalk["jawOpen"] > 0.3
    lip_sync(scene, strip)
    assert len(obj.animation_data.nla_tracks[0].strips) == 1


def test_the_first_lip_sync_makes_playback_follow_the_sound(package, scene, strip, obj, fake_engine):
    fake_engine()
    assert (scene.sync_mode, scene.use_audio_scrub) == ("NONE", False)
    lip_sync(scene, strip)
    assert (scene.sync_mode, scene.use_audio_scrub) == ("AUDIO_SYNC", True)
    scene.sync_mode = "NONE"
    lip_sync(scene, strip)
    assert scene.sync_mode == "NONE", "the artist's choice is kept"


# --- Characters and timing


def test_three_characters_and_forty_strips(package, scene, sound, obj, fake_engine):
    fake_engine()
    cast = [
        obj,
        package.character.character.create(scene, name="Ben"),
        package.character.character.create(scene, name="Cleo"),
    ]
    length = 60
    strips = [package.compat.new_sound(scene, f"line {n}", sound, 1 + n % 3, 10 + length * n) for n in range(40)]
    for number, strip in enumerate(strips):
        package.timeline.sequencer.assign(strip, cast[number % 3])
    assert bpy.ops.edtalk.lip_sync(which="LINKED") == {"FINISHED"}
    for number, speaker in enumerate(cast):
        own = [strip for strip in strips if package.timeline.sequencer.speaker(strip) == speaker]
        assert len(own) == 14 - (number > 0)
        assert jaw_at(package, speaker, package.compat.left_handle(own[-1]) + 6) > 0.3
        others = [strip for strip in strips if strip not in own]
        assert jaw_at(package, speaker, package.compat.left_handle(others[0]) + 30) == 0.0
    assert not package.engine.session.tasks


def test_the_result_is_written_at_the_strips_current_position(package, scene, strip, obj, fake_engine):
    fake_engine()
    task = package.lipsync.lipsync.lip_sync(scene, strip, obj)
    package.engine.session.pump()
    package.compat.set_strip_value(strip, "content_start", 110)
    package.engine.session.wait(task)
    assert keys(package, obj)[0, 0] == 109


@pytest.mark.parametrize("gone", ["strip", "character"])
def test_a_result_for_a_deleted_strip_or_character_is_dropped(package, scene, strip, obj, fake_engine, gone):
    fake_engine()
    task = package.lipsync.lipsync.lip_sync(scene, strip, obj)
    package.engine.session.pump()
    if gone == "strip":
        scene.sequence_editor.strips.remove(strip)
    else:
        bpy.data.objects.remove(obj)
    package.engine.session.wait(task)
    assert task.error is None


def test_nothing_is_applied_while_blender_renders_saves_or_undoes(package, scene, strip, obj, fake_engine):
    fake_engine()
    package.engine.session.hold("render")
    task = package.lipsync.lipsync.lip_sync(scene, strip, obj)
    for _ in range(50):
        package.engine.session.pump()
        time.sleep(0.005)
    assert not task.finished
    assert len(keys(package, obj)) == 0
    package.engine.session.release("render")
    package.engine.session.wait(task)
    assert len(keys(package, obj)) > 0


def test_loading_another_file_cancels_lip_sync(package, scene, strip, obj, fake_engine):
    client = fake_engine("--slow", 0.3)
    task = package.lipsync.lipsync.lip_sync(scene, strip, obj)
    package.engine.session.pump()
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    assert not package.engine.session.tasks
    assert package.engine.session.current_client() == client, "the engine stays warm"
    pump_until(package, lambda: not client._jobs)
    assert task.error is None


def test_reassigning_a_strip_removes_its_keys_from_the_old_speaker(package, scene, strip, obj, fake_engine):
    fake_engine()
    ben = package.character.character.create(scene, name="Ben")
    lip_sync(scene, strip)
    assert len(keys(package, obj))
    assert bpy.ops.edtalk.assign_strip(uid=ben.edtalk.uid) == {"FINISHED"}
    assert package.timeline.sequencer.speaker(strip) == ben
    assert len(keys(package, obj)) == 0
    bpy.ops.edtalk.assign_strip(clear=True)
    assert package.timeline.sequencer.speaker(strip) is None


# --- Problems


def test_a_disabled_button_gives_a_reason(package, scene, sound):
    reason = package.lipsync.operators.EDTALK_OT_lip_sync.disabled_reason
    assert "Add a character" in reason(bpy.context)
    assert not bpy.ops.edtalk.lip_sync.poll()
    package.character.character.create(scene, name="Anna")
    assert "Add a sound strip" in reason(bpy.context)
    package.compat.new_sound(scene, "line", sound, 1, 10)
    assert reason(bpy.context) == ""
    assert bpy.ops.edtalk.lip_sync.poll()


def test_failing_strips_are_reported_and_the_others_are_done(package, scene, strip, sound, obj, fake_engine, tmp_path):
    fake_engine()
    path = write_sound(tmp_path / "gone.wav", noise(1.0))
    other = package.compat.new_sound(scene, "gone", path, 2, 100)
    path.unlink()
    assert lip_sync(scene, strip, other) == {"FINISHED"}
    assert "gone.wav" in package.engine.session.problems[-1].message
    assert len(keys(package, obj))
    with pytest.raises(RuntimeError, match=r"gone\.wav"):
        lip_sync(scene, other)


def test_a_sound_too_short_for_lip_sync_is_named_with_its_length(package, scene, strip, obj, tmp_path, fake_engine):
    fake_engine()
    path = tmp_path / "click.wav"
    with wave.open(str(path), "wb") as file:  # Blender's own writer pads short sounds
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((noise(0.03) * 32767).astype("<i2").tobytes())
    with pytest.raises(RuntimeError, match=r"'click' plays 30 ms of .*click\.wav; lip-sync needs at least 40 ms"):
        lip_sync(scene, package.compat.new_sound(scene, "click", str(path), 2, 100))
    assert not len(keys(package, obj))


def test_lip_sync_without_a_speaker_is_an_error(package, scene, strip, obj):
    package.character.character.create(scene, name="Ben")
    bpy.context.view_layer.objects.active = None
    with pytest.raises(RuntimeError, match="has no speaker"):
        lip_sync(scene, strip)


def test_a_bank_without_lip_sync_is_reported(package, scene, strip, write_bank):
    obj = package.character.character.create(scene, name="Anna", bank=str(write_bank()))
    bpy.context.view_layer.objects.active = obj
    with pytest.raises(RuntimeError, match="no lip-sync network"):
        lip_sync(scene, strip)


def test_without_an_engine_installing_it_is_offered(package, scene, strip, obj, monkeypatch):
    engine = package.engine.engine
    monkeypatch.setattr(engine, "find", lambda root, user_dir, preferred: engine.Engine(
        engine.State.MISSING, root, None, "The engine is not installed.", "Install it."))  # fmt: skip
    package.engine.session.restart()
    package.engine.session.forget_engine()
    try:
        with pytest.raises(RuntimeError, match="not installed"):
            lip_sync(scene, strip)
        assert package.engine.session.problems[-1].fix == "edtalk.install_engine"
    finally:
        monkeypatch.undo()
        package.engine.session.forget_engine()


def test_overridden_keys_are_reported_and_can_be_revealed(package, scene, strip, obj, fake_engine):
    fake_engine()
    lip_sync(scene, strip)
    package.engine.session.dismiss()
    obj.animation_data.nla_tracks.new().is_solo = True
    lip_sync(scene, strip)
    problem = package.engine.session.problems[-1]
    assert problem.fix == "edtalk.reveal_animation"
    assert bpy.ops.edtalk.reveal_animation(**problem.options) == {"FINISHED"}
    assert package.animation.hidden.hidden_by(obj) is None
    assert not package.engine.session.problems


def test_lip_sync_of_a_linked_character_is_an_error(package, scene, strip, obj, tmp_path):
    bpy.data.libraries.write(str(tmp_path / "cast.blend"), {obj})
    uid = obj.edtalk.uid
    bpy.data.objects.remove(obj)
    with bpy.data.libraries.load(str(tmp_path / "cast.blend"), link=True) as (_theirs, ours):
        ours.objects = ["Anna"]
    scene.collection.objects.link(bpy.data.objects["Anna"])
    strip["edtalk_character"] = uid
    with pytest.raises(RuntimeError, match=r"linked from cast\.blend"):
        lip_sync(scene, strip)


def test_lip_sync_survives_one_killed_engine(package, scene, strip, obj, fake_engine, tmp_path):
    fake_engine("--die-after", 0, "--once", tmp_path / "once")
    assert lip_sync(scene, strip) == {"FINISHED"}
    assert len(keys(package, obj))


def test_an_engine_that_keeps_dying_is_reported_with_a_fix(package, scene, strip, obj, fake_engine):
    fake_engine("--die-after", 0)
    with pytest.raises(RuntimeError, match="engine"):
        lip_sync(scene, strip)
    assert package.engine.session.problems[-1].fix == "edtalk.restart_engine"


def test_pressing_again_starts_an_engine_that_has_failed(package, scene, strip, obj, fake_engine, tmp_path):
    """The hint says to try again; the same button then has to do it."""
    client = fake_engine("--die-after", 0, "--once", tmp_path / "once", restarts=0)
    with pytest.raises(RuntimeError, match="engine"):
        lip_sync(scene, strip)
    assert client.state is package.engine.client.State.FAILED
    assert lip_sync(scene, strip) == {"FINISHED"}
    assert len(keys(package, obj))


def test_the_operator_returns_at_once_and_pushes_one_undo_step(package, scene, sound, obj, fake_engine, monkeypatch):
    fake_engine()
    strips = [package.compat.new_sound(scene, f"line {n}", sound, 1, 10 + 60 * n) for n in range(3)]
    select(scene, *strips)
    steps = []
    monkeypatch.setattr(package.engine.session, "blocking", lambda: False)
    monkeypatch.setattr(package.engine.session, "edited", steps.append)
    operator = package.engine.operator_base.EngineOperator
    monkeypatch.setattr(operator, "_from_button", True)  # as if a button had been clicked
    assert bpy.ops.edtalk.lip_sync() == {"FINISHED"}
    assert package.engine.session.tasks
    assert steps == []
    pump_until(package, lambda: not package.engine.session.tasks)
    assert steps == ["Lip Sync"]
    assert keys(package, obj)[-1, 0] > 130
