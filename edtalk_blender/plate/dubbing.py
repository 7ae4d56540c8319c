"""Dubbing: the face in a movie strip is tracked in its film, and a character's curves move its mouth frame by frame.

A movie strip that is assigned to a character is its plate. Of every frame the face keeps its own pose, expression and
light; what the character's sliders add to rest is added to them, and its mouth takes the place of the film's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from ...inference.contract import answers, requests
from ...inference.contract.coefficients import Coefficients
from ...inference.contract.errors import EDTalkError, disk_error
from ...inference.contract.files import read_regular
from ...inference.contract.plate import Plate, Track
from ...inference.contract.shot import Shot, write_whole
from ..character import character, portrait, snapshot
from ..character.snapshot import CharacterSnapshot
from ..engine import session
from ..engine.session import Task
from ..folders import SHOTS, TRACKS
from ..timeline import footage, sequencer

PORTRAIT = "portrait"  # folder within a character's own, of the picture taken from its film

_WHOLE = 30.0  # seconds: a film up to this length is tracked from end to end, whatever the strip shows of it
_AROUND = 5.0  # seconds tracked before and after what the strip shows of a longer one
_INSTANT = 1e-3  # seconds: shorter than any frame
_MOST_TEXT = 2**20  # bytes of the JSON beside a track

_cache: dict[Path, Tracked] = {}  # by the file that each is kept in


@dataclass(frozen=True)
class Tracked:
    """Where a face is in a film. size: width and height of its upright pictures. span: the seconds looked at."""

    media: Path
    sha256: str
    size: tuple[int, int]
    span: tuple[float, float]
    track: Track

    def covers(self, span: tuple[float, float]) -> bool:
        return self.span[0] <= span[0] + _INSTANT and self.span[1] >= span[1] - _INSTANT


# --- Time


def seconds(scene: bpy.types.Scene, strip: bpy.types.MovieStrip, frames: Sequence[int] | np.ndarray) -> np.ndarray:
    """(T,) when the film's frames begin that a strip shows at `frames` (T,) of the scene; see `footage.time_map`."""
    film = strip.fps or sequencer.fps(scene)
    shown = np.floor(footage.time_map(scene, strip).seconds(frames) * film + 0.5)  # the nearest, as Blender has it
    return np.clip(shown, 0, footage.film_frames(footage.movie_path(strip)) - 1) / film


def is_frame_by_frame(scene: bpy.types.Scene, strip: bpy.types.MovieStrip) -> bool:
    """Whether each frame of the scene shows the film's next one; else Blender may show either of two neighbours."""
    clock = footage.time_map(scene, strip)
    shown = clock.seconds(clock.frames) * (strip.fps or clock.fps)
    return bool(np.abs(np.diff(shown, prepend=shown[:1] - 1) - 1).max(initial=0.0) < 1e-3)


def _span(scene: bpy.types.Scene, strips: Sequence[bpy.types.MovieStrip]) -> tuple[float, float]:
    """The first and last second that some strips of a film show."""
    shown = np.concatenate([seconds(scene, strip, footage.time_map(scene, strip).frames) for strip in strips])
    return (float(shown.min()), float(shown.max())) if len(shown) else (0.0, 0.0)


# --- Tracks


def tracked(scene: bpy.types.Scene, face: CharacterSnapshot, strip: bpy.types.MovieStrip) -> Tracked | None:
    """Where the face is in what a strip shows, None where that has not been found yet.

    Raises EDTalkError(kind="media") where the film is missing.
    """
    path = footage.movie_path(strip)
    file = _file(face, path)
    if file not in _cache:
        with suppress(EDTalkError, OSError, ValueError, KeyError, TypeError):
            _cache[file] = _read(file, path)
    if file not in _cache:  # tracked before the .blend was saved
        before = face.temporary_folder / TRACKS / file.name
        with suppress(EDTalkError, OSError, ValueError, KeyError, TypeError):
            _cache[file] = _read(before, path)
            _write(file, _cache[file])
    found = _cache.get(file)
    return found if found and found.covers(_span(scene, [strip])) else None


