"""A character's evaluated coefficients, written as a shot that the worker renders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import bpy

from ...inference.contract.coefficients import Coefficients
from ...inference.contract.errors import EDTalkError
from ...inference.contract.shot import Shot
from ..animation import sampling
from ..character import character
from ..folders import FRAMES, SHOTS, character_folder
from ..plate import dubbing
from ..plate.compositing import WHOLE
from ..timeline import footage, sequencer
from ..timeline.sequencer import render_range

SIZE = "edtalk_size"  # of a face strip: width and height of its pictures


# --- Rendering


@dataclass(frozen=True)
class Plan:
    """What is to be rendered, and how much of it there is already."""

    shot: Shot
    folder: Path
    missing: int
    reused: int

    def with_more(self, other: Plan) -> Plan:
        """This plan, with what there is to do for another one too."""
        return replace(self, missing=self.missing + other.missing, reused=self.reused + other.reused)


def stretches(
    scene: bpy.types.Scene, obj: bpy.types.Object, which: str
) -> list[tuple[tuple[int, int], bpy.types.MovieStrip | None]]:
    """What is to be rendered of a character: first frame and the one after the last, and the plate they lie on.

    Over each movie strip that it dubs there is one, as long as the strip for "AUTO", else where the range has it; for
    other characters there is one without a plate. EDTalkError where there is no such range.
    """
    plates = sequencer.plates(scene, obj)
    if not plates:
        return [(render_range(scene, obj, which), None)]
    clocks = [footage.time_map(scene, plate) for plate in plates]
    if which != "AUTO":
        wanted = render_range(scene, obj, which)
        clocks = [clock.clipped(*wanted) for clock in clocks]
    found = [((clock.start, clock.end), plate) for clock, plate in zip(clocks, plates, strict=True)]
    found = [(span, plate) for span, plate in found if span[1] > span[0]]
    if not found:
        names = sequencer.quoted(plate.name for plate in plates)
        raise EDTalkError(f"{obj.name} dubs {names}, which is not shown in this range.", "Render another range.")
    return found


def write_shot(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    span: tuple[int, int],
    strip_id: str,
    plate: bpy.types.MovieStrip | None = None,
) -> Plan:
    start, end = span
    bank, group = character.bank_of(obj), obj.edtalk
    home = next((one for one in bpy.data.scenes if obj.name in one.objects), scene)  # a sequencer may stand alone
    rows = sampling.sample(home, obj, range(start, end))
    folder = character_folder(obj)
    if plate is None:
        source = {"portrait": character.portrait_path(obj), "crop": character.crop_of(obj)}
    else:
        rows = dubbing.differences(obj, rows)
        source = {"portrait": None, "crop": "auto", "plate": dubbing.plate_of(scene, obj, plate, span)}
    shot = Shot(
        bank=character.bank_path(obj),
        bank_sha256=bank.sha256,
        coefficients=Coefficients(rows, bank.names, sequencer.fps(scene)),
        frames_folder=folder / FRAMES,
        first_frame=start,
        image_format=sequencer.settings(scene).image_format,
        layer=group.layer,
        size=_square_size(group, bank.config.size),
        mask=group.mask,
        feather=round(group.feather, 4),
        **source,
    )
    written = shot.write(folder / SHOTS / strip_id, plate_by_name=True)
    return counted(written, folder / SHOTS / strip_id)


def _square_size(group: bpy.types.PropertyGroup, own: int) -> int:
    """A shot's size: 0 for a bank that draws as much by itself, and where pictures are as large as the plate."""
    size = int(group.size)
    return 0 if group.layer in WHOLE or size <= own else size


def counted(shot: Shot, folder: Path) -> Plan:
    missing = len(shot.missing())
    return Plan(shot, folder, missing, len(set(shot.file_names())) - missing)
