"""Operators for banks from footage: choose clips, check them, train, stop, resume, use the bank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import bpy
from bpy.props import BoolProperty, IntProperty, StringProperty

from ...inference.contract.errors import EDTalkError
from ...inference.contract.farm import Job as FarmJob
from ...inference.contract.training import FOOTAGE, PERSON
from ...inference.contract.training_farm import write_training_bundle
from ..character import character, files
from ..character.operators import OnCharacter
from ..engine import session
from ..engine.operator_base import BaseOperator
from ..naming import naming
from ..naming import operators as naming_operators
from . import trainings
from .jobs import Job, State


class _ClipsChooser:
    """Mixin for operators that choose a folder of movies in a File Browser."""

    directory: StringProperty(
        name="Clips", description="Folder of movies in which people talk", subtype="DIR_PATH", options={"SKIP_SAVE"}
    )
    filter_folder: BoolProperty(default=True, options={"HIDDEN"})
    filter_movie: BoolProperty(default=True, options={"HIDDEN"})

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def folder(self) -> str:
        if not self.directory or not Path(bpy.path.abspath(self.directory)).is_dir():
            raise EDTalkError(f"{self.directory or 'An empty path'} is not a folder.", "Choose a folder of movies.")
        return self.directory


class EDTALK_OT_new_bank_from_footage(_ClipsChooser, BaseOperator, bpy.types.Operator):
    """Make a new bank from clips of people, without markers. Choose a folder of movies; the next steps are in the \
panel Bank from Footage and in the preferences"""

    bl_idname = "edtalk.new_bank_from_footage"
    bl_label = "New Bank from Footage"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        trainings.propose(FOOTAGE, self.folder())
        session.redraw()
        return None


class EDTALK_OT_tune_to_person(_ClipsChooser, OnCharacter, bpy.types.Operator):
    """Tune the bank of the active character to clips of one person. Its sliders keep their meaning, so keys stay \
valid. Choose a folder of movies; the next steps are in the panel Bank from Footage"""

    bl_idname = "edtalk.tune_to_person"
    bl_label = "Tune to This Person"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return super().disabled_reason(context) or trainings.untunable_reason(character.active(context))

    def run(self, context: bpy.types.Context) -> set[str] | None:
        trainings.propose(PERSON, self.folder(), str(files.bank_path(character.active(context))))
        session.redraw()
        return None


class EDTALK_OT_close_training_settings(BaseOperator, bpy.types.Operator):
    """Close these settings without training"""

    bl_idname = "edtalk.close_training_settings"
    bl_label = "Close"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        trainings.draft().shown = False
        trainings.cancel_check()
        return None


class _OnDraft(BaseOperator):
    """Mixin for operators on the settings of the next training."""

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        given = trainings.draft()
        if not given.shown or not given.clips:
            return "Choose clips with New Bank from Footage first"
        return "" if session.find_engine().usable else "The engine is not installed"


class EDTALK_OT_check_footage(_OnDraft, bpy.types.Operator):
    """Look at some frames of every clip: how much is usable, why the rest is not, and how much time and disk space \
the training needs on this computer. Takes from some seconds to a minute"""

    bl_idname = "edtalk.check_footage"
    bl_label = "Check"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        trainings.check()
        return None


class EDTALK_OT_train_bank(_OnDraft, bpy.types.Operator):
    """Start the training in a process of its own. It continues when Blender quits, and can be stopped and resumed"""

    bl_idname = "edtalk.train_bank"
    bl_label = "Train"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        reason = super().disabled_reason(context)
        return reason or ("" if trainings.draft().consent else "Confirm that you may use these recordings")

    def run(self, context: bpy.types.Context) -> set[str] | None:
        trainings.train()
        return None


class EDTALK_OT_export_training_job(_OnDraft, bpy.types.Operator):
    """Export the training as a render farm job for Open Job Description or AWS Deadline Cloud: a folder with the \
