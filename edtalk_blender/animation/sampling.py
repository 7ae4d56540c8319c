"""The values of a character's sliders over a range of frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import bpy
import numpy as np

from ...inference.contract.mixing import bank_strengths
from .. import compat
from ..character import character
from ..engine import session


def sliders_at(obj: bpy.types.Object, names: Iterable[str], frame: float) -> dict[str, float]:
    """What sliders are at a frame by their F-curves; those without one are what they are now."""
    curves = {curve.data_path: curve for curve in compat.fcurves(obj) if not is_silent(curve)}
    found = {}
    for name in names:
        curve = curves.get(character.data_path(name))
        found[name] = curve.evaluate(frame) if curve else float(obj.edtalk.get(name, 0.0))
    return found


def sample(scene: bpy.types.Scene, obj: bpy.types.Object, frames: Sequence[float]) -> np.ndarray:
    """(T, n) float32 rows to render at `frames`, as Blender evaluates them: drivers and NLA count.

    Reads the F-curves alone where nothing else moves the character, else steps through the frames and returns to the
    current one. Sliders changed by hand and not keyed keep their value.
    Raises EDTalkError where the character's bank is missing.
    """
    return character.rows(obj, *sample_sliders(scene, obj, frames))


def sample_sliders(
    scene: bpy.types.Scene, obj: bpy.types.Object, frames: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `sample` makes its rows of: (T, n) coefficient sliders, (T, banks) strengths, (T, k) emotion sliders."""
    frames = np.asarray(frames, np.float64)
    if moved_by_curves_alone(obj):
        return _sample_curves(obj, frames)
    return _sample_frames(scene, obj, frames)


def moved_by_curves_alone(obj: bpy.types.Object) -> bool:
    """Whether F-curves tell everything: no driver on the sliders, no NLA strip in play."""
    animation = obj.animation_data
    if animation is None:
        return True
    has_drivers = any(driver.data_path.startswith("edtalk") for driver in animation.drivers)
    return not has_drivers and not animation.nla_tracks and not animation.use_tweak_mode


def _sample_curves(obj: bpy.types.Object, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    curves = {curve.data_path: curve for curve in compat.fcurves(obj) if not is_silent(curve)}

    def column(path: str, still: float, lowest: float, highest: float) -> np.ndarray:
        """(T,) one property over time, clamped as Blender does when it evaluates."""
        curve = curves.get(path)
        if curve is None:
            return np.full(len(frames), still)
        return np.clip([curve.evaluate(frame) for frame in frames.tolist()], lowest, highest)

    def table(columns: list[np.ndarray]) -> np.ndarray:
        return np.stack(columns, axis=1) if columns else np.empty((len(frames), 0))

    bank, still = character.bank_of(obj), character.values(obj)
    values = [
        column(character.data_path(name), still[index], *character.COEFFICIENT_LIMITS)
        for index, name in enumerate(bank.names)
    ]
    emotions_still = character.emotion_values(obj)
    emotions = [
        column(character.data_path(name), emotions_still[index], *character.EMOTION_LIMITS)
        for index, name in enumerate(character.emotions(obj))
    ]
    states = [character.bank_state(obj, name) for name, _count in bank.config.banks]
    strengths = bank_strengths(
        table([column(state.path_from_id("strength"), state.strength, *character.STRENGTH_LIMITS) for state in states]),
        *(
            table([column(state.path_from_id(switch), getattr(state, switch), 0, 1) for state in states]) >= 1
            for switch in ("mute", "solo")
        ),
    )
    return table(values), strengths, table(emotions)


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
