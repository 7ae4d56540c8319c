"""Measures dubbing on clips of real people.

Each clip is dubbed twice. Self-driving: by the mouth that was read from itself, so that its own frames are the truth.
Cross-driving: by the mouth of the next clip, of which only figures without a truth are given. Frames next to a
reference are left out, because a reference would be compared with itself. Baselines: *copy* pastes the first
reference's mouth unmoved in every frame, *plate* is the clip itself.

The results of each clip are kept in OUT and used again if the bank, the code and the options have not changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from inference.contract.bank import Bank, load_bank
from inference.contract.errors import EDTalkError
from inference.contract.plate import Plate, Track, media_sha256
from inference.contract.references import Readings, References
from inference.dubbing import crop_of, dub
from inference.face.crop import Crop, crop_face
from inference.face.footage import track_media
from inference.face.landmarks import INNER_LIPS, OUTER_LIPS, find_landmarks, square_at
from inference.face.paste import Layering
from inference.face.size import SOURCE_SIZE
from inference.media.picture import Picture
from inference.media.video import frames_at, probe
from inference.mouth import MouthDrawer, Points, find_points
from inference.plate_reading import read_plate
from inference.renderer import FaceRenderer

from .pictures import psnr, ssim
from .recognition import correlations
from .report import save_sheet

CLIPS = (".mp4", ".mov", ".mkv", ".webm")
METHODS = ("references", "frames")  # `Shot.references`, and each frame's own face moved
SIZE = 512  # pixels of the face crops that are compared
SHOWN = 8  # frames of a clip in the sheet
APART = 1  # frames from a reference that are left out of comparisons with the truth
_RUN = 3  # consecutive frames, for flicker
# The mouth region in eye distances from the centre of the mouth: to both sides, above and below.
_REGION = 0.6, 0.5, 0.5
_SKIN = 0.75, 0.65  # half axes of the ellipse around the mouth that is skin, without the lips
_LIPS = 0.45, 0.32
_PATCH = 40  # pixels of the picture that tells people apart
_VERSION = 2  # increased when the figures are computed differently


@dataclass(frozen=True)
class Driven:
    """Frames of a dubbed clip as face crops, uint8 (T, SIZE, SIZE, 3), with what they are compared with.

    points: of each plate frame. outside: most that a pixel outside the mask has changed, in levels.
    """

    plate: np.ndarray
    result: np.ndarray
    copy: np.ndarray
    points: list[Points]
    outside: int
    seconds: float


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bank", type=Path, metavar="BANK")
    parser.add_argument("--clips", type=Path, required=True, metavar="FOLDER", help="clips of one person each")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="report.md, sheets, and kept results")
    parser.add_argument("--only", metavar="TEXT", default="", help="only clips whose name contains this text")
    parser.add_argument("--every", type=int, default=10, metavar="N", help="three frames of every N (default 10)")
    parser.add_argument("--most", type=int, default=250, metavar="N", help="first N frames of a clip (default 250)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="ways of dubbing (default: all)")


def run(args: argparse.Namespace) -> None:
    every = [path for path in sorted(args.clips.rglob("*")) if path.suffix.lower() in CLIPS]
    clips = [path for path in every if args.only in path.name]
    if not clips:
        expected = ", ".join(CLIPS)
        named = f" whose name contains '{args.only}'" if args.only else ""
        seen = f"{len(every)} clips" if args.clips.is_dir() else "no such folder"
        message = f"{args.clips} contains no clips ({expected}){named}, found {seen}."
        raise EDTalkError(message, "Give a folder of clips, or another --only." if args.only else "Check --clips.")
    args.out.mkdir(parents=True, exist_ok=True)
    bank = load_bank(args.bank)
    renderer = FaceRenderer(bank, "cpu")
    found: dict[str, dict[str, Any]] = {}
    for path in clips:
        try:
            found[path.stem] = _kept(args, bank, path) or _measured(args, renderer, path, _driver(every, path))
        except EDTalkError as error:
            print(f"{path.name}: {error}", flush=True)
            continue
        print(path.stem, json.dumps(found[path.stem]), flush=True)
        (args.out / "report.md").write_text(_report(bank, found, args), encoding="utf-8")


def _driver(clips: list[Path], path: Path) -> Path:
    return clips[(clips.index(path) + 1) % len(clips)]


def _key(args: argparse.Namespace, bank: Bank, path: Path) -> str:
    parts = [_VERSION, bank.sha256, media_sha256(path), args.every, args.most, sorted(args.methods)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def _kept(args: argparse.Namespace, bank: Bank, path: Path) -> dict[str, Any] | None:
    file = args.out / f"{path.stem}.json"
    if not file.is_file():
        return None
    kept = json.loads(file.read_text(encoding="utf-8"))
    return kept["figures"] if kept["key"] == _key(args, bank, path) else None


def _measured(args: argparse.Namespace, renderer: FaceRenderer, path: Path, driver: Path) -> dict[str, Any]:
    bank = renderer.bank
    track, readings = read_clip(renderer, path, args)
    figures: dict[str, Any] = {"frames": len(track)}
    driving_track, driving = (track, readings) if driver == path else read_clip(renderer, driver, args)
    lips = np.isin(bank.names, bank.names_of("lip"))
    own = np.where(lips, np.nan_to_num(readings.rows), 0).astype(np.float32)
    seen = np.flatnonzero(driving.seen)
    at = seen[np.arange(len(track)) % len(seen)]
    other = np.where(lips, driving.rows[at], 0).astype(np.float32)
    references = References.of(bank, track, readings, track.times)
    near = np.abs(np.searchsorted(track.times, references.times)[:, None] - np.arange(len(track))).min(0) <= APART
    rows_of_runs = _runs(readings.seen, args.every)
    plate = Plate.of(path, media_sha256(path), track, track.times)
    sheet: list[list[np.ndarray]] = []
    for method in args.methods:
        for name, rows in (("self", own), ("cross", other)):
            if method == "frames":  # which replaces absolute readings, as `render --lip-video` does
                source = (path, track, np.arange(len(track))) if name == "self" else (driver, driving_track, at)
                rows = _absolute(renderer, *source, rows_of_runs) * lips
            driven = _drive(renderer, plate, references, rows, rows_of_runs, method)
            compared = np.flatnonzero(~near[rows_of_runs])
            label = f"{method}, {name}"
            figures[label] = measure(driven, compared if name == "self" else None)
            if name == "cross":
                figures[label] |= _follows(renderer, driven, rows[rows_of_runs])
            sheet.append(_sheet_row(driven.result))
    sheet.insert(0, _sheet_row(driven.plate))
    save_sheet(sheet, args.out / f"{path.stem}.png")
    key = _key(args, bank, path)
    (args.out / f"{path.stem}.json").write_text(json.dumps({"key": key, "figures": figures}), encoding="utf-8")
    return figures


def read_clip(renderer: FaceRenderer, path: Path, args: argparse.Namespace) -> tuple[Track, Readings]:
    """Track and read the first frames of a clip, or use the files of an earlier run. EDTalkError if it has no face."""
    parts = [_VERSION, renderer.bank.sha256, media_sha256(path), args.most]
    digits = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    squares, rows = (args.out / f"{path.stem}.{digits}.{name}.npy" for name in ("track", "readings"))
    if rows.is_file():
        return Track.load(squares), Readings.load(rows)
    track = track_media(path, which="largest", end=args.most / float(probe(path).fps)).track
    readings = read_plate(renderer, path, track)
    track.save(squares)
    readings.save(rows)
    return track, readings


def _runs(seen: np.ndarray, every: int) -> np.ndarray:
    """The frames to draw: runs of three consecutive frames, `every` frames apart, all with a face."""
    starts = [at for at in range(0, len(seen) - _RUN + 1, max(every, _RUN)) if seen[at : at + _RUN].all()]
    if not starts:
        raise EDTalkError("No three consecutive frames show a face.", "Choose a longer clip.")
    return np.array([at + step for at in starts for step in range(_RUN)])


def _drive(
    renderer: FaceRenderer, plate: Plate, references: References, rows: np.ndarray, frames: np.ndarray, method: str
) -> Driven:
    """Dub some frames of a plate. rows: (N, n) of all its frames, lips only."""
    drawer = MouthDrawer(renderer, plate, references, 0.25)
    (first,) = frames_at(plate.media, references.times[:1])
    copied = _face(first, references.crops[0])
    plates, results, points, outside, seconds = [], [], [], 0, 0.0
    for number, rgb in zip(frames, frames_at(plate.media, plate.times[frames]), strict=True):
        crop = _crop(plate.track[number])
        began = time.process_time()
        if method == "references":
            drawn = drawer.draw(rgb, crop, number, rows[number])
            picture = drawn.picture
            mask = drawn.layer[..., 3]
        else:
            picture, mask = _by_frame(renderer, rgb, crop, rows[number])
        seconds += time.process_time() - began
        outside = max(outside, int(np.abs(picture.astype(np.int16) - rgb)[mask == 0].max(initial=0)))
        plates.append(_face(rgb, plate.track[number]))
        results.append(_face(picture, plate.track[number]))
        points.append(Points(*(point * (SIZE / 256) for point in find_points(renderer, plates[-1]))))
    copies = np.repeat(copied[None], len(plates), 0)
    return Driven(np.stack(plates), np.stack(results), copies, _steady(points), outside, seconds / len(frames))


def _absolute(renderer: FaceRenderer, path: Path, track: Track, shown: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """(N, n) absolute readings of the clip's frames `shown` (N,); only those of `frames` are read, the others are 0."""
    rows = np.zeros((len(shown), len(renderer.bank.names)), np.float32)
    needed = np.unique(shown[frames])
    faces = (
        _face(rgb, square)
        for rgb, square in zip(frames_at(path, track.times[needed]), track.crops[needed], strict=True)
    )
    rows[frames] = renderer.encode(faces).values[np.searchsorted(needed, shown[frames])]
    return rows


