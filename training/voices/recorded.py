"""Speech of voices that were built from recordings of people, by the synthesisers flite and festival.

They report when each phone starts, as espeak-ng does, but sound like the people who were recorded. Only voices under
permissive licences are used for training (`TRAINING`). The sound of a diphone voice consists of pieces of the
recordings, and the weights are released under CC0, so voices under the GPL and LGPL serve only to evaluate
(`HELD_OUT`). No voice of mbrola is used, because these are not free. The licences are those in Debian's copyright
files of the packages.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soxr
from scipy.io import wavfile

from .speech import CURVE_FPS, RATE, Phone, Take, conversation, invented_words, level_of, lip_curves, sentences

HOP = RATE // CURVE_FPS
TIMEOUT = 60.0  # seconds for one utterance, which takes a fraction of one


@dataclass(frozen=True)
class RecordedVoice:
    """name: as the program knows it. pitch: the speaker's mean in Hz, or None if the program cannot change it."""

    program: str  # "flite" or "festival"
    name: str
    language: str  # of `speech.txt`
    speaker: str
    package: str  # of Debian
    licence: str
    pitch: float | None = None
    encoding: str = "utf-8"  # that the voice expects its text in


_CMU = "permissive (CMU: use, copy, modify, distribute, sell; keep the notice)"
TRAINING = (
    RecordedVoice("flite", "kal16", "en-us", "man, US", "flite", _CMU, 105.0),
    RecordedVoice("flite", "awb", "en-us", "man, Scottish", "flite", _CMU, 120.0),
    RecordedVoice("flite", "rms", "en-us", "man, US", "flite", _CMU, 100.0),
    RecordedVoice("flite", "slt", "en-us", "woman, US", "flite", _CMU, 170.0),
    RecordedVoice("festival", "ked_diphone", "en-us", "man, US", "festvox-kdlpc16k", _CMU, 105.0),
)
HELD_OUT = (
    RecordedVoice("festival", "lp_diphone", "it", "woman, Italian", "festvox-italp16k", "GPL-2+", encoding="latin-1"),
    RecordedVoice("festival", "pc_diphone", "it", "man, Italian", "festvox-itapc16k", "GPL-2+", encoding="latin-1"),
    RecordedVoice(
        "festival", "suo_fi_lj_diphone", "fi", "woman, Finnish", "festvox-suopuhe-lj", "LGPL-2+", encoding="latin-1"
    ),
    RecordedVoice(
        "festival", "hy_fi_mv_diphone", "fi", "man, Finnish", "festvox-suopuhe-mv", "LGPL-2+", encoding="latin-1"
    ),
    RecordedVoice("festival", "czech_ph", "cs", "man, Czech", "festvox-czech-ph", "GPL-2+", encoding="iso-8859-2"),
    RecordedVoice(
        "festival", "czech_dita", "cs", "woman, Czech", "festvox-czech-dita", "GPL-3+", encoding="iso-8859-2"
    ),
)

# IPA of the phones of each language. Those that are not listed are written like their IPA letter.
_PAUSES = {"pau", "#", "_", "brth", "h#"}
# fmt: off
_ENGLISH = {
    "aa": "ɑ", "ae": "æ", "ah": "ʌ", "ao": "ɔ", "aw": "aʊ", "ax": "ə", "axr": "ɚ", "ay": "aɪ", "eh": "ɛ", "er": "ɜ",
    "ey": "eɪ", "ih": "ɪ", "iy": "i", "ow": "oʊ", "oy": "ɔɪ", "uh": "ʊ", "uw": "u", "ch": "tʃ", "dh": "ð", "dx": "ɾ",
    "el": "l", "em": "m", "en": "n", "g": "ɡ", "hh": "h", "hv": "h", "jh": "dʒ", "ng": "ŋ", "r": "ɹ", "sh": "ʃ",
    "th": "θ", "y": "j", "zh": "ʒ",
}
_SAMPA = {
    "E": "ɛ", "O": "ɔ", "S": "ʃ", "Z": "ʒ", "J": "ɲ", "L": "ʎ", "N": "ŋ", "g": "ɡ", "tS": "tʃ", "dZ": "dʒ", "ng": "ŋ",
    "nf": "ɱ", "@": "æ", "7": "ø", "&": "ə", "T": "θ",
}
_CZECH = {
    "c": "ts", "c~": "tʃ", "ch": "x", "d~": "ɟ", "dz~": "dʒ", "g": "ɡ", "h": "ɦ", "n*": "ŋ", "n~": "ɲ", "r~": "rʒ",
    "r~*": "rʃ", "s~": "ʃ", "t~": "c", "z~": "ʒ",
}
# fmt: on
_TABLES = {"en-us": _ENGLISH, "it": _SAMPA, "fi": _SAMPA, "cs": _CZECH}
_VOICELESS = tuple("ptkcq")


