"""Dubbing: tracking the face in a movie strip and preparing a character to be rendered over it.

A movie strip that is assigned to a character is its plate. The face in each frame keeps its pose, expression and
lighting; the character's offsets from rest are added to them, and its mouth replaces the one in the movie. With the
mask Mouth, the new mouth is taken from reference frames of the same movie, see `inference.contract.references`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import bpy
import numpy as np

from ...inference.contract import answers, requests
from ...inference.contract.coefficients import Coefficients
from ...inference.contract.errors import EDTalkError, disk_error
from ...inference.contract.files import read_regular
from ...inference.contract.parsing import MALFORMED, parse_json
from ...inference.contract.plate import Plate, Track
from ...inference.contract.references import MOST_REFERENCES, Readings, References, spoken
from ...inference.contract.shot import Shot, write_whole
from ..character import character, files, rest_pose, snapshot
from ..character.snapshot import CharacterSnapshot
from ..engine import session
from ..engine.session import Task
from ..folders import SHOTS, TRACKS
from ..timeline import footage, sequencer

Sampler = Callable[[range], np.ndarray]

PORTRAIT = "portrait"  # folder for the picture taken from a movie, and name of its shot

_WHOLE = 30.0  # seconds; shorter movies are tracked from start to end, whatever the strip shows
_MARGIN = 5.0  # seconds tracked before and after the part of a longer movie that the strip shows
_INSTANT = 1e-3  # seconds; shorter than any frame
_MOST_TEXT = 2**20  # bytes of the JSON file beside a track

_NEAR_REST = 0.1  # distance from rest at which a lip slider counts in full
_PAUSE_MARGIN = 0.6  # seconds around a range on which pauses in it depend

_cache: dict[Path, Tracked] = {}  # by the file that holds it
_readings: dict[Path, Readings] = {}  # likewise


@dataclass(frozen=True)
class Tracked:
    """The track of a face in a movie.

    size: width and height of its upright frames. span: first and last second. transfer: "pq" or "hlg" for HDR, else "".
    """

    media: Path
    sha256: str
    size: tuple[int, int]
    span: tuple[float, float]
    track: Track
    transfer: str = ""

    file: Path = Path()

    def covers(self, span: tuple[float, float]) -> bool:
        return self.span[0] <= span[0] + _INSTANT and self.span[1] >= span[1] - _INSTANT


# --- Time


def seconds(scene: bpy.types.Scene, strip: bpy.types.MovieStrip, frames: Sequence[int] | np.ndarray) -> np.ndarray:
    """(T,) start times in seconds of the movie frames that a strip shows at scene frames (T,)."""
    rate = sequencer.movie_fps(strip) or sequencer.fps(scene)
    # The nearest frame, as in Blender.
    nearest_frames = np.floor(footage.time_map(scene, strip).seconds(frames) * rate + 0.5)
    return np.clip(nearest_frames, 0, footage.movie_frames(footage.movie_path(strip)) - 1) / rate


def is_frame_by_frame(scene: bpy.types.Scene, strip: bpy.types.MovieStrip) -> bool:
    """Whether each scene frame shows the next movie frame; otherwise Blender may show a neighbouring one."""
    clock = footage.time_map(scene, strip)
    movie_frames = clock.seconds(clock.frames) * (sequencer.movie_fps(strip) or clock.fps)
    return bool(np.abs(np.diff(movie_frames, prepend=movie_frames[:1] - 1) - 1).max(initial=0.0) < 1e-3)


def _span(scene: bpy.types.Scene, strips: Sequence[bpy.types.MovieStrip]) -> tuple[float, float]:
    """The first and last second of a movie that some of its strips show."""
    times = np.concatenate([seconds(scene, strip, footage.time_map(scene, strip).frames) for strip in strips])
    return (float(times.min()), float(times.max())) if len(times) else (0.0, 0.0)


# --- Tracks


def tracked(scene: bpy.types.Scene, face: CharacterSnapshot, strip: bpy.types.MovieStrip) -> Tracked | None:
    """The track of the face over all that a strip shows of its movie; None if it has not been tracked.

    Raises EDTalkError(kind="media") if the movie is missing.
    """
    path = footage.movie_path(strip)
    file = _file(face, path)
    if file not in _cache:
        with suppress(EDTalkError, OSError, *MALFORMED):
            _cache[file] = _read(file, path)
    if file not in _cache:  # tracked before the .blend was saved
        before = face.temporary_folder / TRACKS / file.name
        with suppress(EDTalkError, OSError, *MALFORMED):
            _cache[file] = _read(before, path)
            _cache[file] = replace(_cache[file], file=file)
            _write(file, _cache[file])
    cached = _cache.get(file)
    return cached if cached and cached.covers(_span(scene, [strip])) else None


def track(scene: bpy.types.Scene, face: CharacterSnapshot, strips: Sequence[bpy.types.MovieStrip]) -> Task:
    """Track the face in a movie over what its strips show of it. The track is saved beside the character's shots.

    Raises EDTalkError(kind="media") if the movie is missing.
    """
    path = footage.movie_path(strips[0])
    file = _file(face, path)
    rate = sequencer.movie_fps(strips[0]) or sequencer.fps(scene)
    length = footage.movie_frames(path) / rate
    first, last = _span(scene, strips)
    if length <= _WHOLE:
        first, last, end = 0.0, length, None
    else:
        first, last = max(first - _MARGIN, 0.0), min(last + _MARGIN, length)
        end = last + 1 / rate

    def apply(answer: answers.TrackResult) -> None:
        size = answer.width, answer.height
        result = Tracked(path, answer.sha256, size, (first, last), answer.track, answer.transfer, file)
        _cache[file] = result
        if answer.note:
            session.report(EDTalkError(answer.note, "", "face"))
        try:
            _write(file, result)
        except EDTalkError as error:
            session.report(error)

    request = requests.Track(path, "auto", first, end, face.face_number or None)
    return session.submit(request, label=f"Track the face in '{path.name}'", on_done=apply)


def _file(face: CharacterSnapshot, path: Path) -> Path:
    """The file of a movie's track; its name depends on the movie's name, size and time and on the face number."""
    state = path.stat()
    key = [path.name, state.st_size, state.st_mtime_ns, face.face_number]
    digits = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]
    return face.folder / TRACKS / f"{digits}.json"


def _write(file: Path, tracked_movie: Tracked) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(file.parent, error) from error
    tracked_movie.track.save(file.with_suffix(".npy"))
    data = {
        "sha256": tracked_movie.sha256,
        "size": tracked_movie.size,
        "span": tracked_movie.span,
        "transfer": tracked_movie.transfer,
    }
    write_whole(file, json.dumps(data).encode())  # written last, because it marks the track as complete


def _read(file: Path, media: Path) -> Tracked:
    data = parse_json(read_regular(file, _MOST_TEXT))
    (width, height), (first, last) = data["size"], data["span"]
    track = Track.load(file.with_suffix(".npy"))
    size, span = (int(width), int(height)), (float(first), float(last))
    return Tracked(media, str(data["sha256"]), size, span, track, str(data.get("transfer", "")), file)


# --- References


def uses_references(face: CharacterSnapshot) -> bool:
    """Whether a character's mouth is taken from reference frames of the movie that it dubs."""
    return face.mask == "mouth" and face.dub_references != "none" and face.bank.reads_plates


