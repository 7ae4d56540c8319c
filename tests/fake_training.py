"""A training without networks, for tests: writes the same files as `python -m training` and obeys the same requests.

Copied to a folder as training.py, so that `python -m training` there runs it. Needs only the standard library. It waits
for files in the folder --work: FINISH ends it as done, FAIL as failed, STOP as stopped, DIE at once.
`tests/training/test_add_on.py` holds its files to those of the real training.
"""

import argparse
import json
import os
import struct
import sys
import time
import zlib
from pathlib import Path

CLIPS = [
    {"name": "anna.mp4", "person": "anna", "seconds": 60.0, "usable": 48.0, "faces": 1, "rejected": {"turned": 0.2},
     "error": ""},
    {"name": "empty.mp4", "person": "empty", "seconds": 0.0, "usable": 0.0, "faces": 0, "rejected": {},
     "error": "empty.mp4 is empty (0 bytes)."},
]  # fmt: skip
REPORT = {
    "format": 1, "ok": True, "problem": "", "hint": "", "size": 64, "clips": CLIPS, "seconds": 60.0, "usable": 48.0,
    "reasons": {"turned": "turned away"}, "least": 20.0, "disk_needed": 40_000_000, "disk_free": 90_000_000_000,
    "memory_needed": 60_000_000, "minutes_to_prepare": 2.0, "minutes": 480.0, "step_seconds": 0.5, "steps": 15_000,
    "steps_advised": 4_000, "minutes_advised": 128,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("footage", "person"))
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path)
    for name in ("--size", "--threads", "--devices"):
        parser.add_argument(name, type=int)
    for name in ("--start", "--bank", "--progress"):
        parser.add_argument(name)
    parser.add_argument("--minutes", type=float)
    for name in ("--consent", "--check"):
        parser.add_argument(name, action="store_true")
    options = parser.parse_args()
    options.work = options.work or options.out.with_suffix(".work")
    options.work.mkdir(exist_ok=True)
    if options.check:
        write(options.work / "check.json", REPORT)
    elif not options.consent:
        sys.exit("The recordings need the option --consent.")
    else:
        train(options)


def train(options: argparse.Namespace) -> None:
    status = {
        "format": 1, "kind": options.kind, "state": "running", "phase": "self", "phases": ["self"], "step": 0,
        "share": 0.0, "minutes_left": options.minutes, "psnr": None, "sentence": "Learning to draw (step 1 of 1).",
        "sheet": "", "bank": "", "message": "", "hint": "", "log": "", "pid": os.getpid(), "started": time.time(),
        "updated": 0.0,
    }  # fmt: skip
    ends = {"FINISH": "done", "FAIL": "failed", "STOP": "stopped"}
    sheet = options.work / "sheet.png"
    sheet.write_bytes(picture())
    while not (ended := [word for word in ends if (options.work / word).exists()]):
        if (options.work / "DIE").exists():
            os._exit(9)
        status |= {"step": status["step"] + 50, "share": 0.25, "psnr": 21.5, "sheet": str(sheet)}
        write(options.work / "status.json", status | {"updated": time.time()})
        time.sleep(0.02)
    (options.work / ended[0]).unlink()
    state = ends[ended[0]]
    if state == "failed":
        status |= {"message": "The training became unstable.", "hint": "Choose other clips."}
    else:
        options.out.write_bytes(Path(os.environ["FAKE_BANK"]).read_bytes() if "FAKE_BANK" in os.environ else b"bank")
        status |= {"bank": str(options.out), "message": "The training is done." if state == "done" else "Stopped."}
    status |= {"state": state, "share": 1.0 if state == "done" else 0.25, "sentence": status["message"]}
    write(options.work / "status.json", status)


def picture() -> bytes:
    """A PNG of one grey pixel."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0\x80")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in parts)


def write(path: Path, content: object) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content))
    partial.replace(path)


if __name__ == "__main__":
    main()
