"""Dub Movie: the character, the movie frames that are used, the face strip, and later changes."""

import json
import shutil
from pathlib import Path

import bpy
import numpy as np
import pytest

from tests.blender.test_capture import add_at_own_speed
from tests.picture_material import read, render, write_png
from tests.pumping import pump_until
from tests.strip_material import noise, select, sequencer_context, set_speed, write_sound

pytestmark = pytest.mark.slow

FPS, FRAMES, WIDTH, HEIGHT = 25, 50, 640, 360  # of `film`, as the fake worker has it too


@pytest.fixture
def saved(scene, tmp_path):
    scene.render.fps, scene.frame_start, scene.frame_end = FPS, 1, 100
    scene.render.resolution_x, scene.render.resolution_y = WIDTH, HEIGHT
    scene.render.compositor_device = "CPU"
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    return tmp_path


@pytest.fixture
def movie(package, scene, saved, film):
    """The movie strip, starting at frame 10 and selected."""
    return place(package, scene, film, 10)


def place(package, scene, film, frame, channel=1):
    strip = package.compat.new_movie(scene, film.stem, film, channel, frame)
    select(scene, strip)
    return strip


def dub(package, scene):
    """Dub the selection; returns the character and its face strips."""
    assert bpy.ops.edtalk.dub_movie() == {"FINISHED"}
    (obj,) = package.character.character.characters(scene)
    return obj, package.timeline.sequencer.faces(scene, obj)


def shot_of(addon, strip):
    return addon.inference.contract.shot.Shot.read(bpy.path.abspath(strip["edtalk_shot"]))


def ends(package, strip):
    return package.compat.left_handle(strip), package.compat.right_handle(strip)


def jaw(package, obj, value, frame):
    package.animation.keys.insert_keys(obj, {"jawOpen": value}, frame)


# --- One movie


def test_dubbing_a_movie_creates_a_character_and_a_strip_above(package, addon, scene, movie, fake_engine):
    fake_engine()
    before = {name: movie.transform.path_resolve(name) for name in ("scale_x", "offset_x", "rotation")}
    obj, (face,) = dub(package, scene)
    assert obj.name == "walk"
    assert (obj.edtalk.layer, obj.edtalk.mask) == ("plate", "mouth")
    assert ends(package, face) == ends(package, movie) == (10, 60)
    assert face.channel > movie.channel
    assert (face.blend_type, face.alpha_mode) == ("ALPHA_OVER", "STRAIGHT")
    assert package.render.face_strip.waiting_frames(face) == 0
    assert before == {name: movie.transform.path_resolve(name) for name in before}, "the plate is unchanged"
    shot = shot_of(addon, face)
    np.testing.assert_allclose(shot.plate.times, np.arange(FRAMES) / FPS)
    np.testing.assert_allclose(shot.plate.track[:, 0], 100 + np.arange(FRAMES))
    assert (shot.layer, shot.mask, shot.portrait) == ("plate", "mouth", None)


def test_the_portrait_is_the_first_frame_with_a_face(package, scene, movie, fake_engine):
    fake_engine()
    obj, _faces = dub(package, scene)
    image = obj.edtalk.portrait_image
    assert tuple(image.size) == (WIDTH, HEIGHT)
    assert image.packed_file is not None, "the portrait is saved in the .blend"
    assert package.character.rest_pose.is_known(obj)


def test_the_selected_sounds_are_lip_synced(package, scene, movie, fake_engine, tmp_path):
    fake_engine()
    sound = package.compat.new_sound(scene, "line", write_sound(tmp_path / "line.wav", noise(1.0)), 2, 15)
    select(scene, movie, sound)
    obj, (face,) = dub(package, scene)
    assert package.timeline.sequencer.speaker(sound) == obj
    assert package.compat.fcurves(obj)
    assert face.channel > sound.channel
    assert len({element.filename for element in face.elements}) > 20


