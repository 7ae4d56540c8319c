"""Find and remove what overrides written keyframes: mutes, solos, drivers and NLA strips above."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import bpy

from .. import compat
from ..character import files, sliders
from .sampling import is_silent

Obstacle = tuple[str, Callable[[], object] | None]  # why the keyframes have no effect, and a function that fixes it


def hidden_by(obj: bpy.types.Object) -> str | None:
    """One sentence that says why written keyframes have no effect, or None if they have."""
    return next((reason for reason, _fix in _obstacles(obj)), None)


def reveal(obj: bpy.types.Object) -> str | None:
    """Remove what overrides the written keyframes.

    Returns the reason that remains and that only the artist can remove (a driver), or None.
    """
    for _reason, fix in list(_obstacles(obj)):
        if fix is not None:
            fix()
    obj.update_tag()
    return hidden_by(obj)


def _obstacles(obj: bpy.types.Object) -> Iterator[Obstacle]:
    """All obstacles in the order in which they must be fixed."""
    animation, action = obj.animation_data, obj.edtalk.action
    if animation is None or action is None:
        return
    if animation.use_tweak_mode:
        yield (
            f"{obj.name} is in NLA tweak mode, so its action is not evaluated.",
            partial(setattr, animation, "use_tweak_mode", False),
        )
    strips = [(track, strip) for track in animation.nla_tracks for strip in track.strips if strip.action == action]
    if strips:
        yield from _strip_obstacles(obj, *strips[-1])
    else:
        yield from _action_obstacles(obj, action)

    slot = strips[-1][1].action_slot if strips else compat.find_slot(action, obj)
    curves = [curve for curve in compat.slot_fcurves(action, slot) if curve.data_path.startswith("edtalk")]
    silent = [curve for curve in curves if curve.mute or (curve.group and curve.group.mute)]
    if silent:
        yield f"{_names(silent)} muted in the Graph Editor.", lambda: _unmute_curves(silent)
    written = {curve.data_path for curve in curves}
    driven = [driver for driver in animation.drivers if driver.data_path in written and not driver.mute]
    if driven:
        yield f"{_names(driven)} controlled by a driver, which overrides keyframes.", None
    yield from _bank_obstacles(obj, written)


def _action_obstacles(obj: bpy.types.Object, action: bpy.types.Action) -> Iterator[Obstacle]:
    animation = obj.animation_data
    if animation.action != action:
        current = f"the action '{animation.action.name}' is" if animation.action else "no action is"
        yield (
            f"The keyframes of {obj.name} are in the action '{action.name}', but {current} assigned.",
            lambda: compat.assign_action(obj, action),
        )
    for track in animation.nla_tracks:
        if track.is_solo:
            yield f"The NLA track '{track.name}' is solo.", partial(setattr, track, "is_solo", False)
    if animation.nla_tracks and animation.action_influence == 0:
        yield (
            f"The action '{action.name}' has an influence of 0 over the NLA tracks.",
            lambda: setattr(animation, "action_influence", 1.0),
        )


def _strip_obstacles(obj: bpy.types.Object, track: bpy.types.NlaTrack, strip: bpy.types.NlaStrip) -> Iterator[Obstacle]:
    animation = obj.animation_data
    if not animation.use_nla:
        yield f"The NLA of {obj.name} is disabled.", partial(setattr, animation, "use_nla", True)
    for other in animation.nla_tracks:
        if other.is_solo and other != track:
            yield f"The NLA track '{other.name}' is solo.", partial(setattr, other, "is_solo", False)
    for part, kind in ((track, "track"), (strip, "strip")):
        if part.mute:
            yield f"The NLA {kind} '{part.name}' is muted.", partial(setattr, part, "mute", False)
    if strip.use_animated_influence and strip.influence == 0:
        yield (
            f"The NLA strip '{strip.name}' has an influence of 0.",
            partial(setattr, strip, "use_animated_influence", False),
        )

    written = {curve.data_path for curve in compat.slot_fcurves(strip.action, strip.action_slot)}
    above = list(animation.nla_tracks)[list(animation.nla_tracks).index(track) + 1 :]
    for other in (other for upper in above if not upper.mute for other in upper.strips):
        overlaps = other.frame_start < strip.frame_end and other.frame_end > strip.frame_start
        covered = written & {curve.data_path for curve in compat.slot_fcurves(other.action, other.action_slot)}
        if overlaps and covered and not other.mute and other.blend_type == "REPLACE":
            yield (
                f"The NLA strip '{other.name}' is above '{strip.name}' and animates the same sliders.",
                partial(setattr, other, "mute", True),
            )
    if animation.action_blend_type == "REPLACE" and animation.action_influence > 0:
        over = [curve for curve in compat.fcurves(obj) if curve.data_path in written and not is_silent(curve)]
        if over:
            yield (
                f"The action '{animation.action.name}' animates the same sliders as the NLA strip '{strip.name}'.",
                partial(_mute_curves, over),
            )


def _mute_curves(curves: Sequence[bpy.types.FCurve]) -> None:
    for curve in curves:
        curve.mute = True


def _bank_obstacles(obj: bpy.types.Object, written: set[str]) -> Iterator[Obstacle]:
    bank = files.bank_of(obj)
    strengths = dict(zip((name for name, _count in bank.config.banks), sliders.strengths(obj), strict=True))
    for name, strength in strengths.items():
        if strength == 0 and any(sliders.data_path(entry) in written for entry in bank.names_of(name)):
            title = sliders.BANK_TITLES.get(name, sliders.title(name))
            yield f"The bank {title} of {obj.name} is muted.", partial(_unmute_bank, obj, name)


def _unmute_bank(obj: bpy.types.Object, name: str) -> None:
    for state in obj.edtalk.banks:
        state.solo = False
    state = sliders.bank_state(obj, name)
    state.mute = False
    if state.strength == 0:
        state.strength = 1.0


def _unmute_curves(curves: Sequence[bpy.types.FCurve]) -> None:
    for curve in curves:
        curve.mute = False
        if curve.group is not None:
            curve.group.mute = False


def _names(curves: Sequence[bpy.types.FCurve]) -> str:
    """Subject and verb of a sentence: "jawOpen is" or "jawOpen and 4 more are"."""
    first = curves[0].data_path.removeprefix('edtalk["').removesuffix('"]')
    return f"{first} is" if len(curves) == 1 else f"{first} and {len(curves) - 1} more are"
