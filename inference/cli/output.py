"""The output of `render`: a video with sound, or a folder of numbered images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..contract.errors import EDTalkError
from .options import check_free

if TYPE_CHECKING:
    from ..media.video_writer import FrameFolder, Sound, VideoWriter

CLIPS = (".mp4", ".mov", ".mkv")


def is_clip(out: Path, form: str | None) -> bool:
    """Whether `out` is a video, not a folder. Raises EDTalkError if it is neither, or does not fit --format."""
    if out.suffix.lower() in CLIPS and not out.is_dir():
        if form:
            raise EDTalkError(f"--format {form} requires a folder as --out, found the video {out.name}.")
        return True
    if out.is_file() or (out.suffix and not out.is_dir()):
        raise EDTalkError(
            f"The output must be a video ({', '.join(CLIPS)}) or a folder, found '{out.name}'.",
            "For images, give a folder and --format png or exr.",
        )
    return False


def check_output(out: Path, form: str | None, overwrite: bool, inputs: Iterable[Path | None]) -> None:
    """Raise EDTalkError if the output cannot be written or is one of the inputs, before any work is done."""
    if is_clip(out, form):
        check_free(out, overwrite)
        if any(path is not None and path.exists() and out.exists() and out.samefile(path) for path in inputs):
            raise EDTalkError(f"{out} is one of the inputs.", "Choose another name for the output.")
    elif not out.parent.is_dir():
        raise EDTalkError(f"The folder {out.parent} does not exist.", "Create it first.", "disk")


def refuse_existing(out: Path, form: str | None, span: slice, overwrite: bool) -> None:
    """Raise EDTalkError if a frame of `span` exists in the folder `out` and may not be overwritten."""
    if is_clip(out, form) or overwrite:
        return
    paths = [out / f"frame_{number:04d}.{form or 'png'}" for number in range(span.start + 1, span.stop + 1)]
    exist = [path.exists() for path in paths]
    if not any(exist):
        return
    hint = "Choose another folder, or add --overwrite."
    if not all(exist) and not any(exist[exist.index(False) :]):  # an earlier run was interrupted
        hint = f"To render only the rest, add {rest(span, exist.index(False))}; or add --overwrite."
    raise EDTalkError(f"{paths[exist.index(True)]} exists.", hint)


def rest(span: slice, done: int) -> str:
    """The option that renders the frames of `span` without the first `done` ones."""
    return f"--frames {span.start + done}-{span.stop - 1}"


def open_output(
    out: Path, form: str | None, span: slice, fps: float, shape: tuple[int, int], sound: Sound | None
) -> VideoWriter | FrameFolder:
    """The writer for the frames `span` of the whole result. shape: (height, width) of each."""
    from ..media.video_writer import FrameFolder, VideoWriter

    if is_clip(out, form):
        height, width = shape
        return VideoWriter(out, fps, (width, height), sound=sound)
    return FrameFolder(out, form or "png", sound=sound, start=span.start + 1)
