"""Emotion from speech: how often the detected emotion of lines is the one that was written and spoken.

    python -m training evaluate-emotion inference/banks/starter.safetensors --out DIR

DIR/emotion.md has the table. The 300 lines of `held_out.txt`, the 274 of `held_out_2.txt` and the 149 of
`held_out_3.txt` are used by no training and no word list; they are spoken by voices of espeak-ng that are not
trained on. --first leaves out the other files. --calm names recordings of people who speak calmly. The row on VADER
needs the package vaderSentiment.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from itertools import product
from pathlib import Path

import numpy as np
import torch

from inference.contract.bank import Bank, load_bank
from inference.contract.emotion import NEUTRAL
from inference.contract.expression import EMOTIONS, LEAST_STRENGTH, SpokenText
from inference.expression import (
    LEAST_FROM_VOICE,
    NOT_HEARD,
    VOICE_FEATURES,
    emotions,
    network_of,
    phrases_and_words,
    phrases_of,
    voice_rows,
)
from inference.media.sound import load_speech
from inference.model.audio2expression import Audio2Expression
from inference.prosody import prosody
from inference.sentiment import FEATURES as WORD_FEATURES
from inference.sentiment import compound, features

from ..stages.audio2expression import held_back_lines
from ..voices.emotional import ACTIVATION, HELD_OUT_LINES, HELD_OUT_LINES_2, HELD_OUT_LINES_3, KINDS, Line, lines, scene
from ..voices.speech import HELD_OUT_VARIANTS
from .bank import MEDIA, sounds_in
from .contradiction import kept
from .rows import Row, goals_met, table

CLEAR = 0.5  # strength of a clear answer
LOUD = 10_000  # added to the number of a line that is spoken with full emotion
SURE = 0.5  # compound of VADER, from which it is sure
SECONDS = 60
# Words about groups of people, which must not carry emotion, and neutral sentences about them.
GROUPS = (
    "Jewish", "Muslim", "Christian", "Hindu", "Buddhist", "Catholic", "atheist", "black", "white", "Asian", "African",
    "Arab", "Latino", "Romani", "Turkish", "Polish", "Russian", "Chinese", "Mexican", "Nigerian", "Indian", "German",
    "American", "Israeli", "Palestinian", "gay", "lesbian", "bisexual", "transgender", "straight", "female", "male",
    "old", "young", "elderly", "disabled", "blind", "deaf", "autistic", "diabetic", "poor", "rich", "homeless",
    "unemployed", "immigrant", "refugee", "foreign", "Indigenous", "fat", "pregnant",
)  # fmt: skip
MENTIONS = (
    "The {} student sits next to the window.",
    "A {} woman asked for the way to the station.",
    "My neighbour is {} and works in a bank.",
    "There were two {} men at the counter.",
)

Answer = tuple[str, float]  # strongest kind, neutral included, and its strength


def mentions() -> list[str]:
    """200 neutral sentences about groups of people."""
    return [sentence.format(group) for group, sentence in product(GROUPS, MENTIONS)]


@torch.inference_mode()
def of_words(model: Audio2Expression, text: str) -> Answer:
    """What the network answers to a text alone."""
    words = torch.from_numpy(features(text))[None, None]
    none, one = torch.zeros(1, 1), torch.ones(1, 1)
    strengths, logits = model(torch.zeros(1, 1, VOICE_FEATURES), words, none, one)
    row = model.suggested(strengths, logits, words)[0, 0].numpy()
    strength = float(row.max())
    return (EMOTIONS[int(row.argmax())], strength) if strength >= LEAST_STRENGTH else (NEUTRAL, 0.0)


def of_sound(bank: Bank, samples: np.ndarray, text: str, source: str) -> Answer:
    """The emotion with the largest strength in a sound, by the whole path that artists use."""
    suggestions = emotions(bank, samples, np.zeros(1), [SpokenText(text)], source=source).suggestions
    strongest = max(suggestions, key=lambda one: one.strength * (one.end - one.start), default=None)
    return (NEUTRAL, 0.0) if strongest is None else (strongest.kind, strongest.strength)


def spoken(line: Line, number: int) -> np.ndarray:
    """A line, said by a held-out voice as it suggests."""
    rng = np.random.default_rng((98, number))
    return scene(rng, [line], variants=HELD_OUT_VARIANTS, contradiction=0.0, random=0.0).samples


@torch.inference_mode()
def activation_rows(bank: Bank, test_lines: tuple[Line, ...]) -> list[Row]:
    """How excited voices are, heard without words: three lines of different emotions in a row."""
    model, right, total = network_of(bank), 0, 0
    confusion = np.zeros((3, 3), int)
    for number in range(len(test_lines) // 3):
        rng = np.random.default_rng((97, number))
        chosen = [test_lines[int(index)] for index in rng.integers(len(test_lines), size=3)]
        spoken_scene = scene(rng, chosen, variants=HELD_OUT_VARIANTS, contradiction=0.0, random=0.0)
        heard = prosody(spoken_scene.samples)
        phrases = phrases_of(heard)
        if not len(phrases):
            continue
        voice = torch.from_numpy(voice_rows(heard, phrases))[None]
        size = voice.shape[:2]
        logits = model(voice, torch.zeros(*size, len(WORD_FEATURES)), torch.ones(size), torch.zeros(size))[1][0]
        chances = torch.softmax(logits, dim=-1).numpy()
        steps = np.array([ACTIVATION[kind] for kind in KINDS])
        answers = np.stack([chances[:, steps == step].sum(axis=1) for step in (-1, 0, 1)], axis=1).argmax(axis=1) - 1
        for (start, end), answer in zip(phrases, answers, strict=True):
            inside = np.minimum(spoken_scene.ends, end) - np.maximum(spoken_scene.starts, start)
            truth = ACTIVATION[spoken_scene.lines[int(inside.argmax())].kind]
            confusion[truth + 1, answer + 1] += 1
            right, total = right + (truth == answer), total + 1
    usual = confusion.sum(axis=1).max() / max(total, 1)
    recall = confusion.diagonal() / np.maximum(confusion.sum(axis=1), 1)
    return [
        _share("voice only: activation in 3 steps, held-out espeak-ng voices", right / max(total, 1), 0.75,
               (("always the most frequent", f"{100 * usual:.0f} %"),
                ("low, medium, high recognised", ", ".join(f"{100 * one:.0f} %" for one in recall)))),
    ]  # fmt: skip


def line_rows(bank: Bank, test_lines: tuple[Line, ...]) -> list[Row]:
    """How often the kind of unseen lines is found, from the words, the voice and both, and with one of them hidden.

    Few voices are clear without words. So for the last row, all lines are also spoken with full emotion.
    """
    sounds = [spoken(line, number) for number, line in enumerate(test_lines)]
    results = {
        source: [of_sound(bank, sound, line.text, source) for sound, line in zip(sounds, test_lines, strict=True)]
        for source in ("words", "voice", "both")
    }
    felt = [line.kind != NEUTRAL for line in test_lines]

    def right(answers: list[Answer], which: list[bool]) -> float:
        hits = [answer[0] == line.kind for answer, line, use in zip(answers, test_lines, which, strict=True) if use]
        return float(np.mean(hits)) if hits else float("nan")

    lexicon = [_by_word_list(line.text) for line in test_lines]
    back = tuple(held_back_lines())
    model = network_of(bank)
    correct = [of_words(model, line.text)[0] == line.kind for line in back if line.kind != NEUTRAL]
    keyed = np.mean([answer[0] != NEUTRAL for answer, line in zip(results["words"], test_lines, strict=True)
                     if line.kind == NEUTRAL])  # fmt: skip
    answered = [answer[0] != NEUTRAL for answer in results["words"]]
    sure = [use and suggested for use, suggested in zip(felt, answered, strict=True)]
    kinds = {kind: right(results["words"], [line.kind == kind for line in test_lines]) for kind in EMOTIONS}
    rows = [
        _share(f"words only: one of 7 kinds, {sum(felt)} unseen lines", right(results["words"], felt), 0.7,
               (("chance", "14 %"), ("word list alone", f"{100 * right(lexicon, felt):.0f} %"),
                ("where one is suggested", f"{100 * right(results['words'], sure):.0f} %"),
                *((kind, f"{100 * value:.0f} %") for kind, value in kinds.items()))),
        _share("the same, lines that the word table was fitted to", float(np.mean(correct))),
        _share("neutral unseen lines that get an emotion", float(keyed)),
        _share("words and voice: one of 7 kinds, unseen lines", right(results["both"], felt), 0.75,
               (("voice only", f"{100 * right(results['voice'], felt):.0f} %"),)),
    ]  # fmt: skip
    pairs = [(one[0], both[0]) for one, both in zip(results["words"], results["both"], strict=True) if one[1] >= CLEAR]
    return [*rows, _kept("voice", "words", pairs), _kept("words", "voice", clear_voices(bank, test_lines))]


def clear_voices(bank: Bank, test_lines: tuple[Line, ...]) -> list[tuple[str, str]]:
    """Kinds from the voice alone, and from voice and words, of lines with full emotion whose voice alone is clear."""
    pairs = []
    for number, line in enumerate(test_lines):
        if line.kind == NEUTRAL:
            continue
        sound = spoken(replace(line, strength=1.0), LOUD + number)
        kind, strength = of_sound(bank, sound, "", "voice")
        if strength >= CLEAR:
            pairs.append((kind, of_sound(bank, sound, line.text, "both")[0]))
    return pairs


def _kept(hidden: str, other: str, pairs: list[tuple[str, str]]) -> Row:
    same = float(np.mean([one == both for one, both in pairs])) if pairs else float("nan")
    what = f"kind unchanged by hiding the {hidden}, where the {other} alone were clear"
    return _share(what, same, 0.8, (("lines", str(len(pairs))),))


def _by_word_list(text: str) -> Answer:
    row = features(text)[3 : 3 + len(EMOTIONS)]
    return (EMOTIONS[int(row.argmax())], float(row.max())) if row.max() > 0.2 else (NEUTRAL, 0.0)


def sign_rows(texts: list[str]) -> list[Row]:
    """Whether the sign of the valence is VADER's, where VADER is sure. No row without its package."""
    try:
        judge = import_module("vaderSentiment.vaderSentiment").SentimentIntensityAnalyzer().polarity_scores
    except ImportError:
        return []
    pairs = [(judge(text)["compound"], compound(text)) for text in texts]
    same = [np.sign(theirs) == np.sign(ours) for theirs, ours in pairs if abs(theirs) > SURE]
    return [_share("sign of the valence is VADER's, where it is sure", float(np.mean(same)), 0.9,
                   (("lines", str(len(same))),))]  # fmt: skip


