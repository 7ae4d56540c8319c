"""Stands in for Blender's layouts, so that panels can be drawn and looked at without a window."""

from __future__ import annotations

from types import SimpleNamespace

import bpy


class Layout:
    """Stands in for UILayout: checks that properties and operators exist, and keeps what was drawn."""

    def __init__(self, drawn: list[tuple[str, str]] | None = None, closed: tuple[str, ...] = ()) -> None:
        self.drawn = [] if drawn is None else drawn
        self.closed = closed

    def row(self, **_options) -> Layout:
        return Layout(self.drawn, self.closed)

    column = box = row

    def panel(self, idname: str, **_options) -> tuple[Layout, Layout | None]:
        return self.row(), None if idname in self.closed else self.row()

    def label(self, text: str = "", icon: str = "NONE") -> None:
        self.drawn.append(("label", text))

    def separator(self) -> None:
        pass

    def progress(self, factor: float = 0.0, text: str = "") -> None:
        assert 0 <= factor <= 1
        self.drawn.append(("progress", text))

    def menu(self, idname: str, text: str = "", icon: str = "NONE") -> None:
        assert hasattr(bpy.types, idname)
        self.drawn.append(("menu", idname))

    def prop(self, data, name: str, **_options) -> None:
        value = data.path_resolve(name) if name.startswith("[") else getattr(data, name)
        assert value is not Ellipsis
        self.drawn.append(("prop", name))

    def prop_search(self, data, name: str, where, collection: str, **_options) -> None:
        assert hasattr(where, collection)
        self.prop(data, name)

    def template_list(self, kind: str, _name: str, data, items: str, _owner, _active: str, **_options) -> None:
        assert hasattr(bpy.types, kind)
        self.drawn.append(("list", items))
        for item in getattr(data, items):
            getattr(bpy.types, kind).draw_item(None, bpy.context, self.row(), data, item, 0, data, "")

    def operator(self, idname: str, text: str | None = None, icon: str = "NONE") -> SimpleNamespace:
        module, name = idname.split(".")
        properties = getattr(getattr(bpy.ops, module), name).get_rna_type().properties
        self.drawn.append(("operator", idname))
        return _Properties(properties)

    def texts(self, kind: str) -> list[str]:
        return [text for what, text in self.drawn if what == kind]


class _Properties:
    def __init__(self, known) -> None:
        object.__setattr__(self, "known", known)

    def __setattr__(self, name: str, value: object) -> None:
        assert name in self.known
