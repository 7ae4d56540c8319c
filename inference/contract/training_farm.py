"""A training from footage as a job for a render farm: an Open Job Description bundle with the clips.

The job has one step and one task. It resumes with the checkpoints in its output folder, where it is on storage that is
kept between two runs. Standard library and numpy only: the add-on writes bundles, too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .errors import EDTalkError, disk_error
from .farm import OUTPUT, Job, engine_parameters, parameter, step, write_job
from .files import link_or_copy
from .training import MOVIES, PERSON, Settings, movies_in

CLIPS, BANK = "clips", "bank.safetensors"  # folder and file of a bundle
_GRACE = 300  # seconds that a cancelled training has to write its bank
_PREPARATION = 4 * 3600  # seconds beside the time of training, after which the task fails


def write_training_bundle(settings: Settings, folder: str | os.PathLike[str], job: Job) -> int:
    """Write a training and its job into a folder, which is created if necessary. Returns the number of clips.

    Clips, and the bank to tune, become hard links where possible. Subfolders are kept: each is one person.
    Raises EDTalkError if there are no clips, the settings lack the consent, or with kind "disk".
    """
    folder = Path(os.path.abspath(folder))
    if not settings.consent:
        raise EDTalkError("The training needs your confirmation that you may use the recordings.")
    clips = [
        (clip, root) for root in map(Path, settings.clips) for clip in ([root] if root.is_file() else movies_in(root))
    ]
    if not clips:
        raise EDTalkError(
            f"No clip was found in {', '.join(settings.clips)}.", f"Choose a folder of {', '.join(MOVIES[:4])} files."
        )
    files = [(clip, Path(CLIPS, clip.relative_to(root) if clip != root else clip.name)) for clip, root in clips]
    if settings.kind == PERSON:
        files.append((Path(settings.bank), Path(BANK)))
    try:
        (folder / OUTPUT).mkdir(parents=True, exist_ok=True)
        for source, place in files:
            target = folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            if not (target.exists() and target.samefile(source)):
                link_or_copy(source, target)
    except OSError as error:
        raise disk_error(Path(error.filename or folder), error) from error
    write_job(folder, training_template(settings, job), _values(settings, job))
    return len(clips)


def training_template(settings: Settings, job: Job) -> dict[str, Any]:
    """The Open Job Description job template of a training (specification 2023-09), as JSON data."""
    words = ["training", settings.kind, "{{Param.Clips}}", "--out", "{{Param.OutDir}}/{{Param.Bank}}",
             "--minutes", "{{Param.Minutes}}", "--threads", "{{Param.Threads}}",
             "--progress", "openjd", "--consent"]  # fmt: skip
    if settings.kind == PERSON:
        words += ["--bank", "{{Param.Tuned}}"]
    else:
        words += ["--size", "{{Param.Size}}", "--start", settings.start, "--devices", "{{Param.Devices}}"]
    made = step("Train", job, words, gpus=job.gpus, grace=_GRACE)
    made["script"]["actions"]["onRun"]["timeout"] = round(60 * settings.minutes) + _PREPARATION
    return {
        "specificationVersion": "jobtemplate-2023-09",
        "name": job.title,
        "parameterDefinitions": _parameters(settings, job),
        "steps": [made],
    }


def _parameters(settings: Settings, job: Job) -> list[dict[str, Any]]:
    values = _values(settings, job)
    own = []
    if settings.kind == PERSON:
        own.append(parameter("Tuned", "PATH", BANK, "Bank to Tune", "The bank whose generator is tuned.",
                             objectType="FILE", dataFlow="IN"))  # fmt: skip
    else:
        own += [
            parameter("Size", "INT", values["Size"], "Size", "Pixels of the face that the bank draws.", minValue=64),
            parameter("Devices", "INT", values["Devices"], "Devices", "GPUs to train on.", minValue=1),
        ]
    return [
        parameter("Clips", "PATH", CLIPS, "Clips", "The folder of movies.", objectType="DIRECTORY", dataFlow="IN"),
        parameter("OutDir", "PATH", OUTPUT, "Output Folder", "The folder for the bank and the training's state.",
                  objectType="DIRECTORY", dataFlow="OUT"),
        parameter("Bank", "STRING", values["Bank"], "Bank", "File name of the new bank.", minLength=1),
        parameter("Minutes", "INT", values["Minutes"], "Minutes", "Time of training.", minValue=1),
        parameter("Threads", "INT", values["Threads"], "Threads", "CPU threads.", minValue=1),
        *own,
        *engine_parameters(job),
    ]  # fmt: skip


def _values(settings: Settings, job: Job) -> dict[str, Any]:
    """Initial values of the parameters."""
    values: dict[str, Any] = {
        "Bank": Path(settings.out).name,
        "Minutes": max(1, round(settings.minutes)),
        "Threads": settings.threads,
        "Engine": job.engine,
        "EngineFolder": job.engine_folder,
    }
    if settings.kind != PERSON:
        values |= {"Size": settings.size, "Devices": max(1, job.gpus)}
    return values
