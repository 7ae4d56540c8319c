"""Write the bank of a generator trained from footage: principal axes, rest, ranges, presets, names and lip-sync."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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
from ..footage.takes import EYES, Footage, Split
from .footage_generator import LOOKS
from .footage_lipsync import LipSyncFit, fit_lip_sync
from .mouth import GAIN, MotionCodes
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


class Material(NamedTuple):
    """What the footage is. origin: for the bank. consent: the sentence that was agreed to. takes: of clips."""

    origin: str
    consent: str = ""
    takes: tuple[KnownTake, ...] = ()


@torch.no_grad()
def flow_effects(model: Generator, footage: Footage, rest: Tensor, rows: np.ndarray) -> Tensor:
    """Change (n, D) of the last level's flow by each coefficient, for the faces of `rows`. rest: (n,) alpha."""
    latent, features = model.enc(footage.pictures(rows, model.config.size))
    count, changes = len(rest), []
    for index in range(count):
        flows = []
        for sign in (STEP, -STEP):
            alpha = rest.clone()
            alpha[index] += sign
            *_, last = model.levels(latent, features, alpha.expand(len(rows), -1))
            flows.append(torch.tanh(last.flow[:, :2]))
        changes.append(((flows[0] - flows[1]) / (2 * STEP)).flatten())
    return torch.stack(changes)


@torch.no_grad()
def rotate_to_principal_axes(model: Generator, effect: Tensor) -> tuple[dict[str, np.ndarray], Tensor, Tensor]:
    """State dict of an equivalent generator whose banks' columns are the principal axes of their effect.

    The heads are rotated with the columns, so the pictures stay the same. effect: (n, D), see `flow_effects`. Returns
    the state, the size (n,) of each new column's effect, and the rotation (n, n) by which rows of coefficients are
    multiplied. The signs of the columns follow from the generator's QR decomposition.
    """
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    basis, slices = model.basis(), model.config.bank_slices
    rotation = torch.zeros(len(effect), len(effect))
    for columns in slices.values():
        square = (effect[columns] @ effect[columns].T).double()
        rotation[columns, columns] = torch.linalg.eigh(square).eigenvectors.flip(1).float()
    stored = basis @ rotation
    shared = slices["pose"].stop
    state["direction_lipnonlip.weight"] = stored[:, :shared].clone()
    for name in list(slices)[2:]:
        state[f"direction_{name}.weight"] = stored[:, slices[name]].clone()
    check = Generator(model.config)
    check.load_state_dict(state)
    signs = torch.sign((check.basis() * stored).sum(0))
    rotation = rotation * signs  # new alpha = rotation.T @ old alpha
    for name, columns in slices.items():
        block = rotation[columns, columns]
        state[f"{name}_fc.2.weight"] = block.T @ state[f"{name}_fc.2.weight"]
        state[f"{name}_fc.2.bias"] = block.T @ state[f"{name}_fc.2.bias"]
    return {name: tensor.numpy() for name, tensor in state.items()}, (rotation.T @ effect).norm(dim=1), rotation


