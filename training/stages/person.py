"""Tune a bank's generator to one person's clips. The bank's coefficients keep their meaning.

    python -m training person CLIPS --bank B.safetensors --out mine.safetensors --consent

Only the decoder trains: with encoder, heads or directions, every key that was ever set would come to mean something
else. Half of the pairs are near in time and half far apart. The best weights on held-out time are kept, not the last.
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.contract.bank import Bank, load_bank, save_bank
from inference.contract.errors import EDTalkError
from inference.model.generator import Generator

from ..footage.named import known_takes
from ..footage.prepare import prepared
from ..footage.takes import Footage, Split, split_in_time
from ..learning.losses import edge_loss, picture_loss, weighted_sum
from ..learning.optimiser import minimise, step_scale
from ..learning.trainer import Trainer, Unstable, add_limit_options, limits, seeded
from ..learning.watch import Stopped, Watch, add_progress_option
from .contact import write_sheet
from .finish_bank import consent_record
from .footage import CONSENT, check_clips, require_consent
from .footage_losses import EYE_WEIGHT, MOUTH_WEIGHT, mouth_window_loss, region_masks
from .transfer import generator_of

NEAR, FAR = 1.0, 5.0  # seconds between the frames of a near pair, and of a far one
PICTURES = 8
CHECK_EVERY, PATIENCE = 100, 5  # steps between checks; checks without gain after which training ends
LEAST_SECONDS = 20.0
WEIGHTS = {"picture": 1.0, "edges": 1.0, "window": 1.0}


def tunable(bank: Bank) -> Generator:
    """The generator of a bank. Raises EDTalkError for a bank with networks that are trained on its generator."""
    dependent = sorted(set(bank.networks or ()) & {"refiner", "insets", "reader", "relative_reader"})
    if dependent:
        raise EDTalkError(
            f"The bank '{bank.name}' cannot be tuned: its networks were trained for its generator "
            f"({', '.join(name.replace('_', ' ') for name in dependent)}).",
            "Make a bank of the person's own: python -m training footage CLIPS --start starter.", "bank",
        )  # fmt: skip
    return generator_of(bank)


def pairs(footage: Footage, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(source, driving) frame numbers, (count,) each: half within NEAR seconds, half FAR apart or of another take."""
    source, driving = np.empty((2, count), np.int64)
    for row in range(count):
        take = footage.takes[rng.integers(len(footage.takes))]
        a = int(rng.choice(take))
        gap = np.abs(footage.seconds[take] - footage.seconds[a])
        same_person = np.flatnonzero(footage.person == footage.person[a])
        far = same_person[
            (footage.take_ids[same_person] != footage.take_ids[a])
            | (np.abs(footage.seconds[same_person] - footage.seconds[a]) > FAR)
        ]
        pool = take[gap < NEAR] if row % 2 == 0 or not len(far) else far
        source[row], driving[row] = a, int(rng.choice(pool))
    return source, driving


def losses_of(model: Generator, footage: Footage, source: np.ndarray, driving: np.ndarray) -> dict[str, Tensor]:
    """Losses of pictures that are drawn with the coefficients read from the driving frames."""
    size = model.config.size
    pictures, truth = footage.pictures(source, size), footage.pictures(driving, size)
    with torch.no_grad():
        alpha = model.coefficients(model.enc(truth)[0])
        latent, features = model.enc(pictures)
    *_, last = model.levels(latent, features, alpha)
    mouth, eyes, _ = region_masks(footage.points[driving], size)
    weight = 1.0 + MOUTH_WEIGHT * mouth + EYE_WEIGHT * eyes
    return {
        "picture": picture_loss(last.rgb, truth, weight),
        "edges": edge_loss(last.rgb, truth, weight),
        "window": mouth_window_loss(last.rgb, truth, footage.points[driving]),
    }


