"""From the weights of stage 2 to a bank with sliders: axes, rest, ranges, presets and hearing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.contract.bank import STARTER, Bank, Coefficient, load_bank, save_bank
from inference.contract.emotion import NEUTRAL
from inference.model.generator import Generator

from ..footage.takes import Footage, without_clip_mean
from .mouth import Codes
from .reenactment import GAIN, latents, ridge

LICENCE = "yours; made from your footage"
FACES = 16  # on which the effect of a bank's columns is measured
STEP = 0.5  # change of alpha for that
UNUSED = 0.01  # share of the bank's strongest effect below which a slider is marked as unused
QUANTILES = (2.0, 98.0)  # of a code: the slider's soft range
TOP = 1.0 / 3.0  # share of an emotion's frames, those farthest from rest, whose mean is its preset


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
def turned_to_axes(model: Generator, effect: Tensor) -> tuple[dict[str, np.ndarray], Tensor]:
    """State dict of an equivalent generator whose banks' columns are the principal axes of their effect.

    The pictures stay the same: the heads are turned with the columns. Returns the state and (n,) the size of each
    new column's effect. The signs are those that the QR decomposition gives.
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
    return {name: tensor.numpy() for name, tensor in state.items()}, (turn.T @ effect).norm(dim=1)


@torch.no_grad()
def solve_face_heads(model: Generator, footage: Footage, codes: np.ndarray, rows: np.ndarray) -> None:
    """Set the lip and pose heads to ridge solutions from the latent of the whole face, as a bank is read."""
    shared = model.fc(latents(model, footage, look=False, rows=rows))
    targets, clip = torch.from_numpy(codes[rows] * GAIN), footage.clip[rows]
    for name in ("lip", "pose"):
        columns = model.config.bank_slices[name]
        wanted = torch.from_numpy(without_clip_mean(targets[:, columns].numpy(), clip))
        head = getattr(model, f"{name}_fc")
        through = torch.from_numpy(without_clip_mean(head[:2](shared).numpy(), clip))
        solution = ridge(through, wanted)
        head[2].weight.copy_(solution.T / head[2].scale)
        head[2].bias.copy_(targets[:, columns].mean(0) - head[:2](shared).mean(0) @ solution)


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


def finish(
    model: Generator,
    teacher: Codes,
    footage: Footage,
    out: Path,
    *,
    origin: str,
    licence: str = "",
    start: str = "none",
    emotions: Mapping[str, np.ndarray] | None = None,
    faces: int = FACES,
    seed: int = 0,
) -> Bank:
    """Write the bank of a trained generator. Returns it.

    origin: what the footage was, for the bank's metadata. start: the file that encoder and decoder were taken from.
    faces: number of faces on which the sliders' effect is measured.
    emotions: frame numbers by emotion; without them only `neutral` becomes a preset.
    """
    rng = np.random.default_rng(seed)
    some = rng.choice(len(footage), min(2000, len(footage)), replace=False)
    solve_face_heads(model, footage, teacher.both(footage), some)
    with torch.no_grad():
        read = model.coefficients(latents(model, footage, look=False, rows=some)).numpy()
    neutral = np.concatenate(footage.neutral) if footage.takes else some
    of_neutral = np.isin(some, neutral)
    rest = np.median(read[of_neutral] if of_neutral.any() else read, 0).astype(np.float32)
    measured = rng.choice(neutral, min(faces, len(neutral)), replace=False)
    state, size = turned_to_axes(model, effects(model, footage, torch.from_numpy(rest), measured))
    turned = Generator(model.config)
    turned.load_state_dict({name: torch.from_numpy(part) for name, part in state.items()})
    with torch.no_grad():
        codes = turned.coefficients(latents(turned, footage, look=False, rows=some)).numpy()
    rest = np.median(codes[of_neutral] if of_neutral.any() else codes, 0)
    low, high = np.percentile(codes, QUANTILES, axis=0)
    names, entries = [], []
    for bank, columns in model.config.bank_slices.items():
        strongest = float(size[columns].max()) or 1.0
        for number, index in enumerate(range(columns.start, columns.stop), 1):
            names.append(f"{bank}_{number:02d}")
            unused = float(size[index]) < UNUSED * strongest
            entries.append(
                Coefficient(
                    names[-1], bank, round(float(rest[index]), 4),
                    round(float(min(low[index], rest[index] - 1e-3)), 4),
                    round(float(max(high[index], rest[index] + 1e-3)), 4), "unused" if unused else "",
                )
            )  # fmt: skip
    presets = {}
    if "exp" in model.config.bank_slices:
        columns = model.config.bank_slices["exp"]
        where = {row: place for place, row in enumerate(some)}
        known = {
            name: np.array([where[row] for row in rows if row in where], int) for name, rows in (emotions or {}).items()
        }
        presets = emotion_presets(codes[:, columns], rest[columns], known)
    if start != "none":
        base = load_bank(STARTER if start == "starter" else Path(start))
        origin = f"{origin}. Encoder and decoder started from '{base.name}' ({base.licence or 'no licence stated'})"
    bank = Bank(out.stem, model.config, tuple(entries), presets, licence=licence or LICENCE, origin=origin, networks={})
    return save_bank(bank, state, out)
