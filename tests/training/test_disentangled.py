"""Figures of banks that were trained without labels."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training.evaluate.disentangled import drawn_points, readout, report
from training.stages.generator import fresh
from training.stages.reenactment import footage_config


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


def test_the_report_has_a_chapter_for_each_stage() -> None:
    figures = {"mouth_r": 0.7, "lip_effect": 3.5}
    code = {"lip_head": {"jaw": 0.6, "units": 0.2, "pose": 0.0, "upper": 0.1}}
    text = report({"stage0": {"exchange": figures, "portrait": figures, "code": code, "steps": {"self": 10}}})
    assert "## stage0" in text
    assert "| mouth_r | 0.7 | 0.7 |" in text
    assert "| lip_head | 0.6 | 0.2 | 0.0 | 0.1 |" in text