def readings_of(face: CharacterSnapshot, tracked_movie: Tracked) -> Readings | None:
    """What the engine has read from the frames of a track; None if it has not read them with this bank."""
    file = _readings_file(face, tracked_movie)
    if file not in _readings:
        before = face.temporary_folder / TRACKS / file.name  # read before the .blend was saved
        for one in (file, before):
            with suppress(EDTalkError, OSError):
                _readings[file] = Readings.load(one)
                if one == before != file:
                    _readings[file].save(file)
                break
    cached = _readings.get(file)
    return cached if cached is not None and len(cached) == len(tracked_movie.track) else None


def read_plate(face: CharacterSnapshot, tracked_movie: Tracked) -> Task:
    """Read the frames of a track. The readings are saved beside it."""
    file = _readings_file(face, tracked_movie)

    def apply(answer: answers.ReadPlateResult) -> None:
        _readings[file] = answer.readings
        try:
            answer.readings.save(file)
        except EDTalkError as error:
            session.report(error)

    request = requests.ReadPlate(face.bank_path, tracked_movie.media, tracked_movie.track)
    return session.submit(request, label=f"Read the mouth in '{tracked_movie.media.name}'", on_done=apply)


def _readings_file(face: CharacterSnapshot, tracked_movie: Tracked) -> Path:
    """Beside the track; its name depends on the bank and on the tracked seconds."""
    key = [face.bank.sha256, tracked_movie.sha256, tracked_movie.span]
    digits = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    return tracked_movie.file.with_name(f"{tracked_movie.file.stem}_{digits}.npy")


