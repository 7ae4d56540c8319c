"""Strips: time maps, audio, characters and channels."""

import aud
import bpy
import numpy as np
import pytest

from tests.blender.test_dubbing import FPS, movie, saved  # noqa: F401 - fixtures
from tests.strip_material import (
    CONTAINERS,
    RATE,
    add_retiming_keys,
    lag,
    noise,
    sequencer_context,
    set_speed,
    write_sound,
)

RATES = [(24, 1.001), (24, 1.0), (25, 1.0), (30, 1.001), (30, 1.0), (50, 1.0), (60, 1.0)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A WAV file with ten seconds of noise."""
    path = tmp_path_factory.mktemp("sounds") / "line.wav"
    return write_sound(path, noise(10.0))


@pytest.fixture
def strip(package, scene, sound):
    return package.compat.new_sound(scene, "line", sound, 1, 10)


def is_silent(package, scene, strip):
    return package.timeline.audio.is_silent(scene, strip, package.timeline.sequencer.time_map(scene, strip))


def heard(package, scene, strip):
    return package.timeline.audio.read(scene, strip, package.timeline.sequencer.time_map(scene, strip))


# --- Time


@pytest.mark.parametrize(("fps", "base"), RATES)
def test_seconds_run_at_the_scenes_rate(package, scene, sound, fps, base):
    scene.render.fps, scene.render.fps_base = fps, base
    clock = package.timeline.sequencer.time_map(scene, package.compat.new_sound(scene, "line", sound, 1, 10))
    assert clock.seconds(10) == 0
    assert clock.seconds(10 + 5 * fps) == pytest.approx(5 * base, abs=1e-6)
    assert len(clock.frames) == pytest.approx(10 * fps / base, abs=2)


def test_moved_trimmed_slipped_and_delayed_strips(package, scene, strip):
    compat, clock_of = package.compat, package.timeline.sequencer.time_map
    compat.set_strip_value(strip, "left_handle", 22)
    compat.set_strip_value(strip, "right_handle", 70)
    clock = clock_of(scene, strip)
    assert (clock.start, clock.end) == (22, 70)
    assert clock.seconds(22) == pytest.approx(12 / 24)
    compat.set_strip_value(strip, "content_start", 15)
    assert clock.move_to(clock_of(scene, strip)) == 5
    strip.sound_offset = 0.25
    assert clock_of(scene, strip).seconds(27) == pytest.approx(12 / 24 - 0.25)


def test_content_cut_at_its_start_is_skipped(package, scene, strip):
    package.compat.set_strip_value(strip, "content_trim_start", 12)
    assert package.timeline.sequencer.time_map(scene, strip).seconds(
        package.compat.left_handle(strip)
    ) == pytest.approx(0.5)


def test_a_strip_at_half_speed(package, scene, strip):
    set_speed(package, scene, strip, 50)
    clock = package.timeline.sequencer.time_map(scene, strip)
    assert clock.speed == pytest.approx(0.5, rel=2e-3)
    assert clock.seconds(10 + 96) == pytest.approx(2.0, abs=0.02)
    assert package.timeline.sequencer.retiming_note(scene, strip) == ""


def test_a_strip_retimed_in_parts(package, scene, strip):
    add_retiming_keys(package, scene, strip, 10, 58)
    assert len(strip.retiming_keys) == 3
    assert package.timeline.sequencer.time_map(scene, strip).seconds([34, 58, 130]) == pytest.approx(
        [1, 2, 5], abs=0.01
    )
    strip.retiming_keys[1].timeline_frame = 106  # the first two seconds take four
    clock = package.timeline.sequencer.time_map(scene, strip)
    assert clock.seconds([58, 106]) == pytest.approx([1, 2], abs=0.01)
    assert package.timeline.sequencer.retiming_note(scene, strip) == ""


def test_an_unreadable_retiming_gives_a_note(package, scene, strip, monkeypatch):
    add_retiming_keys(package, scene, strip, 10, 58)
    strip.retiming_keys[1].timeline_frame = 106
    monkeypatch.setattr(package.compat, "_retiming_fraction", lambda key: -1.0)
    assert "cannot be read" in package.timeline.sequencer.retiming_note(scene, strip)
    assert package.timeline.sequencer.time_map(scene, strip).speed == pytest.approx(1.0, rel=0.01)


def test_a_metastrip_limits_its_content(package, scene, strip):
    strip.select = True
    with sequencer_context(bpy.context, scene):
        bpy.ops.sequencer.meta_make()
    (meta,) = scene.sequence_editor.strips
    package.compat.set_strip_value(meta, "left_handle", 30)
    package.compat.set_strip_value(meta, "right_handle", 60)
    (inside,) = meta.strips
    clock = package.timeline.sequencer.time_map(scene, inside)
    assert (clock.start, clock.end) == (30, 60)
    assert clock.seconds(30) == pytest.approx(20 / 24)


def test_a_time_map_is_stored_on_the_strip(package, scene, strip):
    sequencer = package.timeline.sequencer
    assert sequencer.remembered_time(strip) is None
    sequencer.remember_time(strip, sequencer.time_map(scene, strip))
    assert sequencer.remembered_time(strip) == sequencer.time_map(scene, strip)


# --- Audio


def test_audio_is_cut_at_the_handles_to_the_sample(package, scene, strip):
    package.compat.set_strip_value(strip, "left_handle", 34)
    package.compat.set_strip_value(strip, "right_handle", 82)
    sound = heard(package, scene, strip)
    truth = noise(10.0)
    assert sound.start == 1.0
    assert sound.rate == RATE
    assert len(sound.samples) == 2 * RATE
    assert np.abs(sound.samples - truth[RATE : 3 * RATE]).max() < 1e-4


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_all_formats_are_cut_to_the_sample(package, scene, tmp_path, suffix):
    truth = noise(4.0, 48_000)
    path = write_sound(tmp_path / f"line.{suffix}", np.stack([truth, truth], axis=1), 48_000)
    strip = package.compat.new_sound(scene, "line", path, 1, 1)
    package.compat.set_strip_value(strip, "left_handle", 31)
    sound = heard(package, scene, strip)
    whole = aud.Sound(str(path)).data()[:, 0]  # AAC in Matroska starts with encoder delay
    assert sound.rate == 48_000
    assert abs(lag(sound.samples, whole, round(sound.start * sound.rate))) <= 1
    assert np.abs(sound.samples[4000:8000]).max() < 0.6, "channels are averaged, not added"


def test_channels_are_averaged(package, scene, tmp_path):
    truth = noise(1.0)
    path = write_sound(tmp_path / "left.wav", np.stack([truth, 0 * truth], axis=1))
    sound = heard(package, scene, package.compat.new_sound(scene, "left", path, 1, 1))
    assert np.abs(sound.samples[: len(truth)] - 0.5 * truth).max() < 1e-3


@pytest.mark.parametrize("right", [-1.0, -0.8])
def test_an_inverted_channel_does_not_silence_the_other(package, scene, tmp_path, right):
    left = noise(1.0)
    path = write_sound(tmp_path / "line.wav", np.stack([left, right * left], axis=1))
    samples = heard(package, scene, package.compat.new_sound(scene, "line", path, 1, 1)).samples
    np.testing.assert_allclose(samples[: len(left)], left, atol=1e-3)


def test_a_packed_sound_needs_no_file(package, scene, tmp_path):
    path = write_sound(tmp_path / "line.wav", noise(2.0))
    strip = package.compat.new_sound(scene, "line", path, 1, 1)
    strip.sound.pack()
    path.unlink()
    assert package.timeline.audio.problem(strip) == ""
    assert len(heard(package, scene, strip).samples) >= 2 * RATE - 1000


def test_a_missing_sound_is_reported(addon, package, scene, tmp_path):
    path = write_sound(tmp_path / "line.wav", noise(2.0))
    strip = package.compat.new_sound(scene, "line", path, 1, 1)
    path.unlink()
    assert str(path) in package.timeline.audio.problem(strip)
    with pytest.raises(addon.inference.contract.errors.EDTalkError, match=r"line\.wav.*Find Missing Files"):
        heard(package, scene, strip)


def test_an_unreadable_sound_is_reported(addon, package, scene, tmp_path):
    path = tmp_path / "line.wav"
    path.write_text("not a sound")
    strip = package.compat.new_sound(scene, "line", path, 1, 1)
    with pytest.raises(
        addon.inference.contract.errors.EDTalkError, match=r"line\.wav.*cannot be read: .*, found a text file"
    ):
        heard(package, scene, strip)


def test_a_strip_beyond_the_end_of_its_sound_is_an_error(addon, package, scene, strip):
    package.compat.set_strip_value(strip, "right_handle", 500)
    package.compat.set_strip_value(strip, "left_handle", 400)
    with pytest.raises(addon.inference.contract.errors.EDTalkError, match="contains no audio from"):
        heard(package, scene, strip)


def test_a_long_sound_is_sent_at_a_lower_rate(package, scene, tmp_path, monkeypatch):
    path = write_sound(tmp_path / "line.wav", noise(4.0, 48_000), 48_000)
    strip = package.compat.new_sound(scene, "line", path, 1, 1)
    monkeypatch.setattr(package.timeline.audio, "MAX_PAYLOAD", 2 * 4 * 48_000)
    sound = heard(package, scene, strip)
    assert sound.rate == 16_000
    assert len(sound.samples) == pytest.approx(4 * 16_000, abs=400)


def test_a_constant_volume_is_ignored_and_a_fade_is_applied(package, scene, strip):
    loud = heard(package, scene, strip).samples
    strip.volume = 0.1
    assert np.array_equal(heard(package, scene, strip).samples, loud)
    for frame, volume in ((10, 1.0), (130, 1.0), (131, 0.0)):
        strip.volume = volume
        strip.keyframe_insert("volume", frame=frame)
    samples = heard(package, scene, strip).samples
    assert np.allclose(samples[: 4 * RATE], loud[: 4 * RATE], atol=1e-3)
    assert np.abs(samples[6 * RATE :]).max() < 1e-6
    assert not is_silent(package, scene, strip)


def test_muted_strips_and_strips_at_volume_0_are_silent(package, scene, strip):
    assert not is_silent(package, scene, strip)
    strip.volume = 0.0
    assert is_silent(package, scene, strip)
    strip.volume, strip.mute = 1.0, True
    assert is_silent(package, scene, strip)


def in_meta(scene, *strips):
    """Put strips into a new meta strip."""
    for other in scene.sequence_editor.strips:
        other.select = other in strips
    with sequencer_context(bpy.context, scene):
        bpy.ops.sequencer.meta_make()
    return strips[0].parent_meta()


@pytest.mark.parametrize("percent", [50, 200])
def test_a_strip_in_a_retimed_meta_strip_is_refused(package, addon, scene, strip, obj, percent):
    outer = in_meta(scene, in_meta(scene, strip))
    set_speed(package, scene, outer, percent)
    package.compat.set_strip_value(outer, "left_handle", 15)
    assert package.timeline.sequencer.retimed_meta(strip) == outer
    assert outer.name in package.timeline.sequencer.retiming_note(scene, strip)
    with pytest.raises(addon.inference.contract.errors.EDTalkError, match="retiming"):
        package.lipsync.lipsync.lip_sync(scene, strip, obj)
    assert not package.compat.fcurves(obj)


def test_moved_and_trimmed_meta_strips_are_not_retimed(package, scene, strip):
    outer = in_meta(scene, in_meta(scene, strip))
    package.compat.set_strip_value(outer, "content_start", 50)
    package.compat.set_strip_value(outer, "left_handle", 60)
    package.compat.set_strip_value(outer, "right_handle", 100)
    package.compat.set_strip_value(strip, "left_handle", package.compat.left_handle(strip) + 5)
    assert package.timeline.sequencer.retimed_meta(strip) is None
    assert package.timeline.sequencer.retiming_note(scene, strip) == ""


def test_strips_in_muted_channels_and_meta_strips_are_silent(package, scene, strip):
    channel = scene.sequence_editor.channels[strip.channel]
    channel.mute = True
    assert is_silent(package, scene, strip)
    channel.mute = False
    inner = in_meta(scene, strip)
    outer = in_meta(scene, inner)
    assert not is_silent(package, scene, strip)
    places = [
        inner,
        outer,
        inner.channels[strip.channel],
        outer.channels[inner.channel],
        scene.sequence_editor.channels[outer.channel],
    ]
    for place in places:
        place.mute = True
        assert is_silent(package, scene, strip)
        place.mute = False
    assert not is_silent(package, scene, strip)


# --- Characters


def test_strips_are_found_by_identity_after_renaming(package, scene, strip, obj):
    sequencer = package.timeline.sequencer
    sequencer.assign(strip, obj)
    own = sequencer.identity(strip)
    strip.name, obj.name = "another", "somebody"
    assert sequencer.find(scene, own) == strip
    assert sequencer.speaker(strip) == obj
    assert sequencer.dialogue(scene, obj) == [strip]
    sequencer.assign(strip, None)
    assert sequencer.speaker(strip) is None
    assert sequencer.find(scene, "") is None


def test_copies_of_a_strip_get_an_identity_of_their_own(package, scene, strip, sound, obj):
    sequencer = package.timeline.sequencer
    sequencer.assign(strip, obj)
    sequencer.remember_time(strip, sequencer.time_map(scene, strip))
    copy = package.compat.new_sound(scene, "copy", sound, 2, 100)
    for name in (sequencer.ID, sequencer.CHARACTER, sequencer.TIME):
        copy[name] = strip[name]
    own = strip[sequencer.ID]
    sequencer.ensure_unique_ids(scene)
    assert strip[sequencer.ID] == own, "the strip that has not moved is the original"
    assert copy[sequencer.ID] != own
    assert sequencer.remembered_time(copy) is None
    assert sequencer.speaker(copy) == obj


def test_the_speaker_of_new_strips_is_the_active_or_the_only_character(package, scene, obj):
    sequencer = package.timeline.sequencer
    assert sequencer.default_speaker(bpy.context, scene) == obj
    bpy.context.view_layer.objects.active = None
    assert sequencer.default_speaker(bpy.context, scene) == obj
    package.character.character.create(scene, name="Ben")
    assert sequencer.default_speaker(bpy.context, scene) is None


# --- Channels


def test_a_free_channel_is_found_above(package, scene, strip, sound):
    sequencer = package.timeline.sequencer
    package.compat.new_sound(scene, "music", sound, 2, 200)
    assert sequencer.free_channel(scene, 10, 100) == 2
    assert sequencer.free_channel(scene, 10, 300) == 3
    assert sequencer.free_channel(scene, 10, 100, above=5) == 6
    assert not sequencer.is_covered(scene, strip)


def test_no_free_channel_is_an_error(addon, package, scene, sound):
    for channel in range(1, 129):
        package.compat.new_sound(scene, "line", sound, channel, 1)
    with pytest.raises(addon.inference.contract.errors.EDTalkError, match="No channel above 0 is free"):
        package.timeline.sequencer.free_channel(scene, 10, 20)


def test_a_sound_strip_gives_no_frame_rate_note(package, scene, strip):
    scene.render.fps = 30
    assert package.timeline.sequencer.frame_rate_note(scene, strip) == ""
    assert package.timeline.sequencer.time_map(scene, strip).end == pytest.approx(10 + 10 * 30, abs=2)


def test_a_movie_with_another_frame_rate_gives_a_note(package, scene, tmp_path):
    path = tmp_path / "film.mp4"
    scene.render.fps, scene.frame_end = 25, 3
    scene.render.resolution_x = scene.render.resolution_y = 64
    colour = package.compat.strip_collection(scene).new_effect(
        name="colour", type="COLOR", channel=1, frame_start=1,
        **({"frame_end": 4} if bpy.app.version < (5, 0) else {"length": 3}),
    )  # fmt: skip
    with package.compat.video_output(scene, path):
        bpy.ops.render.render(animation=True)
    package.compat.strip_collection(scene).remove(colour)
    strip = package.compat.strip_collection(scene).new_movie(name="film", filepath=str(path), channel=1, frame_start=1)
    assert package.timeline.sequencer.frame_rate_note(scene, strip) == ""
    scene.render.fps = 24
    assert "The file has 25 fps, the scene 24" in package.timeline.sequencer.frame_rate_note(scene, strip)


@pytest.mark.parametrize("in_edited_scene", [True, False])
def test_a_strip_gets_many_files_at_once_and_nothing_else_changes(package, scene, tmp_path, in_edited_scene):
    where = scene if in_edited_scene else bpy.data.scenes.new("other")
    strip = package.compat.new_image(where, "a", tmp_path / "a.png", 1, 5)
    other = package.compat.new_image(where, "b", tmp_path / "a.png", 1, 9)
    where.sequence_editor.active_strip = other
    strip.directory = "//frames/"
    names = [f"{number:020x}.png" for number in range(2000)]
    package.compat.set_files(strip, names)
    assert [one.filename for one in strip.elements] == names
    assert [one.filename for one in other.elements] == ["a.png"]
    assert package.compat.content_start(strip) == 5
    assert strip.directory == "//frames/"
    assert where.sequence_editor.active_strip == other


def test_the_frame_rate_of_a_movie_is_asked_once_and_never_during_a_render(package, movie, monkeypatch):  # noqa: F811 - the fixture
    """Blender opens the file each time, and hangs if a render reads it meanwhile."""
    sequencer = package.timeline.sequencer
    sequencer._movie_rates.clear()
    asked = []

    class Strip:
        filepath, id_data = movie.filepath, movie.id_data
        elements = movie.elements

        @property
        def fps(self) -> float:
            asked.append(1)
            return float(movie.fps)

    monkeypatch.setattr(sequencer, "is_blender_rendering", lambda: True)
    assert sequencer.movie_fps(Strip()) == FPS
    assert asked == []
    monkeypatch.setattr(sequencer, "is_blender_rendering", lambda: False)
    assert [sequencer.movie_fps(Strip()) for _ in range(3)] == [FPS] * 3
    assert len(asked) == 1
    Strip.filepath = "//missing.mp4"
    assert sequencer.movie_fps(Strip()) == 0.0
