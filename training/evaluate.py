"""Figures of a bank on heads it was never trained on, and a contact sheet to look at.

    python -m training.evaluate BANK --heldout DIR --out REPORT_FOLDER

Every figure stands beside its baseline, copying the source. Frames are made by `FaceRenderer`, as an artist gets them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from inference.bank import Bank, load_bank
from inference.model.generator import Generator
from inference.renderer import FaceRenderer

from .data import HeadPairs
from .losses import sampling_grid

DRIVEN_FRAMES = (3, 4, 6, 8)  # of every held-out identity; its portrait frame 1 is the source
SHEET_ROWS = 10


def evaluate(bank: Bank, heldout: Path) -> tuple[dict[str, float], np.ndarray]:
    """Figures by name and a contact sheet (H, W, 3) uint8: source, then truth and result in pairs."""
    size = bank.config.size
    pairs = HeadPairs([heldout], size)
    renderer = FaceRenderer(bank)
    outcomes, rows = [], []
    for identity in range(pairs.identities):
        first = identity * pairs.frames_per_identity
        source = pairs.frames[first + 1].numpy()
        driven = [first + frame for frame in DRIVEN_FRAMES]
        truth = pairs.frames[driven].numpy()
        coefficients = pairs.coefficients[driven].numpy()
        renderer.set_source(source)
        began = time.perf_counter()
        result = np.stack(list(renderer.render(coefficients)))
        seconds = time.perf_counter() - began
        face = _face_region(pairs, driven)
        outcomes.append({
            "psnr_face": _psnr(result, truth, face),
            "psnr_face_copy": _psnr(np.broadcast_to(source, truth.shape), truth, face),
            "ssim_face": _ssim(result, truth, face),
            "ssim_face_copy": _ssim(np.broadcast_to(source, truth.shape), truth, face),
            "background_change": float(np.abs(result.astype(int) - source)[_still(pairs, first + 1, driven)].mean()),
            "frames_per_second": len(driven) / seconds,
            "truth": coefficients,
            "read": renderer.encode(truth).values,
            "echoed": renderer.encode(result).values,
        })
        if len(rows) < SHEET_ROWS:
            tiles = [source] + [tile for pair in zip(truth[:3], result[:3], strict=True) for tile in pair]
            rows.append(np.concatenate(tiles, 1))
    figures = {
        name: float(np.mean([outcome[name] for outcome in outcomes]))
        for name in outcomes[0] if name not in ("truth", "read", "echoed")
    }
    truth, read, echoed = (np.concatenate([o[name] for o in outcomes]) for name in ("truth", "read", "echoed"))
    for bank_name, columns in bank.config.bank_slices.items():
        figures[f"read_from_truth_r_{bank_name}"] = _correlation(read[:, columns], truth[:, columns])
        figures[f"read_from_result_r_{bank_name}"] = _correlation(echoed[:, columns], truth[:, columns])
    figures |= point_errors(bank, pairs)
    figures |= disentanglement(bank, pairs)
    return {name: round(value, 4) for name, value in figures.items()}, np.concatenate(rows, 0)


@torch.no_grad()
def point_errors(bank: Bank, pairs: HeadPairs) -> dict[str, float]:
    """Where tracked points look in the source against where they are: mean distance as a share of the eye distance."""
    model = _generator(bank)
    first = np.arange(pairs.identities) * pairs.frames_per_identity
    batch = pairs.pick(first + 1, np.stack([first + frame for frame in DRIVEN_FRAMES[:2]], 1))
    latent, features = model.enc(batch.source)
    *_, last = model.levels(latent, features, batch.driving_coefficients)
    looked = torch.nn.functional.grid_sample(
        sampling_grid(last.flow), batch.tracks.driving[:, None], padding_mode="border", align_corners=False
    )[:, :, 0].transpose(1, 2)
    missed = (looked - batch.tracks.source).norm(dim=-1)
    copied = (batch.tracks.driving - batch.tracks.source).norm(dim=-1)
    eye_distance = 2 * 0.23  # of the picture's width, which spans 2; the framing of every crop
    result = {}
    for name, (start, end) in [("all", (0, missed.shape[1])), *pairs.groups.items()]:
        seen = batch.tracks.visible[:, start:end]
        for label, distance in (("", missed), ("_copy", copied)):
            share = (distance[:, start:end] * seen).sum() / seen.sum() / eye_distance
            result[f"point_error_{name}{label}"] = share.item()
    return result


@torch.no_grad()
def disentanglement(bank: Bank, pairs: HeadPairs, sources: int = 40) -> dict[str, float]:
    """Movement of the bank's own region over movement of the rest of the face, for lips and expression.

    Every coefficient of a bank at 0.7 from rest, alone; units that move the mouth by their nature are left out.
    """
    model = _generator(bank)
    first = np.arange(min(sources, pairs.identities)) * pairs.frames_per_identity
    batch = pairs.pick(first, first[:, None])
    latent, features = model.enc(batch.source)
    regions = {"lip": ("mouth", "eyes"), "exp": ("eyes", "mouth")}
    result = {}
    for name, (own, other) in regions.items():
        moved = {own: [], other: []}
        rest = _looked(model, latent, features, torch.zeros(len(first), len(bank.names)), batch.tracks.source)
        for column in range(*bank.config.bank_slices[name].indices(len(bank.names))):
            if name == "exp" and bank.names[column].startswith(("mouth", "nose", "cheek")):
                continue
            alpha = torch.zeros(len(first), len(bank.names))
            alpha[:, column] = 0.7
            shift = (_looked(model, latent, features, alpha, batch.tracks.source) - rest).norm(dim=-1)
            for region in (own, other):
                start, end = pairs.groups[region]
                moved[region].append(shift[:, start:end].mean().item())
        result[f"disentanglement_{name}"] = float(np.mean(moved[own]) / np.mean(moved[other]))
    return result


def _looked(model: Generator, latent: torch.Tensor, features: list, alpha: torch.Tensor, points: torch.Tensor):
    *_, last = model.levels(latent, features, alpha)
    grid = sampling_grid(last.flow)
    return torch.nn.functional.grid_sample(grid, points[:, None], align_corners=False)[:, :, 0].transpose(1, 2)


def _generator(bank: Bank) -> Generator:
    model = Generator(bank.config)
    names = model.state_dict()
    model.load_state_dict({name: torch.from_numpy(bank.tensors[name]) for name in names})
    return model.eval()


def _face_region(pairs: HeadPairs, rows: list[int]) -> np.ndarray:
    """(N, S, S) bool: the box of the tracked face, mouth and eye points."""
    masks = np.zeros((len(rows), pairs.size, pairs.size), bool)
    last = max(end for name, (_, end) in pairs.groups.items() if name in ("mouth", "eyes", "face"))
    for mask, points in zip(masks, pairs.points[rows, :last].float().numpy(), strict=True):
        low = np.clip((points.min(0) + 1) / 2 * pairs.size, 0, pairs.size - 1).astype(int)
        high = np.clip((points.max(0) + 1) / 2 * pairs.size, 1, pairs.size).astype(int)
        mask[low[1] : high[1], low[0] : high[0]] = True
    return masks


def _still(pairs: HeadPairs, source: int, rows: list[int]) -> np.ndarray:
    """(N, S, S) bool: background in the source and in the driven frame alike."""
    free = (pairs.masks[rows] < 4) & (pairs.masks[source] < 4)
    return free.numpy().repeat(pairs.size // 32, 1).repeat(pairs.size // 32, 2)


def _psnr(pictures: np.ndarray, truth: np.ndarray, region: np.ndarray) -> float:
    error = (pictures.astype(np.float32) - truth) ** 2
    return float(np.mean([10 * np.log10(255**2 / error[i][region[i]].mean()) for i in range(len(truth))]))


def _ssim(pictures: np.ndarray, truth: np.ndarray, region: np.ndarray) -> float:
    """Mean structural similarity of luma inside the region; 11 px Gaussian window, sigma 1.5."""
    import cv2

    def blur(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (11, 11), 1.5)

    scores = []
    for picture, target, inside in zip(pictures, truth, region, strict=True):
        a, b = (cv2.cvtColor(np.ascontiguousarray(p), cv2.COLOR_RGB2GRAY).astype(np.float64) for p in (picture, target))
        mean_a, mean_b = blur(a), blur(b)
        var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
        cov = blur(a * b) - mean_a * mean_b
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        ssim = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
        scores.append(ssim[inside].mean())
    return float(np.mean(scores))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over columns that vary of Pearson's r."""
    columns = [column for column in range(a.shape[1]) if b[:, column].std() > 1e-3 and a[:, column].std() > 1e-6]
    return float(np.mean([np.corrcoef(a[:, column], b[:, column])[0, 1] for column in columns]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bank", type=Path)
    parser.add_argument("--heldout", type=Path, required=True, help="data set of identities never trained on")
    parser.add_argument("--out", type=Path, required=True, help="folder for report.json, report.md and sheet.png")
    args = parser.parse_args()
    figures, sheet = evaluate(load_bank(args.bank), args.heldout)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "report.json").write_text(json.dumps(figures, indent=1) + "\n")
    table = "\n".join(f"| {name} | {value} |" for name, value in figures.items())
    (args.out / "report.md").write_text(f"# {args.bank.name}\n\n| figure | value |\n|---|---|\n{table}\n")
    Image.fromarray(sheet).save(args.out / "sheet.png")
    print(table)


if __name__ == "__main__":
    main()
