"""Capture of movies and images: frames, sliders and values of the keyframes, and errors."""

from __future__ import annotations

import bpy
import numpy as np
import pytest

from tests.panel_layout import Layout
from tests.pumping import pump_until
from tests.strip_material import add_retiming_keys, keys, select, sequencer_context, set_speed

FILM_FPS = 25  # of the fake worker, whose answer in column c is c / 10 + seconds


@pytest.fixture
def strip(package, scene, film):
    return add(package, scene, film, 10)


@pytest.fixture
def options(package):
    return package.capture.capture.Options


def add(package, scene, film, frame):
    strips = package.compat.strip_collection(scene)
    strip = strips.new_movie(name="film", filepath=str(film), channel=1, frame_start=frame)
    select(scene, strip)
    return strip


def capture(package, scene, obj, source, options, **where):
    package.engine.session.wait(package.capture.capture.capture(scene, obj, source, options, **where))


def column(package, obj, name):
    return package.character.files.bank_of(obj).names.index(name)


def at(package, obj, name, frame):
    return package.animation.sampling.sliders_at(obj, [name], frame)[name]


# --- Timing of strips


@pytest.mark.parametrize("fps", [24, 25, 60])
def test_time_map_of_a_strip_with_one_movie_frame_per_scene_frame(package, scene, film, fps):
    scene.render.fps = fps
    clock = package.timeline.footage.time_map(scene, add(package, scene, film, 10))
    assert (clock.start, clock.end) == (10, 60)
    np.testing.assert_allclose(clock.seconds(clock.frames), np.arange(50) / FILM_FPS, atol=1e-9)


@pytest.mark.parametrize("fps", [24, 25, 60])
def test_time_map_of_a_strip_at_the_speed_of_its_movie(package, scene, film, fps):
    scene.render.fps = fps
    strip = add_at_own_speed(package, scene, film, 10)
    clock = package.timeline.footage.time_map(scene, strip)
    assert len(clock.frames) == 2 * fps
    np.testing.assert_allclose(clock.seconds(clock.frames), np.arange(2 * fps) / fps, atol=1e-9)
    package.compat.set_strip_value(strip, "content_trim_start", 10)
    first = package.compat.left_handle(strip)
    assert package.timeline.footage.time_map(scene, strip).seconds(first) == pytest.approx(10 / FILM_FPS)


def add_at_own_speed(package, scene, film, frame):
    """Add a movie strip like the Sequencer's Add menu."""
    package.compat.strip_collection(scene)
    known = bpy.ops.sequencer.movie_strip_add.get_rna_type().properties
    quiet = {"move_strips": False} if "move_strips" in known else {}
    with sequencer_context(bpy.context, scene):
        bpy.ops.sequencer.movie_strip_add(
            filepath=str(film), frame_start=frame, channel=1, sound=False, use_framerate=False,
            adjust_playback_rate=True, **quiet,
        )  # fmt: skip
    (strip,) = package.compat.strips(scene)
    return strip


