"""Footage preparation: movies to takes of one face each, in a fixed square, with its points in every frame.

    FOLDER/clips.json                   one entry per clip: hash, person, takes, frames, seconds, rejected frames
    FOLDER/NAME/take_003/frames.mkv     MJPEG, every frame by itself
    FOLDER/NAME/take_003/state.npz      points (T, 61, 2), sure (T, 61), time (T,), sharpness (T,), square (3,)
    FOLDER/NAME/sound.npy               the clip's sound, int16 at 16 kHz, if it has any
    FOLDER/report.*, contact.jpg        what was used and what was not

The square does not follow the head within a take: head motion must stay in the picture for a pose bank to learn it.
A clip that is done is not read again.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from inference.contract.errors import EDTalkError
from inference.contract.files import atomic_write, cached_sha256
from inference.contract.training import MOVIES, movies_in
from inference.face.crop import apply_matrix, crop_face, crop_from_box
from inference.face.detect import EYES as STANDARD_EYES
from inference.face.footage import track_media
from inference.face.landmarks import LEFT_LIDS, RIGHT_LIDS, find_landmarks, square_at
from inference.media.sound import load_speech
from inference.media.video import probe, read_frames, stamped_frames

from .named import FOLDERS, emotion_of_folder
from .takes import EYES, LEFT_EYE, MARKS, MOUTH, NINE, NOSE, RIGHT_EYE, Footage, mouth_opening, pose_from_points

RATE = 25.0  # frames a second that are kept
SHORTEST = 1.0  # seconds of a take
LEAVES = 0.2  # of the square's side, by which a face may be off its usual place
PLACE = (0.53, 0.58)  # of the side: mean of the nine points in a standard crop
CUT = 0.35  # of the square's side: a jump of the face by more is a cut
SAME = 0.4  # mean difference of 255 to the last kept frame, below which a frame is a duplicate
SMALLEST = 24.0  # pixels between the eyes in the source
TURNED = 0.35  # eye distances of the nose beside the eyes' middle
BLURRED = 0.2  # of the take's median sharpness
SURE = 0.5  # probability that a point is seen
LEAST = 20.0  # seconds of usable footage in all
TRACKING = 0.6  # share of a clip's preparation that tracking takes
SPEAKS, MOVES = 0.01, 0.02  # eye distances: least deviation of the mouth's opening, and of the head's place
REASONS = {
    "unsure": "no clear face", "small": "too small", "turned": "turned away", "hidden": "mouth hidden",
    "blurred": "blurred", "duplicate": "like the frame before", "left": "out of the square",
}  # fmt: skip
FORMAT = 2

# Points (61, 2) in pixels of an RGB picture, in the order of `takes`, and how sure each is (61,), given the square
# (x, y, side) of the face.
Finder = Callable[[np.ndarray, tuple[float, float, float]], tuple[np.ndarray, np.ndarray]]


@dataclass
class Take:
    """The kept frames of one take."""

    square: tuple[float, float, float]
    frames: list[np.ndarray] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)
    sure: list[np.ndarray] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    sharpness: list[float] = field(default_factory=list)


def landmark_finder(rgb: np.ndarray, square: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The points by the landmark network, which is shown where a crop with this square has its eyes."""
    landmarks = find_landmarks(
        rgb, [square_at(apply_matrix(crop_from_box(*square).to_picture, STANDARD_EYES))], passes=3
    )
    rows = [*range(len(NINE)), *MARKS]
    points = landmarks.points[0, rows]
    for eye, lids in zip(EYES, (RIGHT_LIDS, LEFT_LIDS), strict=True):  # the picture's left eye is the person's right
        points[eye] = landmarks.points[0, [lids[0], lids[4]]].mean(
            0
        )  # corners: the mean of all lids moves with a blink
    return points, landmarks.sure[0, rows]


