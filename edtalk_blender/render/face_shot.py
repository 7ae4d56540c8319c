"""A character's animation over a range of frames, written as a shot that the worker renders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import bpy
import numpy as np

from ...inference.contract.coefficients import Coefficients
from ...inference.contract.errors import EDTalkError
from ...inference.contract.shot import Shot
from ..animation import sampling
from ..character.snapshot import CharacterSnapshot
from ..folders import FRAMES, SHOTS
from ..plate import dubbing
from ..timeline import footage, sequencer

_STEP = np.float32(2**-16)  # of coefficients; a change that cannot be seen
FRAME = "FRAME"  # beside the items of `sequencer.RENDER_RANGES`: the current frame, of characters that dub


@dataclass(frozen=True)
class Plan:
    """A shot and the folder that it is written to.

    rows: those to render. missing, reused: number of their pictures that are missing and already rendered.
    """

    shot: Shot
    folder: Path
    rows: range
    missing: int
    reused: int

    @staticmethod
    def of(shot: Shot, folder: Path, rows: range | None = None) -> Plan:
        """rows: default all."""
        rows = range(len(shot.coefficients)) if rows is None else rows
        missing, names = len(shot.missing(rows)), shot.file_names()
        return Plan(shot, folder, rows, missing, len({names[row] for row in rows}) - missing)

    def plus(self, other: Plan) -> Plan:
        """This plan with the counts of another one added."""
        return replace(self, missing=self.missing + other.missing, reused=self.reused + other.reused)


def render_ranges(
    scene: bpy.types.Scene, obj: bpy.types.Object, which: str
) -> list[tuple[tuple[int, int], bpy.types.MovieStrip | None]]:
    """The frame ranges to render for a character, each with the movie strip that the face is rendered over or None.

    A range is its first frame and the one after its last. which: an item of `sequencer.RENDER_RANGES`, or FRAME. A
    character that dubs movie strips has one range for each, the whole strip for "AUTO". Raises EDTalkError if there is
    none.
    """
    plates = sequencer.plates(scene, obj)
    if not plates:
        return [(sequencer.render_range(scene, obj, which), None)]
    clocks = [footage.time_map(scene, plate) for plate in plates]
    if which != "AUTO":
        now = scene.frame_current
        wanted = (now, now + 1) if which == FRAME else sequencer.render_range(scene, obj, which)
        clocks = [clock.clipped(*wanted) for clock in clocks]
    found = [((clock.start, clock.end), plate) for clock, plate in zip(clocks, plates, strict=True)]
    found = [(span, plate) for span, plate in found if span[1] > span[0]]
    if not found:
        names = sequencer.quoted(plate.name for plate in plates)
        raise EDTalkError(f"{obj.name} dubs {names}, which is outside this range.", "Render another range.")
    return found


def write(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    face: CharacterSnapshot,
    span: tuple[int, int],
    name: str,
    plate: bpy.types.MovieStrip | None = None,
) -> Plan:
    """Sample a character from frame span[0] to the one before span[1] and write the shot to its folder `name`.

    Arguments: see `shot_of`. Raises EDTalkError if the movie has not been tracked, or the folder cannot be written to.
    """
    folder = face.folder / SHOTS / name
    return Plan.of(shot_of(scene, obj, face, span, plate).write(folder, plate_by_name=True), folder)


def sampler(scene: bpy.types.Scene, obj: bpy.types.Object, face: CharacterSnapshot) -> dubbing.Sampler:
    """A function that samples a character over a range of frames, see `sampling.sample`, and rounds the rows."""
    own_scene = next((one for one in bpy.data.scenes if obj.name in one.objects), scene)  # may differ from the edit's
    return lambda frames: _rounded(sampling.sample(own_scene, obj, frames, face), face)


def sampled_range(
    scene: bpy.types.Scene, face: CharacterSnapshot, span: tuple[int, int], plate: bpy.types.MovieStrip | None
) -> range:
    """The frames whose animation a shot over `span` depends on."""
    margin = 0 if plate is None else dubbing.pause_margin(scene, face)
    return range(span[0] - margin, span[1] + margin)


def shot_of(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    face: CharacterSnapshot,
    span: tuple[int, int],
    plate: bpy.types.MovieStrip | None = None,
    sample: dubbing.Sampler | None = None,
) -> Shot:
    """The shot of a character from frame span[0] to the one before span[1], without writing it.

    face: `obj` as it was read. plate: the movie strip that the face is rendered over. sample: see `sampler`; gives the
    rows of `sampled_range`. Raises EDTalkError if the movie has not been tracked.
    """
    sample = sample or sampler(scene, obj, face)
    return maker(scene, face, span, plate, sample)(sample(range(*span)))


def maker(
    scene: bpy.types.Scene,
    face: CharacterSnapshot,
    span: tuple[int, int],
    plate: bpy.types.MovieStrip | None,
    sample: dubbing.Sampler,
) -> Callable[[np.ndarray], Shot]:
    """A function that makes the shot of its rows (T, n); a thread may call it, because it uses no bpy.

    Arguments: see `shot_of`. With a plate, the rows of `sampled_range` are needed already.
    """
    fps, image_format = sequencer.fps(scene), sequencer.settings(scene).image_format
    dubbed, references = None, None
    if plate is not None:
        dubbed = dubbing.plate_of(scene, face, plate, span)
        references = dubbing.references_of(scene, face, plate, span, dubbing.shown_mouth(scene, face, sample, span))

    def make(rows: np.ndarray) -> Shot:
        return Shot(
            bank=face.bank_path,
            bank_sha256=face.bank.sha256,
            portrait=face.portrait,
            crop=face.crop,
            coefficients=Coefficients(
                rows if dubbed is None else dubbing.differences(face, rows), face.bank.names, fps
            ),
            frames_folder=face.folder / FRAMES,
            first_frame=span[0],
            image_format=image_format,
            layer=face.layer,
            size=face.size,
            mask=face.mask,
            feather=face.feather,
            plate=dubbed,
            references=references,
        )

    return make


def _rounded(rows: np.ndarray, face: CharacterSnapshot) -> np.ndarray:
    """Rows (T, n) whose offsets from rest are multiples of `_STEP`.

    Keyframes that are moved in time give values that differ by about 1e-9. Without rounding, some frames would have
    another name, and be rendered again.
    """
    rest = face.rest.astype(np.float32)
    return rest + np.rint((rows - rest) / _STEP) * _STEP
