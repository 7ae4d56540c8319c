"""A bank: one `.safetensors` file with the weights of the networks and a description of every coefficient.

Reading the metadata needs only the standard library and numpy, so the add-on creates its sliders from it. The weights
are read on first use.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from . import arkit
from .coefficients import Coefficients
from .config import LARGEST_WIDTH, GeneratorConfig
from .content import content_of
from .emotion import NEUTRAL
from .errors import EDTalkError
from .files import atomic_write, open_regular
from .mixing import add_emotions
from .parsing import MALFORMED, parse_json

FORMAT_VERSION = 2  # of banks with painted banks; others have 1, which earlier versions read as well
STARTER = Path(__file__).parents[1] / "banks" / "starter.safetensors"
AUDIO_PREFIX = "audio2lip."
_METADATA_KEY = "edtalk"
_EXPECTED = "expected a bank (.safetensors)"
_CHOOSE = "Choose a .safetensors bank."
MOST_NETWORK_VALUES = 10_000  # numbers, lists and objects under `networks`; the starter bank has about 100
_MAX_HEADER = 8 * 2**20  # bytes; a bank's is 70 kB
_LEVELS = (-60, 0)  # dB, of `speech_level`
_LARGEST = 4 * 2**30  # bytes of a file; the starter bank has 18 MB
_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1",
    "BOOL": "?",
}  # fmt: skip


@dataclass(frozen=True)
class Coefficient:
    """One coefficient of a bank.

    bank: the part it belongs to, such as "lip". rest: its value at rest. soft_min, soft_max: the usual range, as of a
    slider. unit: a description of the value 1.0. arkit: weights of ARKit units, see `contract.arkit`; {} if none apply.
    moves: how 1.0 moves the head, by axis of `arkit.HEAD_AXES`, as it was measured; {} if that is not known.
    """

    name: str
    bank: str
    rest: float = 0.0
    soft_min: float = -5.0
    soft_max: float = 5.0
    unit: str = ""
    arkit: Mapping[str, float] = field(default_factory=dict)
    moves: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "moves" or value}


@dataclass(frozen=True)
class Bank:
    """The metadata of a bank, and its weights on first use.

    coefficients: in column order. presets: expression vectors (m,) float32 by emotion, absolute; if there are any,
    `neutral` is one of them. sha256: hash of the weights. networks: configuration of each further network by name, see
    docs/bank-format.md; None in older banks. speech_level: level of speech in dB that the audio network was trained
    for; None if it takes sounds as they are. footage: the clips of people it was made from, `clips` with `name` and
    `sha256`, and the `consent` to their use; None without such clips. path: the file that the weights are read from.
    """

    name: str
    config: GeneratorConfig
    coefficients: tuple[Coefficient, ...]
    presets: Mapping[str, np.ndarray] = field(default_factory=dict)
    licence: str = ""
    origin: str = ""
    sha256: str = ""
    has_audio: bool = False
    networks: Mapping[str, Any] | None = None
    speech_level: float | None = None
    footage: Mapping[str, Any] | None = None
    path: Path | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(coefficient.name for coefficient in self.coefficients)

    @cached_property
    def rest(self) -> np.ndarray:
        """(n,) float32: the coefficients at rest, before a portrait has been encoded."""
        return np.array([coefficient.rest for coefficient in self.coefficients], np.float32)

    @property
    def reads_plates(self) -> bool:
        """Whether it has the networks for dubbing by reference frames, see `contract.references`."""
        return {"refiner", "insets", "relative_reader"} <= set(self.networks or ())

    def names_of(self, bank: str) -> tuple[str, ...]:
        """The coefficient names of one part, such as "lip"; () if the bank has no such part."""
        return tuple(coefficient.name for coefficient in self.coefficients if coefficient.bank == bank)

    def at_rest(self, frames: int = 1, fps: float | None = None) -> Coefficients:
        """`rest` in each row. A portrait has a pose of its own: `FaceRenderer.moved` gives rows relative to it."""
        return Coefficients(np.tile(self.rest, (frames, 1)), self.names, fps)

    def with_emotion(self, expression: np.ndarray, strengths: Mapping[str, float | np.ndarray]) -> np.ndarray:
        """Add emotions to an expression, see `mixing.add_emotions`.

        expression: (T, m), absolute. strengths: by preset name, a number or (T,), usually 0 to 1; `neutral` has no
        effect. Returns (T, m) float32. Raises EDTalkError for an emotion that the bank does not have.
        """
        unknown = [name for name in strengths if name not in self.presets]
        if unknown:
            known = ", ".join(sorted(self.presets)) or "none"
            raise EDTalkError(f"The bank '{self.name}' has no emotion '{unknown[0]}'; it has: {known}.")
        offsets = self.emotion_offsets()
        columns = [np.broadcast_to(strengths[name], len(expression)) for name in strengths if name in offsets]
        table = np.reshape(columns, (len(columns), len(expression))).T
        used = [offsets[name] for name in strengths if name in offsets]
        return add_emotions(expression, table, used).astype(np.float32)

    def emotion_offsets(self) -> dict[str, np.ndarray]:
        """What each emotion adds to the expression at strength 1: (m,) float64, the preset minus `neutral`."""
        return {
            name: (vector - self.presets[NEUTRAL]).astype(np.float64)
            for name, vector in self.presets.items()
            if name != NEUTRAL
        }

    @cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        """All weights by name, read on first use. The names of the audio network start with `audio2lip.`."""
        if self.path is None:
            raise EDTalkError(f"The bank '{self.name}' has no file to read its weights from.", kind="bank")
        with _opened(self.path) as file:
            return _read_tensors(self.path, file, _read_header(self.path, file), self.sha256)

    def to_json(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION if self.config.painted else 1,
            "name": self.name,
            **self.config.to_json(),
            "coefficients": [coefficient.to_json() for coefficient in self.coefficients],
            "presets": {name: np.asarray(vector, float).tolist() for name, vector in self.presets.items()},
            "licence": self.licence,
            "origin": self.origin,
            "sha256": self.sha256,
            "has_audio": self.has_audio,
            **({} if self.networks is None else {"networks": self.networks}),
            **({} if self.speech_level is None else {"speech_level": self.speech_level}),
            **({} if self.footage is None else {"footage": self.footage}),
        }


def numbered_coefficients(banks: Iterable[tuple[str, int]]) -> tuple[Coefficient, ...]:
    """Numbered coefficients, for a bank without names: lip_01, lip_02, ... pose_01 ..."""
    return tuple(Coefficient(f"{bank}_{index + 1:02d}", bank) for bank, count in banks for index in range(count))


def is_bank(path: str | os.PathLike[str]) -> bool:
    """Whether a safetensors file is a bank. Raises EDTalkError if it is not a complete safetensors file."""
    path = Path(path)
    with _opened(path) as file:
        return _METADATA_KEY in _read_header(path, file)["__metadata__"]


def read_bank(path: str | os.PathLike[str]) -> Bank:
    """The metadata of a bank, without its weights. Raises EDTalkError (kind "bank") for an invalid file."""
    path = Path(path)
    with _opened(path) as file:
        return _bank(path, _read_header(path, file))


def _bank(path: Path, header: Mapping[str, Any]) -> Bank:
    text = header["__metadata__"].get(_METADATA_KEY)
    if text is None:
        raise EDTalkError(
            f"{path} is not a bank: expected a bank, found a safetensors file without '{_METADATA_KEY}' metadata.",
            _CHOOSE,
            "bank",
            "not_a_bank",
        )
    try:
        data = parse_json(text)
        version = int(data["format_version"])
        if version > FORMAT_VERSION:
            raise EDTalkError(
                f"{path} has bank format {version}, this version reads up to {FORMAT_VERSION}.",
                "Update the extension.",
                "bank",
            )
        bank = Bank(
            name=str(data["name"]),
            config=GeneratorConfig.from_json(data),
            coefficients=tuple(_coefficient(entry) for entry in data["coefficients"]),
            presets={name: np.array(vector, np.float32) for name, vector in data["presets"].items()},
            licence=str(data["licence"]),
            origin=str(data["origin"]),
            sha256=str(data["sha256"]),
            has_audio=bool(data["has_audio"]),
            networks=data.get("networks"),
            speech_level=None if data.get("speech_level") is None else float(data["speech_level"]),
            footage=data.get("footage"),
            path=path,
        )
        _check(bank)
        _check_shapes(bank, header)
    except MALFORMED as error:
        raise EDTalkError(f"{path} has unreadable bank metadata: {error!r}.", "Get the bank again.", "bank") from error
    return bank


def load_bank(path: str | os.PathLike[str] = STARTER) -> Bank:
    """A bank with its weights, which are checked against their hash. Default: the embedded starter bank.

    Raises EDTalkError (kind "bank") if the file is missing, truncated, altered or not a bank.
    """
    path = Path(path)
    with _opened(path) as file:  # opened once, so that the weights are those of the metadata and of the hash
        header = _read_header(path, file)
        bank = _bank(path, header)
        vars(bank)["tensors"] = _read_tensors(path, file, header, bank.sha256)
    return bank


def save_bank(bank: Bank, tensors: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> Bank:
    """Write a bank atomically. Returns it as `read_bank` would."""
    from safetensors.numpy import save

    _check(bank)
    path = Path(path)
    payload = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    has_audio = any(name.startswith(AUDIO_PREFIX) for name in payload)
    unsigned = save(payload)
    (length,) = struct.unpack("<Q", unsigned[:8])
    bank = replace(bank, has_audio=has_audio, path=path, sha256=hashlib.sha256(unsigned[8 + length :]).hexdigest())
    with atomic_write(path) as partial:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(save(payload, {_METADATA_KEY: json.dumps(bank.to_json())}))
    return bank


def copy_bank(bank: Bank, path: str | os.PathLike[str]) -> Bank:
    """Write the weights of `bank.path` with the metadata of `bank` to another file. Returns it as `read_bank` would.

    For names and ranges that are determined later: the weights and their hash do not change, so shots made with the
    old file stay valid. Written atomically, without loading the weights into memory.
    """
    _check(bank)
    path, original = Path(path), bank.path
    assert original is not None, "only a bank with a file can be copied"
    if path.exists() and path.samefile(original):
        raise EDTalkError(f"{path} cannot be copied onto itself.", "Choose another name.", "bank")
    with _opened(original) as source:
        header = _read_header(original, source)
        bank = replace(bank, sha256=_bank(original, header).sha256)
        _write_copy(bank, header, source, path)
    return replace(bank, path=path)


def _write_copy(bank: Bank, header: dict[str, Any], source: BufferedReader, path: Path) -> None:
    """Write the rest of `source`, the weights, with another header."""
    header["__metadata__"][_METADATA_KEY] = json.dumps(bank.to_json())
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned to 8 bytes
    with atomic_write(path) as partial:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as target:
            target.write(struct.pack("<Q", len(text)) + text)
            shutil.copyfileobj(source, target, 2**20)


def _coefficient(entry: Mapping[str, Any]) -> Coefficient:
    """One entry of the metadata. For banks without `arkit` weights, these are derived from the name."""
    coefficient = Coefficient(**entry)
    if not all(isinstance(text, str) for text in (coefficient.name, coefficient.bank, coefficient.unit)):
        raise TypeError("a name or unit is not text")
    if "arkit" in entry:
        return coefficient
    return replace(coefficient, arkit=arkit.derived(coefficient.name, coefficient.unit))


def _check(bank: Bank) -> None:
    what = f"The bank '{bank.name}'" + (f" in {bank.path}" if bank.path else "")
    columns = [name for name, count in bank.config.banks for _ in range(count)]  # the config limits the counts
    if [entry.bank for entry in bank.coefficients] != columns or len(set(bank.names)) != len(columns):
        raise EDTalkError(
            f"{what} has wrong coefficients: expected {dict(bank.config.banks)} in this order, "
            f"with unique names, found {dict(Counter(entry.bank for entry in bank.coefficients))}.",
            kind="bank",
        )
    expected = dict(bank.config.banks).get("exp", 0)
    for name, vector in bank.presets.items():
        if vector.shape != (expected,):
            raise EDTalkError(
                f"{what} has a wrong preset '{name}': expected {expected} numbers, found {vector.size}.",
                kind="bank",
            )
    if bank.networks is not None and not _is_network_entry(bank.networks):
        raise EDTalkError(f"{what} describes its networks wrongly: expected sizes by name.", kind="bank")
    unknown = {unit: entry.name for entry in bank.coefficients for unit in entry.arkit if unit not in arkit.NAMES}
    if unknown:
        unit, name = next(iter(unknown.items()))
        raise EDTalkError(f"{what} computes '{name}' from '{unit}', which is not an ARKit face unit.", kind="bank")
    axes = {axis: entry.name for entry in bank.coefficients for axis in entry.moves if axis not in arkit.HEAD_AXES}
    if axes:
        axis, name = next(iter(axes.items()))
        raise EDTalkError(f"{what} moves the head by '{name}' along '{axis}', which is not an axis.", kind="bank")
    numbers: list[Any] = [bank.rest, *bank.presets.values()]
    numbers += [(entry.soft_min, entry.soft_max) for entry in bank.coefficients]
    for entry in bank.coefficients:
        numbers += [np.array(list(table.values()), np.float64) for table in (entry.arkit, entry.moves)]
    if not all(np.isfinite(row).all() for row in numbers):
        raise EDTalkError(f"{what} has a rest value, range, weight or emotion that is not finite.", kind="bank")
    if bank.speech_level is not None and not _LEVELS[0] <= bank.speech_level <= _LEVELS[1]:
        message = f"{what} has a speech level of {bank.speech_level} dB; expected {_LEVELS[0]} to {_LEVELS[1]}."
        raise EDTalkError(message, kind="bank")
    if bank.footage is not None and not _is_footage_entry(bank.footage):
        raise EDTalkError(f"{what} describes its footage wrongly: expected consent and clips.", kind="bank")
    if bank.presets and "neutral" not in bank.presets:
        raise EDTalkError(f"{what} has emotions but no 'neutral' preset.", kind="bank")


def _is_footage_entry(entry: Any) -> bool:
    """Whether it holds a consent, and clips with their names and hashes."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("consent"), str):
        return False
    clips = entry.get("clips")
    return isinstance(clips, list) and all(
        isinstance(clip, Mapping) and isinstance(clip.get("name"), str) and isinstance(clip.get("sha256"), str)
        for clip in clips
    )


