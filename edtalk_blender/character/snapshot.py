"""A character read once into plain values, for rendering: later edits in Blender do not change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from ...inference.contract.bank import Bank
from ...inference.contract.mixing import final_rows
from ..folders import character_folder, temporary_folder
from . import character, files, sliders

FULL_FRAME_LAYERS = ("plate", "pasted")  # layers whose pictures are as large as the plate or portrait


@dataclass(frozen=True, eq=False)
class CharacterSnapshot:
    """The properties of a character that rendering needs.

    bank_path, bank: the bank's file and its metadata.
    rest: (n,) float64, the coefficients at which the portrait is rendered unchanged.
    emotions: by name, the offset (m,) of the expression coefficients from neutral; the bank's first, then its own.
    portrait, crop: file of the portrait, and the crop as in `Shot`; None and "auto" if read without a portrait.
    portrait_size: its upright width and height if the pictures are as large as the portrait, else None.
    layer, mask, feather, size: as in `Shot`; a size of 0 is the bank's native size.
    dub_references, dub_frames, keep_pauses: the settings for dubbing, see `plate.dubbing.references_of`.
    face_number: the face to use in a movie that shows several, see `edtalk.which`; 0 where there is only one.
    face_strip: identity of the strip that shows the rendered frames, "" before the first render.
    folder: folder of its shots, frames and tracks. temporary_folder: the same before the .blend was saved.
    editable: whether its properties may be changed; linked characters are read-only.
    """

    name: str
    uid: str
    bank_path: Path
    bank: Bank
    rest: np.ndarray
    emotions: Mapping[str, np.ndarray]
    portrait: Path | None
    crop: str | tuple[float, ...]
    portrait_size: tuple[int, int] | None
    layer: str
    mask: str
    feather: float
    size: int
    dub_references: str
    dub_frames: str
    keep_pauses: bool
    face_number: int
    face_strip: str
    folder: Path
    temporary_folder: Path
    editable: bool

    @property
    def is_full_frame(self) -> bool:
        """Whether its pictures are as large as the plate or portrait, not the square of the face."""
        return self.layer in FULL_FRAME_LAYERS

    @property
    def square(self) -> int:
        """Pixels of a side of the face's square."""
        return self.size or self.bank.config.size

    def rows(self, values: np.ndarray, strengths: np.ndarray, emotions: np.ndarray) -> np.ndarray:
        """(T, n) float32 rows to render: (T, n) sliders, (T, banks) strengths and (T, k) emotions mixed."""
        return final_rows(self.bank.config.banks, self.rest, values, strengths, emotions, list(self.emotions.values()))


def read(obj: bpy.types.Object, *, with_portrait: bool = True) -> CharacterSnapshot:
    """Read the current properties of a character.

    with_portrait: False for a character that is rendered over movies, which needs no portrait.
    Raises EDTalkError if the bank or the required portrait is missing.
    """
    group, bank = obj.edtalk, files.bank_of(obj)
    is_full_frame, size = group.layer in FULL_FRAME_LAYERS, int(group.size)
    return CharacterSnapshot(
        name=obj.name,
        uid=group.uid,
        bank_path=files.bank_path(obj),
        bank=bank,
        rest=sliders.rest_row(obj),
        emotions=sliders.emotions(obj),
        portrait=files.portrait_path(obj) if with_portrait else None,
        crop=files.crop_of(obj) if with_portrait else "auto",
        portrait_size=files.portrait_size(obj) if with_portrait and is_full_frame else None,
        layer=group.layer,
        mask=group.mask,
        feather=round(group.feather, 4),
        size=0 if is_full_frame or size <= bank.config.size else size,
        dub_references=group.dub_references,
        dub_frames=group.dub_frames,
        keep_pauses=group.dub_keep_pauses,
        face_number=group.which,
        face_strip=group.face_strip,
        folder=character_folder(obj),
        temporary_folder=temporary_folder(obj),
        editable=not character.editable_reason(obj),
    )
