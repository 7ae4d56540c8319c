"""The values of a character's sliders over a range of frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import bpy
import numpy as np

from ...inference.contract.mixing import bank_strengths
from .. import compat
from ..character import character, snapshot
from ..character.snapshot import CharacterSnapshot
from ..engine import session


def sliders_at(obj: bpy.types.Object, names: Iterable[str], frame: float) -> dict[str, float]:
    """What sliders are at a frame by their F-curves; those without one are what they are now."""
    curves = {curve.data_path: curve for curve in compat.fcurves(obj) if not is_silent(curve)}
    found = {}
    for name in names:
        curve = curves.get(character.data_path(name))
        found[name] = curve.evaluate(frame) if curve else float(obj.edtalk.get(name, 0.0))
    return found


def sample(
    scene: bpy.types.Scene, obj: bpy.types.Object, frames: Sequence[float], face: CharacterSnapshot | None = None
) -> np.ndarray:
    """(T, n) float32 rows to render at `frames`, as Blender evaluates them: drivers and NLA count.

    Reads the F-curves alone where nothing else moves the character, else steps through the frames and returns to the
    current one. Sliders changed by hand and not keyed keep their value. face: `obj` as it was read, if it was.
    Raises EDTalkError where the character's bank is missing.
    """
    face = face or snapshot.read(obj, with_portrait=False)
    return face.rows(*_sample(scene, obj, frames, face))


def sample_sliders(
    scene: bpy.types.Scene, obj: bpy.types.Object, frames: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `sample` makes its rows of: (T, n) coefficient sliders, (T, banks) strengths, (T, k) emotion sliders."""
    return _sample(scene, obj, frames, snapshot.read(obj, with_portrait=False))


def _sample(
    scene: bpy.types.Scene, obj: bpy.types.Object, frames: Sequence[float], face: CharacterSnapshot
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    frames = np.asarray(frames, np.float64)
    if moved_by_curves_alone(obj):
        return _sample_curves(obj, frames, face)
    return _sample_frames(scene, obj, frames)


def moved_by_curves_alone(obj: bpy.types.Object) -> bool:
    """Whether F-curves tell everything: no driver on the sliders, no NLA strip in play."""
    animation = obj.animation_data
    if animation is None:
        return True
    has_drivers = any(driver.data_path.startswith("edtalk") for driver in animation.drivers)
    return not has_drivers and not animation.nla_tracks and not animation.use_tweak_mode


def _sample_curves(
    obj: bpy.types.Object, frames: np.ndarray, face: CharacterSnapshot
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    curves = {curve.data_path: curve for curve in compat.fcurves(obj) if not is_silent(curve)}
    sliders, banks = obj.edtalk, face.bank.config.banks

    def column(path: str, unkeyed: float, limits: tuple[float, float]) -> np.ndarray:
        """(T,) one property over time, clamped as Blender does when it evaluates."""
        curve = curves.get(path)
        if curve is None:
            return np.full(len(frames), unkeyed)
        return np.clip([curve.evaluate(frame) for frame in frames.tolist()], *limits)

    def table(columns: Iterable[np.ndarray]) -> np.ndarray:
        columns = list(columns)
        return np.stack(columns, axis=1) if columns else np.empty((len(frames), 0))

    def states(name: str, limits: tuple[float, float]) -> np.ndarray:
        """(T, banks) a property of every bank: its strength, mute or solo."""
        found = [sliders.banks[bank] for bank, _count in banks]
        return table(column(one.path_from_id(name), getattr(one, name), limits) for one in found)

    values = table(
        column(character.data_path(name), sliders.get(name, rest), character.COEFFICIENT_LIMITS)
        for name, rest in zip(face.bank.names, face.rest, strict=True)
    )
    emotions = table(
        column(character.data_path(name), sliders.get(name, 0.0), character.EMOTION_LIMITS) for name in face.emotions
    )
    strengths = bank_strengths(
        states("strength", character.STRENGTH_LIMITS), states("mute", (0, 1)) >= 1, states("solo", (0, 1)) >= 1
    )
    return values, strengths, emotions


def is_silent(curve: bpy.types.FCurve) -> bool:
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
            values.append(character.values(evaluated))
            strengths.append(character.strengths(evaluated))
            emotions.append(character.emotion_values(evaluated))
    return np.array(values), np.array(strengths), np.array(emotions)


@contextmanager
def _stepping(scene: bpy.types.Scene, obj: bpy.types.Object) -> Iterator[bpy.types.Depsgraph]:
    """Have the object evaluated even where it is hidden, and leave frame, sliders and visibility as they were."""
    frame, subframe = scene.frame_current, scene.frame_subframe
    names = character.channel_names(obj)
    before = {name: obj.edtalk[name] for name in names}
    hidden = obj.hide_viewport
    shelter = bpy.data.collections.new("EDTalk sampling")
    shelter.objects.link(obj)
    scene.collection.children.link(shelter)
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
        bpy.data.collections.remove(shelter)
        scene.frame_set(frame, subframe=subframe)
        for name, value in before.items():
            obj.edtalk[name] = value
        session.release("sampling")
