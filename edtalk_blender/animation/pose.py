"""A pose as text and as a mirror image: sliders by name, measured from rest, so that it means the same on another face.

Standard library only.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping

from ...inference.contract.errors import EDTalkError

_KEY = "edtalk_pose"
_SIDE = re.compile(r"Left|Right|left(?![a-z])|right(?![a-z])")
_OTHER = {"Left": "Right", "Right": "Left", "left": "right", "right": "left"}
_TURNED = re.compile(r"(?:yaw|head_?roll|shift_?x)$", re.IGNORECASE)


def to_text(pose: Mapping[str, float]) -> str:
    """The pose as it goes to the clipboard."""
    return json.dumps({_KEY: 1, "sliders": {name: round(value, 6) for name, value in pose.items()}})


def from_text(text: str) -> dict[str, float]:
    """The pose that `to_text` wrote; EDTalkError where the text is anything else."""
    try:
        data = json.loads(text)
        pose = {str(name): float(value) for name, value in data["sliders"].items() if _KEY in data}
    except (ValueError, TypeError, KeyError, AttributeError):
        pose = {}
    if not pose or not all(map(math.isfinite, pose.values())):
        raise EDTalkError("The clipboard holds no pose.", "Copy one from a character first.")
    return pose


def mirrored(pose: Mapping[str, float]) -> dict[str, float]:
    """The pose as a mirror shows it; only sliders that tell left from right, by their names, are in the result.

    Left and Right change places; turning, leaning and shifting sideways change their sign.
    """
    result = {name: pose[other] for name in pose if (other := _other_side(name, pose)) is not None}
    return result | {name: -value for name, value in pose.items() if _TURNED.search(name)}


def _other_side(name: str, known: Collection[str]) -> str | None:
    other = _SIDE.sub(lambda match: _OTHER[match[0]], name)
    return other if other != name and other in known else None
