"""Emotional features of English text, from word lists and what was learned from lines (`lexicon/`). Numpy only.

    sentences = read_text("I'm so happy! But he left.")
    sentences[0].features               # (32,), see FEATURES

No model is downloaded. Words of other languages have no effect; see `is_english`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from .contract.emotion import NEUTRAL
from .contract.expression import EMOTIONS
from .word_network import WordNetwork, shipped_network
from .word_table import WordTable, shipped_table

LEXICON = Path(__file__).with_name("lexicon")
LISTED = (  # features from the word lists
    "positive",  # sum of positive valences, between 0 and 1
    "negative",  # the same of negative ones
    "compound",  # of both, -1 to 1, as VADER's
    *EMOTIONS,  # words that suggest an emotion, between 0 and 1
    "exclamations",  # number of "!", at most 3, divided by 3
    "questions",  # the same of "?"
    "ellipses",  # 1 if there are three dots
    "capitals",  # share of words in capitals
    "negations",  # number of negated words, at most 2, halved
    "stronger",  # words such as "very", at most 2, halved
    "weaker",  # words such as "rather", at most 2, halved
    "you",  # share of words such as "you", "your"
    "I",  # share of words such as "I", "my"
    "hard words",  # whether there are swear words or orders to go or stop
    "length",  # logarithm of the number of words, 1 at 20
    "known",  # share of the words that suggest an emotion
    "asks",  # whether it begins as questions do, with a word such as "what" or "is"
    "cries",  # whether it begins with an interjection such as "oh"
)
# Networks of earlier banks take the first 24 only, see `Audio2Expression`.
FEATURES = (*LISTED, *(f"learned {kind}" for kind in (*EMOTIONS, NEUTRAL)))  # the latter from `scores`, -2 to 2
SCALE, LIMIT = 4.0, 2.0  # a score is the sum of both logits, divided by SCALE, within LIMIT
RATE_LIMIT = 8.0  # syllables a second that can be spoken

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_END = re.compile(r"(?<=[.!?…。！？])[\"'”’)\]]*\s+|\n+")
_NEGATED = -0.74  # factor of the valence of a negated word, as in VADER
_REACH = 3  # words that a negation reaches
_STRENGTHS = 1.3, 0.6  # factors of stronger and weaker words


@dataclass(frozen=True, eq=False)
class Sentence:
    """text, with its punctuation. words: lower case. syllables: at least 1. features: (32,), see FEATURES."""

    text: str
    words: tuple[str, ...]
    syllables: int
    features: np.ndarray


def read_text(text: str) -> list[Sentence]:
    """The sentences of a text. Those without words are left out.

    The learned scores of a sentence that is not neutral are the mean of its own and of those with the sentences before
    and after it, because two sentences often tell a situation together: "I cooked it. You threw it away."
    """
    parts = [part.strip() for part in _END.split(text) if words_of(part)]
    found = []
    for number, part in enumerate(parts):
        words, values = tuple(words_of(part)), features(part)
        scores = values[len(LISTED) :]
        if len(parts) > 1 and scores.argmax() < len(EMOTIONS):
            around = features(" ".join(parts[max(number - 1, 0) : number + 2]))
            scores[:] = (scores + around[len(LISTED) :]) / 2
        found.append(Sentence(part, words, sum(syllables_of(word) for word in words), values))
    return found


def is_english(sentences: Iterable[Sentence]) -> bool:
    """Whether the words can be understood: a fifth of them, at least, are frequent English words or in the lists."""
    words = [word for sentence in sentences for word in sentence.words]
    known = sum(word in _group("common") or bool(_terms_at([word], 0)) or word in _valences() for word in words)
    return bool(words) and known >= 0.2 * len(words)


@dataclass(frozen=True, eq=False)
class Learned:
    """What was learned from lines of dialogue: a table of words and a network over word vectors."""

    table: WordTable
    network: WordNetwork

    def scores(self, text: str, listed: np.ndarray) -> np.ndarray:
        """(8,) scores of the seven emotions and of neutral, -2 to 2. listed: the text's `listed_features`."""
        logits = self.table.logits(words_of(text), listed, people()) + self.network.logits(text, listed, people())
        return np.clip((logits - logits.mean()) / SCALE, -LIMIT, LIMIT)


@cache
def shipped() -> Learned:
    """What the extension was taught."""
    return Learned(shipped_table(), shipped_network())


def features(text: str, learned: Learned | None = None) -> np.ndarray:
    """(32,) float32 features of a text, see FEATURES; all 0 without words. learned: default the extension's."""
    if not words_of(text):
        return np.zeros(len(FEATURES), np.float32)
    listed = listed_features(text)
    return np.concatenate([listed, (learned or shipped()).scores(text, listed)]).astype(np.float32)


