"""Material for the tests of the command line: small random banks, images, clips and sounds."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from inference import cli
from inference.cli import rendering
from inference.cli.bench import RandomBank
from inference.contract.bank import Bank, Coefficient, numbered_coefficients, save_bank
from inference.contract.config import GeneratorConfig
from inference.media.video_writer import VideoWriter
from inference.model.audio2lip import Audio2Lip, Audio2LipConfig
from tests.synthetic_inputs import picture, waveform

ROOT = Path(__file__).parents[1]
BANKS = (("lip", 20), ("pose", 6), ("exp", 10))
SMALL = {"size": 64, "style_dim": 48, "channels": {4: 16, 8: 16, 16: 12, 32: 8, 64: 8}}
NAMED = {20: "headYaw", 21: "headPitch", 29: "eyeBlink"}
EMOTIONS = ("happy", "neutral", "sad")


def write_bank(path: Path, config: GeneratorConfig, *, sound: bool = True, narrow: bool = True) -> Path:
    """A bank of random weights, with three emotions if it has expressions."""
    coefficients = [
        Coefficient(NAMED.get(column, entry.name), entry.bank)
        for column, entry in enumerate(numbered_coefficients(config.banks))
    ]
    random = np.random.default_rng(5)
    emotions = EMOTIONS if config.enhances_expression else ()
    presets = {name: random.standard_normal(10).astype(np.float32) for name in emotions}
    tensors = dict(RandomBank.of(config).tensors)
    if sound:
        torch.manual_seed(2)
        network = Audio2Lip(Audio2LipConfig((4, 4, 8, 8, 8)) if narrow else None)
        tensors |= {f"audio2lip.{name}": tensor.numpy() for name, tensor in network.state_dict().items()}
    save_bank(Bank(path.stem, config, tuple(coefficients), presets), tensors, path)
    return path


@dataclass(frozen=True)
class Material:
    """Input files. The folders are lossless driving clips of 3, 5 and 11 frames."""

    bank: Path
    lip_pose: Path
    silent_bank: Path
    source: Path
    voice: Path
    exp3: Path
    pose5: Path
    lip11: Path
    clip: Path


def pictures(name: str, count: int) -> list[np.ndarray]:
    return [picture(f"{name}_{index}", 64, 64) for index in range(count)]


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libmp3lame" if path.suffix == ".mp3" else "pcm_s16le", rate=rate)
        stream.layout = "mono" if samples.ndim == 1 else "stereo"
        frame = av.AudioFrame.from_ndarray(
            (np.atleast_2d(samples) * 32767).astype(np.int16).T.reshape(1, -1), format="s16", layout=stream.layout.name
        )
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format.name, stream.layout.name, rate)
        for piece in resampler.resample(frame):
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return path


def build(folder: Path) -> Material:
    """Write all files into an empty folder."""
    drivers = {}
    for name, count in (("exp", 3), ("pose", 5), ("lip", 11)):
        drivers[name] = folder / f"{name}{count}"
        drivers[name].mkdir()
        for index, rgb in enumerate(pictures(name, count)):
            Image.fromarray(rgb).save(drivers[name] / f"{index}.png")
    Image.fromarray(picture("source_0", 64, 64)).save(folder / "source.png")
    with VideoWriter(folder / "clip.mp4", 25, (64, 64), sound=(waveform(0.4), 16_000)) as writer:
        for rgb in pictures("clip", 10):
            writer.write(rgb)
    return Material(
        bank=write_bank(folder / "small.safetensors", GeneratorConfig(**SMALL, banks=BANKS)),
        lip_pose=write_bank(folder / "lip_pose.safetensors", GeneratorConfig(**SMALL, banks=BANKS[:2])),
        silent_bank=write_bank(folder / "silent.safetensors", GeneratorConfig(**SMALL, banks=BANKS), sound=False),
        source=folder / "source.png",
        voice=write_wav(folder / "voice.wav", waveform(0.5)),  # 12 frames at 25 fps
        exp3=drivers["exp"],
        pose5=drivers["pose"],
        lip11=drivers["lip"],
        clip=folder / "clip.mp4",
    )


def run(*words: object) -> int:
    """The exit code of one command."""
    try:
        return cli.main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code


def render(material: Material, *words: object) -> list[object]:
    """The arguments of a `render` with the small bank at its own size, uncropped; later options override these."""
    return ["render", "--bank", material.bank, "--source", material.source, "--crop", "none",
            "--driver-crop", "none", "--size", "native", "--threads", 1, *words]  # fmt: skip


def make(material: Material, *words: object) -> rendering.Result:
    return rendering.make(cli.build_parser().parse_args([str(word) for word in render(material, *words)]))


def media_lengths(path: Path) -> tuple[int, Fraction, float, float | None]:
    """Decoded frames, frame rate, and seconds of picture and of sound."""
    with av.open(str(path)) as file:
        rate = file.streams.video[0].average_rate
        frames = sum(1 for _ in file.decode(video=0))
    with av.open(str(path)) as file:
        samples = sum(frame.samples for frame in file.decode(audio=0)) if file.streams.audio else None
        sound = None if samples is None else float(file.streams.audio[0].duration * file.streams.audio[0].time_base)
    return frames, rate, float(frames / rate), sound
