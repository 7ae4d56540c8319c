"""Trainings from footage as the add-on and farm jobs start them: their settings, command and state.

    WORK/job.json      the settings, and the process that runs the training
    WORK/status.json   where the training is, written by the training; docs/training-from-footage.md lists the fields
    WORK/STOP          a request to stop: any file of that name
    WORK/check.json    what `--check` found, see the same document
    WORK/training.log  output of the training

Standard library only: the add-on uses it, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import EDTalkError

JOB, STATUS, STOP, LOG, CHECK = "job.json", "status.json", "STOP", "training.log", "check.json"
FOOTAGE, PERSON = "footage", "person"  # commands of `python -m training`
SIZES = (64, 128, 256)  # pixels of a bank from footage
MOVIES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg")  # suffixes of clips
WORK = ".work"  # suffix of the folder of a training


def movies_in(folder: Path) -> list[Path]:
    """The movies in a folder and its subfolders, in order. Those that a training has prepared are left out."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in MOVIES
        and file.is_file()
        and not any(part.endswith(WORK) for part in file.relative_to(folder).parts)
    )


@dataclass(frozen=True)
class Settings:
    """What to train.

    kind: FOOTAGE for a new bank, PERSON to tune one. clips: movies, or folders of movies. out: the bank to write.
    size: pixels, of a new bank. minutes: time of training. bank: the one to tune. start: bank to take encoder and
    decoder of a new bank from, "starter" or "none". consent: whether the people in the clips agree, or their rights
    are the user's. threads: CPU threads.
    """

    kind: str
    clips: tuple[str, ...]
    out: str
    size: int = 128
    minutes: float = 480.0
    bank: str = ""
    start: str = "none"
    consent: bool = False
    threads: int = 1

    @property
    def work(self) -> Path:
        """Folder of checkpoints and state: beside the bank."""
        return Path(self.out).with_suffix(WORK)

    def words(self) -> list[str]:
        """The arguments of `python -m training`."""
        words = [self.kind, *self.clips, "--out", self.out, "--work", str(self.work), "--minutes", f"{self.minutes:g}"]
        if self.kind == PERSON:
            words += ["--bank", self.bank]
        else:
            words += ["--size", str(self.size), "--start", self.start]
        words += ["--threads", str(self.threads)]
        return [*words, "--consent"] if self.consent else words

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Settings:
        """Raises EDTalkError if a value is missing or has another type."""
        try:
            made = Settings(
                str(data["kind"]), tuple(map(str, data["clips"])), str(data["out"]), int(data["size"]),
                float(data["minutes"]), str(data["bank"]), str(data["start"]), data["consent"] is True,
                int(data["threads"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise EDTalkError(f"The settings of a training are damaged ({error!r}).", "Start it again.") from error
        if made.kind not in (FOOTAGE, PERSON):
            raise EDTalkError(f"A training is of the kind {FOOTAGE} or {PERSON}, found '{made.kind}'.")
        return made