def clips_in(paths: Iterable[Path], people: Mapping[str, str] | None = None) -> list[tuple[Path, str]]:
    """(movie, person) of files and folders; a person is the movie's folder below the given one, else the movie.

    Folders that name an emotion are no persons; movies that lie in them alone are of the person of the given folder.
    people: person by name of a movie, which goes before its folder. Raises EDTalkError if a path does not exist or a
    folder has no movie.
    """
    clips: list[tuple[Path, str]] = []
    for path in paths:
        if not path.exists():
            raise EDTalkError(f"{path} does not exist.", "Give movies, or folders of movies.", "media")
        if path.is_file():
            clips.append((path, path.stem))
            continue
        movies = movies_in(path)
        if not movies:
            files = sum(file.is_file() for file in path.rglob("*"))
            raise EDTalkError(
                f"No clip was found in {path}: {files} files, none of them a movie.",
                f"Give a folder of {', '.join(MOVIES[:4])} files.", "media",
            )  # fmt: skip
        for file in movies:
            folders = file.relative_to(path).parts[:-1]
            persons = [part for part in folders if part.lower() not in FOLDERS]
            clips.append((file, persons[0] if persons else path.name if folders else file.stem))
    return [(clip, (people or {}).get(clip.name, person)) for clip, person in clips]


def takes_of(times: np.ndarray, squares: np.ndarray) -> list[np.ndarray]:
    """Frame numbers of each take: runs without a gap, a lost face or a jump of it, of SHORTEST seconds or more.

    squares: (N, 3) x, y and side of the face's square in every frame, NaN without a face.
    """
    if not len(times):
        return []
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0 / RATE
    has_face = ~np.isnan(squares[:, 2])
    centre = squares[:, :2] + squares[:, 2:] / 2.0
    with np.errstate(invalid="ignore"):
        jump = np.linalg.norm(np.diff(centre, axis=0), axis=1) > CUT * squares[1:, 2]
    breaks = np.flatnonzero(~(has_face[1:] & has_face[:-1]) | jump | (np.diff(times) > max(0.2, 3.0 * step))) + 1
    runs = [run[has_face[run]] for run in np.split(np.arange(len(times)), breaks)]
    return [run for run in runs if len(run) and times[run[-1]] - times[run[0]] + step >= SHORTEST]


def sharpness(picture: np.ndarray) -> float:
    """Variance of the Laplacian of a grey or RGB picture."""
    grey = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def rejected(points: np.ndarray, sure: np.ndarray, square: tuple[float, float, float]) -> str:
    """Why a frame cannot be used, as a key of REASONS; "" if it can. points: (61, 2) pixels of the source."""
    if sure[[*EYES, NOSE]].min() < SURE:
        return "unsure"
    across = points[RIGHT_EYE] - points[LEFT_EYE]
    distance = float(np.linalg.norm(across))
    if distance < SMALLEST:
        return "small"
    offset = points[NOSE] - points[EYES].mean(0)
    if abs(float(offset @ across)) / distance**2 > TURNED:
        return "turned"
    if sure[MOUTH] < SURE:
        return "hidden"
    x, y, side = square
    away = points[: len(NINE)].mean(0) - (x + PLACE[0] * side, y + PLACE[1] * side)
    return "left" if np.abs(away).max() > LEAVES * side else ""


