"""Read sound files as blocks of samples, placed by presentation time, and convert their rates.

Time 0 is the beginning of the file's picture, or of the sound in a file without picture. Sound that begins later, or
that has a gap, is preceded by silence; what lies before the picture is left out. Blocks are read one at a time, so
memory does not grow with the length.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soxr

from ..contract.content import UNKNOWN_SIZE, damage_of, stated_size, unreadable_media
from ..contract.downmix import Downmix
from ..contract.errors import EDTalkError
from ..contract.files import check_file
from ..contract.requests import SHORTEST_SOUND
from .container import decoded_packets, open_media

logger = logging.getLogger(__name__)

RATE = 16_000  # Hz, of all sound that a network receives
UPSTREAM_FPS = 25  # frame rate for which upstream's lip-sync network was made
SMOOTH_SPACING = 1 / UPSTREAM_FPS  # seconds between the taps of the smoothing filter of lip-sync

Block = tuple[np.ndarray, int]  # samples float32 (n, channels) or (n,), in [-1, 1], and their rate in Hz

_EXPECTED = "expected sound such as WAV, FLAC or MP3, or a video with sound"
_CHOOSE = "Choose another file."
_BLOCK = 16_384  # samples
_RATES = (1_000, 1_000_000)  # Hz; a damaged or hostile header claims others
_LONGEST = 6 * 3600  # seconds of sound in one file; no line is longer, but a small file may claim any length
_JITTER = 0.02  # seconds by which timestamps may deviate; below the length of a lost AAC or MP3 frame at 48 kHz
OVERLAP = 1.0  # seconds; timestamps that jump back further start again, as where recordings were joined
LONGEST_GAP = 3600.0  # seconds; a longer gap is taken for a damaged timestamp and closed
_ELEMENTARY = {"aac", "ac3", "amr", "dts", "eac3", "mlp", "truehd"}  # FFmpeg guesses their duration
_FULL_SCALE = {"u8": 128, "s16": 2**15, "s32": 2**31, "flt": 1}  # of the interleaved sample formats


@dataclass(frozen=True)
class SoundFile:
    """The sound of a file.

    stream: number of the audio stream, from 1; None: the one that the file marks as default, as players choose, else
    the first. start: seconds into the file from which on it is read.
    """

    path: Path
    stream: int | None = None
    start: float = 0.0


def load_sound(path: str | os.PathLike[str], stream: int | None = None) -> tuple[np.ndarray, int]:
    """The sound of a sound or video file: mono samples (n,) float32 in [-1, 1] and their rate in Hz.

    stream: as in `SoundFile`.

    Channels are averaged, see `Downmix`; the rate is the file's own. The readable part of a damaged file is used, with
    a warning. Raises EDTalkError(kind="media") naming the file if it is missing, empty, not a media file, without
    sound, unreadable or shorter than 40 ms.
    """
    samples, rate, _ = _load_mono(SoundFile(Path(path), stream), None, SHORTEST_SOUND)
    return samples, rate


def load_speech(
    path: str | os.PathLike[str], stream: int | None = None, shortest: float = SHORTEST_SOUND
) -> tuple[np.ndarray, float]:
    """As `load_sound`, at 16 kHz, and the length in seconds; needs less memory for a long sound.

    shortest: seconds below which the sound is refused.
    """
    samples, _, seconds = _load_mono(SoundFile(Path(path), stream), RATE, shortest)
    return samples, seconds


def _load_mono(source: SoundFile, rate: int | None, shortest: float) -> tuple[np.ndarray, int, float]:
    """Mono samples (n,), their rate in Hz (None: the file's own), and the length in seconds, at least `shortest`."""
    downmix = Downmix()
    samples, found, lengths = _gather(((downmix.average(block), at) for block, at in read_sound(source)), rate)
    if downmix.cancels:
        blocks = read_sound(source)
        samples, found, lengths = _gather(((downmix.loudest(block), at) for block, at in blocks), rate)
    seconds = length_of(source, lengths, shortest)
    assert found is not None, "it has samples"
    if not is_finite(samples):  # `nan_to_num` needs several times the memory of this test
        np.nan_to_num(samples, copy=False, posinf=1.0, neginf=-1.0)
    return samples, found, seconds


def length_of(source: SoundFile, lengths: dict[int, int], shortest: float) -> float:
    """The seconds of a sound. lengths: its number of samples by their rate in Hz.

    Raises EDTalkError(kind="media") if there are none, or less than `shortest` seconds.
    """
    if not lengths and damage_of(source.path):
        raise unreadable_media(source.path, _EXPECTED)
    if not lengths:
        raise EDTalkError(f"The audio stream of {source.path} has no samples.", "Export the sound again.", "media")
    seconds = sum(length / at for at, length in lengths.items())
    if seconds < shortest:
        message = f"{source.path} lasts {seconds:.2f} s; expected at least {shortest:g} s of sound."
        raise EDTalkError(message, "Choose a longer sound.", "media")
    return seconds


def is_finite(samples: np.ndarray) -> bool:
    """Whether samples (n,) contain neither NaN nor infinity; without an array of their length."""
    return not len(samples) or bool(np.isfinite([samples.min(), samples.max()]).all())


def _gather(blocks: Iterable[Block], rate: int | None) -> tuple[np.ndarray, int | None, dict[int, int]]:
    """Mono blocks as one array (n,), its rate in Hz (`rate` None: that of the first block), and see `length_of`."""
    lengths: dict[int, int] = {}
    gathered = bytearray()  # grows in place, unlike a list of blocks that is joined at the end

    def counted() -> Iterator[Block]:
        for samples, at in blocks:
            lengths[at] = lengths.get(at, 0) + len(samples)
            yield samples, at

    for samples, found in resampled(counted(), rate):
        gathered += samples.tobytes()
        rate = found
    return np.frombuffer(gathered, np.float32), rate, lengths


def read_sound(source: SoundFile, *, for_clip: bool = False) -> Iterator[Block]:
    """The sound of a file in blocks (n, channels) without gaps, the first of which begins at `source.start`.

    for_clip: mix more than two channels to stereo, and keep the number of channels of the first block. Otherwise the
    channels are the file's own, and their number may change between blocks. The rate may change in either case.
    Damaged packets are skipped, with a warning at the end. Raises EDTalkError(kind="media") naming the file if it
    cannot be opened, has no audio stream or nothing of it can be decoded, or if it has more than six hours.
    """
    return _joined(_limited(in_time(_converted(_decoded(source), for_clip), source.start), source.path))


def _limited(blocks: Iterable[Block], path: Path) -> Iterator[Block]:
    """The same blocks. Raises EDTalkError(kind="media") after `_LONGEST` seconds."""
    seconds = 0.0
    for samples, rate in blocks:
        seconds += len(samples) / rate
        if seconds > _LONGEST:
            message = f"{path} has more than {_LONGEST // 3600} hours of sound at {rate} samples per second."
            raise EDTalkError(message, "Export only the part that is needed.", "media")
        yield samples, rate


def _joined(blocks: Iterable[Block]) -> Iterator[Block]:
    """The same sound in longer blocks, which take less time to process."""
    parts: list[np.ndarray] = []
    length, known = 0, (0, 0)
    for samples, rate in blocks:
        form = rate, samples.shape[1]
        if parts and (form != known or length >= _BLOCK):
            yield np.concatenate(parts), known[0]
            parts, length = [], 0
        parts.append(samples)
        length, known = length + len(samples), form
    if parts:
        yield np.concatenate(parts), known[0]


def in_time(timed: Iterable[tuple[float | None, np.ndarray, int]], start: float) -> Iterator[Block]:
    """Blocks without gaps from `start` seconds on. timed: time in seconds (None: unknown), samples and rate."""
    now = shift = 0.0  # time of the next sample, and correction of the timestamps
    begun = False
    for time, samples, rate in timed:
        if time is not None:
            late = time - start + shift - now
            if late > LONGEST_GAP or (begun and late < -OVERLAP):
                shift, late = shift - late, 0.0
            if begun and abs(late) <= _JITTER:
                late = 0.0
            missing = round(late * rate)
            for first in range(0, missing, rate):
                yield np.zeros((min(rate, missing - first), samples.shape[1]), np.float32), rate
            now += max(missing, 0) / rate
            samples = samples[max(-missing, 0) :]
        if len(samples):
            begun = True
            now += len(samples) / rate
            yield samples, rate


def resampled(blocks: Iterable[Block], rate: int | None) -> Iterator[Block]:
    """Blocks at one rate in Hz; None: that of the first. The rate may change between blocks, as in joined files."""
    stream: soxr.ResampleStream | None = None
    known = 0
    nothing = np.zeros(0, np.float32)
    for samples, found in blocks:
        rate = rate or found
        if found != known:
            if stream:
                yield stream.resample_chunk(nothing, last=True), rate
            channels = 1 if samples.ndim == 1 else samples.shape[1]
            stream = None if found == rate else soxr.ResampleStream(found, rate, channels, "float32", quality="HQ")
            known, nothing = found, samples[:0]
        yield (stream.resample_chunk(samples) if stream else samples), rate
    if stream and rate:
        yield stream.resample_chunk(nothing, last=True), rate


def to_16k(samples: np.ndarray, rate: int) -> np.ndarray:
    """Mono samples (n,) at `rate` Hz to float32 at 16 kHz; 16 kHz input is returned unchanged."""
    samples = np.asarray(samples, np.float32)
    return samples if rate == RATE else soxr.resample(samples, rate, RATE, quality="HQ")


def _converted(
    frames: Iterable[tuple[float | None, av.AudioFrame]], for_clip: bool
) -> Iterator[tuple[float | None, np.ndarray, int]]:
    """The time in seconds, samples (n, channels) and rate of frames in any sample format."""
    resampler: av.AudioResampler | None = None
    known: tuple[str, str, int] | None = None
    wanted = 0  # channels
    for time, frame in frames:
        form, layout, rate = frame.format.name, frame.layout.name, frame.sample_rate
        channels = frame.layout.nb_channels
        if for_clip and not wanted:
            wanted = min(channels, 2)
        if channels == (wanted or channels) and (form in _FULL_SCALE or (form == "fltp" and channels < 8)):
            yield time, _samples(frame, form, channels), rate
            continue
        if resampler is None or known != (form, layout, rate):
            # "flt" interleaves the channels: PyAV reads beyond the planes of planar formats from 8 channels on.
            resampler = av.AudioResampler("flt", {0: None, 1: "mono", 2: "stereo"}[wanted], rate)
            known = form, layout, rate
        frame.pts = None
        for converted in resampler.resample(frame):
            yield time, converted.to_ndarray().reshape(converted.samples, -1), rate
            time = None


def _samples(frame: av.AudioFrame, form: str, channels: int) -> np.ndarray:
    """(n, channels) float32 of a frame whose format is in `_FULL_SCALE` or "fltp"."""
    stored = frame.to_ndarray()
    if form == "fltp":
        return stored.T
    stored = stored.reshape(-1, channels)
    if form == "u8":
        stored = stored.astype(np.float32) - 128
    return np.multiply(stored, np.float32(1 / _FULL_SCALE[form]), dtype=np.float32)


def _decoded(source: SoundFile) -> Iterator[tuple[float | None, av.AudioFrame]]:
    """The frames of the audio stream and their times in seconds, None if unknown; damaged packets are skipped."""
    path = source.path
    check_file(path, _EXPECTED)
    try:
        container = open_media(path)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise unreadable_media(path, _EXPECTED) from error
    with container:
        stream = _choose(container, source)
        zero, expected = _picture_start(container), _expected_seconds(container, stream, path)
        damaged, seconds = 0, 0.0
        for frames, bad in decoded_packets(container, stream):
            damaged += bad
            for frame in frames:
                if not _RATES[0] <= frame.sample_rate <= _RATES[1]:
                    message = f"{path} has {frame.sample_rate} samples per second; expected {_RATES[0]} to {_RATES[1]}."
                    raise EDTalkError(message, "Export the sound again, for example with 48 kHz.", "media")
                time = frame.time
                zero = time if zero is None else zero
                seconds += frame.samples / frame.sample_rate
                yield (None if time is None or zero is None else time - zero), frame
    if damaged and not seconds:
        raise unreadable_media(path, _EXPECTED)
    if damaged or (expected and expected - seconds > 0.2):
        length = f" of {expected:.2f}" if expected else ""
        found = f"read {seconds:.2f}{length} s of sound"
        logger.warning("%s is damaged or truncated: %s. Copy or export it again.", path, found)


def _choose(container: av.container.InputContainer, source: SoundFile) -> av.AudioStream:
    """The audio stream of a source. Raises EDTalkError(kind="media") if the file does not have it."""
    streams = list(container.streams.audio)
    if not container.streams:  # a damaged index
        raise unreadable_media(source.path, _EXPECTED)
    if not streams:
        found = "only a picture" if container.streams.video else "no audio stream"
        raise EDTalkError(f"{source.path} has no sound: {_EXPECTED}, found {found}.", _CHOOSE, "media")
    if source.stream is not None and not 1 <= source.stream <= len(streams):
        message = f"{source.path} has no audio stream {source.stream}; it has {len(streams)}."
        hint = f"Choose an audio stream from 1 to {len(streams)}." if len(streams) > 1 else "Choose audio stream 1."
        raise EDTalkError(message, hint, "media")
    if source.stream is not None:
        streams = streams[source.stream - 1 :][:1]
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:  # phones add a stream of spatial sound, which FFmpeg cannot decode
        message = f"The sound of {source.path} has a format that cannot be decoded: {_EXPECTED}."
        raise EDTalkError(message, "Export the sound as WAV.", "media")
    marked = [stream for stream in known if stream.disposition & av.stream.Disposition.default]
    stream = (marked or known)[0]
    if {"mov", "caf"} & set(container.format.name.split(",")):
        _name_layout(stream.codec_context)
    return stream


def _name_layout(context: av.AudioCodecContext) -> None:
    """Replace the channel order of PCM sound by a named one, because no order is needed here.

    MOV and CAF may list the channels in any order. PyAV frees the memory of such a list twice, also when it is asked
    for the number of channels, which therefore follows from the bit rate.
    """
    if context.name.startswith("pcm_") and context.bit_rate and context.rate:
        bits = int("".join(filter(str.isdigit, context.name)) or 8)  # "pcm_s24le"; A-law and mu-law have 8
        channels = round(context.bit_rate / (context.rate * bits))
        context.layout = {1: "mono", 2: "stereo"}.get(channels, f"{channels}c")


def _picture_start(container: av.container.InputContainer) -> float | None:
    """The timestamp in seconds at which the picture of a video begins; None without a picture."""
    covers = av.stream.Disposition.attached_pic  # the cover picture of a music file
    for stream in container.streams.video:
        if not stream.disposition & covers:
            start, unit = stream.start_time, stream.time_base
            return None if start is None or unit is None else float(start * unit)
    return None


def _expected_seconds(container: av.container.InputContainer, stream: av.AudioStream, path: Path) -> float | None:
    """The length of the sound according to the file; None if the file does not contain it."""
    form = container.format.name
    if not stream.duration or stream.time_base is None or form in _ELEMENTARY:
        return None
    if form == "mp3" and not stream.start_time:
        return None  # an MP3 file whose header contains the length begins with the encoder's delay
    seconds = float(stream.duration * stream.time_base)
    if seconds * (stream.codec_context.bit_rate or 0) / 8 > UNKNOWN_SIZE:
        return None
    with path.open("rb") as file:  # of a WAV file that is cut off, FFmpeg gives the length of what is left
        stated = stated_size(file.read(8))
    return seconds * max(1.0, stated / path.stat().st_size)
