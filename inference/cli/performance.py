"""From driving data to coefficients: a sound, clips, a table, emotions and idle motion combined for every frame.

Arrays in, arrays out; the caller has read the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..contract.bank import Bank
from ..contract.coefficients import Coefficients
from ..contract.emotion import NEUTRAL, EmotionCurve
from ..contract.errors import EDTalkError
from ..contract.idle import BLINK, add_idle_motion
from ..contract.mixing import EXPRESSION, at_times, retargeted

TAIL = 20  # frames that upstream drops at the end of an expression clip


# ------------------------------------------------------------------------------------- clips shorter than the result


def hold(frames: int, count: int) -> np.ndarray:
    """(frames,) indices 0, 1, ... count-1, then the last one."""
    return np.minimum(np.arange(frames), _checked(count) - 1)


def mirror(frames: int, count: int) -> np.ndarray:
    """(frames,) indices forwards and backwards in turn. Both end frames appear twice in a row, as in upstream."""
    index = np.arange(frames) % (2 * _checked(count))
    return np.where(index < count, index, 2 * count - 1 - index)


def loop(frames: int, count: int) -> np.ndarray:
    """(frames,) indices that start again at 0 after the last one."""
    return np.arange(frames) % _checked(count)


ENDS: dict[str, Callable[[int, int], np.ndarray]] = {"hold": hold, "mirror": mirror, "loop": loop}


def without_tail(count: int) -> int:
    """Number of frames of an expression clip that upstream uses: all but the last 20, or all of a shorter clip.

    Upstream's audio demos subtract 20 from shorter clips, too, and never finish.
    """
    return count - TAIL if count > TAIL else count


@dataclass(frozen=True)
class Rules:
    """How the pose clip (or the source clip in dubbing) and the expression clip continue after their end.

    drop_tail: leave out the last frames of the expression clip, see `without_tail`.
    """

    pose: str = "hold"
    expression: str = "mirror"
    drop_tail: bool = False

    def pose_indices(self, frames: int, count: int) -> np.ndarray:
        return ENDS[self.pose](frames, count)

    def expression_indices(self, frames: int, count: int) -> np.ndarray:
        return ENDS[self.expression](frames, without_tail(count) if self.drop_tail else count)

    def indices(self, bank: str, frames: int, count: int) -> np.ndarray:
        """(frames,) for each frame of the result the frame of a clip of `count` that drives a bank."""
        return self.expression_indices(frames, count) if bank == EXPRESSION else self.pose_indices(frames, count)


def upstream_rules(*, audio: bool, has_expression: bool, dubbing: bool = False) -> Rules:
    """Upstream's rules. The pose is mirrored in dubbing and for sound with a lip and pose model, held otherwise."""
    return Rules("mirror" if dubbing or (audio and not has_expression) else "hold", "mirror", drop_tail=True)


def rules(end: str | None, *, audio: bool, has_expression: bool, dubbing: bool = False) -> Rules:
    """The rules for --driver-end: "hold", "mirror" or "loop" for every clip, "upstream", or None.

    None is upstream's choice, but with all frames of the clip. Raises EDTalkError for another value.
    """
    if end is None or end == "upstream":
        found = upstream_rules(audio=audio, has_expression=has_expression, dubbing=dubbing)
        return found if end else Rules(found.pose, found.expression)
    if end not in ENDS:
        raise EDTalkError(f"The end of a clip must be {', '.join(ENDS)} or upstream, found '{end}'.")
    return Rules(end, end)


def _checked(count: int) -> int:
    if count < 1:
        raise EDTalkError("A driving clip needs at least one frame, found none.", kind="media")
    return count


# ----------------------------------------------------------------------------------------------- the coefficients


