"""The error type whose text is shown to users."""

import errno
from pathlib import Path


class EDTalkError(Exception):
    """A failure that is explained by one sentence and the next step.

    message: names the file, what was expected and what was found.
    hint: what the user can do next, "" if nothing. It never names a command-line option or a control of Blender.
    kind: group of the failure: "input", "bank", "face", "media", "disk", "device". The worker adds "memory", "engine",
        "protocol" and "bug".
    code: identifies the failure where a front end has a more specific hint, "" otherwise. The command line replaces
        the hint by one that names its options (`inference/cli/hints.py`), the add-on by one that names its controls
        (`edtalk_blender/engine/hints.py`).
    """

    def __init__(self, message: str, hint: str = "", kind: str = "input", code: str = "") -> None:
        super().__init__(message if not hint else f"{message} {hint}")
        self.kind = kind
        self.message = message
        self.hint = hint
        self.code = code


def disk_error(path: Path, error: Exception) -> EDTalkError:
    """The EDTalkError for a file that could not be written. error: an OSError or FFmpeg's."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    hint = "Free some space or choose another disk." if full else "Choose an existing folder with write permission."
    reason = getattr(error, "strerror", None) or error
    return EDTalkError(f"{path} could not be written: {reason}.", hint, "disk")
