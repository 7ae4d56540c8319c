"""Evaluate a character's sliders over a range of frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import bpy
import numpy as np

from ...inference.contract.mixing import bank_strengths
from .. import compat
from ..character import sliders, snapshot
from ..character.snapshot import CharacterSnapshot
from ..engine import session


def sliders_at(obj: bpy.types.Object, names: Iterable[str], frame: float) -> dict[str, float]:
    """Slider values at a frame according to their F-curves; the current value for sliders without one."""
    curves = {curve.data_path: curve for curve in compat.fcurves(obj) if not is_silent(curve)}
    found = {}
    for name in names:
        curve = curves.get(sliders.data_path(name))
        found[name] = curve.evaluate(frame) if curve else float(obj.edtalk.get(name, 0.0))
    return found


def sample(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    frames: Sequence[float] | np.ndarray,
    face: CharacterSnapshot | None = None,
) -> np.ndarray:
    """Coefficients (T, n) float32 to render at `frames` (T,), as Blender evaluates them, with drivers and NLA.

    If only F-curves animate the character, they are evaluated directly. Otherwise the scene is stepped through the
    frames, and the current frame is restored. Sliders without keyframes keep their current value. face: snapshot of
    `obj`; None: it is read. Raises EDTalkError if the character's bank is missing.
    """
    face = face or snapshot.read(obj, with_portrait=False)
    return face.rows(*_sample(scene, obj, frames, face))


def sample_sliders(
    scene: bpy.types.Scene, obj: bpy.types.Object, frames: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The inputs of `sample`: (T, n) coefficient sliders, (T, banks) bank strengths, (T, k) emotion sliders."""
    return _sample(scene, obj, frames, snapshot.read(obj, with_portrait=False))


def _sample(
    scene: bpy.types.Scene, obj: bpy.types.Object, frames: Sequence[float] | np.ndarray, face: CharacterSnapshot
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    times = np.asarray(frames, np.float64)
    if has_only_fcurves(obj):
        return _sample_curves(obj, times, face)
    return _sample_frames(scene, obj, times)


def has_only_fcurves(obj: bpy.types.Object) -> bool:
    """Whether only F-curves animate the sliders: no drivers, no NLA."""
    animation = obj.animation_data
    if animation is None:
        return True
    has_drivers = any(driver.data_path.startswith("edtalk") for driver in animation.drivers)
    return not has_drivers and not animation.nla_tracks and not animation.use_tweak_mode


def _sample_curves(
    obj: bpy.types.Object, frames: np.ndarray, face: CharacterSnapshot
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    curves = {curve.data_path: curve for curve in compat.fcurves(obj) if not is_silent(curve)}
    group, banks = obj.edtalk, face.bank.config.banks

    def column(path: str, unkeyed: float, limits: tuple[float, float]) -> np.ndarray:
        """One property over time, (T,), clamped like Blender's own evaluation."""
        curve = curves.get(path)
        if curve is None:
            return np.full(len(frames), unkeyed)
        return np.clip([curve.evaluate(frame) for frame in frames.tolist()], *limits)

    def table(columns: Iterable[np.ndarray]) -> np.ndarray:
        columns = list(columns)
        return np.stack(columns, axis=1) if columns else np.empty((len(frames), 0))

    def states(name: str, limits: tuple[float, float]) -> np.ndarray:
        """Strength, mute or solo of every bank over time, (T, banks)."""
        found = [group.banks.get(bank) for bank, _count in banks]  # none in a linked file from before the bank had it
        return table(
            np.full(len(frames), name == "strength", float) if one is None
            else column(one.path_from_id(name), getattr(one, name), limits)
            for one in found
        )  # fmt: skip

    values = table(
        column(sliders.data_path(name), group.get(name, rest), sliders.COEFFICIENT_LIMITS)
        for name, rest in zip(face.bank.names, face.rest, strict=True)
    )
    emotions = table(
        column(sliders.data_path(name), group.get(name, 0.0), sliders.EMOTION_LIMITS) for name in face.emotions
    )
    strengths = bank_strengths(
        states("strength", sliders.STRENGTH_LIMITS), states("mute", (0, 1)) >= 1, states("solo", (0, 1)) >= 1
    )
    return values, strengths, emotions


def is_silent(curve: bpy.types.FCurve) -> bool:
    """Whether Blender does not evaluate an F-curve: muted, in a muted group, or without keyframes and modifiers."""
    return curve.mute or curve.is_empty or (curve.group is not None and curve.group.mute)


def _sample_frames(
    scene: bpy.types.Scene, obj: bpy.types.Object, frames: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, strengths, emotions = [], [], []
    with _stepping(scene, obj) as depsgraph:
        for frame in frames.tolist():
            whole = int(np.floor(frame))
            scene.frame_set(whole, subframe=frame - whole)
            evaluated = obj.evaluated_get(depsgraph)
            values.append(sliders.values(evaluated))
            strengths.append(sliders.strengths(evaluated))
            emotions.append(sliders.emotion_values(evaluated))
    return np.array(values), np.array(strengths), np.array(emotions)


@contextmanager
def _stepping(scene: bpy.types.Scene, obj: bpy.types.Object) -> Iterator[bpy.types.Depsgraph]:
    """Evaluate the object even if it is hidden, and restore frame, sliders and visibility afterwards."""
    frame, subframe = scene.frame_current, scene.frame_subframe
    names = sliders.channel_names(obj)
    before = {name: obj.edtalk[name] for name in names}
    hidden = obj.hide_viewport
    collection = bpy.data.collections.new("EDTalk sampling")  # visible, whatever collections the object is in
    collection.objects.link(obj)
    scene.collection.children.link(collection)
    session.hold("sampling")  # no preview of these frames
    try:
        if hidden:
            obj.hide_viewport = False
        view_layer = scene.view_layers[0]
        view_layer.update()
        yield view_layer.depsgraph
    finally:
        if hidden:
            obj.hide_viewport = True
        bpy.data.collections.remove(collection)
        scene.frame_set(frame, subframe=subframe)
        for name, value in before.items():
            obj.edtalk[name] = value
        session.release("sampling")
