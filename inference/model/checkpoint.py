"""Reads EDTalk's published checkpoints without executing code from them, and compares them with our networks.

A checkpoint is a downloaded pickle, so it is read with torch's restricted unpickler. Besides tensors, only
`argparse.Namespace` (the trainers' options) is allowed. What a pickle names and how large its tensors claim to be is
checked, too, so that a small file cannot fill the memory. Every fault of a file is reported as an EDTalkError.
"""

from __future__ import annotations

import argparse
import pickletools
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..contract.bank import is_bank
from ..contract.config import GeneratorConfig
from ..contract.content import as_text, content_of
from ..contract.errors import EDTalkError
from .audio2lip import Audio2Lip, Audio2LipConfig
from .generator import Generator
from .load import audio2lip_config

GENERATOR = "gen"
AUDIO = "audio2lip"
_PUBLISHED = {GENERATOR: "a generator (EDTalk.pt or EDTalk_lip_pose.pt)", AUDIO: "the audio network (Audio2Lip.pt)"}
_TELL_TALE = {GENERATOR: "direction_lipnonlip.weight", AUDIO: "audio_encoder.0.conv_block.0.weight"}
# What the pickles of checkpoints name. Others that torch allows, such as `bytearray`, take memory for a number alone.
_GLOBALS = re.compile(
    r"collections OrderedDict|argparse Namespace|torch\._utils _rebuild_((sparse_)?tensor(_v2)?|parameter)"
    r"|torch \w+Storage|torch (Size|device|float16|bfloat16|float32|float64)|torch\.nn\.parameter Parameter"
    r"|torch\.serialization _get_layout"
)
_MOST_OPCODES, _MOST_PICKLE = 2_000_000, 32 * 2**20  # opcodes and bytes of the pickles in a checkpoint
_LEGACY_PICKLES = 5  # of a file that torch wrote before version 1.6; the tensors follow
EXPECTED = "expected a checkpoint that EDTalk publishes (.pt or .safetensors)"
_DOWNLOAD = "Choose another file, or download it again and compare its size with the publisher's."

# Tensors that upstream saves but that rendering does not use. All others must be known to our networks.
_DEAD = re.compile(
    r"dec\.(conv1|convs\.\d+)\.noise\.weight"
    r"|dec\.to_rgb1\.(bias|conv\.0\.weight|conv\.1\.bias)"
    r"|dec\.to_(rgbs|flows)\.0\.upsample\.kernel"
    r"|dec\.fineadainresblock\.\d+\.(conv1|norm1\.(mlp_shared\.0|mlp_gamma|mlp_beta))\.(weight|bias)"
    r"|audio_encoder\.\d+\.conv_block\.1\.num_batches_tracked"
)


@dataclass(frozen=True)
class Checkpoint:
    """One network's state dict as published. kind: GENERATOR or AUDIO."""

    path: Path
    kind: str
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Network:
    """The tensors of a checkpoint that one of our networks uses.

    config: configuration of the network. live: its tensors, float32. dead: names of the checkpoint's unused tensors.
    """

    config: GeneratorConfig | Audio2LipConfig
    live: Mapping[str, Tensor]
    dead: tuple[str, ...]


def read_checkpoint(path: Path, expected: str = EXPECTED) -> Checkpoint:
    """Read the network in a `.pt` file as upstream publishes it, or in a `.safetensors` file with the same names.

    Raises EDTalkError (kind "bank") for any other file. expected: what the file should be, for its message.
    """
    _refuse_failed_download(path, expected)
    if path.suffix == ".safetensors":
        found = _read_safetensors(path)
        entries = {kind: found for kind, name in _TELL_TALE.items() if name in found}
    else:
        found = _read_pickle(path, expected)
        entries = {kind: found[kind] for kind in _PUBLISHED if kind in found} if isinstance(found, Mapping) else {}
    if len(entries) != 1:
        names = _some(found) if isinstance(found, Mapping) else type(found).__name__
        raise _unfit(path, f"expected {_PUBLISHED[GENERATOR]} or {_PUBLISHED[AUDIO]}, found {names or 'nothing'}.")
    ((kind, state),) = entries.items()
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise _unfit(path, f"expected its entry '{kind}' to hold named tensors, found something else.")
    _check_sizes(path, state)
    return Checkpoint(path, kind, state)


