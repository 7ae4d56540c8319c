"""Assemble a bank from the checkpoints of the training stages.

    python -m training export --generator B.pt --audio2lip A.pt --reader R.pt --refiner F.pt --reading S.pt \\
        --insets I.pt --relative-reader RR.pt --close-reader C.pt --out inference/banks/starter.safetensors
    python -m training export --bank inference/banks/starter.safetensors --refiner F.pt --out NEW.safetensors

With --bank, parts that are not given are taken from that bank.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from inference.contract.bank import AUDIO_PREFIX, Bank, Coefficient, is_bank, load_bank, read_bank, save_bank
from inference.contract.config import GeneratorConfig
from inference.expression import network_of
from inference.model.audio2expression import PREFIX as AUDIO2EXPRESSION_PREFIX
from inference.model.audio2pose import PREFIX as AUDIO2POSE_PREFIX
from inference.model.gaze import BANK as EYE_BANK
from inference.model.insets import PREFIX as INSETS_PREFIX
from inference.model.load import networks_json
from inference.model.readers.absolute import PREFIX as READER_PREFIX
from inference.model.refiner import PREFIX as REFINER_PREFIX
from inference.model.teeth import PREFIX as TEETH_PREFIX
from inference.motion import SWAY_BANDS

from .units import BANKS, EMOTIONS, EXPRESSION, EYE, EYE_ARKIT, LIP, POSE, Unit, emotion_vector, in_coefficient_units

READING_PREFIX = f"{REFINER_PREFIX}reading."
RELATIVE_READER_PREFIX, CLOSE_READER_PREFIX = "relative.", "close."
CALIBRATION_PREFIX = f"{CLOSE_READER_PREFIX}calibration."
PARTS = (
    AUDIO_PREFIX,
    AUDIO2POSE_PREFIX,
    AUDIO2EXPRESSION_PREFIX,
    REFINER_PREFIX,
    INSETS_PREFIX,
    READER_PREFIX,
    RELATIVE_READER_PREFIX,
    CLOSE_READER_PREFIX,
    TEETH_PREFIX,
)
ORIGIN = (
    "Trained by this project's own training/ on heads rendered from MakeHuman's CC0 base mesh, targets, face units and "
    "system assets, and on our own sentences, spoken by espeak-ng and by voices of flite and festival under permissive "
    "licences."
)


def arkit_shares(unit: Unit) -> dict[str, float]:
    """Weights of ARKit values that sum to the coefficient: the mean of its face units, or degrees of rotation."""
    if unit.degrees:
        return {unit.name: 1 / unit.degrees}
    return {name: 1 / len(unit.arkit) for name in unit.arkit}


def starter_bank(config: GeneratorConfig) -> Bank:
    """Metadata of the starter bank, without tensors. config: of the generator; the bank has a painted bank of gaze."""
    config = replace(config, banks=(*config.generator.banks, (EYE_BANK, len(EYE))), painted=(EYE_BANK,))
    coefficients = tuple(
        Coefficient(unit.name, bank, 0.0, unit.soft_min, unit.soft_max, unit.unit, arkit_shares(unit))
        for (bank, _), units in zip(BANKS, (LIP, POSE, EXPRESSION), strict=True)
        for unit in units
    )
    coefficients += tuple(
        Coefficient(unit.name, EYE_BANK, 0.0, unit.soft_min, unit.soft_max, unit.unit, weights)
        for unit, weights in zip(EYE, EYE_ARKIT, strict=True)
    )
    presets = {name: np.array(emotion_vector(name), np.float32) for name in EMOTIONS}
    return Bank("starter", config, coefficients, presets, licence="CC0-1.0", origin=ORIGIN)


def in_half_precision(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert floating-point tensors to half precision. The file is half as large; networks compute in float32."""
    return {name: part.astype(np.float16) if part.dtype.kind == "f" else part for name, part in tensors.items()}


def audio_names(tensors: dict[str, np.ndarray]) -> list[str]:
    """Names of the audio network's tensors: those with its prefix in a bank, all in a file of weights."""
    marked = [name for name in tensors if name.startswith(AUDIO_PREFIX)]
    return marked or list(tensors)


def audio_tensors(path: Path) -> dict[str, np.ndarray]:
    """The audio network's tensors of a checkpoint (.pt), a file of weights or a bank (.safetensors)."""
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        return {name.removeprefix(AUDIO_PREFIX): tensors[name] for name in audio_names(tensors)}
    return {name: part.numpy() for name, part in torch.load(path, weights_only=True)["average"].items()}


def speech_level(path: Path) -> float | None:
    """The `Bank.speech_level` of the audio network in a checkpoint (.pt) or a bank; None for a file of weights."""
    if path.suffix == ".safetensors":
        return read_bank(path).speech_level if is_bank(path) else None
    return torch.load(path, weights_only=True).get("speech_level")


def averaged(path: Path) -> dict[str, np.ndarray]:
    """Averaged weights of a checkpoint, without the counters of normalisation layers."""
    state = torch.load(path, weights_only=True)["average"]
    return {name: part.numpy() for name, part in state.items() if not name.endswith("num_batches_tracked")}


def best_weights(path: Path, prefix: str) -> dict[str, np.ndarray]:
    """The best weights of a network in a checkpoint, or its tensors in a bank (.safetensors), which have the prefix."""
    if path.suffix == ".safetensors":
        found = {name: part for name, part in load_file(path).items() if name.startswith(prefix)}
        return {name.removeprefix(prefix): part for name, part in found.items()}
    state = torch.load(path, weights_only=True)["best"]
    return {name.removeprefix("model."): part.numpy() for name, part in state.items() if name.startswith("model.")}