def test_the_own_sound_of_the_movie_is_not_lip_synced(package, scene, movie, fake_engine, tmp_path):
    """From 4.4 on, a click on a movie selects its sound too."""
    fake_engine()
    own = package.compat.new_sound(scene, "walk.001", Path(bpy.path.abspath(movie.filepath)), 2, 10)
    line = package.compat.new_sound(scene, "line", write_sound(tmp_path / "line.wav", noise(1.0)), 3, 15)
    select(scene, movie, own, line)
    assert package.render.dub.dialogue(bpy.context, [movie]) == [line]
    assert package.render.dub.own_sounds(bpy.context, [movie]) == [own]
    obj, _faces = dub(package, scene)
    assert package.timeline.sequencer.speaker(line) == obj
    assert package.timeline.sequencer.speaker(own) is None
    keyed = {point.co.x for curve in package.compat.fcurves(obj) for point in curve.keyframe_points}
    assert min(keyed) >= 14, "nothing was keyed before the line"


def test_a_dubbing_that_was_cancelled_says_how_it_goes_on(package, scene, movie):
    """Its character has no portrait until the movie has been read."""
    obj = package.character.character.create(scene, name="walk")
    find = package.panels.character.problems
    assert [operator for _message, operator, _label in find(obj)] == ["edtalk.set_portrait"]
    package.timeline.sequencer.assign(movie, obj)
    ((message, operator, _label),) = find(obj)
    assert operator == "edtalk.dub_movie"
    assert "Dub Movie" in message


def test_edited_mouth_keys_are_kept(package, scene, movie, fake_engine, tmp_path):
    """The movie and its dialogue stay selected between Preview Frame, an edit and Dub Movie."""
    fake_engine()
    sound = package.compat.new_sound(scene, "line", write_sound(tmp_path / "line.wav", noise(1.0)), 2, 15)
    select(scene, movie, sound)
    obj, _faces = dub(package, scene)
    jaw(package, obj, 0.123, 20)
    dub(package, scene)
    (curve,) = (one for one in package.compat.fcurves(obj) if "jawOpen" in one.data_path)
    assert curve.evaluate(20) == pytest.approx(0.123)
    package.animation.keys.remove_keys(obj, package.character.files.bank_of(obj).names_of("lip"), 0, 100)
    dub(package, scene)
    assert any("jawOpen" in one.data_path for one in package.compat.fcurves(obj)), "deleted keys are written again"


def test_a_character_with_a_shot_of_its_own_is_not_used(package, scene, movie, fake_engine, demo):
    """Dubbing sets the layer and the mask of its character, which would put the other frames out of date."""
    fake_engine()
    anna = package.character.character.create(scene, str(demo / "portrait_1.png"), name="Anna")
    bpy.context.view_layer.objects.active = anna
    package.engine.session.wait(package.character.rest_pose.measure(anna))
    package.render.render.render_face(scene, anna, (70, 73))
    before = anna.edtalk.layer, anna.edtalk.mask
    select(scene, movie)
    assert bpy.ops.edtalk.dub_movie() == {"FINISHED"}
    assert package.timeline.sequencer.speaker(movie).name == "walk"
    assert (anna.edtalk.layer, anna.edtalk.mask) == before


def test_all_coefficients_but_the_mouth_are_offsets_from_rest(package, addon, scene, movie, fake_engine):
    fake_engine()
    obj, _faces = dub(package, scene)
    names = list(package.character.files.bank_of(obj).names)
    jaw(package, obj, 0.7, 20)
    rest = package.character.sliders.rest_values(obj)
    package.animation.keys.insert_keys(obj, {"headYaw": rest["headYaw"]}, 10)
    package.animation.keys.insert_keys(obj, {"headYaw": rest["headYaw"] + 5.0}, 20)
    obj.edtalk["headYaw"] = rest["headYaw"]
    _obj, (face,) = dub(package, scene)
    rows = shot_of(addon, face).coefficients.values
    lips = package.character.files.bank_of(obj).names_of("lip")
    own = [index for index, name in enumerate(names) if name not in lips and name != "headYaw"]
    assert (rows[:, own] == 0).all(), "exactly as in the movie"
    assert rows[10, names.index("headYaw")] == pytest.approx(5.0, abs=1e-4)
    assert rows[10, names.index("jawOpen")] == pytest.approx(0.7, abs=1e-5), "rows are rounded to 2 ** -16"


