"""Train the network that finds teeth in the mouth's window, and bake their texture.

    python -m training teeth --bank B.safetensors --assets FOLDER --pool DIR --people 240 --out T.pt --minutes 35

The heads are lifelike (`training.heads.assets`). They are rendered first, drawn with the bank, and what its mouth inset
sees is written into --pool, together with what the true pictures show; a pool that exists is used, and continued if it
has fewer people. The bank is not changed. Run the same command again to resume. A log (T.jsonl) and a contact sheet
(T.png) are written beside the checkpoint. The figures are those of people who are not trained on.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.contract.bank import Bank, load_bank
from inference.model.batches import pad_batch
from inference.model.insets import CONTRAST, DARKEST, Window, colours, logarithms
from inference.model.refiner import warped
from inference.model.teeth import MASKS, ROWS, SEEN, SMOOTH, Teeth, TeethConfig
from inference.renderer import FaceRenderer

from ..heads.assets import load as load_assets
from ..heads.identity import identity
from ..heads.lifelike_render import LifelikeRenderer, renderer_of
from ..heads.sampling import INDEX, coefficients, limited
from ..heads.teeth import TOOTH, strips
from ..learning.augment import array_noise, photographed
from ..learning.losses import weighted_sum
from ..learning.optimiser import adamw, minimise
from ..learning.trainer import Trainer, add_trainer_options, limits, seeded
from ..units import NAMES, mirrored

CHANNELS = (24, 40, 64)
SIZE = 256  # pixels of a rendered picture
FRAMES = 10  # pictures of a person: at rest, two portraits, and frames of which each second one parts the lips
SEED, SWAY = 91_000, 0.3
SOURCES = 2  # of a person: at rest, and any frame
SHOWN = 16  # windows on the contact sheet
HELD_OUT = 0.1  # share of the pool's people, the last ones
WINDOW = 72  # pixels of the mouth's window
GREY = 0.12  # share of people in black and white
NOISE = 0.03  # largest deviation of the pictures' noise
WEIGHTS = {"masks": 1.0, "coordinates": 1.0, "beyond": 0.3, "teeth": 0.5, "mouth": 0.5, "bend": 2.0}
HIGH = 0.3  # height of a front tooth in v
# Deviations of what is added to the input in training: to the pictures, in the unit of logarithms, and to coefficients.
JITTER = {"noise": 0.08, "contrast": 0.2, "tone": 0.15, "condition": 0.05}
WARPED, OWN = 0, 28  # first channels of the warped source's colours and of the source's window, see `Correction`
NEAR = 9  # pixels of the window: how far the mask of a row extends beyond the edges of its teeth
# Of the frames that part the lips: coefficients and their ranges.
PARTED = {"mouthSmile": (0.2, 1.0), "mouthUpperUp": (0.1, 0.8), "mouthLowerDown": (0.0, 0.7), "jawOpen": (0.0, 0.5)}


class MouthInputRecorder(FaceRenderer):
    """Renders with a bank, and returns the input of the network for teeth instead of pictures."""

    def __init__(self, bank: Bank) -> None:
        super().__init__(bank, "cpu", threads=1)
        if self._correction is None or self._correction.insets is None:
            raise SystemExit(f"{bank.name} has no insets, which the teeth need. Train them first.")
        self._correction.teeth = self._record

    def _record(self, network_input: Tensor, condition: Tensor) -> Tensor:
        self._recorded = network_input.clone(), condition.clone()
        return network_input.new_zeros(len(network_input), 4 * MASKS + SMOOTH, *network_input.shape[2:])

    def record(self, rows: np.ndarray) -> tuple[Window, Tensor, Tensor]:
        """Window, input and condition of `Teeth` for T rows of coefficients (T, n) of the source."""
        batches = []
        for start in range(0, len(rows), self.batch):
            part = list(rows[start : start + self.batch])
            assert self._source is not None
            rows_of_batch, size = pad_batch(part, self.batch), 2 * self.config.size
            decoded = self._decode([self._source], rows_of_batch, self._canvases, size, at_rest=True)
            window = decoded.insets[0].window
            batches.append([tensor[: len(part)] for tensor in (*window, *self._recorded)])
        middle, along, down, network_input, condition = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return Window(middle, along, down), network_input, condition


def rows_of(index: int) -> np.ndarray:
    """(FRAMES, 36) coefficients of a person's pictures."""
    rng, rows = np.random.default_rng([SEED, index, 5]), coefficients(index, FRAMES, SEED, SWAY)
    for row in range(3, FRAMES, 2):
        values = rows[row].astype(np.float64)
        values[[INDEX[name] for name in NAMES[:20]]] *= 0.3
        for name, (low, high) in PARTED.items():
            values[INDEX[name]] = rng.uniform(low, high)
        rows[row] = limited(values)
    return rows