def _is_network_entry(networks: Any) -> bool:
    """Whether it holds configurations by name: nested objects and lists of whole numbers, all of bounded size."""
    left = [MOST_NETWORK_VALUES]

    def bounded(value: Any, depth: int) -> bool:
        left[0] -= 1
        if left[0] < 0 or depth > 5:
            return False
        if isinstance(value, Mapping):
            return all(isinstance(key, str) and bounded(part, depth + 1) for key, part in value.items())
        if isinstance(value, list | tuple):
            return all(bounded(part, depth + 1) for part in value)
        return type(value) is int and 0 <= value <= LARGEST_WIDTH

    return isinstance(networks, Mapping) and all(
        isinstance(name, str) and isinstance(entry, Mapping) and bounded(entry, 1) for name, entry in networks.items()
    )


def _check_shapes(bank: Bank, header: Mapping[str, Any]) -> None:
    """Raise EDTalkError if the metadata does not match the shapes of the generator's weights, if there is one."""
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    if "direction_lipnonlip.weight" not in shapes:
        return
    found, config = GeneratorConfig.from_shapes(shapes), bank.config.generator
    same = (found.size, found.style_dim, dict(found.banks)) == (config.size, config.style_dim, dict(config.banks))
    if not same or any(config.channels[resolution] != count for resolution, count in found.channels.items()):
        raise EDTalkError(
            f"{bank.path} is damaged: its metadata does not match its weights.",
            "Get the bank again.",
            "bank",
        )


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """A file of unknown origin; errors while it is read become EDTalkError(kind="bank")."""
    try:
        with open_regular(path, _LARGEST) as file:
            yield file
    except FileNotFoundError as error:
        raise EDTalkError(f"{path} does not exist; {_EXPECTED}.", _CHOOSE, "bank", "not_a_bank") from error
    except IsADirectoryError as error:
        raise EDTalkError(f"{path} is a folder; {_EXPECTED}.", _CHOOSE, "bank", "not_a_bank") from error
    except OSError as error:
        raise EDTalkError(f"{path} could not be read: {error.strerror}; {_EXPECTED}.", _CHOOSE, "bank") from error
    except ValueError as error:  # a path that the system cannot represent
        raise EDTalkError(f"{path} could not be read: {error}; {_EXPECTED}.", _CHOOSE, "bank") from error


