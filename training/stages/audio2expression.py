"""Train Audio2Expression on our own lines (`training/voices/lines/`), spoken by voices with emotional prosody.

    python -m training audio2expression --glove glove.6B.50d.txt --out E.pt --minutes 12

`--glove` is the file of `words`: lines are scored by what the other files of lines teach. `--bank B.safetensors` starts
from the network of a bank. Run the same command again to resume. A log (E.jsonl) is written beside the checkpoint. The
weights that are best on lines and voices that are held back from training are kept, with their calibration.

    python -m training audio2expression --clips CLIPS.csv --bank B.safetensors --out E.pt --minutes 5

continues from a bank's network with clips of your own. CLIPS.csv has a header and one row for each clip: "sound",
"kind", "strength", and optional "text", "features" (.npz with times and rows, which replace the voice's features) and
"coefficients" (a file of `capture`, from which expression coefficients are learned).
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from inference.contract.bank import load_bank
from inference.contract.emotion import NEUTRAL
from inference.expression import network_of, phrases_of, voice_rows
from inference.model.audio2expression import KNOTS, Audio2Expression, Audio2ExpressionConfig
from inference.prosody import prosody
from inference.sentiment import FEATURES as WORD_FEATURES
from inference.sentiment import Learned, features

from ..learning.optimiser import BestWeights, minimise
from ..learning.trainer import Trainer, add_trainer_options, limits, seeded
from ..voices import recorded
from ..voices.emotional import KINDS, TRAINING_FILES, WRITERS, Line, Scene, lines, scene
from ..voices.speech import HELD_OUT_VARIANTS, VARIANTS
from .audio2expression_clips import train_on_clips
from .words import group_of, learned_without

PHRASES = 6  # of a scene, at most
BATCH = 32  # scenes
POOL, FIRST, RENEWAL = 6000, 200, 4  # scenes in memory at most, at the start, and steps after which one is added
BACK = 8  # one in so many lines is held back from training
HELD_OUT = 80  # scenes of held-out voices saying lines that were held back
DROPPED = 0.5  # share of the words that are left out of a line at most; no word list knows all words
MASKS = (0.6, 0.3)  # shares of spoken scenes with both and with the voice only; the rest has the words only
CONTRADICTION = 0.12  # share of lines spoken as another emotion, and share with random prosody
CALM_SCENES, RECORDED = 0.2, 0.35  # shares of scenes in which nobody is excited, and by voices built from recordings
READ, SINGLE = 0.25, 0.5  # share of scenes of a batch that are only read, and of those with a single line
PERSIST = 0.35  # chance that the next line has the same emotion
CLEAR = 0.7  # strength of a clear line
STRENGTH, KIND, STEADY = 1.0, 0.3, 0.1  # weights of the losses
NOTHING = -1  # kind of a phrase without a target

Teacher = Callable[[Line], Learned]  # what scores the words of a line


@dataclass(frozen=True, eq=False)
class Example:
    """A scene with N phrases.

    voice: (N, 48). words: (V, N, 32), several versions with words left out. kinds, strengths: (2, N) targets by what is
    said and by how it is spoken; kind NOTHING: none. Arrays have PHRASES rows; those beyond N have no target.
    """

    voice: np.ndarray
    words: np.ndarray
    kinds: np.ndarray
    strengths: np.ndarray


def training_lines() -> list[Line]:
    """The lines to train on."""
    back = {line.text for line in held_back_lines()}
    return [line for path in TRAINING_FILES for line in lines(path) if line.text not in back]


def held_back_lines() -> list[Line]:
    """The lines that are held back, for choosing the weights and for their calibration. Those of `lines.txt`, which the
    word lists were written with, are not among them."""
    return [line for path in WRITERS for line in lines(path)][::BACK]


@cache
def _writers() -> dict[str, Path]:
    """The file of each line."""
    return {line.text: path for path in TRAINING_FILES for line in lines(path)}


def teacher_without(vectors: Path) -> Teacher:
    """Score each line by what the files of other groups teach. vectors: see `word_network.glove`."""
    return lambda line: learned_without(group_of(_writers()[line.text]), vectors)


def chosen_lines(rng: np.random.Generator, candidates: list[Line]) -> list[Line]:
    """Lines of a scene: emotions persist, and neutral lines come between them."""
    chosen_so_far: list[Line] = []
    kind = str(rng.choice(KINDS))
    for _ in range(int(rng.integers(1, PHRASES))):
        chosen_so_far.append(_of_kind(rng, candidates, kind))
        if rng.random() > PERSIST:
            kind = NEUTRAL if rng.random() < 0.25 else str(rng.choice(KINDS))
    return chosen_so_far


def _of_kind(rng: np.random.Generator, known: list[Line], kind: str) -> Line:
    same = [line for line in known if line.kind == kind]
    return same[int(rng.integers(len(same)))]


def example(spoken_scene: Scene, rng: np.random.Generator, teacher: Teacher, versions: int = 4) -> Example:
    """The features and targets of a scene. versions: of the words, the first of which is whole."""
    heard = prosody(spoken_scene.samples)
    phrases = phrases_of(heard)[:PHRASES]
    if not len(phrases):
        phrases = np.array([[spoken_scene.starts[0], spoken_scene.ends[0]]])
    inside = np.minimum(phrases[:, 1:], spoken_scene.ends) - np.maximum(
        phrases[:, :1], spoken_scene.starts
    )  # (N, lines)
    spoken = [int(index) for index in inside.argmax(axis=1)]
    shape = (2, PHRASES)
    kinds, strengths = np.full(shape, NOTHING, np.int64), np.zeros(shape, np.float32)
    for row, index in enumerate(spoken):
        line, voiced = spoken_scene.lines[index], spoken_scene.voiced[index]
        kinds[0, row], strengths[0, row] = KINDS.index(line.kind), line.strength
        if voiced is not None:
            kinds[1, row], strengths[1, row] = KINDS.index(voiced[0]), voiced[1] if voiced[0] != NEUTRAL else 0.0
    words = _read([spoken_scene.lines[index] for index in spoken], rng, teacher, versions)
    voice = np.zeros((PHRASES, 48), np.float32)
    voice[: len(phrases)] = voice_rows(heard, phrases)
    return Example(voice, words, kinds, strengths)


def read_example(chosen: list[Line], rng: np.random.Generator, teacher: Teacher, versions: int = 4) -> Example:
    """As `example`, of lines that nobody speaks: only their words are targets."""
    kinds, strengths = np.full((2, PHRASES), NOTHING, np.int64), np.zeros((2, PHRASES), np.float32)
    kinds[0, : len(chosen)] = [KINDS.index(line.kind) for line in chosen]
    strengths[0, : len(chosen)] = [line.strength for line in chosen]
    return Example(np.zeros((PHRASES, 48), np.float32), _read(chosen, rng, teacher, versions), kinds, strengths)


def _read(said: list[Line], rng: np.random.Generator, teacher: Teacher, versions: int) -> np.ndarray:
    """(versions, PHRASES, 32) features of the words, of which all but the first version lack some."""
    words = np.zeros((versions, PHRASES, len(WORD_FEATURES)), np.float32)
    for version in range(versions):
        share = rng.uniform(0, DROPPED) if version else 0.0
        words[version, : len(said)] = [features(_thinned(line.text, share, rng), teacher(line)) for line in said]
    return words


def _thinned(text: str, share: float, rng: np.random.Generator) -> str:
    """The text without a share of its words; punctuation stays."""
    kept = [word if rng.random() >= share else word.lstrip("'’abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-")
            for word in text.split()]  # fmt: skip
    return " ".join(word for word in kept if word) or text


class Pool:
    """Scenes to train on: spoken ones, and others that are only read. Scene k depends only on the seed and on k."""

    def __init__(self, seed: int, first: int, teacher: Teacher, count: int = FIRST) -> None:
        self._seed, self._next, self._lines, self._teacher = seed, first, training_lines(), teacher
        self._voices = recorded.installed(recorded.TRAINING)
        self.examples: deque[Example] = deque(maxlen=POOL)
        self.read: deque[Example] = deque(maxlen=2 * POOL)
        for _ in range(count):
            self.renew()

    def renew(self) -> None:
        """Add a spoken scene and two that are read."""
        rng = np.random.default_rng((self._seed, 1, self._next))
        self._next += 1
        chosen = chosen_lines(rng, self._lines)
        voices = self._voices if rng.random() < RECORDED else ()
        options = {"contradiction": CONTRADICTION, "random": CONTRADICTION, "calm": rng.random() < CALM_SCENES}
        try:
            spoken_scene = scene(rng, chosen, variants=VARIANTS, voices=voices, **options)
        except ValueError:  # a recorded voice cannot say one of the lines
            spoken_scene = scene(rng, chosen, variants=VARIANTS, **options)
        self.examples.append(example(spoken_scene, rng, self._teacher))
        for _ in range(2):
            chosen = chosen_lines(rng, self._lines)[: 1 if rng.random() < SINGLE else PHRASES]
            self.read.append(read_example(chosen, rng, self._teacher))


def held_out(teacher: Teacher, count: int = HELD_OUT) -> list[Example]:
    """Scenes of voices and lines that are not trained on, spoken as their words say."""
    examples, candidates = [], held_back_lines()
    for number in range(count):
        rng = np.random.default_rng((99, 2, number))
        spoken_scene = scene(
            rng, chosen_lines(rng, candidates), variants=HELD_OUT_VARIANTS, contradiction=0.0, random=0.0
        )
        examples.append(example(spoken_scene, rng, teacher, 2))
    return examples


def held_out_calm(teacher: Teacher, count: int) -> list[Example]:
    """Calm scenes of voices that are not trained on: built from recordings, where they are installed."""
    examples, candidates, voices = [], held_back_lines(), recorded.installed(recorded.HELD_OUT)
    for number in range(count):
        rng = np.random.default_rng((99, 3, number))
        spoken_scene = scene(rng, chosen_lines(rng, candidates), variants=HELD_OUT_VARIANTS, voices=voices, calm=True)
        examples.append(example(spoken_scene, rng, teacher, 2))
    return examples


@dataclass(frozen=True, eq=False)
class Batch:
    """voice, words, has_voice, has_words: inputs of the network. kinds, strengths: (B, N) targets."""

    voice: Tensor
    words: Tensor
    has_voice: Tensor
    has_words: Tensor
    kinds: Tensor
    strengths: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.voice, self.words, self.has_voice, self.has_words


def batch(examples: list[Example], modes: list[str], versions: list[int]) -> Batch:
    """The examples with one modality hidden by `modes`: "both", "voice" or "words"."""
    by_voice = [int(mode == "voice") for mode in modes]
    has_voice, has_words = (torch.tensor([float(mode != other) for mode in modes]) for other in ("words", "voice"))
    each = [-1, PHRASES]
    return Batch(
        torch.from_numpy(np.stack([one.voice for one in examples])),
        torch.from_numpy(np.stack([one.words[version] for one, version in zip(examples, versions, strict=True)])),
        has_voice[:, None].expand(each), has_words[:, None].expand(each),
        torch.from_numpy(np.stack([one.kinds[which] for one, which in zip(examples, by_voice, strict=True)])),
        torch.from_numpy(np.stack([one.strengths[which] for one, which in zip(examples, by_voice, strict=True)])),
    )  # fmt: skip


def draw(pool: Pool, rng: np.random.Generator, count: int = BATCH) -> Batch:
    """A batch with modalities hidden at random."""
    read = rng.binomial(count, READ)
    spoken = [pool.examples[index] for index in rng.integers(len(pool.examples), size=count - read)]
    chosen = spoken + [pool.read[index] for index in rng.integers(len(pool.read), size=read)]
    modes = rng.choice(["both", "voice", "words"], count - read, p=[*MASKS, 1 - sum(MASKS)]).tolist()
    return batch(chosen, modes + ["words"] * read, rng.integers(len(chosen[0].words), size=count).tolist())


def loss_of(model: Audio2Expression, one: Batch) -> dict[str, Tensor]:
    """The parts of the loss: strengths, kind, and differences between neighbours of the same target."""
    strengths, logits = model(*one.inputs)
    has_kind = one.kinds != NOTHING
    target = F.one_hot(one.kinds.clamp(min=0), len(KINDS))[..., :-1] * one.strengths[..., None]
    distance = F.smooth_l1_loss(strengths, target, beta=0.2, reduction="none").sum(dim=-1)
    kind = F.cross_entropy(logits[has_kind], one.kinds[has_kind], label_smoothing=0.05)
    same = has_kind[:, 1:] & (one.kinds[:, 1:] == one.kinds[:, :-1])
    steps = (strengths[:, 1:] - strengths[:, :-1]).abs().sum(dim=-1)
    steady = (steps * same).sum() / same.sum().clamp(min=1)
    return {"strength": distance[has_kind].mean(), "kind": kind, "steady": steady}


def measure(model: Audio2Expression, pool: Pool) -> None:
    """Set the model's means and deviations from the pool."""
    for name in ("voice", "words"):
        rows = np.concatenate([
            getattr(one, name).reshape(-1, PHRASES, getattr(one, name).shape[-1])[0][one.kinds[0] != NOTHING]
            for one in pool.examples
        ])  # fmt: skip
        getattr(model, f"{name}_mean").copy_(torch.from_numpy(rows.mean(axis=0)))
        getattr(model, f"{name}_scale").copy_(torch.from_numpy(rows.std(axis=0)).clamp(min=0.1))


