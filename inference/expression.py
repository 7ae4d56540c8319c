"""Emotion from speech: strengths of seven emotions over time, from the voice and from the words that are said.

The sound is divided into phrases. Each gets features of its voice (`prosody`) and of its words (`sentiment`), and
Audio2Expression gives the strengths of its emotions. The strongest is kept; without words only if it is clear. A result
is a suggestion for an artist: the words decide the kind of the emotion, the voice changes its strength.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .contract.errors import EDTalkError
from .contract.expression import EASE, EMOTIONS, LEAST_STRENGTH, LONGEST_TEXT, RISE, SpokenText, Suggestion, as_source
from .media.sound import RATE
from .media.speech import Speech
from .model.audio2expression import Audio2Expression
from .model.load import AUDIO2EXPRESSION, NetworkBank, own_or_starter_network
from .motion import SHORTEST
from .prosody import FPS, Prosody, cached_prosody
from .sentiment import FEATURES as WORD_FEATURES
from .sentiment import RATE_LIMIT, Sentence, features, is_english, read_text
from .speech_detection import LEAST_VOICED, has_speech
from .upper_face import phrase_envelope

VOICE_COLUMNS = (
    "energy", "energySlope", "pitch", "pitchSlope", "voicing", "flux", "timbre1", "timbre2", "accent",
)  # fmt: skip
VOICE_FEATURES = 5 * len(VOICE_COLUMNS) + 3
PAUSE = 0.25  # seconds; shorter pauses do not end a phrase
SHORTEST_PHRASE, LONGEST_PHRASE, CUT = 0.6, 6.0, 4.0  # seconds; longer phrases are cut every 4 s
SENTENCE_CUT = 2.5  # seconds; longer phrases are also cut between sentences
LEAST_FROM_VOICE = 0.5  # strength of an emotion of a sound without words; calm voices of people reach 0.48
NOT_HEARD = ("contempt",)  # emotions that a voice alone does not show
_NEAR = 0.4  # seconds around a cut in which the quietest moment is taken
_PITCH = ("pitch", "pitchSlope")  # columns that count where there is a pitch


@dataclass(frozen=True, eq=False)
class Emotions:
    """Emotions of a sound.

    rows: (T, 7) float32, strength from 0 to 1 of each of `contract.expression.EMOTIONS`. suggestions: the same as
    stretches of speech. note: a sentence about what could not be used, else "". expression: (T, m) float32, expression
    coefficients to be added to the neutral preset, from a bank that was trained for them; else None.
    """

    rows: np.ndarray
    suggestions: tuple[Suggestion, ...] = ()
    note: str = ""
    expression: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Brought:
    """Features of a voice that another program made. times: (n,) seconds of the sound. rows: (n, d)."""

    times: np.ndarray
    rows: np.ndarray


def emotions(
    bank: NetworkBank,
    samples: np.ndarray | Speech,
    times: np.ndarray,
    texts: Sequence[SpokenText] = (),
    *,
    source: str = "both",
    brought: Brought | None = None,
) -> Emotions:
    """Emotions at `times` (T,) in seconds of a sound.

    samples: the whole sound (n,), 16 kHz mono. texts: what is said, in English. source: "both", "voice" or "words".
    brought: features that replace those of the voice, for a bank that was trained with such features.
    Raises EDTalkError for times that are not finite, a sound below 0.5 s (kind "media"), a bank without the network
    (kind "bank"), and brought features that do not fit.
    """
    as_source(source)
    times = np.asarray(times, np.float64).reshape(-1)
    if not np.isfinite(times).all():
        raise EDTalkError("Frame times must be finite numbers of seconds, found NaN or infinity.")
    if len(samples) < SHORTEST * RATE:
        found = f"{len(samples) / RATE:.2f} s"
        raise EDTalkError(f"Emotion needs a sound of at least {SHORTEST} s, found {found}.", kind="media")
    model = network_of(bank, brought)
    voice = cached_prosody(samples)
    nothing = np.zeros((len(times), len(EMOTIONS)), np.float32)
    given = any(text.text.strip() for text in texts)  # who gives words knows that there is speech
    if not (voice.voiced_share >= LEAST_VOICED if given else has_speech(voice)):
        return Emotions(nothing, note="No speech was heard in the sound, so no emotion was detected.")
    phrases, words, note = phrases_and_words(voice, texts if source != "voice" else ())
    has_words = np.array([row is not None for row in words])
    if source == "words" and not has_words.any():
        return Emotions(nothing, note=note or "There is no text, so no emotion was detected.")
    table = np.stack([np.zeros(len(WORD_FEATURES)) if row is None else row for row in words])
    heard = brought_rows(brought, phrases) if brought else voice_rows(voice, phrases)
    strengths, weights = _strengths(model, heard, table, source != "words", has_words)
    strengths[np.ix_(~has_words, np.isin(EMOTIONS, NOT_HEARD))] = 0
    strengths[~has_words & (strengths.max(axis=1) < LEAST_FROM_VOICE)] = 0
    suggestions = merged(phrases, strengths)
    if not note and not has_words.any() and not suggestions:
        note = "The voice alone shows no clear emotion. Text in English helps."
    rows = nothing.copy()
    for one in suggestions:
        near = (times > one.start - RISE) & (times < one.end + EASE)
        column = rows[:, EMOTIONS.index(one.kind)]
        column[near] = np.maximum(column[near], one.strength * phrase_envelope(times[near], one.start, one.end))
    expression = None if weights is None else _over_time(times, phrases, weights)
    return Emotions(rows, suggestions, note, expression)


def network_of(bank: NetworkBank, brought: Brought | None = None) -> Audio2Expression:
    """The network of a bank, or that of the starter bank: its strengths are for presets, which any bank may have.

    Raises EDTalkError (kind "bank") if neither has one, or if it does not take the brought features.
    """
    model = own_or_starter_network(bank, AUDIO2EXPRESSION, "emotion (Audio2Expression)")
    assert isinstance(model, Audio2Expression)
    expected, found = model.config.brought, brought.rows.shape[1] if brought else 0
    if expected != found:
        wants = f"features of {expected} numbers" if expected else "no features, only sounds"
        gets = f"features of {found} numbers" if found else "none"
        message = f"The network for emotion takes {wants}; found {gets}."
        raise EDTalkError(message, "Use a bank that was trained with these features.", "bank")
    return model


def check_brought(brought: Brought, duration: float) -> None:
    """Raise EDTalkError for features that are not finite, out of order or do not cover a sound of `duration` s."""
    times, rows = brought.times, brought.rows
    if times.ndim != 1 or rows.ndim != 2 or len(times) != len(rows) or len(times) < 2:
        raise EDTalkError(f"Features need 'times' (n,) and 'rows' (n, d), found {times.shape} and {rows.shape}.")
    if not np.isfinite(times).all() or not np.isfinite(rows).all():
        raise EDTalkError("Features must be finite numbers, found NaN or infinity.")
    if (np.diff(times) <= 0).any():
        raise EDTalkError("The times of features must increase.")
    spacing = float(np.median(np.diff(times)))
    if times[0] > spacing + 0.1 or times[-1] < duration - 2 * spacing - 0.1:
        span = f"{times[0]:.2f} to {times[-1]:.2f} s"
        raise EDTalkError(f"The features cover {span}; the sound lasts {duration:.2f} s.", "Make them again.")


# ------------------------------------------------------------------------------------------------------- phrases


def phrases_of(voice: Prosody) -> np.ndarray:
    """(m, 2) seconds of the phrases of a sound: from pause to pause, at most 6 s long."""
    joined: list[list[float]] = []
    for first, last in _runs(voice.speech):
        start, end = first / FPS, last / FPS
        near = PAUSE if not joined or min(end - start, joined[-1][1] - joined[-1][0]) >= SHORTEST_PHRASE else 4 * PAUSE
        if joined and start - joined[-1][1] < near:
            joined[-1][1] = end
        else:
            joined.append([start, end])
    cut = [part for start, end in joined for part in _cut(voice, start, end, _even_cuts(start, end))]
    return np.array(cut, np.float64).reshape(-1, 2)


def _even_cuts(start: float, end: float) -> list[float]:
    if end - start <= LONGEST_PHRASE:
        return []
    count = int(np.ceil((end - start) / CUT))
    return [start + (end - start) * number / count for number in range(1, count)]


def _cut(voice: Prosody, start: float, end: float, cuts: list[float]) -> list[tuple[float, float]]:
    """A phrase, cut at the quietest moments near `cuts`."""
    energy = voice.column("energy")
    edges = [start]
    for at in cuts:
        first, last = (round((at + side) * FPS) for side in (-_NEAR, _NEAR))
        edges.append((first + int(np.argmin(energy[first:last]))) / FPS)
    return list(zip(edges, [*edges[1:], end], strict=True))


def _runs(flags: np.ndarray) -> np.ndarray:
    """(m, 2) first index, and index after the last, of every run of true values."""
    return np.flatnonzero(np.diff(np.r_[0, flags.astype(np.int8), 0])).reshape(-1, 2)


# --------------------------------------------------------------------------------------------------------- words


def phrases_and_words(voice: Prosody, texts: Sequence[SpokenText]) -> tuple[np.ndarray, list[np.ndarray | None], str]:
    """The phrases (m, 2) in seconds, the features (32,) of the words of each or None, and a note about the text."""
    phrases, notes = phrases_of(voice), []
    spoken: list[tuple[SpokenText, list[Sentence]]] = []
    for one in texts:
        text, was_cut = _limited(one.text)
        if was_cut:
            notes.append(f"The text was cut after {LONGEST_TEXT // 1000} kB.")
        sentences = read_text(text)
        if sentences and is_english(sentences):
            spoken.append((SpokenText(text, one.start, one.end), sentences))
        elif text.strip():
            notes.append("The words of the text are not known, so emotion was detected from the voice alone.")
    for one, sentences in spoken:
        timed = _timed(phrases, one, sentences)
        if timed is not None:
            phrases = _cut_between_sentences(voice, phrases, timed)
    words: list[np.ndarray | None] = [None] * len(phrases)
    for one, sentences in spoken:
        timed = _timed(phrases, one, sentences)
        if timed is None:
            notes.append("The text is too long for the speech, so it was used without timing.")
        whole = features(one.text)
        for number, (start, end) in enumerate(phrases):
            if min(end, np.inf if one.end is None else one.end) - max(start, one.start) < 0.5 * (end - start):
                continue
            chosen = None if timed is None else _of_phrase(timed, start, end)
            words[number] = whole if chosen is None else sentences[chosen].features
    return phrases, words, " ".join(dict.fromkeys(notes))


def _limited(text: str) -> tuple[str, bool]:
    content = text.encode("utf-8", "replace")
    return content[:LONGEST_TEXT].decode("utf-8", "ignore"), len(content) > LONGEST_TEXT


def _timed(phrases: np.ndarray, text: SpokenText, sentences: list[Sentence]) -> np.ndarray | None:
    """(k, 2) seconds at which each sentence is said: shares of the speech by syllables. None if it cannot hold them."""
    inside = np.clip(phrases, text.start, np.inf if text.end is None else text.end)
    length = np.diff(inside, axis=1)[:, 0]
    total, counts = float(length.sum()), np.array([sentence.syllables for sentence in sentences], float)
    if not total or counts.sum() > RATE_LIMIT * total:
        return None
    spoken = np.r_[0.0, np.cumsum(length)]  # seconds of speech before each phrase
    edges = np.r_[0.0, np.cumsum(counts)] / counts.sum() * total
    starts, ends = (
        _at_speech(inside, spoken, part, side) for part, side in ((edges[:-1], "right"), (edges[1:], "left"))
    )
    return np.stack([starts, ends], axis=1)


def _at_speech(phrases: np.ndarray, spoken: np.ndarray, at: np.ndarray, side: str) -> np.ndarray:
    """The time of the sound at which `at` seconds of speech have passed."""
    index = np.clip(np.searchsorted(spoken, at, "right" if side == "right" else "left") - 1, 0, len(phrases) - 1)
    return phrases[index, 0] + at - spoken[index]


def _cut_between_sentences(voice: Prosody, phrases: np.ndarray, timed: np.ndarray) -> np.ndarray:
    parts: list[tuple[float, float]] = []
    for start, end in phrases:
        least = 2 * SHORTEST_PHRASE
        cuts = [at for at in timed[1:, 0] if start + least < at < end - least] if end - start > SENTENCE_CUT else []
        apart = [at for number, at in enumerate(cuts) if not number or at - cuts[number - 1] > least]
        parts += _cut(voice, start, end, apart)
    return np.array(parts).reshape(-1, 2)


def _of_phrase(timed: np.ndarray, start: float, end: float) -> int:
    """The sentence that fills most of a phrase."""
    return int(np.argmax(np.minimum(timed[:, 1], end) - np.maximum(timed[:, 0], start)))


# --------------------------------------------------------------------------------------------------------- voice


def voice_rows(voice: Prosody, phrases: np.ndarray) -> np.ndarray:
    """(m, 48) float32: for each phrase mean, deviation, slope, 10th and 90th percentile of nine features, then length,
    accents a second and the share that is voiced."""
    return np.stack([_voice_row(voice, start, end) for start, end in phrases]).astype(np.float32)


def _voice_row(voice: Prosody, start: float, end: float) -> np.ndarray:
    rows = slice(round(start * FPS), max(round(end * FPS), round(start * FPS) + 1))
    voiced = voice.f0[rows] > 0
    time = np.arange(rows.stop - rows.start) / FPS
    row: list[float] = []
    for name in VOICE_COLUMNS:
        column = voice.column(name)[rows].astype(np.float64)
        use = voiced if name in _PITCH else np.ones(len(column), bool)
        if use.sum() < 5:
            row += [0.0] * 5
            continue
        values, at = column[use], time[use] - time[use].mean()
        slope = float((at * (values - values.mean())).sum() / ((at * at).sum() + 0.1))
        row += [values.mean(), values.std(), np.clip(slope, -3, 3), *np.percentile(values, [10, 90])]
    length = end - start
    accents = voice.accents[(voice.accents[:, 0] >= start) & (voice.accents[:, 0] < end), 1]
    return np.array([*row, np.log(max(length, 0.1)), accents.sum() / max(length, 0.3), voiced.mean()])


def brought_rows(brought: Brought, phrases: np.ndarray) -> np.ndarray:
    """(m, d) mean of brought features in each phrase; those of the nearest moment where there are none in it."""
    rows = []
    for start, end in phrases:
        inside = (brought.times >= start) & (brought.times < end)
        nearest = int(np.abs(brought.times - (start + end) / 2).argmin())
        rows.append(brought.rows[inside].mean(axis=0) if inside.any() else brought.rows[nearest])
    return np.stack(rows).astype(np.float32)


# ------------------------------------------------------------------------------------------------------ emotions


@torch.inference_mode()
def _strengths(
    model: Audio2Expression, heard: np.ndarray, words: np.ndarray, use_voice: bool, has_words: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Calibrated strengths (m, 7) of the phrases, and expression coefficients (m, n) or None."""
    voice, table = (torch.from_numpy(part.astype(np.float32))[None] for part in (heard, words))
    has_voice = torch.full((1, len(heard)), float(use_voice))
    inputs = voice, table, has_voice, torch.from_numpy(has_words.astype(np.float32))[None]
    answer, logits = model(*inputs)
    strengths = model.suggested(answer, logits, table)[0].numpy()
    weights = None if model.expression is None else model.expression(model.hidden(*inputs))[0].numpy()
    return strengths, weights