def prepare_clip(
    clip: Path, size: int, find: Finder, on_progress: Callable[[float], object] = lambda share: None
) -> tuple[list[Take], Counter[str]]:
    """The takes of a movie and the number of frames rejected for each reason. Raises EDTalkError for unusable media.

    Of several faces the largest is followed. on_progress: called with the share that is done; may raise to stop.
    """
    track = track_media(
        clip, which="largest", step=lambda done, total: on_progress(TRACKING * min(done / max(total, 1), 1.0))
    ).track
    runs = takes_of(track.times, track.crops[:, :3])
    why: Counter[str] = Counter()
    in_take = {int(row): number for number, run in enumerate(runs) for row in run}
    why["unsure"] += len(track.times) - len(in_take)
    takes = [Take(_square(track.crops[run])) for run in runs]
    last = [-np.inf] * len(takes)
    for row, (time, rgb) in enumerate(stamped_frames(clip)):
        on_progress(TRACKING + (1.0 - TRACKING) * row / max(len(track.times), 1))
        number = in_take.get(row)
        if number is None or time < last[number] + 1.0 / RATE - 0.25 / RATE:
            continue
        take = takes[number]
        crop = crop_from_box(*take.square, size)
        picture = crop_face(rgb, crop)
        if take.frames and np.abs(picture.astype(np.int16) - take.frames[-1]).mean() < SAME:
            why["duplicate"] += 1
            continue
        points, sure = find(rgb, tuple(track.crops[row, :3]))
        if reason := rejected(points, sure, take.square):
            why[reason] += 1
            continue
        last[number] = time
        take.frames.append(picture)
        take.points.append((apply_matrix(crop.to_crop, points) + 0.5) * (2.0 / size) - 1.0)
        take.sure.append(sure)
        take.times.append(float(time))
        take.sharpness.append(sharpness(picture))
    return [kept for take in takes if (kept := _sharp(take, why)) is not None], why


def _square(crops: np.ndarray) -> tuple[float, float, float]:
    """The median square of crops (N, 4), which may be turned."""
    x, y, side = np.median(crops[:, :3], 0)
    return float(x), float(y), float(side)


def _sharp(take: Take, why: Counter[str]) -> Take | None:
    """The take without its blurred frames; None if too little is left."""
    if not take.frames:
        return None
    keep = np.array(take.sharpness) >= BLURRED * np.median(take.sharpness)
    why["blurred"] += int((~keep).sum())
    if keep.sum() < SHORTEST * RATE / 2:
        why["unsure"] += int(keep.sum())
        return None
    rows = np.flatnonzero(keep)
    lists = {
        name: [getattr(take, name)[row] for row in rows] for name in ("frames", "points", "sure", "times", "sharpness")
    }
    return Take(take.square, **lists)


