"""The size of the frames that `render` writes."""

from __future__ import annotations

import numpy as np

from tests.cli_material import run
from tests.inference.test_cli import read_png


def test_without_a_size_frames_have_512_pixels_with_detail(material, tmp_path):
    words = ["render", "--bank", material.bank, "--source", material.source, "--crop", "none", "--threads", 1,
             "--audio", material.voice, "--frames", "0-0", "--out"]  # fmt: skip
    assert run(*words, tmp_path / "default") == 0
    assert run(*words, tmp_path / "given", "--size", 512) == 0
    assert read_png(tmp_path / "default")[0].shape == (512, 512, 3)
    np.testing.assert_array_equal(read_png(tmp_path / "default")[0], read_png(tmp_path / "given")[0])
    for name, choice in (("native", ["--size", "native"]), ("plain", ["--plain"])):
        assert run(*words, tmp_path / name, *choice) == 0
        assert read_png(tmp_path / name)[0].shape == (64, 64, 3)
    assert run(*words, tmp_path / "whole", "--paste-back") == 0
    assert read_png(tmp_path / "whole")[0].shape == (64, 64, 3), "the size of the source"
