"""From the weights of stage 2 to a bank with sliders: axes, rest, ranges, presets and hearing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from inference.contract.bank import STARTER, Bank, Coefficient, load_bank, save_bank
from inference.contract.emotion import NEUTRAL
from inference.explore import explore
from inference.model.generator import Generator
from inference.model.load import bank_tensors, networks_json
from inference.model.readers.look import LOOKS as LOOK_NETWORKS
from inference.model.readers.look import Look, LookConfig, Window
from inference.renderer import FaceRenderer

from ..footage.named import KnownTake, frames_by_emotion
from ..footage.takes import EYES, Footage
from .hearing import Hearing, learn_hearing
from .mouth import Codes
from .reenactment import GAIN, LOOKS
from .upper_face import UpperFace, driving_codes

LICENCE = "yours; made from your footage"
MOST = 2000  # frames that ranges are measured on
FACES = 16  # on which the effect of a bank's columns is measured
STEP = 0.5  # change of alpha for that
UNUSED = 0.01  # share of the bank's strongest effect below which a slider is marked as unused
UNUSED_UNIT = "unused"
QUANTILES = (2.0, 98.0)  # of a code: the slider's soft range
TOP = 1.0 / 3.0  # share of an emotion's frames, those farthest from rest, whose mean is its preset
CLEAR, SEEN = 0.45, 0.03  # share of a motion in its region, and eye distances, from which on it names a slider


class Split(NamedTuple):
    """Footage to learn from and footage to measure on."""

    trained: Footage
    heldout: Footage


class Material(NamedTuple):
    """What the footage is. origin: for the bank. consent: the sentence that was agreed to. takes: of clips."""

    origin: str
    consent: str = ""
    takes: tuple[KnownTake, ...] = ()


@torch.no_grad()
def effects(model: Generator, footage: Footage, rest: Tensor, rows: np.ndarray) -> Tensor:
    """(n, D) change of the flow by each coefficient, of the faces of `rows`."""
    latent, features = model.enc(footage.pictures(rows, model.config.size))
    count, found = len(rest), []
    for index in range(count):
        sides = []
        for sign in (STEP, -STEP):
            alpha = rest.clone()
            alpha[index] += sign
            *_, last = model.levels(latent, features, alpha.expand(len(rows), -1))
            sides.append(torch.tanh(last.flow[:, :2]))
        found.append(((sides[0] - sides[1]) / (2 * STEP)).flatten())
    return torch.stack(found)


@torch.no_grad()
def turned_to_axes(model: Generator, effect: Tensor) -> tuple[dict[str, np.ndarray], Tensor, Tensor]:
    """State dict of an equivalent generator whose banks' columns are the principal axes of their effect.

    The pictures stay the same: the heads are turned with the columns. Returns the state, (n,) the size of each new
    column's effect, and (n, n) by which rows of coefficients are multiplied. The QR decomposition gives the signs.
    """
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    basis, slices = model.basis(), model.config.bank_slices
    turn = torch.zeros(len(effect), len(effect))
    for columns in slices.values():
        square = (effect[columns] @ effect[columns].T).double()
        turn[columns, columns] = torch.linalg.eigh(square).eigenvectors.flip(1).float()
    stored = basis @ turn
    shared = slices["pose"].stop
    state["direction_lipnonlip.weight"] = stored[:, :shared].clone()
    for name in list(slices)[2:]:
        state[f"direction_{name}.weight"] = stored[:, slices[name]].clone()
    other = Generator(model.config)
    other.load_state_dict(state)
    signs = torch.sign((other.basis() * stored).sum(0))
    turn = turn * signs  # new alpha = turn.T @ old alpha
    for name, columns in slices.items():
        part = turn[columns, columns]
        state[f"{name}_fc.2.weight"] = part.T @ state[f"{name}_fc.2.weight"]
        state[f"{name}_fc.2.bias"] = part.T @ state[f"{name}_fc.2.bias"]
    return {name: tensor.numpy() for name, tensor in state.items()}, (turn.T @ effect).norm(dim=1), turn


@torch.no_grad()
def affine(*layers: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight (n, D) and bias (n,) of layers without activations, as one affine map."""
    chain = nn.Sequential(*layers)
    width = chain.get_parameter(f"{next(iter(chain.state_dict())).rsplit('.', 1)[0]}.weight").shape[1]
    bias = chain(torch.zeros(1, width))[0]
    return (chain(torch.eye(width)) - bias).T, bias


