"""The client of the worker, with a fake worker that answers, crashes, hangs, floods and sends garbage."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from edtalk.edtalk_blender.engine.client import Client, EngineError, Limits, State
from edtalk.edtalk_blender.engine.process import Log, _Limits, environment
from edtalk.inference.contract import answers, protocol, requests
from edtalk.inference.contract.answers import Stopped
from edtalk.inference.contract.errors import EDTalkError
from edtalk.inference.contract.protocol import Message
from edtalk.inference.contract.requests import LipSync, Ping, Portrait, Preview, Release

ROOT = Path(__file__).parents[2]
FAKE = [sys.executable, str(ROOT / "tests" / "fake_worker.py")]
AT_ONCE = 60.0  # seconds; a call that waits for the worker that does not read takes 600
PATIENCE = 300.0  # seconds; only a failing test waits so long
PATIENT = Limits(start=PATIENCE, silent=PATIENCE, kill=PATIENCE, cancel=PATIENCE)

posix = pytest.mark.skipif(os.name == "nt", reason="signals")


@pytest.fixture
def start(tmp_path):
    """Creates clients of fake workers with these options, and shuts all down at the end."""
    clients = []

    def make(*options: object, limits: Limits = PATIENT, command: list[str] = FAKE) -> Client:
        beat = ["--beat", "0.05"] if command is FAKE else []
        words = [*command, *beat, *map(str, options)]
        clients.append(Client(words, cwd=tmp_path, log=tmp_path / "log" / "worker.log", limits=limits))
        return clients[-1]

    yield make
    for client in clients:
        client.shutdown(timeout=0.1)


def pump_until(client: Client, condition, seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"still waiting, {client.state}, {client.failure}, {client.log_tail[-5:]}"
        client.pump()
        time.sleep(0.005)


class Stills(requests.Render):
    """A render of `count` pictures without a shot, which only the fake worker knows."""

    def __init__(self, shot: Path, count: int) -> None:
        super().__init__(shot)
        object.__setattr__(self, "count", count)

    def to_message(self, job: int) -> Message:
        return Message(self.kind, job, {"shot": str(self.shot), "stills": self.count})


def render(client: Client, folder: Path, stills: int, on_event=None):
    return client.request(Stills(folder, stills), on_event)


def preview(picture: str = "a", value: int = 0) -> Preview:
    return Preview(None, picture, "none", np.full(36, value, np.float32))


def speech(samples: int) -> LipSync:
    return LipSync(None, 16_000, np.zeros(samples, np.float32), np.array([0.0, 0.04]))


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def seconds_of(call) -> float:
    before = time.monotonic()
    call()
    return time.monotonic() - before


# ------------------------------------------------------------------------------------------------ conversation


def test_a_job_from_request_to_result(start, tmp_path):
    client, events = start(), []
    assert client.state is State.STOPPED
    job = render(client, tmp_path / "frames", 3, events.append)
    assert client.state is State.STARTING
    assert events == []
    result = client.wait(job, PATIENCE)
    assert [event.kind for event in events] == ["accepted", *["frame_file", "progress"] * 3, "done"]
    assert [event.file for event in events if event.kind == "frame_file"] == ["0000.png", "0001.png", "0002.png"]
    assert result is job.result
    assert result.rendered == 3
    assert (job.progress.phase, job.progress.done, job.progress.total) == ("rendering", 3, 3)
    assert job.finished
    assert not job.cancelled
    assert job.error is None
    assert client.state is State.READY
    assert client.hello.engine == "fake"
    assert not client.pump()
    assert client.wait(render(client, tmp_path / "frames", 3), PATIENCE).reused == 3


def test_portrait_lip_sync_preview_and_release(start, tmp_path):
    client = start()
    (tmp_path / "me.png").touch()
    portrait = client.request(Portrait(None, tmp_path / "me.png", "auto"))
    lips = client.request(speech(1600))
    still = client.request(preview())
    release = client.request(Release())
    assert "jawOpen" in client.wait(portrait, PATIENCE).rest
    answer = client.wait(lips, PATIENCE)
    assert answer.rows.shape == (2, len(answer.names))
    assert client.wait(still, PATIENCE).pixels.shape == (16, 16, 3)
    assert client.wait(release, PATIENCE) == answers.Done()
    pump_until(client, lambda: client.beat)
    assert client.beat.memory > 0


def test_an_error_ends_the_job_but_not_the_worker(start, tmp_path):
    client, events = start(), []
    job = client.request(Portrait(None, tmp_path / "none.png", "auto"), events.append)
    with pytest.raises(EDTalkError, match=r"none\.png"):
        client.wait(job, PATIENCE)
    assert events[-1].kind == "error"
    assert job.finished
    assert isinstance(job.error, EDTalkError)
    assert client.state is State.READY


def test_wait_times_out_and_the_job_continues(start, tmp_path):
    client = start("--slow", 0.2)
    job = render(client, tmp_path / "frames", 2)
    with pytest.raises(EDTalkError) as caught:
        client.wait(job, 0.05)
    assert caught.value.kind == "timeout"
    assert client.wait(job, PATIENCE).rendered == 2


def test_a_request_that_is_too_large_is_refused(start, monkeypatch):
    client = start()
    monkeypatch.setattr(protocol, "MAX_PAYLOAD", 1000)
    with pytest.raises(EDTalkError, match="too large") as caught:
        client.request(speech(1000))
    assert "shorter parts" in caught.value.hint
    assert client.state is State.STOPPED
    assert not client.pump()


def test_no_call_waits_for_the_worker(start):
    """The worker reads nothing, and the messages are larger than the pipe's buffer."""
    client = start("--deaf", 600, limits=Limits(cancel=0.2))
    large = speech(2**20)
    took = [seconds_of(client.start)]
    pump_until(client, lambda: client.state is State.READY)
    jobs = []
    for _ in range(3):
        took.append(seconds_of(lambda: jobs.append(client.request(large))))
    for _ in range(50):
        took.append(seconds_of(client.pump))
    took += [seconds_of(job.cancel) for job in jobs]
    assert max(took) < AT_ONCE
    until = time.monotonic() + PATIENCE  # the first message blocks the pipe, so the worker is killed
    while not all(job.finished for job in jobs):
        assert time.monotonic() < until
        assert seconds_of(client.pump) < AT_ONCE
        time.sleep(0.01)
    assert all(job.cancelled for job in jobs)