def installed(voices: tuple[RecordedVoice, ...]) -> tuple[RecordedVoice, ...]:
    """Those of the voices that this machine has."""
    found = {"flite": _flite_voices(), "festival": _festival_voices()}
    return tuple(voice for voice in voices if voice.name in found[voice.program])


@cache
def _flite_voices() -> frozenset[str]:
    if not shutil.which("flite"):
        return frozenset()
    listed = subprocess.run(["flite", "-lv"], capture_output=True, text=True, timeout=TIMEOUT, check=False).stdout
    return frozenset(listed.partition(":")[2].split())


@cache
def _festival_voices() -> frozenset[str]:
    if not shutil.which("festival"):
        return frozenset()
    return frozenset(folder.name for folder in Path("/usr/share/festival/voices").glob("*/*"))


@dataclass(frozen=True)
class Manner:
    """How a voice speaks. stretch: factor of all durations. pitch: factor of the mean pitch. range: of its range."""

    stretch: float = 1.0
    pitch: float = 1.0
    range: float = 1.0


def speak(text: str, voice: RecordedVoice, manner: Manner = Manner(), tract: float = 1.0) -> Take:
    """Synthesise a text. tract: playback speed, as in `speech.speak`.

    Raises ValueError if the program produces no sound, or phones that do not fit the sound.
    """
    with tempfile.TemporaryDirectory() as folder:
        make = _with_flite if voice.program == "flite" else _with_festival
        sound, listed = make(text, voice, manner, Path(folder))
        rate, heard = wavfile.read(sound) if sound.is_file() else (RATE, np.zeros(0, np.int16))
    if not len(heard) or not listed:
        raise ValueError(f"{voice.program} with the voice {voice.name} produced no sound for {text!r}.")
    samples = soxr.resample(heard.astype(np.float32) / 32768, rate * tract, RATE)
    samples = samples[: len(samples) // HOP * HOP]
    seconds = len(samples) / RATE
    ends = [min(end / tract, seconds) for _, end in listed]
    if ends != sorted(ends):
        raise ValueError(f"{voice.program} with the voice {voice.name} reported times that run backwards.")
    spoken = [
        Phone(_ipa(symbol, voice.language), start, end)
        for (symbol, _), start, end in zip(listed, [0.0, *ends], ends, strict=False)
        if end > start
    ]
    if ends[-1] < seconds:
        spoken.append(Phone("", ends[-1], seconds))
    phones = tuple(_with_releases(spoken, samples))
    return Take(samples, lip_curves(phones, samples), phones)


def _with_flite(text: str, voice: RecordedVoice, manner: Manner, folder: Path) -> tuple[Path, list[tuple[str, float]]]:
    """The sound file, and (phone, end in seconds) of what is spoken."""
    sound = folder / "sound.wav"
    command = ["flite", "-voice", voice.name, "-psdur", "--setf", f"duration_stretch={manner.stretch:.3f}"]
    if voice.pitch:
        command += ["--setf", f"int_f0_target_mean={voice.pitch * manner.pitch:.1f}"]
        command += ["--setf", f"int_f0_target_stddev={0.14 * voice.pitch * manner.range:.1f}"]
    command += ["-o", str(sound), "-t", text]
    # A pipe, not text mode: flite writes the texts of some phones in other encodings.
    listed = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False).stdout.decode("latin-1")
    pairs = [part.rpartition(":") for part in listed.split() if ":" in part]
    return sound, [(name, float(end)) for name, _, end in pairs]


