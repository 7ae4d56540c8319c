"""End to end with the real engine: from a portrait and a sound to a movie."""

import subprocess
import sys
import time
from pathlib import Path

import bpy
import numpy as np
import pytest

from tests.pumping import PATIENCE

ROOT = Path(__file__).parents[2]
SIZE, DETAILED, FRAMES = 128, 512, 16  # of the bank, of a face as a new character renders it


def test_from_a_portrait_and_a_sound_to_a_movie(package, scene, engine, demo, tmp_path):
    compat, character, sequencer = package.compat, package.character, package.timeline.sequencer
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    scene.render.fps = 25
    scene.render.resolution_x = scene.render.resolution_y = SIZE

    bpy.ops.edtalk.add_character(filepath=str(demo / "portrait_2.png"), title="Anna")
    obj = character.character.active(bpy.context)
    line = compat.new_sound(scene, "line", demo / "line.wav", 1, 1)
    compat.set_strip_value(line, "left_handle", 20)
    compat.set_strip_value(line, "right_handle", 20 + FRAMES)
    line.select = True
    assert bpy.ops.edtalk.lip_sync() == {"FINISHED"}
    assert package.character.rest_pose.is_known(obj)
    jaw = next(curve for curve in compat.fcurves(obj) if curve.data_path == character.sliders.data_path("jawOpen"))
    spoken = [jaw.evaluate(frame) for frame in range(20, 20 + FRAMES)]
    assert np.ptp(spoken) > 0.05, "the mouth moves"

    package.animation.keys.insert_keys(obj, {"happy": 0.0}, 20)
    package.animation.keys.insert_keys(obj, {"happy": 1.0}, 19 + FRAMES)
    assert bpy.ops.edtalk.render_face() == {"FINISHED"}
    (face,) = sequencer.faces(scene, obj)
    assert (compat.left_handle(face), compat.right_handle(face)) == (20, 20 + FRAMES)
    assert package.render.face_strip.waiting_frames(face) == 0
    names = [element.filename for element in face.elements]
    assert len(set(names)) == FRAMES

    first, last = (rendered(package, face, name) for name in (names[0], names[-1]))
    assert first.shape == (DETAILED, DETAILED, 4)
    assert first[..., :3].std() > 0.05, "the picture is not uniform"
    assert np.abs(first - last).max() > 0.1, "the face has changed"

    package.animation.keys.insert_keys(obj, {"happy": 0.5}, 27)
    span = package.timeline.sequencer.render_range(scene, obj, "AUTO")
    task, plan = package.render.render.render_face(scene, obj, span)
    package.engine.session.wait(task)
    assert plan.reused >= 2, "at least the first and the last frame"
    assert plan.missing < FRAMES

    scene.frame_start, scene.frame_end = span[0], span[1] - 1
    movie = tmp_path / "shot.mp4"
    assert bpy.ops.edtalk.export_movie(filepath=str(movie)) == {"FINISHED"}
    clip = compat.strip_collection(scene).new_movie(name="movie", filepath=str(movie), channel=8, frame_start=1)
    heard = compat.new_sound(scene, "sound", movie, 9, 1)
    assert abs((compat.right_handle(clip) - compat.left_handle(clip)) - FRAMES) <= 1
    assert clip.fps == pytest.approx(25)
    voice = package.timeline.audio.read(scene, heard, sequencer.time_map(scene, heard))
    assert np.abs(voice.samples).max() > 0.01, "the dialogue is audible"
    assert not package.engine.session.problems


def rendered(package, strip, name):
    """(H, W, 4) float32 pixels of a strip's file."""
    image = bpy.data.images.load(str(package.render.face_strip.folder_of(strip) / name))
    values = np.empty(4 * image.size[0] * image.size[1], np.float32)
    image.pixels.foreach_get(values)
    return values.reshape(image.size[1], image.size[0], 4)


def test_everything_at_rest_renders_the_portrait_itself(package, scene, engine, demo):
    """At rest the rendered frame equals the picture from measuring the portrait."""
    obj = package.character.character.create(scene, str(demo / "portrait_2.png"), name="Anna")
    engine.wait(package.character.rest_pose.measure(obj))
    image = package.character.viewport.face_image(obj)
    assert tuple(image.size) == (SIZE, SIZE)
    at_portrait = np.empty(4 * SIZE * SIZE, np.float32)
    image.pixels.foreach_get(at_portrait)
    answers = []
    character = package.character
    face = character.files.bank_path(obj), character.files.portrait_path(obj), character.files.crop_of(obj)
    request = engine.requests.Preview(*face, character.sliders.row(obj))
    engine.wait(engine.submit(request, on_done=answers.append))
    assert np.abs(package.character.viewport.to_rgba(answers[0].pixels).ravel() - at_portrait).mean() < 0.1


