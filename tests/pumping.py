"""Waiting for the engine in Blender's tests, where no timer applies its results."""

import time
from collections.abc import Callable
from types import ModuleType

PATIENCE = 600.0  # seconds; only a failing test waits so long


def pump_until(package: ModuleType, condition: Callable[[], object]) -> None:
    """Apply the engine's results until a condition holds. package: the add-on. Fails after `PATIENCE`."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"still waiting for {[task.label for task in package.engine.session.tasks]}"
        package.engine.session.pump(0.01)
        time.sleep(0.002)
