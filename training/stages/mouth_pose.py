"""Stage 1 of training from footage: mouth and pose part by swapped mouths and cross-reconstruction, without labels.

Of two frames a and b, mostly of different people, two pictures are made: a with b's mouth, and b with a's. The mouth
code of the one and the pose code of the other must together redraw a, and the other way round. The whole loss is one
forward pass of `MouthPoseLosses`, so that it can run on several devices.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.model.generator import Generator
from inference.model.readers.look import look_at

from ..footage.motion import MotionPool, sample_base_frames, sample_lip_exchanges
from ..footage.swap import SwapRegion, random_partner, swap_mouths
from ..footage.takes import Footage, mouth_window_grid
from ..heads.data import TINT, Tracks
from ..learning.augment import Exposure
from ..learning.devices import Devices
from ..learning.losses import edge_loss, flow_loss, mask_loss, picture_loss, weighted_sum
from ..learning.optimiser import larger_mask_steps
from ..learning.trainer import Limits, Trainer
from .footage_generator import (
    LOOKS,
    anchored_latent,
    predict_alpha,
    solve_heads,
    source_code_error,
    stage_optimiser,
)
from .footage_losses import SAME, region_masks
from .mouth import CODES, COLUMNS, GAIN, HIGH, ROWS, WIDE, MotionCodes
from .reenactment import psnr_figures

PAIR_PICTURES = ("a", "b", "ab", "ba")  # pictures of a pair: two frames, and each with the mouth of the other
NEUTRAL = 0.7  # share of identity frames that are neutral ones
WEIGHTS = {
    "self": 1.0, "cross": 1.0, "window": 1.0, "feature": 0.05, "size": 0.02, "mask": 0.02, "hidden": 0.3, "hold": 0.3,
    "flow": 4.0, "own": 0.1,
}  # fmt: skip
MOUTH_WEIGHT, EYE_WEIGHT = 10.0, 5.0


class MouthPoseLosses(nn.Module):
    """Losses of stage 1 for one batch of N pairs; the only module whose forward is called in training.

    taught: use the codes that were learned without labels before. Without them (an ablation), the source's motion comes
    from the encoder alone, and no loss holds the heads.
    """

    def __init__(self, model: Generator, *, taught: bool = True) -> None:
        super().__init__()
        self.model, self.taught = model, taught

    def alpha(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Alpha (4 N, n) by the heads, of PAIR_PICTURES in this order."""
        faces = torch.cat([batch[name] for name in PAIR_PICTURES])
        windows = {
            bank: torch.cat([batch[f"look_{bank}_{name}"] for name in PAIR_PICTURES])
            for bank in LOOKS
            if bank in self.model.config.bank_slices
        }
        return predict_alpha(self.model, faces, windows)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Unweighted losses by name of the tensors of `pair_batch` and, optionally, `track_batch`."""
        model, count = self.model, len(batch["a"])
        slices = model.config.bank_slices
        lips, poses = slices["lip"], slices["pose"]
        z_a, z_b, z_ab, z_ba = self.alpha(batch).chunk(4)
        own = torch.cat([z_a, z_b])
        cross_a = torch.cat([z_ba[:, lips], z_ab[:, poses]], 1)
        cross_b = torch.cat([z_ab[:, lips], z_ba[:, poses]], 1)
        cross = torch.cat([cross_a, cross_b])

        source, features = model.enc(torch.cat([batch["identity_a"], batch["identity_b"]]))
        source_alpha = torch.cat([batch["code_identity_a"], batch["code_identity_b"]]) * GAIN
        latent = anchored_latent(model, source, source_alpha) if self.taught else source
        alpha = torch.stack([own, cross], 1).flatten(0, 1)  # self and cross of each identity
        last = list(model.levels(latent, features, alpha))[-1]
        rgb = last.rgb.view(2 * count, 2, *last.rgb.shape[1:])
        target, weight = torch.cat([batch["a"], batch["b"]]), torch.cat([batch["weight_a"], batch["weight_b"]])
        losses = {
            name: picture_loss(rgb[:, index], target, weight) + edge_loss(rgb[:, index], target, weight)
            for index, name in enumerate(("self", "cross"))
        }
        losses["window"] = self._window_loss(last.rgb, target, batch)
        losses["feature"] = self._feature_loss(cross, own)
        spread = own.detach().std(0).clamp(min=0.1)
        losses["size"] = F.smooth_l1_loss(cross / spread, own / spread)
        losses |= _mask_losses(last.flow, batch, target)
        if not self.taught:
            return losses
        losses["own"] = source_code_error(model, source, source_alpha)
        target_alpha = torch.cat([batch["code_a"], batch["code_b"]]) * GAIN
        centred = (
            values - values.view(2, count, -1).mean(1, keepdim=True).expand(2, count, -1).flatten(0, 1)
            for values in (own, target_alpha)
        )
        losses["hold"] = F.mse_loss(*centred) / GAIN**2
        if "track_source" in batch:
            losses["flow"] = self._track_loss(batch)
        return losses

    def _window_loss(self, rgb: Tensor, target: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """L1 loss and edge loss of the mouth windows of rgb (4 N, 3, R, R); target: (2 N, 3, R, R)."""
        grid = torch.cat([batch["window_a"], batch["window_b"]]).repeat_interleave(2, 0)
        windows = [
            F.grid_sample(part, grid, padding_mode="border", align_corners=False)
            for part in (rgb, target.repeat_interleave(2, 0))
        ]
        return (windows[0] - windows[1]).abs().mean() + edge_loss(*windows, torch.ones_like(windows[0][:, :1]))

    def _feature_loss(self, cross: Tensor, own: Tensor) -> Tensor:
        """exp(-cosine similarity) of the latents of cross and own alpha (2 N, n), summed over both banks."""
        basis, slices = self.model.basis(), self.model.config.bank_slices
        pairs = [
            (basis[:, bank] @ cross[:, bank].T, basis[:, bank] @ own[:, bank].T)
            for bank in (slices["lip"], slices["pose"])
        ]
        return torch.stack([torch.exp(-F.cosine_similarity(*pair, dim=0)).mean() for pair in pairs]).sum()

    def _track_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """`flow_loss` of the tensors of `track_batch`."""
        tracks = Tracks(batch["track_source"], batch["track_driving"], batch["track_inside"])
        source, features = self.model.enc(batch["track_picture"])
        latent = anchored_latent(self.model, source, batch["track_source_code"] * GAIN)
        return flow_loss(list(self.model.levels(latent, features, batch["track_code"] * GAIN)), tracks)


def _mask_losses(flow: Tensor, batch: Mapping[str, Tensor], target: Tensor) -> dict[str, Tensor]:
    """`mask`: blend masks are 1 on background that is the same in both frames. `hidden`: see `mask_loss`."""
    source = torch.cat([batch["identity_a"], batch["identity_b"]])
    small = [F.adaptive_avg_pool2d(part, flow.shape[-1] // 8) for part in (source, target)]
    same = ((small[0] - small[1]).abs().amax(1, keepdim=True) < SAME).float().repeat_interleave(2, 0)
    mask = torch.sigmoid(F.adaptive_avg_pool2d(flow[:, 2:], small[0].shape[-1]))
    background = ((1.0 - mask) * same).sum() / same.sum().clamp(min=1.0)
    weight, mouth = (
        torch.cat([batch[f"{name}_a"], batch[f"{name}_b"]]).repeat_interleave(2, 0) for name in ("weight", "mouth")
    )
    hidden = mask_loss(flow, source.repeat_interleave(2, 0), target.repeat_interleave(2, 0), mouth, weight)
    return {"mask": background, "hidden": hidden}


def draw_pairs(footage: Footage, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Frame numbers (N,) of a, b and their identity frames; partners whose mouths may be exchanged."""
    take_of = np.full(len(footage), -1)
    for number, take in enumerate(footage.takes):
        take_of[take] = number
    usable = np.flatnonzero(take_of >= 0)
    rows: dict[str, list[int]] = {name: [] for name in ("identity_a", "a", "identity_b", "b")}
    for _ in range(count):
        a = int(rng.choice(usable))
        b = random_partner(footage, a, usable, rng)
        for name, row in (("a", a), ("b", b)):
            take = take_of[row]
            identities = footage.neutral[take] if rng.random() < NEUTRAL else footage.takes[take]
            rows[f"identity_{name}"].append(int(rng.choice(identities)))
            rows[name].append(row)
    return {name: np.array(values) for name, values in rows.items()}