clips and the settings. Choose the folder for the jobs"""

    bl_idname = "edtalk.export_training_job"
    bl_label = "Export Farm Job"

    directory: StringProperty(name="Folder", description="Folder for the job", subtype="DIR_PATH")
    filter_folder: BoolProperty(default=True, options={"HIDDEN"})
    gpus: IntProperty(
        name="GPUs", description="Number of GPUs that a machine must have, to train on. 0: none", min=0, max=64
    )
    threads: IntProperty(
        name="Threads",
        description="Number of CPU threads that the training uses, from 1 to 1024, usually one per core of the machine",
        default=8,
        min=1,
        max=1024,
    )
    engine: StringProperty(
        name="Python",
        description="Python interpreter that runs the engine on the farm. Empty: the same path as on this machine",
    )
    engine_folder: StringProperty(
        name="Extension", description="Folder of this extension on the farm. Empty: the same path as on this machine"
    )

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        reason = super().disabled_reason(context)
        return reason or ("" if trainings.draft().consent else "Confirm that you may use these recordings")

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def run(self, context: bpy.types.Context) -> set[str] | None:
        if not self.directory:
            raise EDTalkError("No folder is set for the job.", "Choose a folder.")
        made = replace(trainings.settings(), threads=self.threads)
        name = Path(made.out).stem
        job = FarmJob(
            name=f"Train {name}",
            gpus=self.gpus,
            engine=self.engine.strip() or str(session.find_engine().python or "python"),
            engine_folder=self.engine_folder.strip() or str(session.ROOT),
        )
        folder = Path(bpy.path.abspath(self.directory)) / bpy.path.clean_name(name)
        count = write_training_bundle(made, folder, job)
        self.report({"INFO"}, f"Exported the training with {count} clips to {folder}")
        return None


# --- Trainings


class _OnTraining(BaseOperator):
    """Mixin for operators on one training."""

    folder: StringProperty(
        name="Training", description="Folder of the training", subtype="DIR_PATH", options={"HIDDEN", "SKIP_SAVE"}
    )

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "" if trainings.found() else "There is no training"

    def job(self) -> Job:
        """The training, as it is now. Raises EDTalkError if there is none."""
        return trainings.find(self.folder)


class EDTALK_OT_stop_training(_OnTraining, bpy.types.Operator):
    """Stop the training. The best weights so far become a bank, which takes up to a minute. It can be resumed"""

    bl_idname = "edtalk.stop_training"
    bl_label = "Stop"

    at_once: BoolProperty(
        name="At Once",
        description="End the process without writing a bank. The work since the last checkpoint, at most two minutes, \
is lost",
        options={"HIDDEN", "SKIP_SAVE"},
    )

    def run(self, context: bpy.types.Context) -> set[str] | None:
        job = self.job()
        if not job.state.is_active:
            raise EDTalkError(f"{job.name} is not being trained.")
        trainings.stop(job, self.at_once)
        return None


class EDTALK_OT_resume_training(_OnTraining, bpy.types.Operator):
    """Resume the training where it stopped, with the same settings"""

    bl_idname = "edtalk.resume_training"
    bl_label = "Resume"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        trainings.go_on(self.job())
        return None


class EDTALK_OT_forget_training(_OnTraining, bpy.types.Operator):
    """Remove the training from this list. Its bank and its folder are kept"""

    bl_idname = "edtalk.forget_training"
    bl_label = "Remove from List"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        trainings.forget(Path(self.folder))
        return None


class EDTALK_OT_use_trained_bank(_OnTraining, bpy.types.Operator):
    """Use the bank of this training for the active character, then propose names for sliders that only have a number"""

    bl_idname = "edtalk.use_trained_bank"
    bl_label = "Use Bank"
    bl_options = {"UNDO"}

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        obj = character.active(context)
        if obj is None:
            return "Select or add a character first"
        return super().disabled_reason(context) or character.editable_reason(obj)

    def run(self, context: bpy.types.Context) -> set[str] | None:
        job, obj = self.job(), character.active(context)
        if job.bank is None:
            raise EDTalkError(f"{job.name} has no bank yet.", "Wait for the end of the training, or stop it.")
        dropped = character.set_bank(obj, str(job.bank))
        if dropped:
            self.report({"WARNING"}, f"{len(dropped)} sliders of the old bank are missing in {job.name}; keys are kept")
        if job.state is State.DONE and naming.numbered(files.bank_of(obj)) and obj.edtalk.portrait_image:
            naming_operators.analyze(obj, naming.numbered(files.bank_of(obj)), show=True)
        return None


CLASSES = (
    EDTALK_OT_new_bank_from_footage,
    EDTALK_OT_tune_to_person,
    EDTALK_OT_close_training_settings,
    EDTALK_OT_check_footage,
    EDTALK_OT_train_bank,
    EDTALK_OT_export_training_job,
    EDTALK_OT_stop_training,
    EDTALK_OT_resume_training,
    EDTALK_OT_forget_training,
    EDTALK_OT_use_trained_bank,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