def person_samples(drawer: LifelikeRenderer, recorder: MouthInputRecorder, index: int) -> dict[str, np.ndarray]:
    """Render a person, and record the bank's input for the pictures: arrays by the names of `Pool`."""
    rng, rows = np.random.default_rng([SEED, index, 6]), rows_of(index)
    with drawer.context:
        drawer.show(identity(index, SEED))
        shots = [(drawer.render(row).image, *drawer.mouth()) for row in rows]
    images, parts, places = (np.stack(each) for each in zip(*shots, strict=True))
    if rng.random() < 0.5:
        images, parts, places = (each[:, :, ::-1] for each in (images, parts, places))
        places = places * np.array([-1, 1], np.float32)
        rows = mirrored(torch.from_numpy(rows)).numpy()
    if rng.random() < GREY:
        images = np.repeat(images.mean(-1, keepdims=True).astype(np.uint8), 3, -1)
    pictures = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    _, soft = photographed(pictures[:1], pictures, rng)
    noise = rng.uniform(0, NOISE) * array_noise(images.shape, rng)
    sources = np.clip((soft.permute(0, 2, 3, 1).numpy() + 1 + noise) * 127.5, 0, 255).astype(np.uint8)
    truth = torch.cat([_shares(parts, places), F.interpolate(pictures, scale_factor=2.0, mode="bilinear")], 1)
    result = []
    for source in (0, int(rng.integers(1, FRAMES)))[:SOURCES]:
        recorder.set_source(sources[source])
        drivings = np.array([source, *range(3, FRAMES)])
        change = np.zeros((len(drivings), len(recorder.bank.names)), np.float32)
        change[:, : len(NAMES)] = rows[drivings] - rows[source]
        window, network_input, condition = recorder.record(recorder.source_coefficients.values + change)
        result.append({"seen": network_input, "condition": condition} | _truth(truth[drivings], window))
    return {name: np.concatenate([part[name].numpy() for part in result]) for name in result[0]}


def _shares(parts: np.ndarray, places: np.ndarray) -> Tensor:
    """(N, 7, 2 S, 2 S): 1 on upper teeth, lower teeth and all of the mouth, and u and v of each row times its mask."""
    masks = [torch.from_numpy((parts == row + 1).astype(np.float32)) for row in range(ROWS)]
    at = torch.from_numpy(np.ascontiguousarray(places)).permute(3, 0, 1, 2)
    inside = torch.from_numpy((parts > 0).astype(np.float32))
    return torch.stack([*masks, inside, *(mask * each for mask in masks for each in at)], 1)


def _truth(planes: Tensor, window: Window) -> dict[str, Tensor]:
    """What the window shows, by the names of `Pool`. planes: (N, 10, 2 S, 2 S), from `_shares`, and colours."""
    sampled = F.avg_pool2d(warped(planes, window.places(2 * WINDOW, 2 * WINDOW)), 2)
    masks, places = sampled[:, :MASKS], sampled[:, MASKS : MASKS + 2 * ROWS]
    share = masks[:, :ROWS].repeat_interleave(2, 1)
    return {
        "masks": (masks * 255).round().byte(),
        "places": places / share.clamp(min=1e-3) * (share > 0.02),
        "colours": logarithms(sampled[:, -3:]),
    }


class Pool:
    """What the bank's mouth inset sees of rendered people, and the truth, in a folder. Arrays of N rows:

    seen: (N, SEEN, 36, 36) float16, condition (N, n + 3) float32, the network's input; masks: (N, 3, 72, 72) uint8,
    0..255; places: (N, 4, 72, 72) float16, u and v of both rows; colours: (N, 3, 72, 72) float16, logarithms.
    """

    def __init__(self, folder: Path, people: int, bank: Path, assets: Path | None) -> None:
        """Render people that are missing. Raises SystemExit if there are some and no assets."""
        folder.mkdir(parents=True, exist_ok=True)
        meta = folder / "meta.json"
        done = json.loads(meta.read_text())["done"] if meta.exists() else 0
        half, each = WINDOW // 2, SOURCES * (FRAMES - 2)
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "seen": ((SEEN, half, half), np.float16),
            "condition": ((len(NAMES) + 3,), np.float32),
            "masks": ((MASKS, WINDOW, WINDOW), np.uint8),
            "places": ((2 * ROWS, WINDOW, WINDOW), np.float16),
            "colours": ((3, WINDOW, WINDOW), np.float16),
        }
        for name in shapes:
            (folder / f"{name}.bin").touch()
        if done < people:
            if assets is None:
                raise SystemExit(f"{folder} has {done} of {people} people. Give --assets to render the others.")
            drawer, recorder = renderer_of(SIZE, assets), MouthInputRecorder(load_bank(bank))
            assert isinstance(drawer, LifelikeRenderer)
            for number in range(done, people):
                samples = person_samples(drawer, recorder, number)
                for name, (shape, kind) in shapes.items():
                    with (folder / f"{name}.bin").open("r+b") as file:
                        file.seek(number * each * int(np.prod(shape)) * np.dtype(kind).itemsize)
                        file.write(samples[name].astype(kind).tobytes())
                meta.write_text(json.dumps({"done": number + 1}))
                if (number + 1) % 10 == 0:
                    print(f"{number + 1}/{people} people", flush=True)
        rows = people * each
        self.arrays = {
            name: np.memmap(folder / f"{name}.bin", kind, "r", shape=(rows, *shape))
            for name, (shape, kind) in shapes.items()
        }
        first = max(people - max(round(HELD_OUT * people), 1), 1) * each
        self.training, self.heldout = np.arange(first), np.arange(first, rows)

    def batch(self, rows: np.ndarray) -> dict[str, Tensor]:
        """The arrays' rows as float32; masks in 0..1."""
        arrays = {name: torch.from_numpy(np.array(array[rows])).float() for name, array in self.arrays.items()}
        return arrays | {"masks": arrays["masks"] / 255}


