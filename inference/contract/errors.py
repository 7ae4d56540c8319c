"""The one error type that reaches a person."""

import errno
from pathlib import Path


class EDTalkError(Exception):
    """A failure stated as one clear sentence and the next step.

    `kind` is a short machine-readable word ("input", "bank", "face", "media", "disk", "device"; the worker adds
    "memory", "engine", "protocol" and "bug"), `message` names the file, what was expected and what was found, `hint`
    says what to do next.
    """

    def __init__(self, message: str, hint: str = "", kind: str = "input") -> None:
        super().__init__(message if not hint else f"{message} {hint}")
        self.kind = kind
        self.message = message
        self.hint = hint


def disk_error(path: Path, error: OSError) -> EDTalkError:
    """The sentence for a file that could not be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    hint = "Free some space or choose another disk." if full else "Choose a folder that exists and may be written to."
    return EDTalkError(f"{path} could not be written: {error.strerror or error}.", hint, "disk")
