"""Starting from a bank: what a code moves, that the pictures stay those of the bank, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import Bank, load_bank, numbered_coefficients, save_bank
from inference.contract.config import GeneratorConfig
from inference.contract.errors import EDTalkError
from inference.model.generator import Generator
from training.footage.heads import HeadsAsFootage
from training.stages.footage import load_start_bank
from training.stages.footage_generator import anchored_latent, footage_config
from training.stages.generator import fresh
from training.stages.transfer import StartBank, code_directions, transfer

from .footage_material import write_faces

BANKS = (("lip", 4), ("pose", 3), ("exp", 2))


def saved(path: Path, config: GeneratorConfig) -> Bank:
    """A bank of random weights."""
    torch.manual_seed(0)
    state = {name: part.numpy() for name, part in Generator(config).state_dict().items()}
    return save_bank(Bank(path.stem, config, numbered_coefficients(config.banks)), state, path)


def test_a_code_moves_the_latent_as_the_bank_does(tmp_path: Path) -> None:
    footage, rng = HeadsAsFootage(write_faces(tmp_path, 6)), np.random.default_rng(0)
    saved(tmp_path / "start.safetensors", footage_config(32, BANKS))
    start = load_start_bank(str(tmp_path / "start.safetensors"), 32)
    assert isinstance(start, StartBank)
    codes = rng.standard_normal((len(footage), 26)).astype(np.float32)
    model, rows = fresh(footage_config(32)), np.arange(len(footage))
    transfer(model, start, footage, codes, np.random.default_rng(0))
    drive = code_directions(model, start, footage, rows, torch.from_numpy(codes) * 2.0)
    basis, theirs = model.basis(), start.model.dec.conv1.conv.modulation
    layer, style = model.dec.conv1.conv.modulation, torch.randn(1, len(basis))
    moved = torch.stack([(layer(style + column) - layer(style))[0] for column in basis.T], 1)
    wanted = theirs.weight @ drive * theirs.scale
    assert (moved - wanted).abs().max() < 1e-4 * max(1.0, wanted.abs().max().item())
    pose = slice(*[sum(count for _, count in BANKS[:upto]) for upto in (1, 2)])
    across = start.model.basis().T @ drive
    assert across[pose, :20].abs().max() < 1e-5, "lip codes use none of the bank's pose"
    pictures = footage.pictures(rows, 32)
    with torch.no_grad():
        style = layer(anchored_latent(model, model.enc(pictures)[0], torch.from_numpy(codes) * 2.0)).mean(0)
        bank = theirs(start.model.enc(pictures)[0]).mean(0)
    assert (style - bank).abs().max() < 1e-3 * bank.abs().max(), "on the average, pictures are drawn as by the bank"


def test_other_sizes_and_widths_are_named(tmp_path: Path) -> None:
    saved(tmp_path / "wide.safetensors", GeneratorConfig(32, 64, footage_config(32).channels, BANKS))
    with pytest.raises(EDTalkError, match=r"draws 128 px, but --size is 32"):
        load_start_bank("starter", 32)
    with pytest.raises(EDTalkError, match=r"wide.safetensors has layers of other widths .* 64 numbers, expected 160"):
        load_start_bank(str(tmp_path / "wide.safetensors"), 32)
    assert load_start_bank("none", 32) is None
    assert load_bank(tmp_path / "wide.safetensors").config.size == 32
