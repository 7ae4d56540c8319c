"""What keeps written keys from showing: mutes, solos, drivers, NLA strips above."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import bpy

from .. import compat
from ..character import character
from .sampling import is_silent

# --- What hides a written curve


def hidden_by(obj: bpy.types.Object) -> str | None:
    """One sentence on why lip sync or emotions that were written do not show, or None when they do."""
    return next((reason for reason, _mend in _obstacles(obj)), None)


def reveal(obj: bpy.types.Object) -> str | None:
    """Take away what hides written curves; returns what an artist has to decide (a driver), as `hidden_by` says it."""
    for _reason, mend in list(_obstacles(obj)):
        if mend is not None:
            mend()
    obj.update_tag()
    return hidden_by(obj)


def _obstacles(obj: bpy.types.Object) -> Iterator[tuple[str, Callable[[], None] | None]]:
    """Reasons, each with what mends it, the outermost first."""
    animation, action = obj.animation_data, obj.edtalk.action
    if animation is None or action is None:
        return
    if animation.use_tweak_mode:
        yield (
            f"{obj.name} is tweaking an NLA strip, so its own action does not play.",
            lambda: setattr(animation, "use_tweak_mode", False),
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
        yield f"{_names(silent)} muted in the Graph Editor.", lambda: _unmute(silent)
    written = {curve.data_path for curve in curves}
    driven = [driver for driver in animation.drivers if driver.data_path in written and not driver.mute]
    if driven:
        yield f"{_names(driven)} moved by a driver, which overrules keys.", None
    yield from _bank_obstacles(obj, written)


def _action_obstacles(
    obj: bpy.types.Object, action: bpy.types.Action
) -> Iterator[tuple[str, Callable[[], None] | None]]:
    animation = obj.animation_data
    if animation.action != action:
        current = f"the action '{animation.action.name}' is" if animation.action else "no action is"
        yield (
            f"The keys of {obj.name} are in the action '{action.name}', but {current} assigned to it.",
            lambda: compat.assign_action(obj, action),
        )
    for track in animation.nla_tracks:
        if track.is_solo:
            yield f"The NLA track '{track.name}' plays solo.", lambda track=track: setattr(track, "is_solo", False)
    if animation.nla_tracks and animation.action_influence == 0:
        yield (
            f"The action '{action.name}' has no influence over the NLA tracks.",
            lambda: setattr(animation, "action_influence", 1.0),
        )


def _strip_obstacles(
    obj: bpy.types.Object, track: bpy.types.NlaTrack, strip: bpy.types.NlaStrip
) -> Iterator[tuple[str, Callable[[], None] | None]]:
    animation = obj.animation_data
    if not animation.use_nla:
        yield f"The NLA of {obj.name} is switched off.", lambda: setattr(animation, "use_nla", True)
    for other in animation.nla_tracks:
        if other.is_solo and other != track:
            yield f"The NLA track '{other.name}' plays solo.", lambda other=other: setattr(other, "is_solo", False)
    for part, kind in ((track, "track"), (strip, "strip")):
        if part.mute:
            yield f"The NLA {kind} '{part.name}' is muted.", lambda part=part: setattr(part, "mute", False)
    if strip.use_animated_influence and strip.influence == 0:
        yield (
            f"The NLA strip '{strip.name}' has no influence.",
            lambda: setattr(strip, "use_animated_influence", False),
        )

    written = {curve.data_path for curve in compat.slot_fcurves(strip.action, strip.action_slot)}
    above = list(animation.nla_tracks)[list(animation.nla_tracks).index(track) + 1 :]
    for other in (other for upper in above if not upper.mute for other in upper.strips):
        overlaps = other.frame_start < strip.frame_end and other.frame_end > strip.frame_start
        covered = written & {curve.data_path for curve in compat.slot_fcurves(other.action, other.action_slot)}
        if overlaps and covered and not other.mute and other.blend_type == "REPLACE":
            yield (
                f"The NLA strip '{other.name}' lies over '{strip.name}' and moves the same sliders.",
                lambda other=other: setattr(other, "mute", True),
            )
    if animation.action_blend_type == "REPLACE" and animation.action_influence > 0:
        over = [curve for curve in compat.fcurves(obj) if curve.data_path in written and not is_silent(curve)]
        if over:
            yield (
                f"The action '{animation.action.name}' moves the same sliders as the NLA strip '{strip.name}'.",
                lambda: [setattr(curve, "mute", True) for curve in over],
            )


def _bank_obstacles(obj: bpy.types.Object, written: set[str]) -> Iterator[tuple[str, Callable[[], None] | None]]:
    bank = character.bank_of(obj)
    heard = dict(zip((name for name, _count in bank.config.banks), character.strengths(obj), strict=True))
    for name, strength in heard.items():
        if strength == 0 and any(character.data_path(entry) in written for entry in bank.names_of(name)):
            title = character.BANK_TITLES.get(name, character.title(name))
            yield f"The bank {title} of {obj.name} is muted.", lambda name=name: _let_be_heard(obj, name)


def _let_be_heard(obj: bpy.types.Object, name: str) -> None:
    for state in obj.edtalk.banks:
        state.solo = False
    state = character.bank_state(obj, name)
    state.mute = False
    if state.strength == 0:
        state.strength = 1.0


def _unmute(curves: Sequence[bpy.types.FCurve]) -> None:
    for curve in curves:
        curve.mute = False
        if curve.group is not None:
            curve.group.mute = False


def _names(curves: Sequence[bpy.types.FCurve]) -> str:
    """For example "jawOpen is" or "jawOpen and 4 more are"."""
    first = curves[0].data_path.removeprefix('edtalk["').removesuffix('"]')
    return f"{first} is" if len(curves) == 1 else f"{first} and {len(curves) - 1} more are"
