"""Dubbing of several movies that is interrupted: what was tracked, read and rendered is used when it goes on."""

from __future__ import annotations

import shutil

import bpy
import pytest

from tests.blender.test_dubbing import FRAMES, dub, movie, place, saved, shown  # noqa: F401 - fixtures
from tests.pumping import pump_until
from tests.strip_material import select


@pytest.fixture
def movies(package, scene, movie, film, tmp_path):  # noqa: F811 - the fixture
    """Two strips of different files, both selected."""
    other = tmp_path / "other.mp4"
    shutil.copy(film, other)
    both = [movie, place(package, scene, other, 200)]
    select(scene, *both)
    return both


def requests_of(client):
    """The kinds of the requests that are sent from now on."""
    sent, request = [], client.request
    client.request = lambda asked_for, **more: sent.append(asked_for.kind) or request(asked_for, **more)
    return sent


def waiting(package, faces):
    return [package.render.face_strip.waiting_frames(face) for face in faces]


def test_a_cancelled_render_of_two_movies_goes_on(package, scene, movies, fake_engine, hold):
    client = fake_engine("--slow", 0.02, "--hold", "render", 30, hold)
    sent = requests_of(client)
    chain = package.render.dub.begin(scene, movies)
    pump_until(package, lambda: "render" in sent and shown(package, scene))
    for task in list(package.engine.session.tasks):
        bpy.ops.edtalk.cancel(number=task.number)
    package.engine.session.wait(chain)
    hold.unlink()
    kept = shown(package, scene)
    assert 0 < kept < 2 * FRAMES
    sent.clear()
    select(scene, *movies)
    _obj, faces = dub(package, scene)
    assert waiting(package, faces) == [0, 0]
    assert set(sent) == {"render"}, "nothing is tracked or read again"


def test_a_cancel_while_the_second_movie_is_tracked_keeps_the_track_of_the_first(
    package, scene, movies, fake_engine, hold
):
    client = fake_engine("--slow", 0.01, "--hold", "track", 80, hold)
    sent = requests_of(client)
    chain = package.render.dub.begin(scene, movies)
    (obj,) = package.character.character.characters(scene)
    folder = package.folders.character_folder(obj) / "tracks"
    pump_until(package, lambda: folder.is_dir() and list(folder.glob("*.json")))
    for task in list(package.engine.session.tasks):
        bpy.ops.edtalk.cancel(number=task.number)
    package.engine.session.wait(chain)
    hold.unlink()
    sent.clear()
    select(scene, *movies)
    _obj, faces = dub(package, scene)
    assert waiting(package, faces) == [0, 0]
    assert sent.count("track") == 1


@pytest.mark.parametrize("after", [20, 60, 130, 170])
def test_a_killed_engine_loses_nothing_of_two_movies(package, scene, movies, fake_engine, tmp_path, after):
    """While the first or the second movie is tracked, or one of them is rendered."""
    fake_engine("--die-after", after, "--once", tmp_path / "once")
    _obj, faces = dub(package, scene)
    assert len(faces) == 2
    assert waiting(package, faces) == [0, 0]
