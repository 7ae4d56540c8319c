"""Writing to a pipe that the other process may not read."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from inference.contract import protocol
from inference.contract.protocol import Message
from inference.pipe import PipeWriter
from tests.cli_material import ROOT

PATIENCE = 300.0  # seconds; only a failing test waits so long


class Reader:
    """The other process: it reads a piece for each `release` of `reads`."""

    def __init__(self) -> None:
        self.reads, self.got = threading.Semaphore(0), []

    def write(self, piece: bytes) -> None:
        assert self.reads.acquire(timeout=PATIENCE)
        self.got.append(piece)


@pytest.fixture
def reader() -> Reader:
    return Reader()


def test_pieces_arrive_in_order(reader):
    writer = PipeWriter(reader.write, pytest.fail, limit=0)
    reader.reads.release(4)
    writer.put(b"a", b"b")
    writer.put(b"c")
    assert writer.drain(PATIENCE)
    writer.put(b"d")
    assert writer.drain(PATIENCE)
    assert reader.got == [b"a", b"b", b"c", b"d"]


def test_a_reader_that_stops_is_not_waited_for(reader):
    writer = PipeWriter(reader.write, pytest.fail, limit=10)
    writer.put(bytes(11))
    writer.offer(b"left out")
    writer.put(b"kept", wait=False)
    assert not writer.drain(0.01)
    reader.reads.release(2)
    assert writer.drain(PATIENCE)
    assert reader.got == [bytes(11), b"kept"]


def test_a_put_over_the_limit_waits_until_something_is_read_or_the_writer_closes(reader):
    writer = PipeWriter(reader.write, pytest.fail, limit=10)
    writer.put(bytes(11))
    waiting = [threading.Thread(target=writer.put, args=(bytes(20),)) for _ in range(2)]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join(0.05)
    assert all(thread.is_alive() for thread in waiting)
    reader.reads.release()
    while all(thread.is_alive() for thread in waiting):
        waiting[0].join(0.01)
    assert any(thread.is_alive() for thread in waiting), "the second one exceeds the limit again"
    writer.close()
    for thread in waiting:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    reader.reads.release(2)
    assert writer.drain(PATIENCE)


def test_a_closed_pipe_ends_the_writing():
    failed: list[OSError] = []

    def write(piece: bytes) -> None:
        raise BrokenPipeError

    writer = PipeWriter(write, failed.append, limit=0)
    writer.put(b"a", b"b")
    assert writer.drain(PATIENCE)
    writer.put(b"c")
    assert writer.drain(0)
    assert isinstance(failed[0], BrokenPipeError)


@pytest.mark.slow
def test_a_worker_whose_answers_nobody_reads_ends_with_the_shutdown():
    command = [sys.executable, "-m", "inference", "worker", "--device", "cpu", "--threads", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert protocol.read(process.stdout).kind == "hello"
        for number in range(5000):  # the answers are more than a pipe holds
            protocol.write(process.stdin, Message("ping", number))
        protocol.write(process.stdin, Message("shutdown"))
        assert process.wait(PATIENCE) == 0
