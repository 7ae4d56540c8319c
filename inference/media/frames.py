"""What others take of a shot's rendered frames, which are named by content: a clip with sound, files numbered in order.

Both are made of finished frames alone, so they are the last step on a farm.
"""

from __future__ import annotations

import filecmp
import os
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import av
import numpy as np

from ..contract.errors import EDTalkError, disk_error
from ..contract.files import link_or_copy
from ..contract.shot import Shot, frame_ranges
from .container import open_media
from .picture import load_picture
from .video import parse_fps
from .video_writer import Sound, VideoWriter


def encode(
    shot: Shot, out: str | os.PathLike[str], sound: Sound | None = None, progress: Callable[[], None] | None = None
) -> int:
    """Write the frames of a shot as a clip (.mp4, .mov, .mkv) at its rate; returns how many there were.

    sound: heard from the first frame on. progress: called after each frame. Raises EDTalkError where frames are missing
    (kind "input") or cannot be read ("media"), or the shot has no rate.
    """
    paths = finished(shot)
    if shot.coefficients.fps is None:
        raise EDTalkError("The shot has no frame rate, so it cannot become a clip.", "Write it with one.")
    count = 0
    height, width, _ = read_frame(paths[0]).shape
    with VideoWriter(out, parse_fps(shot.coefficients.fps), (width, height), sound=sound) as writer:
        for path, hold in groupby(paths):
            pixels = read_frame(path)
            for _ in hold:
                writer.write(pixels)
                count += 1
                if progress:
                    progress()
    return count


def number(shot: Shot, folder: str | os.PathLike[str], *, copy: bool = False, overwrite: bool = False) -> list[Path]:
    """Put frames and sound into a folder as frame_0101.png ... by the scene's frame numbers, and sound.wav or the like.

    They are hard links, which take no space, where the file system has them; copies with `copy`, for programs that
    write into the files that they open. Files that are right already are left. Raises EDTalkError where frames are
    missing, where another file is in the way, or with kind "disk".
    """
    folder, made = Path(folder), []
    wanted = [(path, f"frame_{shot.first_frame + row:04d}{path.suffix}") for row, path in enumerate(finished(shot))]
    if shot.sound:
        wanted.append((shot.sound, f"sound{shot.sound.suffix}"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source, name in wanted:
            target = folder / name
            ours = target.exists() and (target.samefile(source) or filecmp.cmp(source, target, shallow=False))
            if target.exists() and not ours and not overwrite:
                raise EDTalkError(f"{target} exists.", "Choose another folder.", code="output_exists")
            if not ours or (copy and target.samefile(source)):
                link_or_copy(source, target, copy)
            made.append(target)
    except OSError as error:
        raise disk_error(folder, error) from error
    return made


def finished(shot: Shot) -> list[Path]:
    """The file of every row; EDTalkError naming the frames that have none."""
    names, missing = shot.file_names(), shot.missing()
    absent = {names[row] for row in missing}
    frames = [shot.first_frame + row for row, name in enumerate(names) if name in absent]
    if frames:
        ranges = frame_ranges(frames)
        raise EDTalkError(
            f"{len(frames)} of {len(names)} frames are not rendered yet: {ranges}.",
            "Render them first.",
            code="frames_missing",
        )
    return [shot.frames_folder / name for name in names]


def read_frame(path: Path) -> np.ndarray:
    """A rendered frame, uint8 sRGB (H, W, 3); what is transparent lies over black. Raises EDTalkError(kind="media")."""
    try:
        if path.suffix == ".exr":
            return _read_exr(path)
        picture = load_picture(path)
    except (EDTalkError, av.FFmpegError, StopIteration, OSError, ValueError) as error:
        message = f"The frame {path} is damaged."
        raise EDTalkError(message, "Delete it and render the shot again.", "media") from error
    if picture.alpha is None:
        return picture.rgb
    return np.rint(picture.rgb * (picture.alpha[..., None] / np.float32(255))).astype(np.uint8)


def _read_exr(path: Path) -> np.ndarray:
    """Linear light, already multiplied by alpha, to sRGB."""
    with open_media(path) as file:
        frame = next(file.decode(video=0))
    number = np.float16 if "f16" in frame.format.name else np.float32  # FFmpeg's converter knows no half floats
    green, blue, red, *_ = (
        np.frombuffer(plane, number).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes
    )
    light = np.stack([red, green, blue], axis=2).astype(np.float32).clip(0, 1)
    levels = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(levels * 255).astype(np.uint8)
