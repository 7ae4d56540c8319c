"""Every parser of input of unknown origin, with valid input to start from."""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from edtalk.edtalk_blender.animation import pose, presets
from edtalk.edtalk_blender.capture import arkit_csv
from edtalk.edtalk_blender.character import exif
from edtalk.edtalk_blender.timeline.timemap import TimeMap
from edtalk.inference.contract import arkit, bank, protocol, requests, shot
from edtalk.inference.contract.coefficients import Coefficients
from edtalk.inference.contract.config import GeneratorConfig
from edtalk.inference.contract.emotion import EmotionCurve
from edtalk.inference.contract.parsing import MALFORMED
from edtalk.inference.contract.plate import Track

from .mutation import mutated, mutated_json

Mutate = Callable[[bytes, random.Random], bytes]
_NAMES = ("jawOpen", "headYaw", "mouthSmile")
_TABLE = np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3)


@dataclass(frozen=True)
class Parser:
    """seeds: valid inputs. parse: reads one input; it may write it into the folder. mutate: how inputs are changed."""

    seeds: Sequence[bytes]
    parse: Callable[[bytes, Path], object]
    mutate: Sequence[Mutate] = (mutated,)

    def inputs(self, seed: int, count: int) -> list[bytes]:
        """Changed inputs, the same ones for the same seed."""
        rng = random.Random(seed)
        return [rng.choice(self.mutate)(rng.choice(self.seeds), rng) for _ in range(count)]


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    def parse(content: bytes, folder: Path) -> object:
        path = folder / name
        path.write_bytes(content)
        return read(path)

    return parse


def _protocol(content: bytes, folder: Path) -> None:
    stream = io.BytesIO(content)
    while message := protocol.read(stream):
        requests.read_request(message)


def _messages() -> list[bytes]:
    row = np.zeros(3, np.float32)
    wanted = [
        requests.Portrait(None, Path("face.png"), "auto"),
        requests.Preview(None, Path("face.png"), (1.0, 2.0, 30.0), row),
        requests.LipSync(None, 16000, np.zeros(8, np.float32), np.arange(2.0)),
        requests.Capture(None, Path("take.mov"), fps=25.0, which=(3.0, 4.0)),
    ]
    messages = [request.to_message(7) for request in wanted]
    return [protocol.encode(message) + message.payload for message in messages]


def _mutated_message(content: bytes, rng: random.Random) -> bytes:
    _, length, _ = struct.unpack("<4sII", content[:12])
    text = mutated_json(content[12 : 12 + length], rng)
    payload = content[12 + length :]
    return struct.pack("<4sII", b"EDT1", len(text), len(payload)) + text + payload


def _crop(content: bytes, folder: Path) -> object:
    value = json.loads(content)
    return shot.as_crop(value)


def _time_map(content: bytes, folder: Path) -> None:
    found = TimeMap.from_json(json.loads(content))
    if len(found.frames) < 10**5:
        found.seconds(found.frames)
        found.frame_of([0.0, 1.0])


def _emotion(content: bytes, folder: Path) -> None:
    curve = EmotionCurve.parse(_text(content))
    curve.strengths(np.arange(3.0), 2.0)
    str(curve)


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, values=_TABLE, names=np.array(_NAMES), fps=np.array([25.0]))
    return file.getvalue()


