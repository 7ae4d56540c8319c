"""A shot that renders fast: a small random bank, a portrait without crop, a sound and some holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference.contract.bank import read_bank
from inference.contract.coefficients import Coefficients
from inference.contract.config import GeneratorConfig
from inference.contract.plate import Plate, Track, media_sha256
from inference.contract.shot import Shot
from inference.media.video_writer import VideoWriter
from tests.cli_material import BANKS, SMALL, write_bank, write_wav
from tests.synthetic_inputs import picture, waveform

FIRST, FPS = 101, 24000 / 1001


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with bank.safetensors, portrait.png and line.wav."""
    folder = tmp_path_factory.mktemp("inputs")
    write_bank(folder / "bank.safetensors", GeneratorConfig(**SMALL, banks=BANKS), sound=False)
    Image.fromarray(picture("farm", 64, 64)).save(folder / "portrait.png")
    write_wav(folder / "line.wav", waveform(0.5))
    return folder


@pytest.fixture
def make_shot(inputs: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a shot of a number of frames from 101 on; every fourth frame is a hold. Returns its folder."""

    def make(frames: int, folder: str = "shot", **changes: Any) -> Path:
        bank = read_bank(inputs / "bank.safetensors")
        rows = np.random.default_rng(frames).standard_normal((frames, len(bank.names)))
        rows[3::4] = rows[2::4][: len(rows[3::4])]
        given = {
            "bank": bank.path,
            "bank_sha256": bank.sha256,
            "portrait": inputs / "portrait.png",
            "crop": "none",
            "coefficients": Coefficients(rows, bank.names, FPS),
            "frames_folder": tmp_path / "frames",
            "first_frame": FIRST,
            "sound": inputs / "line.wav",
        }
        Shot(**(given | changes)).write(tmp_path / folder)
        return tmp_path / folder

    return make


def pictures(folder: Path) -> dict[str, bytes]:
    """The content of all finished frames in a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


@pytest.fixture
def dub_shot(make_shot, tmp_path: Path) -> Callable[..., Path]:
    """As `make_shot`, with footage instead of a portrait and no face in the third frame."""

    def make(frames: int, folder: str = "shot", **changes: Any) -> Path:
        media = tmp_path / "rushes.mp4"
        with VideoWriter(media, 25, (96, 64)) as writer:
            for index in range(frames):
                writer.write(picture(f"rushes_{index}", 64, 96))
        crops = np.tile([20.0, 10, 40, 2], (frames, 1)) + np.arange(frames)[:, None] * [0.25, 0, 0, 0]
        crops[2] = np.nan
        track = Track(np.arange(frames) / 25, crops)
        plate = Plate.of(media, media_sha256(media), track, np.arange(frames) / 25)
        return make_shot(frames, folder, **({"portrait": None, "plate": plate, "layer": "pasted"} | changes))

    return make
