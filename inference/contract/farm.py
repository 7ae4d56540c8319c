"""A shot as a job for a render farm: an Open Job Description bundle, a folder with everything the job needs.

The job renders frames in chunks, each with one `shot render`, then encodes the clip with its sound. AWS Deadline Cloud
accepts the folder as it is; `openjd run` runs it on one machine. Standard library and numpy only: the add-on writes
bundles, too.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .bank import read_bank
from .errors import EDTalkError, disk_error
from .files import link_or_copy
from .rendered import is_complete
from .shot import Shot, frame_ranges, write_whole

ROOT = Path(__file__).resolve().parents[2]
SHOT, OUTPUT, FRAMES = "shot", "output", "frames"  # folders of a bundle; frames are inside the output folder
_GRACE = 30  # seconds that a cancelled task has to finish its frame


@dataclass(frozen=True)
class Job:
    """The settings of a farm job. All except timeout and gpus can be changed when the job is submitted.

    name: of the job and the clip. chunk: frames per task; large enough to outweigh the start-up time of the engine.
    gpus: minimum number of GPUs of a machine. timeout: seconds after which a task fails. device: "auto", or a torch
    device name. engine: the Python of the engine on the farm's machines. engine_folder: the extension's folder there.
    Both default to the paths on this machine. Raises EDTalkError for a number out of range.
    """

    name: str
    chunk: int = 50
    gpus: int = 0
    timeout: int = 3600
    device: str = "auto"
    engine: str = sys.executable
    engine_folder: str = str(ROOT)

    def __post_init__(self) -> None:
        if min(self.chunk, self.timeout) < 1 or self.gpus < 0:
            raise EDTalkError(
                f"The chunk size and the timeout of a job must be above 0 and the number of GPUs must not be negative, "
                f"found {self.chunk}, {self.timeout} and {self.gpus}."
            )

    @property
    def title(self) -> str:
        """A valid job name: without braces, which are template syntax, and shorter than 128 characters."""
        return " ".join(re.sub(r"[{}\x00-\x1f\x7f-\x9f]", " ", self.name).split())[:100] or "EDTalk"

    @property
    def clip(self) -> str:
        """The file name of the clip, valid on every system."""
        return re.sub(r"[^-. ()+,@=~\w]", "_", self.title) + ".mp4"


def write_bundle(shot: Shot, folder: str | os.PathLike[str], job: Job, *, keep_bank: bool = False) -> Shot:
    """Write a shot and its job into a folder. Returns the shot in the folder, which renders its frames there, too.

    The folder is created if necessary. It gets the bank, the portrait or plate, the sound and the frames rendered so
    far, as hard links where possible. If it exists, its frames are kept, so the next job renders only what changed.
    keep_bank: reference the bank by its path instead, for farms where all machines can read it.
    Raises EDTalkError if the bank is missing or not the shot's, or with kind "disk".
    """
    folder = Path(os.path.abspath(folder))
    found = read_bank(shot.bank)
    if found.sha256 != shot.bank_sha256:
        raise EDTalkError(f"{shot.bank} is not the bank that the shot was made with.", "Write the shot again.", "bank")
    frames = folder / OUTPUT / FRAMES
    bank = shot.bank if keep_bank else folder / SHOT / shot.bank.name
    try:
        for path in (folder / SHOT, frames):
            path.mkdir(parents=True, exist_ok=True)
        if not (bank.exists() and bank.samefile(shot.bank)):
            link_or_copy(shot.bank, bank)
        for name in set(shot.file_names()):
            picture = shot.frames_folder / name
            if is_complete(picture) and not is_complete(frames / name):
                link_or_copy(picture, frames / name)
    except OSError as error:
        raise disk_error(Path(error.filename or folder), error) from error
    written = replace(shot, bank=bank, frames_folder=frames).write(folder / SHOT)
    write_job(folder, template(shot, job), _values(shot, job), [str(bank)] if keep_bank else [])
    return written


def write_job(
    folder: Path, template: Mapping[str, Any], values: Mapping[str, Any], references: Sequence[str] = ()
) -> None:
    """Write the files of a job bundle. Raises EDTalkError of kind "disk".

    template: the Open Job Description template. values: of the job's parameters, for Deadline Cloud's submitter; paths
    inside the bundle are left out, so that the folder can be moved. references: files outside the bundle.
    """
    submission = {
        "deadline:targetTaskRunStatus": "READY",
        "deadline:maxFailedTasksCount": 20,
        "deadline:maxRetriesPerTask": 5,
        "deadline:priority": 50,
    }
    for name, content in (
        ("template", template),
        ("parameter_values", {"parameterValues": [
            {"name": name, "value": value} for name, value in (submission | dict(values)).items()
        ]}),
        ("asset_references", {"assetReferences": {
            "inputs": {"filenames": [], "directories": []},  # all inputs are in folders that are parameters
            "outputs": {"directories": []},
            "referencedPaths": list(references),
        }}),
    ):  # fmt: skip
        write_whole(folder / f"{name}.json", json.dumps(content, indent=2).encode())


def template(shot: Shot, job: Job) -> dict[str, Any]:
    """The Open Job Description job template of a shot (specification 2023-09), as JSON data."""
    frames = f"{{{{Param.OutDir}}}}/{FRAMES}"
    render = step("Render", job, ["inference", "shot", "render", "{{Param.Shot}}", "--frames-folder", frames,
                                  "--progress", "openjd", "--frames={{Task.Param.Frames}}",
                                  "--device", "{{Param.Device}}"], gpus=job.gpus)  # fmt: skip
    render["parameterSpace"] = {"taskParameterDefinitions": [{
        "name": "Frames",
        "type": "CHUNK[INT]",
        "range": "{{Param.Frames}}",
        "chunks": {"defaultTaskCount": "{{Param.ChunkSize}}", "rangeConstraint": "CONTIGUOUS"},
    }]}  # fmt: skip
    encode = step("Encode", job, ["inference", "shot", "encode", "{{Param.Shot}}", "--frames-folder", frames,
                                  "--progress", "openjd", "--out", "{{Param.OutDir}}/{{Param.Clip}}",
                                  "--overwrite"])  # fmt: skip
    encode["dependencies"] = [{"dependsOn": render["name"]}]
    return {
        "specificationVersion": "jobtemplate-2023-09",
        "extensions": ["TASK_CHUNKING"],
        "name": job.title,
        "parameterDefinitions": _parameters(shot, job),
        "steps": [render, encode],
    }


def step(name: str, job: Job, words: Sequence[str], *, gpus: int = 0, grace: int = _GRACE) -> dict[str, Any]:
    """A step that runs one command of the extension, without a shell.

    words: package and arguments. gpus: that a machine must have. grace: seconds that a cancelled task has to end.
    """
    package, *arguments = words
    action = {
        "command": "{{Param.Engine}}",
        "args": ["-X", "utf8", f"{{{{Param.EngineFolder}}}}/{package}", *arguments],
        "timeout": job.timeout,
        "cancelation": {"mode": "NOTIFY_THEN_TERMINATE", "notifyPeriodInSeconds": grace},
    }
    made: dict[str, Any] = {"name": name, "script": {"actions": {"onRun": action}}}
    if gpus:
        made["hostRequirements"] = {"amounts": [{"name": "amount.worker.gpu", "min": gpus}]}
    return made


def parameter(name: str, kind: str, default: object, label: str, description: str, **more: Any) -> dict[str, Any]:
    """The definition of a job parameter, with its control in a submitter. kind: "INT", "PATH" or "STRING"."""
    control = {"INT": "SPIN_BOX", "PATH": "CHOOSE_DIRECTORY"}.get(kind, "LINE_EDIT")
    if more.get("objectType") == "FILE":
        control = "CHOOSE_INPUT_FILE"
    group = "Engine" if name.startswith("Engine") else "Face"
    interface = {"control": control, "label": label, "groupLabel": group}
    return {"name": name, "type": kind, "default": default, "description": description,
            "userInterface": interface, **more}  # fmt: skip


def engine_parameters(job: Job) -> list[dict[str, Any]]:
    """Definitions of the parameters that say where the engine is on the farm's machines."""
    return [
        parameter("Engine", "STRING", job.engine, "Python", "The Python that runs the engine on the farm's machines.",
                  minLength=1),
        parameter("EngineFolder", "STRING", job.engine_folder, "Extension Folder",
                  "The extension's folder on the farm's machines, which contains 'inference'.", minLength=1),
    ]  # fmt: skip


