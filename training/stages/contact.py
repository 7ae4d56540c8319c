"""Contact sheet of a training from footage: what each bank does to held-out faces."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from inference.contract.files import atomic_write
from inference.model.generator import Generator

from ..footage.takes import Footage, mouth_opening
from .footage_generator import anchored_latent
from .mouth import GAIN

COLUMNS = ("source", "truth", "self", "lips", "head", "expression")
ROWS, TILE, HEADER = 4, 128, 22  # faces; pixels of a picture; pixels of the line with the columns' names


def contrasting_pairs(footage: Footage, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(source, driven) frame numbers (n,), n <= count: a neutral frame and the widest mouth of takes far apart."""
    takes = range(len(footage.takes))
    chosen = sorted({int(take) for take in np.linspace(0, len(takes) - 1, min(count, len(takes)))}) if takes else []
    opening = mouth_opening(footage.points)
    source = [int(footage.neutral[take][0]) for take in chosen]
    driving = [int(footage.takes[take][np.argmax(opening[footage.takes[take]])]) for take in chosen]
    return np.array(source, np.int64), np.array(driving, np.int64)


@torch.no_grad()
def sheet_pictures(model: Generator, footage: Footage, codes: np.ndarray | None, rows: int = ROWS) -> Tensor:
    """(n, 6, 3, S, S) in [-1, 1], in the order of COLUMNS. codes: (N, 36) of all banks; None: as the model reads.

    The last three change one bank alone, from the source's codes to the truth's. Without an expression bank the last
    is the source.
    """
    source, driving = contrasting_pairs(footage, rows)
    size, slices = model.config.size, model.config.bank_slices
    source_pictures, driving_pictures = footage.pictures(source, size), footage.pictures(driving, size)
    latent, features = model.enc(source_pictures)
    if codes is None:
        source_alpha, driving_alpha = (
            model.coefficients(model.enc(part)[0]) for part in (source_pictures, driving_pictures)
        )
    else:
        codes = codes[:, : sum(count for _, count in model.config.banks)]
        source_alpha, driving_alpha = (torch.from_numpy(codes[which]).float() * GAIN for which in (source, driving))
        latent = anchored_latent(model, latent, source_alpha)
    alphas = [driving_alpha]
    for bank in ("lip", "pose", "exp"):
        changed = source_alpha.clone()
        columns = slices.get(bank, slice(0))
        changed[:, columns] = driving_alpha[:, columns]
        alphas.append(changed)
    alpha = torch.stack(alphas, 1).flatten(0, 1)
    *_, last = model.levels(latent, features, alpha)
    decoded = last.rgb.unflatten(0, (len(source), len(alphas)))
    return torch.cat([source_pictures[:, None], driving_pictures[:, None], decoded], 1).clamp(-1.0, 1.0)


def write_sheet(model: Generator, footage: Footage, codes: np.ndarray | None, path: Path) -> None:
    """Write the contact sheet as a JPEG file, whole. codes: see `sheet_pictures`."""
    pictures = ((sheet_pictures(model, footage, codes) + 1.0) * 127.5).round().byte().numpy()
    tiles = pictures.transpose(0, 3, 1, 4, 2)  # faces and pixels down, columns and pixels across
    rows, side, columns = tiles.shape[:3]
    sheet = np.ascontiguousarray(tiles.reshape(rows * side, columns * side, 3))
    sheet = cv2.resize(sheet, (columns * TILE, rows * TILE), interpolation=cv2.INTER_LINEAR)
    header = np.full((HEADER, sheet.shape[1], 3), 32, np.uint8)
    for column, name in enumerate(COLUMNS):
        cv2.putText(header, name, (column * TILE + 6, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (220,) * 3, 1, cv2.LINE_AA)
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(np.vstack([header, sheet]), cv2.COLOR_RGB2BGR))
    if done:
        with atomic_write(path, durable=False) as partial:
            partial.write_bytes(encoded.tobytes())