def generator_of(checkpoint: Checkpoint) -> Network:
    """The generator in a checkpoint, of any size. Raises EDTalkError if tensors are missing or unknown."""
    _expect_kind(checkpoint, GENERATOR)
    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors.items()}
    try:
        config = GeneratorConfig.from_shapes(shapes)
        network = _without_memory(Generator, config)
    except (KeyError, IndexError, ValueError, ArithmeticError, RuntimeError) as error:
        raise _no_sizes(checkpoint, error) from error
    banks = ", ".join(f"{name} {count}" for name, count in config.banks)
    return _match(checkpoint, config, network, f"a {config.size} px generator with the banks {banks}")


def audio_network_of(checkpoint: Checkpoint) -> Network:
    """The audio network in a checkpoint, of any width. Raises EDTalkError if tensors are missing or unknown."""
    _expect_kind(checkpoint, AUDIO)
    try:
        config = audio2lip_config(checkpoint.tensors)
        network = _without_memory(Audio2Lip, config)
    except (KeyError, IndexError, ValueError, ArithmeticError, RuntimeError) as error:
        raise _no_sizes(checkpoint, error) from error
    return _match(checkpoint, config, network, f"an audio network with {config.lip_dim} mouth coefficients")


def network_of(checkpoint: Checkpoint) -> Network:
    """The generator or the audio network in a checkpoint, see `generator_of` and `audio_network_of`."""
    return generator_of(checkpoint) if checkpoint.kind == GENERATOR else audio_network_of(checkpoint)


def _without_memory(network: type[nn.Module], config: Any) -> nn.Module:
    """Build a network on the "meta" device: it has names and shapes, but its weights need no memory."""
    with torch.device("meta"):
        return network(config)


def _match(checkpoint: Checkpoint, config: Any, network: nn.Module, what: str) -> Network:
    tensors = checkpoint.tensors
    dead = tuple(name for name in tensors if _DEAD.fullmatch(name))
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if not _DEAD.fullmatch(name)}
    missing = [name for name in expected if name not in tensors]
    surplus = [name for name in tensors if name not in expected and name not in dead]
    faults = [f"{verb} {_some(names)}" for verb, names in (("lacks", missing), ("also has", surplus)) if names]
    if faults:
        raise _unfit(checkpoint.path, f"expected {what}, but it {' and '.join(faults)}.")
    live = {}
    for name, shape in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise _unfit(
                checkpoint.path, f"expected {what}, whose {name} has shape {shape}, found {tuple(tensor.shape)}."
            )
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise _unfit(
                checkpoint.path,
                f"expected {name} to hold plain floating-point numbers, found {tensor.dtype}, {tensor.layout}.",
            )
        if not torch.isfinite(tensor).all():
            raise _unfit(checkpoint.path, f"expected finite weights, found NaN or infinity in {name}.")
        live[name] = tensor.detach().float()
    return Network(config, live, dead)


