"""A look at clips before a training, by the training's own `--check` in another process. No bpy."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...inference.contract.errors import EDTalkError
from ...inference.contract.training import CHECK, Settings
from ..engine.process import Log, Process, environment


class Check:
    """Runs a check in a thread. finished: it has ended; then `report` is set, or `error`, or it was cancelled."""

    def __init__(self, settings: Settings, python: Path, root: Path) -> None:
        """python: the engine's. root: the extension's folder."""
        self.settings = settings
        self.report: dict[str, Any] = {}
        self.error: EDTalkError | None = None
        self._command = [str(python), "-X", "utf8", "-m", "training", *settings.words(), "--check"]
        self._root = root
        self._process: Process | None = None
        self._cancelled = False
        self._guard = threading.Lock()  # protects _process: no process starts after `cancel`
        self._thread = threading.Thread(target=self._run, name="edtalk check", daemon=True)

    @property
    def finished(self) -> bool:
        return self._thread.ident is not None and not self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def wait(self) -> None:
        self._thread.join()

    def cancel(self) -> None:
        with self._guard:
            self._cancelled = True
            if self._process:
                self._process.kill()

    def _run(self) -> None:
        log, path = Log(), self.settings.work / CHECK
        try:
            path.unlink(missing_ok=True)
            with self._guard:
                if self._cancelled:
                    return
                self._process = Process(self._command, cwd=self._root, env=environment(), stderr=subprocess.STDOUT)
            log.follow(self._process.stdout)
            self._process.wait()
            self.report = json.loads(path.read_text(encoding="utf-8"))
            path.unlink()
            with suppress(OSError):  # it is that of a training
                path.parent.rmdir()
        except (OSError, ValueError):
            if not self._cancelled:
                words = log.last_line or "it wrote no report"
                self.error = EDTalkError(f"The clips could not be checked: {words}", "", "engine")


def lines(report: Mapping[str, Any], duration: Callable[[float], str]) -> list[str]:
    """What a report says, as lines for a panel. duration: writes seconds, such as "3 min 20 s"."""
    clips = report.get("clips", [])
    found = []
    if "usable" in report:
        found.append(f"{len(clips)} clips: about {duration(report['usable'])} of {duration(report['seconds'])} usable")
        found += _reasons(report)
    found += [f"Skipped {clip['name']}: {clip['error']}" for clip in clips if clip.get("error")]
    several = [clip["name"] for clip in clips if clip.get("faces", 0) > 1]
    if several:
        found.append(f"Several faces in {_listed(several)}: the largest is used")
    if "step_seconds" in report:
        found.append(f"Disk: {_size(report['disk_needed'])} of {_size(report['disk_free'])} free")
        preparing, advised = (60.0 * report[name] for name in ("minutes_to_prepare", "minutes_advised"))
        found.append(f"Preparing the clips takes about {duration(preparing)}")
        found.append(f"This computer needs about {duration(advised)} for the advised {report['steps_advised']:,} steps")
        found.append(f"The chosen time is enough for {report['steps']:,} steps")
    return found


def _reasons(report: Mapping[str, Any]) -> list[str]:
    """The share of all frames that is not used, by reason."""
    total: dict[str, float] = {}
    for clip in report["clips"]:
        for reason, part in clip.get("rejected", {}).items():
            total[reason] = total.get(reason, 0.0) + part * clip["seconds"] / max(report["seconds"], 1e-6)
    names = report.get("reasons", {})
    said = [f"{names.get(reason, reason)} {100 * part:.0f} %" for reason, part in
            sorted(total.items(), key=lambda item: -item[1])]  # fmt: skip
    return [f"Not used: {', '.join(said)}"] if said else []


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