def listed_features(text: str) -> np.ndarray:
    """(24,) float32 features of a text from the word lists, see LISTED."""
    words = words_of(text)
    if not words:
        return np.zeros(len(LISTED), np.float32)
    emotions, positive, negative = np.zeros(len(EMOTIONS)), 0.0, 0.0
    negations, hits, covered = 0, 0, 0
    for index, word in enumerate(words):
        factor, negated = _factor(words, index)
        negations += negated
        valence = _valences().get(word, 0.0) * factor * (_NEGATED if negated else 1.0)
        positive, negative = positive + max(valence, 0.0), negative + max(-valence, 0.0)
        if index < covered:
            continue  # a part of the last term
        terms = _terms_at(words, index)
        if terms:
            hits += 1
            length = max(len(term) for term, _, _ in terms)
            covered = index + length if length > 1 else covered
            for term, kind, weight in terms:
                if len(term) == length:
                    emotions[kind] += weight * factor * (0.0 if negated and length == 1 else 1.0)
    total = positive - negative
    marks = [min(text.count(mark), 3) / 3 for mark in "!?"]
    loud = [word for word in _WORD.findall(text) if len(word) > 1 and word.isupper()]
    count = {name: sum(word in _group(name) for word in words) for name in ("stronger", "weaker", "you", "I", "hard")}
    return np.array([
        np.tanh(positive / 4), np.tanh(negative / 4), total / np.sqrt(total**2 + 15), *np.tanh(emotions / 1.2), *marks,
        float("..." in text or "…" in text), len(loud) / len(words), min(negations, 2) / 2,
        min(count["stronger"], 2) / 2, min(count["weaker"], 2) / 2, count["you"] / len(words), count["I"] / len(words),
        float(count["hard"] > 0), min(np.log(len(words)) / np.log(20), 1.5), hits / len(words),
        float(words[0] in _group("asks")), float(words[0] in _group("cries")),
    ], np.float32)  # fmt: skip


def compound(text: str) -> float:
    """The valence of a text, -1 to 1, with the sign and about the size of VADER's."""
    return float(listed_features(text)[LISTED.index("compound")])


def people() -> frozenset[str]:
    """Words about groups of people, which the learned table does not read."""
    return _group("people")


def syllables_of(word: str) -> int:
    """About how many syllables a word has: groups of vowels; digits and characters without an alphabet count one."""
    groups = len(re.findall(r"[aeiouyàâäéèêëïîôöùûüœæ]+", word.lower()))
    if word.endswith("e") and not word.endswith("le") and groups > 1:
        groups -= 1
    return max(1, groups + sum(character.isdigit() or ord(character) > 0x2E80 for character in word))


def words_of(text: str) -> list[str]:
    """The words of a text in lower case."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


def _factor(words: list[str], index: int) -> tuple[float, bool]:
    """How much a word counts, for the words before it; and whether it is negated."""
    before = words[max(index - _REACH, 0) : index]
    factor = 1.0
    if before and before[-1] in _group("stronger"):
        factor = _STRENGTHS[0]
    elif any(word in _group("weaker") for word in before[-2:]):
        factor = _STRENGTHS[1]
    return factor, any(word in _group("negations") for word in before)


@cache
def _valences() -> dict[str, float]:
    pairs = (line.split("\t") for line in _lines("valence.tsv"))
    return {word: float(valence) for word, valence in pairs}


@cache
def _terms() -> dict[str, list[tuple[tuple[str, ...], int, float]]]:
    """Terms by the first two letters: the words, of which those with "*" match any ending; kind and weight."""
    found: dict[str, list[tuple[tuple[str, ...], int, float]]] = {}
    for line in _lines("emotions.tsv"):
        kind, weight, terms = line.split("\t")
        for term in terms.split(", "):
            entry = tuple(_words_of_term(term)), EMOTIONS.index(kind), float(weight)
            found.setdefault(term[:2].rstrip("*"), []).append(entry)
    return found


@cache
def _group(name: str) -> frozenset[str]:
    """The words of a row of `groups.tsv`."""
    return {label: frozenset(words.split()) for label, words in (row.split("\t") for row in _lines("groups.tsv"))}[name]


def _words_of_term(term: str) -> list[str]:
    return [word.lower() for word in term.split()]


def _terms_at(words: list[str], index: int) -> list[tuple[tuple[str, ...], int, float]]:
    """The terms that begin at a word."""
    return [entry for entry in _terms_from(words[index]) if len(entry[0]) == 1 or _matches(entry[0], words, index)]


@lru_cache(maxsize=4096)
def _terms_from(word: str) -> list[tuple[tuple[str, ...], int, float]]:
    """The terms whose first word it is."""
    return [entry for entry in _terms().get(word[:2], ()) if _matches(entry[0][:1], [word], 0)]


def _matches(term: tuple[str, ...], words: list[str], index: int) -> bool:
    return (
        len(words) >= index + len(term)
        and all(
            word.startswith(part[:-1]) if part.endswith("*") else word == part  # "*" alone is any word
            for part, word in zip(term, words[index:], strict=False)
        )
    )


def _lines(name: str) -> list[str]:
    lines = (LEXICON / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]