def test_only_the_newest_unsent_preview_of_each_face_is_sent(start):
    client = start()
    seen = []
    jobs = [client.request(preview("a", index), seen.append) for index in range(20)]
    last = client.request(preview("b"))
    client.wait(jobs[-1], PATIENCE)
    client.wait(last, PATIENCE)
    assert all(job.cancelled and job.result == Stopped(superseded=True) for job in jobs[:-1])
    assert not jobs[-1].cancelled
    assert jobs[-1].result.pixels.any()
    assert len(seen) == 19 + 2  # 19 superseded; the last one accepted and done


# ------------------------------------------------------------------------------------------------ delivery


def test_events_are_delivered_only_by_pump_within_its_budget(start, tmp_path):
    client, events = start(), []
    job = render(client, tmp_path / "frames", 10, lambda event: (events.append(event), time.sleep(0.01)))
    pump_until(client, lambda: client.state is State.BUSY)
    time.sleep(0.2)  # time for messages to arrive
    before = len(events)
    time.sleep(0.05)
    assert len(events) == before
    client.pump(0.0)
    assert len(events) <= before + 1  # without a budget one event
    assert client.pump(0.02)
    assert len(events) <= before + 4
    client.wait(job, PATIENCE)
    assert len(events) == 22


def test_a_callback_that_raises_fails_only_its_job(start, tmp_path):
    client, good = start(), []

    def bad(event):
        if event.kind == "frame_file":
            raise RuntimeError("no such strip")

    first = render(client, tmp_path / "a", 5, bad)
    second = render(client, tmp_path / "b", 2, good.append)
    client.wait(second, PATIENCE)
    assert first.finished
    assert first.error.kind == "bug"
    assert "no such strip" in first.error.message
    assert [event.kind for event in good].count("frame_file") == 2
    assert client.state is State.READY


def test_a_callback_may_send_another_request(start, tmp_path):
    client, jobs = start(), []

    def again(event):
        if event.kind == "done" and len(jobs) < 3:
            jobs.append(render(client, tmp_path / str(len(jobs)), 1, again))

    again(type("Event", (), {"kind": "done"}))
    pump_until(client, lambda: len(jobs) == 3 and jobs[-1].finished)


