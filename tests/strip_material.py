"""Test sounds in which every moment is unique, and helpers for strips and keyframes; for tests in Blender."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aud
import bpy
import numpy as np

RATE = 16_000
CONTAINERS = {
    "wav": (aud.CONTAINER_WAV, aud.CODEC_PCM),
    "flac": (aud.CONTAINER_FLAC, aud.CODEC_FLAC),
    "mp3": (aud.CONTAINER_MP3, aud.CODEC_MP3),
    "ogg": (aud.CONTAINER_OGG, aud.CODEC_VORBIS),
    "mkv": (aud.CONTAINER_MATROSKA, aud.CODEC_AAC),
}


def noise(seconds: float, rate: int = RATE) -> np.ndarray:
    """Samples (n,) float32 in -0.5..0.5, smooth enough for lossy formats."""
    steps = np.random.default_rng(3).uniform(-0.5, 0.5, int(seconds * 500) + 1)
    return np.interp(np.arange(round(seconds * rate)) / rate, np.arange(len(steps)) / 500, steps).astype(np.float32)


def write_sound(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    """Write samples (n,) or (n, channels) to a file in the format of its suffix. Returns the path."""
    samples = np.ascontiguousarray(samples.reshape(len(samples), -1), np.float32)
    container, codec = CONTAINERS[path.suffix[1:]]
    sound = aud.Sound.buffer(samples, rate)
    sound.write(str(path), rate, samples.shape[1], aud.FORMAT_S16, container, codec, 192_000, 1024)
    return path


def lag(heard: np.ndarray, truth: np.ndarray, at: int, most: int = 3000) -> int:
    """Offset of `heard` from `truth[at:]` in samples; positive if it is from later in `truth`."""
    window = heard[: min(len(heard), 8000)].astype(np.float64)
    errors = {}
    for shift in range(-min(most, at), most + 1):
        part = truth[at + shift : at + shift + len(window)]
        if len(part) == len(window):
            errors[shift] = np.abs(part - window).mean()
    return min(errors, key=errors.get)


def set_speed(package, scene: bpy.types.Scene, strip: bpy.types.Strip, percent: float) -> None:
    """Retime a whole strip with the operator Set Speed."""
    scene.sequence_editor.active_strip = strip
    for other in package.compat.strips(scene):
        other.select = other == strip
    with sequencer_context(bpy.context, scene):
        bpy.ops.sequencer.retiming_segment_speed_set(speed=percent)


def add_retiming_keys(package, scene: bpy.types.Scene, strip: bpy.types.Strip, *frames: int) -> None:
    """Add retiming keys at scene frames. They have no effect until they are moved."""
    scene.sequence_editor.active_strip = strip
    for other in package.compat.strips(scene):
        other.select = other == strip
    with sequencer_context(bpy.context, scene):
        bpy.ops.sequencer.retiming_show()
        for frame in frames:
            bpy.ops.sequencer.retiming_key_add(timeline_frame=frame)


def select(scene: bpy.types.Scene, *strips: bpy.types.Strip) -> None:
    """Select these strips and no others."""
    for strip in scene.sequence_editor.strips_all:
        strip.select = strip in strips


def keys(package, obj: bpy.types.Object, name: str = "jawOpen") -> np.ndarray:
    """(K, 2) frames and values of a slider's keyframes."""
    path = package.character.sliders.data_path(name)
    for curve in package.compat.fcurves(obj):
        if curve.data_path == path:
            return np.array([point.co for point in curve.keyframe_points])
    return np.empty((0, 2))


@contextmanager
def sequencer_context(context: bpy.types.Context, scene: bpy.types.Scene) -> Iterator[None]:
    """Run sequencer operators on `scene`. If there is no sequencer area, another area is used temporarily."""
    window = context.window or context.window_manager.windows[0]
    area = next((area for area in window.screen.areas if area.type == "SEQUENCE_EDITOR"), window.screen.areas[0])
    workspace = window.workspace
    old_type, old_scene = area.type, getattr(workspace, "sequencer_scene", None)
    area.type = "SEQUENCE_EDITOR"
    region = next(region for region in area.regions if region.type == "WINDOW")
    try:
        with context.temp_override(window=window, scene=scene, area=area, region=region):
            if hasattr(workspace, "sequencer_scene"):  # since Blender 5.0
                workspace.sequencer_scene = scene
            yield
    finally:
        area.type = old_type
        if hasattr(workspace, "sequencer_scene"):
            workspace.sequencer_scene = old_scene
