"""Converts EDTalk's published files to a bank, and describes banks and checkpoints."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ..contract.bank import AUDIO_PREFIX, Bank, is_bank, load_bank, numbered_coefficients, read_bank, save_bank
from ..contract.config import GeneratorConfig
from ..contract.errors import EDTalkError
from .checkpoint import GENERATOR, Checkpoint, Network, audio_network_of, generator_of, network_of, read_checkpoint
from .load import networks_json

BROUGHT_BY_USER = "Provided by the user; see the publisher's terms."


@dataclass(frozen=True)
class Report:
    """Result of a conversion. used: tensors in the bank; dropped: tensors that nothing reads; size: bytes."""

    bank: Bank
    used: int
    dropped: tuple[str, ...]
    size: int

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.bank.path),
            "name": self.bank.name,
            **self.bank.config.to_json(),
            "tensors": self.used,
            "dropped": list(self.dropped),
            "presets": sorted(self.bank.presets),
            "audio": self.bank.has_audio,
            "licence": self.bank.licence,
            "origin": self.bank.origin,
            "sha256": self.bank.sha256,
            "bytes": self.size,
        }

    def __str__(self) -> str:
        return "\n".join(
            (
                f"{self.bank.path}: {self.size / 2**20:.1f} MiB, weights sha256 {self.bank.sha256}",
                *_describe_config(self.bank.config.to_json()),
                f"tensors   {self.used} used, {len(self.dropped)} unused and dropped",
                *(f"          - {line}" for line in _grouped(self.dropped)),
                f"emotions  {', '.join(sorted(self.bank.presets)) or 'none'}",
                f"audio     {'yes' if self.bank.has_audio else 'no: lip-sync needs an Audio2Lip checkpoint'}",
                f"origin    {self.bank.origin}",
                f"licence   {self.bank.licence}",
            )
        )


def convert(
    generator: str | os.PathLike[str],
    audio2lip: str | os.PathLike[str] | None,
    presets: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    licence: str = BROUGHT_BY_USER,
) -> Report:
    """Write the bank `out` from upstream's files, atomically.

    generator: EDTalk.pt, EDTalk_lip_pose.pt or a .safetensors file with the same tensors; audio2lip: Audio2Lip.pt;
    presets: folder with one (1, m) float32 .npy per emotion, including `neutral`. name: of the bank; default: the
    generator's file name. Raises EDTalkError that names the file at fault.
    """
    out, sources = Path(out), [Path(path) for path in (generator, audio2lip) if path is not None]
    if out.suffix != ".safetensors":
        raise EDTalkError(f"A bank must be a .safetensors file, found '{out}'.", f"Name it {out.stem}.safetensors.")
    if any(out.exists() and out.samefile(source) for source in sources if source.exists()):
        raise EDTalkError(f"{out} is one of the files to be converted.", "Choose another file for the bank.")

    network = generator_of(read_checkpoint(sources[0]))
    tensors = dict(network.live)
    dropped = list(network.dead)
    if audio2lip is not None:
        audio = _audio_for(network.config, sources[1])
        tensors |= {AUDIO_PREFIX + key: tensor for key, tensor in audio.live.items()}
        dropped += [AUDIO_PREFIX + key for key in audio.dead]
    emotions = {} if presets is None else _read_presets(Path(presets), network.config, sources[0])

    origin = [f"{source.name} (sha256 {_sha256(source)})" for source in sources]
    arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
    bank = Bank(
        name=name or sources[0].stem,
        config=network.config,
        coefficients=numbered_coefficients(network.config.banks),
        presets=emotions,
        licence=licence,
        origin=", ".join([*origin, *([f"{len(emotions)} emotion presets"] if emotions else [])]),
        networks=networks_json(arrays),
    )
    bank = save_bank(bank, arrays, out)
    return Report(bank, len(tensors), tuple(dropped), out.stat().st_size)


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe a bank or a checkpoint as JSON values; `format_inspect` formats them as text.

    A file that is readable but damaged or unsuitable is described too, with the reason as "fault". Raises EDTalkError
    if the file cannot be read.
    """
    path = Path(path)
    if path.suffix == ".safetensors" and is_bank(path):
        return _inspect_bank(path)
    expected = "expected a bank (.safetensors) or a checkpoint that EDTalk publishes (.pt)"
    return _inspect_checkpoint(read_checkpoint(path, expected))


