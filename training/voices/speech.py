"""Synthetic speech with mouth curves: espeak-ng's phoneme timing, visemes, co-articulation, microphones.

A take is 16 kHz sound and the starter bank's 20 lip units over time. No recordings are involved: espeak-ng reads our
own sentences (`speech.txt`) and invented words in many voices, and reports when each phoneme starts.
"""

from __future__ import annotations

import ctypes
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from scipy import fft
from scipy.ndimage import gaussian_filter1d, uniform_filter1d
from scipy.signal import butter, fftconvolve, sosfilt

from inference.lipsync import speech_level

from ..units import LIP

RATE = 16_000
CURVE_FPS = 200

# Voice variants that sound human; HELD_OUT_VARIANTS are kept for evaluation. Without "rob", with which espeak-ng 1.51
# crashes in Italian.
# fmt: off
VARIANTS = (
    "m1", "m2", "m3", "m4", "m5", "m6", "m8", "f1", "f2", "f3", "f5", "klatt", "klatt2", "klatt3", "klatt4", "klatt6",
    "croak", "grandma", "grandpa", "adam", "Alex", "Andrea", "Andy", "Annie", "antonio", "aunty", "belinda",
    "benjamin", "boris", "caleb", "david", "Denis", "ed", "edward", "gene", "Henrique", "Hugo", "Jacky", "john",
    "kaukovalta", "linda", "marcelo", "Marco", "Michael", "michel", "miguel", "Mike", "pablo", "paul", "pedro",
    "quincy", "robert", "steph", "steph2", "travis", "victor", "zac",
)
# fmt: on
HELD_OUT_VARIANTS = ("m7", "f4", "klatt5", "Alicia", "Lee", "Diogo")


@dataclass(frozen=True)
class Voice:
    """A voice of espeak-ng: language, variant ("" for none), words per minute, pitch and pitch range 0..100."""

    language: str = "en-us"
    variant: str = ""
    speed: int = 165
    pitch: int = 50
    pitch_range: int = 50
    word_gap: int = 0  # extra pause between words, in units of 10 ms


@dataclass(frozen=True)
class Phone:
    """One phoneme in IPA ("" is a pause), from `start` to `end` in seconds."""

    symbol: str
    start: float
    end: float


@dataclass(frozen=True)
class Take:
    """samples: (n,) float32 at 16 kHz; curves: (m, 20) float32 in 0..1, 200 rows per second; phones as spoken.

    Phones include the closures of stops. They cover speech and pauses; the symbol of a pause is empty.
    """

    samples: np.ndarray
    curves: np.ndarray
    phones: tuple[Phone, ...] = ()


# ---------------------------------------------------------------------------------------------------- espeak-ng


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """espeak_EVENT of espeak-ng's speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
_SYNCHRONOUS, _PHONEME_EVENTS_IPA, _DONT_EXIT, _UTF8 = 2, 0x0003, 0x8000, 1
_PHONEME_EVENT, _END_OF_LIST = 7, 0
_SPEED, _PITCH, _RANGE, _WORD_GAP = 1, 3, 4, 7


class _Espeak:
    """The espeak-ng library. One instance per process; not thread-safe. Raises RuntimeError if it is missing."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libespeak-ng.so.1")
        except OSError as error:
            raise RuntimeError("Training lip-sync needs espeak-ng. Run `apt-get install espeak-ng`.") from error
        self.rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS_IPA | _DONT_EXIT)
        if self.rate <= 0:
            raise RuntimeError("espeak-ng cannot start because its data files are missing. Reinstall espeak-ng.")
        self._sound: list[np.ndarray] = []
        self._phones: list[tuple[int, str]] = []
        self._callback = _SYNTH_CALLBACK(self._receive)  # keeps it alive: the library holds only a pointer
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, wave: Any, count: int, events: Any) -> int:
        if wave and count > 0:
            self._sound.append(np.ctypeslib.as_array(wave, (count,)).copy())
        index = 0
        while events[index].type != _END_OF_LIST:
            if events[index].type == _PHONEME_EVENT:
                name = ctypes.string_at(ctypes.addressof(events[index].id), 8).split(b"\0")[0]
                self._phones.append((events[index].sample, name.decode("utf-8", "ignore")))
            index += 1
        return 0

    def __call__(self, text: str, voice: Voice) -> tuple[np.ndarray, list[tuple[int, str]]]:
        """Sound (n,) int16 at `rate`, and (sample, IPA symbol) of the start of each phoneme.

        Raises ValueError if the voice does not exist.
        """
        self._sound.clear()
        self._phones.clear()
        name = f"{voice.language}+{voice.variant}" if voice.variant else voice.language
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {name}.")
        for parameter, value in (
            (_SPEED, voice.speed),
            (_PITCH, voice.pitch),
            (_RANGE, voice.pitch_range),
            (_WORD_GAP, voice.word_gap),
        ):
            self._library.espeak_SetParameter(parameter, value, 0)
        data = text.encode() + b"\0"
        self._library.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 1, 0, _UTF8, None, None)
        return np.concatenate(self._sound or [np.zeros(0, np.int16)]), list(self._phones)


