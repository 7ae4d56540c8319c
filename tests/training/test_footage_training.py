"""Training from footage, end to end on drawn faces at 32 px: no labels exist, stages resume, and a bank opens."""

from __future__ import annotations

import argparse
import copy
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import Bank, load_bank
from inference.contract.errors import EDTalkError
from inference.model.generator import Level
from inference.model.load import load_network, networks_json
from inference.model.readers.look import LOOKS as NETWORKS
from inference.model.readers.look import look_at
from inference.renderer import FaceRenderer
from training.evaluate.disentangled import head_codes
from training.footage.heads import HeadsAsFootage
from training.footage.motion import measure_motion_pool
from training.footage.takes import Split, split_in_time, subtract_take_mean
from training.learning.losses import weighted_sum
from training.learning.optimiser import minimise
from training.learning.trainer import Limits
from training.stages import footage as command
from training.stages.expression import (
    MODULATION,
    ExpressionLosses,
    add_expression_bank,
    expression_batch,
    limit_to_expression_directions,
    parameter_groups,
)
from training.stages.expression_motion import choose_unused_directions
from training.stages.finish_bank import (
    Material,
    as_affine_map,
    emotion_presets,
    finish,
    flow_effects,
    look_tensors,
    rotate_to_principal_axes,
)
from training.stages.footage import train_all
from training.stages.footage_generator import (
    LOOKS,
    centred_by_take,
    footage_config,
    latents,
    solve_heads,
    stage_optimiser,
)
from training.stages.footage_losses import exchange_loss
from training.stages.generator import fresh
from training.stages.mouth import GAIN, MotionCodes, load_or_learn_codes, pose_regressors, raw_pose_regressors
from training.stages.mouth_pose import WEIGHTS, MouthPoseLosses, draw_pairs, pair_batch, train_mouth_pose
from training.stages.upper_face import UpperFace, driving_codes, load_or_fit_upper_face

from .footage_material import write_faces

STEPS = 2


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = write_faces(tmp_path_factory.mktemp("faces"), 10)
    return Split(HeadsAsFootage(folder, 0, 8), HeadsAsFootage(folder, 8))


