"""Fixtures with Blender as a Python module: the repository is linked into a temporary extensions folder and enabled."""

from __future__ import annotations

import json
import os
import pkgutil
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
EXTENSION = "bl_ext.user_default.edtalk"

# Set before bpy is imported; otherwise it reads and writes the user's settings.
_resources = tempfile.TemporaryDirectory(prefix="edtalk_blender_")
os.environ["BLENDER_USER_RESOURCES"] = _resources.name
try:
    import bpy
except ImportError:
    collect_ignore_glob = ["test_*.py"]
    bpy = None


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Exit without finalising the interpreter: Blender 4.5 can deadlock there if a handler or timer is registered."""
    if bpy is not None and bpy.app.version < (5, 0, 0):
        status = getattr(config, "edtalk_status", 1)
        sys.stdout.flush()
        sys.stderr.flush()
        _resources.cleanup()
        os._exit(status)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.edtalk_status = int(exitstatus)


@pytest.fixture(scope="session")
def addon() -> Iterator[ModuleType]:
    """The enabled extension's root package, with its modules as attributes, such as `addon.edtalk_blender.compat`."""
    folder = Path(bpy.utils.user_resource("EXTENSIONS", path="user_default", create=True))
    (folder / "edtalk").symlink_to(ROOT, target_is_directory=True)
    bpy.ops.extensions.repo_refresh_all()
    bpy.ops.preferences.addon_enable(module=EXTENSION)
    package = sys.modules[EXTENSION]
    for module in pkgutil.walk_packages(package.edtalk_blender.__path__, f"{EXTENSION}.edtalk_blender."):
        import_module(module.name)
    yield package
    bpy.ops.preferences.addon_disable(module=EXTENSION)


@pytest.fixture(scope="session")
def package(addon: ModuleType) -> ModuleType:
    """The add-on, with its modules as attributes, such as `package.timeline.sequencer`."""
    return addon.edtalk_blender


@pytest.fixture(scope="session")
def film(tmp_path_factory, addon) -> Path:
    """A movie of 50 frames, 640 x 360 pixels at 25 fps, whose brightness increases with every frame."""
    path = tmp_path_factory.mktemp("film") / "walk.mkv"
    compat, scene = addon.edtalk_blender.compat, bpy.data.scenes.new("film")
    scene.render.fps, scene.frame_start, scene.frame_end = 25, 1, 50
    scene.render.resolution_x, scene.render.resolution_y = 640, 360
    strips = compat.strip_collection(scene)
    known = strips.bl_rna.functions["new_effect"].parameters
    end = {"length": 50} if "length" in known else {"frame_end": 51}
    strip = strips.new_effect(name="grey", type="COLOR", channel=1, frame_start=1, **end)
    for frame in (1, 50):
        strip.color = [0.1 if frame == 1 else 0.9] * 3
        strip.keyframe_insert("color", frame=frame)
    for point in (point for curve in compat.fcurves(scene) for point in curve.keyframe_points):
        point.interpolation = "LINEAR"
    scene.view_settings.view_transform = "Standard"
    compat.set_video_output(scene, path)
    scene.render.ffmpeg.format, scene.render.ffmpeg.audio_codec = "MKV", "NONE"
    bpy.ops.render.render(animation=True, scene=scene.name)
    bpy.data.scenes.remove(scene)
    return path


@pytest.fixture(autouse=True)
def scene(addon: ModuleType) -> bpy.types.Scene:
    """An empty scene at 24 fps with frames 1 to 250, which the Sequencer edits too. The extension stays enabled."""
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    if hasattr(bpy.context.workspace, "sequencer_scene"):  # since Blender 5.0
        bpy.context.workspace.sequencer_scene = bpy.context.scene
    return bpy.context.scene


@pytest.fixture
def demo() -> Path:
    """Folder with the portraits and the sound of the demo."""
    return ROOT / "inference" / "demo"


@pytest.fixture
def obj(addon: ModuleType, scene: bpy.types.Scene, demo: Path) -> bpy.types.Object:
    """A character with a portrait and the starter bank, active in the scene."""
    made = addon.edtalk_blender.character.character.create(scene, str(demo / "portrait_1.png"), name="Anna")
    bpy.context.view_layer.objects.active = made
    return made


@pytest.fixture
def write_bank(tmp_path: Path) -> Callable[..., Path]:
    """Writes a bank with other sliders than the starter bank, and without usable weights."""

    def write(
        name: str = "other",
        banks: Mapping[str, tuple[str, ...]] | None = None,
        presets: Mapping[str, Sequence[float]] | None = None,
        rest: float = 0.0,
    ) -> Path:
        banks = banks or {"lip": ("jawOpen", "lip_02"), "pose": ("headYaw",), "exp": ("exp_01", "exp_02")}
        bank = {
            "format_version": 1,
            "name": name,
            "size": 8,
            "style_dim": 4,
            "channels": {"4": 4, "8": 4},
            "banks": [[bank, len(names)] for bank, names in banks.items()],
            "coefficients": [
                {"name": name, "bank": bank, "rest": rest, "soft_min": -2.0, "soft_max": 2.0, "unit": ""}
                for bank, names in banks.items()
                for name in names
            ],
            "presets": {"neutral": [2.0, 0.0], "happy": [5.0, 1.0]} if presets is None else presets,
            "licence": "CC0-1.0",
            "origin": "a test",
            "sha256": name,
            "has_audio": False,
        }
        tensors = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
        text = json.dumps({"__metadata__": {"edtalk": json.dumps(bank)}, **tensors}).encode()
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
        return path

    return write


@pytest.fixture
def fake_engine(addon: ModuleType) -> Iterator[Callable[..., object]]:
    """Starts `tests/fake_worker.py` with the given options as the session's worker. Returns its client."""
    session = addon.edtalk_blender.engine.session
    client_module = addon.edtalk_blender.engine.client

    def start(*options: str, **limits: float) -> object:
        session.restart()
        command = [sys.executable, str(ROOT / "tests" / "fake_worker.py"), *map(str, options)]
        session._state.client = client_module.Client(command, limits=client_module.Limits(**limits))
        return session._state.client

    yield start
    session.restart()


@pytest.fixture
def rendered(
    package: ModuleType,
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    fake_engine: Callable[..., object],
    tmp_path: Path,
) -> bpy.types.Object:
    """The character of a saved file, with 12 rendered frames that all differ, because it turns its head."""
    scene.frame_start, scene.frame_end = 1, 12
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    package.animation.keys.write_curves(obj, {"headYaw": np.linspace(0.0, 1.0, 12)}, np.arange(1, 13))
    fake_engine()
    bpy.ops.edtalk.render_face(frames="SCENE")
    return obj


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    """A file for `--hold` of the fake worker, which continues when the test deletes it."""
    file = tmp_path / "hold"
    file.touch()
    return file


@pytest.fixture
def engine(addon: ModuleType) -> ModuleType:
    """The session with the real engine, which keeps running between tests."""
    session = addon.edtalk_blender.engine.session
    found = session.find_engine()
    if not found.usable:
        pytest.skip(f"needs the worker's environment: {found.reason}")
    if session.current_client() is None or "fake_worker" in str(session.current_client().command):
        session.restart()
    return session
