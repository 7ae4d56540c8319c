"""Render Face: frames that are rendered, where they are stored, and what the strip shows."""

import os
import shutil
from pathlib import Path

import bpy
import numpy as np
import pytest

from tests.pumping import pump_until
from tests.strip_material import noise, write_sound

FRAMES = 12


@pytest.fixture
def saved(scene, tmp_path):
    """The scene saved as `shot.blend`, 12 frames long."""
    scene.frame_start, scene.frame_end = 1, FRAMES
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    return tmp_path


@pytest.fixture
def turning(package, obj):
    """The character turns its head, so that all frames differ."""
    package.animation.keys.write_curves(obj, {"headYaw": np.linspace(0.0, 1.0, FRAMES)}, np.arange(1, FRAMES + 1))
    return obj


def render(**options):
    return bpy.ops.edtalk.render_face(**{"frames": "SCENE"} | options)


def face(package, scene, obj):
    (strip,) = package.timeline.sequencer.faces(scene, obj)
    return strip


def shown(strip):
    return [element.filename for element in strip.elements]


def pictures(package, obj):
    folder = package.folders.character_folder(obj) / "frames"
    return {path.name for path in folder.glob("[0-9a-f]*.*")}


def begin(package, scene, obj):
    """Start a render of the scene's range without waiting for it."""
    if not package.character.rest_pose.is_known(obj):
        package.engine.session.wait(package.character.rest_pose.measure(obj))
    span = package.timeline.sequencer.render_range(scene, obj, "SCENE")
    return package.render.render.render_face(scene, obj, span)


# --- The strip


def test_a_face_strip_has_one_picture_per_frame(package, scene, saved, turning, fake_engine):
    fake_engine()
    assert render() == {"FINISHED"}
    strip = face(package, scene, turning)
    assert (package.compat.left_handle(strip), package.compat.right_handle(strip)) == (1, FRAMES + 1)
    assert len(set(shown(strip))) == FRAMES
    assert strip.directory == "//shot_edtalk/Anna/frames/"
    folder = saved / "shot_edtalk" / "Anna" / "frames"
    assert all((folder / name).is_file() for name in shown(strip))
    assert strip.blend_type == "ALPHA_OVER"
    assert turning.edtalk.face_strip == package.timeline.sequencer.identity(strip)
    assert scene.view_settings.view_transform == "Standard", "AgX would change the face's colours"


def test_pictures_have_the_chosen_size(addon, package, scene, saved, turning, fake_engine):
    fake_engine()
    render()
    strip, known = face(package, scene, turning), set()
    read = addon.inference.contract.shot.Shot.read
    own = package.character.files.bank_of(turning).config.size
    for size, layer, expected_size in (
        ("512", "square", 512),
        ("1024", "matte", 1024),
        ("0", "square", 0),
        ("512", "pasted", 0),
    ):
        turning.edtalk.size, turning.edtalk.layer = size, layer
        render()
        assert read(bpy.path.abspath(strip[package.timeline.sequencer.SHOT])).size == expected_size
        assert not known & set(shown(strip)), "each size has its own pictures"
        known |= set(shown(strip))
        if layer != "pasted":
            assert tuple(strip[package.render.face_strip.SIZE]) == (expected_size or own,) * 2
            (waiting,) = (saved / "shot_edtalk" / "Anna" / "frames").glob(f"waiting_*_{expected_size or own}.png")
            image = bpy.data.images.load(str(waiting))
            assert tuple(image.size) == (expected_size or own,) * 2


def test_the_face_strip_is_placed_above_its_dialogue(package, scene, saved, obj, fake_engine, tmp_path):
    fake_engine()
    sound = package.compat.new_sound(scene, "line", write_sound(tmp_path / "line.wav", noise(0.5)), 3, 40)
    package.timeline.sequencer.assign(sound, obj)
    package.compat.new_sound(scene, "music", tmp_path / "line.wav", 4, 45)
    render(frames="AUTO")
    strip = face(package, scene, obj)
    assert (package.compat.left_handle(strip), package.compat.right_handle(strip)) == (
        package.compat.left_handle(sound),
        package.compat.right_handle(sound),
    )
    assert strip.channel == 5, "the first free channel above its sound"


