"""Builds the networks of a bank and loads their weights.

The entry `networks` of the bank's metadata holds the configuration of each network, see docs/bank-format.md. In banks
without that entry, which earlier versions wrote, the configurations are derived from the shapes of the tensors. Only
this module does that.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from ..contract.bank import AUDIO_PREFIX, STARTER, Bank, load_bank
from ..contract.config import GeneratorConfig
from ..contract.errors import EDTalkError
from .audio2expression import PREFIX as AUDIO2EXPRESSION_PREFIX
from .audio2expression import Audio2Expression, Audio2ExpressionConfig
from .audio2lip import Audio2Lip, Audio2LipConfig
from .audio2pose import PREFIX as AUDIO2POSE_PREFIX
from .audio2pose import Audio2Pose, Audio2PoseConfig
from .decoder import Decoder
from .encoder import Encoder
from .insets import PREFIX as INSETS_PREFIX
from .insets import InsetConfig, Insets, InsetsConfig
from .readers.absolute import PREFIX as READER_PREFIX
from .readers.absolute import Reader, ReaderConfig
from .readers.look import LOOKS, Look, LookConfig
from .readers.look import PREFIXES as LOOK_PREFIXES
from .readers.relative import PREFIXES as RELATIVE_PREFIXES
from .readers.relative import RelativeReader, RelativeReaderConfig
from .refiner import PREFIX as REFINER_PREFIX
from .refiner import Refiner, RefinerConfig
from .teeth import PREFIX as TEETH_PREFIX
from .teeth import Teeth, TeethConfig
from .weights import Weights
from .winograd import Scratch

AUDIO2LIP, REFINER, INSETS, READER, RELATIVE_READER = "audio2lip", "refiner", "insets", "reader", "relative_reader"
AUDIO2POSE = "audio2pose"
AUDIO2EXPRESSION = "audio2expression"
TEETH = "teeth"
_RENAMED = {".told.": ".condition."}  # in tensor names of older banks
_HINT = "Get the bank again."
T = TypeVar("T")


class NetworkBank(Protocol):
    """The attributes of a `contract.bank.Bank` from which its networks are built."""

    @property
    def name(self) -> str: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def config(self) -> GeneratorConfig: ...
    @property
    def networks(self) -> Mapping[str, Any] | None: ...
    @property
    def speech_level(self) -> float | None: ...
    @property
    def tensors(self) -> Mapping[str, np.ndarray]: ...


@dataclass(frozen=True)
class Networks:
    """The networks that render and read faces; None for those that the bank does not have."""

    encoder: Encoder
    decoder: Decoder
    refiner: Refiner | None
    insets: Insets | None
    reader: Reader | None
    relative_reader: RelativeReader | None
    looks: Mapping[str, Look]  # by the bank of coefficients that they read
    teeth: Teeth | None = None


def load_networks(bank: Bank, device: torch.device, dtype: torch.dtype = torch.float32) -> Networks:
    """Build all networks of a bank except its audio network, with their weights, in eval mode.

    device: on which they run. dtype: of the decoder's convolutions. Insets are loaded only if the bank has a refiner,
    a relative reader only if it has both.
    Raises EDTalkError (kind "bank") for tensors that are missing or do not fit their configuration, and for networks
    that this version does not know.
    """
    unknown = sorted(set(bank.networks or ()) - set(_KINDS))
    if unknown:
        message = f"The bank '{bank.name}' has a network '{unknown[0]}' that this version does not know."
        raise EDTalkError(message, "Update the extension.", "bank")
    weights, scratch = Weights(bank.tensors, device), Scratch()
    reader = load_network(bank, READER, device)
    if reader is not None and reader.size != bank.config.size:
        raise _unfit(bank, READER, f"it reads {reader.size} pixels, the bank renders {bank.config.size}")
    refiner = load_network(bank, REFINER, device)
    insets = load_network(bank, INSETS, device) if refiner is not None else None
    return Networks(
        Encoder(weights, bank.config.generator, scratch),
        Decoder(weights, bank.config.generator, scratch, dtype),
        refiner,
        insets,
        reader,
        load_network(bank, RELATIVE_READER, device) if insets is not None else None,
        _load_looks(bank, device),
        load_network(bank, TEETH, device) if insets is not None else None,
    )


def _load_looks(bank: Bank, device: torch.device) -> dict[str, Look]:
    """The looks of a bank, by the bank of coefficients that each reads. Raises EDTalkError as `load_networks` does."""
    looks: dict[str, Any] = {}
    counts = dict(bank.config.generator.banks)
    for bank_name, name in LOOKS.items():
        look = load_network(bank, name, device)
        if look is None:
            continue
        sizes = look.config
        if sizes.outputs != counts.get(bank_name, 0):
            raise _unfit(
                bank,
                name,
                f"it reads {sizes.outputs} {bank_name} coefficients, the bank has {counts.get(bank_name, 0)}",
            )
        if sizes.latent != bank.config.style_dim:
            raise _unfit(bank, name, f"it reads a latent of {sizes.latent}, the bank's has {bank.config.style_dim}")
        looks[bank_name] = look
    return looks


def own_or_starter_network(bank: NetworkBank, name: str, what: str) -> nn.Module:
    """Build a network of a bank, or that of the starter bank if it has none, for networks that fit any bank.

    what: names the network in the message. Raises EDTalkError (kind "bank") if neither has it, and as `load_network`.
    """
    network = load_network(bank, name)
    if network is None and STARTER.exists():
        network = load_network(load_bank(STARTER), name)
    if network is None:
        message = f"The bank '{bank.name}' has no network for {what}, nor has the starter bank."
        raise EDTalkError(message, "Reinstall the extension.", "bank")
    return network


def load_network(bank: NetworkBank, name: str, device: torch.device | str = "cpu") -> nn.Module | None:
    """Build one network of a bank with its weights, in eval mode. Returns None if the bank does not have it.

    name: AUDIO2LIP, AUDIO2POSE, AUDIO2EXPRESSION, REFINER, INSETS, READER, RELATIVE_READER, TEETH or one of `LOOKS`.
    Raises EDTalkError (kind "bank") for tensors that are missing or do not fit the network's configuration.
    """
    config = network_config(bank, name)
    if config is None:
        return None
    kind, state = _KINDS[name], state_of(bank, name)
    count = kind.coefficients(config)
    if count is not None and count != (expected_count := bank.config.generator.coefficient_count):
        raise _unfit(bank, name, f"expected {expected_count} coefficients, found {count}")
    try:
        with torch.device("meta"):  # allocates no memory, whatever sizes a damaged file states
            network = kind.network(config)
    except (ValueError, IndexError, RuntimeError, ArithmeticError) as error:
        raise _unfit(bank, name, f"its sizes are not valid ({error})") from error
    expected_state = network.state_dict()
    expected = {key: part for key, part in expected_state.items() if not key.endswith("num_batches_tracked")}
    for key, part in expected.items():
        if key not in state:
            raise _unfit(bank, name, f"it lacks the tensor '{key}'")
        if state[key].shape != part.shape:
            found = tuple(state[key].shape)
            raise _unfit(bank, name, f"expected '{key}' of shape {tuple(part.shape)}, found {found}")
    surplus = sorted(key for key in state if key not in expected_state)
    if surplus:
        raise _unfit(bank, name, f"it has an unknown tensor '{surplus[0]}'")
    state = {key: state[key].to(part.dtype) for key, part in expected.items()}
    network.load_state_dict(state, strict=False, assign=True)
    network.to(device, memory_format=torch.channels_last if kind.channels_last else torch.preserve_format)
    return network.eval().requires_grad_(False)


def network_config(bank: NetworkBank, name: str) -> Any | None:
    """The configuration of one network of a bank, such as a `RefinerConfig`. None if the bank does not have it.

    It is read from the bank's metadata or, in older banks, derived from the tensors. Raises EDTalkError (kind "bank")
    if the entry is invalid or tensors are missing.
    """
    kind = _KINDS[name]
    try:
        if bank.networks is None:
            return kind.derived(_state(bank.tensors, kind)) if _has(bank.tensors, kind) else None
        return _from_json(kind.config, bank.networks[name]) if name in bank.networks else None
    except KeyError as error:
        raise _unfit(bank, name, f"it lacks the tensor {error}") from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise _unfit(bank, name, f"its description is not valid ({error})") from error


def networks_json(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """The metadata entry `networks` for a new bank with these tensors. Raises KeyError if a network lacks a tensor."""
    configs = {
        name: dataclasses.asdict(kind.derived(_state(tensors, kind)))
        for name, kind in _KINDS.items()
        if _has(tensors, kind)
    }
    return json.loads(json.dumps(configs))  # tuples become lists, as when the entry is read from a file


def state_of(bank: NetworkBank, name: str) -> dict[str, Tensor]:
    """The state dict of one network of a bank, with floats as float32. It is empty if the bank does not have it."""
    return {
        key: torch.from_numpy(np.array(tensor, np.float32 if tensor.dtype.kind == "f" else None))
        for key, tensor in _state(bank.tensors, _KINDS[name]).items()
    }


def bank_tensors(name: str, network: nn.Module) -> dict[str, np.ndarray]:
    """The tensors of one network under their names in a bank; the inverse of `state_of`."""
    tensors = {}
    for key, tensor in network.state_dict().items():
        prefix, inner = next(pair for pair in _KINDS[name].prefixes.items() if key.startswith(pair[1]))
        tensors[prefix + key.removeprefix(inner)] = tensor.numpy()
    return tensors


def _unfit(bank: NetworkBank, name: str, fault: str) -> EDTalkError:
    message = f"The network '{name}' in the bank '{bank.name}' is not usable: {fault}."
    return EDTalkError(message, _HINT, "bank")


def _has(tensors: Mapping[str, T], kind: _Kind) -> bool:
    """Whether a bank has tensors with every prefix of a network."""
    return all(any(name.startswith(prefix) for name in tensors) for prefix in kind.prefixes)


def _state(tensors: Mapping[str, T], kind: _Kind) -> dict[str, T]:
    """The tensors of a network, by their names in its state dict."""
    state = {}
    for name, tensor in tensors.items():
        for prefix, inner in kind.prefixes.items():
            if name.startswith(prefix):
                key = inner + name.removeprefix(prefix)
                for old, new in _RENAMED.items():
                    key = key.replace(old, new)
                state[key] = tensor
                break
    return state


# ------------------------------------------------------------------------------------------------ JSON


def _from_json(kind: type[T], data: Any) -> T:
    """The configuration (of type `kind`) in JSON data. Raises ValueError or TypeError for other fields or types."""
    hints = get_type_hints(kind)
    optional = {field.name for field in dataclasses.fields(kind) if field.metadata.get("optional")}
    if not set(hints) - optional <= set(data) <= set(hints):
        raise ValueError(f"expected {', '.join(sorted(hints))}, found {', '.join(sorted(data))}")
    return kind(**{name: _value(hint, data[name]) for name, hint in hints.items() if name in data})


def _value(hint: Any, data: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return _from_json(hint, data)
    if hint is int:
        if type(data) is not int:
            raise ValueError(f"expected a whole number, found {data!r}")
        return data
    if not isinstance(data, list | tuple):
        raise ValueError(f"expected a list, found {data!r}")
    parts = get_args(hint)  # of tuple[int, ...] or tuple[int, int]
    parts = parts[:1] * len(data) if parts[-1] is Ellipsis else parts
    return tuple(_value(part, entry) for part, entry in zip(parts, data, strict=True))


# ------------------------------------------------------------------------------------------------ shapes


def audio2lip_config(state: Mapping[str, Any]) -> Audio2LipConfig:
    """The configuration that fits a state dict of tensors or arrays. Raises KeyError if a tensor is missing."""
    first_of_width = (0, 3, 6, 9, 11)
    widths = (len(state[f"audio_encoder.{layer}.conv_block.0.weight"]) for layer in first_of_width)
    return Audio2LipConfig(tuple(widths), len(state["mapping.weight"]))


def _audio2pose_config(state: Mapping[str, Any]) -> Audio2PoseConfig:
    steps: list[int] = []
    while f"bands.{len(steps)}.steps.0.mix" in state:
        part = f"bands.{len(steps)}.steps."
        steps.append(len({name.removeprefix(part).split(".")[0] for name in state if name.startswith(part)}))
    audio = next(len(part) for name, part in state.items() if name.endswith("audio.2.weight"))
    width = len(state["bands.0.steps.0.first.bias"])
    mean = len(state["mean.layers.0.bias"]) if "mean.layers.0.bias" in state else 0
    late, own = int("mean.lag" in state), int("own" in state)
    return Audio2PoseConfig(len(state["feature_mean"]), width, audio, tuple(steps), mean, late, own)


def _audio2expression_config(state: Mapping[str, Any]) -> Audio2ExpressionConfig:
    brought, expression = state.get("brought.weight"), state.get("expression.weight")
    return Audio2ExpressionConfig(
        len(state["voice_mean"]),
        len(state["words_mean"]),
        len(state["no_voice"]),
        0 if brought is None else brought.shape[1],
        0 if expression is None else len(expression),
        len(state["alone.skip.bias"]) if "alone.skip.bias" in state else 0,
    )


def _reader_config(state: Mapping[str, Any], part: str = "") -> ReaderConfig:
    widths = _widths(state, part + "convs.{}.bias")
    return ReaderConfig(widths, len(state[f"{part}hidden.bias"]), len(state[f"{part}last.bias"]))


def _refiner_config(state: Mapping[str, Any]) -> RefinerConfig:
    reading, terms = _reader_config(state, "reading."), state["terms"].T.tolist()
    motion, painter = (_unet_widths(state, part) for part in ("motion.", "painter."))
    pose = [column for column, rigid in enumerate(state["rigid"][: reading.outputs].tolist()) if rigid]
    return RefinerConfig(
        reading.channels, reading.hidden, motion, painter, reading.outputs, tuple(map(tuple, terms)), tuple(pose)
    )


def _insets_config(state: Mapping[str, Any]) -> InsetsConfig:
    mouth, eyes = (
        InsetConfig(tuple(state[f"{part}.feather"].shape[-2:]), _unet_widths(state, f"{part}.unet."))
        for part in ("mouth", "eyes")
    )
    return InsetsConfig(_reader_config(state, "anchors."), mouth, eyes, len(state["pose"]))


def _teeth_config(state: Mapping[str, Any]) -> TeethConfig:
    return TeethConfig(_unet_widths(state, "unet."), state["unet.first.condition.weight"].shape[1] - 3)


def _relative_reader_config(state: Mapping[str, Any]) -> RelativeReaderConfig:
    widths = _widths(state, "windows.looks.0.convs.{}.bias")
    narrow, hidden, last = (len(state[f"windows.{layer}"]) for layer in ("narrow.weight", "hidden.bias", "last.bias"))
    return RelativeReaderConfig(widths, narrow, hidden, last, int("windows.calibration.weight" in state))


def _look_config(state: Mapping[str, Any]) -> LookConfig:
    outputs, latent = state["read.weight"].shape
    return LookConfig(latent, outputs, int("centre" in state))


def _unet_widths(state: Mapping[str, Any], part: str) -> tuple[int, ...]:
    return len(state[f"{part}first.conv.bias"]), *_widths(state, part + "down.{}.conv.bias")


def _widths(state: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """Lengths of the tensors `name.format(0)`, `name.format(1)` and so on, up to the first that is missing."""
    widths: list[int] = []
    while (key := name.format(len(widths))) in state:
        widths.append(len(state[key]))
    return tuple(widths)


@dataclass(frozen=True)
class _Kind:
    """How one kind of network is stored and built.

    prefixes: prefixes of its tensors in a bank, with the prefixes that replace them in its state dict; the first that
    fits counts. config: class of its configuration. network: builds it. derived: derives the configuration from a state
    dict. coefficients: number of coefficients of a configuration that must equal the bank's; None if there is none.
    """

    prefixes: Mapping[str, str]
    config: type
    network: Callable[[Any], nn.Module]
    derived: Callable[[Mapping[str, Any]], Any]
    coefficients: Callable[[Any], int | None]
    channels_last: bool = False


_KINDS = {
    AUDIO2LIP: _Kind({AUDIO_PREFIX: ""}, Audio2LipConfig, Audio2Lip, audio2lip_config, lambda config: None),
    AUDIO2POSE: _Kind(
        {AUDIO2POSE_PREFIX: ""}, Audio2PoseConfig, Audio2Pose, _audio2pose_config, lambda config: None
    ),
    AUDIO2EXPRESSION: _Kind(
        {AUDIO2EXPRESSION_PREFIX: ""}, Audio2ExpressionConfig, Audio2Expression, _audio2expression_config,
        lambda config: None,
    ),
    REFINER: _Kind(
        {REFINER_PREFIX: ""}, RefinerConfig, Refiner, _refiner_config, lambda config: config.coefficients, True
    ),
    INSETS: _Kind({INSETS_PREFIX: ""}, InsetsConfig, Insets, _insets_config, lambda config: config.coefficients, True),
    READER: _Kind({READER_PREFIX: ""}, ReaderConfig, Reader, _reader_config, lambda config: config.outputs),
    RELATIVE_READER: _Kind(
        RELATIVE_PREFIXES, RelativeReaderConfig, RelativeReader, _relative_reader_config,
        lambda config: config.coefficients,
    ),
    TEETH: _Kind({TEETH_PREFIX: ""}, TeethConfig, Teeth, _teeth_config, lambda config: config.coefficients),
    **{
        name: _Kind(prefixes, LookConfig, Look, _look_config, lambda config: None)
        for name, prefixes in LOOK_PREFIXES.items()
    },
}  # fmt: skip
