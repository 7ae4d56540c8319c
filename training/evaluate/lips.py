"""Measure lip-sync on recordings of voices: how the mouth follows the voice, closes on /p b m/ and rests in silence.

    python -m training evaluate-lips BANK --voices FOLDER FILE ... [--english FILE ...] [--before BANK] --out DIR

The envelope of a voice is the loudness of the band of a telephone, 300 to 3400 Hz, which has the vowels of every voice.
Over the whole spectrum, bass, music and the fundamental of nasals hide them; that loudness is listed, too, and so is
that of the bass below 150 Hz, which a mouth should follow no further than the voice does. `FOLLOWER`, a jaw that opens
in proportion to the loudness of the whole sound, is the baseline. Sounds that are not mostly speech are listed, but do
not count in the figures.
DIR/lips.md has the table, DIR/NAME.png the curves of each voice if matplotlib is installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.signal import butter, sosfiltfilt

from inference.contract.bank import Bank, load_bank
from inference.contract.errors import EDTalkError
from inference.lipsync import lip_sync, speech_level
from inference.media.sound import RATE, load_sound, to_16k
from training.stages.audio2lip import JAW
from training.units import LIP

from . import report, voices
from .bank import sounds_in
from .report import Figure

LAGS = 3  # frames: range of the lag search
FOLLOWER = "envelope follower"
OPEN = 0.5  # jaw of the envelope follower at the mean level of the speech
SPOKEN = 0.5  # share of speech from which on a recording counts as a voice
_VOICE = butter(2, (300, 3400), "band", fs=RATE, output="sos")
_BASS = butter(4, 150, "low", fs=RATE, output="sos")
_VIDEO = (".mp4", ".mov", ".mkv", ".webm")


@dataclass(frozen=True)
class Followed:
    """How a mouth follows one voice.

    r, lag: of the jaw and the envelope of the voice, `lag` in frames of 1/25 s, positive if the jaw is late. r_whole,
    r_bass: with the loudness of the whole sound and of its bass, at their own best lags. closed, rest: shares, NaN if
    there is nothing to count.
    """

    voice: str
    mouth: str
    spoken: float
    r: float
    lag: int
    r_whole: float
    r_bass: float
    closed: float
    closures: int
    rest: float

    @property
    def counts(self) -> bool:
        return self.spoken >= SPOKEN


def followed(heard: voices.VoiceClip, mouth: str, rows: np.ndarray) -> Followed:
    """Measure the lip units (T, 20) at 25 fps of one voice."""
    jaw = rows[:, JAW]
    r, lag = agreement(jaw, voices.loudness(sosfiltfilt(_VOICE, heard.samples), heard.times))
    r_whole, r_bass = (
        agreement(jaw, voices.loudness(samples, heard.times))[0]
        for samples in (heard.samples, sosfiltfilt(_BASS, heard.samples))
    )
    gap, moved = voices.mouth(rows)
    silent = sum(end - start for start, end in heard.silences)
    return Followed(
        heard.name, mouth, 1 - silent / (len(heard.samples) / RATE), r, lag, r_whole, r_bass,
        voices.closure_rate(gap, heard.closures), len(heard.closures),
        voices.rest_rate(gap, moved, heard.silences),
    )  # fmt: skip


def agreement(jaw: np.ndarray, loudness: np.ndarray) -> tuple[float, int]:
    """Best correlation of two (T,) curves over LAGS, and the delay of the jaw in frames."""
    return voices.agreement(jaw, loudness, LAGS)


def follower(heard: voices.VoiceClip) -> np.ndarray:
    """Lip units (T, 20) of a jaw that opens in proportion to the loudness, OPEN at the mean level of the speech."""
    rows = np.zeros((len(heard.times), len(LIP)), np.float32)
    mean = 10 ** (speech_level(heard.samples) / 20) * np.sqrt(np.hanning(RATE // 10).sum())
    rows[:, JAW] = np.clip(OPEN * voices.loudness(heard.samples, heard.times) / max(mean, 1e-9), 0, 1)
    return rows


def figures_of(found: Sequence[Followed]) -> list[Figure]:
    """Rows of the table for the voices of one mouth. Their recordings must be mostly speech."""
    r = np.array([one.r for one in found])
    whole = np.array([one.r_whole for one in found])
    closed = [(one.closed, one.closures) for one in found if one.closures]
    rest = [one.rest for one in found if np.isfinite(one.rest)]
    total = sum(count for _, count in closed)
    return [
        Figure("lips_median", f"{len(r)} voices: jaw against the voice's envelope, median r", float(np.median(r)), "r",
               target=0.6),
        Figure("lips_least", "the same, least", float(r.min()), "r", target=0.45),
        Figure("lips_lag", "largest lag", max(abs(one.lag) for one in found), "frames", target=1, at_most=True),
        Figure("lips_whole", "jaw against the loudness of the whole sound, median r", float(np.median(whole)), "r"),
        Figure("lips_whole_least", "the same, least", float(whole.min()), "r"),
        Figure("lips_closed", f"English voices: lips closed on {total} sounds /p b m/",
               float(sum(share * count for share, count in closed) / total) if total else None, "%", target=0.85),
        Figure("lips_rest", "mouth at rest in silence, mean of the voices", float(np.mean(rest)) if rest else None,
               "%", target=0.95),
    ]  # fmt: skip


def listed(found: Sequence[Followed]) -> str:
    """All measurements as a table in Markdown."""
    head = "| voice | speech | mouth | r, 300 to 3400 Hz | lag | r, whole sound | r, bass | p, b, m closed | rest |"
    rows = [head, "|" + "---|" * 9]
    for one in found:
        closed = f"{one.closed:.0%} of {one.closures}" if one.closures else "-"
        rest = f"{one.rest:.0%}" if np.isfinite(one.rest) else "-"
        rows.append(
            f"| {one.voice} | {one.spoken:.0%} | {one.mouth} | {one.r:.2f} | {one.lag} | {one.r_whole:.2f} "
            f"| {one.r_bass:.2f} | {closed} | {rest} |"
        )
    return "\n".join(rows)


def heard_in(path: Path, english: bool) -> voices.VoiceClip:
    """A recording; only English ones are aligned, because the recogniser supports no other language."""
    if english:
        return voices.real(path)
    samples = to_16k(*load_sound(path))
    silences = voices.silero_silences(samples)
    return voices.VoiceClip(path.name, samples, [], voices.level_silences(samples) if silences is None else silences)


def run(args: argparse.Namespace) -> None:
    """Measure with the options of `add_options`, and print the tables. Sounds without a sound track are skipped."""
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    banks: dict[str, Bank] = {"bank": load_bank(args.bank)}
    if args.before:
        banks = {"before": load_bank(args.before), **banks}
    paths = sounds_in(args.voices)
    for folder in args.voices:
        paths += sorted(path for path in folder.glob("*") if path.suffix.lower() in _VIDEO) if folder.is_dir() else []
    found: list[Followed] = []
    for path in dict.fromkeys([*paths, *args.english]):
        try:
            heard = heard_in(path, path in args.english)
        except EDTalkError as error:
            print(f"{path.name} was skipped: {error.message}")
            continue
        mouths = {FOLLOWER: follower(heard)}
        mouths |= {name: lip_sync(heard.samples, RATE, heard.times, bank) for name, bank in banks.items()}
        found += [followed(heard, name, rows) for name, rows in mouths.items()]
        curves = {f"jaw, {name}": rows[:, JAW] for name, rows in mouths.items() if name != FOLLOWER}
        curves["loudness"] = voices.loudness(heard.samples, heard.times)
        report.plot_voice(heard.times, curves, args.out / f"{path.stem}.png", heard.closures, heard.silences)
    parts = ["# Lip-sync of recorded voices", listed(found)]
    for mouth in (FOLLOWER, *banks):
        some = [one for one in found if one.mouth == mouth and one.counts]
        if some:
            parts += [f"## {mouth}", report.table(figures_of(some))]
    text = "\n\n".join(parts) + "\n"
    (args.out / "lips.md").write_text(text)
    print(text)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("bank", type=Path, help="bank (.safetensors) to measure")
    parser.add_argument(
        "--voices", type=Path, nargs="+", required=True, help="sound files and videos, or folders of them"
    )
    parser.add_argument(
        "--english", type=Path, nargs="*", default=[], help="those that speak English, to find /p b m/ in"
    )
    parser.add_argument("--before", type=Path, help="another bank to compare with")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
