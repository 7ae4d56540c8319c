"""Processes that are killed at random moments: no finished frame is lost, nothing is half-written, none is left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from edtalk.edtalk_blender.engine.client import Client, Limits, State
from edtalk.inference.contract.requests import Render

from inference.contract.shot import Shot
from inference.media.frames import encode
from inference.media.video import read_frames
from tests.cli_material import ROOT, run
from tests.faults.conftest import (
    FRAMES,
    PATIENCE,
    check_can_go_on,
    check_frames,
    finished,
    group_is_gone,
    is_running,
    kill,
    moments,
    start,
    start_render,
    tell,
    wait_until,
)

# ruff: noqa: B023 - `wait_until` calls its condition before the loop goes on

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="signals")]

COMMAND = [sys.executable, "-X", "utf8", "-m", "inference", "worker", "--device", "cpu", "--threads", "1"]
PATIENT = Limits(start=PATIENCE, silent=PATIENCE, kill=PATIENCE, cancel=PATIENCE)
# Blender: a process that has a worker render a shot, and waits for it.
OWNER = """
import sys, time, types
edtalk = sys.modules["edtalk"] = types.ModuleType("edtalk")
edtalk.__path__ = [sys.argv[1]]
from pathlib import Path
from edtalk.edtalk_blender.engine.client import Client
from edtalk.inference.contract.requests import Render
client = Client(sys.argv[3:], cwd=Path(sys.argv[1]))
client.request(Render(Path(sys.argv[2])))
while client.hello is None:
    client.pump(0.05)
print(client.hello.pid, flush=True)
while True:
    client.pump(0.05)
    time.sleep(0.01)
"""


def remove_half(folder: Path, undisturbed: dict[str, bytes]) -> None:
    """Have something to render again."""
    for name in list(undisturbed)[::2]:
        (folder / name).unlink(missing_ok=True)


def test_a_killed_render_loses_no_frame(shot, frames, undisturbed):
    struck = 0
    for moment in moments(seed=1):
        before = finished(frames)
        if len(before) == len(undisturbed):
            remove_half(frames, undisturbed)
            before = finished(frames)
        due = len(before) + moment * (len(undisturbed) - len(before))
        process = start_render(shot)
        wait_until(
            lambda due=due, p=process: len(finished(frames)) >= due or p.poll() is not None, "frames are written"
        )
        time.sleep(0.005 * moment)
        struck += kill(process)
        assert group_is_gone(process.pid)
        check_frames(frames, before, undisturbed)
        tell(f"render killed at {len(finished(frames))} of {len(undisturbed)} frames, begun with {len(before)}")
    tell(f"render: {struck} of {len(moments(1))} were killed while they ran")
    check_can_go_on(shot, frames, undisturbed)


def test_a_killed_encode_keeps_the_previous_clip(shot, frames, undisturbed, tmp_path):
    check_can_go_on(shot, frames, undisturbed)
    clips = tmp_path / "clips"
    clips.mkdir()
    clip = clips / "clip.mp4"

    def others() -> list[Path]:
        return [path for path in clips.iterdir() if path != clip]

    began = time.monotonic()
    encode(Shot.read(shot), clip, None, lambda: None)
    seconds, previous, struck = time.monotonic() - began, clip.read_bytes(), 0
    for moment in moments(seed=2):
        running, attempts = False, 0
        while not running and attempts < 8:  # a clip that was finished before the kill is written again
            process = start("shot", "encode", shot, "--out", clip, "--overwrite")
            wait_until(lambda: others() or process.poll() is not None, "the clip is being written")
            time.sleep(moment * seconds / 2**attempts)
            running, attempts = kill(process), attempts + 1
            assert group_is_gone(process.pid)
            if running:
                assert clip.read_bytes() == previous or len(list(read_frames(clip))) == FRAMES
            assert len(list(read_frames(clip))) == FRAMES
            previous = clip.read_bytes()
            left = others()
            assert all(path.name.startswith(".clip.") and ".partial" in path.name for path in left)
            for path in left:
                path.unlink()
        struck += running
        tell(f"encode killed in attempt {attempts}, running: {running}, left: {len(left)}")
    partial = clips / ".clip.01234567.partial.mp4"
    partial.write_bytes(b"left by a killed process")
    os.utime(partial, (0, 0))
    tell(f"encode: {struck} of {len(moments(2))} were killed while they ran")
    assert run("shot", "encode", shot, "--out", clip, "--overwrite") == 0
    assert list(clips.iterdir()) == [clip], "the partial clips of killed processes are removed"
    assert finished(frames) == undisturbed


def test_a_killed_worker_is_restarted_once_and_loses_no_frame(shot, frames, undisturbed, tmp_path):
    """The first kill costs time only; the second one within minutes ends the render with a message."""
    for number, moment in enumerate(moments(seed=3)):
        remove_half(frames, undisturbed)
        before = finished(frames)
        client = Client(COMMAND, cwd=ROOT, log=tmp_path / "worker.log", limits=PATIENT)
        job, killed, wanted = client.request(Render(shot)), [], 1 + number % 2
        until = time.monotonic() + 2 * PATIENCE
        due = len(before) + moment * (len(undisturbed) - len(before))
        while not job.finished:
            assert time.monotonic() < until
            client.pump(0.01)
            ready = client.hello is not None and client.hello.pid not in killed
            if ready and len(killed) < wanted and (len(finished(frames)) >= due or killed):
                killed.append(client.hello.pid)
                os.kill(client.hello.pid, 9)
            time.sleep(0.001)
        told = str(job.error or client.failure or "restarted")
        check_frames(frames, before, undisturbed)
        if len(killed) < 2:
            assert job.error is None
            assert finished(frames) == undisturbed
        elif job.error is not None:
            assert job.error.kind == "killed"
            assert "killed by the system" in told
            assert client.state is State.FAILED
            client.start()  # as the button Restart Engine does
            client.wait(client.request(Render(shot)), PATIENCE)
            assert finished(frames) == undisturbed
        last = client.hello.pid if client.hello else 0
        client.shutdown(PATIENCE)
        wait_until(lambda: not any(map(is_running, filter(None, (*killed, last)))), "all workers are gone")
        tell(f"worker killed {len(killed)} times from frame {due:.0f} of {len(undisturbed)}: {told}")
    check_can_go_on(shot, frames, undisturbed)


def test_the_worker_ends_with_a_killed_blender(shot, frames, undisturbed):
    for moment in moments(seed=4):
        remove_half(frames, undisturbed)
        before = finished(frames)
        command = [sys.executable, "-c", OWNER, str(ROOT), str(shot), *COMMAND]
        owner = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        worker = int(owner.stdout.readline())
        time.sleep(moment * 0.5)
        kill(owner)
        began = time.monotonic()
        wait_until(lambda: not is_running(worker), "the worker is gone")
        tell(f"worker gone {time.monotonic() - began:.2f} s after its Blender, {len(finished(frames))} frames")
        check_frames(frames, before, undisturbed)
    check_can_go_on(shot, frames, undisturbed)
