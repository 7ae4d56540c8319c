"""Keeps a graphics card busy: copies run beside the computation, and batches of one kind are recorded and replayed.

Nothing here depends on CUDA but `CudaQueue`, so the order of copies can be tested without a card.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

AHEAD = 1  # batches that are begun before the results of one are read
WARM_UP = 2  # batches of a kind that are drawn operator by operator before one is recorded
MOST_GRAPHS = 4  # recorded kinds of batches; each keeps its memory on the card
SHAPES = 8  # of results for which buffers are kept
T = TypeVar("T")
Work = Callable[[Tensor], list[Tensor]]


class Queue(Protocol):
    """The card's operations, which are carried out in order; methods return before they are done."""

    def memory(self, like: Tensor) -> Tensor:
        """Uninitialised memory of the CPU of that shape and type, from and to which the card can copy by itself."""
        ...

    def send(self, numbers: Tensor, to: Tensor | None = None) -> Tensor:
        """Copy a tensor of the CPU to the card, into `to` if it is given."""
        ...

    def fetch(self, found: Tensor, into: Tensor) -> Callable[[], None]:
        """Start to copy a contiguous result to the CPU. Returns a function that waits for the copy."""
        ...

    def record(self, work: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
        """Record the operations of `work`: a function that repeats them, and the results that it overwrites each time.

        Raises RuntimeError if they cannot be recorded.
        """
        ...


class CudaQueue:
    """The queue of one card. Results are copied in a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, torch.cuda.graph_pool_handle()
        self._side = torch.cuda.Stream(device)

    def memory(self, like: Tensor) -> Tensor:
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)

    def send(self, numbers: Tensor, to: Tensor | None = None) -> Tensor:
        pinned = numbers.pin_memory()  # PyTorch keeps it until the copy is done
        return pinned.to(self._device, non_blocking=True) if to is None else to.copy_(pinned, non_blocking=True)

    def fetch(self, found: Tensor, into: Tensor) -> Callable[[], None]:
        computed = torch.cuda.current_stream(self._device).record_event()
        with torch.cuda.stream(self._side):
            self._side.wait_event(computed)
            into.copy_(found, non_blocking=True)
            done = torch.cuda.Event(blocking=True)  # a thread that waits uses no processor time
            done.record(self._side)
        found.record_stream(self._side)
        return done.synchronize

    def record(self, work: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
        with torch.cuda.device(self._device):
            graph = torch.cuda.CUDAGraph()
            # Other threads of the worker may use the card meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                results = work()
        return graph.replay, results


class Card:
    """Draws batches on one card and brings their results to the CPU. Not thread-safe.

    graphs: record batches that are repeated; see `Graphs`.
    """

    def __init__(self, queue: Queue, graphs: bool = True) -> None:
        self._downloads, self.graphs = Downloads(queue), Graphs(queue, graphs)

    def begin(self, key: Hashable, work: Work, numbers: Tensor) -> Callable[[], list[np.ndarray]]:
        """Begin a batch. Returns a function that waits for its results. Arguments: see `Graphs.run`."""
        return self._downloads.begin(self.graphs.run(key, work, numbers))


class Downloads:
    """Brings results to the CPU through buffers that are used again after they have been read."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._free: OrderedDict[Hashable, list[Tensor]] = OrderedDict()

    def begin(self, results: Sequence[Tensor]) -> Callable[[], list[np.ndarray]]:
        """Begin to copy contiguous results. Returns a function that waits for them, to be called once."""
        fetching = []
        for found in results:
            free = self._buffers(found)
            buffer = free.pop() if free else self._queue.memory(found)
            fetching.append((buffer, free, self._queue.fetch(found, buffer)))

        def read() -> list[np.ndarray]:
            arrays = []
            for buffer, free, wait in fetching:
                wait()
                arrays.append(buffer.numpy().copy())  # the caller may keep it
                free.append(buffer)
            return arrays

        return read

    def _buffers(self, like: Tensor) -> list[Tensor]:
        """The free buffers of that shape and type."""
        key = tuple(like.shape), like.dtype
        free = self._free.setdefault(key, [])
        self._free.move_to_end(key)
        if len(self._free) > SHAPES:
            self._free.popitem(last=False)
        return free


@dataclass
class _Kind:
    """Batches that the same operators draw from the same tensors, except for their numbers."""

    work: Work  # it keeps these tensors, whose addresses are recorded, and whose identities are part of the key
    drawn: int = 0
    numbers: Tensor | None = None
    replay: Callable[[], None] | None = None
    results: Sequence[Tensor] = ()


class Graphs:
    """Records the several hundred operators of a batch, and repeats them in one call from then on (CUDA graphs).

    A kind of batch is recorded when it is drawn for the third time. If that fails, all are drawn operator by operator.
    """

    def __init__(self, queue: Queue, enabled: bool = True) -> None:
        self._queue, self.enabled = queue, enabled
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()

    def run(self, key: Hashable, work: Work, numbers: Tensor) -> list[Tensor]:
        """The results of `work(numbers)` on the card, contiguous tensors.

        key: equal for batches for which `work` applies the same operators to the same tensors; it may contain the `id`
        of objects that `work` refers to. None: do not record it. numbers: (N, m), on the CPU.
        """
        if not self.enabled or key is None:
            return work(self._queue.send(numbers))
        kind = self._kinds.setdefault(key, _Kind(work))
        self._kinds.move_to_end(key)
        while len(self._kinds) > MOST_GRAPHS:
            self._kinds.popitem(last=False)
        if kind.drawn < WARM_UP:
            kind.drawn += 1
            return work(self._queue.send(numbers))
        if kind.replay is None and not self._recorded(kind, numbers):
            return work(self._queue.send(numbers))
        assert kind.replay is not None
        self._queue.send(numbers, kind.numbers)
        kind.replay()
        return [result.clone() for result in kind.results]  # which the next replay overwrites

    def clear(self) -> None:
        """Free the memory of all recorded batches."""
        self._kinds.clear()

    def _recorded(self, kind: _Kind, numbers: Tensor) -> bool:
        """Record a kind of batch. False if that is not possible; nothing is recorded any more then."""
        work, given = kind.work, self._queue.send(numbers)
        kind.numbers = given
        try:
            kind.replay, kind.results = self._queue.record(lambda: work(given))
        except RuntimeError as error:
            logger.warning("CUDA graphs are not used, frames take longer: %s", str(error).splitlines()[0])
            self.enabled = False
            self.clear()
            return False
        return True


def ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """The items; each is yielded when `count` further ones, if there are as many, have been taken."""
    held: deque[T] = deque()
    for item in items:
        held.append(item)
        if len(held) > count:
            yield held.popleft()
    yield from held