@torch.no_grad()
def read_as_drawn(model: Generator) -> None:
    """Set the heads to what the decoder takes for the source's own motion.

    Its latent has the own motion with the opposite sign along the banks' directions. A portrait at rest is then drawn
    as it is, errors of the encoder included.
    """
    basis = model.basis()
    for name, _ in model.config.banks:
        head = getattr(model, f"{name}_fc")
        weight, bias = affine(*model.fc, *head[:2])  # of the latent
        wanted = -basis[:, model.config.bank_slices[name]].T
        solution = torch.linalg.solve(weight.T, wanted.T).T
        head[2].weight.copy_(solution / head[2].scale)
        head[2].bias.copy_(-(solution @ bias))


def emotion_presets(codes: np.ndarray, rest: np.ndarray, emotions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Expression vectors by name: `neutral` is the rest; an emotion is the mean of its frames farthest from rest.

    codes: (N, m) expression codes. emotions: frame numbers by name.
    """
    presets = {NEUTRAL: rest.astype(np.float32)}
    for name, rows in emotions.items():
        if name == NEUTRAL or len(rows) == 0:
            continue
        far = np.linalg.norm(codes[rows] - rest, axis=1)
        chosen = rows[np.argsort(far)[-max(1, round(TOP * len(rows))) :]]
        presets[name] = codes[chosen].mean(0).astype(np.float32)
    return presets


def consent_record(consent: str, takes: Iterable[KnownTake], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The bank's entry on the clips it was made from. before: that of the bank that it started from."""
    clips = {clip["sha256"]: dict(clip) for clip in (before or {}).get("clips", [])}
    clips |= {take.sha256: {"name": take.clip, "sha256": take.sha256} for take in takes}
    return {"consent": consent, "clips": list(clips.values())}


def finish(
    model: Generator,
    teacher: Codes,
    upper: UpperFace,
    split: Split,
    out: Path,
    material: Material,
    *,
    licence: str = "",
    start: str = "none",
    faces: int = FACES,
    seed: int = 0,
) -> Bank:
    """Write the bank of a trained generator. Returns it.

    start: the file that encoder and decoder were taken from. faces: number of faces on which the sliders' effect is
    measured. Emotions become presets only if the material names them.
    """
    footage, rng = split.trained, np.random.default_rng(seed)
    some = np.sort(rng.choice(len(footage), min(MOST, len(footage)), replace=False))
    slices = model.config.bank_slices
    looks = {  # affine maps of a window's latent, before they are turned
        name: affine(*model.fc, *getattr(model, f"{name}_fc")) for name in LOOKS if name in slices
    }
    read_as_drawn(model)
    codes = codes_of(model, footage, teacher, upper, some)
    neutral = np.concatenate(footage.neutral) if footage.takes else some
    emotions = frames_by_emotion(footage.clip[some], material.takes) if material.takes else {}
    at_rest = np.isin(some, neutral)
    rest = np.median(codes[at_rest] if at_rest.any() else codes, 0).astype(np.float32)
    measured = rng.choice(neutral, min(faces, len(neutral)), replace=False)
    state, size, turn = turned_to_axes(model, effects(model, footage, torch.from_numpy(rest), measured))
    turned = Generator(model.config)
    turned.load_state_dict({name: torch.from_numpy(part) for name, part in state.items()})
    codes, axes = codes @ turn.numpy(), turn.numpy()
    rest = np.median(codes[at_rest] if at_rest.any() else codes, 0)
    if "exp" in model.config.bank_slices and len(known := emotions.get(NEUTRAL, ())):
        rest[model.config.bank_slices["exp"]] = np.median(codes[known][:, model.config.bank_slices["exp"]], 0)
    entries = numbered(model, codes, rest, size.numpy())
    presets = {}
    if "exp" in model.config.bank_slices:
        columns = model.config.bank_slices["exp"]
        presets = emotion_presets(codes[:, columns], rest[columns], emotions)
    lips, tensors = slices["lip"], state
    for name, look in looks.items():
        tensors |= look_tensors(name, look, LOOKS[name], axes[slices[name], slices[name]])
    hearing = Hearing({}, "")
    if material.takes:
        both = [
            codes_of(model, part, teacher, upper, np.arange(len(part)))[:, lips] @ axes[lips, lips] for part in split
        ]
        hearing = learn_hearing(*split, *both, size[lips].numpy(), list(material.takes))
        print(hearing.sentence, "r per slider:", list(hearing.r), flush=True)
    tensors |= hearing.tensors
    origin, licence = f"{material.origin} {hearing.sentence}".strip(), licence or LICENCE
    used = consent_record(material.consent, material.takes) if material.takes else None
    if start != "none":
        base = load_bank(STARTER if start == "starter" else Path(start))
        licence = f"{licence}; started from '{base.name}': {base.licence or 'no licence stated'}"
        used = consent_record(material.consent, material.takes, base.footage) if material.takes else base.footage
    bank = Bank(
        out.stem, model.config, entries, presets, licence=licence, origin=origin, networks=networks_json(tensors),
        footage=used,
    )  # fmt: skip
    bank = replace(bank, coefficients=named(bank, tensors, footage, int(neutral[0])))
    return save_bank(bank, tensors, out)


@torch.no_grad()
def codes_of(model: Generator, footage: Footage, teacher: Codes, upper: UpperFace, rows: np.ndarray) -> np.ndarray:
    """(n, m) coefficients of frames by the codes that drove the decoder.

    They are placed where the bank reads the same frames on the average.
    """
    read = []
    for part in np.array_split(rows, max(1, len(rows) // 100)):
        read.append(model.coefficients(model.enc(footage.pictures(part, model.config.size))[0]).numpy())
    found = np.concatenate(read)
    codes = driving_codes(teacher, upper, footage)[rows, : found.shape[1]] * GAIN
    return codes + (found - codes).mean(0)


def numbered(model: Generator, codes: np.ndarray, rest: np.ndarray, size: np.ndarray) -> tuple[Coefficient, ...]:
    """Numbered sliders with rest, soft range and a mark on those without effect. size: (m,) of their effects."""
    low, high = np.percentile(codes, QUANTILES, axis=0)
    entries = []
    for bank, columns in model.config.bank_slices.items():
        strongest = float(size[columns].max()) or 1.0
        for number, index in enumerate(range(columns.start, columns.stop), 1):
            unused = float(size[index]) < UNUSED * strongest
            entries.append(
                Coefficient(
                    f"{bank}_{number:02d}", bank, round(float(rest[index]), 4),
                    round(float(min(low[index], rest[index] - 1e-3)), 4),
                    round(float(max(high[index], rest[index] + 1e-3)), 4), UNUSED_UNIT if unused else "",
                )
            )  # fmt: skip
    return tuple(entries)


@torch.no_grad()
def look_tensors(bank: str, look: tuple[Tensor, Tensor], window: Window, turn: np.ndarray) -> dict[str, np.ndarray]:
    """Tensors of the network that reads a bank's coefficients from a window.

    look: weight (n, D) and bias (n,). turn: (n, n) by which rows of these coefficients are multiplied.
    """
    weight, bias = (torch.from_numpy(turn.T) @ part for part in look)
    reader = Look(LookConfig(weight.shape[1], len(weight), int(window.centre is not None)))
    reader.read.weight.copy_(weight)
    reader.read.bias.copy_(bias)
    reader.side.fill_(window.side)
    reader.spread.fill_(window.spread)
    if window.centre is not None:
        reader.centre.copy_(torch.tensor(window.centre))
    return bank_tensors(LOOK_NETWORKS[bank], reader)


def named(bank: Bank, tensors: Mapping[str, np.ndarray], footage: Footage, row: int) -> tuple[Coefficient, ...]:
    """The sliders with the names of what they do to the face of frame `row`, where that is clear."""
    loaded = replace(bank)
    vars(loaded)["tensors"] = dict(tensors)
    renderer = FaceRenderer(loaded, "cpu")
    renderer.set_source(footage.frames[row])
    rest = renderer.source_coefficients.values[0]
    around = tuple(
        replace(
            entry,
            rest=float(own),
            soft_min=own + entry.soft_min - entry.rest,
            soft_max=own + entry.soft_max - entry.rest,
        )
        for entry, own in zip(bank.coefficients, rest.tolist(), strict=True)
    )
    eyes = (footage.points[row, EYES].astype(np.float64) + 1.0) * (bank.config.size / 2.0) - 0.5
    found = explore(lambda rows: renderer.render(rows), rest, around, eyes)
    result = []
    for entry, motion in zip(bank.coefficients, found, strict=True):
        clear = motion.shares.get(motion.region, 0.0) >= CLEAR and motion.amount >= SEEN and fits(entry, motion.region)
        if clear and motion.suggestion != entry.name:
            entry = replace(entry, name=motion.suggestion, arkit=motion.arkit, moves=motion.moves)
        result.append(entry)
    return tuple(result)


def fits(entry: Coefficient, region: str) -> bool:
    """Whether a motion there may name a slider: one of the lips is not named after the head that it moves a little."""
    if entry.unit == UNUSED_UNIT:
        return False
    return {"lip": region in ("jaw", "mouth"), "pose": region == "head"}.get(entry.bank, region != "head")