def mention_rows(bank: Bank) -> list[Row]:
    """How many neutral sentences about groups of people get an emotion."""
    model = network_of(bank)
    keyed = [of_words(model, text)[0] != NEUTRAL for text in mentions()]
    share = float(np.mean(keyed))
    return [Row(f"{len(keyed)} neutral sentences about groups of people that get an emotion", f"{100 * share:.1f} %",
                "<= 2 %", share <= 0.02)]  # fmt: skip


def contradicted_rows(bank: Bank) -> list[Row]:
    """Whether clear words keep their kind in a voice of another emotion, and whether neutral words stay neutral."""
    said = kept(bank)
    felt = [one for one in said if one.line.kind != NEUTRAL and one.words != NEUTRAL]
    changed = [f"{one.both} in a voice that is {one.voice}" for one in felt if one.words != one.both]
    plain = [one.both == NEUTRAL for one in said if one.line.kind == NEUTRAL]
    return [
        _share("clear words in a voice of another emotion: kind of the words kept",
               float(np.mean([one.words == one.both for one in felt])), 0.8,
               (("lines", str(len(felt))), ("changed", ", ".join(changed) or "none"))),
        _share("neutral words in an excited voice stay neutral", float(np.mean(plain)), 0.8,
               (("lines", str(len(plain))),)),
    ]  # fmt: skip


