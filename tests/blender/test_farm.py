"""Farm jobs: export, rendering without Blender, and fetching the frames."""

import json
import subprocess
import wave
from pathlib import Path

import bpy
import numpy as np
import pytest

from tests.fake_worker import encode_png
from tests.strip_material import RATE, noise, write_sound

FRAMES = 6


@pytest.fixture
def saved(scene, tmp_path):
    """The scene saved as `film.blend`, from frame 101 on."""
    scene.frame_start, scene.frame_end = 101, 100 + FRAMES
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "film.blend"))
    return tmp_path


@pytest.fixture
def turning(package, obj):
    """The character turns its head, so that all frames differ."""
    package.animation.keys.write_curves(obj, {"headYaw": np.linspace(0.0, 1.0, FRAMES)}, np.arange(101, 101 + FRAMES))
    return obj


@pytest.fixture
def read_shot(addon):
    return addon.inference.contract.shot.Shot.read


def export(folder: Path, **options):
    return bpy.ops.edtalk.export_farm_job(**{"directory": str(folder), "frames": "SCENE"} | options)


def values(job: Path) -> dict:
    given = json.loads((job / "parameter_values.json").read_text())["parameterValues"]
    return {one["name"]: one["value"] for one in given}


def test_a_job_holds_the_shot_that_render_face_writes(package, scene, saved, turning, fake_engine, read_shot, tmp_path):
    fake_engine()
    assert export(tmp_path / "jobs", chunk=2, gpus=1, engine="/f/python", engine_folder="/f/edtalk") == {"FINISHED"}
    job = tmp_path / "jobs" / "Anna"
    shot = read_shot(job / "shot")
    rows = package.animation.sampling.sample(scene, turning, range(101, 101 + FRAMES))
    np.testing.assert_allclose(shot.coefficients.values, rows, atol=1e-5)
    assert (shot.first_frame, shot.coefficients.fps, shot.image_format) == (101, 24.0, "png")
    assert (shot.bank.parent, shot.portrait.parent) == (job / "shot", job / "shot")
    given = values(job)
    assert (given["Frames"], given["ChunkSize"], given["Clip"]) == ("101-106", 2, "film Anna.mp4")
    assert (given["Engine"], given["EngineFolder"]) == ("/f/python", "/f/edtalk")
    template = json.loads((job / "template.json").read_text())
    assert template["name"] == "film Anna"
    assert template["steps"][0]["hostRequirements"]["amounts"][0]["min"] == 1
    assert not list(package.timeline.sequencer.faces(scene, turning)), "no face strip is added"


def test_rendered_frames_are_exported_and_farm_frames_fetched(
    package, scene, saved, turning, fake_engine, read_shot, tmp_path
):
    fake_engine()
    bpy.ops.edtalk.render_face(frames="SCENE")
    package.animation.keys.insert_keys(turning, {"headYaw": 3.0}, 101)
    package.animation.keys.insert_keys(turning, {"headYaw": 4.0}, 102)
    export(tmp_path / "jobs")
    shot = read_shot(tmp_path / "jobs" / "Anna" / "shot")
    assert shot.missing() == [0, 1]
    picture = encode_png([bytes(12)] * 4, 2)
    (shot.frames_folder / shot.file_names()[0]).write_bytes(picture)
    assert bpy.ops.edtalk.fetch_farm_frames() == {"FINISHED"}, "the folder of the job is remembered"
    frames = package.render.operators.character_folder(turning) / "frames"
    assert (frames / shot.file_names()[0]).read_bytes() == picture
    _task, plan = package.render.render.render_face(scene, turning, (101, 101 + FRAMES))
    assert plan.missing == 1


@pytest.mark.slow
def test_an_exported_job_renders_without_blender(package, scene, saved, turning, engine, tmp_path):
    """The job renders in a separate process; nothing is left to render afterwards."""
    assert export(tmp_path / "jobs") == {"FINISHED"}
    job = tmp_path / "jobs" / "Anna"
    given = values(job)
    command = [given["Engine"], "-X", "utf8", f"{given['EngineFolder']}/inference", "shot", "render", job / "shot"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert answer.returncode == 0, answer.stderr
    assert bpy.ops.edtalk.fetch_farm_frames() == {"FINISHED"}
    task, plan = package.render.render.render_face(scene, turning, (101, 101 + FRAMES))
    assert (task, plan.missing) == (None, 0)
    (strip,) = package.timeline.sequencer.faces(scene, turning)
    assert package.render.face_strip.waiting_frames(strip) == 0


def test_the_dialogue_of_a_job_is_in_sync(package, scene, saved, obj, fake_engine, tmp_path):
    """One strip starts half a second into the job, one is trimmed and ends after it, and one is muted."""
    fake_engine()
    scene.frame_start, scene.frame_end = 1, 48
    samples = noise(2.0)
    path = write_sound(tmp_path / "line.wav", samples)
    places = ((1, 13), (2, 25), (3, 1))
    strips = [package.compat.new_sound(scene, "line", path, channel, start) for channel, start in places]
    for strip in strips:
        package.timeline.sequencer.assign(strip, obj)
    package.compat.set_strip_value(strips[0], "right_handle", 25)  # half a second
    package.compat.set_strip_value(strips[1], "left_handle", 37)  # and the second half of the line's first second
    strips[1].volume = 0.5
    strips[2].mute = True
    assert export(tmp_path / "jobs") == {"FINISHED"}
    with wave.open(str(tmp_path / "jobs" / "Anna" / "shot" / "dialogue.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (RATE, 1, 2 * RATE)
        heard = np.frombuffer(file.readframes(2 * RATE), "<i2") / 32767
    expected = np.zeros(2 * RATE)
    half = RATE // 2
    expected[half : 2 * half] = samples[:half]
    expected[3 * half :] = 0.5 * samples[half : 2 * half]
    assert np.abs(heard - expected).max() < 1e-3


def test_a_silent_character_has_no_sound(package, scene, saved, obj, fake_engine, read_shot, tmp_path):
    fake_engine()
    export(tmp_path / "jobs")
    assert read_shot(tmp_path / "jobs" / "Anna" / "shot").sound is None


def test_all_characters_at_once(package, scene, saved, obj, fake_engine, demo, tmp_path):
    fake_engine()
    package.character.character.create(scene, str(demo / "portrait_2.png"), name="Bo/b")
    export(tmp_path / "jobs", everybody=True)
    assert {path.name for path in (tmp_path / "jobs").iterdir()} == {"Anna", "Bo_b"}
    assert bpy.ops.edtalk.fetch_farm_frames() == {"FINISHED"}


def test_export_problems_are_reported(package, scene, saved, obj, fake_engine, tmp_path):
    fake_engine()
    with pytest.raises(RuntimeError, match="No folder is set"):
        bpy.ops.edtalk.export_farm_job(frames="SCENE")
    with pytest.raises(RuntimeError, match="no dialogue yet"):
        export(tmp_path / "jobs", frames="DIALOGUE")
    with pytest.raises(RuntimeError, match="contains no job of these characters"):
        bpy.ops.edtalk.fetch_farm_frames(directory=str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeError, match="could not be written"):
        export(tmp_path / "file")
