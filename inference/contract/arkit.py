"""The ARKit face units and their mapping to the coefficients of a bank. Standard library only.

A bank stores for each coefficient the weights of the units it is computed from: `{"mouthSmileLeft": 0.5,
"mouthSmileRight": 0.5}` is their mean. The three head rotations are units as well, in degrees: `{"headYaw": 1 / 30}`
is 1.0 at 30 degrees.
"""

from __future__ import annotations

import re

_SINGLE = (
    "jawForward", "jawLeft", "jawRight", "jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthLeft",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "browInnerUp", "cheekPuff",
    "tongueOut",
)  # fmt: skip
PAIRED = (
    "eyeBlink", "eyeLookDown", "eyeLookIn", "eyeLookOut", "eyeLookUp", "eyeSquint", "eyeWide", "mouthSmile",
    "mouthFrown", "mouthDimple", "mouthStretch", "mouthPress", "mouthLowerDown", "mouthUpperUp", "browDown",
    "browOuterUp", "cheekSquint", "noseSneer",
)  # fmt: skip
FACE = (*_SINGLE, *(f"{name}{side}" for name in PAIRED for side in ("Left", "Right")))
"""The 52 face units, each 0 (off) to 1 (fully on). Left and right are from the person's point of view."""
HEAD = ("headYaw", "headPitch", "headRoll")
"""Degrees, positive towards the picture's right, down, and clockwise in the picture."""
HEAD_AXES = (*HEAD, "headShiftX", "headShiftY", "headScale")
"""Head motion in degrees, in picture widths to the right, picture heights down, and shares of the head's size."""
NAMES = (*FACE, *HEAD)

_DEGREES = re.compile(r"(\d+(?:\.\d+)?) degrees\b")


def derived(name: str, unit: str = "") -> dict[str, float]:
    """The weights of a coefficient whose bank has none, derived from its name; {} if the name is not known.

    A face unit is itself, a name without a side is the mean of both sides. unit: the description of the value 1.0; a
    head rotation is only derived if it states the degrees ("30 degrees").
    """
    if name in FACE:
        return {name: 1.0}
    if name in PAIRED:
        return {f"{name}Left": 0.5, f"{name}Right": 0.5}
    degrees = _DEGREES.match(unit)
    if name in HEAD and degrees and float(degrees[1]) > 0:
        return {name: 1 / float(degrees[1])}
    return {}
