"""The add-on's preferences: which engine, on which device, where frames go, what the tab is called."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty, IntProperty, StringProperty

from .engine import engine, lock, session
from .engine import operators as buttons
from .engine.engine import State
from .engine.session import PACKAGE, Preferred
from .panels import character as character_panels
from .panels import messages
from .panels import sequencer as sequencer_panels
from .panels import status as status_panels

DEVICES = (
    ("auto", "Automatic", "A graphics card if it can be used, else the processor"),
    ("cpu", "Processor", "The processor alone"),
    ("cuda", "Graphics Card (CUDA)", "An NVIDIA graphics card"),
    ("mps", "Graphics (Apple)", "The graphics of an Apple computer"),
)
BACKENDS = (
    ("auto", "Automatic", "What suits this computer's graphics card"),
    ("cpu", "Processor", "No graphics card is used; the smallest download"),
    ("cuda", "NVIDIA (CUDA)", "NVIDIA cards since the GTX 16 and RTX 20, with a current driver; works without"),
    (
        "cuda-old",
        "Older NVIDIA (CUDA 12)",
        "NVIDIA cards since the GTX 750 or 900, or drivers since 525, with an older torch; works without a card too",
    ),
    ("mps", "Apple", "The graphics of Apple computers"),
    (
        "other",
        "Other Graphics Card",
        "NVIDIA on Windows, AMD, Intel: torch comes from the Torch Index, its checksum unknown",
    ),
)
_OFFERED = [item for item in BACKENDS if item[0] in ("auto", *lock.offered(session.ROOT))]


def _engine_changed(_preferences: EDTalkPreferences, _context: bpy.types.Context) -> None:
    session.restart()
    session.forget_engine()


def _tab_changed(preferences: EDTalkPreferences, _context: bpy.types.Context) -> None:
    for cls in _tabbed():
        bpy.utils.unregister_class(cls)
    _name_tabs(preferences.tab)
    for cls in _tabbed():
        bpy.utils.register_class(cls)


class EDTalkPreferences(bpy.types.AddonPreferences):
    bl_idname = PACKAGE

    python: StringProperty(
        name="Python",
        description="Interpreter or folder of an environment for the engine to run in. Empty: the installed engine",
        subtype="FILE_PATH",
        update=_engine_changed,
    )
    device: EnumProperty(name="Device", description="What draws the faces", items=DEVICES, update=_engine_changed)
    threads: IntProperty(
        name="Threads",
        description="Processor threads that the engine uses. 0: as many as there are cores",
        default=0,
        min=0,
        soft_max=32,
        max=1024,
        update=_engine_changed,
    )
    backend: EnumProperty(
        name="Install for",
        description="What the engine is installed for",
        items=_OFFERED,
    )
    mirror: StringProperty(
        name="Mirror",
        description="Address of a package index to download from instead of the usual one, for example your studio's. "
        "What comes from it is checked all the same. Empty: the usual one",
    )
    torch_index: StringProperty(
        name="Torch Index",
        description="Address of a package index that has PyTorch for your graphics card, as the installation page of "
        "PyTorch names it. Needed for Other Graphics Card; else it is asked besides the usual one. Empty: none",
    )
    yields: BoolProperty(
        name="Free Memory for Renders",
        description="Have an idle engine give its memory, the graphics card's above all, back when Blender begins to "
        "render. The next preview after it takes a little longer",
    )
    cache: StringProperty(
        name="Frames",
        description="Folder for rendered frames. Empty: a folder beside each .blend, which may move with it",
        subtype="DIR_PATH",
    )
    tab: StringProperty(
        name="Tab",
        description="Name of the tab in the sidebars",
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
        column.prop(self, "tab")
        column.prop(self, "python")
        if session.find_engine().origin == "installed":
            self._draw_installation(layout)

    def _draw_engine(self, box: bpy.types.UILayout) -> None:
        status_panels.draw_engine(box.column(align=True))
        found = session.find_engine()
        row = box.row(align=True)
        if found.state is State.MISSING:
            row.operator("edtalk.install_engine", icon="IMPORT")
            row.operator("edtalk.install_engine_from_folder", icon="FILE_FOLDER")
        else:
            row.operator("edtalk.repair_engine", icon="FILE_REFRESH")
            row.operator("edtalk.install_engine_from_folder", text="Repair from Folder", icon="FILE_FOLDER")
            row.operator("edtalk.uninstall_engine", icon="TRASH")
        row = box.row(align=True)
        row.operator("edtalk.restart_engine", icon="PLAY")
        row.operator("edtalk.copy_report", icon="COPYDOWN")
        if not bpy.app.online_access and buttons.installation() is None and not found.usable:
            box.label(text="Online Access is off in Preferences > System.", icon="INFO")

    def _draw_installation(self, layout: bpy.types.UILayout) -> None:
        column = layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(self, "backend")
        column.prop(self, "mirror")
        column.prop(self, "torch_index")
        column = layout.column(align=True)
        suited = buttons.suited() if self.backend == "auto" else None
        column.label(text=suited[1] if suited else "", icon="INFO")
        column.label(text=buttons.planned() or "Looking for a graphics card...", icon="BLANK1")
        kept = engine.downloaded(session.user_folder())
        if kept:
            row = layout.row(align=True)
            row.label(text=f"Downloads kept for repairs and other computers: {kept / 1e6:.0f} MB", icon="PACKAGE")
            row.operator("wm.path_open", text="", icon="FILE_FOLDER").filepath = str(
                session.user_folder() / engine.DOWNLOADS
            )
            row.operator("edtalk.remove_downloads", text="", icon="TRASH")


def preferences() -> EDTalkPreferences | None:
    """What the artist has set; None while the extension is not enabled in the preferences."""
    addon = bpy.context.preferences.addons.get(PACKAGE)
    return addon.preferences if addon else None


def _preferred() -> Preferred:
    found = preferences()
    if found is None:
        return Preferred()
    options = () if found.device == "auto" else ("--device", found.device)
    options += ("--threads", str(found.threads)) if found.threads else ()
    return Preferred(found.python, options, found.cache, found.backend, found.mirror, found.torch_index, found.yields)


def _tabbed() -> list[type[bpy.types.Panel]]:
    classes = (*character_panels.CLASSES, *status_panels.CLASSES, *sequencer_panels.CLASSES)
    return [cls for cls in classes if issubclass(cls, bpy.types.Panel) and hasattr(cls, "bl_category")]


def _name_tabs(name: str) -> None:
    for cls in _tabbed():
        cls.bl_category = name.strip() or messages.CATEGORY


def register() -> None:
    bpy.utils.register_class(EDTalkPreferences)
    session.preferred = _preferred
    found = preferences()
    if found is not None:
        _name_tabs(found.tab)  # the panels are registered later


def unregister() -> None:
    session.preferred = Preferred
    bpy.utils.unregister_class(EDTalkPreferences)
