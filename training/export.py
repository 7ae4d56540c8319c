"""Assemble the embedded starter bank from a trained generator and a trained Audio2Lip.

    python -m training.export --generator B.pt --audio2lip A.safetensors --reader R.pt \\
        --refiner F.pt --reading S.pt --insets I.pt --relative-reader RR.pt --close-reader C.pt \\
        --out inference/banks/starter.safetensors
    python -m training.export --bank inference/banks/starter.safetensors --refiner F.pt --out NEW.safetensors
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from inference.contract.bank import AUDIO_PREFIX, Bank, Coefficient, load_bank, save_bank
from inference.contract.config import GeneratorConfig
from inference.model.insets import PREFIX as INSETS_PREFIX
from inference.model.readers.absolute import PREFIX as READER_PREFIX
from inference.model.readers.close import PREFIX as CLOSE_READER_PREFIX
from inference.model.readers.relative import PREFIX as RELATIVE_READER_PREFIX
from inference.model.refiner import PREFIX as REFINER_PREFIX

from .units import BANKS, EMOTIONS, EXPRESSION, LIP, POSE, Unit, emotion_vector, in_coefficient_units

READING_PREFIX = f"{REFINER_PREFIX}reading."
PARTS = AUDIO_PREFIX, REFINER_PREFIX, INSETS_PREFIX, READER_PREFIX, RELATIVE_READER_PREFIX, CLOSE_READER_PREFIX
ORIGIN = (
    "Trained by this project's own training/ on heads rendered from MakeHuman's CC0 base mesh, targets and face units, "
    "and on speech synthesised by espeak-ng from our own sentences."
)


def arkit_shares(unit: Unit) -> dict[str, float]:
    """What a coefficient is made of when ARKit captures a face: the mean of the units it drives, or degrees."""
    if unit.degrees:
        return {unit.name: 1 / unit.degrees}
    return {name: 1 / len(unit.arkit) for name in unit.arkit}


def starter_bank(config: GeneratorConfig) -> Bank:
    coefficients = tuple(
        Coefficient(unit.name, bank, 0.0, unit.soft_min, unit.soft_max, unit.unit, arkit_shares(unit))
        for (bank, _), units in zip(BANKS, (LIP, POSE, EXPRESSION), strict=True)
        for unit in units
    )
    presets = {name: np.array(emotion_vector(name), np.float32) for name in EMOTIONS}
    return Bank("starter", config, coefficients, presets, licence="CC0-1.0", origin=ORIGIN)


def in_short(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """At half the size, where numbers are not whole: networks do not mind, and compute in float32."""
    return {name: part.astype(np.float16) if part.dtype.kind == "f" else part for name, part in tensors.items()}


def audio_names(tensors: dict[str, np.ndarray]) -> list[str]:
    """Which tensors of a file are the audio network's: those marked so in a bank, all in a file of weights."""
    marked = [name for name in tensors if name.startswith(AUDIO_PREFIX)]
    return marked or list(tensors)


def trained(path: Path) -> dict[str, np.ndarray]:
    """What a trainer's checkpoint holds, its steps averaged; without counters of these."""
    state = torch.load(path, weights_only=True)["average"]
    return {name: part.numpy() for name, part in state.items() if not name.endswith("num_batches_tracked")}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", type=Path, help="bank from which to take what is not given")
    parser.add_argument("--generator", type=Path, help="checkpoint of training.stages.generator")
    parser.add_argument("--audio2lip", type=Path, help="weights of training.stages.audio2lip, or a bank")
    parser.add_argument("--refiner", type=Path, help="checkpoint of training.stages.refiner with that generator")
    parser.add_argument("--reading", type=Path, help="checkpoint of training.stages.reader --framed, for the refiner")
    parser.add_argument("--insets", type=Path, help="checkpoint of training.stages.insets with that refiner")
    parser.add_argument("--reader", type=Path, help="checkpoint of training.stages.reader, for a bank of its size")
    parser.add_argument("--relative-reader", type=Path, help="checkpoint of training.stages.relative_reader")
    parser.add_argument("--close-reader", type=Path, help="checkpoint of training.stages.close_reader")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    if not args.bank and not (args.generator and args.audio2lip):
        parser.error("without --bank, both --generator and --audio2lip are needed")
    base = load_bank(args.bank) if args.bank else None
    config, tensors = (base.config, dict(base.tensors)) if base else (None, {})

    if args.generator:
        checkpoint = torch.load(args.generator, weights_only=True)
        config = GeneratorConfig.from_json(json.loads(checkpoint["config"]))
        tensors = {name: part for name, part in tensors.items() if name.startswith(PARTS)}  # not another generator's
        tensors |= {name: part.numpy() for name, part in in_coefficient_units(checkpoint["average"]).items()}

    def put(prefix: str, part: dict[str, np.ndarray]) -> None:
        for name in [name for name in tensors if name.startswith(prefix)]:
            del tensors[name]
        tensors.update({prefix + name: tensor for name, tensor in part.items()})

    if args.audio2lip:
        listening = load_file(args.audio2lip)
        put(AUDIO_PREFIX, {name.removeprefix(AUDIO_PREFIX): listening[name] for name in audio_names(listening)})
    if args.refiner:  # it was told what sources are doing, so its own reading knows nothing
        knowing = {name: part for name, part in trained(args.refiner).items() if not name.startswith("reading.")}
        kept = {name: part for name, part in tensors.items() if name.startswith(READING_PREFIX)}
        put(REFINER_PREFIX, knowing)
        tensors.update(kept)
    for path, prefix in (
        (args.reading, READING_PREFIX),
        (args.insets, INSETS_PREFIX),
        (args.reader, READER_PREFIX),
        (args.relative_reader, RELATIVE_READER_PREFIX),
        (args.close_reader, CLOSE_READER_PREFIX),
    ):
        if path:
            put(prefix, trained(path))
    if args.refiner and not any(name.startswith(READING_PREFIX) for name in tensors):
        parser.error("a refiner needs a --reading, or a --bank that has one")
    bank = save_bank(starter_bank(config), in_short(tensors), args.out)
    print(f"{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB, {len(tensors)} tensors, sha256 {bank.sha256}")


if __name__ == "__main__":
    main()
