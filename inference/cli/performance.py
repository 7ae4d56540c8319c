"""A performance: every frame's coefficients, put together from a face's own, drivers, emotions and idle motion.

Numbers in, numbers out; pictures and sounds have been read by the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..contract.bank import Bank
from ..contract.coefficients import Coefficients
from ..contract.emotion import EmotionCurve
from ..contract.errors import EDTalkError
from ..contract.idle import add_idle_motion
from ..contract.mixing import at_times, retargeted
from ..timeline import Rules


@dataclass(frozen=True)
class Performance:
    """What drives a face. Whatever is left out keeps the face's own motion.

    audio_lips: (T, lip) from a sound. table: rows at the render's own rate, for the coefficients it names.
    clips: by bank ("lip", "pose", "exp"), every coefficient of each driving frame, (N, n).
    relative: clips add their change since their first frame to the face's own motion, instead of replacing it.
    emotion: added to the expression, scaled by `intensity`; from_neutral: in place of it, as upstream's presets.
    idle: amount of idle motion.
    """

    audio_lips: np.ndarray | None = None
    table: Coefficients | None = None
    clips: Mapping[str, np.ndarray] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    relative: bool = False
    emotion: EmotionCurve | None = None
    intensity: float = 1.0
    from_neutral: bool = False
    idle: float = 0.0

    def coefficients(self, bank: Bank, own: np.ndarray, times: np.ndarray, duration: float) -> np.ndarray:
        """(T, n) float32 at `times` (T,) in seconds; `own`: (1, n) of a picture or (T, n) of a dubbed clip."""
        frames, slices = len(times), bank.config.bank_slices
        values = np.array(np.broadcast_to(own, (frames, len(bank.names))), np.float32)
        if self.table is not None:
            rows = np.minimum(np.arange(frames), len(self.table) - 1)
            values[:, [bank.names.index(name) for name in self.table.names]] = self.table.values[rows]
        for name, clip in self.clips.items():
            at = slices[name]
            driven = clip[self.indices(name, frames, len(clip)), at]
            start = clip[0, at] if self.relative else None
            values[:, at] = retargeted(driven, own[:, at], driver_rest=start)
        if self.audio_lips is not None:
            values[:, slices["lip"]] = self.audio_lips[:frames]
        if self.emotion is not None:
            expression = slices["exp"]
            strengths = self.emotion.strengths(times, duration)
            scaled = {name: self.intensity * strength for name, strength in strengths.items()}
            base = np.tile(bank.presets["neutral"], (frames, 1)) if self.from_neutral else values[:, expression]
            values[:, expression] = bank.with_emotion(base, scaled)
        return add_idle_motion(values, bank.names, times, self.idle)

    def indices(self, name: str, frames: int, count: int) -> np.ndarray:
        """(frames,) which frame of a clip of `count` drives that bank in each frame of the result."""
        if name == "exp":
            return self.rules.expression_indices(frames, count)
        return self.rules.pose_indices(frames, count)


def at_rate(table: Coefficients, bank: Bank, fps: float) -> Coefficients:
    """A coefficient file's rows at `fps`, checked against the bank; EDTalkError when they are another bank's."""
    if not len(table):
        raise EDTalkError("The coefficient file has no rows.", "Make it again with 'capture' or 'lipsync'.")
    unknown = [name for name in table.names if name not in bank.names]
    if unknown:
        raise EDTalkError(
            f"The coefficient file does not belong to the bank '{bank.name}': it has '{unknown[0]}', which the bank "
            "does not.",
            "Use the bank that the file was made with, or make the file again.",
        )
    if table.fps is None or table.fps == fps:
        return table
    frames = max(1, round(len(table) * fps / table.fps))
    return Coefficients(at_times(table.values, table.fps, 0.0, np.arange(frames) / fps), table.names, fps)