def test_floods_of_output_neither_block_nor_accumulate(start, tmp_path):
    client = start("--flood-stdout", 3000, "--flood-stderr", 3 * 2**20, limits=Limits(messages=50, log_bytes=100_000))
    job = render(client, tmp_path / "frames", 2)
    pump_until(client, lambda: client.state is State.BUSY)
    time.sleep(0.3)
    assert len(client._worker._inbox) <= 50
    assert client.wait(job, PATIENCE).rendered == 2
    assert len(client.log_tail) <= 201
    assert sum(map(len, client.log_tail)) < 201 * 5000
    files = list((tmp_path / "log").iterdir())
    assert {file.name for file in files} == {"worker.log", "worker.log.1"}
    assert sum(file.stat().st_size for file in files) <= 200_000


# ------------------------------------------------------------------------------------------------ cancelling


def test_cancel_ends_a_job_and_keeps_the_worker(start, tmp_path):
    client = start("--slow", 0.05)
    job, other = render(client, tmp_path / "a", 1000), render(client, tmp_path / "b", 2)
    pump_until(client, lambda: job.progress.done >= 2)
    pid = client.hello.pid
    job.cancel()
    assert not job.finished
    result = client.wait(job, PATIENCE)
    assert job.cancelled
    assert 2 <= result.rendered < 1000
    assert client.wait(other, PATIENCE).rendered == 2
    assert client.hello.pid == pid
    job.cancel()  # of a finished job: no effect
    assert client.state is State.READY


def test_cancel_before_the_worker_has_started(start, tmp_path):
    client, events = start(), []
    job = render(client, tmp_path / "frames", 3, events.append)
    job.cancel()
    client.wait(job, PATIENCE)
    assert job.cancelled
    assert [event.kind for event in events] == ["done"]
    assert not (tmp_path / "frames").exists()


def test_a_worker_that_ignores_cancel_is_killed_without_counting_as_a_crash(start, tmp_path):
    client = start("--slow", 0.05, "--stubborn", limits=Limits(cancel=0.1))
    job = render(client, tmp_path / "a", 1000)
    pump_until(client, lambda: job.progress.done >= 1)
    pid = client.hello.pid
    job.cancel()
    client.wait(job, PATIENCE)
    assert job.cancelled
    assert client.failure is None
    assert client.state is State.STOPPED
    pump_until(client, lambda: not alive(pid))
    # The next request starts another worker; jobs that wait behind the cancelled one are not lost.
    job, other = render(client, tmp_path / "b", 1000), render(client, tmp_path / "c", 2)
    pump_until(client, lambda: job.progress.done >= 1)
    job.cancel()
    assert client.wait(other, PATIENCE).rendered == 2
    assert job.cancelled
    assert client.failure is None


def wait_for_unread(client: Client, kind: str) -> None:
    """Wait, without a pump, until the worker has sent an answer of this kind."""
    until = time.monotonic() + PATIENCE
    while not any(message.kind == kind for message in tuple(client._worker._inbox)):
        assert time.monotonic() < until
        time.sleep(0.005)


def test_the_error_of_a_cancelled_job_is_not_reported(start, tmp_path):
    """As of a render whose shot the next render has replaced while the worker read it."""
    client, events = start(), []
    job = client.request(Portrait(None, tmp_path / "gone.png", "none"), events.append)
    pump_until(client, lambda: client.hello)
    wait_for_unread(client, "error")
    job.cancel()
    assert client.wait(job, PATIENCE) == Stopped()
    assert job.cancelled
    assert job.error is None
    assert events[-1] == Stopped()


def test_a_worker_is_kept_if_its_answers_are_unread(start, tmp_path):
    """As where Blender redraws for seconds between two pumps, each of which reads one answer."""
    client = start(limits=Limits(cancel=0.05))
    job = render(client, tmp_path / "frames", 20)
    pump_until(client, lambda: client.hello)
    pid = client.hello.pid
    wait_for_unread(client, "done")
    job.cancel()
    while not job.finished:
        time.sleep(0.1)
        client.pump(0.0)
        assert client.state is not State.STOPPED
    assert job.result.rendered == 20
    assert client.hello.pid == pid


