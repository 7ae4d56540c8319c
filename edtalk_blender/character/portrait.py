"""What a portrait's face is doing: asked of the engine once for each portrait, crop and bank; that is the rest pose.

With a window the question is asked as soon as a portrait is chosen, without one when the answer is first needed.
"""

from __future__ import annotations

import hashlib
import json

import bpy
import numpy as np

from ...inference.contract import answers, requests
from ...inference.contract.errors import EDTalkError
from ...inference.contract.shot import file_sha256
from ..engine import session
from ..engine.session import Task
from . import character

_running: dict[str, tuple[str, Task]] = {}  # by character: what is being measured


def is_known(obj: bpy.types.Object) -> bool:
    """Whether the rest pose is that of the portrait as it is now; a linked character's is whatever its library says.

    Raises EDTalkError where portrait or bank are missing.
    """
    return bool(character.editable_reason(obj)) or obj.edtalk.rest_of == _signature(obj)


def measure(obj: bpy.types.Object) -> Task:
    """Ask what the face is doing; the rest pose and the picture shown are set when the answer comes.

    Asked twice for the same, it is the same task. Raises EDTalkError where portrait or bank are missing.
    """
    uid, signature = obj.edtalk.uid, _signature(obj)
    wanted, task = _running.get(uid, ("", None))
    if task and not task.finished:
        if wanted == signature:
            return task
        task.cancel()  # the answer would be about another picture

    def apply(answer: answers.PortraitResult) -> None:
        obj = character.find(uid)
        if obj is None or _running.get(uid, ("", None))[0] != signature:
            return  # deleted, or another portrait was chosen meanwhile
        character.setup_channels(obj, answer.rest)
        obj.edtalk.rest_of = signature
        character.show_pixels(obj, picture(answer.pixels))

    request = requests.Portrait(character.bank_path(obj), character.portrait_path(obj), character.crop_of(obj))
    task = session.submit(request, label=f"Reading the face of {obj.name}", on_done=apply)
    _running[uid] = signature, task
    return task


def has_failed(obj: bpy.types.Object) -> bool:
    """Whether this very portrait, crop and bank could not be measured when last asked."""
    wanted, task = _running.get(obj.edtalk.uid, ("", None))
    return task is not None and task.error is not None and wanted == _signature(obj)


def picture(pixels: np.ndarray) -> np.ndarray:
    """(size, size, 4) float32 RGBA, 0 to 1, bottom row first, from (size, size, 3) uint8 RGB, top row first."""
    rgba = np.ones((*pixels.shape[:2], 4), np.float32)
    rgba[..., :3] = pixels[::-1]
    rgba[..., :3] /= 255
    return rgba


def _signature(obj: bpy.types.Object) -> str:
    """20 digits that differ where portrait, crop or bank do."""
    parts = [character.bank_of(obj).sha256, file_sha256(character.portrait_path(obj)), character.crop_of(obj)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def _portrait_changed(obj: bpy.types.Object) -> None:
    if session.blocking() or not session.may_apply():
        return
    try:
        if not is_known(obj):
            measure(obj)
    except EDTalkError:
        return  # the character's panel says what is missing


def register() -> None:
    character.portrait_listeners.append(_portrait_changed)


def unregister() -> None:
    if _portrait_changed in character.portrait_listeners:
        character.portrait_listeners.remove(_portrait_changed)
    _running.clear()
