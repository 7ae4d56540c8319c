"""A table of figures with goals and baselines, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A figure. goal: as words. met: whether it is reached; None without a goal. others: baselines by name."""

    what: str
    value: str
    goal: str = ""
    met: bool | None = None
    others: tuple[tuple[str, str], ...] = ()

    def line(self) -> str:
        met = {True: "yes", False: "**no**", None: ""}[self.met]
        others = "; ".join(f"{name} {value}" for name, value in self.others)
        return f"| {self.what} | {self.value} | {others} | {self.goal} | {met} |"


def table(rows: Sequence[Row], value: str) -> str:
    """The rows as a table. value: heading of the column of values."""
    head = f"| figure | {value} | compare | goal | met |\n|---|---|---|---|---|"
    return "\n".join([head, *(row.line() for row in rows)])


def goals_met(rows: Sequence[Row]) -> str:
    """How many of the goals are met, as a sentence."""
    with_goal = [row for row in rows if row.met is not None]
    return f"{sum(bool(row.met) for row in with_goal)} of {len(with_goal)} goals are met."