def test_the_active_character_dubs(package, scene, movie, fake_engine, demo):
    fake_engine()
    anna = package.character.character.create(scene, str(demo / "portrait_1.png"), name="Anna")
    bpy.context.view_layer.objects.active = anna
    obj, _faces = dub(package, scene)
    assert obj == anna
    assert anna.edtalk.portrait_image.name.startswith("portrait_1")


# --- Which frames


@pytest.mark.parametrize("change", ["trim", "slip", "half", "double", "24 fps", "meta"])
def test_every_frame_uses_the_movie_frame_that_blender_shows(package, addon, scene, saved, film, fake_engine, change):
    fake_engine()
    if change == "24 fps":
        scene.render.fps = 24
        movie = add_at_own_speed(package, scene, film, 10)
        select(scene, movie)
    else:
        movie = place(package, scene, film, 10)
    if change == "trim":
        package.compat.set_strip_value(movie, "left_handle", 17)
        package.compat.set_strip_value(movie, "right_handle", 40)
    elif change == "slip":
        package.compat.set_strip_value(movie, "content_trim_start", 7)
    elif change in ("half", "double"):
        set_speed(package, scene, movie, 50 if change == "half" else 200)
    elif change == "meta":
        with sequencer_context(bpy.context, scene):
            bpy.ops.sequencer.meta_make()
        (meta,) = scene.sequence_editor.strips
        package.compat.set_strip_value(meta, "left_handle", 20)
        movie = meta.strips[0]
        select(scene, movie)
    obj, (face,) = dub(package, scene)
    clock = package.timeline.footage.time_map(scene, movie)
    assert ends(package, face) == (clock.start, clock.end)
    shot = shot_of(addon, face)
    wanted = np.clip(clock.seconds(clock.frames) * FPS, 0, FRAMES - 1)
    assert np.abs(shot.plate.times * FPS - wanted).max() <= (0.001 if change in ("trim", "slip", "meta") else 0.51)
    together = change in ("trim", "slip", "meta")
    assert bool(face.get("edtalk_apart")) != together
    assert obj.edtalk.layer == ("plate" if together else "pasted"), "opaque where Blender may show a neighbouring frame"


def test_trimmed_frames_are_not_rendered(package, scene, movie, fake_engine):
    fake_engine()
    package.compat.set_strip_value(movie, "right_handle", 20)
    _obj, (face,) = dub(package, scene)
    assert len(face.elements) == 10
    scene.frame_start = 40
    with pytest.raises(RuntimeError, match="outside this range"):
        bpy.ops.edtalk.render_face(frames="SCENE")
    scene.frame_start, scene.frame_end = 12, 14
    bpy.ops.edtalk.render_face(frames="SCENE")
    assert ends(package, face) == (12, 15)


def test_frames_without_a_face_are_unchanged_and_reported(package, addon, scene, saved, film, fake_engine):
    fake_engine()
    leaves = shutil.copy(film, saved / "leaves.mkv")
    place(package, scene, Path(leaves), 10)
    _obj, (face,) = dub(package, scene)
    assert np.isnan(shot_of(addon, face).plate.track[20:25]).all()
    assert any("No face was seen in leaves.mkv" in problem.message for problem in package.engine.session.problems)
    package.engine.session.dismiss()


def test_a_strip_without_a_face_is_an_error(package, scene, saved, film, fake_engine):
    fake_engine()
    movie = place(package, scene, Path(shutil.copy(film, saved / "leaves.mkv")), 10)
    package.compat.set_strip_value(movie, "left_handle", 30)
    package.compat.set_strip_value(movie, "right_handle", 34)
    with pytest.raises(RuntimeError, match="No face was found in the visible part of 'leaves'"):
        bpy.ops.edtalk.dub_movie()


# --- Rendering again


def counts(package, scene, obj):
    """Render and wait; returns the numbers of missing and reused pictures."""
    found = []
    chain = package.engine.session.Chain(
        package.render.render.steps(scene, obj, "AUTO", lambda _name, plan: found.append((plan.missing, plan.reused)))
    )
    package.engine.session.wait(chain)
    (only,) = found
    return only


