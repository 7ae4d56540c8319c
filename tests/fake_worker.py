"""A worker without an engine: speaks `contract.protocol`, answers plausibly and at once, and misbehaves on request.

    python tests/fake_worker.py [--slow 0.1] [--die-after 3] ...

Standard library only, but for `render`, which reads the shot as the real one does. Its faces are one flat colour that
depends on the coefficients, its lips follow the loudness of the sound.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import signal
import struct
import sys
import threading
import time
import zlib
from array import array
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from inference.contract import protocol  # the checkout's, from wherever this file is started
from inference.contract.protocol import Message

STARTER = ROOT / "inference" / "banks" / "starter.safetensors"
SIZE = 16  # pixels


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beat", type=float, default=1.0, metavar="SECONDS", help="between two beats")
    parser.add_argument("--slow", type=float, default=0.0, metavar="SECONDS", help="for every frame or answer")
    parser.add_argument("--once", type=Path, metavar="FILE", help="misbehave only if FILE is not there, and make it")
    parser.add_argument("--exit", type=int, metavar="CODE", help="end at once, as if torch were missing")
    parser.add_argument("--no-hello", action="store_true", help="say nothing at all")
    parser.add_argument("--wrong-protocol", action="store_true", help="speak the next version")
    parser.add_argument("--complain", action="store_true", help="an error about no job before the hello, then exit")
    parser.add_argument("--deaf", type=float, default=0.0, metavar="SECONDS", help="before it begins to read stdin")
    parser.add_argument("--die-after", type=int, metavar="N", help="frames or answers: kill -9 itself")
    parser.add_argument("--die-with", metavar="SIGNAL", help="instead of KILL, or an exit code", default="KILL")
    parser.add_argument("--say", metavar="TEXT", help="last words, on stderr")
    parser.add_argument("--hang-after", type=int, metavar="N", help="frames or answers: neither works nor beats")
    parser.add_argument("--garbage", action="store_true", help="answer the first request with no message")
    parser.add_argument("--close-stdout", action="store_true", help="after the first request, and live on")
    parser.add_argument("--stubborn", action="store_true", help="ignore cancel")
    parser.add_argument("--flood-stdout", type=int, default=0, metavar="N", help="reports of progress per request")
    parser.add_argument("--flood-stderr", type=int, default=0, metavar="BYTES", help="per request")
    return parser.parse_args()


class Worker:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.stdin, self.stdout = private_streams()
        self.changed = threading.Condition()
        self.waiting: list[Message] = []
        self.cancelled: set[int] = set()
        self.busy: int | None = None
        self.count = 0  # frames and answers
        self.writing = threading.Lock()

    def run(self) -> NoReturn:
        options = self.options
        if options.exit is not None:
            print("Traceback (most recent call last):", file=sys.stderr)
            print(options.say or "ModuleNotFoundError: No module named 'torch'", file=sys.stderr, flush=True)
            os._exit(options.exit)
        threading.Thread(target=self.listen, daemon=True).start()
        if options.no_hello:
            sleep_forever()
        if options.complain:
            self.send("error", 0, kind="device", message="There is no device 'cuda'.", hint="Choose another device.")
            os._exit(2)
        version = protocol.VERSION + options.wrong_protocol
        self.send("hello", protocol=version, engine="fake", device="cpu", device_name="Fake", pid=os.getpid())
        threading.Thread(target=self.beat, daemon=True).start()
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting)
                message = self.waiting.pop(0)
                self.busy = message.job
            self.answer(message)
            self.busy = None

    def listen(self) -> NoReturn:
        """The end of stdin is the end of everything, also in the middle of a frame."""
        time.sleep(self.options.deaf)
        while (message := protocol.read(self.stdin)) is not None and message.kind != "shutdown":
            with self.changed:
                if message.kind == "cancel":
                    if not self.options.stubborn:
                        self.cancelled.add(message.job)
                    continue
                if message.kind == "preview":
                    for older in [other for other in self.waiting if other.fields == message.fields]:
                        self.waiting.remove(older)
                        self.send("done", older.job, superseded=True)
                self.waiting.append(message)
                self.changed.notify()
        os._exit(0)

    def beat(self) -> NoReturn:
        while True:
            time.sleep(self.options.beat)
            self.send("beat", busy=self.busy, memory=2**20, device_memory=None)

    def send(self, kind: str, job: int = 0, payload: bytes = b"", /, **fields: Any) -> None:
        with self.writing:
            try:
                protocol.write(self.stdout, Message(kind, job, fields, payload))
            except OSError:
                os._exit(0)

    def answer(self, message: Message) -> None:
        options, job = self.options, message.job
        sys.stderr.write("x" * options.flood_stderr)
        if options.garbage:
            with self.writing:
                self.stdout.write(b"Hello, I am a library that prints.\n" * 3)
                self.stdout.flush()
            sleep_forever()
        if options.close_stdout:
            self.writing.acquire()
            self.stdout.close()
            sleep_forever()
        if message.kind in ("ping", "release"):
            self.send("done", job)
            return
        self.send("accepted", job)
        for index in range(options.flood_stdout):
            self.send("progress", job, bytes(1000), phase="flooding", done=index, total=options.flood_stdout, eta=None)
        try:
            fields, payload = getattr(self, f"do_{message.kind}")(message)
        except CancelledError:
            fields, payload = {"cancelled": True}, b""
        except Exception as error:
            message, kind = getattr(error, "message", str(error)), getattr(error, "kind", "bug")
            self.send("error", job, kind=kind, message=message, hint="Try something else.")
            return
        self.send("done", job, payload, **fields)

    def work(self, job: int) -> None:
        """One unit of work: takes its time, may be cancelled, and may be the last."""
        options, until = self.options, time.monotonic() + self.options.slow
        while True:
            if job in self.cancelled:
                raise CancelledError
            if time.monotonic() >= until:
                break
            time.sleep(min(0.01, options.slow))
        if self.count == options.die_after:
            die(options.die_with, options.say)
        if self.count == options.hang_after:
            self.writing.acquire()  # so that there are no beats
            sleep_forever()
        self.count += 1

    # ---------------------------------------------------------------------------------------- answers

    def do_portrait(self, message: Message) -> tuple[dict[str, Any], bytes]:
        Path(message["picture"]).stat()
        self.work(message.job)
        rest = {entry["name"]: entry["rest"] for entry in read_coefficients(message["bank"])}
        crop = [0.0, 0.0, float(SIZE)] if message["crop"] == "auto" else message["crop"]
        return {"rest": rest, "crop": crop, "angle": 0.0, "size": SIZE}, bytes([128, 96, 64] * SIZE * SIZE)

    def do_lip_sync(self, message: Message) -> tuple[dict[str, Any], bytes]:
        """The jaw opens with the loudness around each moment; everything else rests."""
        sound, times = array("f"), array("d")
        sound.frombytes(message.payload[: 4 * message["samples"]])
        times.frombytes(message.payload[4 * message["samples"] :])
        if len(times) != message["times"]:
            raise ValueError(f"expected {message['times']} times, found {len(times)}")
        self.work(message.job)
        lips = [entry for entry in read_coefficients(message["bank"]) if entry["bank"] == "lip"]
        names = [entry["name"] for entry in lips]
        jaw = names.index("jawOpen") if "jawOpen" in names else 0
        half, rows = message["rate"] // 50, array("f")
        for moment in times:
            middle = round(moment * message["rate"])
            heard = sound[max(middle - half, 0) : max(middle + half, 0)]
            row = [entry["rest"] for entry in lips]
            row[jaw] += min(4 * sum(map(abs, heard)) / max(len(heard), 1), 1.0)
            rows.extend(row)
        self.send("progress", message.job, phase="listening", done=len(times), total=len(times), eta=0.0)
        return {"names": names, "frames": len(times)}, rows.tobytes()

    def do_capture(self, message: Message) -> tuple[dict[str, Any], bytes]:
        """Recordings are 2 s long, at 25 fps unless asked otherwise; column c is at c / 10 + the seconds gone by."""
        if not Path(message["media"]).exists():
            raise ValueError(f"{message['media']} does not exist.")
        fps, start = message["fps"] or 25.0, message["start"]
        start = int((start + 0.002) * fps) / fps if message["fps"] is None else start
        end = 2.0 if message["end"] is None else min(message["end"], 2.0)
        count = 1 if message["media"].endswith(".png") else max(1, math.ceil((end - start - 0.002) * fps))
        names, rows = [entry["name"] for entry in read_coefficients(message["bank"])], array("f")
        for index in range(count):
            self.work(message.job)
            self.send("progress", message.job, phase="watching", done=index, total=count, eta=None)
            rows.extend(column / 10 + start + index / fps for column in range(len(names)))
        fields = {"names": names, "frames": count, "fps": fps, "start": start, "unseen": [], "note": ""}
        return fields, rows.tobytes()

    def do_track(self, message: Message) -> tuple[dict[str, Any], bytes]:
        """Recordings are 2 s long, 640 x 360 at 25 fps, pictures of a folder as large; a folder is read file by file.

        The square of 200 pixels goes right by one a frame; in frames 20 to 24 of a name with "leaves" is no face.
        """
        media = Path(message["media"])
        if not media.exists():
            raise ValueError(f"{media} does not exist.")
        still = media.is_dir() or media.suffix == ".png"
        files = sorted(media.iterdir()) if media.is_dir() else [media]
        count, length = (len(files), 1.0) if still else (50, 0.04)
        end = count * length if message["end"] is None else message["end"]
        shown = [n for n in range(count) if (n + 1) * length > message["start"] + 1e-3 and n * length < end - 1e-3]
        rows, unseen = array("d"), []
        for done, number in enumerate(shown):
            self.work(message.job)
            self.send("progress", message.job, phase="tracking", done=done, total=len(shown), eta=None)
            gone = "leaves" in media.name and 20 <= number < 25
            rows.extend([number * length, *([math.nan] * 4 if gone else [100.0 + number, 50.0, 200.0, 0.0])])
            if gone:
                unseen = [[unseen[0][0] if unseen else done, done]]
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
        note = f"No face was seen in {media.name} at seconds 0.80 to 0.96 (5 frames)." if unseen else ""
        fields = {"frames": len(shown), "width": 640, "height": 360, "fps": None if still else 25.0, "sha256": digest}
        return fields | {"unseen": unseen, "note": note}, rows.tobytes()

    def do_explore(self, message: Message) -> tuple[dict[str, Any], bytes]:
        """The mouth's first opens the jaw, the head's first turns it by 20 degrees; of others nothing is known."""
        motions, first = [], {"lip": ("jaw", "jawOpen", 4.0), "pose": ("head", "headYaw", 0.05)}
        for entry in read_coefficients(message["bank"]):
            self.work(message.job)
            region, name, share = first.pop(entry["bank"], ("none", entry["name"], 0.0))
            arkit = {name: share} if share else {}
            motions.append({"name": entry["name"], "region": region, "suggestion": name, "arkit": arkit,
                            "soft_min": -1.0, "soft_max": 4.0})  # fmt: skip
        return {"motions": motions}, b""

    def do_preview(self, message: Message) -> tuple[dict[str, Any], bytes]:
        self.work(message.job)
        return {"size": SIZE}, colour(message.payload) * (SIZE * SIZE)

    def do_render(self, message: Message) -> tuple[dict[str, Any], bytes]:
        """Pictures of the shot's rows that are not there yet; `stills` = N needs no shot but draws N in its folder."""
        began = time.monotonic()
        if stills := message.fields.get("stills"):
            folder, names = Path(message["shot"]), [f"{index:04}.png" for index in range(stills)]
            rows = [array("f", [index / stills]).tobytes() for index in range(stills)]
            draw = png
        else:
            from inference.contract.shot import Shot

            shot = Shot.read(message["shot"])
            folder, names = shot.frames_folder, shot.file_names()
            rows = [row.tobytes() for row in shot.coefficients.values]
            draw = {"plate": layer_png, "pasted": plate_png}.get(shot.layer, png)
        folder.mkdir(parents=True, exist_ok=True)
        counts, cancelled = {True: 0, False: 0}, False
        for index, (name, row) in enumerate(zip(names, rows, strict=True)):
            reused = (folder / name).is_file()
            try:
                if not reused:
                    self.work(message.job)
            except CancelledError:
                cancelled = True
                break
            if not reused:
                write_whole(folder / name, draw(colour(row)))
            counts[reused] += 1
            self.send("frame_file", message.job, index=index, file=name, reused=reused)
            left = (len(names) - index - 1) * self.options.slow
            self.send("progress", message.job, phase="rendering", done=index + 1, total=len(names), eta=left)
        seconds = time.monotonic() - began
        return {"rendered": counts[False], "reused": counts[True], "cancelled": cancelled, "seconds": seconds}, b""


