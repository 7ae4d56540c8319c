"""A substitute for Blender's UILayout, to draw panels and menus without a window."""

from __future__ import annotations

from types import FunctionType, MethodType, SimpleNamespace

import bpy


def draw(cls: type[bpy.types.Panel] | type[bpy.types.Menu], closed: tuple[str, ...] = ()) -> Layout | None:
    """The layout after a panel or menu was drawn, or None if its `poll` hides it. closed: idnames of closed panels."""
    if hasattr(cls, "poll") and not cls.poll(bpy.context):
        return None
    panel = SimpleNamespace(layout=Layout(closed=closed))
    for name in dir(cls):
        method = getattr(cls, name)
        if isinstance(method, FunctionType):
            setattr(panel, name, MethodType(method, panel))
        elif name == "help_page":
            panel.help_page = method
    for name in ("draw_header", "draw_header_preset", "draw"):
        if hasattr(panel, name):
            getattr(panel, name)(bpy.context)
    return panel.layout


class Layout:
    """Records what is drawn, and checks that the properties, operators, menus and lists exist."""

    def __init__(self, drawn: list[tuple[str, str]] | None = None, closed: tuple[str, ...] = ()) -> None:
        self.drawn = [] if drawn is None else drawn
        self.closed = closed

    def row(self, **_options) -> Layout:
        return Layout(self.drawn, self.closed)

    column = box = split = row

    def panel(self, idname: str, **_options) -> tuple[Layout, Layout | None]:
        return self.row(), None if idname in self.closed else self.row()

    def label(self, text: str = "", icon: str = "NONE", **_options) -> None:
        self.drawn.append(("label", text))

    def separator(self) -> None:
        pass

    def progress(self, factor: float = 0.0, text: str = "") -> None:
        assert 0 <= factor <= 1
        self.drawn.append(("progress", text))

    def menu(self, idname: str, text: str = "", icon: str = "NONE", **_options) -> None:
        assert hasattr(bpy.types, idname)
        self.drawn.append(("menu", idname))

    def prop(self, data, name: str, **_options) -> None:
        value = data.path_resolve(name) if name.startswith("[") else getattr(data, name)
        assert value is not Ellipsis
        self.drawn.append(("prop", name))

    def prop_search(self, data, name: str, where, collection: str, **_options) -> None:
        assert hasattr(where, collection)
        self.prop(data, name)

    def template_icon(self, icon_value: int, scale: float = 1.0) -> None:
        assert scale > 0
        self.drawn.append(("icon", str(icon_value)))

    def template_icon_view(self, data, name: str, **_options) -> None:
        self.prop(data, name)

    def template_list(self, kind: str, _name: str, data, items: str, _owner, _active: str, **_options) -> None:
        assert hasattr(bpy.types, kind)
        self.drawn.append(("list", items))
        for item in getattr(data, items):
            getattr(bpy.types, kind).draw_item(None, bpy.context, self.row(), data, item, 0, data, "")

    def operator(self, idname: str, text: str | None = None, icon: str = "NONE", **_options) -> SimpleNamespace:
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