def test_render_ranges_of_scene_dialogue_and_preview(addon, package, scene, obj, tmp_path):
    render_range = package.timeline.sequencer.render_range
    scene.frame_start, scene.frame_end = 5, 9
    assert render_range(scene, obj, "AUTO") == render_range(scene, obj, "SCENE") == (5, 10)
    for which, complaint in (("DIALOGUE", "no dialogue"), ("PREVIEW", "no preview range")):
        with pytest.raises(addon.inference.contract.errors.EDTalkError, match=complaint):
            render_range(scene, obj, which)
    scene.use_preview_range, scene.frame_preview_start, scene.frame_preview_end = True, 6, 7
    assert render_range(scene, obj, "PREVIEW") == (6, 8)


def test_drivers_and_the_nla_are_rendered(package, scene, saved, obj, fake_engine):
    fake_engine()
    driver = obj.driver_add(package.character.sliders.data_path("headYaw")).driver
    driver.type, driver.expression = "SCRIPTED", "frame / 12"
    render()
    assert len(set(shown(face(package, scene, obj)))) == FRAMES


def test_equal_frames_share_one_picture(package, scene, saved, obj, fake_engine):
    fake_engine()
    render()
    assert len(set(shown(face(package, scene, obj)))) == 1
    assert len(pictures(package, obj)) == 1


# --- Rendering again


def test_only_what_changed_is_rendered_again(package, scene, saved, turning, fake_engine):
    fake_engine()
    render()
    before = shown(face(package, scene, turning))
    package.animation.keys.insert_keys(turning, {"jawOpen": 0.0}, 4)
    package.animation.keys.insert_keys(turning, {"jawOpen": 0.5}, 5)
    package.animation.keys.insert_keys(turning, {"jawOpen": 0.0}, 6)
    task, plan = begin(package, scene, turning)
    assert (plan.missing, plan.reused) == (1, FRAMES - 1)
    package.engine.session.wait(task)
    after = shown(face(package, scene, turning))
    assert [index for index in range(FRAMES) if before[index] != after[index]] == [4]


def test_edits_of_the_face_strip_are_kept(package, scene, saved, turning, fake_engine):
    fake_engine()
    render()
    strip = face(package, scene, turning)
    strip.channel, strip.blend_type, strip.transform.offset_x = 7, "CROSS", 50
    strip.name = "my face"
    package.compat.set_strip_value(strip, "left_handle", 4)
    scene.view_settings.view_transform = "AgX"
    package.animation.keys.insert_keys(turning, {"headYaw": 3.0}, 6)
    render()
    strip = face(package, scene, turning)
    assert (strip.name, strip.channel, strip.blend_type, strip.transform.offset_x) == ("my face", 7, "CROSS", 50)
    assert package.compat.left_handle(strip) == 4
    assert scene.view_settings.view_transform == "AgX", "chosen after the strip was created"


def test_rendering_another_range_updates_the_same_strip(package, scene, saved, turning, fake_engine):
    fake_engine()
    render()
    scene.frame_start, scene.frame_end = 5, 20
    render()
    strip = face(package, scene, turning)
    assert (package.compat.left_handle(strip), package.compat.right_handle(strip)) == (5, 21)
    assert len(strip.elements) == 16


def test_pieces_cut_off_the_face_strip_are_updated_too(package, scene, saved, turning, fake_engine):
    fake_engine()
    render()
    whole = face(package, scene, turning)
    piece = whole.split(frame=6, split_method="SOFT")
    package.animation.keys.insert_keys(turning, {"jawOpen": 0.9}, 1)
    before = shown(piece)
    render()
    strips = package.timeline.sequencer.faces(scene, turning)
    assert len(strips) == 2
    assert {package.compat.left_handle(strip) for strip in strips} == {1, 6}
    assert all(shown(strip) != before for strip in strips)


def test_a_face_strip_moves_to_a_free_channel(package, scene, saved, turning, fake_engine, tmp_path):
    fake_engine()
    render()
    strip = face(package, scene, turning)
    sound = write_sound(tmp_path / "line.wav", noise(1.0))
    package.compat.new_sound(scene, "music", sound, strip.channel, FRAMES + 5)
    scene.frame_end = FRAMES + 30
    render()
    assert not package.timeline.sequencer.is_covered(scene, face(package, scene, turning))


# --- During a render