def test_cancelling_a_waiting_job_does_not_disturb_the_current_one(start, tmp_path):
    client = start("--slow", 0.5, limits=Limits(cancel=0.05))
    (tmp_path / "me.png").touch()
    first = client.request(Portrait(None, tmp_path / "me.png", "none"))
    second = render(client, tmp_path / "frames", 10)
    pump_until(client, lambda: first._begun)
    pid = client.hello.pid
    second.cancel()
    client.wait(second, PATIENCE)
    assert second.cancelled
    assert client.wait(first, PATIENCE).pixels.size
    assert client.hello.pid == pid


# ------------------------------------------------------------------------------------------------ deaths


def test_a_worker_that_crashes_once_is_restarted_and_its_render_continues(start, tmp_path):
    client = start("--once", tmp_path / "once", "--die-after", 3)
    events, frames = [], tmp_path / "frames"
    job = render(client, frames, 6, events.append)
    shown = client.request(preview())
    pump_until(client, lambda: client.failure)
    assert client.state is State.RESTARTING
    assert client.failure.kind == ("killed" if os.name == "posix" else "ended")
    result = client.wait(job, PATIENCE)
    assert (result.rendered, result.reused) == (3, 3)
    assert [event.kind for event in events].count("accepted") == 2
    assert len(list(frames.iterdir())) == 6
    assert client.failure is None
    assert client.state is State.READY
    client.wait(shown, PATIENCE)
    assert shown.cancelled  # a preview is not repeated
    assert any("killed" in line or "exit code" in line for line in client.log_tail)


@posix
def test_a_worker_killed_by_another_program(start):
    client = start(limits=Limits(restarts=0))
    client.start()
    pump_until(client, lambda: client.hello)
    os.kill(client.hello.pid, signal.SIGKILL)
    pump_until(client, lambda: client.state is State.FAILED)
    assert "killed" in client.failure.message
    assert client.failure.hint


def test_after_a_second_crash_only_start_restarts_the_worker(start, tmp_path):
    client = start("--die-after", 2)
    events = []
    jobs = [render(client, tmp_path / str(index), 50, events.append) for index in range(3)]
    pump_until(client, lambda: all(job.finished for job in jobs))
    assert client.state is State.FAILED
    assert [event.kind for event in events].count("error") == 3
    assert all(job.error.message == client.failure.message for job in jobs)
    assert len(list((tmp_path / "0").iterdir())) == 4  # finished frames are kept
    late = render(client, tmp_path / "late", 1)
    assert client.state is State.FAILED
    with pytest.raises(EDTalkError):
        client.wait(late, PATIENCE)
    client.start()
    assert client.state is State.STARTING
    assert client.wait(render(client, tmp_path / "new", 1), PATIENCE).rendered == 1


def test_a_worker_that_loads_a_cancelled_job_is_kept(start, tmp_path):
    client = start("--load", 1.0, limits=Limits(cancel=0.05))
    job, behind = render(client, tmp_path / "a", 1000), render(client, tmp_path / "b", 1000)
    pump_until(client, lambda: job.progress.phase == "loading")
    pid = client.hello.pid
    job.cancel()
    behind.cancel()
    pump_until(client, lambda: job.finished and behind.finished)
    assert job.cancelled
    assert behind.cancelled
    other = render(client, tmp_path / "c", 2)
    assert client.wait(other, PATIENCE).rendered == 2
    assert (client.hello.pid, client.failure) == (pid, None)
    assert not list((tmp_path / "a").glob("*.png"))


def test_a_cancelled_job_stays_cancelled_when_the_worker_crashes(start, tmp_path):
    client = start("--slow", 0.05, "--stubborn", "--die-after", 2, limits=Limits(cancel=10, restarts=0))
    job = render(client, tmp_path / "a", 50)
    pump_until(client, lambda: job.progress.done >= 1)
    job.cancel()
    client.wait(job, PATIENCE)
    assert job.cancelled
    assert client.state is State.FAILED