def options(work: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    words = f"--out {work / 'made.safetensors'} --work {work} --size 32 --start none --steps {STEPS} --minutes inf"
    small = "--mouth-steps 4 --pool 12 --sources 2 --pairs 2"
    return parser.parse_args([*words.split(), *small.split(), *more])


@pytest.fixture(scope="module")
def trained(
    split: Split, tmp_path_factory: pytest.TempPathFactory
) -> tuple[argparse.Namespace, torch.nn.Module, MotionCodes]:
    """The options, generator and codes of a run of a few steps of every phase."""
    args = options(tmp_path_factory.mktemp("work"))
    model, teacher, _ = train_all(args, split, lambda teacher, upper: lambda model: {})
    return args, model, teacher


def test_all_stages_run_without_labels(trained: tuple[argparse.Namespace, torch.nn.Module, MotionCodes]) -> None:
    args, model, _ = trained
    for name, phases in (("stage0", 3), ("stage1", 1), ("expression_motion", 1), ("expression", 1)):
        saved = torch.load(args.work / f"{name}.pt", weights_only=True)
        assert [phase["step"] for phase in saved["phases"].values()] == [STEPS] * phases
        assert np.isfinite(list(saved["running"].values())).all()
    assert dict(model.config.banks) == {"lip": 20, "pose": 6, "exp": 10}
    assert all(weight.isfinite().all() for weight in model.state_dict().values())


def test_a_finished_run_is_not_trained_again(
    trained: tuple[argparse.Namespace, torch.nn.Module, MotionCodes], split: Split
) -> None:
    args, model, _ = trained
    before = (args.work / "stage1.pt").read_bytes()
    again, *_ = train_all(args, split, lambda teacher, upper: lambda model: {})
    assert (args.work / "stage1.pt").read_bytes() == before
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_resumed_run_goes_on_with_the_same_codes(
    trained: tuple[argparse.Namespace, torch.nn.Module, MotionCodes], split: Split
) -> None:
    """The codes are read from the run's folder, whatever footage there is now."""
    args, _, teacher = trained
    again = load_or_learn_codes(split.heldout, args.work / "mouth.pt", np.random.default_rng(1))
    np.testing.assert_array_equal(again.lip_and_pose_codes(split.heldout), teacher.lip_and_pose_codes(split.heldout))
    np.testing.assert_array_equal(again.lip_motion(split.heldout), teacher.lip_motion(split.heldout))


def test_codes_of_another_version_are_refused(
    trained: tuple[argparse.Namespace, torch.nn.Module, MotionCodes], split: Split, tmp_path: Path
) -> None:
    saved = torch.load(trained[0].work / "mouth.pt", weights_only=True)
    del saved["pose_axes"]
    torch.save(saved, tmp_path / "mouth.pt")
    with pytest.raises(EDTalkError, match="another version"):
        load_or_learn_codes(split.trained, tmp_path / "mouth.pt", np.random.default_rng(0))


def test_no_pose_is_further_than_the_limit(split: Split) -> None:
    """One frame turned further than all others counts as turned to the limit."""
    terms = raw_pose_regressors(split.trained)
    spread = terms.std(0)
    found = pose_regressors(split.trained, spread)
    assert found.shape == terms.shape
    assert (np.abs(found) <= 6.01 * spread + 1e-6).all()


def test_the_bank_opens_and_says_where_it_comes_from(
    trained: tuple[argparse.Namespace, torch.nn.Module, MotionCodes],
    upper: UpperFace,
    split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, model, teacher = trained
    out = tmp_path / "mine.safetensors"
    monkeypatch.setattr("training.stages.finish_bank.named_coefficients", lambda bank, *measured: bank.coefficients)
    finish(copy.deepcopy(model), teacher, upper, split, out, Material("Made from: a.mp4 (12345678)"), faces=2)
    bank = load_bank(out)
    assert bank.licence == "yours; made from your footage"
    assert bank.origin == "Made from: a.mp4 (12345678)"
    assert len(set(bank.names)) == 36
    assert all(entry.soft_min < entry.rest < entry.soft_max for entry in bank.coefficients)
    assert list(bank.presets) == ["neutral"]
    assert set(bank.networks or {}) == {"look", "expression_look"}
    renderer = FaceRenderer(bank, "cpu")
    shown = ((split.heldout.pictures([0], 32)[0] + 1.0) * 127.5).round().byte()
    renderer.set_source(shown.permute(1, 2, 0).numpy())
    own = renderer.source_coefficients.values[0]
    generator = type(model)(bank.config)
    generator.load_state_dict({name: torch.from_numpy(bank.tensors[name]) for name in generator.state_dict()})
    with torch.no_grad():
        latent = generator.enc(shown[None].float() / 127.5 - 1.0)[0]
        assumed = -(latent @ generator.basis())[0]
    np.testing.assert_allclose(own, assumed, atol=2e-3 * np.abs(own).max(), err_msg="the decoder's own motion is 0")
    (drawn,) = renderer.render(bank.rest[None])
    assert drawn.shape == (32, 32, 3)


def test_a_bank_reads_every_window_as_the_head_that_was_solved_for_it(split: Split) -> None:
    """Heads that are solved for codes that are linear in a window's latent read them, also after a turn of the axes."""
    torch.manual_seed(0)
    model, rng = fresh(footage_config(32, (("lip", 4), ("pose", 3), ("exp", 5)))), np.random.default_rng(0)
    footage = split.trained
    rows = np.arange(len(footage))
    parts = []
    for bank, count in model.config.banks:
        found = centred_by_take(latents(model, footage, rows, bank if bank in LOOKS else None), footage, rows)
        *_, axes = torch.linalg.svd(found)
        parts.append(found @ axes[:count].T / found.std())
    codes = torch.cat(parts, 1).numpy()
    explained = solve_heads(model, footage, codes, rng)
    assert min(explained.values()) > 0.98, explained
    read = subtract_take_mean(head_codes(model, footage), footage.take_ids) / GAIN
    np.testing.assert_allclose(read, codes, atol=0.15 * codes.std())
    for bank, window in LOOKS.items():
        columns = model.config.bank_slices[bank]
        turn = np.linalg.qr(rng.standard_normal((dict(model.config.banks)[bank],) * 2)).Q.astype(np.float32)
        head = as_affine_map(*model.fc, *getattr(model, f"{bank}_fc"))
        tensors = look_tensors(bank, head, window, turn)
        stored = Bank("tiny", model.config, (), networks=networks_json(tensors))
        vars(stored)["tensors"] = tensors
        look = load_network(stored, NETWORKS[bank])
        assert astuple(look.window)[:2] == pytest.approx(astuple(window)[:2])
        assert look.window.centre == (None if window.centre is None else pytest.approx(window.centre))
        with torch.no_grad():
            seen = model.enc(look_at(footage.pictures(rows), footage.points[rows], 32, look.window))[0]
            found = look(seen).numpy()
        np.testing.assert_allclose(found, head_codes(model, footage)[:, columns] @ turn, atol=1e-3)


def test_axes_are_turned_without_changing_the_picture(
    trained: tuple[argparse.Namespace, torch.nn.Module, MotionCodes], split: Split
) -> None:
    """The same face read and drawn by the turned generator; the largest effect of each bank comes first."""
    _, model, _ = trained
    pictures = split.trained.pictures(np.arange(4), 32)
    state, size, _ = rotate_to_principal_axes(model, flow_effects(model, split.trained, torch.zeros(36), np.arange(2)))
    other = type(model)(model.config)
    other.load_state_dict({name: torch.from_numpy(part) for name, part in state.items()})
    with torch.no_grad():
        drawn = [part(pictures, part.coefficients(part.enc(pictures)[0])) for part in (model, other)]
    assert (drawn[0] - drawn[1]).abs().max() < 1e-3
    for columns in model.config.bank_slices.values():
        assert (size[columns].diff() <= 1e-5).all()


@pytest.fixture(scope="module")
def upper(trained: tuple[argparse.Namespace, torch.nn.Module, MotionCodes], split: Split) -> UpperFace:
    return load_or_fit_upper_face(trained[0].work / "upper_face.pt", split.trained)


@pytest.fixture
def widened(
    trained: tuple[argparse.Namespace, torch.nn.Module, MotionCodes],
) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Stage 1's generator, and the same with an expression bank."""
    saved = torch.load(trained[0].work / "stage1.pt", weights_only=True)["average"]
    model = type(trained[1])(type(trained[1].config)(32, 160, trained[1].config.channels, trained[1].config.banks[:2]))
    model.load_state_dict(saved)
    return model, add_expression_bank(model)


def test_an_expression_bank_changes_nothing_at_first(
    widened: tuple[torch.nn.Module, torch.nn.Module], split: Split
) -> None:
    model, larger = widened
    pictures = split.trained.pictures(np.arange(4), 32)
    alpha = torch.randn(4, 26)
    with torch.no_grad():
        read = larger.coefficients(larger.enc(pictures)[0])[:, 26:]
        before, after = model(pictures, alpha), larger(pictures, torch.cat([alpha, read], 1))
    assert (before - after).abs().max() < 4e-6, "rounding of the basis, whose QR has more columns"


def test_a_portrait_is_at_its_usual_expression(widened: tuple[torch.nn.Module, torch.nn.Module], split: Split) -> None:
    """The encoder leaves the expression's directions alone, and who somebody is stays in the latent."""
    model, larger = widened
    choose_unused_directions(larger, split.trained, np.arange(len(split.trained)))
    pictures = split.trained.pictures(np.arange(8), 32)
    with torch.no_grad():
        before, after = model.enc(pictures)[0], larger.enc(pictures)[0]
        used = after @ larger.basis()
    assert used[:, 26:].abs().max() < 1e-3 * used.abs().max()
    assert (before - after).norm() < 0.3 * before.norm()


def test_an_exchange_is_compared_with_the_kept_frame_alone() -> None:
    """An error that both drawings share costs nothing; a motion that is missing costs its length."""
    at = torch.rand(1, 50, 2) * 0.6 - 0.3
    moved = at + torch.tensor([0.1, 0.0])
    compared = at, moved, torch.ones(1, 50)
    wrong = torch.full((1, 3, 32, 32), 0.3)  # of what the kept frame shows, everywhere
    right = torch.atanh(torch.tanh(wrong) - torch.tensor([0.1, 0.0, 0.0])[None, :, None, None])
    levels = [Level(*(flow if name == "flow" else flow[:, :0] for name in Level._fields)) for flow in (wrong, right)]
    stretch = 32 / 31  # see `warp_grid`
    assert exchange_loss([levels[1]], [levels[0]], *compared) < 0.1 * (stretch - 1.0) + 1e-5
    assert exchange_loss([levels[0]], [levels[0]], *compared).item() == pytest.approx(0.1 * stretch, rel=1e-3)


def test_stage_2_trains_the_decoder_alone(
    trained: tuple[argparse.Namespace, torch.nn.Module, MotionCodes],
    widened: tuple[torch.nn.Module, torch.nn.Module],
    upper: UpperFace,
    split: Split,
) -> None:
    larger = widened[1]
    chosen = [weight for group in parameter_groups(larger) for weight in group["params"]]
    codes = torch.from_numpy(driving_codes(trained[2], upper, split.trained))
    rng = np.random.default_rng(0)
    pool = measure_motion_pool(split.trained, 4, 2, rng)
    lips, faces = trained[2].lip_motion(split.trained), upper.motion(codes[:, -10:].numpy())
    batch = expression_batch(split.trained, codes, lips, faces, 32, 2, rng, pool)
    losses = ExpressionLosses(larger)(batch)
    weighted_sum(losses, dict.fromkeys(losses, 1.0)).backward()
    assert sum(float(weight.grad.abs().sum()) for weight in chosen if weight.grad is not None) > 0
    others = {name for name, weight in larger.named_parameters() if weight.grad is not None}
    assert all(name.startswith("dec.") for name in others)


def test_stage_2_leaves_what_the_other_banks_do(widened: tuple[torch.nn.Module, torch.nn.Module]) -> None:
    """Whatever the step, the modulations change along the expression's directions alone."""
    larger = widened[1]
    before = {name: weight.clone() for name, weight in larger.named_parameters() if MODULATION in name}
    with limit_to_expression_directions(larger), torch.no_grad():
        for weight in larger.dec.parameters():
            weight += 0.1 * torch.randn_like(weight)
    directions = larger.basis()[:, larger.config.bank_slices["exp"]]
    changes = [dict(larger.named_parameters())[name] - old for name, old in before.items() if name.startswith("dec.")]
    assert min(float(change.norm()) for change in changes) > 0
    assert all((change - change @ directions @ directions.T).abs().max() < 1e-4 for change in changes)


def test_cross_reconstruction_reaches_both_heads_and_falls(
    trained: tuple[argparse.Namespace, torch.nn.Module, MotionCodes], split: Split
) -> None:
    args, _, teacher = trained
    saved = torch.load(args.work / "stage0.pt", weights_only=True)["average"]
    model = type(trained[1])(type(trained[1].config)(32, 160, trained[1].config.channels, trained[1].config.banks[:2]))
    model.load_state_dict(saved)
    rng, step = np.random.default_rng(0), MouthPoseLosses(model)
    batch = pair_batch(
        split.trained, teacher.lip_and_pose_codes(split.trained), 32, draw_pairs(split.trained, rng, 3), rng
    )
    optimiser, seen = stage_optimiser(model), []
    for group in optimiser.param_groups:
        group["lr"] *= 2.0 * group["scale"]
    for number in range(12):
        losses = step(batch)
        seen.append(losses["cross"].item())
        minimise(weighted_sum(losses, WEIGHTS), optimiser, model.parameters())
        if number == 0:
            for head in (model.lip_fc, model.pose_fc):
                assert head[2].weight.grad.abs().sum() > 0
    assert min(seen) < 0.9 * seen[0]


def test_stage_1_resumes_to_the_same_weights(
    trained: tuple[argparse.Namespace, torch.nn.Module, MotionCodes], split: Split, tmp_path: Path
) -> None:
    args, _, teacher = trained
    saved = torch.load(args.work / "stage0.pt", weights_only=True)["average"]
    config = type(trained[1].config)(32, 160, trained[1].config.channels, trained[1].config.banks[:2])
    results = []
    for parts in ((2,), (1, 2)):
        out = tmp_path / f"{len(parts)}.pt"
        for steps in parts:
            torch.manual_seed(0)
            model = type(trained[1])(config)
            model.load_state_dict(saved)
            settings = argparse.Namespace(out=out, rate=3e-3, size=32, seed=0, pairs=2)
            train_mouth_pose(
                settings, model, split.trained, split.heldout, teacher, Limits(steps=steps), np.random.default_rng(0)
            )
        results.append(torch.load(out, weights_only=True)["model"])
    # The first step's rate does not depend on the limit.
    differing = {name: (one - results[1][name]).abs().max().item() for name, one in results[0].items()}
    assert max(differing.values()) < 1e-5, {name: value for name, value in differing.items() if value}


def test_the_end_of_every_take_is_held_out(split: Split) -> None:
    parts = split_in_time(split.trained)
    assert len(parts.trained) + len(parts.heldout) == len(split.trained)
    for take in np.unique(split.trained.take_ids):
        latest = parts.trained.seconds[parts.trained.take_ids == take].max()
        assert (parts.heldout.seconds[parts.heldout.take_ids == take] > latest).all()


def test_emotions_come_from_their_frames_only() -> None:
    codes = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [2.0, 0.0], [0.0, 9.0]])
    presets = emotion_presets(codes, np.zeros(2), {"happy": np.array([1, 2, 3])})
    assert presets["neutral"].tolist() == [0.0, 0.0]
    assert presets["happy"].tolist() == [3.0, 0.0]
    assert set(presets) == {"neutral", "happy"}
