"""The one error type that reaches a person."""


class EDTalkError(Exception):
    """A failure stated as one clear sentence and the next step.

    `kind` is a short machine-readable word ("input", "bank", "face", "media", "disk", "device"),
    `message` names the file, what was expected and what was found, `hint` says what to do next.
    """

    def __init__(self, message: str, hint: str = "", kind: str = "input") -> None:
        super().__init__(message if not hint else f"{message} {hint}")
        self.kind = kind
        self.message = message
        self.hint = hint
