"""The Blender add-on: properties, operators and panels of characters, and the client of the worker process."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

# In registration order. Each module has register(), unregister() or both. Errors are not caught: a module that fails
# to register must fail here, not later when it is used.
MODULES = (
    "translations.catalogue",
    "character.properties",
    "character.files",
    "character.sliders",
    "character.viewport",
    "character.character",
    "character.bank_paths",
    "rig.rig",
    "naming.naming",
    "timeline.sequencer",
    "timeline.audio",
    "timeline.footage",
    "timeline.operators",
    "plate.dubbing",
    "plate.compare",
    "engine.session",
    "capture.capture",
    "character.rest_pose",
    "preferences",
    "character.operators",
    "character.crop_operator",
    "animation.pose_operators",
    "animation.emotion_pictures",
    "animation.emotion_operators",
    "animation.pose_assets",
    "lipsync.markers",
    "lipsync.operators",
    "lipsync.spoken_text",
    "lipsync.speech_operators",
    "render.operators",
    "render.export",
    "render.arrangement",
    "render.relocation",
    "render.recovery",
    "render.outdated",
    "render.survey",
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
    "training.sheet",
    "training.trainings",
    "training.operators",
    "workspace.operators",
    "demo",
    "handlers",
    "render.preview",
    "panels.status",  # at the top of its tab: panels are shown in the order of registration
    "panels.help",
    "panels.training",
    "panels.character",
    "panels.rig",
    "panels.naming",
    "panels.sequencer",
    "panels.farm",
    "panels.capture",
    "panels.plate",
    "panels.menus",
    "shortcuts",
    "cli",
)


def modules() -> list[ModuleType]:
    """Import the modules at registration, because some modules of the package are also used without Blender."""
    return [import_module(f".{name}", __package__) for name in MODULES]


def register() -> None:
    from .translations.context import add_context

    for module in modules():
        add_context(module)
        if hasattr(module, "register"):
            module.register()


def unregister() -> None:
    for module in reversed(modules()):
        if hasattr(module, "unregister"):
            module.unregister()