CRASH = ["--die-after", 0, "--die-with"]


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        pytest.param([*CRASH, "SEGV"], "crash", "segmentation fault", marks=posix),
        pytest.param([*CRASH, "ABRT"], "crash", "library", marks=posix),
        pytest.param([*CRASH, "TERM"], "killed", "another program", marks=posix),
        pytest.param([*CRASH, "KILL"], "killed", "out of memory", marks=posix),
        (
            [*CRASH, 1, "--say", "torch.OutOfMemoryError: CUDA out of memory. Tried"],
            "memory",
            "ran out of memory: torch",
        ),
        ([*CRASH, 7, "--say", "ValueError: no such thing"], "ended", "exit code 7: ValueError: no such thing."),
        ([*CRASH, 0], "ended", "exit code 0."),
        (["--garbage"], "garbage", "Hello, I am"),
        (["--close-stdout"], "ended", "stopped answering"),
        (["--hang-after", 0], "hung", "not answer for 0.5 s"),
    ],
    ids=["segv", "abort", "term", "kill", "memory", "error", "exit", "garbage", "closed", "hang"],
)
def test_every_kind_of_crash_has_a_message_and_a_hint(start, tmp_path, options, kind, words):
    client = start(*options, limits=Limits(restarts=0, kill=0.5 if "--hang-after" in options else PATIENCE))
    with pytest.raises(EDTalkError) as caught:
        client.wait(render(client, tmp_path / "frames", 5), PATIENCE)
    assert client.state is State.FAILED
    assert caught.value.kind == client.failure.kind == kind
    assert words in client.failure.message
    assert client.failure.hint
    assert isinstance(client.failure, EngineError)
    assert any("engine started" in line for line in client.failure.log_tail)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        (["--exit", 1], "start", "exit code 1: ModuleNotFoundError: No module named 'torch'."),
        (["--no-hello"], "late", "not answer within 0.5 s"),
        (["--wrong-protocol"], "version", "uses version 2 of the protocol, this extension version 1"),
        (["--complain"], "device", "There is no device 'cuda'."),
    ],
    ids=["torch", "silent", "version", "complaint"],
)
def test_a_worker_that_never_said_hello_is_not_restarted(start, tmp_path, options, kind, words):
    client = start(*options, limits=Limits(start=0.5 if "--no-hello" in options else PATIENCE))
    job = render(client, tmp_path / "frames", 5)
    pump_until(client, lambda: job.finished)
    assert client.state is State.FAILED
    assert client.failure.kind == kind
    assert words in client.failure.message
    assert client.failure.hint
    assert sum("engine started" in line for line in client.log_tail) == 1


def test_another_protocol_version_asks_for_an_update(start):
    client = start("--wrong-protocol")
    client.start()
    pump_until(client, lambda: client.failure)
    assert client.failure.hint.startswith("Update the engine")


@pytest.mark.parametrize("command", [["no/such/python", "-m", "inference"], [str(ROOT)]], ids=["missing", "folder"])
def test_a_program_that_cannot_be_started(start, command):
    client = start(command=command)
    job = client.request(Ping())
    with pytest.raises(EDTalkError, match="cannot be started") as caught:
        client.wait(job, PATIENCE)
    assert command[0] in caught.value.message
    assert client.state is State.FAILED


def test_a_program_that_is_not_a_worker(start):
    program = "import time; print('Python 3.11 says hello', flush=True); time.sleep(600)"
    client = start(command=[sys.executable, "-c", program])
    client.start()
    pump_until(client, lambda: client.failure)
    assert client.failure.kind == "garbage"
    assert "Python 3.11" in client.failure.message


def test_a_silent_worker_is_reported_before_it_is_killed(start, tmp_path):
    client = start("--hang-after", 1, limits=Limits(silent=0.2, kill=PATIENCE))
    job = render(client, tmp_path / "frames", 5)
    pump_until(client, lambda: client.state is State.SILENT)
    assert not job.finished
    assert client.pump()


def test_a_long_gap_between_pumps_is_not_silence_of_the_worker(start):
    client = start(limits=Limits(silent=0.3, kill=30.0))
    client.start()
    pump_until(client, lambda: client.hello)
    client._pumped -= 3600  # the computer slept for an hour
    client._worker.heard, client._heard = 0, 0
    client.pump()
    assert client.failure is None


# ------------------------------------------------------------------------------------------------ the end


def test_shutdown_ends_the_worker_and_every_job(start, tmp_path):
    client, events = start("--slow", 0.05), []
    job = render(client, tmp_path / "frames", 1000, events.append)
    pump_until(client, lambda: job.progress.done >= 1)
    pid = client.hello.pid
    client.shutdown()
    assert client.state is State.STOPPED
    assert not alive(pid)
    client.pump()
    assert job.finished
    assert job.cancelled
    assert events[-1].kind == "done"
    assert client.wait(render(client, tmp_path / "again", 1), PATIENCE).rendered == 1


