"""A look at clips before a training: what is usable, why the rest is not, and what the training needs.

Some frames of every clip are looked at, and a little of every kind of work is timed, so that it takes seconds.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from inference.contract.errors import EDTalkError
from inference.face.crop_tracker import CropTracker
from inference.face.detect import choose_face, crop_from_face, detect_faces
from inference.media.video import frames_at, probe, stamped_frames

from .prepare import LEAST, RATE, REASONS, Finder, clips_in, landmark_finder, rejected

LOOKED_AT = 12  # frames of a clip
TIMED = 12  # consecutive frames by which preparation is timed
FRAME_BYTES = 0.4  # on the disk, of each pixel of a kept frame
FORMAT = 1


@dataclass
class ClipLook:
    """What a few frames of a clip show. usable: seconds, an estimate. rejected: share of the frames by reason."""

    name: str
    person: str
    seconds: float = 0.0
    usable: float = 0.0
    faces: int = 0
    rejected: dict[str, float] = field(default_factory=dict)
    error: str = ""


def look_at_clip(clip: Path, person: str, find: Finder = landmark_finder) -> ClipLook:
    """Look at LOOKED_AT frames of a clip. A clip that cannot be read has an `error`."""
    look = ClipLook(clip.name, person)
    try:
        look.seconds = probe(clip).duration or 0.0
        times = (np.arange(LOOKED_AT) + 0.5) / LOOKED_AT * look.seconds
        why: Counter[str] = Counter()
        for rgb in frames_at(clip, times.tolist()):
            faces = detect_faces(rgb, upright_only=True)
            look.faces = max(look.faces, len(faces))
            try:
                crop = crop_from_face(choose_face(faces, which="largest"))
            except EDTalkError:
                why["unsure"] += 1
                continue
            x, y, side, _ = crop.box
            points, sure = find(rgb, (x, y, side))
            why[rejected(points, sure, (x, y, side))] += 1
    except EDTalkError as error:
        look.error = error.message
        return look
    look.usable = round(look.seconds * why.pop("", 0) / LOOKED_AT, 1)
    look.rejected = {reason: round(count / LOOKED_AT, 3) for reason, count in why.most_common()}
    return look


def preparing_seconds(clip: Path, find: Finder = landmark_finder) -> float:
    """Seconds that a frame of a clip takes to prepare on this machine."""
    frames = [rgb for _, rgb in islice(stamped_frames(clip), TIMED)]
    began = time.perf_counter()
    tracker = CropTracker(which="largest")
    for rgb in frames:
        tracker.add(rgb)
    if tracker.found:
        for rgb, crop in zip(frames, tracker.crops(), strict=True):
            x, y, side, _ = crop.box
            find(rgb, (x, y, side))
    return (time.perf_counter() - began) / max(len(frames), 1)


def look_at_clips(
    paths: Iterable[Path],
    work: Path,
    size: int,
    minutes: float,
    step_seconds: Callable[[], float],
    share: float,
    advised: int,
    checkpoints: float,
    find: Finder = landmark_finder,
    people: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What `--check` says, as it is written to check.json; see docs/training-from-footage.md.

    step_seconds: measures one step of the training's longest stage, which has `share` of the time and for which
    `advised` steps are advised. checkpoints: bytes of all checkpoints. people: person by name of a clip.
    """
    report: dict[str, Any] = {"format": FORMAT, "ok": False, "problem": "", "hint": "", "size": size}
    try:
        clips = clips_in(paths, people)
    except EDTalkError as error:
        return report | {"problem": error.message, "hint": error.hint, "clips": []}
    looks = [look_at_clip(clip, person, find) for clip, person in clips]
    readable = [clip for (clip, _), look in zip(clips, looks, strict=True) if not look.error]
    seconds, usable = (sum(getattr(look, name) for look in looks) for name in ("seconds", "usable"))
    report |= {
        "clips": [asdict(look) for look in looks],
        "reasons": dict(REASONS),
        "seconds": round(seconds, 1),
        "usable": round(usable, 1),
        "least": LEAST,
        "disk_needed": int(usable * RATE * FRAME_BYTES * size**2 + checkpoints),
        "disk_free": shutil.disk_usage(_existing(work)).free,
        "memory_needed": int(usable * RATE * 3 * size**2),
    }
    if not readable:
        problem = looks[0].error
        if len(looks) > 1:
            problem = f"None of the {len(looks)} clips can be read. The first: {problem}"
        return report | {"problem": problem, "hint": "Copy the clips again, or export them as H.264."}
    frames = sum(look.seconds for look in looks if not look.error) * float(probe(readable[0]).fps)
    step = step_seconds()
    report |= {
        "minutes_to_prepare": round(preparing_seconds(readable[0], find) * frames / 60.0, 1),
        "minutes": minutes,
        "step_seconds": round(step, 3),
        "steps": int(60.0 * minutes * share / step),
        "steps_advised": advised,
        "minutes_advised": round(advised * step / share / 60.0),
    }
    problem, hint = _problem(looks, usable, seconds, work, report["disk_free"], report["disk_needed"])
    return report | {"problem": problem, "hint": hint, "ok": not problem}


def _problem(
    looks: Sequence[ClipLook], usable: float, seconds: float, work: Path, disk_free: int, disk_needed: int
) -> tuple[str, str]:
    """What forbids a training, and what to do about it; "" if nothing does. Units: seconds and bytes."""
    if usable < LEAST:
        total: Counter[str] = Counter()
        for look in looks:
            total.update({reason: part * look.seconds for reason, part in look.rejected.items()})
        why = ", ".join(f"{REASONS[reason]} {100 * part / seconds:.0f} %" for reason, part in total.most_common(3))
        return (
            f"About {usable:.0f} s of {seconds:.0f} s show a usable face ({why or 'the clips are short'}); "
            f"at least {LEAST:.0f} s are needed.",
            "Add clips that show one face from the front.",
        )
    if disk_free < 1.2 * disk_needed:
        return (
            f"{work} has {_size(disk_free)} of free space; {_size(disk_needed)} are needed.",
            "Free some space, or choose another folder for the training.",
        )
    return "", ""


def as_text(report: Mapping[str, Any]) -> str:
    """The report for people."""
    lines: Sequence[str] = [_clip_line(clip) for clip in report["clips"]]
    if "step_seconds" in report:
        lines = [
            *lines,
            f"Usable: about {report['usable']:.0f} of {report['seconds']:.0f} s.",
            f"Disk: {_size(report['disk_needed'])} needed, {_size(report['disk_free'])} free.",
            f"Time: {report['minutes_to_prepare']:.0f} min to prepare the clips. A step takes "
            f"{report['step_seconds']:.2f} s on this machine, so that {report['minutes']:.0f} min give "
            f"{report['steps']:,} steps of mouth and pose; {report['steps_advised']:,} are advised, which take "
            f"{report['minutes_advised']:,} min in all.",
        ]
    if report["problem"]:
        lines = [*lines, f"{report['problem']} {report['hint']}".strip()]
    return "\n".join(lines)


def _clip_line(clip: Mapping[str, Any]) -> str:
    if clip["error"]:
        return f"{clip['name']}: {clip['error']}"
    why = ", ".join(f"{REASONS[reason]} {100 * part:.0f} %" for reason, part in clip["rejected"].items())
    several = f"; {clip['faces']} faces, the largest is used" if clip["faces"] > 1 else ""
    return (
        f"{clip['name']}: about {clip['usable']:.0f} of {clip['seconds']:.0f} s usable"
        + (f" ({why})" if why else "")
        + several
    )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return folder if folder.exists() else _existing(folder.parent)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
