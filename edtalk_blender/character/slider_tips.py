"""What each named slider does, for its tooltip. Works without Blender."""

from __future__ import annotations

from ...inference.contract.bank import Coefficient

_EFFECTS = {
    "jawOpen": "Opens the jaw",
    "mouthClose": "Closes the lips over an open jaw",
    "mouthFunnel": "Pushes the lips forward into an open funnel, as in 'sh'",
    "mouthPucker": "Purses the lips into a small opening, as in 'oo'",
    "mouthLeft": "Shifts the mouth to the character's left",
    "mouthRight": "Shifts the mouth to the character's right",
    "mouthRollLower": "Rolls the lower lip in over the teeth, as in 'f'",
    "mouthRollUpper": "Rolls the upper lip in over the teeth",
    "mouthShrugLower": "Pushes the lower lip up",
    "mouthShrugUpper": "Pushes the upper lip up towards the nose",
    "mouthLowerDown": "Pulls the lower lip down and shows the lower teeth",
    "mouthUpperUp": "Pulls the upper lip up and shows the upper teeth",
    "mouthStretch": "Pulls the corners of the mouth apart, as in 'ee'",
    "mouthPress": "Presses the lips together, as in 'm'",
    "mouthDimple": "Pulls the corners of the mouth back into dimples",
    "jawForward": "Pushes the jaw forward",
    "jawLeft": "Shifts the jaw to the character's left",
    "jawRight": "Shifts the jaw to the character's right",
    "cheekPuff": "Puffs the cheeks",
    "tongueOut": "Puts the tongue out",
    "headYaw": "Turns the head to the side",
    "headPitch": "Nods the head down or up",
    "headRoll": "Tilts the head to the shoulder",
    "headShiftX": "Moves the head sideways in the picture",
    "headShiftY": "Moves the head up or down in the picture",
    "headScale": "Moves the head closer, so that it becomes larger",
    "browDown": "Lowers both brows and draws them together",
    "browInnerUp": "Raises the inner ends of the brows",
    "browOuterUp": "Raises the outer ends of the brows",
    "eyeBlink": "Closes the lids of both eyes",
    "eyeWide": "Opens both eyes wider",
    "eyeSquint": "Narrows both eyes",
    "eyeYaw": "Turns the eyes to the side",
    "eyePitch": "Turns the eyes up or down",
    "cheekSquint": "Raises the cheeks towards the eyes",
    "mouthSmile": "Raises the corners of the mouth",
    "mouthFrown": "Lowers the corners of the mouth",
    "noseSneer": "Wrinkles the nose and raises the upper lip",
}
_EMOTIONS = {
    "angry": "lowered brows, hard eyes and a raised upper lip",
    "contempt": "half-closed eyes, raised brows and a thin smile",
    "disgusted": "a wrinkled nose, raised cheeks and lowered corners of the mouth",
    "fear": "raised inner brows, wide eyes and lowered corners of the mouth",
    "happy": "a smile with raised cheeks",
    "sad": "raised inner brows, heavy lids and lowered corners of the mouth",
    "surprised": "raised brows and wide eyes",
}


def slider_tip(entry: Coefficient, title: str) -> str:
    """Tooltip of a coefficient's slider: its effect, the unit of 1.0 and the usual range.

    title: name to show where the effect of the slider is not known.
    """
    unit = f"1 is {entry.unit}" if entry.unit else "0 is off, 1 is fully on" if entry.name in _EFFECTS else "No unit"
    usual = f"usual range {entry.soft_min:g} to {entry.soft_max:g}, rest {entry.rest:g}"
    return f"{_EFFECTS.get(entry.name, title)}. {unit}; {usual}"


def emotion_tip(name: str) -> str:
    """Tooltip of an emotion's slider."""
    shown = f": {_EMOTIONS[name]}" if name in _EMOTIONS else ""
    return f"Strength of the emotion '{name}'{shown}. 0 is off, 1 is the full emotion, 1.5 at most"