def test_only_what_changed_is_rendered_and_nothing_is_tracked_again(package, scene, movie, fake_engine):
    client = fake_engine()
    obj, (face,) = dub(package, scene)
    before = [element.filename for element in face.elements]
    for frame, value in ((19, 0.0), (20, 0.5), (21, 0.0)):
        jaw(package, obj, value, frame)
    tracks = list((package.folders.character_folder(obj) / "tracks").iterdir())
    package.plate.dubbing._cache.clear()  # like a new session
    sent = []
    request = client.request
    client.request = lambda asked_for, **more: sent.append(asked_for.kind) or request(asked_for, **more)
    assert counts(package, scene, obj) == (1, FRAMES - 1)
    after = [element.filename for element in face.elements]
    assert [index for index in range(FRAMES) if before[index] != after[index]] == [10]
    assert sent == ["render"]
    assert list((package.folders.character_folder(obj) / "tracks").iterdir()) == tracks


def test_a_trimmed_or_moved_plate_needs_no_new_pictures(package, scene, movie, fake_engine):
    fake_engine()
    obj, _faces = dub(package, scene)
    package.compat.set_strip_value(movie, "left_handle", 20)
    assert counts(package, scene, obj) == (0, 40)
    package.compat.set_strip_value(movie, "content_start", 30)
    assert counts(package, scene, obj) == (0, 40)


def test_a_cancelled_dub_can_be_continued(package, scene, movie, fake_engine, hold):
    fake_engine("--slow", 0.02, "--hold", "render", 30, hold)  # the strip is updated every 0.25 s
    chain = package.render.dub.begin(scene, [movie])
    pump_until(package, lambda: is_rendering(package) and shown(package, scene))
    (obj,) = package.character.character.characters(scene)
    bpy.ops.edtalk.cancel(number=package.engine.session.tasks[0].number)
    package.engine.session.wait(chain)
    hold.unlink()
    (face,) = package.timeline.sequencer.faces(scene, obj)
    waiting = package.render.face_strip.waiting_frames(face)
    assert 0 < waiting < FRAMES
    missing, reused = counts(package, scene, obj)
    assert missing + reused == FRAMES
    assert 0 < reused < FRAMES
    assert package.render.face_strip.waiting_frames(face) == 0


def is_rendering(package):
    tasks = package.engine.session.tasks
    return bool(tasks) and tasks[0].label.startswith("Render")


def shown(package, scene):
    """Number of rendered frames of the only face strip."""
    faces = [strip for strip in package.compat.strips(scene) if package.timeline.sequencer.is_face(strip)]
    return sum(len(face.elements) - package.render.face_strip.waiting_frames(face) for face in faces)


def test_a_killed_engine_loses_no_dubbed_frames(package, scene, movie, fake_engine, tmp_path):
    fake_engine("--die-after", 60, "--once", tmp_path / "once")
    _obj, (face,) = dub(package, scene)
    assert package.render.face_strip.waiting_frames(face) == 0


def test_with_a_window_the_operator_returns_at_once(package, scene, movie, fake_engine, monkeypatch):
    """The character and the assignment exist when the operator returns; the rest follows."""
    fake_engine("--slow", 0.005)
    monkeypatch.setattr(package.engine.session, "blocking", lambda: False)
    monkeypatch.setattr(package.engine.session, "keep_ticking", lambda: None)
    chain = package.render.dub.begin(scene, [movie])
    assert not chain.finished
    assert not [strip for strip in package.compat.strips(scene) if package.timeline.sequencer.is_face(strip)]
    pump_until(package, lambda: chain.finished)
    assert chain.error is None
    assert shown(package, scene) == FRAMES


def test_two_movies_of_one_character(package, scene, movie, film, fake_engine):
    fake_engine()
    second = place(package, scene, film, 200)
    select(scene, movie, second)
    obj, faces = dub(package, scene)
    assert [ends(package, face) for face in faces] == [(10, 60), (200, 250)]
    assert len({face["edtalk_plate"] for face in faces}) == 2
    jaw(package, obj, 0.5, 220)
    bpy.ops.edtalk.render_face()
    assert len(package.timeline.sequencer.faces(scene, obj)) == 2