def references_of(
    scene: bpy.types.Scene,
    face: CharacterSnapshot,
    strip: bpy.types.MovieStrip,
    span: tuple[int, int],
    shown: np.ndarray,
) -> References | None:
    """The references of a shot over scene frames span[0] to before span[1]; None without references.

    shown: (T,), see `References`. Raises EDTalkError if the movie has not been read, or for invalid reference frames.
    """
    if not uses_references(face):
        return None
    tracked_movie = tracked(scene, face, strip)
    readings = None if tracked_movie is None else readings_of(face, tracked_movie)
    if tracked_movie is None or readings is None:
        raise EDTalkError(f"The mouth in '{strip.name}' has not been read yet.", "Run Dub Movie first.", "face")
    chosen: tuple[float, ...] = ()
    if face.dub_references == "chosen":
        chosen = tuple(seconds(scene, strip, _reference_frames(face, scene, strip)).tolist())
    return References.of(
        face.bank, tracked_movie.track, readings, seconds(scene, strip, range(*span)), chosen=chosen, shown=shown
    )


def _reference_frames(face: CharacterSnapshot, scene: bpy.types.Scene, strip: bpy.types.MovieStrip) -> list[int]:
    """The scene frames that the artist has listed. Raises EDTalkError if they are not frames of the strip."""
    clock = footage.time_map(scene, strip)
    try:
        frames = [int(part) for part in face.dub_frames.split(",")]
    except ValueError:
        frames = []
    if not frames or len(frames) > MOST_REFERENCES or not all(clock.start <= frame < clock.end for frame in frames):
        message = f"The reference frames of {face.name} must be frames of '{strip.name}', {clock.start} to"
        hint = "List them separated by commas under References, or choose Automatic."
        raise EDTalkError(f"{message} {clock.end - 1}, found '{face.dub_frames[:40]}'.", hint)
    return frames


def pause_margin(scene: bpy.types.Scene, face: CharacterSnapshot) -> int:
    """Frames before and after a range on which the mouth in it depends, because pauses keep the movie's own mouth."""
    is_needed = face.keep_pauses and uses_references(face)
    return math.ceil(_PAUSE_MARGIN * sequencer.fps(scene)) if is_needed else 0


def shown_mouth(scene: bpy.types.Scene, face: CharacterSnapshot, sample: Sampler, span: tuple[int, int]) -> np.ndarray:
    """(T,) how much of the new mouth is shown in each frame of a range, see `References`.

    sample: gives the rows (T, n) of a range, of which the frames around `span` are needed too.
    """
    margin, fps = pause_margin(scene, face), sequencer.fps(scene)
    if not margin:
        return np.ones(span[1] - span[0], np.float32)
    rows = differences(face, sample(range(span[0] - margin, span[1] + margin)))
    lips = np.isin(face.bank.names, face.bank.names_of("lip"))
    return spoken(rows[:, lips], fps)[margin : margin + span[1] - span[0]]


