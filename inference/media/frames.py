"""Export the rendered frames of a shot as a clip with sound, or as numbered files.

Rendered frames are named by content. The export needs finished frames only, so it is the last step of a farm job.
"""

from __future__ import annotations

import filecmp
import os
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import av
import numpy as np
from PIL import Image

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
    """Write the frames of a shot as a clip (.mp4, .mov, .mkv) at its frame rate; returns the number of frames.

    sound: starts at the first frame. progress: called after each frame. Raises EDTalkError if frames are missing or the
    shot has no frame rate (kind "input"), if a frame cannot be read ("media") or the clip cannot be written ("disk").
    """
    paths = finished(shot)
    if shot.coefficients.fps is None:
        raise EDTalkError(
            "The shot has no frame rate, so it cannot be written as a clip.", "Export the shot again with one."
        )
    encode_pictures(
        paths, out, shot.coefficients.fps, sound, progress=lambda done: progress() if progress and done else None
    )
    return len(paths)


def encode_pictures(
    paths: Sequence[Path],
    out: str | os.PathLike[str],
    fps: float,
    sound: Sound | None = None,
    *,
    codec: str = "h264",
    width: int = 0,
    progress: Callable[[int], object] = lambda done: None,
) -> None:
    """Write rendered pictures as a clip (.mp4, .mov, .mkv), one per frame. Transparent parts become black.

    sound: starts at the first frame. codec: see `VideoWriter`. width: of the clip; 0: that of the first picture.
    Pictures of another size are scaled. progress: called with the number of frames written, before the first and after
    each; may raise to stop. Raises EDTalkError if a frame cannot be read ("media") or the clip cannot be written
    ("disk").
    """
    progress(0)
    height, own_width, _ = read_frame(paths[0]).shape
    size = (width, max(round(height * width / own_width), 1)) if width else (own_width, height)
    done = 0
    with VideoWriter(out, parse_fps(fps), size, sound=sound, codec=codec) as writer:
        for path, hold in groupby(paths):
            pixels = _scaled(read_frame(path), size)
            for _ in hold:
                writer.write(pixels)
                done += 1
                progress(done)


def _scaled(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if pixels.shape[1::-1] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def number_frames(
    shot: Shot, folder: str | os.PathLike[str], *, copy: bool = False, overwrite: bool = False
) -> list[Path]:
    """Put frames and sound into a folder, as frame_0101.png and so on by scene frame, and sound.wav; returns paths.

    copy: write copies, for programs that change the files that they open. Otherwise hard links are made where the file
    system supports them, which take no space. Files that are already correct are kept. overwrite: replace other files.
    Raises EDTalkError if frames are missing, if another file exists, or with kind "disk".
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
    """The file of every row. Raises EDTalkError naming the frames that are not rendered."""
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
    """A rendered frame over black, uint8 sRGB (H, W, 3). Raises EDTalkError(kind="media") if it is damaged."""
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
    """Read linear, premultiplied colours as sRGB, uint8 (H, W, 3)."""
    with open_media(path) as file:
        frame = next(file.decode(video=0))
    number = np.float16 if "f16" in frame.format.name else np.float32  # FFmpeg's converter knows no half floats
    green, blue, red, *_ = (
        np.frombuffer(memoryview(plane), number).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes
    )
    light = np.stack([red, green, blue], axis=2).astype(np.float32).clip(0, 1)
    levels = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(levels * 255).astype(np.uint8)
