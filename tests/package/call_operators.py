"""Calls every operator of an installed extension in an empty Blender, and prints what happened as JSON.

python tests/package/call_operators.py EXTENSION.zip FOLDER
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import bpy

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from tests.strip_material import noise, write_sound

MODULE = "bl_ext.user_default.edtalk"
NEEDS_ENGINE = "replaces or removes the installed engine; tests/unit/test_installation.py and test_engine_buttons.py"
_TRAINING = "needs or starts a training outside Blender; tests/blender/test_training.py"
EXCLUDED = {  # operators of which only `poll` is called: why, and where they are run
    "install_engine": NEEDS_ENGINE,
    "install_engine_from_folder": NEEDS_ENGINE,
    "repair_engine": NEEDS_ENGINE,
    "uninstall_engine": NEEDS_ENGINE,
    "cancel_installation": "needs a running installation; tests/blender/test_engine_buttons.py",
    "use_installed_engine": "needs another Python in the preferences; tests/blender/test_engine_buttons.py",
    "show_preferences": "needs a window, which background mode does not have",
    "apply_pose_asset": "needs a pose that is selected in an Asset Browser; tests/blender/test_pose_assets.py",
    "check_footage": _TRAINING,
    "train_bank": _TRAINING,
    "stop_training": _TRAINING,
    "resume_training": _TRAINING,
    "forget_training": _TRAINING,
    "use_trained_bank": _TRAINING,
    "tune_to_person": "needs a bank without a refiner; tests/blender/test_training.py",
    "make_override": "needs a second file with a linked character; tests/blender/test_character.py",
}


class World:
    """A saved scene with a character, its dialogue and a movie, before each operator is called."""

    def __init__(self, package: ModuleType, folder: Path) -> None:
        self.package, self.folder = package, folder
        self.portrait = str(ROOT / "inference" / "demo" / "portrait_1.png")
        self.sound = write_sound(folder / "line.wav", noise(0.5))
        self.film = self._film()

    def _film(self) -> Path:
        path, compat = self.folder / "walk.mkv", self.package.compat
        scene = bpy.data.scenes.new("film")
        scene.frame_end, scene.render.resolution_x, scene.render.resolution_y = 10, 64, 36
        compat.new_image(scene, "face", self.portrait, 1, 1)
        compat.set_video_output(scene, path)
        scene.render.ffmpeg.format, scene.render.ffmpeg.audio_codec = "MKV", "NONE"
        bpy.ops.render.render(animation=True, scene=scene.name)
        return path

    def reset(self) -> None:
        bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
        bpy.ops.wm.save_as_mainfile(filepath=str(self.folder / "shot.blend"))
        self.package.engine.session.dismiss()
        scene = bpy.context.scene
        scene.frame_start, scene.frame_end = 1, 3
        scene.render.resolution_x = scene.render.resolution_y = 32
        bpy.ops.edtalk.add_character(filepath=self.portrait)
        self.obj = bpy.context.view_layer.objects.active
        sound = self.package.compat.new_sound(scene, "line", self.sound, 1, 1)
        movie = self.package.compat.new_movie(scene, "walk", self.film, 2, 1)
        sound.select = movie.select = True
        self.package.timeline.sequencer.assign(sound, self.obj)

    # --- States that operators need, made with other operators

    def rendered(self) -> dict[str, Any]:
        bpy.ops.edtalk.render_face(frames="SCENE")
        return {}

    def lip_synced(self) -> dict[str, Any]:
        bpy.ops.edtalk.lip_sync(which="LINKED")
        return {}

    def rendering(self) -> dict[str, Any]:
        session = self.package.engine.session
        session.submit(lambda: None, label="waits for its turn")
        return {}

    def running_engine(self) -> dict[str, Any]:
        session = self.package.engine.session
        session.wait(self.package.character.rest_pose.measure(self.obj))
        return {}

    def two_faces(self) -> dict[str, Any]:
        bpy.ops.edtalk.add_character(filepath=str(ROOT / "inference" / "demo" / "portrait_2.png"))
        bpy.ops.edtalk.render_face(frames="SCENE", everybody=True)
        return {}

    def several_variations(self) -> dict[str, Any]:
        self.obj.edtalk.head_variations = 2
        bpy.ops.edtalk.head_motion()
        (strip, *_rest) = self.package.timeline.sequencer.dialogue(bpy.context.scene, self.obj)
        return {"name": self.package.lipsync.head_motion.variations(strip)[1]}

    def without_character(self) -> dict[str, Any]:
        bpy.data.objects.remove(self.obj)
        return {}

    def other_object(self) -> dict[str, Any]:
        empty = bpy.data.objects.new("Empty", None)
        bpy.context.scene.collection.objects.link(empty)
        bpy.context.view_layer.objects.active = empty
        return {}

    def head(self) -> dict[str, Any]:
        """A mesh with shape keys, active and selected."""
        mesh = bpy.data.meshes.new("Head")
        mesh.from_pydata([(0, 0, 0), (1, 0, 0), (0, 1, 0)], [], [(0, 1, 2)])
        obj = bpy.data.objects.new("Head", mesh)
        bpy.context.scene.collection.objects.link(obj)
        obj.shape_key_add(name="Basis")
        for name in ("jawOpen", "mouthSmileLeft"):
            obj.shape_key_add(name=name)
        obj.edtalk_rig.character = self.obj
        bpy.context.view_layer.objects.active = obj
        return {}

    def linked_head(self) -> dict[str, Any]:
        self.head()
        bpy.ops.edtalk.match_shapes()
        return {}

    def driven_head(self) -> dict[str, Any]:
        self.linked_head()
        bpy.ops.edtalk.drive_shapes()
        return {}

    def named(self) -> dict[str, Any]:
        bpy.ops.edtalk.name_sliders(everything=True)
        return {"filepath": str(self.folder / "named.safetensors")}

    def unnamed(self) -> dict[str, Any]:
        return {"everything": True}

    def expression(self) -> dict[str, Any]:
        self.obj.edtalk[self.package.character.files.bank_of(self.obj).names_of("exp")[0]] = 0.5
        return {"emotion": "proud"}

    def own_emotion(self) -> dict[str, Any]:
        bpy.ops.edtalk.save_emotion(**self.expression())
        return {"emotion": "proud"}

    def emotions_file(self) -> dict[str, Any]:
        self.own_emotion()
        path = str(self.folder / "emotions.json")
        bpy.ops.edtalk.export_emotions(filepath=path)
        return {"filepath": path}

    def take(self) -> dict[str, Any]:
        path = self.folder / "take.csv"
        path.write_text("Timecode,BlendShapeCount,JawOpen\n00:00:00:00.000,61,0.1\n00:00:00:01.000,61,0.5\n")
        return {"filepath": str(path)}

    def farm_job(self) -> dict[str, Any]:
        job = {"directory": str(self.folder / "job"), "frames": "SCENE"}
        bpy.ops.edtalk.export_farm_job(**job)
        return {"directory": job["directory"]}

    def footage(self) -> dict[str, Any]:
        """The settings of a training with the movie as clip."""
        bpy.ops.edtalk.new_bank_from_footage(directory=str(self.folder))
        self.package.training.trainings.draft().consent = True
        return {"directory": str(self.folder / "training")}


PREPARED: dict[str, Callable[[World], dict[str, Any]]] = {  # what an operator needs; returns its properties
    "add_character": lambda world: {"filepath": world.portrait},
    "add_emotion": lambda world: world.own_emotion(),
    "add_link": World.head,
    "apply_names": World.named,
    "arrange_faces": World.two_faces,
    "bake_shapes": World.linked_head,
    "build_compositor": World.rendered,
    "cancel": World.rendering,
    "capture_file": lambda world: {"filepath": str(world.film)},
    "demo": World.without_character,
    "discard_names": lambda world: world.named() and {},
    "drive_shapes": World.linked_head,
    "emotion_change": lambda _world: {"emotion": "happy"},
    "emotion_key": lambda _world: {"emotion": "happy"},
    "export_emotions": lambda world: world.own_emotion() and {"filepath": str(world.folder / "emotions.json")},
    "export_farm_job": lambda world: {"directory": str(world.folder / "job"), "frames": "SCENE"},
    "close_training_settings": lambda world: world.footage() and {},
    "new_bank_from_footage": lambda world: {"directory": str(world.folder)},
    "export_training_job": World.footage,
    "export_movie": lambda world: world.rendered() or {"filepath": str(world.folder / "out.mp4")},
    "fetch_farm_frames": World.farm_job,
    "free_memory": World.running_engine,
    "import_arkit": World.take,
    "import_emotions": World.emotions_file,
    "make_character": World.other_object,
    "match_picture": lambda world: {"filepath": world.portrait},
    "match_shapes": World.head,
    "name_sliders": World.unnamed,
    "paste_pose": lambda world: {"text": world.package.animation.pose.to_text({"jawOpen": 0.5})},
    "remove_emotion": World.own_emotion,
    "remove_link": World.linked_head,
    "render_face": lambda _world: {"frames": "SCENE"},
    "resync": World.lip_synced,
    "save_emotion": World.expression,
    "save_pose_asset": lambda world: world.expression() and {},
    "select_character": lambda world: {"uid": world.obj.edtalk.uid},
    "set_bank": lambda _world: {"starter": True},
    "set_portrait": lambda world: {"filepath": world.portrait},
    "undrive_shapes": World.driven_head,
    "use_variation": World.several_variations,
}


def classes(package: ModuleType) -> dict[str, type]:
    """The registered operators of the add-on, by the name of their function in `bpy.ops.edtalk`."""
    found = {}
    for module in package.modules():
        for cls in vars(module).values():
            is_own = isinstance(cls, type) and issubclass(cls, bpy.types.Operator) and cls.__module__ == module.__name__
            if is_own and getattr(cls, "bl_idname", "").startswith("edtalk."):
                found[cls.bl_idname.removeprefix("edtalk.")] = cls
    return found


def use_fake_engine(package: ModuleType) -> None:
    session, client = package.engine.session, package.engine.client
    session.restart()
    session._state.client = client.Client([sys.executable, str(ROOT / "tests" / "fake_worker.py")])


def call(world: World, name: str) -> dict[str, Any]:
    """Call one operator in a new scene."""
    world.reset()
    use_fake_engine(world.package)
    operator, polled = getattr(bpy.ops.edtalk, name), []
    try:
        polled.append(operator.poll())
        if name in EXCLUDED:
            return {"polled": polled}
        options = PREPARED.get(name, lambda _world: {})(world)
        polled.append(operator.poll())
        return {"polled": polled, "answer": sorted(operator(**options))}
    except Exception:
        return {"polled": polled, "error": traceback.format_exc()[-2000:]}


def main() -> None:
    zip_path, folder = sys.argv[1], Path(sys.argv[2])
    bpy.ops.extensions.package_install_files(repo="user_default", filepath=zip_path, enable_on_install=True)
    package = sys.modules[f"{MODULE}.edtalk_blender"]
    world, known = World(package, folder), classes(package)
    result = {
        "registered": sorted(dir(bpy.ops.edtalk)),
        "defined": sorted(known),
        "replaced": [name for name, cls in known.items() if getattr(bpy.types, f"EDTALK_OT_{name}", None) is not cls],
        "excluded": EXCLUDED,
        "calls": {name: call(world, name) for name in known},
    }
    package.engine.session.restart()
    print("RESULT " + json.dumps(result), flush=True)
    os._exit(0)  # Blender 4.5 can hang when the interpreter ends


if __name__ == "__main__":
    main()
