"""Reference frames of a plate: frames of the same clip from which the mouth of a dubbed frame is taken.

A clip is read once: `Readings` has the coefficients of each frame of its track. `choose_references` selects frames that
cover the mouth shapes, head poses and lighting of the clip; an artist may give the frames instead. Each frame of a shot
then is drawn from the references that are nearest to its target, see `blend`. Standard library and numpy only: the
add-on chooses references, the worker draws from them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import EDTalkError
from .files import atomic_write, read_regular
from .parsing import MALFORMED, parse_npy
from .plate import Track

if TYPE_CHECKING:
    from .bank import Bank

MOST_REFERENCES = 32
_DEFAULT_COUNT = 12
_JAW = "jawOpen"
# How much the coefficients matter for the likeness of two mouths; those of the lips have 1, all others 0.
_WEIGHTS = {_JAW: 2.0, "jawForward": 0.5, "jawLeft": 0.5, "jawRight": 0.5, "cheekPuff": 0.5, "tongueOut": 0.5}
_EXPRESSION_WEIGHTS = {"mouthSmile": 1.0, "mouthFrown": 1.0, "noseSneer": 0.3, "cheekSquint": 0.3}
_TURN_WEIGHT, _LIGHT_WEIGHT = 0.3, 0.3  # of head rotations, and of the binary logarithm of the brightness
_ROTATIONS = ("headYaw", "headPitch", "headRoll")
_BLUNT = 0.6  # share of the clip's median sharpness below which a frame is not used as a reference
_SHARE = 0.08  # distance from the nearest reference over which another one is blended in
_CLOSED = 0.2  # share of a clip's frames, those with the smallest jaw, that count as a closed mouth
_CANDIDATES, _MEASURED = 400, 4000  # evenly spaced frames that may be chosen, and to which distances are measured
_MOST_ROWS = 2**28  # bytes of a file of readings
_SILENT = 0.03  # largest lip coefficient of a mouth at rest
_PAUSE, _RAMP = 0.35, 0.16  # seconds: shortest silence in which the plate's mouth is kept, and its fade
_AGAIN = "Read the clip again."


@dataclass(frozen=True, eq=False)
class Readings:
    """What was read from each frame of a track.

    rows: (N, n) float32, coefficients in the bank's order, 0 for the clip's frame at rest and, for the lips, for a
        closed mouth; NaN in frames without a face.
    looks: (N, 2) float32, sharpness of the face (any unit) and binary logarithm of its brightness.
    Raises EDTalkError for other shapes or infinite values.
    """

    rows: np.ndarray
    looks: np.ndarray

    def __post_init__(self) -> None:
        rows, looks = np.array(self.rows, np.float32), np.array(self.looks, np.float32)
        if rows.ndim != 2 or looks.shape != (len(rows), 2) or np.isinf(rows).any() or np.isinf(looks).any():
            raise EDTalkError(f"These are not the readings of a clip: shapes {rows.shape} and {looks.shape}.", _AGAIN)
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "looks", looks)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def seen(self) -> np.ndarray:
        """(N,) bool: the frames with a face."""
        return ~(np.isnan(self.rows).any(1) | np.isnan(self.looks).any(1))

    def to_bytes(self) -> bytes:
        """Little-endian float32 (N, n + 2): coefficients, sharpness, brightness."""
        return np.column_stack([self.rows, self.looks]).astype("<f4").tobytes()

    @staticmethod
    def from_bytes(payload: bytes, count: int) -> Readings:
        """The inverse of `to_bytes` for `count` coefficients. Raises EDTalkError if the payload does not fit."""
        if count < 1 or len(payload) % (4 * (count + 2)):
            raise EDTalkError(f"Readings of {count} coefficients do not fit {len(payload)} bytes.", _AGAIN)
        table = np.frombuffer(payload, "<f4").reshape(-1, count + 2)
        return Readings(table[:, :-2], table[:, -2:])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `.npy` file of shape (N, n + 2), atomically. Raises EDTalkError(kind="disk")."""
        table = BytesIO()
        np.save(table, np.column_stack([self.rows, self.looks]).astype("<f4"), allow_pickle=False)
        with atomic_write(Path(path)) as partial:
            partial.write_bytes(table.getvalue())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Readings:
        """Read a file that `save` wrote. Raises EDTalkError if it is missing or has other content."""
        try:
            table = parse_npy(read_regular(path, _MOST_ROWS))
            return Readings(table[:, :-2], table[:, -2:])
        except (OSError, IndexError, EDTalkError, *MALFORMED) as error:
            raise EDTalkError(f"{path} is not a readable file of readings.", _AGAIN) from error