# --- Before a render


def preparation(scene_name: str, uid: str) -> Iterator[list[Task]]:
    """Steps of a `session.Chain` that measure a character's rest pose before it is rendered.

    If the character dubs movies, they also track the face in the movies and take a missing portrait from the first
    frame with a face. Raises EDTalkError if portrait, bank or movie are missing.
    """
    while tasks := _missing(bpy.data.scenes.get(scene_name), character.find(uid)):
        yield tasks


def _missing(scene: bpy.types.Scene | None, obj: bpy.types.Object | None) -> list[Task]:
    if scene is None or obj is None:
        return []
    plates = sequencer.plates(scene, obj)
    if not plates:
        return [] if rest_pose.is_known(obj) else [rest_pose.measure(obj)]
    face = snapshot.read(obj, with_portrait=False)
    movies: dict[Path, list[bpy.types.MovieStrip]] = {}
    for strip in plates:
        movies.setdefault(footage.movie_path(strip), []).append(strip)
    untracked = [strips for strips in movies.values() if any(tracked(scene, face, strip) is None for strip in strips)]
    if untracked:
        return [track(scene, face, strips) for strips in untracked]
    if uses_references(face):
        by_file = {
            tracked_movie.file: tracked_movie
            for strips in movies.values()
            if (tracked_movie := tracked(scene, face, strips[0]))
        }
        unread = [tracked_movie for tracked_movie in by_file.values() if readings_of(face, tracked_movie) is None]
        if unread:
            return [read_plate(face, tracked_movie) for tracked_movie in unread]
    if obj.edtalk.portrait_image is None and face.editable:
        return [_take_portrait(scene, face, plates)]
    with suppress(EDTalkError):  # without a portrait, the bank's own rest pose is used
        if not rest_pose.is_known(obj) and not rest_pose.has_failed(obj):
            return [rest_pose.measure(obj)]
    return []


def _take_portrait(scene: bpy.types.Scene, face: CharacterSnapshot, plates: Sequence[bpy.types.MovieStrip]) -> Task:
    """Use the first visible frame with a face as the character's portrait. Raises EDTalkError if there is none."""
    for strip in plates:
        tracked_movie = tracked(scene, face, strip)
        times, crops = tracked_movie.track.at(seconds(scene, strip, footage.time_map(scene, strip).frames))
        visible = np.flatnonzero(~np.isnan(crops[:, 2]))
        if len(visible):
            break
    else:
        names = sequencer.quoted(strip.name for strip in plates)
        message = f"No face was found in the visible part of {names}."
        raise EDTalkError(message, "Move the handles so that the strip shows a face, or choose another strip.", "face")
    bank, first = face.bank, visible[0]
    shot = Shot(
        bank=face.bank_path,
        bank_sha256=bank.sha256,
        portrait=None,
        crop="auto",
        coefficients=Coefficients(np.zeros((1, len(bank.names)), np.float32), bank.names, sequencer.fps(scene)),
        frames_folder=face.folder / PORTRAIT,
        layer="pasted",
        # The frame as it is.
        plate=Plate(tracked_movie.media, tracked_movie.sha256, times[[first]], np.full((1, 4), np.nan)),
    )
    uid, crop = face.uid, crops[first]
    picture = shot.frames_folder / shot.file_names()[0]

    def apply(_answer: answers.RenderResult) -> None:
        obj = character.find(uid)
        if obj is None or obj.edtalk.portrait_image is not None or not picture.is_file():
            return
        if obj.edtalk.which:  # detection might choose another face
            obj.edtalk.crop, obj.edtalk.crop_mode = crop[:3], "box"
        image = files.load_picture(str(picture))
        image.name = f"{obj.name} portrait"
        image.pack()
        obj.edtalk.portrait_image = image

    folder = face.folder / SHOTS / PORTRAIT
    shot.write(folder, plate_by_name=True)
    return session.submit(requests.Render(folder), label=f"Take a portrait of {face.name}", on_done=apply)


