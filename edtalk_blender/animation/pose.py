"""Poses as text for the clipboard, and mirrored poses. Standard library only.

A pose holds slider values by name as offsets from rest, so it can be pasted on another character.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping

from ...inference.contract.errors import EDTalkError
from ...inference.contract.parsing import MALFORMED, parse_json

_KEY = "edtalk_pose"
_SIDE = re.compile(r"Left|Right|left(?![a-z])|right(?![a-z])")
_OPPOSITE = {"Left": "Right", "Right": "Left", "left": "right", "right": "left"}
_SIGNED = re.compile(r"(?:yaw|head_?roll|shift_?x)$", re.IGNORECASE)


def to_text(pose: Mapping[str, float]) -> str:
    """The pose as JSON."""
    return json.dumps({_KEY: 1, "sliders": {name: round(value, 6) for name, value in pose.items()}})


def from_text(text: str) -> dict[str, float]:
    """The pose of a text made by `to_text`. Raises EDTalkError for any other text."""
    try:
        data = parse_json(text)
        pose = {str(name): float(value) for name, value in data["sliders"].items() if _KEY in data}
    except MALFORMED:
        pose = {}
    if not pose or not all(map(math.isfinite, pose.values())):
        raise EDTalkError("The clipboard does not contain a pose.", "Use Copy Pose on a character first.")
    return pose


def mirrored(pose: Mapping[str, float]) -> dict[str, float]:
    """The mirrored pose, with only the sliders that mirroring affects.

    Sliders with Left and Right in their names are swapped. Head yaw, roll and horizontal shift change their sign.
    """
    result = {name: pose[other] for name in pose if (other := _other_side(name, pose)) is not None}
    return result | {name: -value for name, value in pose.items() if _SIGNED.search(name)}


def _other_side(name: str, known: Collection[str]) -> str | None:
    other = _SIDE.sub(lambda match: _OPPOSITE[match[0]], name)
    return other if other != name and other in known else None