def _read_header(path: Path, file: BufferedReader) -> dict[str, Any]:
    """The JSON header of a safetensors file: 8 bytes of length, then UTF-8. `__metadata__` is added if missing.

    Afterwards the file is at the first byte of the weights.
    """
    size = os.fstat(file.fileno()).st_size
    head = file.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if not 2 <= length <= min(_MAX_HEADER, size - 8):
        found = f"{content_of(path)} ({size} bytes)"
        message = f"{path} is not a bank: expected a safetensors file, found {found}."
        raise EDTalkError(message, _CHOOSE, "bank", "not_a_bank")
    try:
        header = parse_json(file.read(length))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        header["__metadata__"] = dict(header.get("__metadata__") or {})
    except MALFORMED as error:
        raise EDTalkError(f"{path} is not a bank: it has no valid safetensors header.", _CHOOSE, "bank") from error
    if 8 + length + end != size:
        expected = f"expected {8 + length + end} bytes, found {size}" if abs(end) < 2**63 else f"found {size} bytes"
        raise EDTalkError(f"{path} is truncated: {expected}.", "Get the bank again.", "bank")
    return header


def _read_tensors(path: Path, file: BufferedReader, header: Mapping[str, Any], sha256: str) -> dict[str, np.ndarray]:
    """The weights, which follow the header, as views of one buffer. Raises EDTalkError if their hash is another."""
    here = file.tell()
    payload = np.empty(os.fstat(file.fileno()).st_size - here, np.uint8)
    try:
        if file.readinto(payload.data) != len(payload):
            raise ValueError("it was changed while it was read")
        found = hashlib.sha256(payload.data).hexdigest()
        if found != sha256:
            raise EDTalkError(
                f"{path} is damaged: its weights hash to {found[:12]}..., expected {sha256[:12]}....",
                "Get the bank again.",
                "bank",
            )
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        ranges = sorted(tuple(entry["data_offsets"]) for entry in entries.values())
        if [start for start, _ in ranges] + [len(payload)] != [0] + [end for _, end in ranges]:
            raise ValueError("its tensors overlap or have gaps")
        tensors = {name: _tensor(payload, name, entry) for name, entry in entries.items()}
    except MALFORMED as error:
        raise EDTalkError(
            f"{path} is damaged: its weights cannot be read ({error}).", "Get the bank again.", "bank"
        ) from error
    unusable = next((name for name, tensor in tensors.items() if not _is_finite(tensor)), None)
    if unusable:
        raise EDTalkError(
            f"{path} cannot be used: its weights '{unusable}' are not finite numbers.", "Get the bank again.", "bank"
        )
    return tensors


def _tensor(payload: np.ndarray, name: str, entry: Mapping[str, Any]) -> np.ndarray:
    kind = _TYPES.get(entry["dtype"])
    if kind is None:
        raise ValueError(f"'{name}' has the unknown type {entry['dtype']!r}")
    start, end = entry["data_offsets"]
    return np.require(payload[start:end].view(kind).reshape(entry["shape"]), requirements=["ALIGNED"])


def _is_finite(tensor: np.ndarray) -> bool:
    if tensor.dtype == np.float16:  # numpy's test of this type takes longer than reading the file
        return not bool(((tensor.view(np.uint16) & 0x7C00) == 0x7C00).any())
    return tensor.dtype.kind != "f" or bool(np.isfinite(tensor).all())
