"""Which frame of a driving clip each frame of the result uses, when the clip is shorter than the result.

Only numpy: pure functions of two counts. Upstream's demos differ from one another; `upstream_rules` names each one's
habit, except that nothing here loops for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .contract.errors import EDTalkError

TAIL = 20  # frames upstream cuts off the end of an expression clip


def hold(frames: int, count: int) -> np.ndarray:
    """(frames,) indices 0, 1, ... count-1, then the last one for as long as it takes."""
    return np.minimum(np.arange(frames), _checked(count) - 1)


def mirror(frames: int, count: int) -> np.ndarray:
    """(frames,) indices forth and back; the end frames appear twice in a row, as upstream's do."""
    index = np.arange(frames) % (2 * _checked(count))
    return np.where(index < count, index, 2 * count - 1 - index)


def loop(frames: int, count: int) -> np.ndarray:
    """(frames,) indices from the start again and again."""
    return np.arange(frames) % _checked(count)


ENDS: dict[str, Callable[[int, int], np.ndarray]] = {"hold": hold, "mirror": mirror, "loop": loop}


def without_tail(count: int) -> int:
    """Frames of an expression clip that upstream uses: all but the last 20, or all of a clip no longer than that.

    Its audio demos subtract 20 from short clips too and then never end.
    """
    return count - TAIL if count > TAIL else count


@dataclass(frozen=True)
class Rules:
    """What to do at the end of the pose clip (or of the source clip in dubbing) and of the expression clip."""

    pose: str = "hold"
    expression: str = "mirror"
    drop_tail: bool = False

    def pose_indices(self, frames: int, count: int) -> np.ndarray:
        return ENDS[self.pose](frames, count)

    def expression_indices(self, frames: int, count: int) -> np.ndarray:
        return ENDS[self.expression](frames, without_tail(count) if self.drop_tail else count)


def upstream_rules(*, audio: bool, has_expression: bool, dubbing: bool = False) -> Rules:
    """Upstream's habit in one mode: lip+pose models driven by sound, and dubbing, mirror the clip; all others hold."""
    return Rules("mirror" if dubbing or (audio and not has_expression) else "hold", "mirror", drop_tail=True)


def rules(end: str | None, *, audio: bool, has_expression: bool, dubbing: bool = False) -> Rules:
    """The rules for `--driver-end`: hold, mirror or loop for every clip, "upstream", or None.

    None is upstream's choice with every frame of the clip used.
    """
    if end is None or end == "upstream":
        theirs = upstream_rules(audio=audio, has_expression=has_expression, dubbing=dubbing)
        return theirs if end else Rules(theirs.pose, theirs.expression)
    if end not in ENDS:
        raise EDTalkError(f"A clip's end can be one of {', '.join(ENDS)} or upstream, found '{end}'.")
    return Rules(end, end)


def _checked(count: int) -> int:
    if count < 1:
        raise EDTalkError("A driving clip needs at least one frame, found none.", kind="media")
    return count