def _parameters(shot: Shot, job: Job) -> list[dict[str, Any]]:
    return [
        parameter("Shot", "PATH", SHOT, "Shot", "The shot: coefficients, portrait or plate, sound and bank.",
                  objectType="DIRECTORY", dataFlow="IN"),
        parameter("OutDir", "PATH", OUTPUT, "Output Folder", "The folder for frames and clip.",
                  objectType="DIRECTORY", dataFlow="OUT"),
        parameter("Frames", "STRING", _frames(shot), "Frames", "Frames to render, as numbered in the scene."),
        parameter("ChunkSize", "INT", job.chunk, "Chunk Size", "Frames per task.", minValue=1),
        parameter("Clip", "STRING", job.clip, "Clip", "File name of the clip.", minLength=1),
        parameter("Device", "STRING", job.device, "Device", "auto, cuda, mps or cpu.", minLength=1),
        *engine_parameters(job),
    ]  # fmt: skip


def _values(shot: Shot, job: Job) -> dict[str, Any]:
    """Initial values of the parameters."""
    return {
        "Frames": _frames(shot),
        "ChunkSize": job.chunk,
        "Clip": job.clip,
        "Device": job.device,
        "Engine": job.engine,
        "EngineFolder": job.engine_folder,
    }


def _frames(shot: Shot) -> str:
    return frame_ranges(range(shot.first_frame, shot.first_frame + len(shot.coefficients)))
