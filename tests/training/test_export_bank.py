"""Banks assembled from checkpoints and from parts of another bank."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import (
    AUDIO_PREFIX,
    STARTER,
    load_bank,
)
from inference.model.audio2lip import Audio2Lip, Audio2LipConfig
from training.__main__ import main as command
from training.export import READING_PREFIX
from training.stages.generator import (
    fresh,
    small_config,
)
from training.stages.reader import CONFIG
from training.stages.refiner import fresh as fresh_refiner


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """G.pt, A.safetensors, two refiners F.pt and F2.pt, and a reading S.pt, all of random weights."""
    from safetensors.numpy import save_file

    from inference.model.refiner import Reading

    torch.manual_seed(0)
    folder, model = tmp_path_factory.mktemp("checkpoints"), fresh(small_config(128))
    torch.save({"average": model.state_dict(), "config": json.dumps(model.config.to_json())}, folder / "G.pt")
    voice = Audio2Lip(Audio2LipConfig((4, 4, 8, 8, 8))).state_dict().items()
    save_file({f"{AUDIO_PREFIX}{name}": part.numpy() for name, part in voice}, folder / "A.safetensors")
    for name in ("F", "F2"):
        torch.save({"average": fresh_refiner().state_dict()}, folder / f"{name}.pt")
    torch.save({"average": Reading(CONFIG).state_dict()}, folder / "S.pt")
    return folder


def new_bank(folder: Path, *more: str) -> list[str]:
    return ["export", "--generator", f"{folder}/G.pt", "--audio2lip", f"{folder}/A.safetensors", *more]


def test_a_refiner_trained_again_keeps_the_reading_of_its_bank(checkpoints: Path, tmp_path: Path) -> None:
    """The refiner stage does not train its reading, whose weights in the checkpoint are random."""
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    parts = "--refiner", f"{checkpoints}/F.pt", "--reading", f"{checkpoints}/S.pt"
    command(new_bank(checkpoints, *parts, "--out", str(first)))
    command(["export", "--bank", str(first), "--refiner", f"{checkpoints}/F2.pt", "--out", str(second)])
    before, after = load_bank(first).tensors, load_bank(second).tensors
    assert set(before) == set(after)
    seen = torch.load(checkpoints / "S.pt", weights_only=True)["average"]
    moved = torch.load(checkpoints / "F2.pt", weights_only=True)["average"]
    for name, part in seen.items():
        np.testing.assert_array_equal(after[READING_PREFIX + name], part.half().numpy())
    np.testing.assert_array_equal(after["refiner.maps.weight"], moved["maps.weight"].half().numpy())
    assert not np.array_equal(before["refiner.maps.weight"], after["refiner.maps.weight"])
    same = [name for name in before if not name.startswith("refiner.")]
    assert all(np.array_equal(before[name], after[name]) for name in same)
    assert all(part.dtype.kind != "f" or part.dtype == np.float16 for part in after.values())


def test_the_speech_level_comes_with_the_audio_network(checkpoints: Path, tmp_path: Path) -> None:
    """A bank without it hears sounds as they are; one made from it keeps it with the network."""
    plain, levelled, again, back = (tmp_path / f"{name}.safetensors" for name in ("plain", "levelled", "again", "back"))
    voice = Audio2Lip(Audio2LipConfig((4, 4, 8, 8, 8))).state_dict()
    torch.save({"average": voice, "speech_level": -22.0}, tmp_path / "A.pt")
    command(new_bank(checkpoints, "--out", str(plain)))
    command(["export", "--bank", str(plain), "--audio2lip", str(tmp_path / "A.pt"), "--out", str(levelled)])
    command(["export", "--bank", str(levelled), "--out", str(again)])
    command(["export", "--bank", str(levelled), "--audio2lip", str(plain), "--out", str(back)])
    assert [load_bank(path).speech_level for path in (plain, levelled, again, back)] == [None, -22.0, -22.0, None]


def test_a_refiner_without_a_reading_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    out = tmp_path / "bank.safetensors"
    with pytest.raises(SystemExit, match="--reading"):
        command(new_bank(checkpoints, "--refiner", f"{checkpoints}/F.pt", "--out", str(out)))
    assert not out.exists()


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--generator"):
        command(["export", "--out", str(tmp_path / "bank.safetensors")])


def test_neutral_can_be_made_likelier(tmp_path: Path) -> None:
    out = tmp_path / "bank.safetensors"
    command(
        ["export", "--bank", str(STARTER), "--audio2expression", str(STARTER), "--neutral", "0.5", "--out", str(out)]
    )
    name = "audio2expression.kinds.bias"
    change = load_bank(out).tensors[name] - load_bank(STARTER).tensors[name]
    np.testing.assert_allclose(change.astype(np.float32), [*[0.0] * 7, 0.5], atol=1e-3)
