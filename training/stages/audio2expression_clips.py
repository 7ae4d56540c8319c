"""Train the Audio2Expression of a bank further, with clips of your own: see `audio2expression`."""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from inference.contract.bank import Bank, load_bank
from inference.contract.coefficients import Coefficients
from inference.contract.emotion import NEUTRAL
from inference.contract.errors import EDTalkError
from inference.contract.expression import SpokenText
from inference.contract.mixing import EXPRESSION
from inference.contract.parsing import read_npz
from inference.expression import Brought, brought_rows, check_brought, network_of, phrases_and_words, voice_rows
from inference.media.sound import load_speech
from inference.model.audio2expression import Audio2Expression
from inference.prosody import prosody
from inference.sentiment import FEATURES as WORD_FEATURES

from ..learning.optimiser import BestWeights, minimise
from ..learning.trainer import Trainer, limits, seeded
from ..voices.emotional import KINDS

LEAST = 20  # clips
BACK = 5  # one in so many clips is held back
BATCH = 32  # phrases
OLD_RATE = 0.1  # step size of layers that the bank has, relative to that of new ones
WEIGHTS = 1.0  # of the loss of expression coefficients


@dataclass(frozen=True, eq=False)
class Clip:
    """The phrases of a clip.

    voice: (N, 48), or (N, d) brought features. words: (N, 32). has_words: (N,) bool. kind: index into KINDS. strength:
    0 to 1. expression: (N, m) coefficients less those of the neutral preset, or None.
    """

    voice: np.ndarray
    words: np.ndarray
    has_words: np.ndarray
    kind: int
    strength: float
    expression: np.ndarray | None