@cache
def _espeak() -> _Espeak:
    return _Espeak()


def speak(text: str, voice: Voice = Voice(), tract: float = 1.0) -> Take:
    """Synthesise a text. tract: playback speed, which shifts the formants like another length of the vocal tract.

    Raises ValueError if espeak-ng produces no sound.
    """
    espeak = _espeak()
    sound, events = espeak(text, voice)
    if not len(sound):
        raise ValueError(f"espeak-ng produced no sound for {text!r}.")
    rate = espeak.rate * tract
    samples = soxr.resample(sound.astype(np.float32) / 32768, rate, RATE)
    samples = samples[: len(samples) // _ENVELOPE_HOP * _ENVELOPE_HOP]  # whole rows, so that takes can be joined
    starts = [sample / rate for sample, _ in events] + [len(sound) / rate]
    spoken = [
        Phone(symbol, start, end)
        for (_, symbol), start, end in zip(events, starts, starts[1:], strict=False)
        if end > start
    ]
    if spoken and spoken[0].start > 0:
        spoken.insert(0, Phone("", 0.0, spoken[0].start))
    phones = tuple(_with_closures(spoken, samples))
    return Take(samples, lip_curves(phones, samples), phones)


# ------------------------------------------------------------------------------------------- phonemes to mouths

_STOPS = tuple("pbtdkɡgcɟqʔʈɖ")
_ENVELOPE_HOP = RATE // CURVE_FPS
_BREATH_BAND = butter(1, (400, 4000), "band", fs=RATE, output="sos")


def level_of(samples: np.ndarray) -> np.ndarray:
    """Root mean square (m,) of each 5 ms of sound."""
    whole = samples[: len(samples) // _ENVELOPE_HOP * _ENVELOPE_HOP].reshape(-1, _ENVELOPE_HOP)
    return np.sqrt(np.square(whole, dtype=np.float64).mean(axis=1))


def _with_closures(phones: list[Phone], samples: np.ndarray) -> list[Phone]:
    """The phones, with the start of each stop moved from its burst, which espeak-ng reports, to its closure.

    After the burst of a voiceless stop there is aspiration, during which the mouth opens already ("h").
    """
    level = level_of(samples)
    adjusted: list[Phone] = []
    for phone in phones:
        if phone.symbol[:1] not in _STOPS:
            adjusted.append(phone)
            continue
        earliest = max(phone.start - 0.12, adjusted[-1].start + 0.03 if adjusted else 0.0)
        if adjusted and adjusted[-1].symbol[:1] in _STOPS:
            earliest = phone.start  # the silence before it belongs to the previous stop
        row = min(int(phone.start * CURVE_FPS), len(level) - 1)
        quiet = 0.2 * level[max(0, row - 40) : row + 1].max(initial=0.0)
        while row > 0 and (row - 1) / CURVE_FPS >= earliest and level[row - 1] <= quiet:
            row -= 1
        start = min(phone.start, row / CURVE_FPS)
        if adjusted:
            adjusted[-1] = Phone(adjusted[-1].symbol, adjusted[-1].start, start)
        voiceless = phone.symbol[0] in "ptkcqʈ" and len(phone.symbol) == 1
        release = phone.start + 0.012 if voiceless else phone.end
        adjusted.append(Phone(phone.symbol, start, min(release, phone.end)))
        if release < phone.end:
            adjusted.append(Phone("h", release, phone.end))
    return adjusted


@dataclass(frozen=True)
class Viseme:
    """A mouth shape. weight: influence relative to its neighbours. firm: whether it must be reached (lips meet)."""

    shape: dict[str, float]
    weight: float = 1.0
    firm: bool = False


def _visemes() -> dict[str, Viseme]:
    """Visemes by IPA letter. Amounts were chosen by observation; the units are ARKit's."""
    table: dict[str, Viseme] = {}

    def add(letters: str, weight: float, firm: bool = False, **shape: float) -> None:
        table.update(dict.fromkeys(letters, Viseme(shape, weight, firm)))

    add("aɑɐ", 1.0, jawOpen=0.68, mouthLowerDown=0.35, mouthUpperUp=0.2)
    add("æ", 1.0, jawOpen=0.62, mouthLowerDown=0.4, mouthUpperUp=0.25, mouthStretch=0.2)
    add("ʌɜ3", 1.0, jawOpen=0.48, mouthLowerDown=0.25, mouthUpperUp=0.15)
    add("əɚɘɵᵻ", 0.6, jawOpen=0.32, mouthLowerDown=0.18, mouthUpperUp=0.08)
    add("ɛ", 1.0, jawOpen=0.46, mouthLowerDown=0.35, mouthUpperUp=0.2, mouthStretch=0.22, mouthDimple=0.1)
    add("e", 1.0, jawOpen=0.36, mouthLowerDown=0.3, mouthUpperUp=0.15, mouthStretch=0.3, mouthDimple=0.15)
    add("iɨ", 1.0, jawOpen=0.2, mouthLowerDown=0.28, mouthUpperUp=0.14, mouthStretch=0.42, mouthDimple=0.22)
    add("ɪ", 0.9, jawOpen=0.26, mouthLowerDown=0.25, mouthUpperUp=0.12, mouthStretch=0.28, mouthDimple=0.12)
    add("œøɞ", 1.0, jawOpen=0.34, mouthFunnel=0.45, mouthPucker=0.3)
    add("ɒɔ", 1.0, jawOpen=0.54, mouthFunnel=0.45, mouthPucker=0.15, mouthLowerDown=0.1)
    add("oɤ", 1.0, jawOpen=0.42, mouthFunnel=0.45, mouthPucker=0.4)
    add("uʊyʏʉɯ", 1.0, jawOpen=0.2, mouthFunnel=0.3, mouthPucker=0.68)

    add("pbm", 0.5, True, jawOpen=0.03, mouthPress=0.3, mouthRollLower=0.14, mouthRollUpper=0.1)
    add("fv", 0.6, True, jawOpen=0.09, mouthRollLower=0.55, mouthUpperUp=0.25, mouthShrugUpper=0.08)
    add("βɸʋⱱ", 0.5, True, jawOpen=0.08, mouthPress=0.1, mouthRollLower=0.12)
    add("wʍɥ", 0.9, True, jawOpen=0.12, mouthFunnel=0.3, mouthPucker=0.78)
    add("ʃʒʂʐɕʑ", 1.0, jawOpen=0.13, mouthFunnel=0.5, mouthPucker=0.22, mouthLowerDown=0.18, mouthUpperUp=0.16)
    add("sz", 1.0, jawOpen=0.08, mouthLowerDown=0.24, mouthUpperUp=0.1, mouthStretch=0.22, mouthDimple=0.08)
    add("θð", 0.7, jawOpen=0.16, mouthLowerDown=0.16, mouthUpperUp=0.06, tongueOut=0.12)
    add("tdnlɾɫʈɖɳɭ", 0.5, jawOpen=0.15, mouthLowerDown=0.14, mouthUpperUp=0.05)
    add("ɹɻ", 0.6, jawOpen=0.18, mouthFunnel=0.28, mouthPucker=0.18)
    add("rʀʁɣʎɲ", 0.35, jawOpen=0.2, mouthLowerDown=0.1)
    add("jʝ", 0.5, jawOpen=0.16, mouthLowerDown=0.2, mouthStretch=0.25, mouthDimple=0.12)
    add("kɡgŋxχcɟqh ɦʔ", 0.2, jawOpen=0.22, mouthLowerDown=0.1)
    return table


VISEMES = _visemes()
_NAMES = tuple(unit.name for unit in LIP)
_BLEND_SIGMA = 0.034 * CURVE_FPS  # co-articulation: each sound affects about 70 ms on either side
_FIRM_SIGMA = 0.014 * CURVE_FPS  # lips move faster than the jaw
_SHORT_PAUSE = 0.14  # below this the mouth does not come to rest
_OPENS_BEFORE, _CLOSES_AFTER = 0.09, 0.13
_PAUSE = Viseme({}, 0.4)
_UNKNOWN = Viseme({"jawOpen": 0.25, "mouthLowerDown": 0.12}, 0.2)


def _shape(viseme: Viseme) -> np.ndarray:
    return np.array([viseme.shape.get(name, 0.0) for name in _NAMES])


def _segments(phones: Iterable[Phone]) -> Iterable[tuple[Viseme, float, float]]:
    """Visemes with their times; diphthongs and affricates are several in a row, the longest first."""
    for phone in phones:
        letters = [letter for letter in unicodedata.normalize("NFD", phone.symbol) if letter in VISEMES]
        visemes = [VISEMES[letter] for letter in letters] or [_UNKNOWN if phone.symbol else _PAUSE]
        shares = np.array([1.5] + [1.0] * (len(visemes) - 1))
        edges = phone.start + (phone.end - phone.start) * np.cumsum(np.r_[0.0, shares / shares.sum()])
        yield from zip(visemes, edges[:-1], edges[1:], strict=True)


def lip_curves(phones: Iterable[Phone], samples: np.ndarray) -> np.ndarray:
    """The 20 lip units (m, 20) float32 in 0..1, 200 rows per second, for phones as spoken in `samples` at 16 kHz.

    Neighbouring shapes are blended by their weights under a Gaussian (co-articulation); firm shapes, where lips meet,
    are then added with a narrower one. Loud sounds open the mouth wider. In pauses all units are exactly 0, except
    while the mouth opens and closes.
    """
    phones = tuple(phones)
    rows = len(samples) // _ENVELOPE_HOP
    target, weight = np.zeros((rows, len(LIP))), np.zeros((rows, 1))
    firm_target, firm = np.zeros((rows, len(LIP))), np.zeros((rows, 1))
    for viseme, start, end in _segments(phones):
        span = slice(round(start * CURVE_FPS), round(end * CURVE_FPS))
        target[span], weight[span] = _shape(viseme), viseme.weight
        if viseme.firm:
            firm_target[span], firm[span] = _shape(viseme), 1.0

    blended = _blur(target * weight, _BLEND_SIGMA) / np.maximum(_blur(weight, _BLEND_SIGMA), 1e-6)
    blended *= np.where(np.isin(_NAMES, ("jawOpen", "mouthLowerDown", "mouthUpperUp")), _effort(samples), 1.0)
    mask = _blur(firm, _FIRM_SIGMA)
    firm_shape = _blur(firm_target, _FIRM_SIGMA) / np.maximum(mask, 1e-6)
    # Blurring lowers the peak of a 60 ms closure to 0.97; the gain makes it reach 1.
    mask = np.clip(1.15 * mask, 0, 1)
    mouth = (1 - mask) * blended + mask * firm_shape
    return (mouth * _activity(phones, rows)).clip(0, 1).astype(np.float32)


def _blur(rows: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter1d(rows, sigma, axis=0, mode="nearest")


def _effort(samples: np.ndarray) -> np.ndarray:
    """(m, 1) factor of the mouth opening by loudness, 0.12 to 1.3; 1 at the mean level of the speech.

    People lower the jaw further for louder syllables, and hardly for unstressed ones and for consonants. The factor
    grows faster than the level, because compressed recordings keep little of the difference.
    """
    level = gaussian_filter1d(level_of(samples), 0.025 * CURVE_FPS)
    return np.clip((level / 10 ** (speech_level(samples) / 20)) ** 1.3, 0.12, 1.3)[:, None]


def _activity(phones: Iterable[Phone], rows: int) -> np.ndarray:
    """(m, 1): 1 in speech, exactly 0 in pauses, with smooth transitions."""
    speaking = np.zeros(rows, bool)
    for phone in phones:
        if phone.symbol or phone.end - phone.start < _SHORT_PAUSE:
            speaking[round(phone.start * CURVE_FPS) : round(phone.end * CURVE_FPS)] = True
    index = np.arange(rows)
    last = np.maximum.accumulate(np.where(speaking, index, -rows))
    following = np.minimum.accumulate(np.where(speaking, index, 2 * rows)[::-1])[::-1]
    after = 1 - (index - last) / (_CLOSES_AFTER * CURVE_FPS)
    before = 1 - (following - index) / (_OPENS_BEFORE * CURVE_FPS)
    near = np.clip(np.maximum(after, before), 0, 1)
    return (near * near * (3 - 2 * near))[:, None]


# ------------------------------------------------------------------------------------------------ texts and voices


@cache
def sentences() -> tuple[tuple[str, str], ...]:
    """(language, text) of every line of `speech.txt`."""
    lines = Path(__file__).with_name("speech.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("\t", 1) for line in lines if line and not line.startswith("#"))
    return tuple((language, text) for language, text in pairs)


def invented_words(rng: np.random.Generator, count: int) -> str:
    """`count` invented words with many lip sounds, so that all pairs of consonant and vowel occur."""
    onsets = (
        "p",
        "b",
        "m",
        "f",
        "v",
        "w",
        "p",
        "b",
        "m",
        "t",
        "d",
        "n",
        "s",
        "l",
        "r",
        "k",
        "sh",
        "ch",
        "j",
        "th",
        "h",
        "y",
    )
    nuclei = ("a", "e", "i", "o", "u", "aa", "ee", "oo", "ou", "ai", "oi", "ar", "or")
    codas = ("", "", "", "", "m", "n", "p", "b", "f", "s", "t", "l", "k")

    def word() -> str:
        return "".join(rng.choice(onsets) + rng.choice(nuclei) + rng.choice(codas) for _ in range(rng.integers(1, 4)))

    return " ".join(word() for _ in range(count)) + str(rng.choice([".", ",", "?", "!"]))


def random_voice(rng: np.random.Generator, language: str, variants: Iterable[str] = VARIANTS) -> Voice:
    """A random voice of the language; one in eight is slow and high, as in singing."""
    sings = rng.random() < 0.12
    return Voice(
        language,
        str(rng.choice(list(variants))),
        speed=int(rng.integers(80, 100) if sings else rng.integers(115, 225)),
        pitch=int(rng.integers(70, 100) if sings else rng.integers(15, 85)),
        pitch_range=int(rng.integers(20, 90)),
        word_gap=int(rng.choice([0, 0, 0, 1, 4, 12])),
    )


def take(rng: np.random.Generator, variants: Iterable[str] = VARIANTS, seconds: float = 6.0) -> Take:
    """At least `seconds` of one speaker, without noise: sentences or invented words with pauses between them.

    The same generator state gives the same words and voice. The samples may differ slightly, because espeak-ng keeps
    state between calls.
    """
    language, _ = sentences()[rng.integers(len(sentences()))]
    voice = random_voice(rng, language, variants)
    tract = float(rng.uniform(0.84, 1.2))
    own = [text for spoken, text in sentences() if spoken == language]

    def line() -> str:
        return invented_words(rng, int(rng.integers(2, 6))) if rng.random() < 0.3 else str(rng.choice(own))

    return conversation(rng, lambda: speak(line(), voice, tract), seconds)


def conversation(rng: np.random.Generator, say: Callable[[], Take], seconds: float) -> Take:
    """At least `seconds` of the lines that `say` returns, at slightly different levels, with pauses around them."""
    parts: list[Take] = [_pause(rng, 0.7, shortest=0.2)]
    while sum(len(part.samples) for part in parts) < seconds * RATE:
        spoken = say()
        emphasis = np.float32(10 ** rng.uniform(-0.25, 0.1))
        parts += [replace(spoken, samples=spoken.samples * emphasis), _pause(rng, 1.2)]
    whole = joined(parts)
    return replace(whole, curves=lip_curves(whole.phones, whole.samples))  # a louder line opens the mouth wider


def joined(parts: Sequence[Take]) -> Take:
    """The takes in sequence; times of phones count from the start of the first one."""
    starts = np.cumsum([0, *(len(part.samples) for part in parts)]) / RATE
    return Take(
        np.concatenate([part.samples for part in parts]),
        np.concatenate([part.curves for part in parts]),
        tuple(
            replace(phone, start=phone.start + start, end=phone.end + start)
            for part, start in zip(parts, starts, strict=False)
            for phone in part.phones
        ),
    )


def _pause(rng: np.random.Generator, longest: float, shortest: float = 0.1) -> Take:
    """`shortest` to `longest` seconds of silence, sometimes with a breath; the mouth rests."""
    rows = round(rng.uniform(shortest, longest) * CURVE_FPS)
    samples = np.zeros(rows * _ENVELOPE_HOP)
    if rng.random() < 0.3:
        breath = np.sin(np.linspace(0, np.pi, len(samples))) ** 2 * 10 ** rng.uniform(-3, -1.6)
        samples += breath * sosfilt(_BREATH_BAND, coloured_noise(rng, len(samples), 1.0))
    silence = Phone("", 0.0, rows / CURVE_FPS)
    return Take(samples.astype(np.float32), np.zeros((rows, len(LIP)), np.float32), (silence,))


# -------------------------------------------------------------------------------------------------- recordings


def recording(rng: np.random.Generator, variants: Iterable[str] = VARIANTS, seconds: float = 6.0) -> Take:
    """One training example: a take with microphone effects, or, one in twelve, a room without speech."""
    if rng.random() < 1 / 12:
        count = round(seconds * CURVE_FPS) * _ENVELOPE_HOP
        room = coloured_noise(rng, count, rng.uniform(0, 2)) * rng.choice([0.0, 10 ** rng.uniform(-5, -1.3)])
        rest = np.zeros((count // _ENVELOPE_HOP, len(LIP)), np.float32)
        return Take(room.astype(np.float32), rest, (Phone("", 0.0, count / RATE),))
    return recorded_with_microphone(take(rng, variants, seconds), rng)


def recorded_with_microphone(made: Take, rng: np.random.Generator) -> Take:
    """The take as a random microphone hears it, with noise; same length and phones.

    The effort of the mouth follows the level that is heard: the network cannot know which frequencies the microphone
    emphasised, and artists expect the mouth to follow what they hear and see in the waveform.
    """
    heard = microphone(made.samples, rng)
    return replace(made, samples=with_noise(heard, rng), curves=lip_curves(made.phones, heard))


def augment(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Samples (n,) at 16 kHz as a random microphone hears them, with noise, see `microphone` and `with_noise`."""
    return with_noise(microphone(samples, rng), rng)


def microphone(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Samples (n,) at 16 kHz with the effects of a random microphone and room; same length and timing.

    Breathiness, equalisation, reverberation, band limits, compression and level, each applied at random.
    """
    out = samples.astype(np.float64)
    envelope = uniform_filter1d(np.abs(out), 160)
    if rng.random() < 0.5:  # real voices are noisier than synthetic ones
        out += coloured_noise(rng, len(out), 0.0) * envelope * 10 ** rng.uniform(-1.3, -0.3)
    if rng.random() < 0.9:
        out = _equalise(out, rng)
    if rng.random() < 0.5:
        out = reverberate(out, rng)
    if rng.random() < 0.35:
        out = sosfilt(butter(4, rng.uniform(2800, 7500), "low", fs=RATE, output="sos"), out)
    if rng.random() < 0.5:
        out = sosfilt(butter(2, rng.uniform(50, 300), "high", fs=RATE, output="sos"), out)
    peak = np.abs(out).max() or 1.0
    if rng.random() < 0.3:
        drive = rng.uniform(0.5, 3.0)
        out = np.tanh(drive * out / peak) / np.tanh(drive)
        peak = 1.0
    return out * (10 ** (rng.uniform(-26, -0.5) / 20) / peak)


def with_noise(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Samples (n,) at 16 kHz with noise and hum, each added at random, as float32 quantised to 16 bits."""
    out = samples.copy()
    level = np.sqrt(np.mean(np.square(out)))
    if rng.random() < 0.85:
        out += coloured_noise(rng, len(out), rng.uniform(0, 2)) * level * 10 ** (-rng.uniform(8, 60) / 20)
    if rng.random() < 0.25:
        hum = rng.choice([50.0, 60.0]) * rng.integers(1, 4)
        out += np.sin(2 * np.pi * hum * np.arange(len(out)) / RATE) * level * 10 ** (-rng.uniform(15, 45) / 20)
    out = np.clip(out, -1, 1)
    return (np.round(out * 32767) / 32768).astype(np.float32)


def coloured_noise(rng: np.random.Generator, count: int, slope: float) -> np.ndarray:
    """(count,) noise of unit level. slope: exponent by which power falls with frequency; 0 white, 1 pink, 2 brown."""
    size = fft.next_fast_len(count, real=True)
    spectrum = fft.rfft(rng.standard_normal(size))
    spectrum *= np.maximum(fft.rfftfreq(size, 1 / RATE), 40.0) ** (-slope / 2)
    noise = fft.irfft(spectrum, size)[:count]
    return noise / noise.std()


def _equalise(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A smooth random frequency response: a tilt, +-8 dB at eight points, one per octave, and sometimes more bass.

    Close microphones and broadcast processing raise the lowest frequencies of a voice by up to 12 dB.
    """
    octaves = np.linspace(0, 7, 8)
    points = rng.uniform(-8, 8, 8) * rng.uniform(0.2, 1) + rng.uniform(-2.5, 2.5) * (octaves - 3.5)
    if rng.random() < 0.4:
        points[:3] += rng.uniform(3, 12) * np.array([1.0, 1.0, 0.5])
    size = fft.next_fast_len(len(samples), real=True)
    frequency = np.maximum(fft.rfftfreq(size, 1 / RATE), 1.0)
    decibel = np.interp(np.log2(frequency / 62.5), octaves, points)
    return fft.irfft(fft.rfft(samples, size) * 10 ** (decibel / 20), size)[: len(samples)]


def reverberate(
    samples: np.ndarray,
    rng: np.random.Generator,
    decays: tuple[float, float] = (0.08, 0.7),
    levels: tuple[float, float] = (-25.0, -2.0),
) -> np.ndarray:
    """Reverberation after the direct sound, so that the timing stays.

    decays: range of the time to fall by 60 dB, in seconds; levels: range of the tail's level, in dB.
    """
    decay = rng.uniform(*decays)
    time = np.arange(int(decay * RATE)) / RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / decay)
    tail[: int(rng.uniform(0.002, 0.02) * RATE)] = 0
    tail *= 10 ** (rng.uniform(*levels) / 20) / np.sqrt(np.square(tail).sum())
    tail[0] = 1
    return fftconvolve(samples, tail)[: len(samples)]
