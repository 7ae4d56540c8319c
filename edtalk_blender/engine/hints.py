"""Hints for the errors that the worker reports. They name the controls in Blender, not command-line options."""

from __future__ import annotations

_MANUAL_CROP = "Set Crop to Manual and enter the square"
_CHOOSE_FACE = f"For a recording, set Face Number. For a portrait, {_MANUAL_CROP[0].lower()}{_MANUAL_CROP[1:]}."

# Codes of `inference.contract.errors.EDTalkError`.
_HINTS = {
    "crop_outside": "Set Crop to Detect Face, or enter a square inside the portrait.",
    "face_not_found": f"{_MANUAL_CROP}, or to Full Image if the picture shows only a face.",
    "no_such_face": _CHOOSE_FACE,
    "not_square": f"Set Crop to Detect Face, or {_MANUAL_CROP[0].lower()}{_MANUAL_CROP[1:]}.",
    "several_faces": _CHOOSE_FACE,
}


def hint_for(code: str, hint: str) -> str:
    """The add-on's hint for an error code; `hint`, which the worker sent, if the code has none here."""
    return _HINTS.get(code, hint)