@torch.no_grad()
def start_from(model: Audio2Expression, known: Audio2Expression) -> None:
    """Set the weights to those of a network that may know fewer features of words; the measures of words stay."""
    state = {name: part for name, part in known.state_dict().items() if name not in ("words_mean", "words_scale")}
    first = state["words_first.weight"]
    state["words_first.weight"] = F.pad(first, (0, model.config.words - first.shape[1]))
    model.load_state_dict(model.state_dict() | state)


@torch.no_grad()
def score(
    model: Audio2Expression, examples: list[Example], calm: list[Example], read: list[Example]
) -> dict[str, float]:
    """Shares of phrases whose strongest kind is right, neutral included, by what the network receives.

    calm: scenes with calm voices, for the shares of phrases that are heard as neutral without words, and of those whose
    words are understood with the voice. read: lines that are not spoken.
    """
    shares = {mode: _right(model, examples, mode) for mode in ("both", "voice", "words")}
    shares |= {"calm": _right(model, calm, "voice"), "calm, both": _right(model, calm, "both")}
    return {name: round(value, 4) for name, value in (shares | {"read": _right(model, read, "words")}).items()}


def _right(model: Audio2Expression, examples: list[Example], mode: str) -> float:
    one = batch(examples, [mode] * len(examples), [0] * len(examples))
    has_kind = one.kinds != NOTHING
    return float((model(*one.inputs)[1].argmax(dim=-1) == one.kinds)[has_kind].float().mean())


