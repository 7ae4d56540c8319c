"""Several batches at once: their order, errors and early ends, and the number of threads afterwards."""

from __future__ import annotations

import threading

import pytest

torch = pytest.importorskip("torch")

from inference import lanes
from inference.lanes import RETRY, FasterOf, Lanes, one_core_per_operator, read_ahead


@pytest.fixture(autouse=True)
def threads_restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("items", [0, 1, 2, 20])
def test_results_come_in_order(count: int, items: int) -> None:
    assert list(Lanes(count).map(lambda item: item * 2, range(items))) == [item * 2 for item in range(items)]


def test_items_are_computed_at_the_same_time_and_not_far_ahead() -> None:
    together, begun = threading.Barrier(3, timeout=60), []

    def work(item: int) -> int:
        begun.append(item)
        if item < 3:
            together.wait()  # passed only if three threads reach it
        return item

    results = Lanes(3).map(work, range(100))
    assert next(results) == 0
    assert max(begun) <= 4
    results.close()


def test_one_lane_does_not_take_items_far_ahead() -> None:
    """All pictures of a clip would not fit into memory, and progress would end before the work begins."""
    taken = iter(range(100))
    results = Lanes(1).map(lambda item: item, taken)
    assert next(results) == 0
    assert next(taken) == 2


def test_an_error_takes_the_place_of_its_result() -> None:
    results = Lanes(2).map(lambda item: 10 // (3 - item), range(6))
    assert [next(results) for _ in range(3)] == [3, 5, 10]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_operators_use_one_core_only_meanwhile() -> None:
    torch.set_num_threads(2)
    results = Lanes(2).map(lambda _: torch.get_num_threads(), range(4))
    assert next(results) == 1
    with one_core_per_operator():
        results.close()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_single_tasks_are_run_the_way_that_was_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    waits, chosen, clock = {1: 1.0, 2: 2.0}, [], [0.0]
    monkeypatch.setattr(lanes.time, "perf_counter", lambda: clock[0])

    def work() -> None:
        chosen.append(torch.get_num_threads())
        clock[0] += waits[chosen[-1]]

    faster = FasterOf()
    for _ in range(2 * RETRY):
        faster.run(work)
    assert chosen[:2] == [1, 2], "both are tried"
    assert chosen.count(2) == 2, "the slower one once in a while"
    waits.update({1: 3.0})
    for _ in range(4 * RETRY):
        faster.run(work)
    assert chosen[-RETRY // 2 :].count(2) >= RETRY // 2 - 1, "it is chosen when it has become faster"


@pytest.mark.parametrize("items", [0, 1, 20])
def test_items_are_read_ahead_in_order_by_another_thread(items: int) -> None:
    readers = []

    def counted():
        for item in range(items):
            readers.append(threading.current_thread())
            yield item

    assert list(read_ahead(counted())) == list(range(items))
    assert threading.current_thread() not in readers


def test_an_error_while_reading_ahead_comes_after_the_items_before_it() -> None:
    def failing():
        yield 1
        yield 2
        raise ValueError("damaged")

    read = read_ahead(failing())
    assert (next(read), next(read)) == (1, 2)
    with pytest.raises(ValueError, match="damaged"):
        next(read)


def test_reading_ahead_ends_when_it_is_closed() -> None:
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield taken[-1]

    read = read_ahead(endless(), 3)
    assert [next(read) for _ in range(5)] == [0, 1, 2, 3, 4]
    read.close()
    count = len(taken)
    assert count <= 5 + 3
    assert len(taken) == count  # the thread has ended, because closing waits for it