@torch.no_grad()
def as_affine_map(*layers: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight (n, D) and bias (n,) of the affine map that consecutive layers without activations compute."""
    chain = nn.Sequential(*layers)
    width = chain.get_parameter(f"{next(iter(chain.state_dict())).rsplit('.', 1)[0]}.weight").shape[1]
    bias = chain(torch.zeros(1, width))[0]
    return (chain(torch.eye(width)) - bias).T, bias


@torch.no_grad()
def align_heads_with_latent(model: Generator) -> None:
    """Set the heads to minus the latent's part along the banks' directions: the source's motion in the decoder's terms.

    A portrait that is rendered with its own coefficients then stays as it is, whatever the errors of the encoder.
    """
    basis = model.basis()
    for name, _ in model.config.banks:
        head = getattr(model, f"{name}_fc")
        weight, bias = as_affine_map(*model.fc, *head[:2])  # of the latent
        target = -basis[:, model.config.bank_slices[name]].T
        solution = torch.linalg.solve(weight.T, target.T).T
        head[2].weight.copy_(solution / head[2].scale)
        head[2].bias.copy_(-(solution @ bias))


def emotion_presets(codes: np.ndarray, rest: np.ndarray, emotions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Expression vectors (m,) by name.

    `neutral` is the rest; another emotion is the mean of its frames that are farthest from rest. codes: (N, m)
    expression codes. rest: (m,). emotions: row numbers of the codes by name.
    """
    presets = {NEUTRAL: rest.astype(np.float32)}
    for name, rows in emotions.items():
        if name == NEUTRAL or len(rows) == 0:
            continue
        distance = np.linalg.norm(codes[rows] - rest, axis=1)
        chosen = rows[np.argsort(distance)[-max(1, round(TOP * len(rows))) :]]
        presets[name] = codes[chosen].mean(0).astype(np.float32)
    return presets


def consent_record(consent: str, takes: Iterable[KnownTake], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Metadata entry `footage` of a bank: its clips. before: that of the bank from which the training started."""
    clips = {clip["sha256"]: dict(clip) for clip in (before or {}).get("clips", [])}
    clips |= {take.sha256: {"name": take.clip, "sha256": take.sha256} for take in takes}
    return {"consent": consent, "clips": list(clips.values())}


def finish(
    model: Generator,
    teacher: MotionCodes,
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
    """Write the bank of a trained generator to `out` and return it.

    start: the bank from which encoder and decoder were taken, "starter" or "none". faces: number of faces on which the
    effect of the coefficients is measured. Emotions become presets only if the material names them.
    """
    footage, rng, slices = split.trained, np.random.default_rng(seed), model.config.bank_slices
    readers = {  # affine maps of a window's latent, before the rotation
        name: as_affine_map(*model.fc, *getattr(model, f"{name}_fc")) for name in LOOKS if name in slices
    }
    align_heads_with_latent(model)
    measured = measured_codes(model, footage, teacher, upper, material, rng)
    rest = torch.from_numpy(measured.at_rest().astype(np.float32))
    effect_rows = rng.choice(measured.neutral, min(faces, len(measured.neutral)), replace=False)
    tensors, size, rotation = rotate_to_principal_axes(model, flow_effects(model, footage, rest, effect_rows))
    # Raises if a tensor is missing or has another shape; the loader of banks would accept that.
    Generator(model.config).load_state_dict({name: torch.from_numpy(part) for name, part in tensors.items()})
    axes = rotation.numpy()
    measured = replace(measured, codes=measured.codes @ axes)
    entries, presets = coefficients_and_presets(model, measured, size.numpy())
    for name, look in readers.items():
        tensors |= look_tensors(name, look, LOOKS[name], axes[slices[name], slices[name]])
    lip_sync = LipSyncFit({}, "")
    if material.takes:
        lips = slices["lip"]
        lip_codes = [
            bank_codes(model, part, teacher, upper, np.arange(len(part)))[:, lips] @ axes[lips, lips] for part in split
        ]
        lip_sync = fit_lip_sync(*split, *lip_codes, size[lips].numpy(), list(material.takes))
        print(lip_sync.sentence, "r per slider:", list(lip_sync.r), flush=True)
        tensors |= lip_sync.tensors
    origin = f"{material.origin} {lip_sync.sentence}".strip()
    licence, record = _licence_and_consent(material, start, licence or LICENCE)
    bank = Bank(
        out.stem, model.config, entries, presets, licence=licence, origin=origin, networks=networks_json(tensors),
        footage=record,
    )  # fmt: skip
    bank = replace(bank, coefficients=named_coefficients(bank, tensors, footage, int(measured.neutral[0])))
    return save_bank(bank, tensors, out)


@dataclass(frozen=True)
class MeasuredCodes:
    """Coefficients of frames, from which the rest, ranges and presets follow.

    codes: (N, m). resting: (N,) bool, frames that are near rest. neutral: (n,) numbers of all such frames of the
    footage. emotions: row numbers of `codes` by name of an emotion.
    """

    codes: np.ndarray
    resting: np.ndarray
    neutral: np.ndarray
    emotions: Mapping[str, np.ndarray]

    def at_rest(self) -> np.ndarray:
        """(m,) median of the resting frames."""
        return np.median(self.codes[self.resting] if self.resting.any() else self.codes, 0)


def measured_codes(
    model: Generator,
    footage: Footage,
    teacher: MotionCodes,
    upper: UpperFace,
    material: Material,
    rng: np.random.Generator,
) -> MeasuredCodes:
    """Codes of at most MOST random frames of the footage."""
    rows = np.sort(rng.choice(len(footage), min(MOST, len(footage)), replace=False))
    neutral = np.concatenate(footage.neutral) if footage.takes else rows
    emotions = frames_by_emotion(footage.take_ids[rows], material.takes) if material.takes else {}
    codes = bank_codes(model, footage, teacher, upper, rows)
    return MeasuredCodes(codes, np.isin(rows, neutral), neutral, emotions)


def coefficients_and_presets(
    model: Generator, measured: MeasuredCodes, size: np.ndarray
) -> tuple[tuple[Coefficient, ...], dict[str, np.ndarray]]:
    """Coefficients with rest and range, and presets of emotions; measured: in the bank's own axes. size: (m,) of their
    effects."""
    codes, rest, emotions = measured.codes, measured.at_rest(), measured.emotions
    exp = model.config.bank_slices.get("exp")
    if exp is None:
        return measured_coefficients(model, codes, rest, size), {}
    if len(neutral_rows := emotions.get(NEUTRAL, ())):
        rest[exp] = np.median(codes[neutral_rows][:, exp], 0)
    return measured_coefficients(model, codes, rest, size), emotion_presets(codes[:, exp], rest[exp], emotions)


def _licence_and_consent(material: Material, start: str, licence: str) -> tuple[str, Mapping[str, Any] | None]:
    """Licence and consent of a bank, with those of the bank from which its training started.

    start: see `finish`.
    """
    record = consent_record(material.consent, material.takes) if material.takes else None
    if start == "none":
        return licence, record
    base = load_bank(STARTER if start == "starter" else Path(start))
    licence = f"{licence}; started from '{base.name}': {base.licence or 'no licence stated'}"
    record = consent_record(material.consent, material.takes, base.footage) if material.takes else base.footage
    return licence, record


@torch.no_grad()
def bank_codes(
    model: Generator, footage: Footage, teacher: MotionCodes, upper: UpperFace, rows: np.ndarray
) -> np.ndarray:
    """Coefficients (n, m) of frames from the codes, shifted to the mean of those that the bank reads.

    rows: (n,) frame numbers.
    """
    parts = []
    for part in np.array_split(rows, max(1, len(rows) // 100)):
        parts.append(model.coefficients(model.enc(footage.pictures(part, model.config.size))[0]).numpy())
    predictions = np.concatenate(parts)
    codes = driving_codes(teacher, upper, footage)[rows, : predictions.shape[1]] * GAIN
    return codes + (predictions - codes).mean(0)


def measured_coefficients(
    model: Generator, codes: np.ndarray, rest: np.ndarray, size: np.ndarray
) -> tuple[Coefficient, ...]:
    """Coefficients with numbers as names, rest and soft range; UNUSED_UNIT marks those without effect.

    codes: (N, m) from which the range is measured. rest: (m,). size: (m,) of their effects.
    """
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
def look_tensors(
    bank: str, affine_map: tuple[Tensor, Tensor], window: Window, rotation: np.ndarray
) -> dict[str, np.ndarray]:
    """Tensors of the network that predicts a bank's coefficients from the latent of a window.

    affine_map: weight (n, D) and bias (n,). rotation: (n, n) by which rows of these coefficients are multiplied.
    """
    weight, bias = (torch.from_numpy(rotation.T) @ part for part in affine_map)
    reader = Look(LookConfig(weight.shape[1], len(weight), int(window.centre is not None)))
    reader.read.weight.copy_(weight)
    reader.read.bias.copy_(bias)
    reader.side.fill_(window.side)
    reader.spread.fill_(window.spread)
    if window.centre is not None:
        reader.centre.copy_(torch.tensor(window.centre))
    return bank_tensors(LOOK_NETWORKS[bank], reader)


def named_coefficients(
    bank: Bank, tensors: Mapping[str, np.ndarray], footage: Footage, row: int
) -> tuple[Coefficient, ...]:
    """Coefficients renamed after the motion that they cause in the face of frame `row`, where it is clear."""
    loaded = replace(bank)
    vars(loaded)["tensors"] = dict(tensors)
    renderer = FaceRenderer(loaded, "cpu")
    renderer.set_source(footage.frames[row])
    rest = renderer.source_coefficients.values[0]
    centred = tuple(
        replace(
            entry,
            rest=float(own),
            soft_min=own + entry.soft_min - entry.rest,
            soft_max=own + entry.soft_max - entry.rest,
        )
        for entry, own in zip(bank.coefficients, rest.tolist(), strict=True)
    )
    eyes = (footage.points[row, EYES].astype(np.float64) + 1.0) * (bank.config.size / 2.0) - 0.5
    motions = explore(lambda rows: renderer.render(rows), rest, centred, eyes)
    result = []
    for entry, motion in zip(bank.coefficients, motions, strict=True):
        clear = (
            motion.shares.get(motion.region, 0.0) >= CLEAR and motion.amount >= SEEN and may_name(entry, motion.region)
        )
        if clear and motion.suggestion != entry.name:
            entry = replace(entry, name=motion.suggestion, arkit=motion.arkit, moves=motion.moves)
        result.append(entry)
    return tuple(result)


def may_name(entry: Coefficient, region: str) -> bool:
    """Whether a coefficient may be named after its motion in a region. One of the lips is not named after the head."""
    if entry.unit == UNUSED_UNIT:
        return False
    return {"lip": region in ("jaw", "mouth"), "pose": region == "head"}.get(entry.bank, region != "head")