class CancelledError(Exception):
    pass


def private_streams() -> tuple[BinaryIO, BinaryIO]:
    """stdin and stdout for messages alone; what anybody prints goes to stderr."""
    descriptors = os.dup(0), os.dup(1)
    if os.name == "nt":
        import msvcrt

        for descriptor in descriptors:
            msvcrt.setmode(descriptor, os.O_BINARY)
    os.dup2(2, 1)
    return os.fdopen(descriptors[0], "rb"), os.fdopen(descriptors[1], "wb")


def read_coefficients(bank: str) -> list[dict[str, Any]]:
    """name, bank and rest of every coefficient, from the header of a bank file; "" is the embedded one."""
    with Path(bank or STARTER).open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(json.loads(file.read(length))["__metadata__"]["edtalk"])["coefficients"]


def colour(row: bytes) -> bytes:
    """Three bytes that differ where rows do."""
    return struct.pack("<I", zlib.crc32(row))[:3]


def png(rgb: bytes) -> bytes:
    return encode_png([rgb * SIZE] * SIZE, 2)


def plate_png(rgb: bytes) -> bytes:
    """A whole picture of the recording that `do_track` makes up."""
    return encode_png([rgb * 640] * 360, 2)


def layer_png(rgb: bytes) -> bytes:
    """The same, transparent but for the 320 columns in the middle."""
    return encode_png([bytes(4 * 160) + (rgb + b"\xff") * 320 + bytes(4 * 160)] * 360, 6)


def encode_png(lines: list[bytes], kind: int) -> bytes:
    """Lines of 8-bit RGB (kind 2) or RGBA (kind 6)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    width = len(lines[0]) // (3 if kind == 2 else 4)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(lines), 8, kind, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines), 1))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def write_whole(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)


def die(how: str, last_words: str | None) -> NoReturn:
    if last_words:
        print(last_words, file=sys.stderr, flush=True)
    if how.isdigit() or os.name == "nt":
        os._exit(int(how) if how.isdigit() else 1)
    os.kill(os.getpid(), getattr(signal, f"SIG{how}"))
    sleep_forever()


def sleep_forever() -> NoReturn:
    while True:
        time.sleep(1)


def main() -> NoReturn:
    options = parse()
    if options.once:
        try:
            options.once.touch(exist_ok=False)
        except FileExistsError:  # this time as it should be
            options = argparse.Namespace(**(vars(options) | MILD))
    Worker(options).run()


MILD = {"exit": None, "no_hello": False, "wrong_protocol": False, "complain": False, "deaf": 0.0, "die_after": None,
        "hang_after": None, "garbage": False, "close_stdout": False, "stubborn": False}  # fmt: skip

if __name__ == "__main__":
    main()