def save_take(take: Take, folder: Path) -> None:
    """Write a take into its folder."""
    import av

    folder.mkdir(parents=True, exist_ok=True)
    size = len(take.frames[0])
    with av.open(str(folder / "frames.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=int(RATE))
        stream.width = stream.height = size
        stream.pix_fmt = "yuvj444p"
        stream.codec_context.qmin = stream.codec_context.qmax = 2
        for picture in take.frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    np.savez(
        folder / "state.npz", points=np.array(take.points, np.float32), sure=np.array(take.sure, np.float16),
        time=np.array(take.times), sharpness=np.array(take.sharpness, np.float32), square=np.array(take.square),
    )  # fmt: skip


def save_sound(clip: Path, place: Path, folder: Path) -> str:
    """Write a clip's sound at 16 kHz into its folder `place`; its path below `folder`, "" without usable sound."""
    try:
        samples, _ = load_speech(clip)
    except EDTalkError:
        return ""
    path = place / "sound.npy"
    np.save(path, (np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16))
    return str(path.relative_to(folder))


def prepared(
    clips: Sequence[Path],
    folder: Path,
    size: int,
    find: Finder = landmark_finder,
    *,
    least: float = LEAST,
    people: Mapping[str, str] | None = None,
    emotions: Mapping[str, str] | None = None,
    on_progress: Callable[[float, str], object] = lambda share, clip: None,
) -> tuple[Footage, str]:
    """Prepare clips into `folder`, or read what is there; returns the footage and its origin for a bank's metadata.

    least: seconds of usable footage that are needed. Damaged clips are skipped and named in the report. people and
    emotions: by name of a clip, which go before folders. on_progress: called with the share that is done and the clip's
    name; may raise to stop. Raises EDTalkError if too little is usable or nobody speaks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = _read_state(folder, size)
    listing, used = clips_in(clips, people), []
    for number, (clip, person) in enumerate(listing):
        on_progress(number / len(listing), clip.name)
        try:
            digest = cached_sha256(clip)
        except OSError as error:
            print(f"{clip.name}: skipped: {clip} could not be read: {error.strerror}.", flush=True)
            continue
        used.append(digest)
        folder_says = next((name for given in clips if (name := emotion_of_folder(clip, given))), "")
        labels = {"person": person, "emotion": (emotions or {}).get(clip.name, folder_says)}
        if digest in state["clips"]:
            state["clips"][digest] |= labels
            continue
        place = folder / f"{clip.stem}_{digest[:8]}"
        entry = {"name": clip.name} | labels | _prepare_into(
            place, clip, size, find,
            lambda share, number=number, name=clip.name: on_progress((number + share) / len(listing), name),  # type: ignore[misc]
        )  # fmt: skip
        state["clips"][digest] = entry
        _write_state(folder, state)
        print(f"{clip.name}: {summary(entry)}", flush=True)
    state["used"] = used
    _write_state(folder, state)
    state = used_clips(state)
    footage = read_footage(folder, state)
    write_report(folder, state, footage)
    check(footage, state, least)
    names = ", ".join(f"{entry['name']} ({digest[:8]})" for digest, entry in state["clips"].items() if entry["frames"])
    return footage, f"Made from: {names}"


def _read_state(folder: Path, size: int) -> dict[str, Any]:
    """The content of clips.json, or that of a new folder. Raises EDTalkError for another size or format."""
    listed = folder / "clips.json"
    if not listed.exists():
        return {"format": FORMAT, "size": size, "rate": RATE, "clips": {}}
    state: dict[str, Any] = json.loads(listed.read_text())
    if state["format"] != FORMAT:
        raise EDTalkError(f"{folder} was made by another version of this program.", "Choose another --work folder.")
    if state["size"] != size:
        raise EDTalkError(
            f"{folder} has footage of {state['size']} px, but {size} px are needed.", "Choose another --work folder."
        )
    return state


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    with atomic_write(folder / "clips.json") as partial:
        partial.write_text(json.dumps(state, indent=1))


def _prepare_into(
    place: Path, clip: Path, size: int, find: Finder, on_progress: Callable[[float], object]
) -> dict[str, Any]:
    """Write the takes and the sound of a clip into `place`. Returns its entry in the state, with "error" if damaged."""
    folder = place.parent
    entry: dict[str, Any] = {"takes": [], "frames": 0, "rejected": {}}
    shutil.rmtree(place, ignore_errors=True)  # left by an interrupted run
    try:
        entry["seconds"] = probe(clip).duration or 0.0
        takes, why = prepare_clip(clip, size, find, on_progress)
        for index, take in enumerate(takes):
            path = place / f"take_{index:03d}"
            save_take(take, path)
            entry["takes"].append(str(path.relative_to(folder)))
            entry["frames"] += len(take.frames)
        entry["rejected"] = {reason: count for reason, count in why.items() if count}
        entry["sound"] = save_sound(clip, place, folder) if takes else ""
    except EDTalkError as error:
        entry["error"] = str(error)
    return entry


def used_clips(state: dict[str, Any]) -> dict[str, Any]:
    """The state with those clips only that were given last."""
    return state | {"clips": {digest: state["clips"][digest] for digest in dict.fromkeys(state["used"])}}


def summary(entry: dict[str, Any]) -> str:
    """One line on a clip."""
    if "error" in entry:
        return f"skipped: {entry['error']}"
    counts = ", ".join(f"{REASONS[reason]} {count}" for reason, count in sorted(entry["rejected"].items()))
    return f"{entry['frames']} frames in {len(entry['takes'])} takes" + (f"; not used: {counts}" if counts else "")


def read_footage(folder: Path, state: dict[str, Any]) -> Footage:
    """All takes of a folder in memory. Raises EDTalkError if there are none."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("frames", "points", "clip", "person", "seconds")}
    people = sorted({entry["person"] for entry in state["clips"].values()})
    number = 0
    for entry in state["clips"].values():
        for place in entry["takes"]:
            saved = np.load(folder / place / "state.npz")
            frames = np.stack(list(read_frames(folder / place / "frames.mkv")))
            count = min(len(frames), len(saved["time"]))
            parts["frames"].append(frames[:count])
            parts["points"].append(saved["points"][:count])
            parts["clip"].append(np.full(count, number))
            parts["person"].append(np.full(count, people.index(entry["person"])))
            parts["seconds"].append(saved["time"][:count])
            number += 1
    if not number:
        raise EDTalkError(_too_little(state, 0.0, LEAST), "Give clips that show one face from the front.", "media")
    return Footage(*(np.concatenate(values) for values in parts.values()))


def _too_little(state: dict[str, Any], usable: float, least: float) -> str:
    entries = [*state["clips"].values()]
    why: Counter[str] = Counter()
    for entry in entries:
        why.update(entry["rejected"])
    frames = sum(why.values()) + sum(entry["frames"] for entry in entries)
    reasons = [f"{REASONS[reason]} {100 * count // max(frames, 1)} %" for reason, count in why.most_common(3)]
    bad = sum("error" in entry for entry in entries)
    reasons += [f"{bad} of {len(entries)} clips cannot be read"] if bad else []
    total = sum(entry.get("seconds", 0.0) for entry in entries)
    return (
        f"Only {usable:.0f} s of {total:.0f} s show a usable face ({', '.join(reasons) or 'the clips are short'}); "
        f"at least {least:.0f} s are needed."
    )


def check(footage: Footage, state: dict[str, Any], least: float) -> None:
    """Raises EDTalkError for footage that nothing can be learnt from. Prints a warning if the head never moves."""
    usable = len(footage) / RATE
    if usable < least:
        raise EDTalkError(_too_little(state, usable, least), "Add clips that show one face from the front.", "media")
    opening, place = mouth_opening(footage.points), pose_from_points(footage.points)[:, :2]
    distance = np.linalg.norm(footage.points[:, RIGHT_EYE] - footage.points[:, LEFT_EYE], axis=1).mean()
    within = [(opening[rows].std(), place[rows].std(0).max() / distance) for rows in footage.takes]
    speaks, moves = np.array(within).max(0)
    if speaks < SPEAKS:
        raise EDTalkError("Nobody speaks in these clips.", "Give clips in which somebody talks.", "media")
    if moves < MOVES:
        print("The head hardly moves in these clips. The pose sliders will do nothing.", flush=True)


def write_report(folder: Path, state: dict[str, Any], footage: Footage) -> None:
    """Write the report and contact.jpg: one frame of each take with its points."""
    from PIL import Image

    lines = ["# Footage", "", "| clip | person | seconds | takes | frames | not used |", "|---|---|---|---|---|---|"]
    for entry in state["clips"].values():
        why = ", ".join(f"{REASONS[reason]} {count}" for reason, count in sorted(entry["rejected"].items()))
        cells = (
            entry["name"],
            entry["person"],
            f"{entry.get('seconds', 0.0):.1f}",
            len(entry["takes"]),
            entry["frames"],
        )
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} | {entry.get('error', why)} |")
    lines += ["", f"{len(footage) / RATE:.0f} s are usable.", "", "![One frame of each take](contact.jpg)", ""]
    (folder / "report.md").write_text("\n".join(lines))
    tiles = []
    for rows in footage.takes[:48]:
        row = int(rows[len(rows) // 2])
        picture = footage.frames[row].copy()
        for x, y in (footage.points[row, : len(NINE)] + 1.0) * (len(picture) / 2.0) - 0.5:
            cv2.circle(picture, (round(float(x)), round(float(y))), 1, (0, 255, 0), -1)
        tiles.append(picture)
    if tiles:
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 8)
        sheet = np.vstack([np.hstack(tiles[start : start + 8]) for start in range(0, len(tiles), 8)])
        Image.fromarray(sheet).save(folder / "contact.jpg")
