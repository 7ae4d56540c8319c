"""Clear words in a voice of another emotion: the words must decide.

`kept` says lines of `CLEAR_WORDS` with voices of other emotions, alone and two in a row, and compares what is detected
with what the words alone say. Neutral lines must stay neutral.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from inference.contract.bank import Bank
from inference.contract.emotion import NEUTRAL
from inference.contract.expression import EMOTIONS, SpokenText
from inference.expression import emotions

from ..voices.emotional import Line, Scene, scene
from ..voices.speech import HELD_OUT_VARIANTS

CLEAR_WORDS = tuple(
    Line(kind, 0.0 if kind == NEUTRAL else 0.7, text)
    for kind, text in (
        ("happy", "I am so happy that you came."),
        ("sad", "I am terribly sad that you leave."),
        ("angry", "Get out of my house, you liar!"),
        ("fear", "I am terrified of what is down there."),
        ("disgusted", "That is absolutely revolting."),
        ("surprised", "Wow, I had no idea!"),
        ("contempt", "Spare me your pathetic little excuses."),
        (NEUTRAL, "The train to Leeds leaves at a quarter past nine."),
        ("happy", "This is the happiest day of my life."),
        ("fear", "Please don't hurt me, I'm so scared."),
        ("sad", "I miss her so much that I can't stop crying."),
        ("disgusted", "It smells disgusting, take it away."),
        ("angry", "I am furious with you."),
        ("surprised", "What? You are kidding me!"),
        (NEUTRAL, "The meeting is on Tuesday in room four."),
        ("happy", "I love it, thank you so much!"),
        ("angry", "How dare you speak to me like that!"),
        ("sad", "My heart is broken, now that she is gone."),
        ("fear", "I'm so afraid that they will find us."),
        ("contempt", "What a pitiful excuse for a man you are."),
        ("surprised", "I can't believe it, you are alive!"),
        (NEUTRAL, "Put the key under the second flowerpot."),
        ("disgusted", "The stench makes me sick."),
    )
)
_VOICES = ("angry", "sad", "happy", "fear")  # the emotions that a voice shows best


@dataclass(frozen=True)
class Said:
    """A line of `CLEAR_WORDS`: the emotion of the voice, and what was detected from the words and from both."""

    line: Line
    voice: str
    words: str
    both: str


def spoken(chosen: tuple[Line, ...], voice: str, number: int) -> Scene:
    """Lines that a held-out voice says with full emotion, whatever their words are."""
    rng = np.random.default_rng((96, number))
    as_voice = [Line(voice, 1.0, line.text) for line in chosen]
    return scene(rng, as_voice, variants=HELD_OUT_VARIANTS, contradiction=0.0, random=0.0, clean=True)


def cases() -> Iterator[tuple[tuple[Line, ...], str]]:
    """Lines alone and two different ones in a row, each with a voice of an emotion that none of them has."""
    groups = [(line,) for line in CLEAR_WORDS] + list(pairwise(CLEAR_WORDS))
    for number, chosen in enumerate(groups):
        others = [voice for voice in _VOICES if voice not in {line.kind for line in chosen}]
        yield chosen, others[number % len(others)]


def detected(bank: Bank, made: Scene, texts: tuple[str, ...], source: str) -> list[str]:
    """The kind of each line of a scene, NEUTRAL where none is suggested."""
    times = (made.starts + made.ends) / 2
    rows = emotions(bank, made.samples, times, [SpokenText(" ".join(texts))], source=source).rows
    return [EMOTIONS[int(row.argmax())] if row.max() > 0 else NEUTRAL for row in rows]


def kept(bank: Bank, every: int = 1) -> list[Said]:
    """What is detected in all cases, or in one of so many."""
    found = []
    for number, (chosen, voice) in enumerate(cases()):
        if number % every:
            continue
        made, texts = spoken(chosen, voice, number), tuple(line.text for line in chosen)
        both, words = (detected(bank, made, texts, source) for source in ("both", "words"))
        found += [Said(line, voice, one, other) for line, one, other in zip(chosen, words, both, strict=True)]
    return found
