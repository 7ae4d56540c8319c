"""Figures of banks that were trained without labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training.evaluate.disentangled import drawn_points, own_and_rest, readout, reconstruction_figures, report
from training.evaluate.on_clips import found_points, lip_effect, pose_effect
from training.evaluate.people import space_points
from training.footage.heads import HeadsAsFootage
from training.stages.footage_generator import footage_config
from training.stages.generator import fresh
from training.stages.mouth import MouthEncoder, fit_codes

from .footage_material import write_faces


def test_a_readout_finds_what_is_in_the_code_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    codes, held = rng.standard_normal((400, 5)), rng.standard_normal((200, 5))
    mixing = rng.standard_normal((5, 1))
    truth = np.concatenate([codes @ mixing, rng.standard_normal((400, 1))], 1)
    held_truth = np.concatenate([held @ mixing, rng.standard_normal((200, 1))], 1)
    own, nothing = readout(codes, truth, held, held_truth)
    assert own > 0.99
    assert nothing < 0.05


def test_the_same_code_moves_nothing() -> None:
    torch.manual_seed(0)
    model, source = fresh(footage_config(32)).eval(), torch.rand(2, 3, 32, 32) * 2 - 1
    alpha = torch.randn(2, 1, 26).expand(2, 3, 26)
    points = torch.rand(2, 40, 2) - 0.5
    at, pictures, sure = drawn_points(model, source, alpha, points)
    assert at.shape == (2, 3, 40, 2)
    assert torch.allclose(pictures[:, 0], pictures[:, 2], atol=1e-4)
    assert (at[:, 1] - at[:, 0])[sure[:, 0] & sure[:, 1]].abs().max() < 1e-3
    assert sure.float().mean() > 0.5
    assert (at[:, 0] - points)[sure[:, 0]].abs().median() < 0.05
    latent = model.enc(source)[0]
    own = -latent @ model.basis()
    again = drawn_points(model, source, alpha, points, own)[1]
    assert torch.allclose(again, pictures, atol=1e-4), "its own reading is where the encoder has put the source"


def test_the_report_has_a_chapter_for_each_stage() -> None:
    figures = {"mouth_r": 0.7, "lip_effect": 3.5}
    code = {"lip_head": {"jaw": 0.6, "units": 0.2, "pose": 0.0, "upper": 0.1}}
    stage = {
        "exchange": figures,
        "portrait": figures,
        "known": figures,
        "heads": figures,
        "code": code,
        "steps": {"self": 10},
    }
    text = report({"stage0": stage | {"reconstruction": {"self_over_copy": 3.1, "self": 21.0}}})
    assert "## stage0" in text
    assert "| mouth_r | ≥ 0.8 | 0.7 | 0.7 | 0.7 | 0.7 |" in text
    assert "| self_over_copy | ≥ 4 | 3.1 |" in text
    assert "| self |  | 21.0 |" in text
    assert "| lip_head | 0.6 (goal 0.7) | 0.2 | 0.0 | 0.1 |" in text


def test_motion_counts_for_the_region_that_truly_moves() -> None:
    true, drawn = np.zeros((60, 2)), np.full((60, 2), [0.01, 0.0])
    true[:20, 1], drawn[:20, 1] = 0.1, 0.09
    found = own_and_rest("lip", 0, drawn, true, np.ones(60, bool))
    assert found is not None
    own, rest = found
    assert rest == pytest.approx(0.01)
    assert own == pytest.approx(np.hypot(0.01, 0.09))
    assert own_and_rest("lip", 0, drawn, true, np.arange(60) < 30) is None, "too few points that stay"


def test_a_rigid_turn_is_the_poses_own_motion() -> None:
    space = space_points(0)
    turned = space[:, :2] @ np.array([[0.98, 0.05], [-0.05, 0.98]]) + space[:, 2:] * 0.1 - space[:, :2]
    seen = np.ones(len(space), bool)
    found = own_and_rest("pose", 0, turned, turned, seen)
    assert found is not None
    assert found[0] > 50 * found[1]


def test_reconstruction_is_measured_with_own_and_with_exchanged_mouths(tmp_path: Path) -> None:
    torch.manual_seed(0)
    footage = HeadsAsFootage(write_faces(tmp_path, 4))
    model, teacher = fresh(footage_config(32)).eval(), fit_codes(MouthEncoder().eval(), footage)
    found = reconstruction_figures(model, footage, teacher, 6)
    assert found["cross_over_self"] == pytest.approx(found["cross"] - found["self"], abs=2e-3)
    assert found == reconstruction_figures(model, footage, teacher, 6)
    assert all(np.isfinite(value) for value in found.values())


def test_on_clips_a_mouth_counts_for_the_lips_and_a_head_for_the_pose(tmp_path: Path) -> None:
    points = HeadsAsFootage(write_faces(tmp_path, 2)).points
    spoken = points.copy()
    spoken[:, 3:, 1] += 0.02
    mouth, rest = lip_effect(points, spoken)
    assert mouth > 0.02
    assert rest == 0.0
    turned = (points @ np.array([[0.99, 0.1], [-0.1, 0.99]]) + 0.05).astype(np.float32)
    head, shape = pose_effect(points, turned)
    assert head > 20 * shape


def test_points_are_found_in_drawn_pictures() -> None:
    """A finder that answers with pixels gets the picture as uint8, and its answer is turned to [-1, 1]."""

    def brightest(rgb: np.ndarray, square: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
        assert square == (0.0, 0.0, 32.0)
        row, column = np.unravel_index(rgb[..., 0].argmax(), rgb.shape[:2])
        return np.tile([float(column), float(row)], (9, 1)), np.ones(9)

    pictures = -torch.ones(2, 3, 32, 32)
    pictures[0, :, 4, 20] = pictures[1, :, 31, 0] = 1.0
    points, sure = found_points(pictures, brightest)
    np.testing.assert_allclose(points[:, 0], [[41 / 32 - 1, 9 / 32 - 1], [1 / 32 - 1, 63 / 32 - 1]], atol=1e-6)
    assert (sure == 1.0).all()
