"""The Flamenco job type: compiled as Flamenco Manager does, and the compiled tasks run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inference.contract.shot import Shot, parse_frame_ranges
from tests.cli_material import ROOT, media_lengths, run
from tests.farm.conftest import pictures

SCRIPT = ROOT / "inference" / "flamenco" / "edtalk_face.js"
NODE = shutil.which("node") or shutil.which("nodejs")
pytestmark = pytest.mark.skipif(NODE is None, reason="needs node, to run the job type")


def compiled(**settings: Any) -> dict[str, Any]:
    command = [NODE, ROOT / "tests" / "farm" / "flamenco.js", SCRIPT]
    answer = subprocess.run(
        command, input=json.dumps(settings), capture_output=True, text=True, timeout=300, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def words(task: dict[str, Any]) -> list[str]:
    (command,) = task["commands"]
    assert command["name"] == "exec"
    return [command["parameters"]["exe"], *command["parameters"]["args"]]


def test_settings_have_types_that_flamenco_supports():
    job_type = compiled(bundle="/job", frames="1")["type"]
    assert job_type["label"] == "EDTalk Face"
    keys = [setting["key"] for setting in job_type["settings"]]
    assert len(set(keys)) == len(keys)
    for setting in job_type["settings"]:
        assert setting["type"] in ("string", "int32", "float", "bool")
        assert setting["visible"] in ("visible", "submission", "web", "hidden")
        assert setting["description"]
        assert setting.get("required") or "default" in setting
        assert setting.get("subtype") in (None, "dir_path")
        assert "choices" not in setting or setting["default"] in setting["choices"]
        compile(setting.get("eval", "0"), setting["key"], "eval")


@pytest.mark.parametrize("frames", ["101-350", "7", "1-5", "1,2", "3, 5-10, 47-327", "10..20"])
@pytest.mark.parametrize("chunk", [1, 2, 50])
def test_tasks_cover_each_frame_once(frames, chunk):
    tasks = compiled(bundle="/job", frames=frames, chunk_size=chunk)["tasks"]
    *renders, encode = tasks
    ranges = [parse_frame_ranges(word.removeprefix("--frames=")) for task in renders for word in words(task)
             if word.startswith("--frames=")]  # fmt: skip
    assert len(ranges) == len(renders)
    assert all(len(one) <= chunk for one in ranges)
    assert [frame for one in ranges for frame in one] == parse_frame_ranges(frames.replace("..", "-"))
    assert encode["dependencies"] == [task["name"] for task in renders]
    assert len({task["name"] for task in tasks}) == len(tasks)


def test_without_clip_and_with_worker_tag():
    job = compiled(bundle="/job", frames="1-100", clip="", task_type="gpu")
    assert [task["type"] for task in job["tasks"]] == ["gpu", "gpu"]
    assert words(job["tasks"][0])[:5] == ["{edtalk_python}", "-X", "utf8", "{edtalk}/inference", "shot"]


def test_the_compiled_tasks_run(make_shot, tmp_path):
    shot = make_shot(12)
    assert run("shot", "bundle", shot, "--out", tmp_path / "job") == 0
    job = compiled(bundle=str(tmp_path / "job"), frames="101-112", chunk_size=5, clip="anna.mp4", device="cpu",
                   engine=sys.executable, engine_folder=str(ROOT))  # fmt: skip
    tasks = [words(task) for task in job["tasks"]]
    assert [task[0] for task in tasks] == [sys.executable] * 4
    assert [run(*task[4:], *(["--threads", 1] if task[5] == "render" else [])) for task in tasks] == [0] * 4
    assert set(pictures(tmp_path / "job" / "output" / "frames")) == set(Shot.read(shot).file_names())
    assert media_lengths(Path(tmp_path / "job" / "output" / "anna.mp4"))[0] == 12
