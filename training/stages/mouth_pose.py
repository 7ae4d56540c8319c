"""Stage 1 of training from footage: mouth and pose part by swapped mouths and cross-reconstruction, without labels.

Of two frames a and b, mostly of different people, two pictures are made: a with b's mouth, and b with a's. The mouth
code of the one and the pose code of the other must together redraw a, and the other way round. The whole loss is one
forward pass of `MouthPoseStep`, so that it can run on several devices.
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

from ..footage.motion import MotionPool, exchanges, kept_frames
from ..footage.swap import Reach, partner, with_mouths_of
from ..footage.takes import Footage, window_grid
from ..heads.data import TINT, Tracks
from ..learning.augment import Exposure
from ..learning.devices import Devices
from ..learning.losses import held_flow_error, sampling_grid, total
from ..learning.optimiser import MASK_STEP, mask_rows
from ..learning.trainer import Limits, Trainer
from .mouth import CODES, COLUMNS, HIGH, ROWS, WIDE, Codes
from .reenactment import (
    GAIN,
    LOOKS,
    anchored,
    boxes,
    edge_error,
    own_error,
    picture_error,
    read,
    self_figures,
    solve_heads,
    stage_optimiser,
)

SHOWN = ("a", "b", "ab", "ba")  # pictures of a pair: two frames, and each with the mouth of the other
NEUTRAL = 0.7  # share of identity frames that are neutral ones
WEIGHTS = {
    "self": 1.0, "cross": 1.0, "window": 1.0, "feature": 0.05, "size": 0.02, "mask": 0.02, "hidden": 0.3, "hold": 0.3,
    "flow": 4.0, "own": 0.1,
}  # fmt: skip
MOUTH_WEIGHT, EYE_WEIGHT = 10.0, 5.0
SAME = 6.0 / 127.5
HIDDEN_FROM, OPEN = 0.15, 0.75


class MouthPoseStep(nn.Module):
    """Losses of stage 1 for one batch of N pairs; the only module whose forward is called in training.

    taught: use the codes that were learned without labels before; without them (an ablation) the encoder alone tells
    the source's own motion, and nothing holds the heads.
    """

    def __init__(self, model: Generator, *, taught: bool = True) -> None:
        super().__init__()
        self.model, self.taught = model, taught

    def codes(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(4 N, n) alpha that the heads read of a, b, and both pictures with exchanged mouths."""
        faces = torch.cat([batch[name] for name in SHOWN])
        looks = {
            bank: torch.cat([batch[f"look_{bank}_{name}"] for name in SHOWN])
            for bank in LOOKS
            if bank in self.model.config.bank_slices
        }
        return read(self.model, faces, looks)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Unweighted losses of `pair_batch`'s tensors. Raises nothing."""
        model, count = self.model, len(batch["a"])
        slices = model.config.bank_slices
        lips, poses = slices["lip"], slices["pose"]
        z_a, z_b, z_ab, z_ba = self.codes(batch).chunk(4)
        crossed = {
            "a": torch.cat([z_ba[:, lips], z_ab[:, poses]], 1),
            "b": torch.cat([z_ab[:, lips], z_ba[:, poses]], 1),
        }
        own = torch.cat([z_a, z_b])
        cross = torch.cat([crossed["a"], crossed["b"]])
        latent, features = model.enc(torch.cat([batch["identity_a"], batch["identity_b"]]))
        start = torch.cat([batch["code_identity_a"], batch["code_identity_b"]]) * GAIN
        alpha = torch.stack([own, cross], 1).flatten(0, 1)  # self and cross of each identity
        begun = anchored(model, latent, start) if self.taught else latent
        levels = list(model.levels(begun, features, alpha))
        rgb = levels[-1].rgb.view(2 * count, 2, *levels[-1].rgb.shape[1:])
        truth, weight = torch.cat([batch["a"], batch["b"]]), torch.cat([batch["weight_a"], batch["weight_b"]])
        parts = {
            name: picture_error(rgb[:, which], truth, weight) + edge_error(rgb[:, which], truth, weight)
            for which, name in enumerate(("self", "cross"))
        }
        grid = torch.cat([batch["window_a"], batch["window_b"]]).repeat_interleave(2, 0)
        drawn, wanted = (
            F.grid_sample(part, grid, padding_mode="border", align_corners=False)
            for part in (levels[-1].rgb, truth.repeat_interleave(2, 0))
        )
        parts["window"] = (drawn - wanted).abs().mean() + edge_error(drawn, wanted, torch.ones_like(drawn[:, :1]))
        basis = model.basis()
        pairs = [(basis[:, part] @ cross[:, part].T, basis[:, part] @ own[:, part].T) for part in (lips, poses)]
        parts["feature"] = torch.stack([torch.exp(-F.cosine_similarity(*pair, dim=0)).mean() for pair in pairs]).sum()
        spread = own.detach().std(0).clamp(min=0.1)
        parts["size"] = F.smooth_l1_loss(cross / spread, own / spread)
        parts |= _mask_errors(levels[-1].flow, batch, truth)
        if not self.taught:
            return parts
        parts["own"] = own_error(model, latent, start)
        wanted_codes = torch.cat([batch["code_a"], batch["code_b"]]) * GAIN
        centred = (
            values - values.view(2, count, -1).mean(1, keepdim=True).expand(2, count, -1).flatten(0, 1)
            for values in (own, wanted_codes)
        )
        parts["hold"] = F.mse_loss(*centred) / GAIN**2
        if "track_source" in batch:
            tracks = Tracks(batch["track_source"], batch["track_driven"], batch["track_inside"])
            tracked, tracked_features = model.enc(batch["track_picture"])
            begun = anchored(model, tracked, batch["track_start"] * GAIN)
            moved = list(model.levels(begun, tracked_features, batch["track_code"] * GAIN))
            parts["flow"] = held_flow_error(moved, tracks, torch.ones(tracks.source.shape[1]).to(truth.device))
        return parts