@torch.no_grad()
def calibrate(model: Audio2Expression, examples: list[Example]) -> None:
    """Set the model's table of strengths, so that they are the true ones in the mean (isotonic regression).

    The true strength of a phrase whose kind is wrong is 0. Lines also count with words left out, because other lines
    have fewer known words. The table is scaled so that clear lines whose kind is right have a strength of
    0.7 in the mean.
    """
    raw, truth, right = [], [], []
    for mode, version in product(("both", "words"), (0, -1)):
        one = batch(examples, [mode] * len(examples), [version] * len(examples))
        strengths = model(*one.inputs)[0]
        has_kind = one.kinds != NOTHING
        best, kind = strengths.max(dim=-1)
        hit = kind == one.kinds
        raw.append(best[has_kind])
        truth.append((one.strengths * hit)[has_kind])
        right.append((hit & (one.strengths == CLEAR))[has_kind])
    x, y, clear = (torch.cat(part).double().numpy() for part in (raw, truth, right))
    order = np.argsort(x)
    fitted = isotonic(y[order])
    knots = np.r_[0.0, np.quantile(x, np.linspace(0.05, 0.98, KNOTS - 1))]
    values = np.interp(knots, x[order], fitted)
    values[0] = 0.0
    scale = CLEAR / max(float(np.interp(x[clear > 0], knots, values).mean()), 0.1) if clear.any() else 1.0
    model.get_buffer("calibration").copy_(torch.from_numpy(np.stack([knots, np.clip(values * scale, 0, 1)])))


