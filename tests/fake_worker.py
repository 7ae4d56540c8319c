"""A worker without networks, for tests: gives plausible answers at once and misbehaves on request.

    python tests/fake_worker.py [--slow 0.1] [--die-after 3] ...

Needs only the standard library and numpy. Its faces have one flat colour that depends on the coefficients; its lips
follow the loudness of the sound. `tests/inference/test_contract.py` holds it to the real worker's protocol.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import signal
import struct
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from inference.contract import answers, protocol, requests  # the checkout's, from wherever this file is started
from inference.contract.answers import Answer
from inference.contract.arkit import HEAD_AXES
from inference.contract.errors import EDTalkError
from inference.contract.expression import EMOTIONS, Suggestion
from inference.contract.plate import Track
from inference.contract.protocol import Message, ProtocolError
from inference.contract.references import Readings
from inference.contract.shot import Shot

STARTER = ROOT / "inference" / "banks" / "starter.safetensors"
SIZE = 16  # pixels


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beat", type=float, default=1.0, metavar="SECONDS", help="between two beats")
    parser.add_argument("--slow", type=float, default=0.0, metavar="SECONDS", help="that each frame or answer takes")
    parser.add_argument(
        "--hold",
        nargs=3,
        metavar=("KIND", "N", "FILE"),
        help="hold requests of a kind after N frames while FILE exists",
    )
    parser.add_argument(
        "--load", type=float, default=0.0, metavar="SECONDS", help="to load the bank of the first request"
    )
    parser.add_argument("--once", type=Path, metavar="FILE", help="misbehave only if FILE does not exist; create it")
    parser.add_argument("--exit", type=int, metavar="CODE", help="end at once, as if torch were missing")
    parser.add_argument("--no-hello", action="store_true", help="send nothing")
    parser.add_argument("--wrong-protocol", action="store_true", help="claim the next version of the protocol")
    parser.add_argument("--complain", action="store_true", help="send an error instead of hello, then exit")
    parser.add_argument("--deaf", type=float, default=0.0, metavar="SECONDS", help="before it starts to read stdin")
    parser.add_argument("--die-after", type=int, metavar="N", help="kill itself after N frames or answers")
    parser.add_argument("--die-with", metavar="SIGNAL", help="the signal or exit code for that", default="KILL")
    parser.add_argument("--say", metavar="TEXT", help="last line on stderr")
    parser.add_argument("--hang-after", type=int, metavar="N", help="stop working after N frames or answers")
    parser.add_argument("--garbage", action="store_true", help="answer the first request with text")
    parser.add_argument("--close-stdout", action="store_true", help="close stdout after the first request and live on")
    parser.add_argument("--stubborn", action="store_true", help="ignore cancel")
    parser.add_argument("--flood-stdout", type=int, default=0, metavar="N", help="progress messages per request")
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
        self.counts: Counter[str] = Counter()  # the same by kind of request
        self.kind = ""
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
            self.send(answers.Failure("device", "There is no device 'cuda'.", "Choose another device."))
            os._exit(2)
        version = protocol.VERSION + options.wrong_protocol
        python = platform.python_version()
        self.send(answers.Hello(version, "fake", "cpu", "Fake", os.getpid(), python, "none"))
        threading.Thread(target=self.beat, daemon=True).start()
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting)
                message = self.waiting.pop(0)
                self.busy = message.job
            self.answer(message)
            self.busy = None

    def listen(self) -> NoReturn:
        """Read requests; the end of stdin ends the process, even during a frame."""
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
                        self.send(answers.Stopped(superseded=True), older.job)
                self.waiting.append(message)
                self.changed.notify()
        os._exit(0)

    def beat(self) -> NoReturn:
        while True:
            time.sleep(self.options.beat)
            self.send(answers.Beat(self.busy, 2**20, None))

    def send(self, answer: Answer, job: int = 0) -> None:
        with self.writing:
            try:
                protocol.write(self.stdout, answer.to_message(job))
            except OSError:
                os._exit(0)

    def answer(self, message: Message) -> None:
        options, job, self.kind = self.options, message.job, message.kind
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
        try:
            request = requests.read_request(message)
        except ProtocolError as error:
            self.send(answers.Failure.of(error), job)
            return
        if message.kind in ("ping", "release"):
            self.send(answers.Done(), job)
            return
        self.send(answers.Accepted(), job)
        if options.load:
            self.send(answers.Progress("loading", 0, 1), job)
            time.sleep(options.load)
            options.load = 0.0
        for index in range(options.flood_stdout):
            self.send(answers.Progress("flooding" * 100, index, options.flood_stdout), job)
        try:
            if stills := message.fields.get("stills"):
                result = self.draw_stills(request, job, stills)
            else:
                result = getattr(self, f"do_{message.kind}")(request, job)
        except CancelledError:
            self.send(answers.Stopped(), job)
        except EDTalkError as error:
            self.send(answers.Failure.of(error), job)
        except Exception as error:
            self.send(answers.Failure("bug", str(error), "Try something else."), job)
        else:
            self.send(result, job)

    def work(self, job: int) -> None:
        """One unit of work, which takes `--slow` seconds, may be held and may be cancelled."""
        options, until = self.options, time.monotonic() + self.options.slow
        while True:
            if job in self.cancelled:
                raise CancelledError
            if time.monotonic() >= until and not self.is_held():
                break
            time.sleep(0.01 if options.hold else min(0.01, options.slow))
        if self.count == options.die_after:
            die(options.die_with, options.say)
        if self.count == options.hang_after:
            self.writing.acquire()  # stops the beats
            sleep_forever()
        self.count += 1
        self.counts[self.kind] += 1

    def is_held(self) -> bool:
        if not self.options.hold:
            return False
        kind, count, file = self.options.hold
        return self.kind == kind and self.counts[kind] >= int(count) and Path(file).exists()

    # ---------------------------------------------------------------------------------------- answers

    def do_portrait(self, request: requests.Portrait, job: int) -> Answer:
        request.picture.stat()
        self.work(job)
        rest = {entry["name"]: entry["rest"] for entry in read_coefficients(request.bank)}
        crop = (0.0, 0.0, float(SIZE)) if request.crop == "auto" else request.crop
        pixels = np.broadcast_to(np.uint8([128, 96, 64]), (SIZE, SIZE, 3))
        return answers.PortraitResult(rest, crop[:3] if crop != "none" else crop, 0.0, pixels)

    def do_lip_sync(self, request: requests.LipSync, job: int) -> Answer:
        """The jaw opens with the loudness around each time; all other coefficients are at rest."""
        self.work(job)
        lips = [entry for entry in read_coefficients(request.bank) if entry["bank"] == "lip"]
        names = [entry["name"] for entry in lips]
        jaw = names.index("jawOpen") if "jawOpen" in names else 0
        rows = np.tile(np.float32([entry["rest"] for entry in lips]), (len(request.times), 1))
        half = request.rate // 50
        for row, time_ in zip(rows, request.times, strict=True):
            middle = round(time_ * request.rate)
            heard = request.samples[max(middle - half, 0) : max(middle + half, 0)]
            row[jaw] += min(4 * float(np.abs(heard).mean()), 1.0) if len(heard) else 0.0
        self.send(answers.Progress("analyzing", len(rows), len(rows), 0.0), job)
        return answers.LipSyncResult(tuple(names), rows)

    def do_perform(self, request: requests.Perform, job: int) -> Answer:
        """Each head coefficient swings by 0.2 once in 2 s, from a phase that depends on the seed and its number.

        From 0.5 s to 1.5 s the emotion is the one that the text names, else happy, of strength 0.8. Brows rise and eyes
        close for 0.2 s in every second; the eyes look 5 degrees to the right in every other second.
        """
        if not request.media.exists():
            raise ValueError(f"{request.media} does not exist.")
        self.work(job)
        known, times = [entry["name"] for entry in read_coefficients(request.bank)], request.times
        names = [name for name in known if name.startswith("head") and "head" in request.want]
        phases = np.add.outer(np.float64(request.seeds), np.arange(len(names)))
        rows = 0.2 * np.sin(np.pi * times[:, None] + phases[:, None])
        gain, found = request.sway + request.nods, {}
        if "emotion" in request.want:
            said = " ".join(one.text for one in request.texts)
            kind = next((name for name in EMOTIONS if name in said), "happy")
            emotions = np.zeros((len(times), len(EMOTIONS)), np.float32)
            emotions[(times >= 0.5) & (times <= 1.5), EMOTIONS.index(kind)] = 0.8
            note = "" if said else "There is no text."
            found = {"emotions": emotions, "suggestions": (Suggestion(0.5, 1.5, kind, 0.8),), "emotion_note": note}
        now = (np.floor(times * 5) % 5 == 2).astype(np.float32)[:, None]
        if "brows" in request.want:
            brows = tuple(name for name in ("browInnerUp", "browOuterUp") if name in known)
            found |= {"brow_names": brows, "brows": np.tile(0.4 * now, (1, len(brows)))}
        if "blinks" in request.want:
            found["blinks"] = now
        if "gaze" in request.want:
            found["gaze"] = np.stack([5.0 * (np.floor(times) % 2), 0 * times], axis=1).astype(np.float32)
        return answers.PerformResult(tuple(names), np.float32(gain / 2 * rows), **found)

    def do_capture(self, request: requests.Capture, job: int) -> Answer:
        """Recordings last 2 s, at 25 fps unless requested otherwise. Column c is c / 10 + the time in seconds."""
        if not request.media.exists():
            raise ValueError(f"{request.media} does not exist.")
        fps, start = request.fps or 25.0, request.start
        start = int((start + 0.002) * fps) / fps if request.fps is None else start
        end = 2.0 if request.end is None else min(request.end, 2.0)
        count = 1 if request.media.suffix == ".png" else max(1, math.ceil((end - start - 0.002) * fps))
        names, rows = [entry["name"] for entry in read_coefficients(request.bank)], []
        for index in range(count):
            self.work(job)
            self.send(answers.Progress("reading", index, count), job)
            rows.append(np.arange(len(names)) / 10 + start + index / fps)
        return answers.CaptureResult(tuple(names), np.float32(rows), fps, start)

    def do_track(self, request: requests.Track, job: int) -> Answer:
        """Recordings last 2 s, 640 x 360 at 25 fps; pictures of a folder have the same size.

        The square of 200 pixels moves right by one pixel per frame. If the name of the recording contains "leaves",
        frames 20 to 24 have no face.
        """
        media = request.media
        if not media.exists():
            raise ValueError(f"{media} does not exist.")
        still = media.is_dir() or media.suffix == ".png"
        files = sorted(media.iterdir()) if media.is_dir() else [media]
        count, length = (len(files), 1.0) if still else (50, 0.04)
        end = count * length if request.end is None else request.end
        shown = [n for n in range(count) if (n + 1) * length > request.start + 1e-3 and n * length < end - 1e-3]
        crops = []
        for done, number in enumerate(shown):
            self.work(job)
            self.send(answers.Progress("tracking", done, len(shown)), job)
            gone = "leaves" in media.name and 20 <= number < 25
            crops.append([math.nan] * 4 if gone else [100.0 + number, 50.0, 200.0, 0.0])
        track = Track(np.array(shown) * length, np.array(crops))
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
        note = f"No face was seen in {media.name} from 0.80 s to 0.96 s (5 frames)." if track.unseen else ""
        fps = None if still else 25.0
        return answers.TrackResult(track, 640, 360, fps, digest, tuple(track.unseen), note)

    def do_read_plate(self, request: requests.ReadPlate, job: int) -> Answer:
        """The jaw opens and closes every ten frames; everything else is at rest."""
        names = [entry["name"] for entry in read_coefficients(request.bank)]
        rows = np.zeros((len(request.track), len(names)))
        rows[:, 0] = np.abs(np.arange(len(rows)) % 10 - 5) / 5
        rows[np.isnan(request.track.crops[:, 2])] = np.nan
        self.work(job)
        self.send(answers.Progress("comparing", 0, len(rows)), job)
        return answers.ReadPlateResult(Readings(rows, np.column_stack([rows[:, 1] + 1, rows[:, 1] + 7])))

    def do_explore(self, request: requests.Explore, job: int) -> Answer:
        """The first lip coefficient opens the jaw, the first pose coefficient turns the head by 20 degrees.

        The further pose coefficients move it along the further axes.
        """
        motions, first = [], {"lip": ("jaw", "jawOpen", 4.0), "pose": ("head", "headYaw", 0.05)}
        axes = iter(zip(HEAD_AXES, (20.0, 10.0, 10.0, 0.1, 0.1, 0.1), strict=True))
        for entry in read_coefficients(request.bank):
            self.work(job)
            region, name, share = first.pop(entry["bank"], ("none", entry["name"], 0.0))
            arkit = {name: share} if share else {}
            shares = {region: 1.0} if share else {}
            axis = next(axes, None) if entry["bank"] == "pose" else None
            moves = dict([axis]) if axis else {}
            found = (entry["name"], region, shares, 1.0, share, (0.0, 1.0), 0.0, name, -1.0, 4.0, arkit, moves)
            motions.append(answers.Motion(*found))
        return answers.ExploreResult(tuple(motions))

    def do_preview(self, request: requests.Preview, job: int) -> Answer:
        self.work(job)
        pixels = np.frombuffer(colour(request.coefficients.tobytes()), np.uint8)
        side = max(request.size, SIZE)
        return answers.PreviewResult(np.broadcast_to(pixels, (side, side, 3)))

    def do_render(self, request: requests.Render, job: int) -> Answer:
        """Draw the pictures of the shot's rows that do not exist yet."""
        shot = Shot.read(request.shot)
        draw = {"plate": layer_png, "pasted": plate_png}.get(shot.layer, png)
        rows = [row.tobytes() for row in shot.coefficients.values]
        wanted = range(*request.rows) if request.rows else range(len(rows))
        return self.draw_rows(job, shot.frames_folder, shot.file_names(), rows, draw, wanted)

    def do_encode(self, request: requests.Encode, job: int) -> Answer:
        """A file that names the pictures and the length of the sound."""
        began, names = time.monotonic(), [picture.name for picture in request.pictures]
        for done, picture in enumerate(request.pictures):
            picture.stat()
            self.work(job)
            self.send(answers.Progress("encoding", done + 1, len(names), 0.0), job)
        sound = request.sound.stat().st_size if request.sound else 0
        text = json.dumps({"pictures": names, "fps": request.fps, "codec": request.codec, "width": request.width,
                           "sound": sound})  # fmt: skip
        write_whole(request.movie, text.encode())
        return answers.EncodeResult(len(names), time.monotonic() - began)

    def draw_stills(self, request: requests.Render, job: int, count: int) -> Answer:
        """Draw `count` pictures into the folder of a render request, without a shot."""
        names = [f"{index:04}.png" for index in range(count)]
        rows = [np.float32(index / count).tobytes() for index in range(count)]
        return self.draw_rows(job, request.shot, names, rows, png)

    def draw_rows(
        self,
        job: int,
        folder: Path,
        names: list[str],
        rows: list[bytes],
        draw: Callable[[bytes], bytes],
        wanted: range | None = None,
    ) -> Answer:
        began = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        counts, cancelled = {True: 0, False: 0}, False
        wanted = range(len(rows)) if wanted is None else wanted
        for done, index in enumerate(wanted, 1):
            name, row = names[index], rows[index]
            reused = (folder / name).is_file()
            if not reused:
                try:
                    self.work(job)
                except CancelledError:
                    cancelled = True
                    break
                write_whole(folder / name, draw(colour(row)))
            counts[reused] += 1
            self.send(answers.FrameFile(index, name, reused), job)
            left = (len(wanted) - done) * self.options.slow
            self.send(answers.Progress("rendering", done, len(wanted), left), job)
        return answers.RenderResult(counts[False], counts[True], cancelled, time.monotonic() - began)