def read_clips(table: Path, bank: Bank) -> list[Clip]:
    """The clips of a table (.csv), whose files are relative to it. Raises EDTalkError for a row that cannot be used."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    missing = {"sound", "kind", "strength"} - set(rows[0] if rows else ())
    if missing:
        raise EDTalkError(f"{table} has no column '{min(missing)}'.", "Give sound, kind and strength for each clip.")
    if len(rows) < LEAST:
        raise EDTalkError(f"{table} has {len(rows)} clips; at least {LEAST} are needed.", "Add clips.")
    clips = []
    for number, row in enumerate(rows, 2):
        try:
            clips.append(_clip(table.parent, row, bank))
        except EDTalkError as error:
            raise EDTalkError(f"{table}, line {number}: {error.message}", error.hint, error.kind) from error
    for name, columns in (("features", {clip.voice.shape[1] for clip in clips}),
                          ("coefficients", {clip.expression is None for clip in clips})):  # fmt: skip
        if len(columns) > 1:
            raise EDTalkError(f"{table}: either all clips have {name} of the same size, or none has.")
    return clips


def _clip(folder: Path, row: dict[str, str], bank: Bank) -> Clip:
    kind, strength = row["kind"].strip().lower(), _number(row["strength"])
    if kind not in KINDS:
        raise EDTalkError(f"the kind must be one of {', '.join(KINDS)}, found '{kind}'.")
    if not 0 <= strength <= 1:
        raise EDTalkError(f"the strength must be a number from 0 to 1, found '{row['strength']}'.")
    samples, seconds = load_speech(folder / row["sound"])
    heard = prosody(samples)
    phrases, words, _ = phrases_and_words(heard, [SpokenText(row.get("text") or "")])
    if not len(phrases):
        raise EDTalkError(f"no speech was found in '{row['sound']}'.")
    voice = voice_rows(heard, phrases)
    if row.get("features"):
        times, table = read_npz(folder / row["features"], ("times", "rows"))
        brought = Brought(times.astype(np.float64), table.astype(np.float32))
        check_brought(brought, seconds)
        voice = brought_rows(brought, phrases)
    expression = None
    if row.get("coefficients"):
        expression = _expression(Coefficients.load(folder / row["coefficients"]), bank, phrases)
    table = np.stack([np.zeros(len(WORD_FEATURES)) if one is None else one for one in words])
    known = np.array([one is not None for one in words])
    return Clip(voice, table.astype(np.float32), known, KINDS.index(kind), strength, expression)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


def _expression(rows: Coefficients, bank: Bank, phrases: np.ndarray) -> np.ndarray:
    """(N, m) mean expression of each phrase, less the neutral preset."""
    values = rows.select(bank.names_of(EXPRESSION)).values
    fps = rows.fps or 25.0
    means = [values[int(start * fps) : max(int(end * fps), int(start * fps) + 1)] for start, end in phrases]
    if any(not len(part) for part in means):
        raise EDTalkError("the coefficients are shorter than the sound.")
    return np.stack([part.mean(axis=0) for part in means]) - bank.presets[NEUTRAL]


def network_for(bank: Bank, clips: list[Clip]) -> Audio2Expression:
    """The network of the bank, with new layers for brought features and for expression coefficients."""
    old = network_of(bank)
    has_features = clips[0].voice.shape[1] != old.config.voice
    expression = clips[0].expression
    config = replace(
        old.config,
        brought=clips[0].voice.shape[1] if has_features else 0,
        expression=0 if expression is None else expression.shape[1],
        alone=0,  # it would not learn from the clips
    )
    model = Audio2Expression(config)
    model.load_state_dict(old.state_dict(), strict=False)
    return model


def train_on_clips(args: argparse.Namespace) -> None:
    """Train with the options of `audio2expression.add_options`; `args.clips` is the table of clips."""
    if not args.bank:
        raise SystemExit("--clips needs --bank, the bank whose network is trained further.")
    seeded(args)
    bank = load_bank(args.bank)
    clips = read_clips(args.clips, bank)
    known, back = [clip for n, clip in enumerate(clips) if n % BACK], clips[::BACK]
    model, average = network_for(bank, clips), network_for(bank, clips)
    best = BestWeights(Audio2Expression(model.config))
    added = {name: part for name, part in model.named_parameters() if name.startswith(("brought.", "expression."))}
    old = [part for name, part in model.named_parameters() if name not in added]
    groups = [{"params": list(added.values()), "scale": 1.0}, {"params": old, "scale": OLD_RATE}]
    optimiser = torch.optim.AdamW([group for group in groups if group["params"]], args.rate, weight_decay=0.05)
    trainer = Trainer(
        args, {"model": model, "average": average, "best": best, "optimiser": optimiser},
        {"clips": limits(args)}, np.random.default_rng(args.seed), averaged=(model, average), longest=0.99,
        extra=lambda: {"config": json.dumps(asdict(model.config))},
    )  # fmt: skip
    if not trainer.resumed:
        average.load_state_dict(model.state_dict())

    @torch.no_grad()
    def evaluate() -> dict[str, object]:
        average.eval()
        loss = float(np.mean([float(_loss(average, clip, "both")) for clip in back]))
        best.keep(average, 1 / (1 + loss))
        return {"held_back_loss": round(loss, 4)}

    for _ in trainer.steps("clips", optimiser, evaluate):
        model.train()
        rng = np.random.default_rng((args.seed, 3, trainer.step))
        drawn = [known[index] for index in rng.integers(len(known), size=min(BATCH, len(known)))]
        modes = rng.choice(["both", "voice", "words"], len(drawn), p=[0.5, 0.25, 0.25])
        loss = torch.stack([_loss(model, clip, mode) for clip, mode in zip(drawn, modes, strict=True)]).mean()
        minimise(loss, optimiser, model.parameters())
        trainer.note({"loss": loss.detach()})


def _loss(model: Audio2Expression, clip: Clip, mode: str) -> Tensor:
    voice, words = (torch.from_numpy(part)[None] for part in (clip.voice, clip.words))
    has_voice = torch.full(voice.shape[:2], float(mode != "words" or not clip.has_words.any()))
    has_words = torch.from_numpy(clip.has_words.astype(np.float32))[None] * float(mode != "voice")
    inputs = voice, words, has_voice, has_words
    strengths, logits = model(*inputs)
    target = torch.zeros_like(strengths)
    if KINDS[clip.kind] != NEUTRAL:
        target[..., clip.kind] = clip.strength
    kinds = torch.full(logits.shape[:2], clip.kind)
    loss = F.smooth_l1_loss(strengths, target, beta=0.2) + 0.3 * F.cross_entropy(logits[0], kinds[0])
    if clip.expression is not None and model.expression is not None:
        wanted = torch.from_numpy(clip.expression.astype(np.float32))[None]
        loss = loss + WEIGHTS * F.smooth_l1_loss(model.expression(model.hidden(*inputs)), wanted, beta=0.2)
    return loss
