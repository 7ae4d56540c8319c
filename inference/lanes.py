"""Computes batches in several threads, each of which uses one core.

On a busy machine this is much faster than several cores for one operator: after each of the several hundred operators
of a frame, all cores would wait for the one that another program occupies. Results do not depend on the number of
threads.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import chain, islice
from typing import TypeVar

import torch

MOST = 8  # lanes; each holds one batch of frames in memory
RETRY = 16  # tasks
A = TypeVar("A")
B = TypeVar("B")


class Lanes:
    """A pool of `count` threads. With one, everything is computed in the caller's thread."""

    def __init__(self, count: int) -> None:
        self.count = max(1, min(count, MOST))
        self._pool: ThreadPoolExecutor | None = None

    def map(self, work: Callable[[A], B], items: Iterable[A]) -> Generator[B]:
        """Yield `work(item)` of each item, in order. Results are computed ahead, at most one per thread and one more.

        An exception of `work` is raised in place of its result. When the iterator is closed, no further item is begun.
        """
        items = iter(items)
        first = list(islice(items, 2))
        with one_core_per_operator():
            if self.count == 1 or len(first) < 2:
                for item in chain(first, items):
                    yield work(item)
                return
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.count, "lane", _use_one_core)
            running: deque[Future[B]] = deque(self._pool.submit(work, item) for item in first)
            running.extend(self._pool.submit(work, item) for item in islice(items, self.count - 1))
            try:
                while running:
                    result = running.popleft().result()
                    running.extend(self._pool.submit(work, item) for item in islice(items, 1))
                    yield result
            finally:
                for future in running:
                    future.cancel()


def read_ahead(items: Iterable[A], count: int = 3) -> Generator[A]:
    """The items, in order, taken from their iterator by another thread, at most `count` before they are used.

    So that a clip is decoded on one core while its frames are searched on another. An exception of the iterator is
    raised in place of its item. When this is closed, no further item is taken.
    """
    waiting, end = iter(items), object()

    def following() -> A | object:
        return next(waiting, end)

    with ThreadPoolExecutor(1, "reader") as pool:
        taken = deque(pool.submit(following) for _ in range(count))
        try:
            while (item := taken.popleft().result()) is not end:
                taken.append(pool.submit(following))
                yield item  # type: ignore[misc]
        finally:
            for future in taken:
                future.cancel()


class FasterOf:
    """Runs single tasks with one core or with all for each operator, whichever was faster lately.

    All cores are faster for large operators on a quiet machine, one core beside other programs.
    """

    def __init__(self) -> None:
        self._seconds: dict[bool, float] = {}  # with one core or not
        self._tasks = 0

    def run(self, work: Callable[[], B]) -> B:
        """The result of `work`. One task in `RETRY` is run the slower way, to notice when that has changed."""
        one_core = self._choice()
        began = time.perf_counter()
        with one_core_per_operator() if one_core else nullcontext():
            result = work()
        seconds = time.perf_counter() - began
        self._seconds[one_core] = (self._seconds.get(one_core, seconds) + seconds) / 2
        self._tasks += 1
        return result

    def _choice(self) -> bool:
        if torch.get_num_threads() == 1 or not self._tasks:
            return True
        if len(self._seconds) < 2:
            return False
        faster = self._seconds[True] <= self._seconds[False]
        return faster if self._tasks % RETRY else not faster


_active = 0
_changing = threading.Lock()
_before = 1, 1


@contextmanager
def one_core_per_operator() -> Iterator[None]:
    """Within it, PyTorch and OpenCV compute each operator in the thread that calls it. May be nested."""
    global _active, _before
    cv2 = sys.modules.get("cv2")
    with _changing:
        _active += 1
        if _active == 1:
            _before = torch.get_num_threads(), cv2.getNumThreads() if cv2 else 1
        _use_one_core()
    try:
        yield
    finally:
        with _changing:
            _active -= 1
            if not _active:
                torch.set_num_threads(_before[0])
                if cv2:
                    cv2.setNumThreads(_before[1])


def _use_one_core() -> None:
    torch.set_num_threads(1)
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(1)
