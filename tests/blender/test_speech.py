"""Emotion, eyes and brows from speech in Blender, and everything in one press."""

import bpy
import numpy as np
import pytest

from tests.strip_material import keys, noise, select, write_sound

FPS, START = 24, 10
RATE = 16_000


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Four seconds of noise."""
    return write_sound(tmp_path_factory.mktemp("sounds") / "line.wav", noise(4.0, RATE))


@pytest.fixture
def strip(package, scene, sound):
    return package.compat.new_sound(scene, "line", sound, 1, START)


def detect(scene, *strips, **options):
    select(scene, *strips)
    return bpy.ops.edtalk.detect_emotion(**options)


def animate(scene, *strips, **options):
    select(scene, *strips)
    return bpy.ops.edtalk.animate_from_speech(**options)


def keyed(package, obj):
    return {curve.data_path.removeprefix('edtalk["').removesuffix('"]') for curve in package.compat.fcurves(obj)}


def shown(package, obj, scene, frames, name):
    """Values of a slider as the scene shows it."""
    values = []
    for frame in frames:
        scene.frame_set(frame)
        values.append(obj.edtalk[name])
    return np.array(values)


def at(second):
    """Frame of a second of the sound."""
    return START + second * FPS


# --- Emotion


def test_an_emotion_rises_before_the_phrase_and_falls_after_it(package, scene, strip, obj, fake_engine):
    fake_engine()
    assert detect(scene, strip) == {"FINISHED"}
    happy = keys(package, obj, "happy")
    end = package.compat.right_handle(strip) - 1
    assert happy[:, 0].tolist() == [START, at(0.25), at(0.5), at(1.5), at(2.0), end]
    np.testing.assert_allclose(happy[:, 1], [0, 0, 0.8, 0.8, 0, 0], atol=1e-6)
    assert {point.interpolation for curve in package.compat.fcurves(obj) if "happy" in curve.data_path
            for point in curve.keyframe_points} == {"BEZIER"}  # fmt: skip
    assert "sad" not in keyed(package, obj)
    assert package.timeline.sequencer.speaker(strip) == obj


def test_the_words_come_from_the_strip_a_text_block_or_text_strips(package, scene, strip, obj, fake_engine):
    fake_engine()

    def found():
        detect(scene, strip)
        return keyed(package, obj) & {"angry", "fear", "happy", "sad"}

    assert found() == {"happy"}
    parameters = scene.sequence_editor.strips.bl_rna.functions["new_effect"].parameters
    end = {"length": 40} if "length" in parameters else {"frame_end": 70}
    title = scene.sequence_editor.strips.new_effect(name="title", type="TEXT", channel=2, frame_start=30, **end)
    title.text = "this is so sad"
    assert found() == {"sad"}
    strip.edtalk_text_block = bpy.data.texts.new("line")
    strip.edtalk_text_block.write("an angry text")
    assert found() == {"angry"}
    strip.edtalk_text = "I fear the worst"
    assert found() == {"fear"}
    texts = package.lipsync.spoken_text
    clock = package.timeline.sequencer.time_map(scene, strip)
    (whole,) = texts.texts_of(scene, strip, clock)
    assert (whole.start, whole.end) == (0.0, pytest.approx(4.0, abs=1.01 / FPS))
    strip.edtalk_text, strip.edtalk_text_block = "", None
    (part,) = texts.texts_of(scene, strip, clock)
    assert (part.start, part.end) == (pytest.approx(20 / FPS), pytest.approx(60 / FPS))
    title.mute = True
    assert texts.texts_of(scene, strip, clock) == ()


def test_the_amount_scales_the_strength_and_zero_writes_nothing(package, scene, strip, obj, fake_engine):
    fake_engine()
    obj.edtalk.emotion_amount = 1.5
    detect(scene, strip)
    assert keys(package, obj, "happy")[:, 1].max() == pytest.approx(1.2)
    obj.edtalk.emotion_amount = 0.0
    detect(scene, strip)
    assert not package.compat.fcurves(obj)


def test_suggestions_as_markers_follow_the_strip(package, scene, strip, obj, fake_engine):
    fake_engine()
    obj.edtalk.emotion_as = "MARKERS"
    detect(scene, strip)
    assert "happy" not in keyed(package, obj)
    assert [(marker.frame, marker.name) for marker in scene.timeline_markers] == [(at(0.5), "happy 0.8")]
    package.compat.set_strip_value(strip, "content_start", START + 30)
    package.follow.follow(scene)
    assert [marker.frame for marker in scene.timeline_markers] == [at(0.5) + 30]
    obj.edtalk.emotion_as = "KEYS"
    detect(scene, strip)
    assert not scene.timeline_markers
    assert "happy" in keyed(package, obj)


def test_the_mood_around_the_strip_is_kept(package, scene, strip, obj, fake_engine):
    fake_engine()
    package.animation.keys.insert_keys(obj, {"happy": 0.2}, 1)
    detect(scene, strip)
    happy = shown(package, obj, scene, (5, START, int(at(1)), 105, 150), "happy")
    np.testing.assert_allclose(happy, [0.2, 0.2, 1.0, 0.2, 0.2], atol=1e-5)


@pytest.mark.parametrize("existing", ["LAYER", "REPLACE", "EMPTY"])
def test_emotion_keys_by_hand(package, scene, strip, obj, fake_engine, existing):
    fake_engine()
    package.animation.keys.insert_keys(obj, {"happy": 0.3}, at(1.0))
    detect(scene, strip, existing=existing)
    happy = shown(package, obj, scene, [int(at(1.0))], "happy")[0]
    assert happy == pytest.approx({"LAYER": 1.1, "REPLACE": 0.8, "EMPTY": 0.3}[existing], abs=1e-5)


def test_again_replaces_its_own_keys_but_not_edited_ones(package, scene, strip, obj, fake_engine):
    fake_engine()
    detect(scene, strip)
    first = keys(package, obj, "happy")
    detect(scene, strip)
    np.testing.assert_array_equal(keys(package, obj, "happy"), first)
    strip.edtalk_text = "so sad"
    detect(scene, strip)
    assert "happy" not in keyed(package, obj)
    (curve,) = [curve for curve in package.compat.fcurves(obj) if '"sad"' in curve.data_path]
    curve.keyframe_points[2].co[1] = 0.44
    detect(scene, strip, existing="EMPTY")
    assert keys(package, obj, "sad").tolist() == [[pytest.approx(at(0.5)), pytest.approx(0.44)]]


def test_emotion_keys_move_with_the_strip(package, scene, strip, obj, fake_engine):
    fake_engine()
    detect(scene, strip)
    before = keys(package, obj, "happy")
    package.compat.set_strip_value(strip, "content_start", START + 33)
    package.follow.follow(scene)
    np.testing.assert_allclose(keys(package, obj, "happy"), before + np.array([33, 0]), atol=1e-4)


def test_brow_accents_have_a_group_of_their_own(package, scene, strip, obj, fake_engine):
    fake_engine()
    detect(scene, strip)
    brows = {curve.data_path: curve for curve in package.compat.fcurves(obj) if "brow" in curve.data_path}
    assert brows
    assert {curve.group.name for curve in brows.values()} == {package.lipsync.performing.BROW_GROUP}
    obj.edtalk.brow_accents = False
    detect(scene, strip, existing="REPLACE")
    obj.edtalk.brow_accents = True
    detect(scene, strip)
    assert np.ptp(keys(package, obj, "browInnerUp")[:, 1]) == pytest.approx(0.4, abs=0.02)


def test_emotions_beyond_the_handles_are_left_out(package, scene, strip, obj, fake_engine):
    fake_engine()
    package.compat.set_strip_value(strip, "left_handle", int(at(2.5)))
    detect(scene, strip)
    assert "happy" not in keyed(package, obj)


@pytest.mark.parametrize(
    ("stretches", "expected"),
    [
        ([(50, 60, 0.5)], [(0, 0), (44, 0), (50, 0.5), (60, 0.5), (72, 0), (100, 0)]),
        ([(0, 60, 0.5)], [(0, 0.5), (60, 0.5), (72, 0), (100, 0)]),
        ([(50, 100, 0.5)], [(0, 0), (44, 0), (50, 0.5), (100, 0.5)]),
        ([(20, 40, 0.5), (50, 90, 0.9)], [(0, 0), (14, 0), (20, 0.5), (40, 0.5), (50, 0.9), (90, 0.9)]),
        ([(20, 40, 0.5), (40, 90, 0.9)], [(0, 0), (14, 0), (20, 0.5), (40, 0.9), (90, 0.9)]),
    ],
)  # fmt: skip
def test_an_emotion_rises_before_its_stretch_and_falls_after_it(package, stretches, expected):
    frames, values = package.lipsync.emotion_keys.envelope(stretches, 24, (0, 100))
    assert list(zip(frames.tolist(), values.tolist(), strict=True)) == expected


# --- Everything in one press


def test_one_press_writes_lips_head_emotion_and_eyes(package, scene, strip, obj, fake_engine, monkeypatch):
    fake_engine()
    steps = []
    monkeypatch.setattr(package.engine.session, "edited", steps.append)
    assert animate(scene, strip) == {"FINISHED"}
    assert {"jawOpen", "headYaw", "happy", "eyeBlink", "browInnerUp"} <= keyed(package, obj)
    assert steps == ["Animate from Speech"]
    closed = shown(package, obj, scene, [int(at(2.5))], "eyeBlink")
    assert closed == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("kind", ["LIPS", "HEAD", "EMOTION", "EYES"])
def test_only_the_chosen_kinds_are_written(package, scene, strip, obj, fake_engine, kind):
    fake_engine()
    obj.edtalk.speech_kinds = {kind}
    animate(scene, strip)
    slider = {"LIPS": "jawOpen", "HEAD": "headYaw", "EMOTION": "happy", "EYES": "eyeBlink"}
    assert {name for name in slider.values() if name in keyed(package, obj)} == {slider[kind]}


def test_nothing_chosen_is_a_reason(scene, strip, obj):
    obj.edtalk.speech_kinds = set()
    select(scene, strip)
    with pytest.raises(RuntimeError, match="Choose what to animate"):
        bpy.ops.edtalk.animate_from_speech()


def test_all_dialogue_of_several_characters(package, scene, sound, strip, obj, demo, fake_engine, monkeypatch):
    fake_engine()
    other = package.character.character.create(scene, str(demo / "portrait_2.png"), name="Ben")
    later = package.compat.new_sound(scene, "reply", sound, 1, 200)
    package.timeline.sequencer.assign(strip, obj)
    package.timeline.sequencer.assign(later, other)
    steps = []
    monkeypatch.setattr(package.engine.session, "edited", steps.append)
    select(scene)
    assert bpy.ops.edtalk.animate_from_speech(which="LINKED") == {"FINISHED"}
    assert {"jawOpen", "headYaw", "happy", "eyeBlink"} <= keyed(package, obj) & keyed(package, other)
    assert steps == ["Animate from Speech"]
    yaw = keys(package, obj, "headYaw")[:, 1], keys(package, other, "headYaw")[:, 1]
    assert len(yaw[0]) != len(yaw[1]) or not np.allclose(*yaw), "each character moves in its own way"


def test_a_deleted_strip_takes_its_motion_along(package, scene, strip, obj, fake_engine):
    fake_engine()
    package.animation.keys.insert_keys(obj, {"happy": 0.4}, 30)
    animate(scene, strip, existing="EMPTY")
    package.animation.keys.insert_keys(obj, {"headPitch": 0.1}, 50)
    obj.edtalk.head_variations = 2
    obj.edtalk.speech_kinds = {"HEAD"}
    animate(scene, strip)
    names = package.lipsync.head_motion.variations(strip)
    scene.sequence_editor.strips.remove(strip)
    package.follow.follow(scene)
    assert keyed(package, obj) == {"happy"}
    assert keys(package, obj, "happy").tolist() == [[30, pytest.approx(0.4)]]
    assert not any(package.animation.keys.find_strip(obj, name) for name in names)


def test_variations_are_of_the_head_and_eyes_are_the_same(package, scene, strip, obj, fake_engine):
    fake_engine()
    obj.edtalk.head_variations = 2
    animate(scene, strip)
    names = package.lipsync.head_motion.variations(strip)
    assert len(names) == 2
    assert "eyeBlink" in keyed(package, obj)
    assert "headYaw" not in keyed(package, obj)


def test_a_bank_without_head_names_gets_the_rest(package, scene, strip, obj, fake_engine, write_bank):
    fake_engine()
    banks = {"lip": ("jawOpen", "lip_02"), "pose": ("pose_01",), "exp": ("eyeBlink", "exp_02")}
    package.character.character.set_bank(obj, str(write_bank(banks=banks)))
    obj.edtalk.speech_kinds = {"HEAD", "EMOTION", "EYES"}
    animate(scene, strip)
    assert keyed(package, obj) == {"happy", "eyeBlink"}
    assert any("turn the head" in problem.message for problem in package.engine.session.problems)
    obj.edtalk.speech_kinds = {"HEAD"}
    with pytest.raises(RuntimeError, match="does not say which of its sliders turn the head"):
        animate(scene, strip)


def test_gaze_is_written_to_sliders_with_such_names(package, scene, strip, obj, fake_engine, write_bank):
    fake_engine()
    banks = {"lip": ("jawOpen", "lip_02"), "pose": ("headYaw",), "exp": ("eyeLookOutLeft", "eyeLookInLeft")}
    package.character.character.set_bank(obj, str(write_bank(banks=banks)))
    obj.edtalk.speech_kinds = {"EYES"}
    animate(scene, strip)
    assert keyed(package, obj) == {"eyeLookOutLeft"}, "the eyes never look to the left"
    assert keys(package, obj, "eyeLookOutLeft")[:, 1].max() == pytest.approx(5 / 30, abs=0.01)


def test_a_muted_strip_and_a_missing_sound_are_reasons(scene, strip, obj, fake_engine, tmp_path):
    fake_engine()
    strip.mute = True
    with pytest.raises(RuntimeError, match="'line' is muted"):
        animate(scene, strip)
    strip.mute = False
    strip.sound.filepath = str(tmp_path / "gone.wav")
    with pytest.raises(RuntimeError, match=r"gone\.wav"):
        animate(scene, strip)


@pytest.mark.slow
def test_the_engine_animates_the_demo_line(package, scene, obj, engine, demo):
    line = package.compat.new_sound(scene, "line", demo / "line.wav", 1, 1)
    line.edtalk_text = "I am so happy that you came. I am terribly sad that you leave."
    assert animate(scene, line) == {"FINISHED"}
    assert {"jawOpen", "headYaw", "headPitch", "eyeBlink", "happy", "sad"} <= keyed(package, obj)
    happy, sad = (keys(package, obj, name) for name in ("happy", "sad"))
    assert happy[happy[:, 1].argmax(), 0] < sad[sad[:, 1].argmax(), 0]
    end = package.compat.right_handle(line)
    assert shown(package, obj, scene, range(1, end), "eyeBlink").max() > 0.7