@pytest.mark.parametrize("own_speed", [False, True])
@pytest.mark.parametrize("change", ["none", "trim", "half", "double", "parts"])
def test_the_time_map_agrees_with_the_frames_that_blender_renders(package, scene, film, tmp_path, own_speed, change):
    scene.render.fps = 15
    strip = (add_at_own_speed if own_speed else add)(package, scene, film, 10)
    if change == "trim":
        package.compat.set_strip_value(strip, "content_trim_start", 13)
    elif change == "parts":
        add_retiming_keys(package, scene, strip, 10, 20)
        strip.retiming_keys[1].timeline_frame += 6
    elif change != "none":
        set_speed(package, scene, strip, 50 if change == "half" else 200)
    clock = package.timeline.footage.time_map(scene, strip)
    frames = clock.frames[:: max(1, len(clock.frames) // 6)].tolist()
    seen = [film_frame_at(scene, frame, tmp_path / "seen.png") for frame in frames]
    expected = np.clip(clock.seconds(frames) * FILM_FPS, 0, 49)
    assert np.abs(seen - expected).max() < 1.5, "Blender shows whole frames, and 4.5 rounds keys to half frames"


def film_frame_at(scene, frame, path):
    """The movie frame that Blender renders at a scene frame, by its brightness."""
    render = scene.render
    render.resolution_x, render.resolution_y, render.resolution_percentage = 64, 32, 100
    render.image_settings.file_format, render.filepath = "PNG", str(path)
    scene.view_settings.view_transform = "Standard"
    scene.frame_set(frame)
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(str(path))
    pixels = np.empty(4 * 64 * 32, np.float32)
    image.pixels.foreach_get(pixels)
    bpy.data.images.remove(image)
    return (pixels[0] - 0.102) / (0.906 - 0.102) * 49


def test_time_map_of_trimmed_and_moved_strips(package, scene, strip):
    scene.render.fps = FILM_FPS
    compat, clock_of = package.compat, package.timeline.footage.time_map
    compat.set_strip_value(strip, "left_handle", 20)
    compat.set_strip_value(strip, "right_handle", 40)
    clock = clock_of(scene, strip)
    assert (clock.start, clock.end) == (20, 40)
    assert clock.seconds(20) == pytest.approx(10 / FILM_FPS)
    compat.set_strip_value(strip, "content_start", 15)
    assert clock.move_to(clock_of(scene, strip)) == 5


def test_time_map_of_retimed_strips(package, scene, film):
    scene.render.fps = FILM_FPS
    slow = add(package, scene, film, 10)
    set_speed(package, scene, slow, 50)
    clock = package.timeline.footage.time_map(scene, slow)
    assert clock.seconds([10, 60, 100]) == pytest.approx([0, 1, 1.8], abs=0.03)
    scene.sequence_editor.strips.remove(slow)
    parts = add(package, scene, film, 10)
    add_retiming_keys(package, scene, parts, 10, 20)
    parts.retiming_keys[1].timeline_frame = 30
    clock = package.timeline.footage.time_map(scene, parts)
    assert clock.seconds([10, 20, 30, 58]) == pytest.approx([0, 0.2, 0.4, 1.9], abs=0.05)


def test_a_meta_strip_limits_the_time_map(package, scene, strip):
    compat = package.compat
    with sequencer_context(bpy.context, scene):
        bpy.ops.sequencer.meta_make()
    (meta,) = scene.sequence_editor.strips
    compat.set_strip_value(meta, "left_handle", 20)
    clock = package.timeline.footage.time_map(scene, meta.strips[0])
    assert (clock.start, clock.end) == (20, 60)
    assert clock.seconds(20) == pytest.approx(10 / FILM_FPS)


# --- Keyframes


def test_every_slider_is_keyed_on_every_frame_of_a_strip(package, scene, strip, obj, fake_engine, options):
    fake_engine()
    scene.render.fps = FILM_FPS
    capture(package, scene, obj, strip, options())
    for name in package.character.files.bank_of(obj).names:
        frames, values = keys(package, obj, name).T
        assert frames.tolist() == list(range(10, 60))
        expected = column(package, obj, name) / 10 + np.arange(50) / FILM_FPS
        np.testing.assert_allclose(values, expected, atol=1e-5)


@pytest.mark.parametrize(("fps", "base"), [(24, 1.0), (24, 1.001), (30, 1.0), (60, 1.0)])
def test_the_motion_keeps_its_timing_at_every_frame_rate(package, scene, film, obj, fake_engine, options, fps, base):
    fake_engine()
    scene.render.fps, scene.render.fps_base = fps, base
    capture(package, scene, obj, film, options(), frame=101)
    frames, values = keys(package, obj).T
    assert frames.tolist() == list(range(101, 101 + round(2 * fps / base)))
    seconds = (frames - 101) * base / fps
    expected = column(package, obj, "jawOpen") / 10 + np.minimum(seconds, 49 / FILM_FPS)
    np.testing.assert_allclose(values, expected, atol=1e-4)


def test_only_frames_between_the_handles_are_captured(package, scene, strip, obj, fake_engine, options):
    fake_engine()
    scene.render.fps = FILM_FPS
    package.compat.set_strip_value(strip, "left_handle", 30)
    package.compat.set_strip_value(strip, "right_handle", 41)
    capture(package, scene, obj, strip, options(banks=("pose",)))
    frames, values = keys(package, obj, "headYaw").T
    assert frames.tolist() == list(range(30, 41))
    np.testing.assert_allclose(values - values[0], np.arange(11) / FILM_FPS, atol=1e-5)
    assert values[0] == pytest.approx(column(package, obj, "headYaw") / 10 + 20 / FILM_FPS, abs=1e-5)


@pytest.mark.parametrize("banks", [("lip",), ("pose",), ("exp",), ("pose", "exp")])
def test_banks_can_be_captured_separately(package, scene, strip, obj, fake_engine, options, banks):
    fake_engine()
    before = {name: obj.edtalk[name] for name in package.character.sliders.channel_names(obj)}
    capture(package, scene, obj, strip, options(banks=banks))
    bank = package.character.files.bank_of(obj)
    expected = {package.character.sliders.data_path(entry.name) for entry in bank.coefficients if entry.bank in banks}
    assert {curve.data_path for curve in package.compat.fcurves(obj)} == expected
    assert all(obj.edtalk[name] == value for name, value in before.items())


def test_only_keys_in_the_captured_range_are_replaced(package, scene, strip, obj, fake_engine, options):
    fake_engine()
    for frame in (5, 9, 9.5, 10, 33.3, 59, 59.5, 200):
        package.animation.keys.insert_keys(obj, {"headYaw": 7.0, "happy": 0.5, "jawOpen": 7.0}, frame)
    capture(package, scene, obj, strip, options(banks=("pose",)))
    capture(package, scene, obj, strip, options(banks=("pose",)))
    frames, values = keys(package, obj, "headYaw").T
    assert frames.tolist() == [5, 9, 9.5, *range(10, 60), 59.5, 200]
    assert values[frames < 10].tolist() == values[frames > 59].tolist()[:1] * 3 == [7, 7, 7]
    assert (values[3:-2] != 7).all()
    assert len(keys(package, obj, "happy")) == len(keys(package, obj, "jawOpen")) == 8


def test_relative_capture_adds_offsets_to_the_characters_rest(package, scene, strip, obj, fake_engine, options):
    fake_engine()
    scene.render.fps = FILM_FPS
    for gain in (1.0, 0.5, 2.0):
        capture(package, scene, obj, strip, options(relative=True, gain=gain))
        rest = package.character.sliders.rest_values(obj)
        for name in ("jawOpen", "headYaw", "eyeBlink"):
            values = keys(package, obj, name)[:, 1]
            np.testing.assert_allclose(values, rest[name] + gain * np.arange(50) / FILM_FPS, atol=1e-5)


def test_relative_capture_with_a_given_rest_frame(package, scene, strip, obj, fake_engine, options):
    fake_engine()
    scene.render.fps = FILM_FPS
    capture(package, scene, obj, strip, options(relative=True, rest_frame=35))
    rest = package.character.sliders.rest_values(obj)["headYaw"]
    frames, values = keys(package, obj, "headYaw").T
    np.testing.assert_allclose(values, rest + (frames - 35) / FILM_FPS, atol=1e-5)
    for frame in (9, 60):
        with pytest.raises(Exception, match="shown from frame 10 to 59"):
            package.capture.capture.capture(scene, obj, strip, options(relative=True, rest_frame=frame))


def test_absolute_capture_applies_gain_around_the_characters_rest(package, scene, strip, obj, fake_engine, options):
    fake_engine()
    package.engine.session.wait(package.character.rest_pose.measure(obj))
    capture(package, scene, obj, strip, options())
    once, rest = keys(package, obj, "headYaw")[:, 1], package.character.sliders.rest_values(obj)["headYaw"]
    capture(package, scene, obj, strip, options(gain=1.5))
    np.testing.assert_allclose(keys(package, obj, "headYaw")[:, 1], rest + 1.5 * (once - rest), atol=1e-5)


def test_smoothing_reduces_jitter(package, scene, obj, options):
    rng = np.random.default_rng(3)
    rough = (0.3 + 0.01 * rng.standard_normal((50, 1))).astype(np.float32)
    rows = package.capture.capture.Rows(("headYaw",), rough, FILM_FPS, 0.0)
    scene.render.fps = FILM_FPS
    clock = package.timeline.timemap.TimeMap.of_strip(FILM_FPS, 1, 51, 1)
    package.capture.capture.write(scene, obj, rows, clock, clock.frames, options())
    assert np.array_equal(keys(package, obj, "headYaw")[:, 1], rough[:, 0])
    package.capture.capture.write(scene, obj, rows, clock, clock.frames, options(smooth=1.0))
    assert keys(package, obj, "headYaw")[:, 1].std() < 0.5 * rough.std()


def test_simplified_curves_stay_within_the_error(package, scene, strip, obj, fake_engine, options):
    fake_engine()
    capture(package, scene, obj, strip, options())
    dense = keys(package, obj)
    capture(package, scene, obj, strip, options(simplify=0.02))
    assert len(keys(package, obj)) < 0.2 * len(dense)
    assert max(abs(at(package, obj, "jawOpen", frame) - value) for frame, value in dense) < 0.021


@pytest.mark.parametrize("nla", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_mouth_blend_mixes_existing_keys_and_capture(package, scene, strip, obj, fake_engine, options, share, nla):
    fake_engine()
    scene.render.fps = FILM_FPS
    frames = np.arange(5, 71)
    spoken = 0.5 + 0.4 * np.sin(frames)
    package.animation.keys.write_curves(obj, {"jawOpen": spoken}, frames, nla=nla, strip_name="line")
    if share == 0:
        with pytest.raises(Exception, match="nothing to capture"):
            package.capture.capture.capture(scene, obj, strip, options(banks=("lip",), video_mouth=share))
    capture(package, scene, obj, strip, options(banks=("lip", "pose"), video_mouth=share))
    inside = slice(5, 55)
    recorded = column(package, obj, "jawOpen") / 10 + np.arange(50) / FILM_FPS
    expected = (1 - share) * spoken[inside] + share * recorded
    if share == 0 and nla:
        assert len(keys(package, obj)) == 0
        return
    found = [at(package, obj, "jawOpen", frame) for frame in range(10, 60)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(keys(package, obj, "headYaw")) == 50
    if not nla:
        assert [at(package, obj, "jawOpen", frame) for frame in (5, 9, 60, 70)] == pytest.approx(spoken[[0, 4, 55, 65]])


# --- Matching a single frame


def test_match_face_keys_the_current_frame(package, scene, strip, obj, fake_engine):
    fake_engine()
    scene.render.fps = FILM_FPS
    package.capture.capture.settings(scene).use_lip = False
    package.animation.keys.insert_keys(obj, {"jawOpen": 0.4}, 1)
    scene.frame_set(22)
    assert bpy.ops.edtalk.match_face() == {"FINISHED"}
    for name in ("headYaw", "eyeBlink"):
        expected = column(package, obj, name) / 10 + 12 / FILM_FPS
        np.testing.assert_allclose(keys(package, obj, name), [[22, expected]], atol=1e-5)
        assert obj.edtalk[name] == pytest.approx(expected, abs=1e-5)
    assert keys(package, obj).tolist() == [[1, pytest.approx(0.4)]]


def test_match_image_sets_the_pose_with_or_without_keys(package, scene, demo, obj, fake_engine):
    fake_engine()
    picture = str(demo / "portrait_1.png")
    scene.frame_set(7)
    assert bpy.ops.edtalk.match_picture(filepath=picture, key=False) == {"FINISHED"}
    assert obj.edtalk["headYaw"] == pytest.approx(column(package, obj, "headYaw") / 10)
    assert not package.compat.fcurves(obj)
    bpy.ops.edtalk.match_picture(filepath=picture)
    assert keys(package, obj, "headYaw")[:, 0].tolist() == [7]


def test_match_face_uses_the_image_at_the_current_frame(package, scene, demo, obj, fake_engine):
    fake_engine()
    strip = package.compat.new_image(scene, "stills", demo / "portrait_1.png", 1, 1)
    strip.elements.append("portrait_2.png")
    for frame, name in ((1, "portrait_1.png"), (2, "portrait_2.png")):
        assert package.timeline.footage.picture_path(strip, frame).name == name
    select(scene, strip)
    scene.frame_set(1)
    assert bpy.ops.edtalk.match_face() == {"FINISHED"}
    assert len(keys(package, obj, "headYaw")) == 1


def test_the_pose_is_keyed_at_the_frame_of_the_request(package, scene, strip, obj, fake_engine, options):
    fake_engine()
    scene.frame_set(20)
    task = package.capture.capture.match(scene, obj, strip, options())
    before = obj.edtalk["headYaw"]
    scene.frame_set(40)
    package.engine.session.wait(task)
    assert keys(package, obj, "headYaw")[:, 0].tolist() == [20]
    assert obj.edtalk["headYaw"] == before, "the current frame has changed"


# --- Changes during a capture


def test_keys_are_placed_where_the_strip_was_moved(package, scene, strip, obj, fake_engine, options):
    fake_engine()
    task = package.capture.capture.capture(scene, obj, strip, options())
    package.compat.set_strip_value(strip, "content_start", 110)
    package.engine.session.wait(task)
    assert keys(package, obj)[[0, -1], 0].tolist() == [110, 159]


@pytest.mark.parametrize("gone", ["strip", "character", "bank"])
def test_a_deleted_strip_character_or_bank_is_no_error(
    package, scene, strip, obj, fake_engine, options, write_bank, gone
):
    fake_engine()
    task = package.capture.capture.capture(scene, obj, strip, options())
    if gone == "strip":
        scene.sequence_editor.strips.remove(strip)
    elif gone == "character":
        bpy.data.objects.remove(obj)
    else:
        package.character.character.set_bank(obj, str(write_bank()))
    package.engine.session.wait(task)
    assert task.error is None
    if gone == "strip":
        assert len(keys(package, obj)) == 50, "the capture is written anyway"


def test_a_capture_has_progress_and_can_be_cancelled(package, scene, strip, obj, fake_engine, options, hold):
    fake_engine("--hold", "capture", 20, hold)
    package.engine.session.wait(package.character.rest_pose.measure(obj))
    task = package.capture.capture.capture(scene, obj, strip, options())
    pump_until(package, lambda: task.fraction)
    assert task.fraction < 1
    assert task.label == "Capture 'film'"
    task.cancel()
    package.engine.session.wait(task)
    assert task.cancelled
    assert len(keys(package, obj)) == 0


def test_a_capture_survives_a_crash_of_the_engine(package, scene, strip, obj, fake_engine, tmp_path):
    fake_engine("--die-after", 3, "--once", tmp_path / "once")
    assert bpy.ops.edtalk.capture() == {"FINISHED"}
    assert len(keys(package, obj)) == 50


# --- Disabled operators and errors


@pytest.mark.parametrize("name", ["capture", "capture_file", "match_face", "match_picture", "name_sliders", "lip_sync"])
def test_an_operator_has_one_undo_step(package, name):
    """The task pushes it with its result; one of Blender's own would come before it, with nothing to undo."""
    assert "UNDO" not in getattr(getattr(bpy.types, f"EDTALK_OT_{name}"), "bl_options", ())


def test_disabled_operators_give_a_reason(package, scene, film):
    reason = package.capture.operators.EDTALK_OT_capture.disabled_reason
    match_reason = package.capture.operators.EDTALK_OT_match_face.disabled_reason
    assert "Add a character" in reason(bpy.context)
    obj = package.character.character.create(scene, name="Anna")
    assert "Select a movie strip" in reason(bpy.context)
    assert "at the current frame" in match_reason(bpy.context)
    add(package, scene, film, 10)
    assert reason(bpy.context) == ""
    assert "at the current frame" in match_reason(bpy.context)
    scene.frame_set(10)
    assert match_reason(bpy.context) == ""
    own = package.capture.capture.settings(scene)
    own.use_lip = own.use_pose = own.use_exp = False
    assert reason(bpy.context) == "", "the gaze can be captured alone"
    own.use_eye = False
    assert "Enable Mouth" in reason(bpy.context)
    own.use_lip, own.video_mouth = True, 0.0
    assert "Enable Mouth" in reason(bpy.context)
    package.character.character.create(scene, name="Ben")
    bpy.context.view_layer.objects.active = None
    assert "Select a character" in reason(bpy.context)
    assert obj is not None


def test_missing_and_unreadable_movies_are_errors(package, scene, strip, obj, film, tmp_path):
    with pytest.raises(RuntimeError, match=r"nowhere\.mp4 does not exist"):
        bpy.ops.edtalk.capture_file(filepath=str(tmp_path / "nowhere.mp4"))
    strip.filepath = str(tmp_path / "gone.mp4")
    with pytest.raises(RuntimeError, match=r"'film' is missing: .*gone\.mp4"):
        bpy.ops.edtalk.capture()
    (tmp_path / "gone.mp4").write_text("no film")
    with pytest.raises(
        RuntimeError,
        match=r"gone\.mp4 cannot be read: expected a movie .*, found a text file that begins 'no film'",
    ):
        bpy.ops.edtalk.capture()
    strip.filepath = str(film)
    strip.use_reverse_frames = True
    with pytest.raises(RuntimeError, match="is reversed"):
        bpy.ops.edtalk.capture()


def test_an_overridden_capture_is_reported_with_a_fix(package, scene, strip, obj, fake_engine, options):
    fake_engine()
    capture(package, scene, obj, strip, options())
    package.engine.session.dismiss()
    obj.animation_data.nla_tracks.new().is_solo = True
    capture(package, scene, obj, strip, options())
    problem = package.engine.session.problems[-1]
    assert problem.fix == "edtalk.reveal_animation"
    assert bpy.ops.edtalk.reveal_animation(**problem.options) == {"FINISHED"}


def test_the_scenes_settings_become_options(package, scene, options):
    own = package.capture.capture.settings(scene)
    assert package.capture.capture.options_of(scene) == options(smooth=0.25)
    own.use_lip, own.relative, own.rest_at, own.rest_frame, own.gain = False, True, "FRAME", 12, 0.5
    own.crop_mode, own.crop = "box", (1, 2, 64)
    found = package.capture.capture.options_of(scene)
    assert (found.banks, found.relative, found.rest_frame, found.gain) == (("pose", "exp", "eye"), True, 12, 0.5)
    assert found.crop == (1, 2, 64)


def test_the_panel_draws_only_settings_that_apply(package, scene):
    def props() -> list[str]:
        layout = Layout()
        package.panels.capture.draw_capture(layout, bpy.context)
        return layout.texts("prop")

    assert not props(), "there is no character"
    package.character.character.create(scene, name="Anna")
    assert "video_mouth" in props()
    assert not {"rest_at", "rest_frame", "crop"} & set(props())
    settings = package.capture.capture.settings(scene)
    settings.use_lip, settings.relative, settings.rest_at, settings.crop_mode = False, True, "FRAME", "box"
    assert "video_mouth" not in props()
    assert {"rest_at", "rest_frame", "crop"} <= set(props())


# --- With the real engine


def test_a_real_movie_with_the_real_engine(package, scene, obj, engine, media, options):
    """Half a second of a real recording: one key per frame, starting at rest."""
    film = media / "pose_source1.mp4"
    strips = package.compat.strip_collection(scene)
    strip = strips.new_movie(name="take", filepath=str(film), channel=1, frame_start=1)
    package.compat.set_strip_value(strip, "left_handle", 26)
    package.compat.set_strip_value(strip, "right_handle", 38)
    capture(package, scene, obj, strip, options(relative=True))
    rest = package.character.sliders.rest_values(obj)
    for name in package.character.files.bank_of(obj).names:
        frames, values = keys(package, obj, name).T
        assert frames.tolist() == list(range(26, 38))
        assert values[0] == pytest.approx(rest[name], abs=1e-5)
    scene.frame_set(30)
    package.engine.session.wait(package.capture.capture.match(scene, obj, strip, options(banks=("pose",))))
    assert len(keys(package, obj, "headYaw")) == 12


def test_the_request_contains_the_time_of_the_rest_frame(package, scene, strip, obj, film, fake_engine, options):
    client = fake_engine()
    requests, request = [], client.request

    client.request = lambda one, **more: requests.append(one) or request(one, **more)
    scene.render.fps = FILM_FPS
    capture(package, scene, obj, strip, options(relative=True, rest_frame=35))
    capture(package, scene, obj, str(film), options(relative=True, rest_frame=35), frame=10)
    capture(package, scene, obj, strip, options(relative=True))
    capture(package, scene, obj, strip, options(rest_frame=35))  # only applies to relative capture
    assert [one.rest for one in requests if one.kind == "capture"] == [1.0, 1.0, None, None]


def test_the_request_contains_the_face_to_use(package, scene, strip, obj, fake_engine, options):
    client = fake_engine()
    package.capture.capture.settings(scene).which = -1
    requests, request = [], client.request
    client.request = lambda one, **more: requests.append(one) or request(one, **more)
    capture(package, scene, obj, strip, package.capture.capture.options_of(scene))
    capture(package, scene, obj, strip, options(banks=("lip",)))
    assert [one.which for one in requests if one.kind == "capture"] == [-1, None]
