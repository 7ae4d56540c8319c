"""Mouth movement for voices: as requested by the bank's audio network, and as visible in the picture."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from inference.contract.bank import Bank
from inference.lipsync import frame_times, lip_sync
from inference.media.sound import RATE, load_sound, to_16k
from training.heads import mesh
from training.stages.audio2lip import FPS
from training.units import LIP, NAMES
from training.voices.speech import CURVE_FPS, HELD_OUT_VARIANTS, Phone, Take, recording, take

from . import people
from .puppet import Puppet

CLOSED = 0.04  # of the eye distance (2.5 mm on an adult): lips with a smaller gap look closed
STILL = 0.03  # of the eye distance: lips with a smaller displacement look at rest
PAUSE, SETTLING = 0.3, 0.13  # seconds: shortest silence, and time for the mouth to close or open
MAX_LAG = 5  # frames, range of the lag search
BILABIALS = ("p", "b", "m")


@dataclass(frozen=True)
class VoiceClip:
    """A voice with its lip closures and silences in seconds. truth: (T, 20) lip units at 25 fps, if known."""

    name: str
    samples: np.ndarray  # (n,) float32 at 16 kHz
    closures: list[tuple[float, float]]
    silences: list[tuple[float, float]]
    truth: np.ndarray | None = None
    how: str = ""  # sources of closures and silences

    @property
    def times(self) -> np.ndarray:
        return frame_times(len(self.samples) / RATE, FPS)


# ---------------------------------------------------------------------------------------------------- the voices


def synthetic(count: int, seed: int = 0) -> list[VoiceClip]:
    """`count` recordings of held-out espeak-ng voices with known closures, every other one with microphone effects."""
    voices = []
    for number in range(count):
        rng = np.random.default_rng((seed, 2, number))
        voice: Take = (take if number % 2 else recording)(rng, HELD_OUT_VARIANTS)
        times = frame_times(len(voice.samples) / RATE, FPS)
        truth = voice.curves[np.round(times * CURVE_FPS).astype(int)]
        voices.append(VoiceClip(f"espeak-ng {number}", voice.samples, *_intervals(voice.phones), truth, "espeak-ng"))
    return voices


def _intervals(phones: Sequence[Phone]) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Closures of /p b m/, and silences; consecutive pauses are merged."""
    closures = [(phone.start, phone.end) for phone in phones if phone.symbol[:1] in BILABIALS]
    silences: list[tuple[float, float]] = []
    for phone in phones:
        if phone.symbol:
            continue
        if silences and phone.start - silences[-1][1] < 1e-6:
            silences[-1] = silences[-1][0], phone.end
        else:
            silences.append((phone.start, phone.end))
    return closures, [(start, end) for start, end in silences if end - start >= PAUSE]


def real(path: Path) -> VoiceClip:
    """Read a sound file and find its lip closures and silences.

    Closures are found by pocketsphinx, and left empty without it. Silences are found by silero-vad, otherwise by level.
    """
    samples = to_16k(*load_sound(path))
    closures, aligner = sphinx_closures(samples), "pocketsphinx"
    if closures is None:
        closures, aligner = [], "no alignment (pocketsphinx is not installed)"
    silences, listener = silero_silences(samples), "silero-vad"
    if silences is None:
        silences, listener = level_silences(samples), "silence by level (silero-vad is not installed)"
    return VoiceClip(path.name, samples, closures, silences, None, f"{aligner}, {listener}")


