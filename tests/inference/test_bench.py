"""The measurements of `bench --all`, on a tiny bank: that they add up, and leave the renderer and the machine alone."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.cli import bench_all, main
from inference.cli.bench import RandomBank, flops
from inference.contract.config import GeneratorConfig
from inference.contract.errors import EDTalkError
from inference.renderer import FaceRenderer

TINY = GeneratorConfig(32, 16, {4: 8, 8: 8, 16: 8, 32: 8}, (("lip", 2), ("pose", 2), ("exp", 2)))


@pytest.fixture(scope="module")
def renderer() -> FaceRenderer:
    renderer = FaceRenderer(RandomBank.of(TINY), "cpu")
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    renderer.set_source(image, image)
    return renderer


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((8, 6)).astype(np.float32)


def test_rates_are_relative_to_the_matrix_product_of_the_same_run(renderer: FaceRenderer, rows: np.ndarray) -> None:
    found = bench_all.rates(renderer, rows, 2)
    assert found["slowest"] <= found["frames_per_second"] <= found["fastest"]
    ratio = found["frames_per_second"] / found["matrix_gflops"]
    assert found["frames_per_second_per_gflops"] == pytest.approx(ratio)
    alone = bench_all.latencies(renderer, rows)
    assert 0 < alone["alone_ms_50"] <= alone["alone_ms_95"] <= alone["alone_ms_99"]


def test_stages_add_up_and_leave_the_renderer_as_it_was(renderer: FaceRenderer, rows: np.ndarray) -> None:
    before, lanes = list(renderer.render(rows)), renderer.lanes
    spent = bench_all.stages(renderer, rows)
    assert spent["generator"] > 0
    assert spent["refiner"] == 0, "the bank has none"
    assert renderer.lanes is lanes
    assert np.array_equal(list(renderer.render(rows)), before)
    assert bench_all.stages(renderer, rows).keys() == spent.keys(), "measured as before"


def test_a_card_without_cuda_is_explained_in_one_sentence() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    with pytest.raises(EDTalkError, match=r"'cuda' is not available\. PyTorch .* is installed, and .*\. Choose auto"):
        bench_all.run("cuda")


def test_a_card_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    told = SimpleNamespace(name="A card", total_memory=8 * 2**30, major=8, minor=6)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: told)
    found = bench_all.card(torch.device("cuda"))
    assert (found["name"], found["memory_mib"], found["compute_capability"]) == ("A card", 8192, "8.6")
    assert found.keys() >= {"driver", "cuda"}


def test_the_work_of_a_frame_is_that_of_all_networks(renderer: FaceRenderer, rows: np.ndarray) -> None:
    found = bench_all.work(renderer, rows)
    assert found["gflop_per_frame"] == flops(TINY)["decode"] / 1e9
    assert found["operators_per_frame"] > 10


def test_a_chart_needs_all_measurements(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--chart", str(tmp_path / "a.svg")]) == 2
    assert "--chart requires --all" in capsys.readouterr().err


def test_a_busy_loop_ends_with_its_block() -> None:
    with bench_all.busy_loop() as process:
        assert process.poll() is None
    assert process.poll() is not None


def test_the_chart_shows_every_size_and_stage() -> None:
    stages = {"generator": 3.0, "refiner": 5.0, "other <1 %": 0.5}
    text = bench_all.chart({"frames": {size: {"stages_ms_cpu": stages} for size in ("128", "512")}})
    written = [element.text for element in ElementTree.fromstring(text).iter() if element.text and element.text.strip()]
    assert {"128 px", "512 px", "8.5 ms", *stages} <= set(written)