def _with_festival(
    text: str, voice: RecordedVoice, manner: Manner, folder: Path
) -> tuple[Path, list[tuple[str, float]]]:
    """As `_with_flite`."""
    sound, segments, script = folder / "sound.wav", folder / "phones.txt", folder / "say.scm"
    quoted = text.replace("\\", " ").replace('"', " ")
    lines = [f"(voice_{voice.name})", f"(Parameter.set 'Duration_Stretch {manner.stretch:.3f})"]
    if voice.pitch:
        mean, spread = voice.pitch * manner.pitch, 0.14 * voice.pitch * manner.range
        model = "(model_f0_mean 170) (model_f0_std 34)"
        lines.append(f"(set! int_lr_params '((target_f0_mean {mean:.1f}) (target_f0_std {spread:.1f}) {model}))")
    lines += [
        f'(set! said (utt.synth (Utterance Text "{quoted}")))',
        f'(utt.save.wave said "{sound}" \'riff)',
        f'(utt.save.segs said "{segments}")',
    ]
    script.write_text("\n".join(lines), encoding=voice.encoding, errors="ignore")
    subprocess.run(["festival", "-b", str(script)], capture_output=True, timeout=TIMEOUT, check=False)
    if not segments.is_file():
        return sound, []
    rows = [line.split() for line in segments.read_text(encoding="latin-1").splitlines() if not line.startswith("#")]
    return sound, [(row[2], float(row[0])) for row in rows if len(row) == 3]


def _ipa(symbol: str, language: str) -> str:
    """A phone of a voice in IPA; "" for pauses. The marks of stress and length are ignored."""
    if symbol in _PAUSES:
        return ""
    plain = symbol.rstrip("012:") or symbol
    return _TABLES[language].get(plain, plain)


def _with_releases(phones: list[Phone], samples: np.ndarray) -> list[Phone]:
    """The phones, with voiceless stops split at their burst: then there is aspiration, with the mouth open ("h")."""
    level = 20 * np.log10(level_of(samples) + 1e-5)
    out: list[Phone] = []
    for phone, following in zip(phones, [*phones[1:], Phone("", 0, 0)], strict=True):
        first, last = round(phone.start * CURVE_FPS), round(phone.end * CURVE_FPS)
        if len(phone.symbol) != 1 or phone.symbol not in _VOICELESS or not following.symbol or last - first < 6:
            out.append(phone)
            continue
        inside = level[first:last]
        quietest = first + int(np.argmin(inside))
        loud = np.flatnonzero(level[quietest:last] > inside.min() + 12)
        release = (quietest + int(loud[0]) if len(loud) else last - 1) / CURVE_FPS + 0.01
        out.append(Phone(phone.symbol, phone.start, min(release, phone.end)))
        if release < phone.end:
            out.append(Phone("h", release, phone.end))
    return out


def random_manner(rng: np.random.Generator) -> Manner:
    """A random manner of speaking; one in seven sings: slow, high and with little change of pitch."""
    if rng.random() < 0.15:
        return Manner(rng.uniform(1.6, 3.0), 2 ** rng.uniform(-0.2, 1.2), rng.uniform(0.0, 0.5))
    return Manner(rng.uniform(0.75, 1.5), 2 ** rng.uniform(-0.5, 0.6), rng.uniform(0.3, 2.5))


def take(rng: np.random.Generator, voices: tuple[RecordedVoice, ...] = TRAINING, seconds: float = 6.0) -> Take:
    """As `speech.take`, with a random voice of `voices`, which must be installed."""
    voice = voices[rng.integers(len(voices))]
    manner, tract = random_manner(rng), float(rng.uniform(0.84, 1.25))
    own = [text for language, text in sentences() if language[:2] == voice.language[:2]]

    def line() -> str:
        return invented_words(rng, int(rng.integers(2, 6))) if rng.random() < 0.3 else str(rng.choice(own))

    return conversation(rng, lambda: speak(line(), voice, manner, tract), seconds)