def sphinx_closures(samples: np.ndarray) -> list[tuple[float, float]] | None:
    """Intervals of /p b m/ of an English voice, in seconds; None if pocketsphinx is not installed.

    The words are recognised first and then aligned phone by phone, so recognition errors affect the result. Words that
    cannot be aligned have no intervals.
    """
    try:
        from pocketsphinx import Decoder
    except ImportError:
        return None
    sound = (np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes()
    decoder = Decoder(samprate=float(RATE), loglevel="FATAL")

    def decode() -> None:
        decoder.start_utt()
        decoder.process_raw(sound, full_utt=True)
        decoder.end_utt()

    decode()
    if decoder.hyp() is None:
        return []
    try:
        decoder.set_align_text(decoder.hyp().hypstr)
        decode()
        decoder.set_alignment()  # from words to phones
        decode()
    except RuntimeError:  # the recognised words do not fit the sound, as with singing and other languages
        return []
    return [
        (phone.start / 100, (phone.start + phone.duration) / 100)
        for word in decoder.get_alignment()
        for phone in word
        if phone.name.lower() in BILABIALS
    ]


def silero_silences(samples: np.ndarray) -> list[tuple[float, float]] | None:
    """Intervals without speech of at least PAUSE seconds; None if silero-vad is not installed.

    Only its model is loaded: the package itself would import torchaudio.
    """
    import torch

    spec = importlib.util.find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        return None
    model = torch.jit.load(Path(spec.submodule_search_locations[0]) / "data" / "silero_vad.jit").eval()
    chunk = 512
    with torch.no_grad():
        spoken = [
            model(torch.from_numpy(samples[start : start + chunk]), RATE).item() > 0.4
            for start in range(0, len(samples) - chunk + 1, chunk)
        ]
    return _runs(~np.array(spoken, bool), chunk / RATE)


def level_silences(samples: np.ndarray) -> list[tuple[float, float]]:
    """Intervals of at least PAUSE seconds that are 30 dB quieter than the loud parts of the voice."""
    hop = RATE // 50
    whole = samples[: len(samples) // hop * hop].reshape(-1, hop)
    level = np.sqrt(np.square(whole, dtype=np.float64).mean(1))
    return _runs(level < max(np.percentile(level, 95), 1e-9) * 10 ** (-30 / 20), hop / RATE)


def _runs(quiet: np.ndarray, seconds: float) -> list[tuple[float, float]]:
    edges = np.flatnonzero(np.diff(np.r_[0, quiet.astype(int), 0])).reshape(-1, 2) * seconds
    return [(float(start), float(end)) for start, end in edges if end - start >= PAUSE]


# ----------------------------------------------------------------------------------------------------- the mouth


@lru_cache(maxsize=1)
def _lips() -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Centre of the average head's lips: positions (L, 3), displacements (20, L, 3), (L,) lower lip, eye distance."""
    head = mesh.load()
    x, _, z = head.template.T
    units = head.units[: len(LIP)].reshape(len(LIP), -1, 3)
    lips = (head.part == mesh.SKIN) & (head.paint[:, 0] > 0.5) & (np.abs(x) < 0.08) & (z > 1.5)
    lower = units[NAMES.index("jawOpen"), lips, 1] < -0.15
    eyes = [head.template[ball].mean(0) for ball in head.eyes]
    return head.template[lips], units[:, lips], lower, float(np.linalg.norm(eyes[0] - eyes[1]))


def mouth(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gap between the lips, 0 at rest, and mean displacement of the lips, (T,) each in eye distances.

    rows: (T, 20) lip units. Computed on the mesh, which is linear in them; no picture is needed.
    """
    places, units, lower, eyes = _lips()
    moved = np.tensordot(rows, units, 1)
    height = places[:, 1] + moved[..., 1]
    gap = height[:, ~lower].min(1) - height[:, lower].max(1)
    at_rest = places[~lower, 1].min() - places[lower, 1].max()
    return (gap - at_rest) / eyes, np.linalg.norm(moved, axis=-1).mean(1) / eyes


@lru_cache(maxsize=1)
def _lip_edges() -> tuple[np.ndarray, np.ndarray]:
    """Indices of tracked face points at the inner edge of the upper and of the lower lip."""
    head = mesh.load()
    tracked = head.points[people.FACE]
    x, y, z = head.template[tracked].T
    lips = np.flatnonzero((head.paint[tracked, 0] > 0.5) & (np.abs(x) < 0.08) & (z > 1.5))
    lower = head.units[NAMES.index("jawOpen")].reshape(-1, 3)[tracked[lips], 1] < -0.15
    upper_lip, lower_lip = lips[~lower], lips[lower]
    return upper_lip[np.argsort(y[upper_lip])[:3]], lower_lip[np.argsort(-y[lower_lip])[:3]]


def seen_gap(puppet: Puppet, rows: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(T,) gap between the lips in the puppet's pictures, 0 at rest, in eye distances.

    rows: (T, 20) lip units; points: (F, 2) tracked points of its portrait.
    """
    upper, lower = _lip_edges()
    every = np.zeros((len(rows) + 1, len(NAMES)), np.float32)
    every[1:, : len(LIP)] = rows
    heights = puppet.moved(every, points[np.r_[upper, lower]])[..., 1]
    gap = heights[:, len(upper) :].mean(1) - heights[:, : len(upper)].mean(1)
    return (gap[1:] - gap[0]) / people.EYE_DISTANCE


# --------------------------------------------------------------------------------------------------- the figures


@dataclass(frozen=True)
class MouthMotion:
    """Mouth movement for one voice: gaps and displacements (T,) at 25 fps, in eye distances."""

    heard: VoiceClip
    gap: np.ndarray
    moved: np.ndarray
    true_gap: np.ndarray | None = None
    true_moved: np.ndarray | None = None
    seen: np.ndarray | None = None  # the gap in the picture


def mouth_motion(
    bank: Bank, heard: VoiceClip, puppet: Puppet | None = None, points: np.ndarray | None = None
) -> MouthMotion:
    """Compute the lip-sync of a voice and measure the mouth movement that it causes.

    puppet, points: a puppet that shows a portrait, and the tracked points (F, 2) of that portrait. If both are given,
    the gap between the lips is also measured in the pictures.
    """
    rows = lip_sync(heard.samples, RATE, heard.times, bank)
    gap, moved = mouth(rows)
    true_gap, true_moved = (None, None) if heard.truth is None else mouth(heard.truth)
    seen = None if puppet is None or points is None else seen_gap(puppet, rows, points)
    return MouthMotion(heard, gap, moved, true_gap, true_moved, seen)


def loudness(samples: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(T,) root mean square of the sound in 0.1 s around each time."""
    power = np.convolve(np.square(samples, dtype=np.float64), np.hanning(RATE // 10), "same")
    return np.sqrt(np.maximum(power[np.clip(np.round(times * RATE).astype(int), 0, len(power) - 1)], 0))


def agreement(curve: np.ndarray, envelope: np.ndarray, edge: int = MAX_LAG) -> tuple[float, int]:
    """Best correlation of two (T,) curves over lags of up to `edge` frames, and the delay of the first one."""
    lags = range(-edge, edge + 1)
    if curve[edge:-edge].std() < 1e-9 or envelope[edge:-edge].std() < 1e-9:
        return 0.0, 0
    scores = [np.corrcoef(curve[edge + lag : len(curve) - edge + lag], envelope[edge:-edge])[0, 1] for lag in lags]
    best = int(np.argmax(scores))
    return float(scores[best]), lags[best]


def closure_rate(gap: np.ndarray, closures: Sequence[tuple[float, float]]) -> float:
    """Share of closures during which the lips are closed in at least one frame; NaN without closures."""
    met = []
    for start, end in closures:
        first, last = int(np.floor(start * FPS)), int(np.ceil(end * FPS))
        if first < len(gap):
            met.append(gap[first : last + 1].min() < CLOSED)
    return float(np.mean(met)) if met else float("nan")


def rest_rate(gap: np.ndarray, moved: np.ndarray, silences: Sequence[tuple[float, float]]) -> float:
    """Share of frames in silences, apart from SETTLING at both ends, in which the mouth is closed and at rest."""
    still = [
        (gap[rows] < CLOSED) & (moved[rows] < STILL)
        for start, end in silences
        for rows in [slice(int(np.ceil((start + SETTLING) * FPS)), int(np.floor((end - SETTLING) * FPS)) + 1)]
    ]
    frames = np.concatenate(still) if still else np.zeros(0, bool)
    return float(frames.mean()) if frames.size else float("nan")


def rates(spoken: Sequence[MouthMotion], which: str = "") -> tuple[float, float]:
    """Closure and rest rates over several voices. which: "" for the bank, "true_" for the truth."""
    closed, rest = [], []
    for one in spoken:
        gap, moved = getattr(one, f"{which}gap"), getattr(one, f"{which}moved")
        closed.append((closure_rate(gap, one.heard.closures), len(one.heard.closures)))
        seconds = sum(end - start for start, end in one.heard.silences)
        rest.append((rest_rate(gap, moved, one.heard.silences), seconds))
    return _weighted(closed), _weighted(rest)


def _weighted(rows: Sequence[tuple[float, float]]) -> float:
    values, weights = np.array(rows, float).T
    valid = (weights > 0) & np.isfinite(values)
    return float(np.average(values[valid], weights=weights[valid])) if valid.any() else float("nan")