def _mask_errors(flow: Tensor, batch: Mapping[str, Tensor], truth: Tensor) -> dict[str, Tensor]:
    """`mask`: masks of background that is the same in both frames are 1. `hidden`: see `learning.losses`."""
    source = torch.cat([batch["identity_a"], batch["identity_b"]])
    small = [F.adaptive_avg_pool2d(part, flow.shape[-1] // 8) for part in (source, truth)]
    same = ((small[0] - small[1]).abs().amax(1, keepdim=True) < SAME).float().repeat_interleave(2, 0)
    mask = torch.sigmoid(F.adaptive_avg_pool2d(flow[:, 2:], small[0].shape[-1]))
    background = ((1.0 - mask) * same).sum() / same.sum().clamp(min=1.0)
    repeated, wanted = source.repeat_interleave(2, 0), truth.repeat_interleave(2, 0)
    weight, mouth = (
        torch.cat([batch[f"{name}_a"], batch[f"{name}_b"]]).repeat_interleave(2, 0) for name in ("weight", "mouth")
    )
    with torch.no_grad():
        found = F.grid_sample(repeated, sampling_grid(flow).permute(0, 2, 3, 1), align_corners=False)
        hidden = mouth * (((found - wanted).abs().mean(1, keepdim=True) - HIDDEN_FROM) / HIDDEN_FROM).clamp(0.0, 1.0)
        weight = (weight - 1.0) * (1.0 + 10.0 * hidden)
    error = F.binary_cross_entropy_with_logits(flow[:, 2:], OPEN * (1.0 - hidden), weight, reduction="sum")
    return {"mask": background, "hidden": error / weight.sum().clamp(min=1.0)}


def draw_pairs(footage: Footage, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Frame numbers (N,) of a, b and their identity frames; partners whose mouths may be exchanged."""
    take_of = np.full(len(footage), -1)
    for number, take in enumerate(footage.takes):
        take_of[take] = number
    usable = np.flatnonzero(take_of >= 0)
    rows: dict[str, list[int]] = {name: [] for name in ("identity_a", "a", "identity_b", "b")}
    for _ in range(count):
        a = int(rng.choice(usable))
        b = partner(footage, a, usable, rng)
        for name, row in (("a", a), ("b", b)):
            take = take_of[row]
            identities = footage.neutral[take] if rng.random() < NEUTRAL else footage.takes[take]
            rows[f"identity_{name}"].append(int(rng.choice(identities)))
            rows[name].append(row)
    return {name: np.array(values) for name, values in rows.items()}


def pair_batch(
    footage: Footage, codes: np.ndarray, size: int, rows: Mapping[str, np.ndarray], rng: np.random.Generator,
    *, reach: Reach | None = "chin", tinted: bool = True, looks: Iterable[str] = ("lip",),
) -> dict[str, Tensor]:  # fmt: skip
    """Tensors of N pairs for `MouthPoseStep`.

    reach: see `footage.swap`; None exchanges nothing (an ablation). tinted: change each person's light and colours at
    random. looks: banks of LOOKS that the generator has.
    """
    frames, points = footage.frames, footage.points
    a, b = rows["a"], rows["b"]
    pictures: dict[str, Tensor] = {}
    at: dict[str, np.ndarray] = {"a": points[a], "b": points[b]}
    made: dict[str, np.ndarray] = {}
    for name, kept, mouth in (("ab", a, b), ("ba", b, a)):
        mixed = footage.part(kept) if reach is None else with_mouths_of(footage, kept, mouth, rng, reach=reach)
        made[name], at[name] = mixed.frames, mixed.points
    exposure = {name: Exposure.random(len(a), rng, **TINT) for name in "ab"}

    def tensor(pixels: np.ndarray, person: str) -> Tensor:
        shown = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        return exposure[person].apply(shown).clamp(-1.0, 1.0) if tinted else shown

    batch: dict[str, Tensor] = {}
    for name, pixels in (("a", frames[a]), ("b", frames[b]), *made.items()):
        full = tensor(pixels, name[0])
        batch |= {f"look_{bank}_{name}": look_at(full, at[name], size, LOOKS[bank]) for bank in looks}
        pictures[name] = full
    for person in "ab":
        pictures[f"identity_{person}"] = tensor(frames[rows[f"identity_{person}"]], person)
        mouth, eyes, _ = boxes(points[rows[person]], size)
        batch[f"mouth_{person}"] = mouth
        batch[f"weight_{person}"] = 1.0 + MOUTH_WEIGHT * mouth + EYE_WEIGHT * eyes
        batch[f"window_{person}"] = window_grid(points[rows[person]], WIDE, HIGH, COLUMNS, ROWS)
        batch[f"code_{person}"] = torch.from_numpy(codes[rows[person]])
        batch[f"code_identity_{person}"] = torch.from_numpy(codes[rows[f"identity_{person}"]])
    batch |= {name: F.avg_pool2d(full, full.shape[-1] // size) for name, full in pictures.items()}
    return batch


def track_batch(
    footage: Footage, codes: np.ndarray, lips: np.ndarray, size: int, pool: MotionPool, rng: np.random.Generator,
    count: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Tensors of `count` sources of the pool, for the loss of the flow: driven frames and one exchange of each.

    codes: (N, 26). lips: (N, 28, 2), see `footage.motion.exchanges`.
    """
    chosen = rng.integers(0, len(pool.source_rows), count)
    tracks, exchange = pool.tracks(chosen), exchanges(footage, lips, kept_frames(footage, pool, chosen, rng), rng)
    mixed = codes[exchange.kept.frames]
    mixed[:, :CODES] = codes[exchange.other][:, :CODES]

    def followed(driven: Tensor, exchanged: Tensor) -> Tensor:
        """Rows of the driven frames (S * K, ...) of each source, then that of its exchange (S, ...)."""
        parts = [part.view(count, -1, *part.shape[1:]) for part in (driven, exchanged)]
        return torch.cat(parts, 1).flatten(0, 1)

    return {
        "track_picture": footage.pictures(pool.source_rows[chosen], size),
        "track_code": followed(torch.from_numpy(codes[pool.driven_rows[chosen].ravel()]), torch.from_numpy(mixed)),
        "track_start": torch.from_numpy(codes[pool.source_rows[chosen]]),
        "track_source": followed(tracks.source, exchange.tracks.source),
        "track_driven": followed(tracks.driving, exchange.tracks.driving),
        "track_inside": followed(tracks.visible, exchange.tracks.visible),
    }


def train_mouth_pose(
    args: Any,
    model: Generator,
    footage: Footage,
    heldout: Footage,
    teacher: Codes,
    limit: Limits,
    rng: np.random.Generator,
    evaluate: Callable[[Generator], Mapping[str, Any]] = lambda model: {},
    *,
    pool: MotionPool | None = None,
    reach: Reach | None = "chin",
    taught: bool = True,
    evaluate_every: float = 300.0,
    devices: Devices | None = None,
) -> Generator:
    """Train or resume stage 1 from stage 0's generator, and return the averaged generator.

    args: has `out`, `rate`, `size`, `pairs` and `seed`. reach, taught: see `pair_batch` and `MouthPoseStep`.
    """
    devices = devices or Devices()
    codes, held = teacher.both(footage), torch.from_numpy(teacher.both(heldout))
    lips = teacher.lips_moved(footage)
    if taught and not args.out.exists():
        print(f"heads solved: {solve_heads(model, footage, codes, rng)}", flush=True)
    average, optimiser = copy.deepcopy(model), stage_optimiser(model)
    trainer = Trainer(
        args, {"model": model, "average": average, "optimiser": optimiser}, {"mouth-pose": limit}, rng,
        averaged=(model, average), longest=0.995, evaluate_every=evaluate_every,
        agreed=devices.agreed, writes=devices.rank == 0,
        extra=lambda: {"config": json.dumps(model.config.to_json())},
    )  # fmt: skip
    step, optimiser = devices.set_up(MouthPoseStep(model, taught=taught), optimiser)

    def figures() -> dict[str, Any]:
        return self_figures(average, heldout, held) | dict(evaluate(average))

    for _ in trainer.steps("mouth-pose", optimiser, figures):
        own = devices.generator(args.seed, trainer.step)
        batch = pair_batch(footage, codes, args.size, draw_pairs(footage, own, args.pairs), own, reach=reach)
        if taught and pool is not None:
            batch |= track_batch(footage, codes, lips, args.size, pool, own, max(1, args.pairs // 2))
        before = [row.clone() for row in mask_rows(model)]
        try:
            losses = step(devices.moved(batch))
            loss = total(losses, WEIGHTS)
            devices.minimise(loss, optimiser, model)
        except RuntimeError as error:
            args.pairs = devices.halved(args.pairs, error, "pairs")
            continue
        with torch.no_grad():
            for row, old in zip(mask_rows(model), before, strict=True):
                row.lerp_(old, 1.0 - MASK_STEP)
        trainer.note(losses | {"loss": loss})
    return average