# --- Following


def test_a_moved_plate_moves_its_face(package, scene, movie, fake_engine):
    fake_engine()
    _obj, (face,) = dub(package, scene)
    package.compat.set_strip_value(movie, "content_start", 35)
    assert package.follow.follow(scene) == 1
    assert ends(package, face) == ends(package, movie) == (35, 85)
    assert package.follow.changes(scene) == []
    assert not face.get("edtalk_stale")


def test_plate_and_sound_moved_together_stay_in_sync(package, scene, movie, fake_engine, tmp_path):
    fake_engine()
    sound = package.compat.new_sound(scene, "line", write_sound(tmp_path / "line.wav", noise(1.0)), 2, 15)
    select(scene, movie, sound)
    _obj, (face,) = dub(package, scene)
    for strip in (movie, sound, face):
        package.compat.set_strip_value(strip, "content_start", package.compat.content_start(strip) + 7)
    package.follow.follow(scene)
    assert ends(package, face) == ends(package, movie) == (17, 67)
    assert package.compat.left_handle(sound) == 22


def test_a_moved_sound_moves_the_keys_but_not_the_face_strip(package, scene, movie, fake_engine, tmp_path):
    fake_engine()
    sound = package.compat.new_sound(scene, "line", write_sound(tmp_path / "line.wav", noise(0.5)), 2, 15)
    select(scene, movie, sound)
    _obj, (face,) = dub(package, scene)
    package.compat.set_strip_value(sound, "content_start", 30)
    package.follow.follow(scene)
    assert ends(package, face) == (10, 60)


def test_a_trimmed_plate_trims_its_face(package, scene, movie, fake_engine):
    fake_engine()
    _obj, (face,) = dub(package, scene)
    package.compat.set_strip_value(movie, "left_handle", 20)
    package.compat.set_strip_value(movie, "right_handle", 50)
    package.follow.follow(scene)
    assert ends(package, face) == (20, 50)
    assert not face.get("edtalk_stale")


def test_a_slipped_plate_marks_its_face_as_stale(package, scene, movie, fake_engine):
    fake_engine()
    _obj, (face,) = dub(package, scene)
    package.compat.set_strip_value(movie, "content_trim_start", 5)
    package.compat.set_strip_value(movie, "content_start", 10)
    package.follow.follow(scene)
    assert face.get("edtalk_stale")
    bpy.ops.edtalk.render_face()
    assert not face.get("edtalk_stale")


def test_faces_stay_over_the_pieces_of_a_cut_plate(package, scene, movie, fake_engine):
    fake_engine()
    obj, (face,) = dub(package, scene)
    movie.split(frame=30, split_method="SOFT")
    face.split(frame=30, split_method="SOFT")
    package.follow.follow(scene)
    faces, plates = package.timeline.sequencer.faces(scene, obj), package.timeline.sequencer.plates(scene, obj)
    assert (
        [ends(package, strip) for strip in faces] == [ends(package, strip) for strip in plates] == [(10, 30), (30, 60)]
    )
    assert [strip["edtalk_plate"] for strip in faces] == [strip["edtalk_id"] for strip in plates]
    jaw(package, obj, 0.3, 15)
    bpy.ops.edtalk.render_face()
    faces = package.timeline.sequencer.faces(scene, obj)
    assert [ends(package, strip) for strip in faces] == [(10, 30), (30, 60)]


# --- Placement


