"""Stage 0 of training from footage: encoder and decoder learn motion without labels.

The decoder is driven by the codes of `stages.mouth` and by the motion of rigid points, not by its own heads: so
nothing that the heads read can be lost while the decoder cannot move yet. Its flow is trained on `footage.motion`:

- common motion: the flow that all faces share, linear in the codes' difference, without a source (minutes);
- own motion: the flow of each person, up to 32 px;
- self: the picture, with the mouth's window compared by itself.

In every phase the lip code of one driven frame of each source is exchanged for that of another frame, and the flow is
compared with the motion that points alone predict for this.

The heads are solved in closed form: `pose_fc` from the latent of the face, those of LOOKS from the latent of a window
that is aligned by the points, which the shared encoder looks at as at a face.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.contract.config import GeneratorConfig
from inference.model.generator import Generator, Level
from inference.model.readers.look import Window, look_at

from ..footage.motion import Exchanges, MotionPool, exchanges, kept_frames
from ..footage.swap import partner, with_mouths_of
from ..footage.takes import EYES, MOUTH, Footage, head_frame, windows
from ..heads.data import TINT, Tracks
from ..learning.augment import Exposure
from ..learning.losses import FLOW_FROM, flow_error, held_flow_error, own_motion, sampling_grid, total
from ..learning.optimiser import MASK_STEP, mask_rows, minimise, step_scale
from ..learning.trainer import Limits, Trainer
from .generator import CHANNELS, STYLE_DIM, fresh
from .mouth import CODES, COLUMNS, HIGH, POSES, ROWS, WIDE, Codes
from .pretraining import BLIND_TO, SPREAD, blind_flows, common_motion_optimiser, prepare_common_motion

GAIN = 2.0  # alpha is the code times this, so that a code of 1 moves the latent by about as much as another person
LOOKS = {"lip": Window(1.6, 0.6), "exp": Window(1.6, 0.6, (0.0, -0.15))}  # that the encoder looks at, by bank
RIDGE = 0.01  # of the mean diagonal
RIDGE_FRAMES = 6.0  # the heads' ridge is this number over that of the frames, but at most RIDGE
SOLVED_FRAMES = 6000  # most frames that the heads are solved from
MOUTH_WEIGHT, EYE_WEIGHT = 10.0, 4.0  # of the picture loss, added to 1
WEIGHTS = {
    "picture": 1.0, "edges": 1.0, "window": 1.0, "flow": 4.0, "exchange": 10.0, "still": 1.0, "hidden": 0.3, "own": 0.1,
}  # fmt: skip
LASTING_FLOW = 1.0  # share of the flow's weight that is left at the end; with 0.25 lip motion stops improving
DRIVEN, LIPS = "driven", "lips"  # names of the drawings of driven frames, and of frames with exchanged lips
SAME = 6.0 / 127.5  # difference up to which two pictures are the same, for the background
HIDDEN_FROM, OPEN = 0.15, 0.75  # as in `learning.losses.hidden_error`


def footage_config(
    size: int, banks: tuple[tuple[str, int], ...] = (("lip", CODES), ("pose", POSES))
) -> GeneratorConfig:
    """The small architecture with the banks of stage 1."""
    return GeneratorConfig(size, STYLE_DIM, {side: count for side, count in CHANNELS.items() if side <= size}, banks)


def looks_of(pictures: Tensor, points: np.ndarray, config: GeneratorConfig) -> dict[str, Tensor]:
    """The windows (N, 3, R, R) of faces that the shared encoder looks at, by the bank that is read from each."""
    return {
        bank: look_at(pictures, points, config.size, window)
        for bank, window in LOOKS.items()
        if bank in config.bank_slices
    }


def read(model: Generator, faces: Tensor, looks: Mapping[str, Tensor]) -> Tensor:
    """(N, n) alpha that the heads read of faces (N, 3, R, R), those of LOOKS from the windows of `looks_of`."""
    face, *others = model.fc(model.enc(torch.cat([faces, *looks.values()]))[0]).chunk(1 + len(looks))
    seen = dict(zip(looks, others, strict=True))
    return torch.cat([getattr(model, f"{bank}_fc")(seen.get(bank, face)) for bank, _ in model.config.banks], 1)


def ridge(rows: Tensor, targets: Tensor, strength: float = RIDGE) -> Tensor:
    """(D, n) solution from centred rows (N, D) to centred targets (N, n). strength: of the mean diagonal."""
    square = rows.T @ rows
    return torch.linalg.solve(square + strength * square.diagonal().mean() * torch.eye(len(square)), rows.T @ targets)


@torch.no_grad()
def latents(model: Generator, footage: Footage, rows: np.ndarray, bank: str | None = None) -> Tensor:
    """(n, style_dim) of the faces of some frames, or of the windows that a bank of LOOKS is read from."""
    return torch.cat([model.enc(seen)[0] for seen in _shown(footage, rows, model.config.size, bank)])


def _shown(footage: Footage, rows: np.ndarray, size: int, bank: str | None) -> Iterator[Tensor]:
    """Pictures for `latents`, about 100 at a time."""
    for part in np.array_split(rows, max(1, len(rows) // 100)):
        if bank is None:
            yield footage.pictures(part, size)
        else:
            yield look_at(footage.pictures(part), footage.points[part], size, LOOKS[bank])


def take_centred(values: Tensor, footage: Footage, rows: np.ndarray) -> Tensor:
    """(N, n) values less the mean of their take."""
    _, inverse = np.unique(footage.clip[rows], return_inverse=True)
    index = torch.from_numpy(inverse)
    count = torch.bincount(index).clamp(min=1)[:, None]
    means = torch.zeros(len(count), values.shape[1]).index_add_(0, index, values) / count
    return values - means[index]


@dataclass(frozen=True)
class Mixed:
    """N frames with the mouths of others, see `footage.swap.with_mouths_of`."""

    pictures: Footage
    kept: np.ndarray  # (N,) numbers of the frames that keep everything else
    mouth: np.ndarray  # (N,) numbers of the frames that give the mouth

    @staticmethod
    def of(footage: Footage, kept: np.ndarray, rng: np.random.Generator) -> Mixed:
        """Frames `kept` (N,) with the mouths of random partners."""
        usable = np.concatenate(footage.takes)
        mouth = np.array([partner(footage, frame, usable, rng) for frame in kept])
        return Mixed(with_mouths_of(footage, kept, mouth, rng), kept, mouth)

    def giving(self, bank: str) -> np.ndarray:
        """(N,) numbers of the frames whose code of a bank the pictures show."""
        return self.mouth if bank == "lip" else self.kept


@torch.no_grad()
def solve_heads(
    model: Generator, footage: Footage, codes: np.ndarray, rng: np.random.Generator, *, mixed: int = 0
) -> dict[str, float]:
    """Set the heads' last layers to ridge solutions of alpha; returns the share of variance that each explains.

    codes: (N, n) of all frames, of the generator's banks. mixed: number of frames with the mouths of others that are
    used as well, so that the heads read swapped pictures as they read others.
    """
    explained = {}
    targets = torch.from_numpy(codes) * GAIN
    rows = rng.choice(len(footage), min(SOLVED_FRAMES, len(footage)), replace=False)
    swapped = Mixed.of(footage, rng.choice(len(footage), mixed), rng) if mixed else None
    for name, columns in model.config.bank_slices.items():
        layers, bank = getattr(model, f"{name}_fc"), name if name in LOOKS else None
        shared, alpha = layers[:2](model.fc(latents(model, footage, rows, bank))), targets[rows][:, columns]
        read, wanted = take_centred(shared, footage, rows), take_centred(alpha, footage, rows)
        strength = min(RIDGE, RIDGE_FRAMES / len(rows))
        if swapped is None:
            solution = ridge(read, wanted, strength)
        else:
            given, all_rows = swapped.giving(name), np.arange(mixed)
            more = layers[:2](model.fc(latents(model, swapped.pictures, all_rows, bank)))
            solution = ridge(
                torch.cat([read, take_centred(more, footage, given)]),
                torch.cat([wanted, take_centred(targets[given][:, columns], footage, given)]),
                strength,
            )
        layers[2].weight.copy_(solution.T / layers[2].scale)
        layers[2].bias.copy_(alpha.mean(0) - shared.mean(0) @ solution)
        left = wanted - read @ solution
        explained[name] = round((1.0 - left.square().sum() / wanted.square().sum()).item(), 3)
    return explained


@torch.no_grad()
def calibrate(
    model: Generator, footage: Footage, codes: np.ndarray, rng: np.random.Generator, count: int = 3000
) -> None:
    """Initialise the latent with principal components of faces and of the windows of LOOKS, and with the source's own
    motion.

    The latent is meant to be motion-free before the codes are added, so its part along the directions starts as minus
    the codes, as far as they can be read from the whole face by a regression.
    """
    rows = rng.choice(len(footage), min(count, len(footage)), replace=False)
    *layers, last = model.enc.net_app.convs
    body, size = nn.Sequential(*layers), model.config.size
    kinds = [
        torch.cat([body(seen).flatten(1) for seen in _shown(footage, rows, size, bank)]) for bank in (None, *LOOKS)
    ]
    mean, wide = torch.cat(kinds).mean(0), len(last.weight)
    centred = torch.cat([kind - kind.mean(0) for kind in kinds])
    variance, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
    variance, axes = variance.flip(0)[:wide].clamp(min=0), axes.flip(1)[:, :wide]
    to_latent = SPREAD * (axes / (variance + variance[len(variance) // 3]).sqrt()).T  # (style_dim, features)
    basis = model.basis()
    faces = kinds[0] - kinds[0].mean(0)
    alpha = torch.from_numpy(codes[rows]) * GAIN
    solution = ridge(faces, alpha - alpha.mean(0))  # (features, 26)
    to_latent = to_latent - basis @ (basis.T @ to_latent) - basis @ solution.T
    to_latent -= torch.outer(to_latent @ mean, mean) / mean.square().sum()  # the layer has no bias
    last.weight.copy_((to_latent / last.scale).view_as(last.weight))


@dataclass(frozen=True)
class Drive:
    """One batch: S sources with K driven frames each."""

    source: Tensor  # (S, 3, R, R)
    driven: Tensor  # (S * K, 3, R, R)
    source_rows: np.ndarray  # (S,)
    driven_rows: np.ndarray  # (S * K,)
    alpha: Tensor  # (S * K, n) of the driven frames
    source_alpha: Tensor  # (S, n)
    weight: Tensor  # (S * K, 1, R, R) of the picture loss
    mouth: Tensor  # (S * K, 1, R, R) 1 in the mouth's box
    away: Tensor  # (S * K, 1, R, R) 1 away from head and shoulders


def boxes(points: np.ndarray, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 1, size, size) soft boxes around mouth and eyes, and 1 outside the head, from points (N, 9, 2)."""
    middle, _, distance = head_frame(points)
    line = (np.arange(size) * 2 + 1) / size - 1.0

    def box(centre: np.ndarray, wide: float, high: float) -> np.ndarray:
        across = np.abs(line[None] - centre[:, :1]) / (wide * distance[:, None])
        down = np.abs(line[None] - centre[:, 1:]) / (high * distance[:, None])
        inside_x, inside_y = (np.clip(4.0 * (1.0 - value) + 0.5, 0.0, 1.0) for value in (across, down))
        return (inside_y[:, :, None] * inside_x[:, None, :])[:, None]

    mouth = box(points[:, MOUTH] + np.stack([0 * distance, 0.1 * distance], 1), 0.62, 0.6)
    eyes = np.maximum(*(box(points[:, eye] - np.stack([0 * distance, 0.1 * distance], 1), 0.4, 0.36) for eye in EYES))
    head = box(middle + np.stack([0 * distance, 0.4 * distance], 1), 1.35, 2.0)
    found = [torch.from_numpy(part.astype(np.float32)) for part in (mouth, eyes, 1.0 - head)]
    return found[0], found[1], found[2]