def _refuse_failed_download(path: Path, expected: str) -> None:
    """Report truncated, HTML and pointer downloads clearly; torch's own errors are cryptic."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError as error:
        raise EDTalkError(f"{path} does not exist; {expected}.", "Check the path.", "bank") from error
    except OSError as error:
        found = "a folder" if path.is_dir() else f"a file that cannot be read ({error.strerror})"
        raise EDTalkError(f"{path} cannot be used: {expected}, found {found}.", "Choose a file.", "bank") from error
    # A checkpoint never is text only: zip and pickle start with control bytes, safetensors with a binary length.
    if as_text(head) is not None:
        raise _unfit(path, f"{expected}, found {content_of(path)}.")
    if head.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path):
        length = path.stat().st_size
        raise _unfit(
            path,
            f"the file is truncated: expected a complete zip archive, found only its first {length} bytes.",
        )


def _read_pickle(path: Path, expected: str) -> Any:
    found = content_of(path)
    if found in ("a zip archive", "an unknown format"):  # as checkpoints begin
        found = "a damaged or foreign one"
    damaged = _unfit(path, f"{expected}, found {found}.")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _check_archive(path, archive)
        else:
            with path.open("rb") as file:
                _check_pickles(path, file, _LEGACY_PICKLES)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except EDTalkError:
        raise
    except Exception as error:  # torch raises many types for damaged archives
        raise damaged from error


def _check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise EDTalkError for entries that torch.save does not write: compressed ones, and names of other objects."""
    entries = archive.infolist()
    size = path.stat().st_size
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _unfit(path, "expected a file written by torch.save, found an archive with compressed entries.")
    if sum(entry.file_size for entry in entries) > size:
        raise _unfit(path, f"its entries claim more than the {size} bytes of the file.")
    if archive.testzip() is not None:  # torch does not verify checksums
        raise _unfit(path, "expected a file written by torch.save, found a damaged or foreign one.")
    for entry in entries:
        if entry.filename.endswith(".pkl"):
            with archive.open(entry) as file:
                _check_pickles(path, file, 1)


def _check_pickles(path: Path, file: IO[bytes], count: int) -> None:
    """Raise EDTalkError if one of the next `count` pickles names an object that checkpoints do not have."""
    opcodes = 0
    for _ in range(count):
        for opcode, argument, at in pickletools.genops(file):
            opcodes += 1
            if opcodes > _MOST_OPCODES or (at or 0) > _MOST_PICKLE:
                raise _unfit(path, "expected named tensors, found far more objects.")
            if opcode.name in ("GLOBAL", "INST") and not _GLOBALS.fullmatch(str(argument)):
                raise _unsafe(path, ".".join(str(argument).split()))
            if opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):  # of later pickles than torch.save writes
                raise _unfit(path, "expected a file written by torch.save, found a damaged or foreign one.")


def _check_sizes(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise EDTalkError for tensors that are larger than what the file stores for them."""
    size, total = path.stat().st_size, 0
    for name, tensor in tensors.items():
        claimed = tensor.numel() * tensor.element_size()
        total += claimed
        stored = tensor.untyped_storage().nbytes() if tensor.layout == torch.strided else claimed
        if claimed > stored or max(stored, total) > size:
            raise _unfit(path, f"{name} claims a shape of {tuple(tensor.shape)}, for which the file is too small.")


def _unsafe(path: Path, name: str) -> EDTalkError:
    return EDTalkError(
        f"{path} is not safe and was not loaded: expected tensors only, found a pickle that requests '{name}'.",
        "Use only checkpoints from EDTalk's own publication.",
        "bank",
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if is_bank(path):
        raise EDTalkError(f"{path} is already a bank: expected a checkpoint.", "Use it without converting.", "bank")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (SafetensorError, OSError) as error:
        raise _unfit(path, "expected a complete safetensors file, found a damaged or foreign one.") from error


def _expect_kind(checkpoint: Checkpoint, kind: str) -> None:
    if checkpoint.kind != kind:
        raise EDTalkError(
            f"{checkpoint.path} is the wrong checkpoint: expected {_PUBLISHED[kind]}, found "
            f"{_PUBLISHED[checkpoint.kind]}.",
            "Exchange the generator and the audio network.",
            "bank",
            "checkpoints_swapped",
        )


def _no_sizes(checkpoint: Checkpoint, error: Exception) -> EDTalkError:
    lack = f"it lacks {error.args[0]}" if isinstance(error, KeyError) else f"its sizes are not valid ({error})"
    return _unfit(checkpoint.path, f"expected {_PUBLISHED[checkpoint.kind]}, but {lack}.")


def _unfit(path: Path, fault: str) -> EDTalkError:
    return EDTalkError(f"{path} cannot be used: {fault}", _DOWNLOAD, "bank")


def _some(names: Iterable[Any], most: int = 3) -> str:
    names = [str(name) for name in names]
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
