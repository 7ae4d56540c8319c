"""Render the pictures of emotions and mouth shapes that the extension shows, from a portrait of the demo (CC0).

    .venv/worker/bin/python -m docs.thumbnails

Run it after a change of the starter bank, its emotions or `lipsync/mouth_shapes.py`.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from inference.contract.bank import STARTER, load_bank
from inference.drawing import LoadedBank
from inference.face.size import FaceSize

ROOT = Path(__file__).resolve().parents[1]
PORTRAIT = ROOT / "inference" / "demo" / "portrait_1.png"
OUT = ROOT / "edtalk_blender" / "animation" / "thumbnails"
SIDE, FACE = 128, (96, 110, 416, 430)  # pixels; the part of a frame of 512 that is shown


def mouth_shapes() -> dict[str, dict[str, float]]:
    """`MOUTH_SHAPES` of the add-on, whose package imports bpy."""
    module = runpy.run_path(str(ROOT / "edtalk_blender" / "lipsync" / "mouth_shapes.py"))
    return dict(module["MOUTH_SHAPES"])


def main() -> None:
    bank = load_bank(STARTER)
    columns = bank.names_of("exp")
    pictures = {name: dict(zip(columns, vector.tolist(), strict=True)) for name, vector in bank.presets.items()}
    pictures |= {f"mouth_{name}": shape for name, shape in mouth_shapes().items()}
    face = LoadedBank(bank, torch.device("cpu")).face(PORTRAIT, "auto", FaceSize.of("square", 512, True))
    rest = face.renderer.source_coefficients.values[0]
    rows = np.stack([rest + [shape.get(name, 0.0) for name in bank.names] for shape in pictures.values()])
    OUT.mkdir(exist_ok=True)
    for name, pixels in zip(pictures, face.renderer.render(rows.astype(np.float32)), strict=True):
        small = Image.fromarray(pixels).crop(FACE).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        small.quantize(96, dither=Image.Dither.NONE).save(OUT / f"{name}.png", optimize=True)
    print(f"wrote {len(pictures)} pictures, {sum(path.stat().st_size for path in OUT.glob('*.png')) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