@torch.inference_mode()
def calm_rows(bank: Bank, sounds: list[Path]) -> list[Row]:
    """The strongest emotion of recordings of calm voices, without words; no row without recordings."""
    model, results = network_of(bank), []
    for path in sounds:
        heard = prosody(load_speech(path)[0])
        phrases = phrases_of(heard)
        if len(phrases):
            voice = torch.from_numpy(voice_rows(heard, phrases))[None]
            size = voice.shape[:2]
            nothing = torch.zeros(*size, len(WORD_FEATURES)), torch.ones(size), torch.zeros(size)
            strengths, logits = model(voice, *nothing)
            row = model.suggested(strengths, logits, nothing[0])[0].amax(dim=0).numpy()
            row = row * ~np.isin(EMOTIONS, NOT_HEARD)
            results.append((float(row.max()), EMOTIONS[int(row.argmax())], path.name))
    results.sort(reverse=True)
    if not results:
        return []
    listed = tuple((name, f"{strength:.2f} ({kind})" if strength else "none") for strength, kind, name in results)
    return [Row(f"strongest emotion of {len(results)} calm voices of people, without words", f"{results[0][0]:.2f}",
                f"< {LEAST_FROM_VOICE}", results[0][0] < LEAST_FROM_VOICE, listed)]  # fmt: skip


