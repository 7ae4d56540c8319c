"""The insets' trainer on a tiny made-up data set: anchors, windows on the truth, resuming."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training.heads.data import HeadPairs
from training.learning.augment import in_other_light
from training.stages.insets import Drawn, anchors_of, draw, fresh, inset_losses, made_up, train
from training.stages.refiner import fresh as fresh_refiner
from training.stages.refiner import loaded_refiner
from training.units import NAMES

SIZE = 128


@pytest.fixture(scope="module")
def refiner_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its motion is the discs' own: everything moves with headShiftX."""
    torch.manual_seed(0)
    refiner, path = fresh_refiner().requires_grad_(False), tmp_path_factory.mktemp("refiner") / "F.pt"
    refiner.maps.weight.zero_()
    refiner.maps.bias.view(-1, 2)[NAMES.index("headShiftX"), 0] = 0.3
    torch.save({"average": refiner.state_dict()}, path)
    return path


def options(refiner: Path, folder: Path, out: Path, **changes: object) -> argparse.Namespace:
    defaults = {
        "refiner": refiner, "data": [folder], "heldout": folder, "out": out, "size": SIZE, "minutes": 0.1,
        "anchor_minutes": 0.05, "critic_from": 0.4, "sources": 4, "drivings": 2, "portraits": 0.9, "rate": 1e-3,
        "threads": 1, "seed": 0,
    }  # fmt: skip
    return argparse.Namespace(**(defaults | changes))


def test_windows_show_the_truth_where_the_motion_takes_them(refiner_file: Path, discs: Path) -> None:
    """With the true motion, the warped source in a window is the driven frame in it."""
    pairs = HeadPairs([discs], SIZE)
    batch = pairs.pick(np.array([0, 8]), np.array([[1, 2], [9, 10]]))
    anchors = anchors_of(batch.tracks.source[::2], batch.places, pairs.groups)
    for drawn in draw(fresh().eval().requires_grad_(False), loaded_refiner(refiner_file), batch, anchors, coarse=False):
        assert drawn.truth.std() > 0.1  # the disc's edge is in it
        assert (drawn.seen[:, :3] - drawn.truth).abs().mean() < 0.02


def test_the_left_eye_of_a_mirrored_picture_was_the_right_one(discs: Path) -> None:
    pairs, flip = HeadPairs([discs], SIZE), torch.tensor([-1.0, 1.0])
    points = pairs.points[:4].float()
    before = anchors_of(points, pairs.places, pairs.groups)
    after = anchors_of(points * flip, pairs.places * torch.tensor([-1.0, 1.0, 1.0]), pairs.groups)
    torch.testing.assert_close(after, (before * flip)[:, [1, 0, 2]])
    assert (before[:, 0, 0] < before[:, 1, 0]).all()


def test_make_up_is_dark_and_around_the_eyes() -> None:
    rng, anchors = np.random.default_rng(0), torch.tensor([[[-0.3, -0.2], [0.3, -0.2], [0.0, 0.4]]]).expand(40, -1, -1)
    plain = torch.full((40, 3, 64, 64), 0.5)
    made = made_up(plain, anchors, rng)
    changed = (made != plain).flatten(1).any(1)
    assert 10 < changed.sum() < 30
    assert (made <= plain + 1e-6).all()
    assert made.min() < 0.0
    darker = (plain - made).mean((0, 1))
    assert darker[:40].mean() > 20 * darker[50:].mean()  # the mouth is at row 44
    torch.testing.assert_close(darker, darker.flip(-1), atol=1e-5, rtol=0)


def test_another_light_leaves_black_and_is_the_same_for_all_of_a_person(discs: Path) -> None:
    pairs = HeadPairs([discs], SIZE)
    batch = pairs.pick(np.array([0, 8]), np.array([[0, 0], [8, 8]]))
    black = replace(batch, source=batch.source.clone(), driving=batch.driving.clone())
    black.source[:, :, :4], black.driving[:, :, :4] = -1.0, -1.0
    anchors = anchors_of(black.tracks.source[::2], black.places, pairs.groups)
    lit = in_other_light(black, anchors, np.random.default_rng(1))
    assert lit.source[:, :, :4].max() < -0.9
    torch.testing.assert_close(lit.driving[::2], lit.source)
    torch.testing.assert_close(lit.driving[1::2], lit.source)
    assert (lit.source - black.source).abs().mean() > 0.01


def test_what_lies_over_little_is_told_what_to_draw_all_the_same() -> None:
    seen, truth = torch.zeros(1, 12, 16, 16), torch.full((1, 3, 16, 16), 0.5)
    inset, whole = torch.zeros(1, 4, 16, 16, requires_grad=True), torch.ones(1, 1, 16, 16)
    losses = inset_losses(Drawn(inset, seen, truth, whole))
    (losses["picture"] + losses["edges"]).backward()
    assert (inset.grad[:, :3].mean((0, 2, 3)) < 0).all()  # towards the truth, though alpha is 0
    assert inset_losses(Drawn(torch.cat([truth, whole], 1), seen, truth, whole))["picture"] == 0


def test_it_trains_measures_and_goes_on_where_it_stopped(refiner_file: Path, discs: Path, tmp_path: Path) -> None:
    out = tmp_path / "insets.pt"
    train(options(refiner_file, discs, out))
    first = torch.load(out, weights_only=True)
    train(options(refiner_file, discs, out))  # its time is used up
    again = torch.load(out, weights_only=True)
    assert again["step"] == first["step"] >= 3
    assert all(torch.equal(again["model"][name], tensor) for name, tensor in first["model"].items())
    train(options(refiner_file, discs, out, minutes=first["elapsed"] / 60 + 0.03))
    last = torch.load(out, weights_only=True)
    assert last["step"] > first["step"]
    assert not torch.equal(last["critics"]["0.layers.6.weight"], first["critics"]["0.layers.6.weight"])
    found = [name for name in first["model"] if name.startswith("anchors.")]
    assert all(torch.equal(last["model"][name], first["model"][name]) for name in found)  # learnt before
    lines = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert len(lines) == 3
    assert {"anchors", "mouth", "mouth_warped", "eyes", "eyes_warped"} < set(lines[0])
    assert out.with_suffix(".png").exists()
