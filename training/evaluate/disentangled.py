"""Whether banks that were trained without labels are disentangled: measured on rendered people by intervention.

Truth is read here, and nowhere in the training. Held-out people are rendered again with the coefficients of one bank
exchanged between two of their frames; exchanging the bank's code must draw that picture.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.contract.config import GeneratorConfig
from inference.model.generator import Generator

from ..footage.heads import HeadsAsFootage
from ..footage.prepare import read_footage
from ..footage.takes import Footage, split_in_time, subtract_take_mean
from ..heads.render import person, renderer
from ..learning.losses import sampling_grid
from ..stages.footage_generator import LOOKS, anchored_latent, predict_alpha, reader_windows
from ..stages.mouth import GAIN, MotionCodes, load_or_learn_codes
from ..stages.mouth_pose import PAIR_PICTURES, MouthPoseLosses, draw_pairs, pair_batch
from ..stages.reenactment import psnr_figures
from ..stages.upper_face import UpperFace, load_or_fit_upper_face
from ..units import NAMES
from .motion import OWN, REST, camera_part
from .on_clips import CLIP_GOALS, clip_figures
from .people import GROUPS, space_points
from .puppet import appearing_at

# Units by bank as far as they can be told apart without labels: what moves the lips counts as the mouth's.
MOUTH_EXPRESSION = ("mouthSmile", "mouthFrown")
MOUTH_UNITS = [*range(20), *(NAMES.index(name) for name in MOUTH_EXPRESSION)]
POSE_UNITS = list(range(20, 26))
FACE_UNITS = [index for index in range(26, 36) if NAMES[index] not in MOUTH_EXPRESSION]
UNITS_OF = {"lip": MOUTH_UNITS, "pose": POSE_UNITS, "exp": FACE_UNITS}
# The ten units of speech that are used most, beside the jaw.
SPEECH_UNITS = (
    "mouthClose", "mouthFunnel", "mouthPucker", "mouthRollLower", "mouthRollUpper", "mouthLowerDown", "mouthUpperUp",
    "mouthStretch", "mouthPress", "mouthDimple",
)  # fmt: skip
STAGES = ("stage0", "stage1", "expression_motion", "expression")  # names of the checkpoints
RIDGE = 0.01
CHANGED = 4.0 / 127.5  # difference of two true pictures from which a pixel counts as changed by an exchange
# Goal of each figure, by its name in the report; "at least" for all of them.
GOALS = {
    "mouth_r": 0.8, "lip_effect": 4.0, "lip_own_over_rest": 4.0, "pose_own_over_rest": 6.0, "exp_own_over_rest": 3.0,
    "lip_gain": 2.0, "pose_gain": 2.0, "exp_gain": 2.0, "cross_over_self": -0.7, "self_over_copy": 4.0,
}  # fmt: skip
READOUT_GOALS = {("lip", "jaw"): 0.7, ("pose", "pose"): 0.8, ("exp", "upper"): 0.4}


@dataclass(frozen=True)
class Exchange:
    """E exchanges between two frames of a person. Points are the tracked ones of the face, in [-1, 1]."""

    person: np.ndarray  # (E,) numbers of the rendered people
    source: np.ndarray  # (E,) frame numbers of the portrait, in the held-out footage
    kept: np.ndarray  # (E,) frame whose other coefficients are kept
    other: np.ndarray  # (E,) frame whose coefficients of one bank are taken
    points: np.ndarray  # (E, F, 2) of the kept frame
    visible: np.ndarray  # (E, F) in the kept frame and in the source
    made: dict[str, np.ndarray]  # by bank (E, F, 2): true points after the exchange
    pictures: dict[str, np.ndarray]  # by bank (E, S, S, 3) uint8: true pictures after the exchange


class Truth:
    """True motion of the held-out people of a data set of `python -m training heads`.

    first: number of the first held-out person; those before are trained on. portraits: exchange into a portrait that
    hardly moves, as a user's picture; default: into a frame with a pose of its own.
    """

    def __init__(
        self, folder: Path, first: int, *, people: int = 40, exchanges: int = 2, noise: float = 0.0,
        portraits: bool = False,
    ) -> None:  # fmt: skip
        self.portraits = portraits
        self.heldout = HeadsAsFootage(folder, first, noise=noise, seed=1)
        self.trained = HeadsAsFootage(folder, 0, min(150, first), noise=noise, seed=2)
        frames = len(self.heldout) // len(self.heldout.takes)
        table = np.load(folder / "coefficients.npy", mmap_mode="r")
        self.coefficients = np.array(table[first * frames : first * frames + len(self.heldout)])
        self.trained_coefficients = np.array(table[: len(self.trained)])
        cache = folder / f"exchanges_{first}_{people}_{exchanges}{'_portraits' if portraits else ''}.npz"
        if cache.exists():
            saved = np.load(cache)
            stored = {name: saved[name] for name in saved.files}
        else:
            stored = self._rendered(folder, first, frames, people, exchanges)
            np.savez(cache, **stored)  # type: ignore[arg-type]
        self.exchange = Exchange(
            first + stored["source"] // frames, stored["source"], stored["kept"], stored["other"],
            stored["points"], stored["visible"],
            {bank: stored[f"points_{bank}"] for bank in UNITS_OF},
            {bank: stored[f"pictures_{bank}"] for bank in UNITS_OF},
        )  # fmt: skip

    def _rendered(self, folder: Path, first: int, frames: int, people: int, exchanges: int) -> dict[str, np.ndarray]:
        rng, face = np.random.default_rng(first), slice(0, GROUPS["face"].stop)
        tracked, visible = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("points", "visible"))
        drawer = renderer(self.heldout.frames.shape[1])
        stored: dict[str, list[np.ndarray]] = {}
        for index in range(min(people, len(self.heldout.takes))):
            who = index * frames
            for _ in range(exchanges):
                kept, other = who + rng.choice(np.arange(3, frames), 2, replace=False)
                kept = who + 2 if self.portraits else kept
                at, at_source = first * frames + kept, first * frames + who + 1
                entry = {
                    "source": np.array(who + 1), "kept": np.array(kept), "other": np.array(other),
                    "points": tracked[at, face].astype(np.float32),
                    "visible": visible[at, face] & visible[at_source, face],
                }  # fmt: skip
                with drawer.context:
                    drawer.show(person(first + index))
                    for bank, units in UNITS_OF.items():
                        row = self.coefficients[kept].copy()
                        row[units] = self.coefficients[other][units]
                        shot = drawer.render(row)
                        entry[f"points_{bank}"] = shot.points[face].astype(np.float32)
                        entry[f"pictures_{bank}"] = shot.image
                for name, value in entry.items():
                    stored.setdefault(name, []).append(value)
        return {name: np.stack(values) for name, values in stored.items()}


def readout(codes: np.ndarray, truth: np.ndarray, held_codes: np.ndarray, held_truth: np.ndarray) -> np.ndarray:
    """(n,) R^2 of a ridge regression from codes to truth (N, n), fitted on the first and scored on the second."""
    scale = codes.std(0) + 1e-6
    rows = codes / scale
    solution = np.linalg.solve(rows.T @ rows + RIDGE * len(rows) * np.eye(rows.shape[1]), rows.T @ truth)
    residual = np.square(held_codes / scale @ solution - held_truth).sum(0)
    return 1.0 - residual / np.maximum(np.square(held_truth - held_truth.mean(0)).sum(0), 1e-9)


def readouts(truth: Truth, trained: np.ndarray, held: np.ndarray) -> dict[str, float]:
    """R^2 within people of jaw, speech units, pose and upper face from codes (N, n) of trained and held-out frames."""
    of_trained, of_held = truth.trained.take_ids, truth.heldout.take_ids
    score = readout(
        subtract_take_mean(trained, of_trained), subtract_take_mean(truth.trained_coefficients, of_trained),
        subtract_take_mean(held, of_held), subtract_take_mean(truth.coefficients, of_held),
    )  # fmt: skip
    upper = [NAMES.index(name) for name in ("browDown", "browInnerUp", "browOuterUp", "eyeBlink")]
    return {
        "jaw": float(score[NAMES.index("jawOpen")]),
        "units": float(np.mean([score[NAMES.index(name)] for name in SPEECH_UNITS])),
        "pose": float(score[POSE_UNITS].mean()),
        "upper": float(score[upper].mean()),
    }


@torch.no_grad()
def drawn_points(
    model: Generator, source: Tensor, alpha: Tensor, points: Tensor, start: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the drawn picture shows what it shows at `points` with the first row of alpha, with the other rows.

    source: (E, 3, R, R); alpha: (E, A, n); points: (E, F, 2) in the picture of the first row; start: (E, m) alpha of
    the sources if it is known, see `footage_generator.anchored_latent`. Returns positions (E, A, F, 2), pictures (E, A,
    3, R, R) and whether each found position is that of the point (E, A, F).
    """
    latent, features = model.enc(source)
    latent = latent if start is None else anchored_latent(model, latent, start)
    count = alpha.shape[1]
    *_, last = model.levels(latent, features, alpha.flatten(0, 1))
    grid = sampling_grid(last.flow)
    origin = torch.nn.functional.grid_sample(
        grid[::count], points[:, None], padding_mode="border", align_corners=False
    )[:, :, 0].transpose(1, 2)
    target = origin.repeat_interleave(count, 0)
    positions = appearing_at(grid, target)
    source_positions = torch.nn.functional.grid_sample(
        grid, positions[:, None], padding_mode="border", align_corners=False
    )
    missed = (source_positions[:, :, 0].transpose(1, 2) - target).norm(dim=-1)
    shape = (len(source), count)
    return (
        positions.view(*shape, -1, 2),
        last.rgb.clamp(-1, 1).view(*shape, *last.rgb.shape[1:]),
        missed.view(*shape, -1) < 0.02,
    )