@dataclass(frozen=True, eq=False)
class References:
    """The references of a dubbed shot, and what was read from the plate's frame of each of its rows.

    times: (K,) in the media's own time. crops: (K, 4), see `plate.Track`. rows: (K, n) and looks: (K, 2), the readings.
    own: (T, n) and own_looks: (T, 2), the readings of the plate's frames; NaN without a face.
    shown: (T,) 0 to 1, how much of the new mouth is shown; 0 keeps the mouth of the plate.
    Raises EDTalkError for other shapes or values.
    """

    times: np.ndarray
    crops: np.ndarray
    rows: np.ndarray
    looks: np.ndarray
    own: np.ndarray
    own_looks: np.ndarray
    shown: np.ndarray

    def __post_init__(self) -> None:
        count, length = len(self.times), len(self.own)
        width = np.shape(self.rows)[-1] if np.ndim(self.rows) == 2 else 0
        shapes = {
            "times": (count,), "crops": (count, 4), "rows": (count, width), "looks": (count, 2),
            "own": (length, width), "own_looks": (length, 2), "shown": (length,),
        }  # fmt: skip
        for name, shape in shapes.items():
            kind = "f8" if name in ("times", "crops") else "f4"
            value = np.array(getattr(self, name), kind) + 0  # -0 and 0 give the same frame
            is_read = name in ("own", "own_looks")  # NaN is allowed
            if value.shape != shape or not (np.isfinite(value) | (np.isnan(value) & is_read)).all():
                raise EDTalkError(f"The references of a shot have an invalid table '{name}'.", "Dub the movie again.")
            object.__setattr__(self, name, value)
        sides_fit = (self.crops[:, 2] > 0).all() and (self.shown >= 0).all() and (self.shown <= 1).all()
        if not 1 <= count <= MOST_REFERENCES or not sides_fit:
            message = f"A dubbed shot needs 1 to {MOST_REFERENCES} references with a face, found {count}."
            raise EDTalkError(message, "Choose other reference frames.")

    def __len__(self) -> int:
        return len(self.times)

    @property
    def frames_table(self) -> np.ndarray:
        """(K, 7 + n) float64, as stored in a shot: time, crop, looks, reading."""
        return np.column_stack([self.times, self.crops, self.looks, self.rows]).astype("<f8")

    @property
    def plate_table(self) -> np.ndarray:
        """(T, 3 + n) float32, as stored in a shot: amount shown, looks, reading."""
        return np.column_stack([self.shown, self.own_looks, self.own]).astype("<f4")

    @staticmethod
    def from_tables(frames: np.ndarray, plate: np.ndarray) -> References:
        """The inverse of `frames_table` and `plate_table`. Raises EDTalkError if they do not fit."""
        if frames.ndim != 2 or plate.ndim != 2 or frames.shape[1] < 8 or plate.shape[1] != frames.shape[1] - 4:
            raise EDTalkError("The references of the shot are damaged.", "Dub the movie again.")
        return References(
            frames[:, 0], frames[:, 1:5], frames[:, 7:], frames[:, 5:7], plate[:, 3:], plate[:, 1:3], plate[:, 0]
        )

    @staticmethod
    def of(
        bank: Bank,
        track: Track,
        readings: Readings,
        times: Sequence[float] | np.ndarray,
        *,
        chosen: Sequence[float] = (),
        count: int = _DEFAULT_COUNT,
        shown: np.ndarray | None = None,
    ) -> References:
        """The references for a shot that shows the frames at `times` (T,), see `choose_references`.

        shown: (T,); default 1, the new mouth in every frame. Raises EDTalkError if no frame can be used.
        """
        frames = choose_references(bank, track, readings, chosen=chosen, count=count)
        starts, _ = track.at(times)
        at = np.searchsorted(track.times, starts)
        amount = np.ones(len(at)) if shown is None else shown
        return References(
            track.times[frames], track.crops[frames], readings.rows[frames], readings.looks[frames],
            readings.rows[at], readings.looks[at], amount,
        )  # fmt: skip


def likeness_weights(bank: Bank) -> np.ndarray:
    """(n,) float32: how much a difference of each coefficient counts in the distance of two frames."""
    lips = {name: _WEIGHTS.get(name, 1.0) for name in bank.names_of("lip")}
    weights = lips | _EXPRESSION_WEIGHTS | dict.fromkeys(_ROTATIONS, _TURN_WEIGHT)
    return np.array([weights.get(name, 0.0) for name in bank.names], np.float32)