def drive(
    footage: Footage, codes: Tensor, size: int, source: np.ndarray, driven: np.ndarray, rng: np.random.Generator | None
) -> Drive:
    """The batch of frame numbers source (S,) and driven (S, K), with one random exposure a source if `rng` is given."""
    pictures, shown = footage.pictures(source, size), footage.pictures(driven.ravel(), size)
    if rng is not None:
        exposure = Exposure.random(len(source), rng, **TINT)
        pictures, shown = (exposure.apply(part).clamp(-1.0, 1.0) for part in (pictures, shown))
    mouth, eyes, away = boxes(footage.points[driven.ravel()], size)
    rows = driven.ravel()
    return Drive(
        pictures, shown, source, rows, codes[rows] * GAIN, codes[source] * GAIN,
        1.0 + MOUTH_WEIGHT * mouth + EYE_WEIGHT * eyes, mouth, away,
    )  # fmt: skip


def picture_error(rgb: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 error at full, half, quarter and eighth size."""
    error, loss = rgb - truth, rgb.new_zeros(())
    for _ in range(4):
        loss = loss + (error.abs() * weight).mean() / weight.mean()
        error, weight = F.avg_pool2d(error, 2), F.avg_pool2d(weight, 2)
    return loss / 4.0


def edge_error(rgb: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 error of the differences between neighbouring pixels."""
    error = rgb - truth
    across = (error[..., :, 1:] - error[..., :, :-1]).abs() * weight[..., :, 1:]
    down = (error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]
    return (across.mean() + down.mean()) / weight.mean()


def window_error(rgb: Tensor, truth: Tensor, points: np.ndarray) -> Tensor:
    """L1 error and edge error of the aligned mouth window. points: (N, 9, 2) of the true picture."""
    drawn, wanted = (windows(part, points, WIDE, HIGH, COLUMNS, ROWS) for part in (rgb, truth))
    return (drawn - wanted).abs().mean() + edge_error(drawn, wanted, torch.ones_like(drawn[:, :1]))


def still_error(flow: Tensor, batch: Drive) -> Tensor:
    """Mean displacement, in half widths, of background that is the same in source and driven frame."""
    repeated = batch.source.repeat_interleave(len(batch.driven) // len(batch.source), 0)
    parts = [F.adaptive_avg_pool2d(part, 32) for part in (repeated, batch.driven, batch.away)]
    same = ((parts[0] - parts[1]).abs().amax(1, keepdim=True) < SAME) & (parts[2] > 0.5)
    line = (torch.arange(32) * 2 + 1) / 32 - 1.0
    centres = torch.stack(torch.meshgrid(line, line, indexing="xy"))[None]
    moved = (F.adaptive_avg_pool2d(sampling_grid(flow), 32) - centres).abs().sum(1, keepdim=True)
    return (moved * same).sum() / same.sum().clamp(min=1)


def hidden_error(flow: Tensor, batch: Drive) -> Tensor:
    """Cross-entropy of the blend mask around mouth and eyes; see `learning.losses.hidden_error`."""
    with torch.no_grad():
        repeated = batch.source.repeat_interleave(len(batch.driven) // len(batch.source), 0)
        found = F.grid_sample(repeated, sampling_grid(flow).permute(0, 2, 3, 1), align_corners=False)
        difference = (found - batch.driven).abs().mean(1, keepdim=True)
        hidden = batch.mouth * ((difference - HIDDEN_FROM) / HIDDEN_FROM).clamp(0.0, 1.0)
        weight = (batch.weight - 1.0) * (1.0 + 10.0 * hidden)
    error = F.binary_cross_entropy_with_logits(flow[:, 2:], OPEN * (1.0 - hidden), weight, reduction="sum")
    return error / weight.sum().clamp(min=1.0)


def drawing_losses(levels: list[Level], batch: Drive, footage: Footage, rows: slice = slice(None)) -> dict[str, Tensor]:
    """Losses of drawn pictures that need no tracks. rows: those of the decoded pictures that must equal the driven."""
    flow, rgb = levels[-1].flow[rows], levels[-1].rgb[rows]
    return {
        "picture": picture_error(rgb, batch.driven, batch.weight),
        "edges": edge_error(rgb, batch.driven, batch.weight),
        "window": window_error(rgb, batch.driven, footage.points[batch.driven_rows]),
        "still": still_error(flow, batch),
        "hidden": hidden_error(flow, batch),
    }


def anchored(model: Generator, latent: Tensor, alpha: Tensor) -> Tensor:
    """Latents (S, style_dim) whose part along the banks' directions is minus the source's known alpha (S, n).

    Then the decoder's motion starts exactly at the source's pose and mouth. `own_error` trains the encoder to give the
    same alpha, so that a portrait needs no codes later.
    """
    basis = model.basis()[:, : alpha.shape[1]]
    return latent - (latent @ basis + alpha) @ basis.T


def exchanged(codes: Tensor, kept: np.ndarray, other: np.ndarray, bank: slice) -> Tensor:
    """(E, n) alpha: that of the frames `kept` (E,) with the codes of one bank of the frames `other` (E,)."""
    alpha = codes[kept].clone()
    alpha[:, bank] = codes[other][:, bank]
    return alpha * GAIN


def drawn_together(
    model: Generator, latent: Tensor, features: list[Tensor], alpha: Mapping[str, Tensor], held: int | None = None
) -> dict[str, list[Level]]:
    """The first `held` levels of several drawings of S sources in one pass, by name.

    alpha: by name (S * K, n) of K drawings of each source; K may differ between names.
    """
    sources = len(latent)
    rows = torch.cat([part.view(sources, -1, part.shape[1]) for part in alpha.values()], 1)
    ends = np.cumsum([0, *(len(part) // sources for part in alpha.values())])
    drawn: dict[str, list[Level]] = {name: [] for name in alpha}
    for level in islice(model.levels(latent, features, rows.flatten(0, 1)), held):
        for name, first, end in zip(alpha, ends, ends[1:], strict=False):
            parts = (value.view(sources, -1, *value.shape[1:])[:, first:end].flatten(0, 1) for value in level)
            drawn[name].append(Level(*parts))
    return drawn


def drawn_with_lips(
    model: Generator, latent: Tensor, features: list[Tensor], batch: Drive, codes: Tensor, exchange: Exchanges,
    *, held: int | None = None, **more: Tensor,
) -> dict[str, list[Level]]:  # fmt: skip
    """`drawn_together` of the batch, as DRIVEN, and of one exchange of the lips (S,) of each source, as LIPS.

    more: by name, further alpha of each source.
    """
    mixed = exchanged(codes, exchange.kept.frames, exchange.other, model.config.bank_slices["lip"])
    alpha = {DRIVEN: batch.alpha, LIPS: mixed, **more}
    return drawn_together(model, anchored(model, latent, batch.source_alpha), features, alpha, held)


def exchange_error(levels: list[Level], exchange: Exchanges) -> Tensor:
    """`held_flow_error` of drawings with exchanged codes of one bank, whose motion is composed."""
    return held_flow_error(levels, exchange.tracks, torch.ones(exchange.tracks.source.shape[1]))


def difference_error(levels: list[Level], kept: list[Level], at: Tensor, after: Tensor, weight: Tensor) -> Tensor:
    """Mean distance, in half widths, of what an exchange must move from where it moves it, against the kept frame.

    levels, kept: drawings with and without the exchange. What the kept drawing shows at a position `at` (E, P, 2) must
    be shown at the position `after` (E, P, 2) by the exchange: an error that both drawings share does not count,
    however small the motion is. weight: (E, P).
    """
    errors = []
    for mixed, own in zip(levels, kept, strict=True):
        if mixed.flow.shape[-1] >= FLOW_FROM:
            shown, wanted = (
                F.grid_sample(sampling_grid(part.flow), place[:, None], padding_mode="border", align_corners=False)
                for part, place in ((mixed, after), (own, at))
            )
            distance = (shown - wanted.detach()).abs().sum(1)[:, 0]
            errors.append((distance * weight).sum() / weight.sum().clamp(min=1.0))
    return torch.stack(errors).mean()


def joined(one: Tracks, other: Tracks) -> Tracks:
    """Tracks of both, in this order."""
    return Tracks(*(torch.cat(parts) for parts in zip(vars(one).values(), vars(other).values(), strict=True)))


def own_error(model: Generator, latent: Tensor, alpha: Tensor) -> Tensor:
    """Mean square error of the encoder's own reading of the source's motion, in codes."""
    return (latent @ model.basis()[:, : alpha.shape[1]] + alpha).square().mean() / GAIN**2


def stage_optimiser(model: Generator) -> torch.optim.Adam:
    """Adam in parameter groups with a `scale`; encoder and heads at a tenth of their usual rate."""
    last = f"enc.net_app.convs.{len(model.enc.net_app.convs) - 1}."
    groups: dict[float, list[Tensor]] = {}
    for name, weight in model.named_parameters():
        scale = step_scale(name, last)
        if name.startswith("enc.") or name.split(".")[0].endswith("fc"):
            scale *= 0.1 if name.split(".")[0].endswith("fc") else 0.4
        groups.setdefault(scale, []).append(weight)
    described = [{"params": weights, "scale": scale} for scale, weights in groups.items() if scale]
    return torch.optim.Adam(described, 3e-3, betas=(0.9, 0.99))


@torch.no_grad()
def forget_other_directions(model: Generator) -> None:
    """Restrict the flow's dependence on the latent to the banks' directions, before any source is shown."""
    basis = model.basis()
    for to_flow in model.dec.to_flows:
        weight = to_flow.conv.modulation.weight
        weight.copy_(weight @ basis @ basis.T)


@torch.no_grad()
def self_figures(model: Generator, footage: Footage, codes: Tensor, count: int = 48) -> dict[str, float]:
    """Held-out figures without labels: PSNR of drawn pictures and of copied sources, whole and at the mouth."""
    source, driven = footage.pairs(np.random.default_rng(0), count, neutral=1.0)
    other = source != driven[:, 0]  # a copy of the driven frame itself would be perfect
    source, driven, count = source[other], driven[other], int(other.sum())
    batch = drive(footage, codes, model.config.size, source, driven, None)
    shared = model.config.bank_slices["pose"].stop  # stage 2 does not anchor the expression
    drawn: dict[str, list[Tensor]] = {"psnr": [], "psnr_unanchored": []}
    for part in np.array_split(np.arange(count), -(-count // 16)):
        latent, features = model.enc(batch.source[part])
        for name, start in (
            ("psnr", anchored(model, latent, batch.source_alpha[part][:, :shared])),
            ("psnr_unanchored", latent),
        ):
            *_, last = model.levels(start, features, batch.alpha[part])
            drawn[name].append(last.rgb.clamp(-1, 1))
    result = {}
    for name, shown in (*((name, torch.cat(parts)) for name, parts in drawn.items()), ("psnr_copy", batch.source)):
        error = (shown - batch.driven).square()
        result[name] = (10.0 * torch.log10(4.0 / error.mean((1, 2, 3)).clamp(min=1e-6))).mean()
        at_mouth = (error.mean(1, keepdim=True) * batch.mouth).sum((1, 2, 3)) / batch.mouth.sum((1, 2, 3))
        result[f"{name}_mouth"] = (10.0 * torch.log10(4.0 / at_mouth.clamp(min=1e-6))).mean()
    return {name: round(value.item(), 2) for name, value in result.items()}


def train_reenactment(
    args: Any,
    footage: Footage,
    heldout: Footage,
    teacher: Codes,
    limits: Mapping[str, Limits],
    rng: np.random.Generator,
    evaluate: Callable[[Generator], Mapping[str, Any]] = lambda model: {},
    *,
    pool: MotionPool,
    start: Callable[[Generator, np.ndarray], None] | None = None,
    evaluate_every: float = 300.0,
) -> Generator:
    """Train or resume stage 0 and return the averaged generator.

    args: has `out`, `rate`, `size`, `sources`. limits: of the phases common-motion, own-motion and self.
    start: sets the weights of a new generator, given the codes (N, 26); see `stages.transfer`.
    evaluate: further figures of a generator for the log.
    """
    codes, held_codes = (torch.from_numpy(teacher.both(part)) for part in (footage, heldout))
    lips = teacher.lips_moved(footage)
    config = footage_config(args.size)
    model = fresh(config)
    if not args.out.exists():
        if start is None:
            calibrate(model, footage, codes.numpy(), rng)
        else:
            start(model, codes.numpy())
        print(f"heads solved: {solve_heads(model, footage, codes.numpy(), rng)}", flush=True)
    average = copy.deepcopy(model)
    common, own, drawing = common_motion_optimiser(model), stage_optimiser(model), stage_optimiser(model)
    parts = {
        "model": model, "average": average,
        "common_optimiser": common, "own_optimiser": own, "optimiser": drawing,
    }  # fmt: skip
    trainer = Trainer(
        args, parts, limits, rng, averaged=(model, average), longest=0.995,
        extra=lambda: {"config": json.dumps(config.to_json())}, evaluate_every=evaluate_every,
    )  # fmt: skip
    if start is None:
        _common_motion(trainer, common, model, pool, footage, codes, lips, lambda: evaluate(model))
    _own_motion(trainer, own, model, pool, footage, codes, lips, args.sources, lambda: evaluate(model))
    if not trainer.started("self"):
        average.load_state_dict(model.state_dict())

    def figures() -> dict[str, Any]:
        return self_figures(average, heldout, held_codes) | dict(evaluate(average))

    for progress in trainer.steps("self", drawing, figures):
        chosen = trainer.rng.integers(0, len(pool.source_rows), args.sources)
        batch = drive(footage, codes, args.size, pool.source_rows[chosen], pool.driven_rows[chosen], trainer.rng)
        tracks = pool.tracks(chosen)
        exchange = exchanges(footage, lips, kept_frames(footage, pool, chosen, trainer.rng), trainer.rng)
        latent, features = model.enc(batch.source)
        drawn = drawn_with_lips(model, latent, features, batch, codes, exchange)
        losses = drawing_losses(drawn[DRIVEN], batch, footage)
        losses["flow"] = held_flow_error(drawn[DRIVEN], tracks, torch.ones(tracks.source.shape[1]))
        losses["exchange"] = exchange_error(drawn[LIPS], exchange)
        losses["own"] = own_error(model, latent, batch.source_alpha)
        weights = WEIGHTS | {"flow": WEIGHTS["flow"] * (1.0 - (1.0 - LASTING_FLOW) * progress)}
        loss = total(losses, weights)
        with with_larger_mask_steps(model):
            minimise(loss, drawing, model.parameters())
        trainer.note(losses | {"loss": loss})
    return average


@contextmanager
def with_larger_mask_steps(model: Generator) -> Iterator[None]:
    """Make the step that is taken in this block MASK_STEP times larger for the rows of the blend masks."""
    before = [row.clone() for row in mask_rows(model)]
    yield
    with torch.no_grad():
        for row, old in zip(mask_rows(model), before, strict=True):
            row.lerp_(old, 1.0 - MASK_STEP)


def _common_motion(
    trainer: Trainer, optimiser: torch.optim.Adam, model: Generator, pool: MotionPool, footage: Footage, codes: Tensor,
    lips: np.ndarray, evaluate: Callable[[], Mapping[str, Any]], sources: int = 24,
) -> None:  # fmt: skip
    if not trainer.started("common-motion"):
        prepare_common_motion(model)
    basis, begun = model.basis().detach(), False
    for _ in trainer.steps("common-motion", optimiser, rate=5e-3, average=False):
        begun = True
        chosen = trainer.rng.integers(0, len(pool.source_rows), sources)
        source, driven = pool.source_rows[chosen], pool.driven_rows[chosen]
        exchange = exchanges(footage, lips, kept_frames(footage, pool, chosen, trainer.rng), trainer.rng)
        before = codes[np.concatenate([np.repeat(source, driven.shape[1]), source])] * GAIN
        mixed = exchanged(codes, exchange.kept.frames, exchange.other, model.config.bank_slices["lip"])
        tracks = joined(pool.tracks(chosen), exchange.tracks)
        flows = blind_flows(model, (torch.cat([codes[driven.ravel()] * GAIN, mixed]) - before) @ basis.T)
        emphasis, weights = own_motion(tracks), torch.ones(tracks.source.shape[1])
        errors = [flow_error(flow, tracks, weights, emphasis) for flow in flows if flow.shape[-1] >= FLOW_FROM]
        loss = torch.stack(errors).mean()
        minimise(loss, optimiser, optimiser.param_groups[0]["params"])
        trainer.note({"common_flow": loss})
    if begun:
        forget_other_directions(model)
        trainer.save()
        trainer._log("common-motion", evaluate())


def _own_motion(
    trainer: Trainer, optimiser: torch.optim.Adam, model: Generator, pool: MotionPool, footage: Footage, codes: Tensor,
    lips: np.ndarray, sources: int, evaluate: Callable[[], Mapping[str, Any]],
) -> None:  # fmt: skip
    held = sum(resolution <= BLIND_TO for resolution in model.config.resolutions)
    for _ in trainer.steps("own-motion", optimiser, evaluate, anneal=0.5, average=False):
        chosen = trainer.rng.integers(0, len(pool.source_rows), sources)
        batch = drive(
            footage, codes, model.config.size, pool.source_rows[chosen], pool.driven_rows[chosen], trainer.rng
        )
        tracks: Tracks = pool.tracks(chosen)
        exchange = exchanges(footage, lips, kept_frames(footage, pool, chosen, trainer.rng), trainer.rng)
        latent, features = model.enc(batch.source)
        drawn = drawn_with_lips(model, latent, features, batch, codes, exchange, held=held)
        losses = {"flow": held_flow_error(drawn[DRIVEN], tracks, torch.ones(tracks.source.shape[1]))}
        losses["exchange"] = exchange_error(drawn[LIPS], exchange)
        losses["own"] = own_error(model, latent, batch.source_alpha)
        loss = total(losses, WEIGHTS)
        minimise(loss, optimiser, model.parameters())
        trainer.note(losses | {"loss": loss})