def merged(phrases: np.ndarray, strengths: np.ndarray) -> tuple[Suggestion, ...]:
    """The strongest emotion of each phrase, if it is strong enough; neighbours of the same kind become one.

    phrases: (m, 2) seconds. strengths: (m, 7). Neighbours are merged if the emotion of the first does not end before
    that of the second begins; the strength is the mean, weighted by length.
    """
    suggestions: list[Suggestion] = []
    for (start, end), row in zip(phrases.tolist(), strengths, strict=True):
        kind, strength = EMOTIONS[int(row.argmax())], min(float(row.max()), 1.0)
        if strength < LEAST_STRENGTH:
            continue
        last = suggestions[-1] if suggestions else None
        if last and last.kind == kind and start - last.end < RISE + EASE:
            lengths = np.array([last.end - last.start, end - start])
            mean = float(lengths @ [last.strength, strength] / lengths.sum())
            suggestions[-1] = Suggestion(last.start, end, kind, round(mean, 4))
        else:
            suggestions.append(Suggestion(start, end, kind, round(strength, 4)))
    return tuple(suggestions)


def _over_time(times: np.ndarray, phrases: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(T, n) values of phrases (m, n) over time, with the timing of emotions; where two meet, their weighted mean."""
    shares = np.stack([phrase_envelope(times, start, end) for start, end in phrases], axis=1)
    return (shares @ weights / np.maximum(shares.sum(axis=1, keepdims=True), 1.0)).astype(np.float32)
