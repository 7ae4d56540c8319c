"""The panel Bank from Footage: settings of a training, its check, all trainings. Also in the preferences."""

from __future__ import annotations

import bpy

from ...inference.contract.training import FOOTAGE
from ..character import character
from ..engine import session
from ..training import check, sheet, trainings
from ..training.jobs import Job, State
from ..translations.context import CONTEXT
from .help import HasHelp
from .messages import CATEGORY, draw_lines

_ICONS = {
    State.STOPPED: "PAUSE",
    State.DONE: "CHECKMARK",
    State.FAILED: "ERROR",
    State.INTERRUPTED: "ERROR",
}
_UNIT = 20  # pixels of a row at a scale of 1
_MARGIN = 60  # pixels beside a contact sheet at a scale of 1
_WIDEST = 36.0  # rows


class EDTALK_MT_banks(bpy.types.Menu):
    """More ways to get a bank"""

    bl_label = "Banks"

    def draw(self, _context: bpy.types.Context) -> None:
        draw_buttons(self.layout)


class EDTALK_PT_training(HasHelp, bpy.types.Panel):
    """Make a bank from clips of people, or tune a bank to one person"""

    bl_label = "Bank from Footage"
    help_page = "footage.html"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = CATEGORY

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return trainings.draft().shown or bool(trainings.found())

    def draw(self, context: bpy.types.Context) -> None:
        draw_trainings(self.layout, context)


def draw_buttons(layout: bpy.types.UILayout) -> None:
    """Draw the buttons that begin a training."""
    layout.operator_context = "INVOKE_DEFAULT"
    layout.operator("edtalk.new_bank_from_footage", icon="FILE_MOVIE")
    layout.operator("edtalk.tune_to_person", icon="USER")


def draw_trainings(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """Draw the settings of the next training, and all trainings."""
    if trainings.draft().shown:
        _draw_draft(layout.box())
    for job in trainings.found():
        _draw_job(layout.box(), job, context)


def _draw_draft(box: bpy.types.UILayout) -> None:
    given = trainings.draft()
    new = given.kind == FOOTAGE
    row = box.row()
    row.label(text="New Bank from Footage" if new else "Tune to This Person", text_ctxt=CONTEXT, icon="FILE_MOVIE")
    row.operator("edtalk.close_training_settings", text="", icon="X", emboss=False)
    column = box.column()
    column.use_property_split = True
    column.use_property_decorate = False
    column.prop(given, "clips")
    column.prop(given, "out")
    if new:
        column.prop(given, "size")
    column.prop(given, "minutes")
    box.operator("edtalk.check_footage", icon="VIEWZOOM")
    _draw_check(box)
    box.prop(given, "consent")
    row = box.row(align=True)
    row.scale_y = 1.3
    row.operator("edtalk.train_bank", icon="PLAY")
    row.operator("edtalk.export_training_job", text="", icon="EXPORT")


def _draw_check(box: bpy.types.UILayout) -> None:
    found = trainings.current_check()
    if found is None:
        return
    column = box.column(align=True)
    if not found.finished:
        draw_lines(column, "Checking the clips...", "TIME")
        return
    if found.error:
        draw_lines(column, str(found.error), "ERROR")
        return
    for line in check.lines(found.report, session.duration):
        draw_lines(column, f"{line}.", "DOT")
    if found.report["problem"]:
        alert = box.column(align=True)
        alert.alert = True
        draw_lines(alert, f"{found.report['problem']} {found.report['hint']}", "ERROR")


def _draw_job(box: bpy.types.UILayout, job: Job, context: bpy.types.Context) -> None:
    row = box.row(align=True)
    row.label(text=job.name, icon=_ICONS.get(job.state, "TIME"))
    row.operator("wm.path_open", text="", icon="FILE_FOLDER", emboss=False).filepath = str(job.folder)
    if not job.state.is_active:
        _on_job(row, "edtalk.forget_training", job, text="", icon="X", emboss=False)
    if job.state.is_active:
        box.progress(factor=job.share, text=_progress(job))
    draw_lines(box.column(align=True), f"{job.sentence} {job.hint}".strip())
    if job.state.is_active and job.step:
        box.label(text=_figures(job))
    if job.sheet is not None and (icons := sheet.icons(job.sheet)):
        row = box.row(align=True)
        for icon in icons:
            row.template_icon(icon_value=icon, scale=_scale(context) / len(icons))
    _draw_job_buttons(box, job)


def _progress(job: Job) -> str:
    left = "" if job.minutes_left is None else f", {session.duration(60.0 * job.minutes_left)} left"
    return f"{100 * job.share:.0f} %{left}"


def _figures(job: Job) -> str:
    """Steps of this phase, and quality of held-out frames."""
    quality = "" if job.psnr is None else f", held-out frames {job.psnr:.1f} dB"
    return f"{job.step:,} steps{quality}"


def _draw_job_buttons(box: bpy.types.UILayout, job: Job) -> None:
    column = box.column(align=True)
    if job.state is State.STOPPING:
        _on_job(column, "edtalk.stop_training", job, text="Stop at Once", icon="X").at_once = True
    elif job.state.is_active:
        _on_job(column, "edtalk.stop_training", job, icon="PAUSE")
    elif job.state is not State.DONE:
        _on_job(column, "edtalk.resume_training", job, icon="PLAY")
    if job.bank is not None:
        obj = character.active(bpy.context)
        _on_job(column, "edtalk.use_trained_bank", job, text=f"Use for {obj.name}" if obj else "", icon="CHECKMARK")


def _on_job(
    layout: bpy.types.UILayout, operator: str, job: Job, *, text: str = "", icon: str, emboss: bool = True
) -> bpy.types.OperatorProperties:
    """Draw a button for a training. text: default the operator's label; "" without label if not embossed."""
    options = {"text": text, "text_ctxt": CONTEXT} if text or not emboss else {}
    button = layout.operator(operator, icon=icon, emboss=emboss, **options)
    button.folder = str(job.folder)
    return button


def _scale(context: bpy.types.Context) -> float:
    """Rows that a contact sheet may fill: the width of the region."""
    scale = context.preferences.system.ui_scale
    if context.region is None or not scale:
        return 10.0
    return min(max((context.region.width / scale - _MARGIN) / _UNIT, 6.0), _WIDEST)


CLASSES = (EDTALK_MT_banks, EDTALK_PT_training)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
