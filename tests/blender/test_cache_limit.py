"""The limit of the rendered frames: what is deleted, in which order, and what is always kept."""

import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import bpy
import pytest

from tests.panel_layout import draw
from tests.pumping import PATIENCE

DAY = 86400.0


@pytest.fixture
def cache_limit(addon):
    return addon.edtalk_blender.render.cache_limit


@pytest.fixture
def frames(tmp_path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    return folder


def write(folder: Path, number: int, days: float, size: int = 1000) -> Path:
    """A frame that was last used some days ago."""
    path = folder / f"{number:020x}.png"
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


def show(scene, path: Path) -> bpy.types.ImageStrip:
    strips = scene.sequence_editor_create().strips
    return strips.new_image(name="face", filepath=str(path), channel=1, frame_start=1)


def run(cache_limit, folders, limit: int) -> None:
    """What the timer does."""
    finish(cache_limit.Purge(folders, limit))


def finish(purge) -> None:
    while (wait := purge.step()) is not None:
        time.sleep(min(wait, 0.005))


def test_frames_that_were_unused_for_longest_are_deleted_first(cache_limit, frames):
    paths = [write(frames, number, days) for number, days in enumerate((10, 30, 20, 40))]
    run(cache_limit, [frames], 2000)
    assert set(frames.iterdir()) == {paths[0], paths[2]}
    run(cache_limit, [frames], 2000)
    assert set(frames.iterdir()) == {paths[0], paths[2]}


def test_recent_shown_linked_and_foreign_files_are_kept(cache_limit, frames, scene, tmp_path):
    recent, shown, linked = write(frames, 1, 1), write(frames, 2, 90), write(frames, 3, 90)
    os.link(linked, tmp_path / "frame_0001.png")
    foreign, old = frames / "holiday.png", write(frames, 4, 90)
    foreign.write_bytes(bytes(1000))
    os.utime(foreign, (0, 0))
    show(scene, frames / ".." / "frames" / shown.name)
    run(cache_limit, [frames, tmp_path / "none"], 0)
    assert set(frames.iterdir()) == {recent, shown, linked, foreign}
    assert not old.exists()


def test_frames_that_are_shown_after_the_measurement_are_kept(cache_limit, frames, scene):
    path = write(frames, 1, 90)
    deleted = write(frames, 2, 90)
    purge = cache_limit.Purge([frames], 0)
    measure, is_shown = purge._measure, threading.Event()

    def measured_before(shown):
        found = measure(shown)
        assert set(found) == {os.fspath(path), os.fspath(deleted)}
        assert is_shown.wait(PATIENCE)
        return found

    purge._measure = measured_before
    assert purge.step() is not None
    show(scene, path)
    is_shown.set()
    finish(purge)
    assert path.exists()
    assert not deleted.exists()


def test_a_frame_that_is_shown_while_other_strips_are_looked_at_is_kept(cache_limit, frames, scene, monkeypatch):
    path, deleted = write(frames, 1, 90), write(frames, 2, 90)
    for number in range(3, 6):
        show(scene, write(frames, number, 90))
    among, looks = cache_limit.compat.files_among, []

    def looked_at(strip, names):
        found = among(strip, names)
        looks.append(strip.name)
        if len(looks) == 2:
            show(scene, path)
        return found

    monkeypatch.setattr(cache_limit.compat, "files_among", looked_at)
    run(cache_limit, [frames], 0)
    assert path.exists()
    assert not deleted.exists()


def test_a_thread_deletes_while_no_task_is_unfinished(package, cache_limit, frames, monkeypatch):
    deleted, threads = write(frames, 1, 90), []
    delete = cache_limit._delete
    monkeypatch.setattr(
        cache_limit, "_delete", lambda paths: (threads.append(threading.current_thread()), delete(paths))
    )
    purge = cache_limit.Purge([frames], 0)
    monkeypatch.setattr(package.engine.session, "tasks", ["a render"])
    assert [purge.step() for _ in range(5)] == [cache_limit._WAIT] * 5
    monkeypatch.setattr(package.engine.session, "tasks", [])
    finish(purge)
    assert not deleted.exists()
    assert threading.main_thread() not in threads
    assert len(threads) == 1


def test_another_blender_keeps_the_frames_that_this_one_shows(cache_limit, frames, scene):
    """Both have their frames in the folder of the preferences."""
    shown, other = write(frames, 1, 90), write(frames, 2, 90)
    show(scene, shown)
    run(cache_limit, [frames], 10**6)  # marks it as used
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    run(cache_limit, [frames], 0)
    assert (shown.exists(), other.exists()) == (True, False)


def test_the_folders_of_the_preferences_or_of_the_file_are_measured(addon, cache_limit, obj, tmp_path, monkeypatch):
    session, folders = addon.edtalk_blender.engine.session, addon.edtalk_blender.folders
    assert cache_limit.folders() == [folders.character_folder(obj) / "frames"]
    monkeypatch.setattr(session, "preferred", lambda: session.Preferred(cache=str(tmp_path)))
    (folders.character_folder(obj) / "frames").mkdir(parents=True)
    (tmp_path / "other_12345678" / "Ben" / "frames").mkdir(parents=True)
    assert len(cache_limit.folders()) == 2


def test_a_chosen_limit_is_enforced_at_most_once_an_hour_and_none_is_the_default(addon, cache_limit, monkeypatch):
    session, started = addon.edtalk_blender.engine.session, []
    assert session.preferred().cache_limit == 0
    timers = SimpleNamespace(register=lambda step, **_: started.append(step.__self__._limit))
    monkeypatch.setattr(cache_limit, "bpy", SimpleNamespace(app=SimpleNamespace(timers=timers), data=bpy.data))
    monkeypatch.setattr(cache_limit._state, "measured", None)
    cache_limit.enforce()
    assert started == [], "background mode has no timers"
    monkeypatch.setattr(session, "blocking", lambda: False)
    cache_limit.enforce()
    assert started == [], "nothing is deleted without a limit"
    limited = replace(session.preferred(), cache_limit=50)
    monkeypatch.setattr(session, "preferred", lambda: limited)
    cache_limit.enforce()
    cache_limit.enforce()
    assert started == [50 * 10**9]


# --- Disk use


def test_use_counts_all_frames_and_those_that_no_strip_shows(cache_limit, frames, scene):
    paths = [write(frames, number, 1, size=1000 + number) for number in range(3)]
    (frames / "holiday.png").write_bytes(bytes(5000))
    use = cache_limit.use(cache_limit.sizes(frames), {paths[1].name})
    assert (use.frames, use.size, use.unused) == (3, 3003, 2002)
    write(frames, 9, 1, size=10**6)
    os.utime(frames, ns=(0, 10**9))  # another time than before, also where the clock is coarse
    assert str(cache_limit.use(cache_limit.sizes(frames), set())) == "1.0 MB in 4 frames, 1.0 MB unused"
    assert cache_limit.use(cache_limit.sizes(frames / "none"), set()) == cache_limit.Use()


def test_the_panel_shows_the_use_and_purges_unused_frames(addon, cache_limit, obj, scene, tmp_path):
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    folder = addon.edtalk_blender.folders.character_folder(obj) / "frames"
    folder.mkdir(parents=True)
    shown, unused = write(folder, 1, 1), write(folder, 2, 1)
    show(scene, folder / ".." / "frames" / shown.name)
    panel = addon.edtalk_blender.panels.sequencer.EDTALK_PT_face
    layout = draw(panel)
    assert "2 frames, 0.0 MB unused" in " ".join(layout.texts("label"))
    assert "edtalk.clear_cache" in layout.texts("operator")
    assert bpy.ops.edtalk.clear_cache() == {"FINISHED"}
    assert (shown.exists(), unused.exists()) == (True, False)
    os.utime(folder, ns=(0, 10**9))
    assert "edtalk.clear_cache" not in draw(panel).texts("operator")