def with_nods(flow: dict[str, np.ndarray], expected: float, drawn: float) -> dict[str, np.ndarray]:
    """The tensors of Audio2Pose, with its motion above 0.8 Hz scaled: the expected and the drawn part."""
    for name, factor in (("mean.gain", expected), ("deviation", drawn)):
        if factor != 1:
            flow = flow | {name: flow[name].copy()}
            flow[name][SWAY_BANDS:] *= factor
    return flow


def run(args: argparse.Namespace) -> None:
    """Export with the options of `add_options`. Raises SystemExit if a required part is missing."""
    if not args.bank and not (args.generator and args.audio2lip):
        raise SystemExit("Give --generator and --audio2lip, or a --bank to take them from.")
    base = load_bank(args.bank) if args.bank else None
    config, tensors = (base.config, dict(base.tensors)) if base else (None, {})

    if args.generator:
        checkpoint = torch.load(args.generator, weights_only=True)
        config = GeneratorConfig.from_json(json.loads(checkpoint["config"]))
        tensors = {name: part for name, part in tensors.items() if name.startswith(PARTS)}  # drops the old generator
        tensors |= {name: part.numpy() for name, part in in_coefficient_units(checkpoint["average"]).items()}

    def put(prefix: str, part: dict[str, np.ndarray]) -> None:
        for name in [name for name in tensors if name.startswith(prefix)]:
            del tensors[name]
        tensors.update({prefix + name: tensor for name, tensor in part.items()})

    level = base.speech_level if base else None
    if args.audio2lip:
        put(AUDIO_PREFIX, audio_tensors(args.audio2lip))
        level = speech_level(args.audio2lip)
    if args.audio2pose:
        put(AUDIO2POSE_PREFIX, with_nods(best_weights(args.audio2pose, AUDIO2POSE_PREFIX), *args.nods))
    if args.audio2expression:
        weights = best_weights(args.audio2expression, AUDIO2EXPRESSION_PREFIX)
        weights["kinds.bias"] = weights["kinds.bias"] + args.neutral * np.eye(len(weights["kinds.bias"]))[-1]
        put(AUDIO2EXPRESSION_PREFIX, weights)
    if args.voice_alone:
        alone = network_of(load_bank(args.voice_alone)).for_voices()
        put(f"{AUDIO2EXPRESSION_PREFIX}alone.", {name: part.numpy() for name, part in alone.items()})
    if args.refiner:  # its own reading network is untrained, see `training.stages.refiner`
        refiner = {name: part for name, part in averaged(args.refiner).items() if not name.startswith("reading.")}
        kept = {name: part for name, part in tensors.items() if name.startswith(READING_PREFIX)}
        put(REFINER_PREFIX, refiner)
        tensors.update(kept)
    for path, prefix in (
        (args.reading, READING_PREFIX),
        (args.insets, INSETS_PREFIX),
        (args.reader, READER_PREFIX),
        (args.relative_reader, RELATIVE_READER_PREFIX),
        (args.close_reader, CLOSE_READER_PREFIX),
        (args.calibration, CALIBRATION_PREFIX),
        (args.teeth, TEETH_PREFIX),
    ):
        if path:
            put(prefix, averaged(path))
    if args.refiner and not any(name.startswith(READING_PREFIX) for name in tensors):
        raise SystemExit("A refiner needs a --reading, or a --bank that has one.")
    assert config is not None
    try:
        bank = replace(starter_bank(config), networks=networks_json(tensors), speech_level=level)
    except KeyError as error:
        raise SystemExit(f"A network lacks the tensor {error}.") from error
    bank = save_bank(bank, in_half_precision(tensors), args.out)
    print(f"{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB, {len(tensors)} tensors, sha256 {bank.sha256}")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("--bank", type=Path, help="bank from which to take the parts that are not given")
    parser.add_argument("--generator", type=Path, help="checkpoint of the generator stage")
    parser.add_argument("--audio2lip", type=Path, help="checkpoint of the audio2lip stage, or a bank")
    parser.add_argument("--audio2pose", type=Path, help="checkpoint of the audio2pose stage, or a bank")
    parser.add_argument(
        "--audio2expression", type=Path, help="checkpoint of the audio2expression stage, or a bank with its network"
    )
    parser.add_argument(
        "--neutral", type=float, default=0.0, metavar="X",
        help="added to the logit of neutral of --audio2expression: fewer neutral lines get an emotion (default 0)",
    )  # fmt: skip
    parser.add_argument(
        "--voice-alone", type=Path, help="bank whose Audio2Expression judges sounds without any words from now on"
    )
    parser.add_argument(
        "--nods",
        type=float,
        nargs=2,
        default=(1.0, 1.0),
        metavar=("EXPECTED", "DRAWN"),
        help="factors of the head motion above 0.8 Hz of --audio2pose: its mean, and what is drawn (default 1 1)",
    )
    parser.add_argument("--refiner", type=Path, help="checkpoint of the refiner stage, trained with that generator")
    parser.add_argument("--reading", type=Path, help="checkpoint of the reader stage with --framed, for the refiner")
    parser.add_argument("--insets", type=Path, help="checkpoint of the insets stage, trained with that refiner")
    parser.add_argument("--reader", type=Path, help="checkpoint of the reader stage")
    parser.add_argument("--relative-reader", type=Path, help="checkpoint of the relative-reader stage")
    parser.add_argument("--close-reader", type=Path, help="checkpoint of the close-reader stage; without a calibration")
    parser.add_argument("--calibration", type=Path, help="checkpoint of the calibration stage, of that close reader")
    parser.add_argument("--teeth", type=Path, help="checkpoint of the teeth stage, trained with those insets")
    parser.add_argument("--out", type=Path, required=True, help="bank (.safetensors) to write")