class CancelledError(Exception):
    pass


def private_streams() -> tuple[BinaryIO, BinaryIO]:
    """stdin and stdout for messages only; printed text goes to stderr."""
    descriptors = os.dup(0), os.dup(1)
    if os.name == "nt":
        import msvcrt

        for descriptor in descriptors:
            msvcrt.setmode(descriptor, os.O_BINARY)
    os.dup2(2, 1)
    return os.fdopen(descriptors[0], "rb"), os.fdopen(descriptors[1], "wb")


def read_coefficients(bank: Path | None) -> list[dict[str, Any]]:
    """name, bank and rest of each coefficient, from the header of a bank file; None is the embedded bank."""
    with (bank or STARTER).open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(json.loads(file.read(length))["__metadata__"]["edtalk"])["coefficients"]


def colour(row: bytes) -> bytes:
    """RGB bytes that depend on a row of coefficients."""
    return struct.pack("<I", zlib.crc32(row))[:3]


def png(rgb: bytes) -> bytes:
    return encode_png([rgb * SIZE] * SIZE, 2)


def plate_png(rgb: bytes) -> bytes:
    """A picture of the size of the recording in `do_track`."""
    return encode_png([rgb * 640] * 360, 2)


def layer_png(rgb: bytes) -> bytes:
    """The same, transparent except for the 320 columns in the middle."""
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
        except FileExistsError:  # behave this time
            options = argparse.Namespace(**(vars(options) | WELL_BEHAVED))
    Worker(options).run()


WELL_BEHAVED = {"exit": None, "no_hello": False, "wrong_protocol": False, "complain": False, "deaf": 0.0,
                "die_after": None, "hang_after": None, "garbage": False, "close_stdout": False,
                "stubborn": False}  # fmt: skip

if __name__ == "__main__":
    main()
