"""The translation context of all labels.

Blender translates labels of extensions with its own dictionary: "Face" would become the face of a mesh, "Speaker" a
loudspeaker. Labels with a context of their own are translated by this extension only.
"""

from __future__ import annotations

import inspect
import re
import sys
from types import ModuleType
from typing import Any

import bpy

CONTEXT = "EDTalk"


def add_context(module: ModuleType) -> None:
    """Give the context to the classes of a module and to their properties, before they are registered."""
    for cls in list(vars(module).values()):
        if isinstance(cls, type) and issubclass(cls, bpy.types.bpy_struct) and cls.__module__ == module.__name__:
            cls.bl_translation_context = CONTEXT  # type: ignore[attr-defined]
            for part in cls.__mro__:
                if part.__module__.startswith(module.__name__.split(".edtalk_blender.")[0]):
                    _add_to_properties(part)


def _add_to_properties(cls: type) -> None:
    """Evaluate annotations such as `FloatProperty(...)`, which are strings until Blender registers the class."""
    annotations: dict[str, Any] = inspect.get_annotations(cls)
    for name, value in annotations.items():
        if isinstance(value, str) and re.match(r"\w+Property\(", value):
            annotations[name] = value = eval(value, vars(sys.modules[cls.__module__]), dict(vars(cls)))
        if hasattr(value, "keywords"):
            value.keywords.setdefault("translation_context", CONTEXT)
    if annotations:
        cls.__annotations__ = annotations


def translated(text: str) -> str:
    """The text in Blender's language, if this extension has a translation."""
    return str(bpy.app.translations.pgettext_iface(text, CONTEXT))