def test_a_strip_is_added_at_once_and_fills(package, scene, saved, turning, fake_engine, monkeypatch):
    fake_engine()
    counts, refresh = [], package.compat.refresh

    def count(strip):
        refresh(strip)
        counts.append(package.render.face_strip.waiting_frames(strip))

    monkeypatch.setattr(package.compat, "refresh", count)
    monkeypatch.setattr(package.render.render, "_FLUSH", 0.0)
    task, plan = begin(package, scene, turning)
    strip = face(package, scene, turning)
    assert (plan.missing, plan.reused) == (FRAMES, 0)
    assert package.render.face_strip.waiting_frames(strip) == FRAMES
    assert all(name.startswith("waiting_") for name in shown(strip))
    assert (package.render.face_strip.folder_of(strip) / shown(strip)[0]).is_file()
    package.engine.session.wait(task)
    assert counts == list(range(FRAMES, -1, -1))


def test_cancel_keeps_finished_frames_and_the_next_render_continues(package, scene, saved, turning, fake_engine, hold):
    fake_engine("--hold", "render", 5, hold)
    task, _plan = begin(package, scene, turning)
    pump_until(package, lambda: len(pictures(package, turning)) >= 3)
    assert bpy.ops.edtalk.cancel(number=task.number) == {"FINISHED"}
    package.engine.session.wait(task)
    hold.unlink()
    assert task.cancelled
    done = len(pictures(package, turning))
    assert 3 <= done < FRAMES
    strip = face(package, scene, turning)
    assert package.render.face_strip.waiting_frames(strip) == FRAMES - done
    task, plan = begin(package, scene, turning)
    assert (plan.missing, plan.reused) == (FRAMES - done, done)
    package.engine.session.wait(task)
    assert package.render.face_strip.waiting_frames(strip) == 0


def test_a_killed_engine_loses_no_finished_frame(package, scene, saved, turning, fake_engine, tmp_path):
    fake_engine("--die-after", 6, "--once", tmp_path / "once")
    assert render() == {"FINISHED"}
    assert package.render.face_strip.waiting_frames(face(package, scene, turning)) == 0
    assert len(pictures(package, turning)) == FRAMES


def test_frames_finished_before_the_engine_died_are_kept(package, scene, saved, turning, fake_engine):
    fake_engine("--die-after", 4)
    with pytest.raises(RuntimeError, match="engine"):
        render()
    drawn = len(pictures(package, turning))
    assert 0 < drawn < FRAMES
    fake_engine()
    render()
    assert package.render.face_strip.waiting_frames(face(package, scene, turning)) == 0


@pytest.mark.parametrize(
    "fault",
    [["--garbage"], ["--wrong-protocol"], ["--exit", 1], ["--hang-after", 2, "--beat", 0.05]],
    ids=lambda fault: fault[0],
)
def test_engine_failures_are_reported(package, scene, saved, turning, fake_engine, fault):
    fake_engine(*fault, silent=0.2, kill=0.6, start=5.0)
    with pytest.raises(RuntimeError, match=r"[Ee]ngine"):
        render()
    assert package.engine.session.problems[-1].fix in ("edtalk.restart_engine", "edtalk.repair_engine")
    assert not package.engine.session.tasks


def test_deleting_the_face_strip_cancels_its_render(package, scene, saved, turning, fake_engine):
    fake_engine("--slow", 0.2)
    task, _plan = begin(package, scene, turning)
    scene.sequence_editor.strips.remove(face(package, scene, turning))
    pump_until(package, lambda: task.finished)
    assert len(pictures(package, turning)) < FRAMES


def test_a_second_render_replaces_the_first(package, scene, saved, turning, fake_engine, hold):
    fake_engine("--hold", "render", 3, hold)
    first, _plan = begin(package, scene, turning)
    package.animation.keys.insert_keys(turning, {"headYaw": 2.0}, 12)
    second, _plan = begin(package, scene, turning)
    pump_until(package, lambda: first.finished)
    hold.unlink()
    package.engine.session.wait(second)
    assert first.cancelled
    assert package.render.face_strip.waiting_frames(face(package, scene, turning)) == 0