def _mutated_member(content: bytes, rng: random.Random) -> bytes:
    """The archive with one array changed; the archive itself stays valid."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    members[name] = mutated(members[name], rng)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return file.getvalue()


def _npy(table: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, table)
    return file.getvalue()


def _coefficient_csv() -> bytes:
    rows = [f"{index}," + ",".join(map(repr, row)) for index, row in enumerate(_TABLE.tolist())]
    return "\n".join([f"fps=25.0,{','.join(_NAMES)}", *rows]).encode()


def _takes() -> list[bytes]:
    names = arkit.FACE[:5]
    head = ",".join(("Timecode", "BlendShapeCount", *names, "HeadYaw"))
    rows = [f"10:00:00:{frame:02},61,0.1,0.2,0.3,0.4,0.5,0.{frame}" for frame in range(9)]
    plain = "jawOpen;mouthClose;time\n0,1;0,2;0\n0,3;0,4;0,04\n"
    return ["\n".join([head, *rows]).encode(), plain.encode(), b"frame\tjawOpen\n1\t0.5\n2\t0.25\n"]


def _take(path: Path) -> object:
    take = arkit_csv.read_take(path)
    return take.with_head_from_start().at(np.array([0.0, take.duration]))


def _timecode(content: bytes, folder: Path) -> None:
    rate, _, code = _text(content).partition("|")
    arkit_csv.timecode_seconds(code, arkit_csv.Rate.parse(rate))


def _jpeg(order: str) -> bytes:
    mark = b"II" if order == "<" else b"MM"
    tags = struct.pack(f"{order}H", 2)
    for tag, value in ((0x0110, 5), (0x0112, 6)):
        tags += struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
    tiff = mark + struct.pack(f"{order}HI", 42, 8) + tags + bytes(4)
    segment = b"Exif\0\0" + tiff
    return b"\xff\xd8\xff\xe0\0\x04ab\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + b"\xff\xda\0\x02"


def _shot(folder: Path) -> None:
    found = shot.Shot.read(folder)
    found.missing()
    repr(found.frames_folder)


def _shot_json(content: bytes, folder: Path) -> None:
    _shot_folder(folder, content, _npy(_TABLE))


def _shot_table(content: bytes, folder: Path) -> None:
    data = json.loads(SHOT) | {"coefficients_sha256": hashlib.sha256(content).hexdigest()}
    _shot_folder(folder, json.dumps(data).encode(), content)


def _shot_plate(content: bytes, folder: Path) -> None:
    data = json.loads(SHOT)
    data["plate"] = {"media": "m.mp4", "sha256": "ab" * 32, "rows_sha256": hashlib.sha256(content).hexdigest()}
    (folder / "plate.npy").write_bytes(content)
    _shot_folder(folder, json.dumps(data).encode(), _npy(_TABLE))


def _shot_folder(folder: Path, text: bytes, table: bytes) -> None:
    (folder / "shot.json").write_bytes(text)
    (folder / "coefficients.npy").write_bytes(table)
    (folder / "face.png").write_bytes(b"portrait")
    _shot(folder)


SHOT = json.dumps({
    "format_version": 3, "bank": "bank.safetensors", "bank_sha256": "ab" * 32, "names": _NAMES, "fps": 25.0,
    "coefficients_sha256": hashlib.sha256(_npy(_TABLE)).hexdigest(), "frames_folder": "frames", "first_frame": 101,
    "image_format": "png", "portrait": "face.png", "portrait_sha256": hashlib.sha256(b"portrait").hexdigest(),
    "crop": [1, 2, 30], "sound": "voice.wav", "layer": "plate", "mask": "face", "feather": 0.25, "size": 512,
    "detail": False, "added": ["jawOpen"],
}).encode()  # fmt: skip

_CONFIG = GeneratorConfig(8, 16, {4: 4, 8: 4}, (("lip", 2), ("pose", 1), ("exp", 2)))
_BANK = bank.Bank(
    "test", _CONFIG, bank.numbered_coefficients(_CONFIG.banks),
    {"neutral": np.zeros(2, np.float32), "happy": np.ones(2, np.float32)}, networks={"refiner": {"width": 8}},
)  # fmt: skip
_WEIGHTS = np.arange(8, dtype=np.float32).tobytes()
BANK_METADATA = json.dumps(_BANK.to_json() | {"sha256": hashlib.sha256(_WEIGHTS).hexdigest()}).encode()
BANK_HEADER = json.dumps({
    "__metadata__": {"edtalk": BANK_METADATA.decode()},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "F16", "shape": [8], "data_offsets": [16, 32]},
}).encode()  # fmt: skip


def _bank_metadata(content: bytes, folder: Path) -> None:
    header = json.loads(BANK_HEADER) | {"__metadata__": {"edtalk": content.decode("utf-8", "replace")}}
    _bank_header(json.dumps(header).encode(), folder)


def _bank_header(content: bytes, folder: Path) -> None:
    path = folder / "bank.safetensors"
    path.write_bytes(struct.pack("<Q", len(content)) + content + _WEIGHTS)
    found = bank.load_bank(path)
    found.at_rest()
    repr(found.to_json())


def _config(content: bytes, folder: Path) -> None:
    try:
        GeneratorConfig.from_json(json.loads(content))
    except MALFORMED:  # its documented errors; `read_bank` names the file
        return


_BOTH = (mutated, mutated_json)
_TRACK = np.column_stack([np.arange(4.0), np.full((4, 3), 20.0), np.zeros(4)])
_PRESETS = json.dumps({"edtalk_emotions": 1, "emotions": {"shy": {"jawOpen": 0.5, "browUp": -1}, "b": {}}}).encode()
_POSE = pose.to_text({"jawOpen": 0.5, "headYaw": -3.0}).encode()

PARSERS: dict[str, Parser] = {
    "protocol": Parser(_messages(), _protocol, (mutated, _mutated_message)),
    "crop": Parser([b"[1, 2, 30]", b"[1, 2, 30, 5]", b'"auto"'], _crop, (mutated_json,)),
    "exif": Parser([_jpeg("<"), _jpeg(">")], _file("a.jpg", exif.orientation)),
    "timecode": Parser([b"24|10:30:00:12", b"29.97 drop|01:02:03;04", b"59.94|1:2:3:4.567"], _timecode),
    "coefficient csv": Parser([_coefficient_csv()], _file("a.csv", Coefficients.load)),
    "coefficient npz": Parser([_npz()], _file("a.npz", Coefficients.load), (mutated, _mutated_member)),
    "emotion": Parser([b"happy", b"happy:0.5+sad:0.3", b"0=neutral 1.5s=happy:0.8, 100%=sad"], _emotion),
    "time map": Parser([json.dumps(TimeMap.of_strip(25, 1, 101, 1).to_json()).encode()], _time_map, (mutated_json,)),
    "arkit csv": Parser(_takes(), _file("a.csv", _take)),
    "shot": Parser([SHOT], _shot_json, _BOTH),
    "shot table": Parser([_npy(_TABLE)], _shot_table),
    "shot plate": Parser([_npy(_TRACK)], _shot_plate),
    "track": Parser([_npy(_TRACK)], _file("a.npy", Track.load)),
    "bank metadata": Parser([BANK_METADATA], _bank_metadata, _BOTH),
    "bank header": Parser([BANK_HEADER], _bank_header, _BOTH),
    "generator config": Parser([json.dumps(_CONFIG.to_json()).encode()], _config, (mutated_json,)),
    "presets": Parser([_PRESETS], _file("a.json", presets.read), _BOTH),
    "pose": Parser([_POSE], lambda content, folder: pose.from_text(_text(content)), _BOTH),
    "frame ranges": Parser(
        [b"1-20,24", b"-5--1, 3", b"7"], lambda content, folder: shot.parse_frame_ranges(_text(content))
    ),
}
