"""What Blender loads: panels, operators and properties around the character, and the client of the worker process."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

# In order of registration; each has register(), unregister() or both. Nothing is caught: a module that cannot be
# registered is an error to be seen here, not one to be met later somewhere else.
MODULES = (
    "character.properties",
    "character.character",
    "rig.rig",
    "naming.naming",
    "timeline.sequencer",
    "timeline.audio",
    "timeline.footage",
    "plate.dubbing",
    "engine.session",
    "capture.capture",
    "character.portrait",
    "preferences",
    "character.operators",
    "animation.posing",
    "animation.emotion",
    "lipsync.operators",
    "render.operators",
    "render.dub",
    "plate.operators",
    "render.farm",
    "follow",
    "engine.operators",
    "idle",
    "capture.operators",
    "capture.arkit_operators",
    "rig.operators",
    "naming.operators",
    "demo",
    "handlers",
    "render.preview",
    "panels.character",
    "panels.rig",
    "panels.naming",
    "panels.status",
    "panels.sequencer",
    "panels.farm",
    "panels.capture",
    "panels.plate",
    "panels.menus",
    "cli",
)


def modules() -> list[ModuleType]:
    """Imported when registered and not before: `core` is used without Blender too."""
    return [import_module(f".{name}", __package__) for name in MODULES]


def register() -> None:
    for module in modules():
        if hasattr(module, "register"):
            module.register()


def unregister() -> None:
    for module in reversed(modules()):
        if hasattr(module, "unregister"):
            module.unregister()
