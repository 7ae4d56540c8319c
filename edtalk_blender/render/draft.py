"""A render in preparation: one character over one range of frames, in steps that keep Blender responsive.

Blender's main thread samples the animation, some frames at a time; a thread writes the shot and looks for pictures that
exist. The scene is not changed: `render.commit` does that at the end, at once. If the character or an action changes
while it is sampled, sampling begins again, so that all frames show the same state of the animation.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from ...inference.contract.answers import Progress
from ...inference.contract.shot import Shot
from ..animation import edits, sampling
from ..character import character, snapshot, viewport
from ..character.snapshot import CharacterSnapshot
from ..engine import work
from ..engine.work import Steps
from ..folders import FRAMES, SHOTS
from ..plate import dubbing
from ..timeline import footage, sequencer, timemap
from . import face_shot, face_strip, placeholder, relocation
from .face_shot import Plan
from .face_strip import Content, Shown

_SLICE = 100  # frames that are sampled at once

_writing = threading.Lock()  # two renders of a character write to the same folder


@dataclass(frozen=True)
class Ready:
    """A prepared render.

    face: the character as it was read. strip_id: identity of the strip, also of a new one. inputs: what all of this was
    made from, see `Draft.is_ready`.
    """

    face: CharacterSnapshot
    plan: Plan
    strip_id: str
    content: Content
    inputs: tuple[Any, ...]


@dataclass(frozen=True)
class _Found:
    """The scene, the character, the movie that it is rendered over, and its face strips."""

    scene: bpy.types.Scene
    obj: bpy.types.Object
    plate: bpy.types.MovieStrip | None
    strips: list[bpy.types.ImageStrip]


class Draft:
    """The preparation of a render. `ready` is set when `steps` have ended, unless the character or strip is gone."""

    def __init__(
        self,
        scene: bpy.types.Scene,
        obj: bpy.types.Object,
        span: tuple[int, int],
        plate: bpy.types.MovieStrip | None,
        *,
        keep: bool,
    ) -> None:
        """Arguments: see `render.render_face`."""
        self.ready: Ready | None = None
        self.span, self.keep = span, keep
        self.subject = obj.edtalk.uid, sequencer.identity(plate) if plate else ""
        self._scene, self._is_closed = scene.name, False

    def check(self) -> None:
        """Raises EDTalkError if portrait, bank or movie are missing."""
        if current := self._find():
            snapshot.read(current.obj, with_portrait=current.plate is None)

    def is_ready(self) -> bool:
        """Whether the render is prepared, and nothing that it depends on has changed since."""
        current = self._find()
        return self.ready is not None and current is not None and self.ready.inputs == self._inputs(current)

    def steps(self) -> Steps[None]:
        """Prepare the render. Raises EDTalkError, see `render.render_face`."""
        try:
            while not self.is_ready() and (current := self._find()):
                self.ready = yield from self._attempt(current)
                yield Progress("preparing")
        finally:
            self._is_closed = True

    def _find(self) -> _Found | None:
        scene, obj = bpy.data.scenes.get(self._scene), character.find(self.subject[0])
        if scene is None or obj is None:
            return None
        plate = sequencer.find(scene, self.subject[1]) if self.subject[1] else None
        if self.subject[1] and plate is None:
            return None
        return _Found(scene, obj, plate, face_strip.find(scene, obj, plate))

    def _strip(self, strip_id: str) -> bpy.types.ImageStrip | None:
        scene = bpy.data.scenes.get(self._scene)
        return sequencer.find(scene, strip_id) if scene else None

    def _inputs(self, current: _Found) -> tuple[Any, ...]:
        strips = tuple(
            (sequencer.identity(one), sequencer.picture_range(one), one.get(face_strip.RENDERED), one.directory)
            for one in current.strips
        )
        clock = current.plate and footage.time_map(current.scene, current.plate)
        image_format = sequencer.settings(current.scene).image_format
        return sequencer.fps(current.scene), image_format, clock, strips

    def _attempt(self, found: _Found) -> Steps[Ready | None]:
        """The prepared render; None if something that it depends on has changed in between."""
        inputs = self._inputs(found)
        face = snapshot.read(found.obj, with_portrait=found.plate is None)
        shown_range = _whole_range(found, self.span) if self.keep else self.span
        strip_id = sequencer.identity(found.strips[0]) if found.strips else character.new_uid()[:12]
        needs_names = shown_range != self.span or any(
            face_strip.folder_of(one) != face.folder / FRAMES for one in found.strips
        )
        strip_ids = [sequencer.identity(one) for one in found.strips] if needs_names else []
        frames = face_shot.sampled_range(found.scene, face, shown_range, found.plate)

        tables = yield from self._sampled(face, frames)
        before = yield from self._shown(strip_ids)
        current = self._find()
        if tables is None or before is None or current is None or self._inputs(current) != inputs:
            return None
        scene, obj, plate, strips = current.scene, current.obj, current.plate, current.strips

        def rows(part: range) -> np.ndarray:
            return np.concatenate(tables)[part.start - frames.start : part.stop - frames.start]

        make = face_shot.maker(scene, face, shown_range, plate, rows)
        waiting, placeholder_pixels = placeholder.name(face), placeholder.pixels(face, viewport.face_image(obj))
        size = _picture_size(scene, face, plate)
        old_folder = face_strip.folder_of(strips[0]) if strips else None
        part = range(self.span[0] - shown_range[0], self.span[1] - shown_range[0])
        dialogue = sequencer.dialogue(scene, obj)
        sounds = (
            () if plate else tuple(sequencer.identity(one) for one in dialogue if sequencer.overlaps(one, shown_range))
        )
        differs = plate is not None and not dubbing.is_frame_by_frame(scene, plate)

        def write() -> Ready | None:
            with _writing:
                if self._is_closed:
                    return None
                folder, shot = face.folder / SHOTS / strip_id, make(rows(range(*shown_range)))
                placeholder.write(
                    shot.frames_folder / waiting, placeholder_pixels, 8 if face.is_full_frame else face.square
                )
                plan = Plan.of(_written(shot, folder, old_folder, before), folder, part)
                absent = plan.shot.missing()
                names = {
                    one: face_strip.names(plan.shot, part, absent, waiting, size, old)
                    for one, old in {"": None, **before}.items()
                }
                version = face_strip.version(plan.shot)
            content = Content(plan.shot, folder, version, waiting, size, part, names, sounds, self.subject[1], differs)
            return Ready(face, plan, strip_id, content, inputs)

        return (yield from work.in_thread(write))

    def _sampled(self, face: CharacterSnapshot, frames: range) -> Steps[list[np.ndarray] | None]:
        """The rows of some frames, in tables (T, n) one after the other; None if an edit came in between.

        They are sampled in one step where a few frames would take about as long, see `sampling.can_slice`.
        """
        began, tables = edits.number(), list[np.ndarray]()
        done = frames.start
        while done < frames.stop:
            current = self._find()
            if current is None or edits.number() != began:
                return None
            whole = not sampling.can_slice(current.obj)
            part = range(done, frames.stop if whole else min(done + _SLICE, frames.stop))
            tables.append(face_shot.sampler(current.scene, current.obj, face)(part))
            done = part.stop
            yield Progress("sampling", done - frames.start, len(frames))
        return tables

    def _shown(self, strip_ids: Sequence[str]) -> Steps[dict[str, Shown] | None]:
        """What some face strips show, by identity; None if one is gone."""
        contents: dict[str, Shown] = {}
        for strip_id in strip_ids:
            names = yield from face_strip.read_names(partial(self._strip, strip_id))
            strip = self._strip(strip_id)
            if names is None or strip is None:
                return None
            start, layer = sequencer.picture_range(strip)[0], str(strip.get(sequencer.LAYER, ""))
            contents[strip_id] = Shown(start, tuple(names), tuple(strip.get(face_strip.SIZE) or ()), layer)
        return contents


def _whole_range(current: _Found, span: tuple[int, int]) -> tuple[int, int]:
    """The range of a face strip extended to `span`; over a plate as far as the plate's visible frames are known."""
    ranges = [sequencer.picture_range(strip) for strip in current.strips[:1]]
    if current.plate is not None:
        clock = footage.time_map(current.scene, current.plate)
        ranges = [(max(start, clock.start), min(end, clock.end)) for start, end in ranges]
    return timemap.union([span, *(one for one in ranges if one[0] < one[1])]) or span


def _written(shot: Shot, folder: Path, old_folder: Path | None, before: dict[str, Shown]) -> Shot:
    """Write a shot, and link pictures from the folder that the strip used before. Uses no bpy."""
    shot = shot.write(folder, plate_by_name=True)
    if old_folder and before and old_folder != shot.frames_folder and os.path.isdir(old_folder):
        names = {name for one in before.values() for name in one.names} | set(shot.file_names())
        picture_names = {name for name in names if face_strip.PICTURE.fullmatch(name)}
        relocation.bring(old_folder, shot.frames_folder, picture_names)
    return shot


def _picture_size(
    scene: bpy.types.Scene, face: CharacterSnapshot, plate: bpy.types.MovieStrip | None
) -> tuple[int, int]:
    """Width and height of the rendered pictures."""
    if not face.is_full_frame:
        return face.square, face.square
    size = face.portrait_size if plate is None else dubbing.tracked(scene, face, plate).size
    assert size is not None, "the shot has been written, so the portrait can be read"
    return size