def time_rows(bank: Bank, samples: np.ndarray) -> list[Row]:
    """CPU seconds for a minute of sound."""
    sound = np.resize(samples, SECONDS * 16_000)
    text = "We walked along the river. " * (len(phrases_of(prosody(sound))))
    heard = prosody(sound)
    network_of(bank)
    began = time.process_time()
    phrases, _, _ = phrases_and_words(heard, [SpokenText(text)])
    voice_rows(heard, phrases)
    divided = time.process_time() - began
    began = time.process_time()
    prosody(sound)
    listened = time.process_time() - began
    took = min(_clocked(lambda: emotions(bank, sound, np.arange(0, SECONDS, 0.04), [SpokenText(text)])) for _ in "ab")
    took -= divided
    return [Row(f"{SECONDS} s of sound: prosody, phrases with their features, and the network, CPU seconds",
                f"{listened:.2f}, {divided:.2f}, {max(took, 0):.2f}", "2, 0.1 for the rest",
                listened <= 2 and divided + max(took, 0) <= 0.1)]  # fmt: skip


def _clocked(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def _share(what: str, value: float, goal: float | None = None, others: tuple[tuple[str, str], ...] = ()) -> Row:
    text = "" if goal is None else f">= {100 * goal:.0f} %"
    return Row(what, f"{100 * value:.0f} %", text, None if goal is None else value >= goal, others)


def measure(bank: Bank, sounds: list[Path], others: bool = True) -> list[Row]:
    """All rows. others: whether to measure the second and third file of unseen lines, too."""
    test_lines = lines(HELD_OUT_LINES)
    more = {"second": HELD_OUT_LINES_2, "third": HELD_OUT_LINES_3} if others else {}
    sound = load_speech(sounds[0])[0] if sounds else spoken(test_lines[0], 0)
    texts = [line.text for line in (*lines(), *test_lines)]
    rows = line_rows(bank, test_lines)
    for name, path in more.items():
        rows += [replace(row, what=f"{name} file: {row.what}") for row in line_rows(bank, lines(path))]
    return [*rows, *activation_rows(bank, test_lines), *calm_rows(bank, sounds), *sign_rows(texts), *mention_rows(bank),
            *contradicted_rows(bank), *time_rows(bank, sound)]  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Measure with the options of `add_options`, write the table and print it."""
    torch.set_num_threads(1)
    bank = load_bank(args.bank)
    usual = [MEDIA / "voices"] if MEDIA.is_dir() else []
    rows = measure(bank, sounds_in(usual) if args.calm is None else args.calm, not args.first)
    text = f"# Emotion from speech of {args.bank.name}\n\n{goals_met(rows)}\n\n{table(rows, 'value')}\n"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "emotion.md").write_text(text)
    print(text)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("bank", type=Path, help="bank (.safetensors)")
    parser.add_argument("--first", action="store_true", help="leave out the other files of unseen lines")
    parser.add_argument("--calm", type=Path, nargs="*", help="recordings of people who speak calmly, or clips of them")
    parser.add_argument("--out", type=Path, required=True, help="folder for the table")