def test_the_layer_follows_the_plates_transform(package, scene, movie, fake_engine, saved):
    fake_engine()
    movie.transform.scale_x = movie.transform.scale_y = 0.5
    movie.transform.offset_x, movie.use_flip_x = 40, True
    _obj, (face,) = dub(package, scene)
    for element in face.elements:  # red over the left half of the movie
        picture = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        picture[:, : WIDTH // 2] = 255, 0, 0, 255
        write_png(package.render.face_strip.folder_of(face) / element.filename, picture)
    package.compat.refresh(face)
    seen = render(scene, saved / "out.png", 30)[HEIGHT // 2, :, :3]
    red = np.flatnonzero((seen[:, 0] > 200) & (seen[:, 1] < 60))
    grey = np.flatnonzero((seen[:, 0] > 60) & (np.ptp(seen, axis=1) < 10))
    assert (len(red), len(grey)) == pytest.approx((160, 160), abs=4), "half size, each colour on one half"
    assert red.min() == pytest.approx(grey.max() + 1, abs=2), "mirrored: the left half is on the right"
    assert (red.max() + grey.min()) / 2 != pytest.approx(WIDTH / 2, abs=20), "off-centre"


def test_outside_the_face_the_rendered_plate_is_bit_identical(package, scene, movie, fake_engine, saved):
    fake_engine()
    scene.view_settings.view_transform = "Standard"
    before = render(scene, saved / "before.png", 30)
    dub(package, scene)
    after = render(scene, saved / "after.png", 30)
    assert (before[:, :160] == after[:, :160]).all()
    assert (before[:, 480:] == after[:, 480:]).all()
    assert (before[:, 160:480] != after[:, 160:480]).any()


def test_a_portrait_can_be_its_own_plate(package, addon, scene, saved, fake_engine, demo):
    """The layer has the size of the portrait; the strip's size in the frame is kept when that changes."""
    fake_engine()
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    obj = package.character.character.create(scene, str(write_png(saved / "still.png", pixels)), name="Anna")
    bpy.context.view_layer.objects.active = obj
    scene.frame_end = 3
    bpy.ops.edtalk.render_face(frames="SCENE")
    (strip,) = package.timeline.sequencer.faces(scene, obj)
    size = shot_of(addon, strip).size or package.character.files.bank_of(obj).config.size
    assert strip.transform.scale_y == pytest.approx(HEIGHT / size)
    strip.transform.scale_x = strip.transform.scale_y = strip.transform.scale_y / 2
    obj.edtalk.layer, obj.edtalk.feather = "plate", 0.5
    bpy.ops.edtalk.render_face(frames="SCENE")
    assert strip.transform.scale_y == pytest.approx(0.5), "half the height of the frame, as before"
    shot = shot_of(addon, strip)
    assert (shot.layer, shot.mask, shot.feather, shot.plate) == ("plate", "face", 0.5, None)


def test_the_compositor_plays_the_movie_frames_that_the_strip_shows(package, scene, movie, fake_engine, saved):
    fake_engine()
    package.compat.set_strip_value(movie, "left_handle", 15)
    dub(package, scene)
    scene.render.dither_intensity = 0
    strips = [render(scene, saved / "strip.png", frame)[5, 5, 0] for frame in (15, 30)]
    bpy.ops.edtalk.build_compositor()
    nodes = [render(scene, saved / "nodes.png", frame)[5, 5, 0] for frame in (15, 30)]
    assert np.abs(np.subtract(strips, nodes)).max() <= 1


@pytest.mark.parametrize("speed", [50, 200])
def test_a_retimed_movie_in_the_compositor(package, scene, movie, fake_engine, saved, speed):
    fake_engine()
    set_speed(package, scene, movie, speed)
    dub(package, scene)
    scene.render.dither_intensity = 0
    bpy.ops.edtalk.build_compositor()
    for node in package.compat.compositor(scene).nodes:
        if node.get("edtalk_part") == "group":
            node.inputs["Amount"].default_value = 0  # only the plate
    clock = package.timeline.footage.time_map(scene, movie)
    frames = [clock.start, clock.start + 8, clock.end - 3]
    seen = [render(scene, saved / "nodes.png", frame)[5, 5, 0] for frame in frames]
    expected = 25.5 + package.plate.dubbing.seconds(scene, movie, frames) * FPS * (229.5 - 25.5) / (FRAMES - 1)
    assert np.abs(np.array(seen) - expected).max() < 4
    set_speed(package, scene, movie, 100)
    package.plate.compositing.update(scene)
    tree = package.compat.compositor(scene)
    assert len(package.compat.fcurves(tree)) <= 1


def test_dubbing_with_the_real_engine_changes_only_the_mouth(package, scene, saved, engine, demo):
    """In a movie of a moving portrait, only the area of the mouth changes."""
    film = wandering(package, demo / "portrait_2.png", saved / "wandering.mkv")
    scene.render.resolution_x = scene.render.resolution_y = 256
    scene.view_settings.view_transform = "Standard"
    place(package, scene, film, 1)
    before = render(scene, saved / "before.png", 2)
    obj, (face,) = dub(package, scene)
    assert package.render.face_strip.waiting_frames(face) == 0
    layer = read(package.render.face_strip.folder_of(face) / face.elements[1].filename)
    after = render(scene, saved / "after.png", 2)
    clear = layer[..., 3] == 0
    assert 0.02 < 1 - clear.mean() < 0.6, "only the mouth is covered"
    assert (after[clear] == before[clear]).all()
    jaw(package, obj, 1.0, 2)
    bpy.ops.edtalk.render_face()
    opened = render(scene, saved / "after.png", 2)
    layer = read(package.render.face_strip.folder_of(face) / face.elements[1].filename)
    clear = layer[..., 3] == 0  # it reaches further down, as the chin does
    assert np.abs(opened - after).max() > 30, "the jaw is open"
    assert (opened[clear] == before[clear]).all()


def wandering(package, portrait, path):
    """Three frames of a portrait that moves to the right."""
    scene = bpy.data.scenes.new("wandering")
    scene.render.fps, scene.frame_start, scene.frame_end = FPS, 1, 3
    scene.render.resolution_x = scene.render.resolution_y = 256
    strip = package.compat.new_image(scene, "portrait", portrait, 1, 1)
    package.compat.set_strip_value(strip, "right_handle", 4)
    for frame in (1, 3):
        strip.transform.offset_x = 2.0 * frame
        strip.transform.keyframe_insert("offset_x", frame=frame)
    scene.view_settings.view_transform = "Standard"
    package.compat.set_video_output(scene, path)
    scene.render.ffmpeg.format, scene.render.ffmpeg.audio_codec = "MKV", "NONE"
    bpy.ops.render.render(animation=True, scene=scene.name)
    bpy.data.scenes.remove(scene)
    return path


# --- Undo and farm jobs


def test_dubbing_can_be_undone(package, scene, movie, fake_engine):
    fake_engine()
    bpy.context.preferences.edit.use_global_undo = True
    bpy.ops.ed.undo_push(message="before")
    dub(package, scene)
    bpy.ops.ed.undo_push(message="after")
    bpy.ops.ed.undo()
    scene = bpy.context.scene
    assert [strip.name for strip in package.compat.strips(scene)] == ["walk"]
    assert package.character.character.characters(scene) == []
    (movie,) = package.compat.strips(scene)
    assert not package.timeline.sequencer.is_plate(movie)


def test_a_farm_job_includes_the_movie(package, addon, scene, movie, fake_engine, tmp_path):
    fake_engine()
    obj, _faces = dub(package, scene)
    bpy.context.view_layer.objects.active = obj
    assert bpy.ops.edtalk.export_farm_job(directory=str(tmp_path / "farm")) == {"FINISHED"}
    shot = addon.inference.contract.shot.Shot.read(tmp_path / "farm" / "walk" / "shot")
    assert shot.plate.media.is_relative_to(tmp_path / "farm")
    assert shot.missing() == [], "rendered frames are included"


# --- Chains


def test_a_chain_continues_when_all_its_tasks_have_finished(package, addon, scene, fake_engine):
    fake_engine("--slow", 0.02)
    done, ping = [], addon.inference.contract.requests.Ping()

    def steps():
        first = [package.engine.session.submit(ping), package.engine.session.submit(ping)]
        yield first
        done.append([task.finished for task in first])
        yield [package.engine.session.submit(ping)]
        done.append("the end")

    chain = package.engine.session.Chain(steps())
    assert done == []
    package.engine.session.wait(chain)
    assert done == [[True, True], "the end"]
    assert chain.error is None


def test_a_chain_ends_at_the_first_error(package, addon, scene, fake_engine):
    fake_engine()
    package.engine.session.dismiss()
    later, requests = [], addon.inference.contract.requests
    ping = requests.Ping()

    def fails_at_once():
        raise addon.inference.contract.errors.EDTalkError("Nothing is there.")
        yield []

    def fails_in_the_engine():
        yield [package.engine.session.submit(requests.Portrait(None, "/nowhere.png", "auto"))]
        later.append("continued")

    def fails_later():
        yield [package.engine.session.submit(ping)]
        raise addon.inference.contract.errors.EDTalkError("It has gone meanwhile.")

    for steps, message, is_reported in (
        (fails_at_once, "Nothing is there", False),
        (fails_in_the_engine, r"nowhere\.png", True),
        (fails_later, "gone meanwhile", True),
    ):
        chain = package.engine.session.Chain(steps())
        with pytest.raises(addon.inference.contract.errors.EDTalkError, match=message):
            package.engine.session.wait(chain)
        assert bool(package.engine.session.problems) == is_reported, "an error before the first wait is only raised"
        package.engine.session.dismiss()
    assert later == []


# --- Problems


def test_dubbing_problems_are_reported(package, scene, saved, film, fake_engine):
    fake_engine()
    operator = package.render.dub.EDTALK_OT_dub_movie
    assert "Select the movie strip" in operator.disabled_reason(bpy.context)
    movie = place(package, scene, Path(shutil.copy(film, saved / "gone.mkv")), 10)
    assert operator.disabled_reason(bpy.context) == ""
    (saved / "gone.mkv").unlink()
    with pytest.raises(RuntimeError, match=r"'gone' is missing: .*gone\.mkv"):
        bpy.ops.edtalk.dub_movie()
    assert package.character.character.characters(scene) == [], "no character was created"
    movie.use_reverse_frames = True
    with pytest.raises(RuntimeError, match="is reversed"):
        bpy.ops.edtalk.dub_movie()


def test_an_engine_failure_is_reported(package, scene, movie, fake_engine):
    fake_engine("--die-after", 3)
    with pytest.raises(RuntimeError, match="engine"):
        bpy.ops.edtalk.dub_movie()
    fake_engine()
    _obj, (face,) = dub(package, scene)
    assert package.render.face_strip.waiting_frames(face) == 0


def test_the_face_number_is_requested(package, scene, movie, fake_engine, demo):
    client = fake_engine()
    obj = package.character.character.create(scene, name="Second")
    bpy.context.view_layer.objects.active = obj
    obj.edtalk.which = 2
    sent = []
    request = client.request
    client.request = lambda asked_for, **more: sent.append(asked_for) or request(asked_for, **more)
    dub(package, scene)
    assert [one.which for one in sent if one.kind == "track"] == [2]
    assert obj.edtalk.crop_mode == "box", "the crop selects the face among several"


def test_on_the_command_line(package, scene, saved, film, fake_engine, capsys, tmp_path):
    fake_engine()
    sound = write_sound(tmp_path / "line.wav", noise(1.0))
    assert package.cli.main(["--save", "dub", str(film), "--sound", str(sound), "--frame", "5"]) == 0
    assert "walk: " in capsys.readouterr().out
    package.cli.main(["status"])
    printed = capsys.readouterr().out
    (walk,) = json.loads(printed[printed.index("{") :])["characters"]
    assert (walk["dialogue"], walk["faces"]["walk face"]) == (["line"], {"frames": FRAMES, "waiting": 0})
    assert package.cli.main(["dub", "walk"]) == 0
    assert ": 0 frames rendered" in capsys.readouterr().out
    assert package.cli.main(["dub", "gone.mp4"]) == 1


def test_the_face_has_the_colours_in_which_blender_shows_an_hdr_movie(package, scene, film):
    strip = package.compat.new_movie(scene, "walk", film, 1, 1)
    display, colours = package.plate.dubbing._display, strip.colorspace_settings
    assert (colours.name, display(strip, "")) == ("sRGB", "")
    assert display(strip, "hlg") == "hlg signal", "Blender 4.5 converts no HDR"
    if bpy.app.version >= (5, 0, 0):
        colours.name = "Rec.2100-PQ"
        assert display(strip, "pq") == "pq"
        colours.name = "Rec.2100-HLG"
        assert display(strip, "hlg") == "hlg"