@torch.no_grad()
def held_out_error(model: Generator, footage: Footage, count: int = 32) -> float:
    """Weighted sum of the losses on the same pairs of held-out time."""
    source, driving = pairs(footage, np.random.default_rng(0), count)
    parts = np.array_split(np.arange(count), -(-count // PICTURES))
    return float(
        np.mean([weighted_sum(losses_of(model, footage, source[p], driving[p]), WEIGHTS).item() for p in parts])
    )


@torch.no_grad()
def person_figures(model: Generator, footage: Footage, watch: Watch | None) -> dict[str, float]:
    """PSNR of held-out pairs, driven by what the bank reads. Draws the contact sheet of a watched training."""
    if watch is None:
        return {}
    write_sheet(model, footage, None, watch.folder / "sheet.jpg")
    watch.shown(watch.folder / "sheet.jpg")
    source, driving = pairs(footage, np.random.default_rng(0), 16)
    truth = footage.pictures(driving, model.config.size)
    drawn = model(footage.pictures(source, model.config.size), model.coefficients(model.enc(truth)[0]))
    error = (drawn.clamp(-1, 1) - truth).square().mean((1, 2, 3))
    return {"psnr": round((10.0 * torch.log10(4.0 / error.clamp(min=1e-6))).mean().item(), 2)}


def tune(args: Any, model: Generator, split: Split, rng: np.random.Generator) -> tuple[Generator, dict[str, float]]:
    """Train the decoder; returns the best generator and its held-out error before and after.

    args: has `out` (the checkpoint), `rate` and the limits' options. Raises Stopped or Unstable, whose `best` is what
    would have been returned.
    """
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.startswith("dec.") and "fineadainresblock" not in name)
    average, best = copy.deepcopy(model), copy.deepcopy(model)
    groups: dict[float, list[Tensor]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            groups.setdefault(step_scale(name, "enc."), []).append(weight)
    optimiser = torch.optim.Adam(
        [{"params": part, "scale": scale} for scale, part in groups.items()], betas=(0.9, 0.99)
    )
    before = held_out_error(model, split.heldout)
    record = {"before": before, "best": before, "checks": 0.0}
    watch = getattr(args, "watch", None)
    trainer = Trainer(
        args, {"model": model, "average": average, "best": best, "optimiser": optimiser}, {"person": limits(args)}, rng,
        averaged=(model, average), longest=0.995,
        extra=lambda: {"record": record, "config": json.dumps(model.config.to_json())},
    )  # fmt: skip
    if trainer.resumed:
        record |= torch.load(args.out, weights_only=True)["record"]

    def check() -> dict[str, float]:
        error = held_out_error(average, split.heldout)
        record["checks"] += 1
        if error < record["best"]:
            record["best"], record["checks"] = error, 0.0
            best.load_state_dict(average.state_dict())
        errors = {"error": error, "best": record["best"], "before": record["before"]}
        return {name: round(value, 4) for name, value in errors.items()} | person_figures(best, split.heldout, watch)

    try:
        for _ in trainer.steps("person", optimiser, check):
            if record["checks"] >= PATIENCE:
                break
            losses = losses_of(model, split.trained, *pairs(split.trained, trainer.rng, PICTURES))
            loss = weighted_sum(losses, WEIGHTS)
            minimise(loss, optimiser, [weight for part in groups.values() for weight in part])
            trainer.note(losses | {"loss": loss})
            if (trainer.step + 1) % CHECK_EVERY == 0:
                print(json.dumps(check()), flush=True)
    except (Stopped, Unstable) as end:
        end.best = best, {name: record[name] for name in ("before", "best")}
        raise
    trainer.save()
    return best, {name: record[name] for name in ("before", "best")}


def run(args: argparse.Namespace) -> None:
    """Tune with the options of `add_options`. Raises EDTalkError for a bank or clips that cannot be used."""
    work = args.work or args.out.with_suffix(".work")
    torch.set_num_threads(args.threads)
    if args.check:
        size = load_bank(args.bank).config.size
        check_clips(argparse.Namespace(**vars(args) | {"work": work, "size": size, "pairs": PICTURES // 2}))
        return
    planned = {"prepare": None, "person": args.minutes, "finish": None}
    with Watch(work, "person", planned, args.out, openjd=args.progress == "openjd") as watch:
        tune_bank(args, work, watch)


def tune_bank(args: argparse.Namespace, work: Path, watch: Watch) -> None:
    """Prepare, tune and write the bank, also after a request to stop. Raises EDTalkError for unusable input."""
    rng = seeded(args)
    bank = load_bank(args.bank)
    model = tunable(bank)
    require_consent(args.consent)
    footage, origin = prepared(
        args.clips, work / "footage", bank.config.size, least=LEAST_SECONDS,
        on_progress=lambda share, clip: watch.go_on("prepare", share, doing=clip),
    )  # fmt: skip
    split, ended = split_in_time(footage), False
    settings = argparse.Namespace(**vars(args) | {"out": work / "person.pt", "watch": watch})
    try:
        best, errors = tune(settings, model, split, rng)
    except Stopped as stop:
        (best, errors), ended = stop.best, True
    watch.at("finish", 0.0)
    text = f"Held-out error {errors['before']:.4f} before, {errors['best']:.4f} with the weights that are kept."
    print(text, flush=True)
    state = {name: tensor.numpy() for name, tensor in best.state_dict().items()}
    others = {name: tensor for name, tensor in bank.tensors.items() if name not in state}
    origin = f"{bank.origin} Tuned to a person. {origin}. {CONSENT}."
    used = consent_record(CONSENT, known_takes(work / "footage"), bank.footage)
    save_bank(replace(bank, name=args.out.stem, origin=origin, footage=used, path=None), others | state, args.out)
    watch.wrote(args.out)
    if ended:
        watch.end("stopped", f"The tuning has stopped. {args.out.name} has its best state; the same command goes on.")
    else:
        watch.end("done", f"The tuning is done: {args.out.name}. {text}")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("clips", nargs="+", type=Path, help="movies of the person, or folders of movies")
    parser.add_argument("--bank", type=Path, required=True, help="bank with a generator alone, as `footage` makes it")
    parser.add_argument("--out", type=Path, required=True, help="bank (.safetensors) to write")
    parser.add_argument("--work", type=Path, help="folder of checkpoints and logs (default: OUT with .work)")
    add_progress_option(parser)
    parser.add_argument("--consent", action="store_true", help=f'states "{CONSENT}"; needed')
    parser.add_argument("--check", action="store_true", help="only look at the clips, as `footage --check` does")
    parser.add_argument("--json", action="store_true", help="with --check: print JSON, as it is in check.json")
    add_limit_options(parser, "", minutes=120.0, what="the training")
    parser.add_argument("--rate", type=float, default=5e-4, help="peak learning rate (default 0.0005)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
