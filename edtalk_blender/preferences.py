"""The add-on preferences: engine, device, folder of rendered frames, name of the sidebar tab."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty, IntProperty, StringProperty

from . import shortcuts
from .engine import engine, lock, session
from .engine import operators as buttons
from .engine.session import PACKAGE, Preferred
from .panels import capture, character, farm, messages, naming, plate, rig, sequencer, status, training
from .render import survey
from .render.cache_limit import Use
from .translations.context import CONTEXT

_PANELS = (status, training, character, rig, naming, sequencer, farm, capture, plate)  # in registration order

DEVICES = (
    ("auto", "Automatic", "Use a supported GPU if there is one, otherwise the CPU"),
    ("cpu", "CPU", "Use the CPU only"),
    ("cuda", "CUDA", "Use an NVIDIA GPU"),
    ("mps", "Metal", "Use the GPU of an Apple computer"),
)
BACKENDS = (
    ("auto", "Automatic", "Choose by the GPU of this computer"),
    ("cpu", "CPU", "Do not use a GPU. The smallest download"),
    (
        "cuda",
        "NVIDIA (CUDA)",
        "NVIDIA GPUs from GTX 16 and RTX 20 with a current driver. Falls back to the CPU",
    ),
    (
        "cuda-old",
        "Older NVIDIA (CUDA 12)",
        "NVIDIA GPUs from GTX 750 or 900, or drivers from version 525, with an older PyTorch. Falls back to the CPU",
    ),
    ("mps", "Apple (Metal)", "GPUs of Apple computers"),
    (
        "other",
        "Other GPU",
        "NVIDIA on Windows, AMD or Intel. PyTorch is downloaded from the PyTorch Index, without checksum verification",
    ),
)
_OFFERED = [item for item in BACKENDS if item[0] in ("auto", *lock.offered(session.ROOT))]


def _engine_changed(_preferences: EDTalkPreferences, _context: bpy.types.Context) -> None:
    session.restart()
    session.check_engine()


def _tab_changed(preferences: EDTalkPreferences, _context: bpy.types.Context) -> None:
    for cls in reversed(_tabbed()):
        bpy.utils.unregister_class(cls)
    _name_tabs(preferences.tab)
    for cls in _tabbed():
        bpy.utils.register_class(cls)


class EDTalkPreferences(bpy.types.AddonPreferences):
    bl_idname = PACKAGE

    python: StringProperty(
        name="Python",
        description="Python interpreter or environment folder that runs the engine. It needs Python 3.11 or newer and "
        "the engine's packages, such as PyTorch, which are checked. Empty: the installed engine",
        subtype="FILE_PATH",
        update=_engine_changed,
    )
    device: EnumProperty(
        name="Device",
        description="Processor that renders the faces. A change restarts the engine",
        items=DEVICES,
        update=_engine_changed,
    )
    threads: IntProperty(
        name="Threads",
        description="Number of CPU threads that the engine uses. 0: one per core",
        default=0,
        min=0,
        soft_max=32,
        max=1024,
        update=_engine_changed,
    )
    backend: EnumProperty(
        name="Install For",
        description="Hardware to install the engine for",
        items=_OFFERED,
    )
    mirror: StringProperty(
        name="Mirror",
        description="URL of a package index to download from instead of the default one, such as a studio mirror. "
        "Checksums are verified. Empty: the default index",
    )
    torch_index: StringProperty(
        name="PyTorch Index",
        description="URL of a package index with PyTorch for your GPU, from the PyTorch installation page. Required "
        "for Other GPU; for other choices it is an additional source. Empty: none",
    )
    yields: BoolProperty(
        name="Free Memory for Renders",
        description="Release the memory of an idle engine, including GPU memory, when Blender starts a render. The "
        "next preview takes a little longer",
    )
    cache: StringProperty(
        name="Frames",
        description="Folder for rendered frames. Empty: a folder next to each .blend file",
        subtype="DIR_PATH",
    )
    cache_limit: IntProperty(
        name="Limit (GB)",
        description="Size of the rendered frames in GB. After a render, frames above it that have not been used for a "
        "week are deleted, oldest first, also those of other .blend files in the folder, which must then be rendered "
        "again. Frames that a strip of the open file shows are kept. 0: nothing is deleted",
        default=0,
        min=0,
        soft_max=1000,
    )
    tab: StringProperty(
        name="Tab",
        description="Name of the tab in the sidebars of the 3D View and the Sequencer",
        default=messages.CATEGORY,
        update=_tab_changed,
    )

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        self._draw_engine(layout.box())
        column = layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(self, "device")
        column.prop(self, "threads")
        column.prop(self, "yields")
        column.prop(self, "cache")
        column.prop(self, "cache_limit")
        counted = survey.latest()
        if counted and (use := sum(counted.uses.values(), Use())).frames:
            row = column.row()
            row.label(text=f"This file: {use}")
            row.operator("edtalk.clear_cache", text="Purge Unused", icon="TRASH")
        column.prop(self, "tab")
        column.prop(self, "python")
        if session.find_engine().origin == "installed":
            self._draw_installation(layout)
        header, body = layout.panel("edtalk_banks", default_closed=True)
        header.label(text="Banks", text_ctxt=CONTEXT)
        if body is not None:
            training.draw_buttons(body.row(align=True))
            training.draw_trainings(body, context)
        header, body = layout.panel("edtalk_shortcuts", default_closed=True)
        header.label(text="Shortcuts", text_ctxt=CONTEXT)
        if body is not None:
            shortcuts.draw(body, context)

    def _draw_engine(self, box: bpy.types.UILayout) -> None:
        status.draw_engine(box.column(align=True))
        status.draw_problems(box)
        found = session.find_engine()
        if found.versions:
            box.label(text=found.versions, icon="BLANK1")
        if found.usable and found.origin == "installed":
            row = box.row(align=True)
            row.operator("edtalk.repair_engine", icon="FILE_REFRESH")
            row.operator(
                "edtalk.install_engine_from_folder", text="Repair from Folder", text_ctxt=CONTEXT, icon="FILE_FOLDER"
            )
            row.operator("edtalk.uninstall_engine", icon="TRASH")
        row = box.row(align=True)
        if found.usable:
            row.operator("edtalk.restart_engine", icon="PLAY")
        row.operator("edtalk.copy_report", icon="COPYDOWN")

    def _draw_installation(self, layout: bpy.types.UILayout) -> None:
        column = layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(self, "backend")
        column.prop(self, "mirror")
        column.prop(self, "torch_index")
        column = layout.column(align=True)
        found = buttons.suitable_backend() if self.backend == "auto" else None
        if found:
            column.label(text=found[1], icon="INFO")
        if session.find_engine().usable:  # otherwise `status.draw_engine` says it
            column.label(text=buttons.planned() or "Looking for a graphics card...", icon="BLANK1")
        kept = engine.downloaded(session.user_folder())
        if kept:
            row = layout.row(align=True)
            row.label(text=f"Downloads for repair and offline installation: {kept / 1e6:.0f} MB", icon="PACKAGE")
            row.operator("wm.path_open", text="", icon="FILE_FOLDER").filepath = str(
                session.user_folder() / engine.DOWNLOADS
            )
            row.operator("edtalk.remove_downloads", text="", icon="TRASH")


def preferences() -> EDTalkPreferences | None:
    """The add-on preferences; None if the extension is not enabled."""
    addon = bpy.context.preferences.addons.get(PACKAGE)
    return addon.preferences if addon else None


def _preferred() -> Preferred:
    found = preferences()
    if found is None:
        return Preferred()
    options: tuple[str, ...] = () if found.device == "auto" else ("--device", found.device)
    options += ("--threads", str(found.threads)) if found.threads else ()
    return Preferred(
        python=found.python,
        options=options,
        cache=found.cache,
        cache_limit=found.cache_limit,
        backend=found.backend,
        mirror=found.mirror,
        torch_index=found.torch_index,
        yields=found.yields,
    )


def _tabbed() -> list[type[bpy.types.Panel]]:
    """All panels in the tab."""
    classes = [cls for module in _PANELS for cls in module.CLASSES]
    return [cls for cls in classes if issubclass(cls, bpy.types.Panel) and hasattr(cls, "bl_category")]


def _name_tabs(name: str) -> None:
    for cls in _tabbed():
        cls.bl_category = name.strip() or messages.CATEGORY


def register() -> None:
    bpy.utils.register_class(EDTalkPreferences)
    session.preferred = _preferred
    found = preferences()
    if found is not None:
        _name_tabs(found.tab)  # before the panels are registered


def unregister() -> None:
    session.preferred = Preferred
    bpy.utils.unregister_class(EDTalkPreferences)