def track(scene: bpy.types.Scene, face: CharacterSnapshot, strips: Sequence[bpy.types.MovieStrip]) -> Task:
    """Ask where the face is in a film, over what some strips of it show; the answer is kept beside the shots.

    Raises EDTalkError(kind="media") where the film is missing.
    """
    path = footage.movie_path(strips[0])
    file = _file(face, path)
    film = strips[0].fps or sequencer.fps(scene)
    length = footage.film_frames(path) / film
    first, last = _span(scene, strips)
    if length <= _WHOLE:
        first, last, end = 0.0, length, None
    else:
        first, last = max(first - _AROUND, 0.0), min(last + _AROUND, length)
        end = last + 1 / film

    def apply(answer: answers.TrackResult) -> None:
        size = answer.width, answer.height
        found = Tracked(path, answer.sha256, size, (first, last), answer.track)
        _cache[file] = found
        if answer.note:
            session.report(EDTalkError(answer.note, "", "face"))
        try:
            _write(file, found)
        except EDTalkError as error:
            session.report(error)

    request = requests.Track(path, "auto", first, end, face.face_number or None)
    return session.submit(request, label=f"Track the face in '{path.name}'", on_done=apply)


def _file(face: CharacterSnapshot, path: Path) -> Path:
    """Where a film's track is kept: another file for another film, or another face in it."""
    state = path.stat()
    meant = [path.name, state.st_size, state.st_mtime_ns, face.face_number]
    digits = hashlib.sha256(json.dumps(meant).encode()).hexdigest()[:20]
    return face.folder / TRACKS / f"{digits}.json"


def _write(file: Path, found: Tracked) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(file.parent, error) from error
    found.track.save(file.with_suffix(".npy"))
    data = {"sha256": found.sha256, "size": found.size, "span": found.span}
    write_whole(file, json.dumps(data).encode())  # last: with it there is a track


def _read(file: Path, media: Path) -> Tracked:
    data = json.loads(read_regular(file, _MOST_TEXT))
    (width, height), (first, last) = data["size"], data["span"]
    track = Track.load(file.with_suffix(".npy"))
    return Tracked(media, str(data["sha256"]), (int(width), int(height)), (float(first), float(last)), track)


# --- Before a render


def preparation(scene_name: str, uid: str) -> Iterator[list[Task]]:
    """Steps of a `session.Chain`: what has to be known of a character before it is rendered.

    That is its rest pose and, of one that dubs, where the face is in its films and a portrait, for which the first
    frame with a face is taken. Raises EDTalkError where portrait, bank or film are missing.
    """
    while tasks := _lacking(bpy.data.scenes.get(scene_name), character.find(uid)):
        yield tasks


def _lacking(scene: bpy.types.Scene | None, obj: bpy.types.Object | None) -> list[Task]:
    if scene is None or obj is None:
        return []
    plates = sequencer.plates(scene, obj)
    if not plates:
        return [] if portrait.is_known(obj) else [portrait.measure(obj)]
    face = snapshot.read(obj, with_portrait=False)
    films: dict[Path, list[bpy.types.MovieStrip]] = {}
    for strip in plates:
        films.setdefault(footage.movie_path(strip), []).append(strip)
    unknown = [strips for strips in films.values() if any(tracked(scene, face, strip) is None for strip in strips)]
    if unknown:
        return [track(scene, face, strips) for strips in unknown]
    if obj.edtalk.portrait_image is None and face.editable:
        return [_take_portrait(scene, face, plates)]
    with suppress(EDTalkError):  # a film can be dubbed without a portrait, by the bank's own rest pose
        if not portrait.is_known(obj) and not portrait.has_failed(obj):
            return [portrait.measure(obj)]
    return []


