"""The pure parts of `tests/scale`: the simulated farm and the charts."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest

from tests.scale.charts import Chart, svg
from tests.scale.farm import Cost, makespan, shot_lengths, total

COST = Cost(start=3.0, frame=0.1, encode_start=1.0, encode_frame=0.01)
SHOTS = shot_lengths(60)


def test_one_machine_takes_the_time_of_all_tasks() -> None:
    assert makespan([25, 60], 1, 50, COST) == pytest.approx(3 * 3.0 + 85 * 0.1 + 2 * 1.0 + 85 * 0.01)
    assert makespan(SHOTS, 1, 50, COST) == pytest.approx(total(SHOTS, 50, COST))


def test_encoding_waits_for_the_last_frame() -> None:
    assert makespan([100], 9, 50, COST) == pytest.approx(COST.render(50) + COST.encode(100))


@pytest.mark.parametrize("machines", [2, 7, 60, 1000])
def test_a_farm_is_between_the_ideal_and_grahams_bound(machines: int) -> None:
    """The bound of list scheduling: the work divided by the machines, and the longest chain of tasks."""
    chain = COST.render(50) + COST.encode(max(SHOTS))
    ideal, span = total(SHOTS, 50, COST) / machines, makespan(SHOTS, machines, 50, COST)
    assert ideal - 1e-6 <= span <= ideal + chain + 1e-6


def test_a_chart_shows_each_line_where_more_is_higher() -> None:
    line = [(10.0, 0.2), (100.0, 3.0), (1000.0, 40.0)]
    text = svg([Chart("Cost <s>", "frames", "s", {"a": line, "b": [(x, 2 * y) for x, y in line]})] * 3)
    root = ElementTree.fromstring(text)
    assert {"Cost <s>", "frames", "s", "a", "b"} <= {element.text for element in root.iter()}
    for drawn in (one.get("points", "").split() for one in root.iter() if one.tag.endswith("polyline")):
        points = [tuple(map(float, point.split(","))) for point in drawn]
        assert len(points) == len(line)
        assert all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(points)), "y points down"