def isotonic(values: np.ndarray) -> np.ndarray:
    """The non-decreasing sequence (n,) that is nearest to `values` (n,), by pooling adjacent violators."""
    blocks: list[list[float]] = []
    for value in values.tolist():
        blocks.append([value, 1.0])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (last, count), (before, number) = blocks.pop(), blocks.pop()
            blocks.append([(last * count + before * number) / (count + number), count + number])
    return np.concatenate([np.full(int(count), value) for value, count in blocks]) if blocks else values


def train(args: argparse.Namespace) -> None:
    """Train with the options of `add_options`."""
    if args.clips:
        train_on_clips(args)
        return
    if not args.glove:
        raise SystemExit("Training on our own lines needs --glove, the word vectors of the command 'words'.")
    seeded(args)
    teacher, config = teacher_without(args.glove), Audio2ExpressionConfig()
    model, average, best = Audio2Expression(config), Audio2Expression(config), BestWeights(Audio2Expression(config))
    optimiser = torch.optim.AdamW(model.parameters(), args.rate, betas=(0.9, 0.99), weight_decay=0.05)
    trainer = Trainer(
        args, {"model": model, "average": average, "best": best, "optimiser": optimiser},
        {"audio2expression": limits(args)}, np.random.default_rng(args.seed), averaged=(model, average), longest=0.995,
        extra=lambda: {"config": json.dumps(asdict(config))},
    )  # fmt: skip
    pool = Pool(args.seed, trainer.step // RENEWAL, teacher, args.first)
    back, calm = held_out(teacher, args.held_out), held_out_calm(teacher, -(-args.held_out // 3))
    alone = held_back_lines()[:: max(1, len(held_back_lines()) // (8 * args.held_out))]
    read = [read_example([line], np.random.default_rng(0), teacher, 1) for line in alone]
    if not trainer.resumed:
        measure(model, pool)
        if args.bank:
            start_from(model, network_of(load_bank(args.bank)))
        average.load_state_dict(model.state_dict())

    def evaluate() -> dict[str, object]:
        average.eval()
        found = score(average, back, calm, read)
        best.keep(average, sum(found.values()))
        best.model.eval()
        calibrate(best.model, back)
        return {"right": found, "best": round(float(best.score), 4), "calibration": best.model.calibration[1].tolist()}

    for _ in trainer.steps("audio2expression", optimiser, evaluate):
        model.train()
        one = draw(pool, np.random.default_rng((args.seed, 3, trainer.step)))
        parts = loss_of(model, one)
        loss = STRENGTH * parts["strength"] + KIND * parts["kind"] + STEADY * parts["steady"]
        minimise(loss, optimiser, model.parameters())
        if (trainer.step + 1) % RENEWAL == 0:
            pool.renew()
        trainer.note({name: part.detach() for name, part in parts.items()})


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    add_trainer_options(parser, minutes=12.0, rate=2e-3)
    parser.add_argument("--glove", type=Path, help="word vectors of the command 'words'; not needed with --clips")
    parser.add_argument("--first", type=int, default=FIRST, help=f"scenes at the start (default {FIRST})")
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help=f"scenes to choose by (default {HELD_OUT})")
    parser.add_argument("--clips", type=Path, help="table of your own clips (.csv), see above; needs --bank")
    parser.add_argument("--bank", type=Path, help="bank whose network is trained further, with or without --clips")
