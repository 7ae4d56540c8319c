"""Hints that name the command line's options, by the code of an error (see `contract.errors.EDTalkError`)."""

from __future__ import annotations

from ..contract.errors import EDTalkError

# {crop} and {face} are the options of the picture or clip that failed, such as --crop and --driver-crop.
_HINTS = {
    "checkpoints_swapped": "Give the generator as --generator and the audio network as --audio2lip.",
    "frames_missing": "Render them with 'shot render SHOT --frames=FRAMES'.",
    "head_unknown": "Use the starter bank, or drive the head with --pose-video.",
    "idle_unsupported": "Use the starter bank, or drive the head with --pose-video.",
    "output_exists": "Choose another folder, or add --overwrite.",
    "crop_outside": "Give {crop} x,y,size with a square inside the picture.",
    "face_not_found": "Give {crop} x,y,size, {crop} none to use the whole picture, or a clearer picture.",
    "no_such_face": "Choose one with {face} N, counted from 1 at the left.",
    "not_a_bank": "Choose a .safetensors bank, or create one with 'python -m inference convert'.",
    "not_coefficients": "Create such a file with 'python -m inference lipsync', 'perform' or 'capture'.",
    "not_square": "Use {crop} auto or {crop} x,y,size.",
    "several_faces": "Choose one with {face} N, counted from 1 at the left.",
}


def with_options(error: EDTalkError, crop: str = "--crop", face: str = "--face") -> EDTalkError:
    """The error with a hint that names options, or the error itself if it has no code that is known here.

    crop, face: names of the two options. The result has no code, so its hint is final.
    """
    if error.code not in _HINTS:
        return error
    return EDTalkError(error.message, _HINTS[error.code].format(crop=crop, face=face), error.kind)
