"""Open a media file with FFmpeg, restricted to audio and video containers in the file system.

A playlist (HLS, DASH, ffconcat, SDP) names further files and addresses, which FFmpeg opens whatever the suffix of the
playlist is. Therefore only the demuxers listed here may be used.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported late: most callers only read pictures
    import av

_SOUND = "aac ac3 aiff amr ape au caf dsf dts eac3 flac mlp mp3 mpc mpc8 ogg oma tak truehd tta voc w64 wav wv"
_MOVIES = (
    "apng asf av1 avi dv flv gif gxf h264 hevc ivf m4v matroska mjpeg mov mpeg mpegts mpegvideo mxf nut obu r3d rm vc1"
    " wtv yuv4mpegpipe"
)
_PICTURES = "bmp dpx exr gif hdr j2k jpeg jpegxl pam pbm pgm png ppm psd sgi tiff webp"
_DEMUXERS = [*_SOUND.split(), *_MOVIES.split(), *(f"{name}_pipe" for name in _PICTURES.split())]
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands
_ONLY = {"format_whitelist": ",".join(_DEMUXERS), "protocol_whitelist": "file"}


def is_heif(start: bytes) -> bool:
    """Whether a file that begins with these 12 bytes is a HEIC or HEIF photograph, as phones take them."""
    return start[4:8] == b"ftyp" and start[8:12] in _HEIF


def open_media(path: Path) -> av.container.InputContainer:
    """Open a regular file for reading.

    Raises OSError (or its subclass `av.FFmpegError`) if it is not a regular file or no listed demuxer can read it.
    """
    import av

    if not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    with path.open("rb") as file:
        if is_heif(file.read(12)):  # FFmpeg takes one tile of the photograph for a movie
            raise OSError(errno.EINVAL, "it is a photograph", str(path))
    # "file:", so that a name with a colon is not taken for a URL. Titles need not be UTF-8.
    return av.open(f"file:{path}", options=dict(_ONLY), metadata_errors="replace")


def decoded_packets(container: av.container.InputContainer, stream: Any) -> Iterator[tuple[list[Any], bool]]:
    """The frames of each packet of an audio or video stream, and whether the packet was damaged.

    A damaged packet has no frames. A truncated file counts as one; the frames that the decoder still holds are good.
    """
    import av

    packets = container.demux(stream)
    while True:
        damaged = False
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError):
            damaged, packet = True, None
        try:
            frames = stream.decode(packet)
        except av.EOFError:  # the decoder was flushed already
            frames = []
        except av.FFmpegError:
            damaged, frames = True, []
        yield frames, damaged
        if packet is None:
            return
