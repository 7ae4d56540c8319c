"""The trainings of this user in Blender: settings of the next one, list of all, and the timer that watches them.

The trainings run outside Blender. Nothing of them is stored in a .blend.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import bpy
from bpy.props import BoolProperty, EnumProperty, IntProperty, PointerProperty, StringProperty

from ...inference.contract.bank import STARTER
from ...inference.contract.errors import EDTalkError
from ...inference.contract.training import FOOTAGE, PERSON, WORK, Settings
from ..character import files
from ..engine import engine, session
from ..engine import operators as engine_operators
from ..translations.context import CONTEXT
from . import jobs, sheet
from .check import Check
from .jobs import Job, Jobs, State

ROOT = session.ROOT  # the folder in which `python -m training` runs
_INTERVAL = 1.0  # seconds between two looks at the trainings
_LEAST_MINUTES = 1
_DEPENDENT = ("refiner", "insets", "reader", "relative_reader")  # networks that are trained on a bank's generator


class TrainingDraft(bpy.types.PropertyGroup):
    """The settings of the next training."""

    kind: EnumProperty(
        name="Training",
        items=(
            (FOOTAGE, "New Bank from Footage", "Make a new bank from clips of people"),
            (PERSON, "Tune to This Person", "Tune the bank of the active character to clips of one person"),
        ),
        options={"HIDDEN"},
    )
    shown: BoolProperty(name="Shown", options={"HIDDEN"})
    bank: StringProperty(name="Bank", subtype="FILE_PATH", options={"HIDDEN"})
    clips: StringProperty(
        name="Clips",
        description="Folder of movies in which people talk. A subfolder contains the clips of one person. At least "
        "20 s with a face from the front are needed, several minutes are better",
        subtype="DIR_PATH",
    )
    out: StringProperty(
        name="Save As",
        description="File of the new bank (.safetensors). A folder beside it keeps the state of the training",
        subtype="FILE_PATH",
    )
    size: EnumProperty(
        name="Size",
        description="Pixels of the face that the bank draws",
        items=(
            ("64", "64 (Draft)", "Quick, to see whether the clips are suitable"),
            ("128", "128", "For a night on a computer without a GPU. Starts from the weights of the starter bank"),
            ("256", "256", "Takes at least four times as long as 128: many days. Check says how long on this computer"),
        ),
        default="128",
    )
    minutes: IntProperty(
        name="Minutes",
        description="Time of training in minutes, usually from 1 to 2880 (two days), without the preparation of the "
        "clips. It can be stopped earlier",
        default=480,
        min=_LEAST_MINUTES,
        soft_max=2880,
    )
    consent: BoolProperty(
        name="I may use these recordings",
        description="The people in the clips agree that a face is animated with them, and you have the rights to the "
        "recordings. This is stored in the bank",
    )


@dataclass
class _State:
    """jobs: all trainings. reader: the thread that reads them. check: the last one. starts: threads that start a
    training. failed: errors of these. known: state of each training when it was last shown."""

    jobs: Jobs | None = None
    reader: threading.Thread | None = None
    check: Check | None = None
    starts: list[threading.Thread] = field(default_factory=list)
    failed: list[EDTalkError] = field(default_factory=list)
    known: dict[Path, State] = field(default_factory=dict)


_state = _State()


def draft() -> TrainingDraft:
    """The settings of the dialog for a new training."""
    return bpy.context.window_manager.edtalk_training


def all_jobs() -> Jobs:
    if _state.jobs is None:
        _state.jobs = Jobs(session.user_folder() / jobs.INDEX)
    return _state.jobs


def found() -> tuple[Job, ...]:
    """All trainings, newest first, as they were last read."""
    return all_jobs().found


def find(folder: str) -> Job:
    """The training in a folder. Raises EDTalkError if there is none."""
    return jobs.read(Path(folder))


def current_check() -> Check | None:
    """The check of the present draft, None if it has other settings by now."""
    check = _state.check
    return check if check and _checked(check.settings) == _checked(settings()) else None


def _checked(settings: Settings) -> tuple[object, ...]:
    """What the result of a check depends on."""
    return settings.kind, settings.clips, settings.size, settings.minutes, settings.bank, settings.out


def is_active() -> bool:
    """Whether a training of this user runs."""
    return any(job.state.is_active for job in found())


def uses_engine() -> str:
    """Why the engine may not be replaced, as a sentence without a period; "" if no training runs."""
    active = [job.name for job in found() if job.state.is_active]
    return f"The training of {active[0]} uses the engine. Stop it first" if active else ""


# ------------------------------------------------------------------------------------------------ settings


def settings() -> Settings:
    """The settings that the draft describes."""
    values = draft()
    size = int(values.size)
    return Settings(
        kind=values.kind,
        clips=(str(Path(os.path.abspath(bpy.path.abspath(values.clips)))),) if values.clips else (),
        out=str(_with_suffix(Path(os.path.abspath(bpy.path.abspath(values.out))))) if values.out else "",
        size=size,
        minutes=float(values.minutes),
        bank=values.bank if values.kind == PERSON else "",
        start="starter" if size == files.load_bank_file(STARTER).config.size else "none",
        consent=values.consent,
        threads=_threads(),
    )


def _with_suffix(path: Path) -> Path:
    return path if path.suffix == ".safetensors" else path.with_name(f"{path.name}.safetensors")


def _threads() -> int:
    """CPU threads of a training: half of the cores, so that Blender stays quick."""
    options = session.preferred().options
    if "--threads" in options:
        return int(options[options.index("--threads") + 1])
    return max(1, (os.cpu_count() or 2) // 2)


def propose(kind: str, clips: str, bank: str = "") -> None:
    """Fill in the draft for a folder of clips and show it. The permission must be given again."""
    values, folder = draft(), Path(os.path.abspath(bpy.path.abspath(clips)))
    values.kind, values.shown, values.bank, values.clips, values.consent = kind, True, bank, clips, False
    stem = folder.name or "footage"
    if kind == PERSON:
        stem, values.minutes = f"{Path(bank).stem}_{stem}", 120
    else:
        values.minutes = 480
    values.out = str(_free(folder.parent / f"{stem}.safetensors"))


def _free(path: Path) -> Path:
    """The path, with a number if a bank or a training has it already."""
    number, candidate = 1, path
    while candidate.exists() or candidate.with_suffix(WORK).exists():
        number += 1
        candidate = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return candidate


def untunable_reason(obj: bpy.types.Object) -> str:
    """Why the bank of a character cannot be tuned, as a sentence without a period; "" if it can be."""
    try:
        bank = files.bank_of(obj)
    except EDTalkError as error:
        return error.message.rstrip(".")
    dependent = [name for name in _DEPENDENT if name in (bank.networks or {})]
    if dependent:
        name = dependent[0].replace("_", " ")
        return f"The bank '{bank.name}' cannot be tuned: its {name} depends on it. Use New Bank from Footage"
    return ""


# ------------------------------------------------------------------------------------------------ actions


def _engine() -> engine.Engine:
    """The engine. Raises EDTalkError of kind "engine" if it is not usable."""
    usable = session.find_engine()
    usable.command()
    return usable


def check() -> None:
    """Start to check the clips of the draft; in background mode wait for the result."""
    chosen = settings()
    _require_clips(chosen)
    if _state.check:
        _state.check.cancel()
    engine_found = _engine()
    assert engine_found.python is not None
    _state.check = Check(chosen, engine_found.python, ROOT)
    _state.check.start()
    if session.blocking():
        _state.check.wait()
        if _state.check.error:
            raise _state.check.error
    keep_watching()


def cancel_check() -> None:
    """End the check of clips that is running, if there is one."""
    if _state.check:
        _state.check.cancel()
    _state.check = None


def _require_clips(settings: Settings) -> None:
    if not settings.clips:
        raise EDTalkError("No clips are chosen.", "Choose a folder of movies.")
    if not settings.out:
        raise EDTalkError("No file is chosen for the new bank.", "Choose one under Save As.")


def train() -> None:
    """Start the training that the draft describes. Raises EDTalkError if it cannot be started."""
    chosen = settings()
    _require_clips(chosen)
    jobs.check_new(chosen)
    _launch(chosen)
    draft().shown = False
    cancel_check()


def go_on(job: Job) -> None:
    """Resume a training with its settings."""
    if job.state.is_active:
        raise EDTalkError(f"{job.name} is being trained already.")
    _launch(job.settings)


def stop(job: Job, at_once: bool = False) -> None:
    """Ask a training to stop, or end its process at once."""
    jobs.stop(job)
    if at_once:
        threading.Thread(target=jobs.kill, args=(job,), name="edtalk end of a training", daemon=True).start()
    keep_watching()


def forget(folder: Path) -> None:
    """Take a training out of the list; its files are kept."""
    all_jobs().remove(folder)
    all_jobs().refresh()
    session.redraw()


def _launch(chosen: Settings) -> None:
    python = _engine().python
    assert python is not None

    def start() -> None:
        try:
            jobs.launch(chosen, python, ROOT)
            all_jobs().add(chosen.work)
            all_jobs().refresh()
        except EDTalkError as error:
            _state.failed.append(error)

    if session.blocking():
        start()
        _raise_failure()
        return
    thread = threading.Thread(target=start, name="edtalk start of a training")
    thread.start()
    _state.starts.append(thread)
    keep_watching()


def _raise_failure() -> None:
    if _state.failed:
        raise _state.failed.pop(0)


# ------------------------------------------------------------------------------------------------ watching


def keep_watching() -> None:
    """Start the timer unless it runs or Blender is in background mode."""
    if not session.blocking() and not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, first_interval=0.1, persistent=True)


def _tick() -> float | None:
    """The timer: take over what the thread has read, then let it read again. Ends when nothing runs."""
    if _state.reader is not None and _state.reader.is_alive():
        return _INTERVAL  # a slow disk
    while _state.failed:
        session.report(_state.failed.pop(0))
    _announce()
    sheet.update(found())
    session.redraw(("VIEW_3D", "PREFERENCES"))
    _state.starts = [thread for thread in _state.starts if thread.is_alive()]
    checking = _state.check is not None and not _state.check.finished
    first = _state.reader is None
    if not (first or checking or _state.starts or is_active()):
        return None
    _state.reader = threading.Thread(target=all_jobs().refresh, name="edtalk trainings", daemon=True)
    _state.reader.start()
    return _INTERVAL


def _announce() -> None:
    """Say which trainings have ended since the last look."""
    for job in found():
        before, _state.known[job.folder] = _state.known.get(job.folder), job.state
        if before is None or not before.is_active or job.state.is_active:
            continue
        if job.state is State.DONE:
            session.notify(f"The bank {job.name} is trained")
        elif job.state is State.STOPPED:
            session.notify(f"The training of {job.name} has stopped")
        else:
            session.report(EDTalkError(f"{job.name}: {job.sentence}", job.hint))


def register() -> None:
    bpy.utils.register_class(TrainingDraft)
    bpy.types.WindowManager.edtalk_training = PointerProperty(type=TrainingDraft, translation_context=CONTEXT)
    engine_operators.users.append(uses_engine)
    keep_watching()


def unregister() -> None:
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    cancel_check()
    engine_operators.users.remove(uses_engine)
    del bpy.types.WindowManager.edtalk_training
    bpy.utils.unregister_class(TrainingDraft)
    vars(_state).update(vars(_State()))