# --- For the shot and the face strip


def plate_of(
    scene: bpy.types.Scene, face: CharacterSnapshot, strip: bpy.types.MovieStrip, span: tuple[int, int]
) -> Plate:
    """The plate of a shot over scene frames span[0] to before span[1]. Raises EDTalkError if it is not tracked."""
    tracked_movie = tracked(scene, face, strip)
    if tracked_movie is None:
        raise EDTalkError(f"The face in '{strip.name}' has not been tracked yet.", "Run Dub Movie first.", "face")
    times, display = seconds(scene, strip, range(*span)), _display(strip, tracked_movie.transfer)
    return Plate.of(tracked_movie.media, tracked_movie.sha256, tracked_movie.track, times, display)


def _display(strip: bpy.types.MovieStrip, transfer: str) -> str:
    """How Blender shows a movie strip, see `contract.plate.DISPLAYS`. transfer: of the movie."""
    space = strip.colorspace_settings.name
    if space == "sRGB" and transfer:  # Blender 4.5, or chosen by the artist
        return f"{transfer} signal"
    return {"Rec.2100-PQ": "pq", "Rec.2100-HLG": "hlg"}.get(space, "")


def differences(face: CharacterSnapshot, rows: np.ndarray) -> np.ndarray:
    """(T, n) rows for a shot with a plate: lips absolute, all other coefficients as offsets from rest.

    With references, lips are 0 for a closed mouth. Sliders at rest, which is read from the portrait with an error,
    count as 0; towards a distance of `_NEAR_REST` they gain their full value.
    """
    own = ~np.isin(face.bank.names, face.bank.names_of("lip"))
    rows = rows.copy()
    rows[:, own] = np.round(rows[:, own] - face.rest.astype(rows.dtype)[own], 6)  # rest is exactly 0
    if uses_references(face):
        lips, rest = rows[:, ~own], face.rest.astype(rows.dtype)[~own]
        rows[:, ~own] = np.round(lips - rest * np.maximum(1 - np.abs(lips - rest) / _NEAR_REST, 0), 6)
    return rows


def copy_transform(strip: bpy.types.ImageStrip, plate: bpy.types.MovieStrip, size: tuple[int, int]) -> None:
    """Copy the plate's transform, crop and mirroring to a strip whose pictures have `size`."""
    for name in ("offset_x", "offset_y", "scale_x", "scale_y", "rotation", "origin", "filter"):
        setattr(strip.transform, name, getattr(plate.transform, name))
    for name in ("min_x", "max_x", "min_y", "max_y"):
        setattr(strip.crop, name, getattr(plate.crop, name))
    strip.use_flip_x, strip.use_flip_y = plate.use_flip_x, plate.use_flip_y
    element = plate.elements[0] if plate.elements else None
    if element and element.orig_width and element.orig_height:
        # Blender shows the stored pixels as squares, also where they are not; the engine's pictures have square pixels.
        strip.transform.scale_x *= element.orig_width / size[0]
        strip.transform.scale_y *= element.orig_height / size[1]


def note(scene: bpy.types.Scene, obj: bpy.types.Object) -> str:
    """A warning if the face may be one frame off, else "". Reads no file, so panels may call it."""
    for strip in sequencer.faces(scene, obj):
        if strip.get(sequencer.APART) and strip.get(sequencer.LAYER) == "plate":
            return (
                f"The frame rate of the movie under '{strip.name}' differs from the scene, so the face may be "
                "one frame off. Use Pasted on Plate."
            )
    return ""


def unregister() -> None:
    _cache.clear()
    _readings.clear()