def _take_portrait(scene: bpy.types.Scene, face: CharacterSnapshot, plates: Sequence[bpy.types.MovieStrip]) -> Task:
    """Make the first frame with a face that plates show the character's portrait; EDTalkError where there is none."""
    for strip in plates:
        found = tracked(scene, face, strip)
        times, crops = found.track.at(seconds(scene, strip, footage.time_map(scene, strip).frames))
        seen = np.flatnonzero(~np.isnan(crops[:, 2]))
        if len(seen):
            break
    else:
        names = sequencer.quoted(strip.name for strip in plates)
        message = f"No face is seen in what {names} shows of its film."
        raise EDTalkError(
            message, "Move the strip's handles to where there is a face, or choose another strip.", "face"
        )
    bank, first = face.bank, seen[0]
    shot = Shot(
        bank=face.bank_path,
        bank_sha256=bank.sha256,
        portrait=None,
        crop="auto",
        coefficients=Coefficients(np.zeros((1, len(bank.names)), np.float32), bank.names, sequencer.fps(scene)),
        frames_folder=face.folder / PORTRAIT,
        layer="pasted",
        plate=Plate(found.media, found.sha256, times[[first]], np.full((1, 4), np.nan)),  # the frame as it is
    )
    uid, crop = face.uid, crops[first]
    picture = shot.frames_folder / shot.file_names()[0]

    def apply(_answer: answers.RenderResult) -> None:
        obj = character.find(uid)
        if obj is None or obj.edtalk.portrait_image is not None or not picture.is_file():
            return
        if obj.edtalk.which:  # among several faces it would not be found again
            obj.edtalk.crop, obj.edtalk.crop_mode = crop[:3], "box"
        image = character.load_picture(str(picture))
        image.name = f"{obj.name} portrait"
        image.pack()
        obj.edtalk.portrait_image = image

    folder = face.folder / SHOTS / PORTRAIT
    shot.write(folder, plate_by_name=True)
    return session.submit(requests.Render(folder), label=f"Take a portrait of {face.name}", on_done=apply)


# --- What the shot and the strip need


def plate_of(
    scene: bpy.types.Scene, face: CharacterSnapshot, strip: bpy.types.MovieStrip, span: tuple[int, int]
) -> Plate:
    """The film's frames that a strip shows over some frames of the scene; EDTalkError where they are not tracked."""
    found = tracked(scene, face, strip)
    if found is None:
        raise EDTalkError(f"The face in '{strip.name}' has not been tracked yet.", "Use Dub Movie first.", "face")
    return Plate.of(found.media, found.sha256, found.track, seconds(scene, strip, range(*span)))


def differences(face: CharacterSnapshot, rows: np.ndarray) -> np.ndarray:
    """(T, n) rows as a shot with a plate wants them: lips as they are, all else measured from the character's rest."""
    own = ~np.isin(face.bank.names, face.bank.names_of("lip"))
    rows = rows.copy()
    rows[:, own] = np.round(rows[:, own] - face.rest.astype(rows.dtype)[own], 6)  # rest is exactly 0
    return rows


def lie_over(strip: bpy.types.ImageStrip, plate: bpy.types.MovieStrip, size: tuple[int, int]) -> None:
    """Place a strip of pictures of `size` as its plate is placed: scaled, moved, turned, cropped and mirrored alike."""
    for name in ("offset_x", "offset_y", "scale_x", "scale_y", "rotation", "origin", "filter"):
        setattr(strip.transform, name, getattr(plate.transform, name))
    for name in ("min_x", "max_x", "min_y", "max_y"):
        setattr(strip.crop, name, getattr(plate.crop, name))
    strip.use_flip_x, strip.use_flip_y = plate.use_flip_x, plate.use_flip_y
    element = plate.elements[0] if plate.elements else None
    if element and element.orig_height and element.orig_height != size[1]:
        strip.transform.scale_x *= element.orig_height / size[1]
        strip.transform.scale_y *= element.orig_height / size[1]


def note(scene: bpy.types.Scene, obj: bpy.types.Object) -> str:
    """A sentence on what will not look as one might expect, else an empty one; reads no file, so panels may ask."""
    for strip in sequencer.faces(scene, obj):
        if strip.get(sequencer.APART) and strip.get(sequencer.LAYER) == "plate":
            return (
                f"The film under '{strip.name}' does not run frame by frame, so Blender may show the neighbour of the "
                "frame that the face belongs to: choose Pasted on Plate."
            )
    return ""


def unregister() -> None:
    _cache.clear()