def test_shutdown_kills_a_worker_that_does_not_read(start):
    client = start("--deaf", 600)
    client.start()
    pump_until(client, lambda: client.hello)
    pid = client.hello.pid
    client.request(speech(2**18))
    assert seconds_of(lambda: client.shutdown(timeout=0.2)) < AT_ONCE
    assert not alive(pid)


PARENT = f"""
import json, sys, time
sys.path.insert(0, {str(ROOT)!r})
from types import ModuleType
for name in ("edtalk", "edtalk.edtalk_blender"):
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [{str(ROOT)!r} + name.removeprefix("edtalk").replace(".", "/")]
from edtalk.edtalk_blender.engine.client import Client
from edtalk.inference.contract.protocol import Message
from edtalk.inference.contract.requests import Render
class Stills(Render):
    def to_message(self, job):
        return Message(self.kind, job, {{"shot": str(self.shot), "stills": 100000}})
client = Client({FAKE!r} + ["--slow", "0.05"])
job = client.request(Stills(sys.argv[1]))
while not job.progress.done:
    client.pump()
    time.sleep(0.01)
print(json.dumps(client.hello.pid), flush=True)
if sys.argv[2] == "wait":
    time.sleep(600)
"""


@pytest.mark.parametrize("end", ["exit", pytest.param("wait", marks=posix)], ids=["exit", "kill -9"])
def test_the_worker_ends_when_blender_exits_or_is_killed(tmp_path, end):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "frames"), end], stdout=subprocess.PIPE, cwd=tmp_path
    )
    try:
        pid = json.loads(parent.stdout.readline())
        if end == "wait":
            assert alive(pid)
            parent.kill()
        assert parent.wait(PATIENCE) == (0 if end == "exit" else -signal.SIGKILL)
    finally:
        parent.kill()
        parent.stdout.close()
    until = time.monotonic() + PATIENCE
    while alive(pid):
        assert time.monotonic() < until
        time.sleep(0.01)


# ------------------------------------------------------------------------------------------------ surroundings


def test_the_environment_has_no_variables_of_this_python(monkeypatch):
    foreign = {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PythonPath", "VIRTUAL_ENV", "LD_LIBRARY_PATH"}
    foreign |= {"LD_PRELOAD", "DYLD_LIBRARY_PATH", "PIP_TARGET", "PIP_CONSTRAINT", "pip_user"}
    kept = {"CUDA_VISIBLE_DEVICES", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT", "HTTPS_PROXY", "SSL_CERT_FILE"}
    for name in foreign | kept:
        monkeypatch.setenv(name, "x")
    made = environment({"EXTRA": "2"})
    assert not foreign & set(made)
    assert kept <= set(made)
    assert (made["EXTRA"], made["PYTHONNOUSERSITE"]) == ("2", "1")


def test_a_log_keeps_whole_lines_within_its_limits(tmp_path):
    log = Log(tmp_path / "a.log", lines=4, size=100)
    log.write(b"one\ntw")
    log.write(b"o\nthree\r 10%\r 20%\n\xff")
    assert log.tail == ("one", "two", " 20%", "\ufffd")
    log.note("a note")
    assert log.latest == ()
    assert log.last_line == ""
    log.write(b"\nlast words\n\n")
    assert log.last_line == "last words"
    for _ in range(50):
        log.write(b"0123456789" * 3 + b"\n")
    assert len(log.tail) == 4
    assert all(file.stat().st_size <= 100 for file in tmp_path.iterdir())
    log.write(b"x" * 10**6)
    assert sum(map(len, log.tail)) < 10_000
    assert all(file.stat().st_size <= 100 for file in tmp_path.iterdir())


def test_a_log_file_that_cannot_be_written_is_ignored(tmp_path):
    (tmp_path / "file").touch()
    log = Log(tmp_path / "file" / "a.log")
    log.write(b"one\n")
    assert log.tail == ("one",)


@pytest.mark.skipif(sys.maxsize < 2**32, reason="64 bits")
def test_the_structure_for_windows_has_the_right_size():
    import ctypes

    assert ctypes.sizeof(_Limits) == 144
    assert _Limits.flags.offset == 16