def choose_references(
    bank: Bank, track: Track, readings: Readings, *, chosen: Sequence[float] = (), count: int = _DEFAULT_COUNT
) -> list[int]:
    """Numbers of the frames of a track that are used as references; the first is the one nearest to rest.

    chosen: times in the media's own time; if there are any, exactly the frames shown then are used. Otherwise up to
    `count` frames are chosen: first a closed mouth with an average head pose, then always the frame that most reduces
    the distance of all frames to their nearest reference. Blurred frames are not chosen.
    Raises EDTalkError(kind="face") if no frame with a face is left.
    """
    if len(readings) != len(track) or readings.rows.shape[1] != len(bank.names):
        raise EDTalkError("The readings belong to another clip or bank.", _AGAIN)
    if len(chosen):
        starts, _ = track.at(chosen)
        frames = list(dict.fromkeys(np.searchsorted(track.times, starts).tolist()))
        seen = readings.seen
        if unseen := [frame for frame in frames if not seen[frame]]:
            message = f"No face was found in the reference frame at {track.times[unseen[0]]:.2f} s."
            raise EDTalkError(message, "Choose a frame that shows the face.", "face")
        return frames[:MOST_REFERENCES]
    seen = np.flatnonzero(readings.seen)
    if not len(seen):
        raise EDTalkError("The clip shows no face that could be used as a reference.", "Choose another clip.", "face")
    rows, (sharpness, light) = readings.rows[seen], readings.looks[seen].T
    features = rows * likeness_weights(bank)
    features = np.column_stack([features, light * _LIGHT_WEIGHT])
    usable = sharpness >= _BLUNT * np.median(sharpness)
    turns = [bank.names.index(name) for name in _ROTATIONS if name in bank.names]
    aside = np.square(rows[:, turns] - np.median(rows[:, turns], 0)).sum(1)
    rest = int(np.argmin(np.where(usable, np.square(features[:, :-1]).sum(1) + aside, np.inf)))
    found, nearest = [rest], np.linalg.norm(features - features[rest], axis=1)
    candidates = np.flatnonzero(usable)
    candidates = candidates[:: max(1, len(candidates) // _CANDIDATES)]  # bounds time and memory for long clips
    seen_by = slice(None, None, -(-len(features) // _MEASURED))
    nearest = nearest[seen_by]
    far = np.stack([np.linalg.norm(features[seen_by] - features[one], axis=1) for one in candidates])
    while len(found) < min(count, MOST_REFERENCES):
        gains = np.maximum(nearest - far, 0).sum(1)
        best = int(np.argmax(gains))
        if gains[best] <= 1e-6:
            break
        found.append(int(candidates[best]))
        nearest = np.minimum(nearest, far[best])
    return seen[found].tolist()


def blend(weights: np.ndarray, references: References, target: np.ndarray, light: float) -> np.ndarray:
    """(K,) shares of the references in a frame, 1 in sum, at most two above 0. They change continuously with `target`.

    weights: see `likeness_weights`. target: (n,) coefficients to draw. light: the frame's brightness, see `Readings`.
    """
    away = np.square((references.rows - target) * weights).sum(1)
    distance = np.sqrt(away + np.square((references.looks[:, 1] - light) * _LIGHT_WEIGHT))
    shares = np.exp(-(distance - distance.min()) / _SHARE)
    order = np.argsort(-shares, kind="stable")
    if len(order) > 2:  # what the third one has is taken from all, so that nothing jumps when it comes second
        shares = np.maximum(shares - shares[order[2]], 0)
        shares[order[2:]] = 0
    if not shares.any():
        shares[order[0]] = 1
    return shares / shares.sum()


def closed_mouth(bank: Bank, rows: np.ndarray) -> np.ndarray:
    """(n,) float32: the value of each lip coefficient for this person's closed mouth; 0 for other coefficients.

    rows: (N, n) readings relative to any frame of the clip. It is the median of the frames with the least open jaw.
    """
    lips = np.isin(bank.names, bank.names_of("lip"))
    jaw = rows[:, bank.names.index(_JAW)] if _JAW in bank.names else np.abs(rows[:, lips]).sum(1)
    few = np.argsort(jaw, kind="stable")[: max(1, round(_CLOSED * len(rows)))]
    return np.where(lips, np.median(rows[few], 0), 0).astype(np.float32)


def spoken(lips: np.ndarray, fps: float) -> np.ndarray:
    """(T,) float32, 0 to 1: 0 in pauses of the lips, where the plate's own mouth is kept.

    lips: (T, m) coefficients, 0 for a closed mouth. A pause lasts at least 0.35 s; the ends fade over 0.16 s.
    """
    moving = np.abs(lips).max(1) > _SILENT
    if not len(moving):
        return np.zeros(0, np.float32)
    reach = np.full(len(moving), np.inf)  # frames to the nearest one with speech
    at = np.flatnonzero(moving)
    if len(at):
        frames = np.arange(len(moving))
        after = np.searchsorted(at, frames)
        right = np.where(after < len(at), at[np.minimum(after, len(at) - 1)] - frames, np.inf)
        left = np.where(after > 0, frames - at[np.maximum(after - 1, 0)], np.inf)
        reach = np.minimum(left, right)
        gaps = left + right - 1  # frames of the pause around each frame; infinite before the first and after the last
        reach = np.where(moving | (gaps < _PAUSE * fps), 0, reach)
    ramp = max(1.0, _RAMP * fps)
    amount = np.clip(1 - (reach - 1) / ramp, 0, 1)
    return (amount * amount * (3 - 2 * amount)).astype(np.float32)