@dataclass(frozen=True)
class Performance:
    """What drives a face. Coefficients that nothing drives keep the face's own values.

    audio_lips: (T, lip) from a sound. table: rows at the frame rate of the result, for the coefficients it names.
    clips: by bank ("lip", "pose", "exp"), all coefficients of each driving frame, (N, n). relative: clips add their
    change since their first frame to the face's own values, instead of replacing them.
    emotion: added to the expression, scaled by `intensity`. from_neutral: replace the expression by the emotion.
    detected: strengths of emotions by name, (T,) each, used as those of `emotion`. idle: amount of idle motion, see
    `add_idle_motion`. head: head motion (T, m) from the sound, added to the columns `head_names`; idle motion then only
    blinks. blinks: (T,) how far the eyes are closed, 0 to 1, in place of those of idle motion.
    """

    audio_lips: np.ndarray | None = None
    table: Coefficients | None = None
    clips: Mapping[str, np.ndarray] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    relative: bool = False
    emotion: EmotionCurve | None = None
    detected: Mapping[str, np.ndarray] | None = None
    intensity: float = 1.0
    from_neutral: bool = False
    idle: float = 0.0
    head: np.ndarray | None = None
    head_names: tuple[str, ...] = ()
    blinks: np.ndarray | None = None

    def coefficients(self, bank: Bank, own: np.ndarray, times: np.ndarray, duration: float) -> np.ndarray:
        """(T, n) float32, absolute. own: the face's own values, (1, n) or (T, n). times: (T,) in seconds."""
        frames, slices = len(times), bank.config.bank_slices
        values = np.array(np.broadcast_to(own, (frames, len(bank.names))), np.float32)
        if self.table is not None:
            rows = np.minimum(np.arange(frames), len(self.table) - 1)
            values[:, self._table_columns(bank)] = self.table.values[rows]
        for name, clip in self.clips.items():
            at = slices[name]
            driven = clip[self.rules.indices(name, frames, len(clip)), at]
            values[:, at] = retargeted(driven, own[:, at], driver_rest=clip[0, at]) if self.relative else driven
        if self.audio_lips is not None:
            values[:, slices["lip"]] = self.audio_lips[:frames]
        strengths = self.detected if self.emotion is None else self.emotion.strengths(times, duration)
        if strengths is not None:
            expression = slices[EXPRESSION]
            scaled = {name: self.intensity * strength for name, strength in strengths.items()}
            base = np.tile(bank.presets[NEUTRAL], (frames, 1)) if self.from_neutral else values[:, expression]
            values[:, expression] = bank.with_emotion(base, scaled)
        if self.head is not None:
            values[:, [bank.names.index(name) for name in self.head_names]] += self.head[:frames]
        if self.blinks is None:
            return add_idle_motion(values, bank.names, times, self.idle, head=self.head is None)
        lids = values[:, bank.names.index(BLINK)]
        lids += np.maximum(1 - lids, 0) * self.blinks[:frames]
        return values

    def replaced(self, bank: Bank) -> np.ndarray:
        """(n,) bool: the coefficients whose values do not depend on the face's own."""
        replaced, slices = np.zeros(len(bank.names), bool), bank.config.bank_slices
        if self.table is not None:
            replaced[self._table_columns(bank)] = True
        for name in self.clips:
            replaced[slices[name]] = not self.relative
        if self.audio_lips is not None:
            replaced[slices["lip"]] = True
        if (self.emotion is not None or self.detected is not None) and self.from_neutral:
            replaced[slices[EXPRESSION]] = True
        return replaced

    def _table_columns(self, bank: Bank) -> list[int]:
        return [bank.names.index(name) for name in self.table.names] if self.table else []


def at_rate(table: Coefficients, bank: Bank, fps: float) -> Coefficients:
    """The rows of a coefficient file at `fps`. Raises EDTalkError if it is empty or does not fit the bank."""
    if not len(table):
        raise EDTalkError("The coefficient file has no rows.", "Create it again with 'capture' or 'lipsync'.")
    unknown = [name for name in table.names if name not in bank.names]
    if unknown:
        raise EDTalkError(
            f"The coefficient file does not fit the bank '{bank.name}', which has no coefficient '{unknown[0]}'.",
            "Use the bank that the file was made with, or create the file again.",
        )
    if table.fps is None or table.fps == fps:
        return table
    frames = max(1, round(len(table) * fps / table.fps))
    return Coefficients(at_times(table.values, table.fps, 0.0, np.arange(frames) / fps), table.names, fps)
