"""Disk full, no permission, folder removed, memory refused, clock changed, two users of one folder."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from edtalk.edtalk_blender.engine.client import Client, Limits
from edtalk.inference.contract.requests import Render

from inference import drawing
from inference.contract.bank import load_bank
from inference.contract.errors import EDTalkError
from inference.media.picture import save_picture
from inference.media.video import read_frames
from inference.renderer import FaceRenderer
from tests.cli_material import ROOT, run
from tests.faults.conftest import (
    FRAMES,
    PATIENCE,
    check_can_go_on,
    check_frames,
    finished,
    group_is_gone,
    render,
    start,
    start_render,
)
from tests.synthetic_inputs import picture

DISK = 3  # exit code
posix = pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
COMMAND = [sys.executable, "-X", "utf8", "-m", "inference", "worker", "--device", "cpu", "--threads", "1"]


def files_of_at_most(size: int) -> Callable[[], None]:
    """For `preexec_fn`: a file that grows over `size` bytes fails as on a full disk."""

    def limit() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def without_override() -> None:
    """For `preexec_fn`: root, too, has to obey permissions (Linux)."""
    drop_bounding, override, read_search = 24, 1, 2
    for capability in (override, read_search):
        ctypes.CDLL(None).prctl(drop_bounding, capability, 0, 0, 0)


# ------------------------------------------------------------------------------------------------ disk


@posix
@pytest.mark.slow
def test_a_full_disk_ends_a_render_with_a_message(shot, frames, undisturbed):
    sizes = sorted(map(len, undisturbed.values()))
    process = start_render(shot, preexec_fn=files_of_at_most(sizes[len(sizes) // 2]))
    said = process.communicate(timeout=PATIENCE)[1].decode()
    assert process.returncode == DISK, said
    assert "could not be written" in said
    assert "Free some space" in said
    assert group_is_gone(process.pid)
    check_frames(frames, {}, undisturbed)
    assert [path for path in frames.iterdir() if path.name.startswith(".")] == []
    check_can_go_on(shot, frames, undisturbed)


@posix
@pytest.mark.slow
def test_a_full_disk_keeps_the_previous_clip(shot, frames, undisturbed, tmp_path):
    assert render(shot) == 0
    clips = tmp_path / "clips"
    clips.mkdir()
    assert run("shot", "encode", shot, "--out", clips / "clip.mp4", "--audio", "none") == 0
    previous = (clips / "clip.mp4").read_bytes()
    limit = files_of_at_most(len(previous) // 2)
    process = start("shot", "encode", shot, "--out", clips / "clip.mp4", "--overwrite", preexec_fn=limit)
    said = process.communicate(timeout=PATIENCE)[1].decode()
    assert process.returncode == DISK, said
    assert "clip.mp4 could not be written" in said
    assert [path.read_bytes() for path in clips.iterdir()] == [previous]
    assert len(list(read_frames(clips / "clip.mp4"))) == FRAMES


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities")
@pytest.mark.slow
def test_a_folder_without_permission_is_reported(shot, frames, undisturbed):
    frames.mkdir()
    names = list(undisturbed)[:5]
    for name in names:
        (frames / name).write_bytes(undisturbed[name])
    frames.chmod(0o555)
    try:
        process = start_render(shot, preexec_fn=without_override)
        said = process.communicate(timeout=PATIENCE)[1].decode()
    finally:
        frames.chmod(0o755)
    if process.returncode == 0 and os.geteuid() == 0:
        pytest.skip("this system lets root write everywhere")
    assert process.returncode == DISK, said
    assert "Permission denied" in said
    assert "write permission" in said
    assert set(finished(frames)) == set(names)
    check_can_go_on(shot, frames, undisturbed)


def test_a_folder_that_is_removed_during_a_render_is_reported(shot, frames, undisturbed, monkeypatch, capfd):
    def save_and_remove(path: Path, pixels: np.ndarray) -> None:
        save_picture(path, pixels)
        with suppress(FileNotFoundError):  # another thread has removed it meanwhile
            if len(finished(frames)) >= 5:
                frames.rename(frames.with_name("removed"))  # in one step, while other threads write into it

    monkeypatch.setattr(drawing, "save_picture", save_and_remove)
    assert render(shot) == DISK
    assert "could not be written: No such file" in capfd.readouterr().err
    assert not frames.exists()
    monkeypatch.undo()
    check_can_go_on(shot, frames, undisturbed)


# ------------------------------------------------------------------------------------------------ memory


def test_a_batch_is_halved_until_the_memory_suffices(inputs, monkeypatch, caplog):
    bank = load_bank(inputs / "bank.safetensors")
    rows = np.random.default_rng(0).standard_normal((13, len(bank.names))).astype(np.float32)
    renderer = FaceRenderer(bank, "cpu", batch=8)
    renderer.set_source(picture("memory", 64, 64))
    expected = np.stack(list(renderer.render(rows)))
    draw = renderer._draw

    def refuse(source: object, canvas: object, alpha: torch.Tensor) -> object:
        if len(alpha) > 2:
            raise torch.cuda.OutOfMemoryError("tried to allocate 5 GiB")
        return draw(source, canvas, alpha)

    monkeypatch.setattr(renderer, "_draw", refuse)
    found = np.stack(list(renderer.render(rows)))
    assert renderer.batch == 2
    assert "Too little memory for 8 frames" in caplog.text
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1  # kernels may round differently in another batch


def test_memory_that_does_not_suffice_for_one_frame_is_an_error(inputs, monkeypatch):
    bank = load_bank(inputs / "bank.safetensors")
    renderer = FaceRenderer(bank, "cpu", batch=4)
    renderer.set_source(picture("memory", 64, 64))

    def refuse(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("tried to allocate 5 GiB")

    monkeypatch.setattr(renderer, "_draw", refuse)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(renderer.render(np.zeros((3, len(bank.names)), np.float32)))


# ------------------------------------------------------------------------------------------------ clock and company


@pytest.mark.parametrize("jump", [-400 * 86400.0, 86400.0])
def test_a_jump_of_the_clock_loses_no_frame(shot, frames, undisturbed, monkeypatch, jump):
    real, count = time.time, [0]

    def save_and_jump(path: Path, pixels: np.ndarray) -> None:
        save_picture(path, pixels)
        count[0] += 1
        if count[0] == 5:
            monkeypatch.setattr(time, "time", lambda: real() + jump)

    monkeypatch.setattr(drawing, "save_picture", save_and_jump)
    assert render(shot) == 0
    assert finished(frames) == undisturbed
    check_can_go_on(shot, frames, undisturbed)


@pytest.mark.slow
def test_two_blenders_share_one_folder(shot, frames, undisturbed):
    limits = Limits(start=PATIENCE, silent=PATIENCE, kill=PATIENCE, cancel=PATIENCE)
    clients = [Client(COMMAND, cwd=ROOT, limits=limits) for _ in range(2)]
    jobs = [client.request(Render(shot)) for client in clients]
    try:
        until = time.monotonic() + PATIENCE
        while not all(job.finished for job in jobs):
            assert time.monotonic() < until
            for client in clients:
                client.pump(0.01)
        assert [job.error for job in jobs] == [None, None]
        assert all(job.result.rendered + job.result.reused == FRAMES for job in jobs)
    finally:
        for client in clients:
            client.shutdown(PATIENCE)
    check_frames(frames, undisturbed, undisturbed)
    check_can_go_on(shot, frames, undisturbed)


def test_one_blender_leaves_the_partial_files_of_another_alone(shot, frames, undisturbed):
    frames.mkdir()
    partial = frames / ".0123.01234567.partial.png"
    partial.write_bytes(b"half a picture")
    assert render(shot) == 0
    assert partial.exists()
    with pytest.raises(EDTalkError, match="could not be written"):
        save_picture(frames / "none" / "a.png", np.zeros((4, 4, 3), np.uint8))
    check_can_go_on(shot, frames, undisturbed)