def _pearson(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation; 0 if one of both does not vary, as before an expression bank has learned anything."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1]) if one.std() > 0 < other.std() else 0.0


def own_and_rest(
    bank: str, person: int, motion: np.ndarray, true: np.ndarray, usable: np.ndarray
) -> tuple[float, float] | None:
    """Mean drawn motion in the region of a bank and elsewhere, as `evaluate.motion` has it; None if nothing moves.

    The pose's own part is what a rigid head and an affine camera explain of the motion; for the other banks it is the
    motion of points that truly move, against that of points that do not. moved, true: (F, 2); usable: (F,) bool.
    """
    if usable.sum() < 20:
        return None
    size, far = np.linalg.norm(motion, axis=-1), np.linalg.norm(true, axis=-1)
    if bank == "pose":
        solid = camera_part(space_points(person)[usable], motion[usable], np.ones(usable.sum(), bool))
        parts = solid, motion[usable] - solid
        return float(np.linalg.norm(parts[0], axis=-1).mean()), float(np.linalg.norm(parts[1], axis=-1).mean())
    most = far[usable].max()
    own, rest = usable & (far >= OWN * most), usable & (far <= REST * most)
    return (float(size[own].mean()), float(size[rest].mean())) if rest.sum() >= 20 else None


@torch.no_grad()
def reconstruction_figures(
    model: Generator, footage: Footage, teacher: MotionCodes, count: int = 48
) -> dict[str, float]:
    """PSNR in dB of held-out frames that the generator's own heads drive.

    `self`: codes of the frame; `cross`: lip code and pose code of two pictures with exchanged mouths, see
    `stages.mouth_pose`; `self_over_copy`: above the source itself, for driven frames other than the source. The
    source's own motion is set from its code (`footage_generator.anchored_latent`), except in
    `self_over_copy_unanchored`.
    """
    rng, size = np.random.default_rng(0), model.config.size
    rows, codes = draw_pairs(footage, rng, count), teacher.lip_and_pose_codes(footage)
    lips, shared = model.config.bank_slices["lip"], model.config.bank_slices["pose"].stop
    own, step = torch.from_numpy(head_codes(model, footage)), MouthPoseLosses(model)
    drawn: dict[str, list[float]] = {"self": [], "cross": []}
    for part in np.array_split(np.arange(count), -(-count // 8)):
        batch = pair_batch(
            footage, codes, size, {name: values[part] for name, values in rows.items()}, rng, tinted=False,
            looks=LOOKS.keys() & model.config.bank_slices,
        )  # fmt: skip
        z = dict(zip(PAIR_PICTURES, step.alpha(batch).chunk(4), strict=True))
        for identity, head, mouth in (("a", "ab", "ba"), ("b", "ba", "ab")):
            crossed = z[head].clone()
            crossed[:, lips] = z[mouth][:, lips]
            latent, features = model.enc(batch[f"identity_{identity}"])
            anchored = anchored_latent(model, latent, own[rows[f"identity_{identity}"][part]][:, :shared])
            for name, alpha in (("self", z[identity]), ("cross", crossed)):
                *_, last = model.levels(anchored, features, alpha)
                drawn[name] += [
                    _psnr(*pair) for pair in zip(last.rgb.clamp(-1, 1)[:, None], batch[identity][:, None], strict=True)
                ]
    result = {name: float(np.mean(values)) for name, values in drawn.items()}
    result["cross_over_self"] = result["cross"] - result["self"]
    psnr = psnr_figures(model, footage, own / GAIN)
    result["self_over_copy"] = psnr["psnr"] - psnr["psnr_copy"]
    result["self_over_copy_unanchored"] = psnr["psnr_unanchored"] - psnr["psnr_copy"]
    return {name: round(value, 3) for name, value in result.items()}


@torch.no_grad()
def exchange_figures(
    model: Generator, truth: Truth, alpha: np.ndarray, banks: Sequence[str] = ("lip", "pose"), *, known: bool = False
) -> dict[str, float]:
    """Figures of exchanging each bank's code. alpha: (N, n) of the held-out footage, in the decoder's units.

    known: set the source's own motion from its codes of mouth and pose, instead of leaving it to the encoder.

    For the lip bank: `mouth_r`, correlation of drawn with true motion of the mouth's points; `mouth_slope`, amount of
    the drawn motion along the true one; `lip_effect`, motion at the mouth over motion at the eyes; `mouth_moved`,
    `eyes_moved` and `mouth_true`, these motions and the true one of the mouth. For every bank, `*_gain`: PSNR above
    exchanging nothing, in dB; `*_gain_there`: the same of the pixels that the exchange changes; `*_gain_exact`,
    `*_gain_there_exact`: the same for the drawing without the exchange to which the true change is added, the most that
    an exchange can gain; `*_own_over_rest`: see `own_and_rest`.
    """
    at, pictures, sure = _exchanged(model, truth, alpha, banks, known=known)
    result: dict[str, float] = {}
    for index, bank in enumerate(banks, 1):
        moved, usable = (at[:, index] - at[:, 0]).numpy(), (sure[:, index] & sure[:, 0]).numpy()
        result |= _motion_figures(truth, bank, moved, usable)
        result |= _gain_figures(truth, bank, pictures[:, 0], pictures[:, index])
    return {name: round(value, 4) for name, value in result.items()}


def _exchanged(
    model: Generator, truth: Truth, alpha: np.ndarray, banks: Sequence[str], *, known: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What `drawn_points` gives for the kept frames (row 0 of A), and for each exchange of a bank (the others)."""
    exchange, slices = truth.exchange, model.config.bank_slices
    rows = []
    for bank in banks:
        mixed = alpha[exchange.kept].copy()
        mixed[:, slices[bank]] = alpha[exchange.other][:, slices[bank]]
        rows.append(mixed)
    alphas = torch.from_numpy(np.stack([alpha[exchange.kept], *rows], 1).astype(np.float32))
    source, points = truth.heldout.pictures(exchange.source, model.config.size), torch.from_numpy(exchange.points)
    start = torch.from_numpy(alpha[exchange.source, : slices["pose"].stop]).float()
    parts = [
        drawn_points(model, rendered, wanted_of, at, own if known else None)
        for rendered, wanted_of, at, own in zip(
            *(values.split(16) for values in (source, alphas, points, start)), strict=True
        )
    ]
    at, pictures, sure = (torch.cat(part) for part in zip(*parts, strict=True))
    return at, pictures, sure


def _motion_figures(truth: Truth, bank: str, moved: np.ndarray, sure: np.ndarray) -> dict[str, float]:
    """Figures of the drawn motion (E, F, 2) of an exchange. sure: (E, F), whether a point was found."""
    exchange = truth.exchange
    true, usable = exchange.made[bank] - exchange.points, exchange.visible & sure
    result: dict[str, float] = {}
    if bank == "lip":
        mouth, eyes = (np.zeros_like(usable) for _ in range(2))
        mouth[:, GROUPS["mouth"]], eyes[:, GROUPS["eyes"]] = usable[:, GROUPS["mouth"]], usable[:, GROUPS["eyes"]]
        of_mouth, of_eyes, true_of_mouth = (
            float(np.linalg.norm(motion[part], axis=-1).mean())
            for motion, part in ((moved, mouth), (moved, eyes), (true, mouth))
        )
        result["mouth_r"] = _pearson(moved[mouth], true[mouth])
        result["mouth_slope"] = float((moved[mouth] * true[mouth]).sum() / np.square(true[mouth]).sum())
        result["lip_effect"] = of_mouth / max(of_eyes, 1e-9)
        result |= {"eyes_moved": of_eyes, "mouth_moved": of_mouth, "mouth_true": true_of_mouth}
    else:
        result[f"{bank}_r"] = _pearson(moved[usable], true[usable])
        result[f"{bank}_slope"] = float((moved[usable] * true[usable]).sum() / np.square(true[usable]).sum())
    regions = [own_and_rest(bank, *row) for row in zip(exchange.person, moved, true, usable, strict=True)]
    own, rest = np.sum([pair for pair in regions if pair is not None], 0)
    return result | {f"{bank}_own_over_rest": float(own / max(rest, 1e-9))}


def _gain_figures(truth: Truth, bank: str, kept: Tensor, exchanged: Tensor) -> dict[str, float]:
    """PSNR gained by an exchange. kept, exchanged: (E, 3, R, R) pictures without and with it."""
    exchange, size, result = truth.exchange, kept.shape[-1], {}
    goal = torch.from_numpy(exchange.pictures[bank]).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    goal = torch.nn.functional.avg_pool2d(goal, goal.shape[-1] // size)
    before = truth.heldout.pictures(exchange.kept, size)
    changed = ((goal - before).abs().amax(1, keepdim=True) > CHANGED).float()
    exact = kept + goal - before
    for name, where in (("gain", torch.ones_like(changed)), ("gain_there", changed)):
        nothing = _psnr(kept, goal, where)
        result[f"{bank}_{name}"] = _psnr(exchanged, goal, where) - nothing
        result[f"{bank}_{name}_exact"] = _psnr(exact, goal, where) - nothing
    return result


def gate_figures(
    model: Generator, truth: Truth, teacher: MotionCodes | None, upper: UpperFace | None = None, *, known: bool = False
) -> dict[str, float]:
    """`exchange_figures` of a generator that is driven by the codes that are learned without labels.

    teacher, upper: None to drive it by its own heads' codes of mouth and pose, and of an expression bank. known: see
    `exchange_figures`.
    """
    alpha = head_codes(model, truth.heldout)
    if teacher is not None:
        taught = teacher.lip_and_pose_codes(truth.heldout) * GAIN
        alpha[:, : taught.shape[1]] = taught
    if upper is not None and "exp" in model.config.bank_slices:
        alpha[:, model.config.bank_slices["exp"]] = upper.codes(truth.heldout) * GAIN
    return exchange_figures(model, truth, alpha, list(model.config.bank_slices), known=known)


def code_figures(
    model: Generator, truth: Truth, teacher: MotionCodes, upper: UpperFace | None = None
) -> dict[str, dict[str, float]]:
    """Readouts of every bank's code: from the code that drives the decoder, and from the generator's heads."""
    heads = [head_codes(model, part) for part in (truth.trained, truth.heldout)]
    taught = [teacher.lip_and_pose_codes(part) for part in (truth.trained, truth.heldout)]
    result = {}
    for bank, columns in model.config.bank_slices.items():
        result[f"{bank}_head"] = readouts(truth, heads[0][:, columns], heads[1][:, columns])
        if columns.stop <= taught[0].shape[1]:
            result[f"{bank}_teacher"] = readouts(truth, taught[0][:, columns], taught[1][:, columns])
        elif upper is not None and bank == "exp":
            result["exp_teacher"] = readouts(truth, upper.codes(truth.trained), upper.codes(truth.heldout))
    return {name: {key: round(value, 3) for key, value in part.items()} for name, part in result.items()}


def _psnr(pictures: Tensor, truth: Tensor, where: Tensor | None = None) -> float:
    """Mean PSNR in dB of pictures (N, 3, R, R), of the pixels with a weight `where` (N, 1, R, R)."""
    error = (pictures - truth).square().mean(1, keepdim=True)
    where = torch.ones_like(error) if where is None else where
    mean = (error * where).sum((1, 2, 3)) / where.sum((1, 2, 3)).clamp(min=1.0)
    return float((10.0 * torch.log10(4.0 / mean.clamp(min=1e-6))).mean())


@torch.no_grad()
def head_codes(model: Generator, footage: Footage) -> np.ndarray:
    """(N, n) alpha that the generator's own heads read: those of LOOKS from their windows, the others from the face."""
    parts = np.array_split(np.arange(len(footage)), max(1, len(footage) // 100))
    codes = []
    for rows in parts:
        looks = reader_windows(footage.pictures(rows), footage.points[rows], model.config)
        codes.append(predict_alpha(model, footage.pictures(rows, model.config.size), looks))
    return torch.cat(codes).numpy()


def averages(work: Path) -> dict[str, tuple[Generator, dict[str, int]]]:
    """The averaged generator of each stage in `work`, and its steps by phase."""
    generators = {}
    for stage in STAGES:
        path = work / f"{stage}.pt"
        if path.exists():
            saved = torch.load(path, weights_only=True)
            model = Generator(GeneratorConfig.from_json(json.loads(saved["config"])))
            model.load_state_dict(saved["average"])
            generators[stage] = model, {name: phase["step"] for name, phase in saved["phases"].items()}
    return generators


def measured(work: Path, folder: Path, first: int, people: int) -> dict[str, dict[str, Any]]:
    """Figures of every checkpoint of `python -m training footage --heads` in `work`, by stage."""
    rng = np.random.default_rng(0)
    footage = HeadsAsFootage(folder, 0, first)
    teacher = load_or_learn_codes(footage, work / "mouth.pt", rng)
    upper = load_or_fit_upper_face(work / "upper_face.pt", footage)
    truths = {
        "exchange": Truth(folder, first, people=people),
        "portrait": Truth(folder, first, people=people, portraits=True),
    }
    result: dict[str, dict[str, Any]] = {}
    for stage, (model, steps) in averages(work).items():
        result[stage] = {name: gate_figures(model, truth, teacher, upper) for name, truth in truths.items()}
        result[stage]["known"] = gate_figures(model, truths["exchange"], teacher, upper, known=True)
        result[stage]["heads"] = gate_figures(model, truths["exchange"], None)
        result[stage]["reconstruction"] = reconstruction_figures(model, truths["exchange"].heldout, teacher)
        result[stage]["code"] = code_figures(model, truths["exchange"], teacher, upper)
        result[stage]["steps"] = steps
    return result


def report(result: Mapping[str, Mapping[str, Any]]) -> str:
    """The chapter on disentanglement in Markdown. Figures that have a goal are listed with it."""
    lines = ["# Disentangled", ""]
    for stage, parts in result.items():
        lines += [f"## {stage}", "", f"Steps: {parts['steps']}", ""]
        lines += [
            "| figure | goal | in another pose | source known | in a portrait | codes of its own heads |",
            "|---|---|---|---|---|---|",
        ]
        for name in parts["exchange"]:
            row = " | ".join(str(parts[column][name]) for column in ("exchange", "known", "portrait", "heads"))
            lines.append(f"| {name} | {_goal(name)} | {row} |")
        lines += ["", "| reconstruction, dB | goal | found |", "|---|---|---|"]
        lines += [f"| {name} | {_goal(name)} | {value} |" for name, value in parts["reconstruction"].items()]
        lines += ["", "| code | jaw | units | pose | upper face |", "|---|---|---|---|---|"]
        for name, scores in parts["code"].items():
            listed = []
            for key in ("jaw", "units", "pose", "upper"):
                goal = READOUT_GOALS.get((name.split("_")[0], key))
                listed.append(f"{scores[key]}" + (f" (goal {goal})" if goal else ""))
            lines.append(f"| {name} | {' | '.join(listed)} |")
        lines.append("")
    return "\n".join(lines)


def _goal(name: str) -> str:
    return f"≥ {GOALS[name]:g}" if name in GOALS else ""


def run(args: argparse.Namespace) -> None:
    """Measure with the options of `add_options`. Raises SystemExit if there is no checkpoint."""
    torch.set_num_threads(1)
    if not averages(args.work):
        raise SystemExit(f"{args.work} has no checkpoint. Run `python -m training footage` first.")
    if args.heads is None:
        result: dict[str, dict[str, Any]] = {**measured_clips(args.work)}
        text = clip_report(result)
    else:
        result = measured(args.work, args.heads, args.train, args.people)
        text = report(result)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "disentangled.json").write_text(json.dumps(result, indent=1))
    (args.out / "disentangled.md").write_text(text)
    print(text)


def measured_clips(work: Path) -> dict[str, dict[str, float]]:
    """`on_clips.clip_figures` of every checkpoint of `python -m training footage CLIPS` in `work`, by stage."""
    folder = work / "footage"
    split = split_in_time(read_footage(folder, json.loads((folder / "clips.json").read_text())))
    teacher = load_or_learn_codes(split.trained, work / "mouth.pt", np.random.default_rng(0))
    return {stage: clip_figures(model, split.heldout, teacher) for stage, (model, _) in averages(work).items()}


def clip_report(result: Mapping[str, Mapping[str, float]]) -> str:
    """The chapter on clips in Markdown."""
    lines = [
        "# Disentangled, on clips",
        "",
        f"| figure | goal | {' | '.join(result)} |",
        "|---|---|" + "---|" * len(result),
    ]
    for name in next(iter(result.values())):
        goal = f"≥ {CLIP_GOALS[name]:g}" if name in CLIP_GOALS else ""
        lines.append(f"| {name} | {goal} | {' | '.join(str(stage[name]) for stage in result.values())} |")
    return "\n".join(lines) + "\n"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("work", type=Path, help="folder of checkpoints, see `footage --work`")
    parser.add_argument(
        "--heads", type=Path, help="the data set of rendered heads (default: measure a run on clips by detected points)"
    )
    parser.add_argument("--train", type=int, default=600, help="people that were trained on (default 600)")
    parser.add_argument("--people", type=int, default=40, help="held-out people to measure (default 40)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