def test_frames_rendered_before_a_crash_are_shown_after_loading(package, scene, saved, turning, fake_engine):
    """The file was saved with placeholders, and the frames were finished later."""
    fake_engine("--slow", 0.02)
    task, _plan = begin(package, scene, turning)
    bpy.ops.wm.save_mainfile()
    strip_id = package.timeline.sequencer.identity(face(package, scene, turning))
    package.engine.session.wait(task)
    bpy.ops.wm.open_mainfile(filepath=str(saved / "shot.blend"))
    strip = package.timeline.sequencer.find(bpy.context.scene, strip_id)
    assert package.render.face_strip.waiting_frames(strip) == 0


@pytest.mark.parametrize("fault", ["pipe", "zeros", "pipe for rows", "sparse", "nested", "elsewhere", "number"])
def test_opening_an_untrusted_file_reads_only_regular_files_in_its_folders(
    package, scene, saved, turning, fake_engine, tmp_path_factory, monkeypatch, fault
):
    fake_engine("--slow", 0.02)
    task, plan = begin(package, scene, turning)
    strip = face(package, scene, turning)
    strip_id = package.timeline.sequencer.identity(strip)
    if fault == "elsewhere":
        other = tmp_path_factory.mktemp("other")
        shutil.copytree(plan.folder, other, dirs_exist_ok=True)
        strip[package.timeline.sequencer.SHOT] = f"{other}/"
    if fault == "number":
        strip[package.timeline.sequencer.SHOT] = 7
    bpy.ops.wm.save_mainfile()
    package.engine.session.wait(task)
    text, rows = plan.folder / "shot.json", plan.folder / "coefficients.npy"
    if fault in ("pipe", "zeros", "sparse", "nested"):
        text.unlink()
    if fault == "pipe":
        os.mkfifo(text)
    elif fault == "zeros":
        text.symlink_to("/dev/zero")
    elif fault == "sparse":
        with text.open("wb") as file:
            file.truncate(2**40)
    elif fault == "nested":
        text.write_text("[" * 10**6)
    elif fault == "pipe for rows":
        rows.unlink()
        os.mkfifo(rows)
    failures = []
    monkeypatch.setattr(package.handlers.logger, "exception", lambda *words: failures.append(words))
    bpy.ops.wm.open_mainfile(filepath=str(saved / "shot.blend"))
    strip = package.timeline.sequencer.find(bpy.context.scene, strip_id)
    assert package.render.face_strip.waiting_frames(strip) > 0, "the frames count as missing"
    assert failures == []


def test_a_file_opens_when_updating_a_scene_fails(package, scene, saved, turning, fake_engine, monkeypatch):
    def fail(*_names):
        raise ZeroDivisionError

    seen = []
    monkeypatch.setattr(package.render.recovery, "_update", fail)
    monkeypatch.setattr(package.render.recovery.compositing, "update", lambda scene: seen.append(scene.name))
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=str(saved / "shot.blend"))
    assert seen == [one.name for one in bpy.data.scenes]


# --- Where frames are stored


def test_saving_a_new_file_keeps_its_temporary_frames(package, scene, turning, fake_engine, tmp_path):
    fake_engine()
    scene.frame_start, scene.frame_end = 1, FRAMES
    render()
    strip = face(package, scene, turning)
    assert package.folders.is_temporary()
    assert str(package.render.face_strip.folder_of(strip)).startswith(bpy.app.tempdir.rstrip("/"))
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "late.blend"))
    _task, plan = begin(package, scene, turning)
    assert plan.missing == 0, "linked from the temporary folder"
    assert face(package, scene, turning).directory == "//late_edtalk/Anna/frames/"
    assert set(shown(face(package, scene, turning))) <= pictures(package, turning)


def test_a_file_moved_with_its_folder_reuses_its_frames(package, scene, saved, turning, fake_engine):
    fake_engine()
    render()
    bpy.ops.wm.save_mainfile()
    moved = saved / "elsewhere"
    moved.mkdir()
    shutil.move(saved / "shot.blend", moved / "shot.blend")
    shutil.move(saved / "shot_edtalk", moved / "shot_edtalk")
    bpy.ops.wm.open_mainfile(filepath=str(moved / "shot.blend"))
    scene, obj = bpy.context.scene, bpy.data.objects["Anna"]
    strip = face(package, scene, obj)
    assert all((package.render.face_strip.folder_of(strip) / name).is_file() for name in shown(strip))
    _task, plan = begin(package, scene, obj)
    assert plan.missing == 0


