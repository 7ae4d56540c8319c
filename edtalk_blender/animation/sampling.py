"""Evaluate a character's sliders over a range of frames.

If only F-curves animate them, the curves are evaluated. With drivers or NLA strips, Blender evaluates the object in a
temporary scene, with the objects that it depends on. That scene has a dependency graph of its own, from which Blender
writes nothing back, so values without keys are kept, and the artist's scene is not evaluated. Only where a driver reads
a scene is the artist's scene stepped through the frames.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import bpy
import numpy as np

from ...inference.contract.mixing import bank_strengths
from .. import compat
from ..character import sliders, snapshot
from ..character.snapshot import CharacterSnapshot
from ..engine import session

_SLOW = 0.01  # seconds of processor time after which a scene is too large for sampling in slices
_REST = 60.0  # seconds until that is tried again


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

    Sliders without keyframes keep their current value. face: snapshot of `obj`; None: it is read. Raises EDTalkError
    if the character's bank is missing.
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
    return _sample_frames(scene, obj, times, face)


def has_only_fcurves(obj: bpy.types.Object) -> bool:
    """Whether only F-curves animate the sliders: no drivers, no NLA."""
    animation = obj.animation_data
    if animation is None:
        return True
    has_drivers = any(driver.data_path.startswith("edtalk") for driver in animation.drivers)
    return not has_drivers and not animation.nla_tracks and not animation.use_tweak_mode


def can_slice(obj: bpy.types.Object) -> bool:
    """Whether some frames of the object can be sampled in a few milliseconds.

    With drivers or NLA strips, Blender builds the dependencies of the windows' scenes anew after each sampling. In a
    scene of a hundred objects that takes longer.
    """
    return has_only_fcurves(obj) or (time.monotonic() > _state.slow_until and not reads_scene(obj))


def reads_scene(obj: bpy.types.Object) -> bool:
    """Whether a driver of the object, or of what its drivers read, may read a scene, such as its current frame."""
    seen: set[bpy.types.ID] = set()
    waiting: list[bpy.types.ID] = [obj]
    while waiting:
        owner = waiting.pop()
        animation = getattr(owner, "animation_data", None)
        if owner in seen or animation is None:
            continue
        seen.add(owner)
        for curve in animation.drivers:
            if "bpy" in curve.driver.expression:
                return True
            for variable in curve.driver.variables:
                read = [target.id for target in variable.targets if target.id is not None]
                if variable.type == "CONTEXT_PROP" or any(isinstance(one, bpy.types.Scene) for one in read):
                    return True
                waiting += read
    return False


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
    scene: bpy.types.Scene, obj: bpy.types.Object, frames: np.ndarray, face: CharacterSnapshot
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rest = tuple(zip(face.bank.names, face.rest.tolist(), strict=True))
    values, states, emotions = [], [], []
    with _stepping(scene, obj) if reads_scene(obj) else _alone(scene, obj) as (stepped, depsgraph):
        for frame in frames.tolist():
            whole = int(np.floor(frame))
            stepped.frame_set(whole, subframe=frame - whole)
            group = obj.evaluated_get(depsgraph).edtalk
            values.append([group.get(name, value) for name, value in rest])
            emotions.append([group.get(name, 0.0) for name in face.emotions])
            banks = [group.banks.get(bank) for bank, _count in face.bank.config.banks]
            states.append([(one.strength, one.mute, one.solo) if one else (1.0, False, False) for one in banks])
    strength, mute, solo = np.moveaxis(np.array(states), -1, 0)
    return np.array(values), bank_strengths(strength, mute > 0, solo > 0), np.array(emotions)


@dataclass
class _State:
    """slow_until: time (`time.monotonic`) until which nothing is sampled in slices, because an update was slow."""

    slow_until: float = 0.0


_state = _State()


@contextmanager
def _alone(scene: bpy.types.Scene, obj: bpy.types.Object) -> Iterator[tuple[bpy.types.Scene, bpy.types.Depsgraph]]:
    """A temporary scene with the object, also if it is hidden, and its dependency graph.

    `view_layer.update` would make it the graph from which Blender writes values back, so `frame_set` alone is used.
    """
    _update_windows()  # earlier edits are noticed now; none is made below
    with _held(), _shown(obj):
        own = bpy.data.scenes.new("EDTalk sampling")
        try:
            own.render.frame_map_old, own.render.frame_map_new = scene.render.frame_map_old, scene.render.frame_map_new
            own.collection.objects.link(obj)
            own.frame_set(scene.frame_current)
            yield own, own.view_layers[0].depsgraph
        finally:
            bpy.data.scenes.remove(own)
    with _held():
        began = time.thread_time()
        _update_windows()
        if time.thread_time() - began > _SLOW:
            _state.slow_until = time.monotonic() + _REST


@contextmanager
def _stepping(scene: bpy.types.Scene, obj: bpy.types.Object) -> Iterator[tuple[bpy.types.Scene, bpy.types.Depsgraph]]:
    """The artist's scene, in which the object is evaluated even if it is hidden. Restores frame and sliders."""
    frame, subframe = scene.frame_current, scene.frame_subframe
    names = sliders.channel_names(obj)
    before = {name: obj.edtalk[name] for name in names}
    collection = bpy.data.collections.new("EDTalk sampling")  # visible, whatever collections the object is in
    collection.objects.link(obj)
    scene.collection.children.link(collection)
    with _held():
        try:
            with _shown(obj):
                view_layer = scene.view_layers[0]
                view_layer.update()
                yield scene, view_layer.depsgraph
        finally:
            bpy.data.collections.remove(collection)
            scene.frame_set(frame, subframe=subframe)
            for name, value in before.items():
                obj.edtalk[name] = value


@contextmanager
def _held() -> Iterator[None]:
    """No preview of the sampled frames, and no edit is noticed."""
    session.hold(session.SAMPLING)
    try:
        yield
    finally:
        session.release(session.SAMPLING)


@contextmanager
def _shown(obj: bpy.types.Object) -> Iterator[None]:
    """Show an object that is hidden in viewports, because Blender does not evaluate it otherwise."""
    hidden = obj.hide_viewport
    try:
        if hidden:
            obj.hide_viewport = False
        yield
    finally:
        if hidden:
            obj.hide_viewport = True


def _update_windows() -> None:
    """Evaluate the scenes of the windows."""
    windows = bpy.context.window_manager.windows
    for layer in [window.view_layer for window in windows] or [bpy.context.view_layer]:
        if layer is not None:
            layer.update()
