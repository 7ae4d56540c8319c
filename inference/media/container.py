"""Where FFmpeg opens a file: containers of sound and picture only, and nothing but the file itself.

A playlist (HLS, DASH, ffconcat, SDP) names further files and addresses. FFmpeg follows them whatever the file's suffix
is, so only the demuxers listed here may read, and only from the file system.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import av

_SOUND = "aac ac3 aiff amr ape au caf dsf dts eac3 flac mlp mp3 mpc mpc8 ogg oma tak truehd tta voc w64 wav wv"
_MOVIES = (
    "apng asf av1 avi dv flv gif gxf h264 hevc ivf m4v matroska mjpeg mov mpeg mpegts mpegvideo mxf nut obu r3d rm vc1"
    " wtv yuv4mpegpipe"
)
_PICTURES = "bmp dpx exr gif hdr j2k jpeg jpegxl pam pbm pgm png ppm psd sgi tiff webp"
_DEMUXERS = [*_SOUND.split(), *_MOVIES.split(), *(f"{name}_pipe" for name in _PICTURES.split())]
_ONLY = {"format_whitelist": ",".join(_DEMUXERS), "protocol_whitelist": "file"}


def open_media(path: Path, **choices: Any) -> av.container.InputContainer:
    """A regular file opened for reading; choices: see `av.open`.

    Raises OSError, of which `av.FFmpegError` is one, for another kind of file and for what no listed demuxer reads.
    """
    if not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return av.open(f"file:{path}", options=dict(_ONLY), **choices)  # "file:": a name with a colon is no address
