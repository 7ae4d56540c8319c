"""Registering and unregistering the extension."""

import gc
import sys

import bpy
import pytest

EXTENSION = "bl_ext.user_default.edtalk"
HANDLERS = [name for name in dir(bpy.app.handlers) if isinstance(getattr(bpy.app.handlers, name), list)]


def registered() -> dict[str, list[str]]:
    """Everything that the extension has registered, by kind."""
    properties = [
        f"{owner.__name__}.{name}"
        for owner in (bpy.types.Object, bpy.types.Scene, bpy.types.WindowManager, bpy.types.Image)
        for name in owner.bl_rna.properties.keys()  # noqa: SIM118  a collection, not a dict
        if "edtalk" in name
    ]
    handlers = [
        f"{name}: {handler.__name__}"
        for name in HANDLERS
        for handler in getattr(bpy.app.handlers, name)
        if "edtalk" in handler.__module__
    ]
    menus = [f"{draw.__module__}.{draw.__name__}" for draw in bpy.types.VIEW3D_MT_add.draw._draw_funcs]
    classes = [name for name in dir(bpy.types) if name.startswith(("EDTALK_", "Character", "BankState"))]
    found = {"properties": properties, "handlers": handlers, "classes": classes, "operators": dir(bpy.ops.edtalk)}
    found["menus"] = [name for name in menus if "edtalk" in name]
    return {kind: sorted(names) for kind, names in found.items()}


def test_disabling_unregisters_everything(addon):
    before = registered()
    assert "Object.edtalk" in before["properties"]
    assert "EDTALK_PT_character" in before["classes"]
    assert "add_character" in before["operators"]
    bpy.ops.preferences.addon_disable(module=EXTENSION)
    gc.collect()
    try:
        assert all(names == [] for names in registered().values()), registered()
        assert [timer for timer in timers(addon) if bpy.app.timers.is_registered(timer)] == []
        assert addon.edtalk_blender.character.character.portrait_listeners == []
    finally:
        bpy.ops.preferences.addon_enable(module=EXTENSION)
    assert registered() == before


def timers(addon) -> list[object]:
    """Functions of the extension's modules that could be timers."""
    return [
        value
        for name, module in sys.modules.items()
        if name.startswith(f"{EXTENSION}.edtalk_blender") and module is not None
        for value in vars(module).values()
        if callable(value) and getattr(value, "__module__", "") == name and not isinstance(value, type)
    ]


def test_an_error_in_a_module_is_not_caught(addon, monkeypatch):
    package = addon.edtalk_blender
    bpy.ops.preferences.addon_disable(module=EXTENSION)
    monkeypatch.setattr(package.character.properties, "register", lambda: 1 / 0)
    try:
        with pytest.raises(ZeroDivisionError):
            package.register()
    finally:
        monkeypatch.undo()
        bpy.ops.preferences.addon_enable(module=EXTENSION)


def test_modules_are_unregistered_in_reverse_order(addon, monkeypatch):
    package, calls = addon.edtalk_blender, []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.register = lambda: calls.append(f"+{name}")
            self.unregister = lambda: calls.append(f"-{name}")

    monkeypatch.setattr(package, "modules", lambda: [Recorder("a"), Recorder("b")])
    package.register()
    package.unregister()
    assert calls == ["+a", "+b", "-b", "-a"]


def test_every_module_is_listed_once(addon):
    package = addon.edtalk_blender
    prefix = f"{package.__name__}."
    able = {
        name.removeprefix(prefix)
        for name, module in sys.modules.items()
        if name.startswith(prefix) and (hasattr(module, "register") or hasattr(module, "unregister"))
    }
    assert able == set(package.MODULES)
    assert len(package.MODULES) == len(set(package.MODULES))


def test_every_operator_and_panel_has_a_tooltip(addon):
    classes = [cls for module in addon.edtalk_blender.modules() for cls in getattr(module, "CLASSES", ())]
    assert len(classes) > 15
    assert [cls.__name__ for cls in classes if not cls.__doc__] == []
    operators = [cls for cls in classes if issubclass(cls, bpy.types.Operator)]
    assert [cls.__name__ for cls in operators if not cls.bl_idname.startswith("edtalk.")] == []
    assert [cls.__name__ for cls in operators if cls.__doc__.rstrip().endswith(".")] == [], "Blender adds the full stop"
    for cls in operators:
        properties = cls.bl_rna.properties
        undescribed = [entry.identifier for entry in properties if entry.identifier != "rna_type" and not entry.name]
        assert undescribed == [], cls.__name__