def format_inspect(description: Mapping[str, Any]) -> str:
    """The result of `inspect` as text for a terminal."""
    lines = [f"{description['path']}: {description['kind']}, {description['bytes'] / 2**20:.1f} MiB"]
    if description["kind"] == "bank":
        lines.append(f"name      {description['name']}")
    if "size" in description:
        lines += _describe_config(description)
    if "channels" in description and "size" not in description:
        lines.append(f"network   channels {description['channels']}, {description['lip_dim']} mouth coefficients")
    if "tensors" in description:
        lines.append(f"tensors   {description['tensors']} used, {description['parameters']:,} numbers")
    if description.get("dropped"):
        lines.append(f"dropped   {len(description['dropped'])} unused")
        lines += [f"          - {line}" for line in _grouped(description["dropped"])]
    if description["kind"] == "bank":
        lines += [
            f"audio     {'yes' if description['audio'] else 'no'}",
            f"emotions  {', '.join(description['presets']) or 'none'}",
            f"hash      {'as recorded' if description['hash_ok'] else 'DIFFERS'}, "
            f"weights sha256 {description['sha256']}",
            f"origin    {description['origin'] or 'not stated'}",
            f"licence   {description['licence'] or 'not stated'}",
        ]
        for bank, coefficients in groupby(description["coefficients"], lambda entry: entry["bank"]):
            lines.append(f"{bank}:")
            for entry in coefficients:
                values = f"rest {entry['rest']:g}, {entry['soft_min']:g} to {entry['soft_max']:g}"
                lines.append(f"  {entry['name']:<28} {values:<24} {entry['unit']}".rstrip())
    if description.get("fault"):
        lines.append(f"fault     {description['fault']}")
    return "\n".join(lines)


def _audio_for(config: GeneratorConfig, path: Path) -> Network:
    audio = audio_network_of(read_checkpoint(path))
    lips = dict(config.banks)["lip"]
    if audio.config.lip_dim != lips:
        raise EDTalkError(
            f"{path} does not match this generator: expected {lips} mouth coefficients, found {audio.config.lip_dim}.",
            "Use the audio network that was published with the generator.",
            "bank",
        )
    return audio


def _read_presets(folder: Path, config: GeneratorConfig, generator: Path) -> dict[str, np.ndarray]:
    """Expression vectors (m,) float32 by file name."""
    width = dict(config.banks).get("exp")
    hint = "Choose the folder 'predefined_exp_weights' that EDTalk publishes."
    if width is None:
        raise EDTalkError(
            f"{folder} cannot be used: the generator {generator} has no expression bank.",
            "Omit the presets, or convert EDTalk.pt.",
            "bank",
        )
    presets = {}
    for path in sorted(folder.glob("*.npy")):
        try:
            with path.open("rb") as file:
                vector = np.lib.format.read_array(file, allow_pickle=False)
            sound = vector.shape in ((1, width), (width,)) and vector.dtype.kind == "f" and np.isfinite(vector).all()
            found = f"shape {vector.shape} of {vector.dtype}"
        except (OSError, ValueError, EOFError):
            sound, found = False, "something else"
        if not sound:
            raise EDTalkError(
                f"{path} is not an emotion preset: expected {width} finite numbers of shape (1, {width}), found "
                f"{found}.",
                hint,
                "bank",
            )
        presets[path.stem] = vector.reshape(width).astype(np.float32)
    if "neutral" not in presets:
        found = ", ".join(presets) or ("no .npy file" if folder.is_dir() else "no such folder")
        raise EDTalkError(
            f"{folder} lacks the neutral preset: expected neutral.npy, found {found}.",
            hint,
            "bank",
        )
    return presets


def _inspect_bank(path: Path) -> dict[str, Any]:
    bank = read_bank(path)
    description = {
        "kind": "bank",
        "path": str(path),
        "bytes": path.stat().st_size,
        **bank.to_json(),
        "audio": bank.has_audio,
    }
    del description["has_audio"]
    try:
        tensors = load_bank(path).tensors
    except EDTalkError as error:
        return description | {"hash_ok": False, "fault": error.message}
    return description | {
        "hash_ok": True,
        "tensors": len(tensors),
        "parameters": sum(tensor.size for tensor in tensors.values()),
    }


def _inspect_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    description = {
        "kind": "generator checkpoint" if checkpoint.kind == GENERATOR else "audio checkpoint",
        "path": str(checkpoint.path),
        "bytes": checkpoint.path.stat().st_size,
    }
    try:
        network = network_of(checkpoint)
    except EDTalkError as error:
        return description | {"fault": error.message}
    config = network.config
    return description | {
        **(config.to_json() if isinstance(config, GeneratorConfig) else vars(config)),
        "tensors": len(network.live),
        "parameters": sum(tensor.numel() for tensor in network.live.values()),
        "dropped": list(network.dead),
    }


def _describe_config(config: Mapping[str, Any]) -> list[str]:
    channels = ", ".join(f"{resolution}: {count}" for resolution, count in config["channels"].items())
    return [
        f"network   {config['size']} px, latent of {config['style_dim']}, channels {channels}",
        f"banks     {', '.join(f'{name} {count}' for name, count in config['banks'])}",
    ]


def _grouped(names: Sequence[str]) -> list[str]:
    """Tensor names, those that differ only in numbers as one line: `dec.convs.*.noise.weight (12)`."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kind = ".".join("*" if part.isdigit() else part for part in name.split("."))
        kinds.setdefault(kind, []).append(name)
    return [f"{kind} ({len(alike)})" if len(alike) > 1 else alike[0] for kind, alike in kinds.items()]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