def losses_of(planes: Tensor, truth: dict[str, Tensor], texture: Tensor) -> dict[str, Tensor]:
    """Unweighted losses by name. planes: the network's, (N, MASKS + SMOOTH, h, w).

    A row's mask extends into the open mouth beyond the edges of its teeth, where the texture's opacity ends it.
    """
    masks, places, colour = truth["masks"], truth["places"], truth["colours"]
    rows, inside = masks[:, :ROWS], masks[:, ROWS:]
    rest = (inside - rows.sum(1, keepdim=True)).clamp(0.0, 1.0)
    extended = (rows + F.max_pool2d(rows, NEAR, 1, NEAR // 2) * rest).clamp(max=1.0)
    target = torch.cat([extended, inside], 1)
    wrong = F.binary_cross_entropy_with_logits(planes[:, :MASKS], target, reduction="none")
    share = rows.repeat_interleave(2, 1)
    coordinates = planes[:, MASKS : MASKS + 2 * ROWS]
    away = (coordinates - places).abs() * share / torch.tensor([TOOTH, HIGH] * ROWS)[:, None, None]
    beyond = F.relu(1.0 - coordinates[:, 1::2]) * (extended - rows) / HIGH
    front, mouth = planes[:, MASKS + 4 : MASKS + 7], planes[:, MASKS + 7 : MASKS + 10]
    teeth = [
        ((front + texels_at(texture, places, row)[:, :3] - colour).abs() * rows[:, row : row + 1]).sum()
        for row in range(ROWS)
    ]
    bend = F.avg_pool2d(coordinates, 4)
    return {
        "masks": 4 * wrong.mean((0, 2, 3)).sum(),
        "coordinates": away.sum() / share.sum().clamp(min=1.0),
        "beyond": beyond.sum() / (extended - rows).sum().clamp(min=1.0),
        "teeth": torch.stack(teeth).sum() / (3 * CONTRAST * rows.sum()).clamp(min=1.0),
        "mouth": ((mouth - colour).abs() * rest).sum() / (3 * CONTRAST * rest.sum()).clamp(min=1.0),
        "bend": bend.diff(2, -1).abs().mean() + bend.diff(2, -2).abs().mean(),
    }


def jittered(network_input: Tensor) -> Tensor:
    """The network's input with noise, and with another contrast of the pictures in it, so that few people suffice."""
    count = len(network_input)
    gain = torch.exp(JITTER["contrast"] * torch.randn(count, 1, 1, 1))
    shift = JITTER["tone"] * torch.randn(count, 3, 1, 1).repeat_interleave(4, 1)
    result = network_input + JITTER["noise"] * torch.randn(network_input.shape)
    for start in (WARPED, OWN):
        result[:, start : start + 12] = result[:, start : start + 12] * gain + shift
    return result


def texels_at(texture: Tensor, places: Tensor, row: int) -> Tensor:
    """Texels (N, 4, h, w) of a row at coordinates (N, 2 ROWS or more, h, w)."""
    grid = torch.stack([places[:, 2 * row], 2 * places[:, 2 * row + 1] - 1], -1)
    strips = texture[row, None].expand(len(places), -1, -1, -1)
    return F.grid_sample(strips, grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def figures(network: Teeth, pool: Pool, path: Path, batch: int = 32) -> dict[str, float]:
    """Held-out figures: overlap of the masks (intersection over union), and coordinates' error in tooth widths.

    Saves a contact sheet: true pictures, and what the network finds.
    """
    shared, either, errors = torch.zeros(MASKS), torch.zeros(MASKS), []
    for start in range(0, len(pool.heldout), batch):
        truth = pool.batch(pool.heldout[start : start + batch])
        planes = network(truth["seen"], truth["condition"], truth["condition"][:, -3:])
        masks = torch.sigmoid(planes[:, :MASKS])
        for row in range(ROWS):  # as drawn: where the texture has teeth, and inside of the lips
            masks[:, row] *= texels_at(network.texture, planes[:, MASKS:], row)[:, 3] * masks[:, ROWS]
        one, other = masks > 0.5, truth["masks"] > 0.5
        shared += (one & other).sum((0, 2, 3))
        either += (one | other).sum((0, 2, 3))
        away = (planes[:, MASKS : MASKS + 2 * ROWS : 2] - truth["places"][:, ::2]).abs() / TOOTH
        errors.append(away[truth["masks"][:, :ROWS] > 0.5])
    shown_batch = pool.batch(pool.heldout[:: max(len(pool.heldout) // SHOWN, 1)][:SHOWN])
    sheet = contact_sheet(
        network, network(shown_batch["seen"], shown_batch["condition"], shown_batch["condition"][:, -3:]), shown_batch
    )
    cv2.imwrite(str(path.with_suffix(".png")), sheet[..., ::-1])
    overlap = (shared / either.clamp(min=1)).tolist()
    error = torch.cat(errors)
    return {
        **{name: round(value, 3) for name, value in zip(("upper", "lower", "inside"), overlap, strict=True)},
        "coordinates": round(error.mean().item(), 3),
    }


def contact_sheet(network: Teeth, planes: Tensor, truth: dict[str, Tensor]) -> np.ndarray:
    """(h, w, 3) uint8: rows of true windows, of windows with the mouth as found, and of masks."""
    real = truth["colours"]
    front, drawn = planes[:, MASKS + 4 : MASKS + 7], planes[:, MASKS + 7 : MASKS + 10]
    chances = torch.sigmoid(planes[:, :MASKS])
    for row in (1, 0):
        texels = texels_at(network.texture, planes[:, MASKS:], row)
        drawn = torch.lerp(drawn, front + texels[:, :3], texels[:, 3:] * chances[:, row : row + 1])
    rows = []
    for logs in (real, torch.lerp(real, drawn, chances[:, 2:]), torch.log(chances + DARKEST)):
        levels = ((colours(logs).clamp(-1, 1) + 1) * 127.5).byte().permute(0, 2, 3, 1).numpy()
        rows.append(np.concatenate([cv2.resize(level, (144, 144)) for level in levels], 1))
    return np.concatenate(rows)


def train(args: argparse.Namespace) -> None:
    """Train with the options of `add_options`."""
    rng = seeded(args)
    os.environ.setdefault("LP_NUM_THREADS", "0")
    pool = Pool(args.pool, args.people, args.bank, args.assets)
    network = Teeth(TeethConfig(CHANNELS, len(NAMES))).to(memory_format=torch.channels_last)
    if args.assets is not None:
        network.texture.copy_(torch.from_numpy(strips(load_assets(args.assets))))
    average, optimiser = copy.deepcopy(network).eval(), adamw(network.parameters(), args.rate, weight_decay=0.01)
    parts = {"model": network, "average": average, "optimiser": optimiser}
    trainer = Trainer(args, parts, {"teeth": limits(args)}, rng, averaged=(network, average))
    for _ in trainer.steps("teeth", optimiser, lambda: figures(average, pool, args.out)):
        truth = pool.batch(np.sort(rng.choice(pool.training, args.batch, replace=False)))
        network_input = jittered(truth["seen"]).contiguous(memory_format=torch.channels_last)
        condition = truth["condition"] + JITTER["condition"] * torch.randn(truth["condition"].shape)
        planes = network(network_input, condition, truth["condition"][:, -3:])
        losses = losses_of(planes, truth, network.texture)
        minimise(weighted_sum(losses, WEIGHTS), optimiser, network.parameters())
        trainer.note(losses)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    parser.add_argument("--bank", type=Path, required=True, help="bank with insets, for which the teeth are trained")
    parser.add_argument("--pool", type=Path, required=True, help="folder of the rendered people, made if it is missing")
    parser.add_argument("--people", type=int, default=240, help="people in the pool (default 240)")
    parser.add_argument("--assets", type=Path, help="folder of MakeHuman's CC0 assets, to render people")
    add_trainer_options(parser, minutes=35.0, rate=2e-3)
    parser.add_argument("--batch", type=int, default=16, help="windows per step (default 16)")
