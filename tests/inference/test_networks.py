"""The networks of a bank: described in its metadata or, in older banks, by its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import STARTER, Bank, Coefficient, load_bank, read_bank, save_bank
from inference.contract.errors import EDTalkError
from inference.model.load import (
    AUDIO2LIP,
    INSETS,
    READER,
    REFINER,
    RELATIVE_READER,
    load_network,
    load_networks,
    network_config,
    networks_json,
)
from inference.model.readers.absolute import PREFIX, Reader, ReaderConfig
from training.export import starter_bank
from training.stages.generator import fresh, small_config

NAMES = AUDIO2LIP, REFINER, INSETS, READER, RELATIVE_READER
DOCUMENT = Path(__file__).parents[2] / "docs" / "bank-format.md"


@pytest.fixture(scope="module")
def starter() -> Bank:
    return load_bank()


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    """Of a bank of 64 px with a reader."""
    torch.manual_seed(0)
    reader = Reader(ReaderConfig((8, 8, 8, 8), 16, 36)).state_dict().items()
    generator = fresh(small_config(64)).state_dict().items()
    named = {name: tensor.numpy() for name, tensor in generator}
    return named | {PREFIX + name: tensor.numpy() for name, tensor in reader}


def written(path: Path, tensors: Mapping[str, np.ndarray], networks: Any) -> Bank:
    save_bank(replace(starter_bank(small_config(64)), networks=networks), tensors, path)
    return load_bank(path)


def test_a_bank_without_the_entry_is_described_by_its_tensors(starter: Bank) -> None:
    older = replace(starter, networks=None)
    assert {name: network_config(older, name) for name in NAMES} == {
        name: network_config(starter, name) for name in NAMES
    }
    for name in NAMES:
        one, other = (load_network(bank, name).state_dict() for bank in (starter, older))
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_an_entry_comes_back_from_the_file(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    networks = networks_json(tensors)
    bank = written(tmp_path / "bank.safetensors", tensors, networks)
    assert set(networks) == {READER}
    assert network_config(bank, READER) == ReaderConfig((8, 8, 8, 8), 16, 36)
    assert network_config(bank, REFINER) is None
    silent = written(tmp_path / "none.safetensors", tensors, {})
    assert load_network(silent, READER) is None, "the entry decides, not the tensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 17}, "expected 'hidden.weight' of shape"),
        ({"hidden": "many"}, "sizes by name"),
        ({"hidden": 4097}, "sizes by name"),
        ({"channels": [8] * 20_000}, "sizes by name"),
        ({"channels": [8, 8, 8]}, "unknown tensor"),
        ({"channels": []}, "description is not valid|sizes are not valid"),
        ({"channels": 8}, "expected a list"),
        ({"outputs": 35}, "expected 36 coefficients, found 35"),
        ({"depth": 3}, "expected channels, hidden, outputs, found"),
    ],
)
def test_an_entry_that_does_not_fit_is_refused(
    tensors: dict[str, np.ndarray], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    networks = networks_json(tensors)
    networks[READER] |= change
    with pytest.raises(EDTalkError, match=message) as caught:
        load_networks(written(tmp_path / "bank.safetensors", tensors, networks), torch.device("cpu"))
    assert caught.value.kind == "bank"


def test_an_unknown_network_is_refused(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    bank = written(tmp_path / "bank.safetensors", tensors, networks_json(tensors) | {"painter2": {"width": 8}})
    with pytest.raises(EDTalkError, match="'painter2' that this version does not know") as caught:
        load_networks(bank, torch.device("cpu"))
    assert caught.value.hint == "Update the extension."


def test_a_surplus_tensor_is_refused(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    more = tensors | {f"{PREFIX}extra.weight": np.zeros(3, np.float32)}
    with pytest.raises(EDTalkError, match=r"unknown tensor 'extra\.weight'"):
        load_network(written(tmp_path / "bank.safetensors", more, networks_json(tensors)), READER)


def test_the_document_names_every_field() -> None:
    text, data = DOCUMENT.read_text(encoding="utf-8"), read_bank(STARTER).to_json()
    configs = [entry for network in data["networks"].values() for entry in nested(network)]
    named = [*data, *(field.name for field in fields(Coefficient)), *data["networks"], *configs]
    assert [name for name in named if f"`{name}`" not in text] == []


def nested(entry: Mapping[str, Any]) -> list[str]:
    return [key for name, part in entry.items() for key in (name, *(nested(part) if isinstance(part, Mapping) else ()))]
