"""Measure the rest pose of a character: the engine reads the coefficients of the face in its portrait.

This is done once for each portrait, crop and bank: in the background when a portrait is chosen, or, without a window,
when the result is first needed.
"""

from __future__ import annotations

import hashlib
import json

import bpy

from ...inference.contract import answers, requests
from ...inference.contract.errors import EDTalkError
from ...inference.contract.shot import file_sha256
from ..engine import session
from ..engine.session import Task
from . import character, files, sliders, viewport

_requests: dict[str, tuple[str, Task]] = {}  # by character: signature and task of its last measurement


def is_known(obj: bpy.types.Object) -> bool:
    """Whether the rest pose belongs to the current portrait, crop and bank; always true for linked characters.

    Raises EDTalkError if portrait or bank are missing.
    """
    return bool(character.editable_reason(obj)) or obj.edtalk.rest_of == _signature(obj)


def measure(obj: bpy.types.Object) -> Task:
    """Begin to measure the portrait; sets the character's rest pose and preview image when the result arrives.

    Returns the running task if the same portrait, crop and bank are being measured. Raises EDTalkError if portrait
    or bank are missing.
    """
    uid, signature = obj.edtalk.uid, _signature(obj)
    measured, task = _requests.get(uid, ("", None))
    if task and not task.finished:
        if measured == signature:
            return task
        task.cancel()  # its result would belong to another portrait

    def apply(answer: answers.PortraitResult) -> None:
        obj = character.find(uid)
        if obj is None or _requests.get(uid, ("", None))[0] != signature:
            return  # deleted, or another portrait was chosen meanwhile
        sliders.setup_channels(obj, answer.rest)
        obj.edtalk.rest_of = signature
        viewport.show_pixels(obj, viewport.to_rgba(answer.pixels))

    request = requests.Portrait(files.bank_path(obj), files.portrait_path(obj), files.crop_of(obj))
    task = session.submit(request, label=f"Analyze portrait of {obj.name}", on_done=apply)
    _requests[uid] = signature, task
    return task


def has_failed(obj: bpy.types.Object) -> bool:
    """Whether the last measurement of the current portrait, crop and bank failed."""
    measured, task = _requests.get(obj.edtalk.uid, ("", None))
    return task is not None and task.error is not None and measured == _signature(obj)


def _signature(obj: bpy.types.Object) -> str:
    """20 digits that identify portrait, crop and bank."""
    parts = [files.bank_of(obj).sha256, file_sha256(files.portrait_path(obj)), files.crop_of(obj)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def _portrait_changed(obj: bpy.types.Object) -> None:
    if session.blocking() or not session.may_apply():
        return
    try:
        if not is_known(obj):
            measure(obj)
    except EDTalkError:
        return  # the character's panel reports what is missing


def register() -> None:
    character.portrait_listeners.append(_portrait_changed)


def unregister() -> None:
    if _portrait_changed in character.portrait_listeners:
        character.portrait_listeners.remove(_portrait_changed)
    _requests.clear()