def _by_frame(renderer: FaceRenderer, rgb: np.ndarray, crop: Crop, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dub a frame by moving its own face. Returns the picture and the alpha of the mask."""
    bank = renderer.bank
    added = ~np.isin(bank.names, bank.names_of("lip"))
    ((_, _, face),) = dub(renderer, [(rgb, crop)], row[None], added, SOURCE_SIZE)
    assert face is not None
    pasted, layer = (Layering(layer, "mouth").compose(face, Picture(rgb), crop) for layer in ("pasted", "plate"))
    return pasted, layer[..., 3]


def _crop(square: np.ndarray) -> Crop:
    crop = crop_of(square, 256)
    assert crop is not None, "the frame shows a face"
    return crop


def _face(rgb: np.ndarray, square: np.ndarray) -> np.ndarray:
    return crop_face(rgb, _crop(square).at_size(SIZE))


def _steady(points: list[Points]) -> list[Points]:
    """The points with the mean over each run of three frames."""
    means = np.array(points).reshape(-1, _RUN, 3, 2).mean(1)
    return [Points(*means[at // _RUN]) for at in range(len(points))]


def measure(driven: Driven, compared: np.ndarray | None) -> dict[str, float]:
    """The figures of a dubbed clip. compared: frames that are compared with the truth, None without a truth."""
    boxes = np.array([_box(points) for points in driven.points])
    figures = {"cpu": driven.seconds, "outside": float(driven.outside)}
    if compared is not None and len(compared):
        plate, result, copy, at = (values[compared] for values in (driven.plate, driven.result, driven.copy, boxes))
        figures |= {
            "psnr": float(np.minimum(psnr(result, plate, at), 99).mean()),
            "psnr_copy": float(np.minimum(psnr(copy, plate, at), 99).mean()),
            "ssim": float(ssim(result, plate, at).mean()),
            "ssim_copy": float(ssim(copy, plate, at).mean()),
        }
        away = [marks_away(driven.plate[one], driven.result[one], driven.points[one]) for one in compared]
        away_copy = [marks_away(driven.plate[one], driven.copy[one], driven.points[one]) for one in compared]
        figures |= {"marks": float(np.nanmean(away)), "marks_copy": float(np.nanmean(away_copy))}
        away, away_copy = np.mean([landmarks_away(driven, one) for one in compared], 0).tolist()
        figures |= {"landmarks": away, "landmarks_copy": away_copy}
    teeth, truth = (
        np.array([shows_teeth(face, points) for face, points in zip(faces, driven.points, strict=True)])
        for faces in (driven.result, driven.plate)
    )
    figures |= {"teeth": float(teeth.mean()), "teeth_plate": float(truth.mean())}
    figures |= {"flicker": _flicker(driven.result, driven.points) / max(_flicker(driven.plate, driven.points), 1e-6)}
    figures |= {"sharpness": _sharpness(driven.result, boxes) / max(_sharpness(driven.plate, boxes), 1e-6)}
    figures |= {"identity": _identity(driven.result, driven.plate)}
    return figures


def _box(points: Points) -> list[int]:
    """Left, top, right, bottom of the mouth region in pixels of the face crop."""
    eyes = float(np.linalg.norm(points.right - points.left))
    x, y = points.mouth
    across, above, below = (share * eyes for share in _REGION)
    box = np.clip([x - across, y - above, x + across, y + below], 0, SIZE - 1).astype(int)
    return [int(box[0]), int(box[1]), max(int(box[2]), int(box[0]) + 16), max(int(box[3]), int(box[1]) + 16)]


def marks_away(plate: np.ndarray, result: np.ndarray, points: Points) -> float:
    """Mean distance between distinct points of the mouth in the plate and the same points in the result.

    In eye distances; points are followed by optical flow in both directions. NaN without such points.
    """
    left, top, right, bottom = _box(points)
    before, after = (cv2.cvtColor(face[top:bottom, left:right], cv2.COLOR_RGB2GRAY) for face in (plate, result))
    area = np.zeros(before.shape, np.uint8)
    eyes = float(np.linalg.norm(points.right - points.left))
    middle = points.mouth - (left, top)
    axes = (round(_LIPS[0] * 1.2 * eyes), round(_LIPS[1] * 1.2 * eyes))
    cv2.ellipse(area, tuple(int(value) for value in np.rint(middle)), axes, 0, 0, 360, 255, -1)
    start = cv2.goodFeaturesToTrack(before, 60, 0.02, 6, mask=area)
    if start is None:
        return float("nan")
    options: dict[str, Any] = {"winSize": (31, 31), "maxLevel": 3}
    end, good, _ = cv2.calcOpticalFlowPyrLK(before, after, start, None, **options)
    back, good_back, _ = cv2.calcOpticalFlowPyrLK(after, before, end, None, **options)
    sure = (good & good_back).ravel().astype(bool) & (np.linalg.norm(back - start, axis=2).ravel() < 2)
    return float(np.linalg.norm(end - start, axis=2).ravel()[sure].mean() / eyes) if sure.any() else float("nan")


def landmarks_away(driven: Driven, number: int) -> tuple[float, float]:
    """Mean distance of the lips' landmarks from those of the plate, in eye distances: in the result, and in the copy.

    The landmark network has an error of its own, which both contain. The lips are those of the first network, as in
    earlier reports.
    """
    points = driven.points[number]
    square = square_at(np.stack([points.left, points.right]))
    faces = (driven.plate[number], driven.result[number], driven.copy[number])
    lips = [*OUTER_LIPS, *INNER_LIPS]
    plate, *others = (find_landmarks(face, [square], lips=False).points[0, lips] for face in faces)
    eyes = float(np.linalg.norm(points.right - points.left))
    result, copy = (float(np.linalg.norm(one - plate, axis=1).mean() / eyes) for one in others)
    return result, copy


def shows_teeth(face: np.ndarray, points: Points) -> bool:
    """Whether the lips enclose a bright area of little colour."""
    eyes = float(np.linalg.norm(points.right - points.left))
    inside, around = (_ellipse(points.mouth, np.array(axes) * eyes) for axes in (_LIPS, _SKIN))
    lab = cv2.cvtColor(face, cv2.COLOR_RGB2LAB).astype(np.float32)
    redness, skin = lab[..., 1] - 128, np.median(lab[..., 0][around & ~inside])
    pale = inside & (redness < 0.75 * np.percentile(redness[inside], 90)) & (lab[..., 0] > 0.6 * skin)
    outside = cv2.dilate((~inside).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    count, labels, stats, _ = cv2.connectedComponentsWithStats(pale.astype(np.uint8))
    open_ones = set(np.unique(labels[outside]).tolist())
    areas = [stats[label, cv2.CC_STAT_AREA] for label in range(1, count) if label not in open_ones]
    return max(areas, default=0) > 0.004 * eyes * eyes


def _ellipse(middle: np.ndarray, axes: np.ndarray) -> np.ndarray:
    x, y = np.arange(SIZE), np.arange(SIZE)[:, None]
    return ((x - middle[0]) / axes[0]) ** 2 + ((y - middle[1]) / axes[1]) ** 2 < 1


def _flicker(faces: np.ndarray, points: list[Points]) -> float:
    """Mean second difference over time of the skin around the mouth, following its motion, in levels."""
    search, total = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM), []
    places = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1).astype(np.float32)
    for at in range(0, len(faces), _RUN):
        before, now, after = (faces[at + step] for step in range(_RUN))
        grey = [cv2.cvtColor(face, cv2.COLOR_RGB2GRAY) for face in (before, now, after)]
        moved = [
            cv2.remap(face, places + search.calc(grey[1], other, None), None, cv2.INTER_LINEAR).astype(np.float32)
            for face, other in ((before, grey[0]), (after, grey[2]))
        ]
        eyes = float(np.linalg.norm(points[at].right - points[at].left))
        skin = _ellipse(points[at].mouth, np.array(_SKIN) * eyes) & ~_ellipse(points[at].mouth, np.array(_LIPS) * eyes)
        total.append(np.abs(moved[0] + moved[1] - 2 * now.astype(np.float32))[skin].mean())
    return float(np.mean(total))


def _sharpness(faces: np.ndarray, boxes: np.ndarray) -> float:
    """Root of the mean squared gradient in the mouth region, in levels."""
    energy = []
    for face, (left, top, right, bottom) in zip(faces, boxes, strict=True):
        grey = cv2.cvtColor(face[top:bottom, left:right], cv2.COLOR_RGB2GRAY).astype(np.float32)
        energy.append(np.square(cv2.Sobel(grey, -1, 1, 0)).mean() + np.square(cv2.Sobel(grey, -1, 0, 1)).mean())
    return float(np.sqrt(np.mean(energy)))


def _identity(result: np.ndarray, plate: np.ndarray) -> float:
    """Mean of one minus the correlation of small grey faces: 0 for equal faces, about 0.5 for different people."""
    away = []
    for pair in zip(result, plate, strict=True):
        grey = (cv2.cvtColor(face, cv2.COLOR_RGB2GRAY) for face in pair)
        a, b = (cv2.resize(face, (_PATCH, _PATCH), interpolation=cv2.INTER_AREA) for face in grey)
        away.append(1 - float(np.corrcoef(a.ravel(), b.ravel())[0, 1]))
    return float(np.mean(away))


def _follows(renderer: FaceRenderer, driven: Driven, rows: np.ndarray) -> dict[str, float]:
    """Correlation of the jaw's opening read from the results with the one that was asked for, and its deviation.

    A driver whose jaw hardly moves gives a low correlation, because of the error of reading.
    """
    rest = renderer.reader.rest_reference(driven.copy[0])
    read = renderer.reader.compare(rest, driven.result[::_RUN])
    jaw = renderer.bank.names.index("jawOpen")
    asked = rows[::_RUN, [jaw]]
    return {"jaw_r": float(correlations(read[:, [jaw]], asked)[0]), "jaw_asked": float(asked.std())}


def _sheet_row(faces: np.ndarray) -> list[np.ndarray]:
    chosen = np.linspace(0, len(faces) - 1, SHOWN).astype(int)
    return [cv2.resize(faces[at], (SIZE // 2, SIZE // 2), interpolation=cv2.INTER_AREA) for at in chosen]


_LINES = (
    ("psnr", "PSNR of the mouth region, dB", "psnr_copy"),
    ("ssim", "SSIM of the mouth region", "ssim_copy"),
    ("marks", "points of the mouth, share of the eye distance", "marks_copy"),
    ("landmarks", "landmarks of the lips, share of the eye distance", "landmarks_copy"),
    ("teeth", "share of frames with visible teeth", "teeth_plate"),
    ("flicker", "flicker of skin around the mouth, over the plate's", ""),
    ("sharpness", "gradient in the mouth region, over the plate's", ""),
    ("identity", "distance from the plate's face (another person: about 0.5)", ""),
    ("jaw_r", "jaw read from the result against the driver's, r", ""),
    ("jaw_asked", "deviation of the jaw that is asked for", ""),
    ("outside", "largest change outside the mask, levels", ""),
    ("cpu", "CPU time of a frame, s", ""),
)


def _report(bank: Bank, found: dict[str, dict[str, Any]], args: argparse.Namespace) -> str:
    lines = [f"# Dubbing of real clips with the bank {bank.name}", ""]
    lines += [f"{len(found)} clips, the first {args.most} frames, every {args.every} frames three in a row.", ""]
    lines += ["Each sheet shows the plate, then the results in the order of the tables.", ""]
    for label in (f"{method}, {name}" for method in args.methods for name in ("self", "cross")):
        lines += [
            f"## {label}-driven",
            "",
            f"| figure | mean | {' | '.join(found)} |",
            f"|---|---|{'---|' * len(found)}",
        ]
        for key, title, baseline in _LINES:
            for name, shown in ((key, title), (baseline, f"*{title}: {baseline.partition('_')[2]}*")):
                values = [clip[label].get(name, float("nan")) for clip in found.values()]
                if name and not np.isnan(values).all():
                    cells = " | ".join(f"{value:.3g}" for value in values)
                    lines.append(f"| {shown} | {np.nanmean(values):.3g} | {cells} |")
        lines.append("")
    return "\n".join(lines)
