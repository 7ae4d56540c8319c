"""Measure the rest pose of a character: the engine reads the coefficients of the face in its portrait.

This is done once for each portrait, crop and bank: in the background when a portrait is chosen, or, without a window,
when the result is first needed.
"""

from __future__ import annotations

import hashlib
import json
import time

import bpy

from ...inference.contract import answers, requests
from ...inference.contract.errors import EDTalkError
from ...inference.contract.shot import file_sha256
from ..engine import session
from ..engine.session import Task
from . import character, files, sliders, viewport

_DELAY = 0.4  # seconds without a change before a square that is changed by hand is measured

_changed: dict[str, float] = {}  # characters whose square is being changed: time of the last change
_requests: dict[str, tuple[str, Task]] = {}  # by character: signature and task of its last measurement


def is_known(obj: bpy.types.Object) -> bool:
    """Whether the rest pose belongs to the current portrait, crop and bank; always true for linked characters.

    Raises EDTalkError if portrait or bank are missing.
    """
    return bool(character.editable_reason(obj)) or obj.edtalk.rest_of == _signature(obj)


def measure(obj: bpy.types.Object, *, quietly: bool = False) -> Task:
    """Begin to measure the portrait; sets the character's rest pose and preview image when the result arrives.

    quietly: without a line in the Status panel, which would move the fields that the artist is editing.

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
        if request.crop == "auto":
            whole = 0.0, 0.0, float(min(files.portrait_size(obj)))
            obj.edtalk.found_crop = *(whole if isinstance(answer.crop, str) else answer.crop[:3]), answer.angle
        viewport.show_pixels(obj, viewport.to_rgba(answer.pixels))

    request = requests.Portrait(files.bank_path(obj), files.portrait_path(obj), files.crop_of(obj))
    label = "" if quietly else f"Analyze {obj.name}"
    task = session.submit(request, label=label, on_done=apply)
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


def _portrait_changed(obj: bpy.types.Object, *, quietly: bool = False) -> None:
    if session.blocking() or not session.may_apply() or files.crop_problem(obj):
        return
    try:
        if not is_known(obj):
            measure(obj, quietly=quietly)
    except EDTalkError:
        return  # the character's panel reports what is missing


def is_waiting(obj: bpy.types.Object) -> bool:
    """Whether the character's square is being changed by hand, so that it is not measured yet."""
    return obj.edtalk.uid in _changed


def _crop_changed(obj: bpy.types.Object) -> None:
    if session.blocking():
        return
    _changed[obj.edtalk.uid] = time.monotonic()
    if not bpy.app.timers.is_registered(measure_settled):
        bpy.app.timers.register(measure_settled, first_interval=_DELAY)


def measure_settled() -> float | None:
    """Timer: measure the squares that have stopped changing. Returns the seconds until the next call."""
    for uid in [uid for uid, when in _changed.items() if time.monotonic() - when >= _DELAY]:
        del _changed[uid]
        obj = character.find(uid)
        if obj is not None:
            _portrait_changed(obj, quietly=True)
    return _DELAY / 2 if _changed else None


def register() -> None:
    character.portrait_listeners.append(_portrait_changed)
    character.crop_listeners.append(_crop_changed)


def unregister() -> None:
    for listeners, listener in (
        (character.portrait_listeners, _portrait_changed),
        (character.crop_listeners, _crop_changed),
    ):
        if listener in listeners:
            listeners.remove(listener)
    if bpy.app.timers.is_registered(measure_settled):
        bpy.app.timers.unregister(measure_settled)
    _changed.clear()
    _requests.clear()
