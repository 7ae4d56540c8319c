"""ARKit's face units: their names, and what they mean for the coefficients of a bank. Standard library only.

A bank says for each coefficient of which units it is made: `{"mouthSmileLeft": 0.5, "mouthSmileRight": 0.5}` is their
mean. The head's three rotations count as units too, in degrees: `{"headYaw": 1 / 30}` is 1.0 at 30 degrees.
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
"""The 52 face units, each 0 (off) to 1 (fully on). Left and right are the person's own."""
HEAD = ("headYaw", "headPitch", "headRoll")
"""Degrees, positive towards the picture's right, down, and clockwise in the picture."""
NAMES = (*FACE, *HEAD)

_DEGREES = re.compile(r"(\d+(?:\.\d+)?) degrees\b")


def derived(name: str, unit: str = "") -> dict[str, float]:
    """What a coefficient is made of where its bank does not say, from its name: unit by unit, or both sides' mean.

    unit: what 1.0 stands for, in words; a head rotation needs its degrees there. Empty for any other name.
    """
    if name in FACE:
        return {name: 1.0}
    if name in PAIRED:
        return {f"{name}Left": 0.5, f"{name}Right": 0.5}
    degrees = _DEGREES.match(unit)
    if name in HEAD and degrees and float(degrees[1]) > 0:
        return {name: 1 / float(degrees[1])}
    return {}
