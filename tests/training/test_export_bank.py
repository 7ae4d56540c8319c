"""Banks put together from checkpoints, and from what another bank already knows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import (
    AUDIO_PREFIX,
    load_bank,
)
from training.export import (
    READING_PREFIX,
    main,
)
from training.stages.generator import (
    fresh,
    small_config,
)
from training.stages.reader import (
    CHANNELS,
    HIDDEN,
)
from training.stages.refiner import fresh as fresh_refiner
from training.units import NAMES


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """G.pt, A.safetensors, two refiners F.pt and F2.pt, and a reading S.pt, all of random weights."""
    from safetensors.numpy import save_file

    from inference.model.refiner import Reading

    torch.manual_seed(0)
    folder, model = tmp_path_factory.mktemp("checkpoints"), fresh(small_config(128))
    torch.save({"average": model.state_dict(), "config": json.dumps(model.config.to_json())}, folder / "G.pt")
    save_file({f"{AUDIO_PREFIX}any": np.ones(3, np.float32)}, folder / "A.safetensors")
    for name in ("F", "F2"):
        torch.save({"average": fresh_refiner().state_dict()}, folder / f"{name}.pt")
    torch.save({"average": Reading(CHANNELS, HIDDEN, len(NAMES)).state_dict()}, folder / "S.pt")
    return folder


def begun(folder: Path, *more: str) -> list[str]:
    return ["--generator", f"{folder}/G.pt", "--audio2lip", f"{folder}/A.safetensors", *more]


def test_a_refiner_trained_again_keeps_the_reading_of_its_bank(checkpoints: Path, tmp_path: Path) -> None:
    """Its trainer tells it what sources do, and leaves its reading as it was made: at random."""
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    main(
        begun(checkpoints, "--refiner", f"{checkpoints}/F.pt", "--reading", f"{checkpoints}/S.pt", "--out", str(first))
    )
    main(["--bank", str(first), "--refiner", f"{checkpoints}/F2.pt", "--out", str(second)])
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


def test_a_refiner_without_a_reading_is_refused(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bank.safetensors"
    with pytest.raises(SystemExit):
        main(begun(checkpoints, "--refiner", f"{checkpoints}/F.pt", "--out", str(out)))
    assert "--reading" in capsys.readouterr().err
    assert not out.exists()


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "bank.safetensors")])
    assert "--generator" in capsys.readouterr().err