def test_an_unwritable_folder_is_reported(package, scene, saved, turning, fake_engine):
    fake_engine()
    (saved / "shot_edtalk").write_text("a file where the folder would be")
    with pytest.raises(RuntimeError, match=r"shot_edtalk.*could not be written"):
        render()
    assert package.timeline.sequencer.faces(scene, turning) == []


def test_rendering_without_the_portrait_file_is_an_error(package, scene, saved, fake_engine, demo):
    fake_engine()
    portrait = saved / "face.png"
    shutil.copy(demo / "portrait_1.png", portrait)
    obj = package.character.character.create(scene, str(portrait), name="Anna")
    bpy.context.view_layer.objects.active = obj
    portrait.unlink()
    with pytest.raises(RuntimeError, match=r"does not exist: .*face\.png"):
        render()


def test_rendering_without_the_bank_file_is_an_error(package, scene, saved, obj, fake_engine):
    fake_engine()
    obj.edtalk.bank = str(saved / "gone.safetensors")
    with pytest.raises(RuntimeError, match=r"gone\.safetensors"):
        render()


def test_only_unused_frames_are_cleared(package, scene, saved, turning, fake_engine):
    fake_engine()
    render()
    package.animation.keys.insert_keys(turning, {"headYaw": 5.0}, 1)
    render()
    assert len(pictures(package, turning)) > FRAMES
    keep = saved / "shot_edtalk" / "Anna" / "frames" / "mine.png"
    keep.write_bytes(b"the artist's own")
    assert bpy.ops.edtalk.clear_cache() == {"FINISHED"}
    assert pictures(package, turning) == set(shown(face(package, scene, turning)))
    assert keep.is_file()


def test_all_characters_at_once(package, scene, saved, turning, fake_engine, demo):
    fake_engine()
    ben = package.character.character.create(scene, str(demo / "portrait_2.png"), name="Ben")
    assert render(everybody=True) == {"FINISHED"}
    strips = [face(package, scene, turning), face(package, scene, ben)]
    assert strips[0].channel != strips[1].channel
    assert not any(package.render.face_strip.waiting_frames(strip) for strip in strips)


def test_a_linked_character_can_be_rendered(package, scene, saved, turning, fake_engine):
    fake_engine()
    package.engine.session.wait(package.character.rest_pose.measure(turning))
    bpy.data.libraries.write(str(saved / "cast.blend"), {turning})
    bpy.data.objects.remove(turning)
    with bpy.data.libraries.load(str(saved / "cast.blend"), link=True) as (_theirs, ours):
        ours.objects = ["Anna"]
    linked = bpy.data.objects["Anna"]
    scene.collection.objects.link(linked)
    assert render(everybody=True) == {"FINISHED"}
    assert len(set(shown(face(package, scene, linked)))) == FRAMES
    render(everybody=True)
    assert len(package.timeline.sequencer.faces(scene, linked)) == 1


def test_disabled_operators_give_a_reason(package, scene, obj):
    render_module = package.render.operators
    assert "sequencer is empty" in package.render.export.EDTALK_OT_export_movie.disabled_reason(bpy.context)
    bpy.data.objects.remove(obj)
    assert "Add a character" in render_module.EDTALK_OT_render_face.disabled_reason(bpy.context)
    assert render_module.EDTALK_OT_clear_cache.disabled_reason(bpy.context) == ""


def test_a_preferred_folder_for_frames(package, scene, saved, turning, monkeypatch, tmp_path):
    monkeypatch.setattr(
        package.engine.session, "preferred", lambda: package.engine.session.Preferred(cache=str(tmp_path / "cache"))
    )
    folder = package.folders.character_folder(turning)
    assert Path(tmp_path / "cache") in folder.parents
    assert folder.name == "Anna"


def test_loading_a_file_forgets_running_renders(package, scene, saved, turning, fake_engine):
    """Operators that wait for renders must not stay disabled."""
    fake_engine("--slow", 0.2)
    render, operators, obj = package.render.render, package.render.operators, turning
    task, _plan = begin(package, scene, obj)
    assert render.rendering(obj) is task
    assert operators.EDTALK_OT_clear_cache.disabled_reason(bpy.context)
    package.engine.session.cancel_all()
    assert render.rendering(obj) is None
    assert not operators.EDTALK_OT_clear_cache.disabled_reason(bpy.context)