def pair_batch(
    footage: Footage, codes: np.ndarray, size: int, rows: Mapping[str, np.ndarray], rng: np.random.Generator,
    *, region: SwapRegion | None = "chin", tinted: bool = True, looks: Iterable[str] = ("lip",),
) -> dict[str, Tensor]:  # fmt: skip
    """Tensors of N pairs for `MouthPoseLosses`.

    region: see `footage.swap`; None exchanges nothing (an ablation). tinted: change each person's light and colours at
    random. looks: banks of LOOKS that the generator has.
    """
    frames, points = footage.frames, footage.points
    a, b = rows["a"], rows["b"]
    pixels = {"a": frames[a], "b": frames[b]}
    positions = {"a": points[a], "b": points[b]}
    for name, base, donor in (("ab", a, b), ("ba", b, a)):
        swapped = footage.subset(base) if region is None else swap_mouths(footage, base, donor, rng, region=region)
        pixels[name], positions[name] = swapped.frames, swapped.points
    exposure = {name: Exposure.random(len(a), rng, **TINT) for name in "ab"}

    def tensor(values: np.ndarray, person: str) -> Tensor:
        picture = torch.from_numpy(values).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        return exposure[person].apply(picture).clamp(-1.0, 1.0) if tinted else picture

    batch: dict[str, Tensor] = {}
    pictures = {name: tensor(values, name[0]) for name, values in pixels.items()}
    for name, full in pictures.items():
        batch |= {f"look_{bank}_{name}": look_at(full, positions[name], size, LOOKS[bank]) for bank in looks}
    for person in "ab":
        pictures[f"identity_{person}"] = tensor(frames[rows[f"identity_{person}"]], person)
        mouth, eyes, _ = region_masks(points[rows[person]], size)
        batch[f"mouth_{person}"] = mouth
        batch[f"weight_{person}"] = 1.0 + MOUTH_WEIGHT * mouth + EYE_WEIGHT * eyes
        batch[f"window_{person}"] = mouth_window_grid(points[rows[person]], WIDE, HIGH, COLUMNS, ROWS)
        batch[f"code_{person}"] = torch.from_numpy(codes[rows[person]])
        batch[f"code_identity_{person}"] = torch.from_numpy(codes[rows[f"identity_{person}"]])
    batch |= {name: F.avg_pool2d(full, full.shape[-1] // size) for name, full in pictures.items()}
    return batch


def track_batch(
    footage: Footage, codes: np.ndarray, lip_motion: np.ndarray, size: int, pool: MotionPool,
    rng: np.random.Generator, count: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Tensors of `count` sources of the pool, for the loss of the flow: driving frames and one lip exchange of each.

    codes: (N, 26). lip_motion: (N, 28, 2), see `MotionCodes.lip_motion`. size: pixels of the pictures.
    """
    chosen = rng.integers(0, len(pool.source_rows), count)
    tracks, base = pool.tracks(chosen), sample_base_frames(footage, pool, chosen, rng)
    exchange = sample_lip_exchanges(footage, lip_motion, base, rng)
    exchanged_codes = codes[base.rows]
    exchanged_codes[:, :CODES] = codes[exchange.donor][:, :CODES]

    def interleaved(driving: Tensor, exchanged: Tensor) -> Tensor:
        """Rows of the driving frames (S * K, ...) of each source, followed by that of its exchange (S, ...)."""
        parts = [part.view(count, -1, *part.shape[1:]) for part in (driving, exchanged)]
        return torch.cat(parts, 1).flatten(0, 1)

    driving_codes = torch.from_numpy(codes[pool.driving_rows[chosen].ravel()])
    return {
        "track_picture": footage.pictures(pool.source_rows[chosen], size),
        "track_code": interleaved(driving_codes, torch.from_numpy(exchanged_codes)),
        "track_source_code": torch.from_numpy(codes[pool.source_rows[chosen]]),
        "track_source": interleaved(tracks.source, exchange.tracks.source),
        "track_driving": interleaved(tracks.driving, exchange.tracks.driving),
        "track_inside": interleaved(tracks.visible, exchange.tracks.visible),
    }


def train_mouth_pose(
    args: Any,
    model: Generator,
    footage: Footage,
    heldout: Footage,
    teacher: MotionCodes,
    limit: Limits,
    rng: np.random.Generator,
    evaluate: Callable[[Generator], Mapping[str, Any]] = lambda model: {},
    *,
    pool: MotionPool | None = None,
    region: SwapRegion | None = "chin",
    taught: bool = True,
    evaluate_every: float = 300.0,
    devices: Devices | None = None,
) -> Generator:
    """Train or resume stage 1 from stage 0's generator, and return the averaged generator.

    args: has `out`, `rate`, `size`, `pairs` and `seed`. region, taught: see `pair_batch` and `MouthPoseLosses`.
    """
    devices = devices or Devices()
    codes, heldout_codes = teacher.lip_and_pose_codes(footage), torch.from_numpy(teacher.lip_and_pose_codes(heldout))
    lip_motion = teacher.lip_motion(footage)
    if taught and not args.out.exists():
        print(f"heads solved: {solve_heads(model, footage, codes, rng)}", flush=True)
    average, optimiser = copy.deepcopy(model), stage_optimiser(model)
    trainer = Trainer(
        args, {"model": model, "average": average, "optimiser": optimiser}, {"mouth-pose": limit}, rng,
        averaged=(model, average), longest=0.995, evaluate_every=evaluate_every,
        agreed=devices.agreed, writes=devices.rank == 0,
        extra=lambda: {"config": json.dumps(model.config.to_json())},
    )  # fmt: skip
    losses_of, optimiser = devices.set_up(MouthPoseLosses(model, taught=taught), optimiser)

    def figures() -> dict[str, Any]:
        return psnr_figures(average, heldout, heldout_codes) | dict(evaluate(average))

    for _ in trainer.steps("mouth-pose", optimiser, figures):
        step_rng = devices.generator(args.seed, trainer.step)
        batch = pair_batch(
            footage, codes, args.size, draw_pairs(footage, step_rng, args.pairs), step_rng, region=region
        )
        if taught and pool is not None:
            batch |= track_batch(footage, codes, lip_motion, args.size, pool, step_rng, max(1, args.pairs // 2))
        try:
            losses = losses_of(devices.moved(batch))
            loss = weighted_sum(losses, WEIGHTS)
            with larger_mask_steps(model):
                devices.minimise(loss, optimiser, model)
        except RuntimeError as error:
            args.pairs = devices.halved(args.pairs, error, "pairs")
            continue
        trainer.note(losses | {"loss": loss})
    return average