def test_openexr_and_png_frames_look_the_same(package, scene, engine, demo, tmp_path):
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    scene.frame_end = 1
    scene.render.resolution_x = scene.render.resolution_y = DETAILED  # Blender scales the two differently
    package.character.character.create(scene, str(demo / "portrait_2.png"), name="Anna")
    stills = []
    for image_format in ("png", "exr"):
        package.timeline.sequencer.settings(scene).image_format = image_format
        assert bpy.ops.edtalk.render_face(frames="SCENE", everybody=True) == {"FINISHED"}
        (strip,) = scene.sequence_editor.strips
        assert strip.elements[0].filename.endswith(image_format)
        scene.render.filepath = str(tmp_path / f"{image_format}.png")
        bpy.ops.render.render(write_still=True)
        still = bpy.data.images.load(scene.render.filepath)
        stills.append(np.empty(4 * DETAILED**2, np.float32))
        still.pixels.foreach_get(stills[-1])
    assert np.abs(stills[0] - stills[1]).max() < 0.01


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see whether a process lives")
def test_killing_blender_ends_the_engine_and_leaves_complete_frames(tmp_path):
    """Runs in a separate Blender process that is killed after a few frames."""
    blend = tmp_path / "shot.blend"
    command = [sys.executable, "-c", KILLED, str(ROOT), str(blend)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        worker = next(int(line.split()[1]) for line in started.stdout if line.startswith("worker"))
        next(line for line in started.stdout if line.startswith("three frames"))
    finally:
        started.kill()
        started.wait()
        started.stdout.close()
    until = time.monotonic() + PATIENCE
    while alive(worker):
        assert time.monotonic() < until
        time.sleep(0.02)
    frames = [path for path in (tmp_path / "shot_edtalk" / "Anna" / "frames").iterdir() if path.name[0] not in "w."]
    assert 3 <= len(frames) < 100
    assert all(path.read_bytes().endswith(b"IEND\xaeB`\x82") for path in frames)
    bpy.ops.wm.open_mainfile(filepath=str(blend))
    (strip,) = bpy.context.scene.sequence_editor.strips
    assert len({element.filename for element in strip.elements} & {path.name for path in frames}) == len(frames)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


KILLED = """
import os, sys, tempfile
from importlib import import_module
from pathlib import Path
os.environ["BLENDER_USER_RESOURCES"] = tempfile.mkdtemp(dir=Path(sys.argv[2]).parent)
import bpy
root, blend = Path(sys.argv[1]), sys.argv[2]
folder = Path(bpy.utils.user_resource("EXTENSIONS", path="user_default", create=True))
(folder / "edtalk").symlink_to(root, target_is_directory=True)
bpy.ops.extensions.repo_refresh_all()
bpy.ops.preferences.addon_enable(module="bl_ext.user_default.edtalk")
names = (
    "character.character",
    "engine.session",
    "character.rest_pose",
    "render.render",
    "engine.client",
    "animation.keys",
)
character, session, portrait, render, client, animation = (
    import_module(f"bl_ext.user_default.edtalk.edtalk_blender.{name}") for name in names
)
bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
bpy.ops.wm.save_as_mainfile(filepath=blend)
session._state.client = client.Client([sys.executable, str(root / "tests" / "fake_worker.py"), "--slow", "0.02"])
scene = bpy.context.scene
obj = character.create(scene, str(root / "inference" / "demo" / "portrait_1.png"), name="Anna")
session.wait(portrait.measure(obj))
print("worker", session._state.client.hello.pid, flush=True)
animation.write_curves(obj, {"headYaw": [0.0, 1.0]}, [1.0, 100.0])
render.render_face(scene, obj, (1, 101))
bpy.ops.wm.save_mainfile()
while session.tasks:
    session.pump(0.02)
    if len(list((Path(blend).parent / "shot_edtalk/Anna/frames").glob("[0-9a-f]*.png"))) >= 3:
        print("three frames", flush=True)
"""
