"""Measures everything that an artist waits for, in one run: `bench --all`.

Rates of a shared machine drift within seconds. Each rate is therefore measured in turns with a matrix product of the
same number of threads, and given relative to it too.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from ..contract import protocol
from ..contract.bank import STARTER, Bank, load_bank
from ..contract.demo import LINE, PORTRAIT
from ..contract.errors import EDTalkError
from ..contract.requests import LipSync, Preview, Request
from ..face.framing import cut_at, frame_picture
from ..lanes import Lanes
from ..media.picture import load_picture
from ..media.sound import RATE, load_speech
from ..model.insets import Insets
from ..model.refiner import Refiner
from ..renderer import FaceRenderer
from ..tables import FOLDER
from . import render
from .bench import MATRIX, RandomBank, draw, flops, multiply, peak_memory_mib, seconds_of

SIZES = 128, 512, 1024  # pixels of a frame; the first is the starter bank's own
ROWS = 64  # frames rendered in one turn
TURNS = 5
PREVIEWS = 40
SECONDS = 10.0  # of speech
CARD_MATRIX, CARD_TURNS = 8192, 16  # on a graphics card: side of the matrix, and repetitions of ROWS in one turn
CLIP_FPS = 25
ROOT = Path(__file__).resolve().parents[2]


def run(device: str = "auto", threads: int | None = None, turns: int = TURNS) -> dict[str, Any]:
    """Measure. Returns figures by name, all as JSON values.

    threads: see `FaceRenderer`. turns: repetitions of each rate, of which medians are given. The bank
    is the starter bank, the face is the demo's portrait. In every frame, head, mouth, eyes and brows move.
    """
    os.environ[FOLDER] = ""  # else capture and dubbing would use what an earlier repetition read
    bank = load_bank(STARTER)
    renderer = FaceRenderer(bank, device, threads)
    figures: dict[str, Any] = {"machine": machine(renderer), "frames": {}, "beside_one_busy_loop": {}}
    picture = load_picture(PORTRAIT).opaque
    square = frame_picture(picture, bank.config.size, "auto", label=PORTRAIT.name)
    rows = moving(renderer, picture, square)
    for size in SIZES:
        _set_source(renderer, picture, square, size)
        figures["frames"][str(size)] = rates(renderer, rows, turns) | latencies(renderer, rows)
        figures["frames"][str(size)]["stages_ms_cpu"] = stages(renderer, rows)
    figures["work"] = work(renderer, rows)
    with busy_loop():
        for size in SIZES[:2]:
            _set_source(renderer, picture, square, size)
            beside = rates(renderer, rows, turns)
            share = beside["frames_per_second"] / figures["frames"][str(size)]["frames_per_second"]
            figures["beside_one_busy_loop"][str(size)] = beside | {"share_of_quiet_rate": share}
    figures["official_size"] = official(device, turns)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        count = round(load_speech(LINE)[1] * CLIP_FPS)  # dubbing with a longer line would repeat the clip
        _write_clip(renderer, picture, square, np.resize(rows, (count, rows.shape[1])), clip)
        figures["capture"] = capture_rate(renderer, clip, count)
        figures["dubbing"] = dubbing_rate(clip, count, Path(folder) / "dubbed.mp4", device)
    figures["worker"] = worker_times(device)
    figures["peak_memory_mib"] = peak_memory_mib()
    if renderer.device.type == "cuda":
        figures["peak_card_memory_mib"] = torch.cuda.max_memory_allocated(renderer.device) / 2**20
    return figures


def machine(renderer: FaceRenderer) -> dict[str, Any]:
    """A description of this computer and of the settings of the measurement."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    on_gpu = renderer.device.type == "cuda"
    return {
        "system": platform.platform(),
        "processor": name,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "device": torch.cuda.get_device_name(renderer.device) if on_gpu else str(renderer.device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "lanes": renderer.lanes.count,
        "batch": renderer.batch,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "painting": str(renderer.painting).removeprefix("torch."),
        "card": card(renderer.device) if on_gpu else None,
    }


def card(device: torch.device) -> dict[str, Any]:
    """A description of a graphics card and its driver."""
    properties, driver = torch.cuda.get_device_properties(device), None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
        driver = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout.split()[0]
    return {
        "name": properties.name,
        "memory_mib": properties.total_memory / 2**20,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "driver": driver,
        "cuda": torch.version.cuda,
    }


def moving(renderer: FaceRenderer, picture: np.ndarray, square: Any) -> np.ndarray:
    """(ROWS, n) rows in which all coefficients move smoothly; the emotion is constant."""
    _set_source(renderer, picture, square, renderer.config.size)
    random, names = np.random.default_rng(0), renderer.bank.names
    turns, phases = random.integers(1, 4, len(names)), random.uniform(0, 2 * np.pi, len(names))
    time_ = np.arange(ROWS)[:, None] / ROWS
    rows = renderer.source_coefficients.values + 0.3 * np.sin(2 * np.pi * (turns * time_ + phases))
    columns = renderer.config.bank_slices.get("exp", slice(0))
    rows[:, columns] = rows[0, columns]
    return rows.astype(np.float32)


def rates(renderer: FaceRenderer, rows: np.ndarray, turns: int) -> dict[str, float]:
    """Frames per second, the matrix rate in the same turns, and processor time.

    A turn ends when the last frame is in the computer's memory, so a graphics card is waited for.
    """
    matrix, warm_up = torch.rand(MATRIX, MATRIX, device=renderer.device), rows[: 2 * renderer.batch]
    if renderer.device.type == "cuda":  # a product that fills the card, in the precision of most convolutions
        matrix = torch.rand(CARD_MATRIX, CARD_MATRIX, device=renderer.device, dtype=renderer.painting)
        rows = warm_up = np.tile(rows, (CARD_TURNS, 1))
    draw(renderer, warm_up)
    multiply(matrix)
    frame, product, processor = [], [], []
    for _ in range(turns):
        product.append(seconds_of(partial(multiply, matrix)))
        before = time.process_time()
        frame.append(seconds_of(partial(draw, renderer, rows)) / len(rows))
        processor.append((time.process_time() - before) / len(rows))
        product.append(seconds_of(partial(multiply, matrix)))
    matrix_rate = 2 * len(matrix) ** 3 / median(product) / 1e9
    return {
        "frames_per_second": 1 / median(frame),
        "fastest": 1 / min(frame),
        "slowest": 1 / max(frame),
        "processor_ms": median(processor) * 1e3,
        "matrix_gflops": matrix_rate,
        "frames_per_second_per_gflops": 1 / median(frame) / matrix_rate,
    }


def latencies(renderer: FaceRenderer, rows: np.ndarray) -> dict[str, float]:
    """Time of one frame drawn alone, as for a preview, without the way to Blender."""
    for row in rows[:3]:
        renderer.frame(row[None])
    times = [seconds_of(partial(renderer.frame, row[None])) * 1e3 for row in rows[:PREVIEWS]]
    return {f"alone_ms_{share}": float(np.percentile(times, share)) for share in (50, 95, 99)}


def stages(renderer: FaceRenderer, rows: np.ndarray) -> dict[str, float]:
    """Processor time of each part of a frame in ms, in one thread.

    On a graphics card elapsed time, with the card waited for after each part and without recorded batches.
    """
    spent: dict[str, float] = {}
    drawing_card = renderer._card

    def now() -> float:
        if drawing_card is None:
            return time.thread_time()
        if renderer.device.type == "cuda":
            torch.cuda.synchronize(renderer.device)
        return time.perf_counter()

    def timed(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            before = now()
            result = inner(*args)
            spent[name] = spent.get(name, 0.0) + now() - before
            return result

        return call

    correction, lanes = renderer._correction, renderer.lanes
    kept = renderer._draw, renderer._pictures
    renderer.lanes = Lanes(1)
    renderer._draw = timed("generator", renderer._draw)
    renderer._pictures = timed("detail and insets over the picture", renderer._pictures)  # type: ignore[method-assign]
    if correction is not None:
        correction.correct = timed("correction", correction.correct)  # type: ignore[method-assign]
        correction._insets = timed("insets", correction._insets)  # type: ignore[method-assign]
    records = drawing_card is not None and drawing_card.graphs.enabled
    if drawing_card is not None:
        drawing_card.graphs.enabled = False
    try:
        before = now()
        draw(renderer, rows)
        total = now() - before
    finally:
        renderer.lanes = lanes
        if drawing_card is not None:
            drawing_card.graphs.enabled = records
        renderer._draw, renderer._pictures = kept  # type: ignore[method-assign]
        if correction is not None:
            del correction._insets, correction.correct
    spent["refiner"] = spent.pop("correction", 0.0) - spent.get("insets", 0.0)
    spent["other"] = total - sum(spent.values())
    return {name: value / len(rows) * 1e3 for name, value in sorted(spent.items())}


def work(renderer: FaceRenderer, rows: np.ndarray) -> dict[str, float]:
    """Operators and floating-point operations of a frame, the latter of a direct implementation of all networks."""
    lanes, renderer.lanes = renderer.lanes, Lanes(1)
    try:
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            draw(renderer, rows[: 4 * renderer.batch])
    finally:
        renderer.lanes = lanes
    operators = sum(event.count for event in profiler.key_averages() if event.key.startswith("aten::"))
    networks, size = renderer.reader.networks, renderer.config.size
    correcting = 0
    if networks.refiner is not None:
        picture = torch.rand(1, 3, size, size, device=renderer.device) * 2 - 1
        correcting = correction_flops(networks.refiner, networks.insets, picture)
    generator = flops(renderer.config)["decode"]
    return {
        "operators_per_frame": operators / (4 * renderer.batch),
        "generator_gflop": generator / 1e9,
        "refiner_and_insets_gflop": correcting / 1e9,
        "gflop_per_frame": (generator + correcting) / 1e9,
    }


@torch.no_grad()
def correction_flops(refiner: Refiner, insets: Insets | None, picture: torch.Tensor) -> int:
    """Work of the readable refiner and insets for one frame. picture: (1, 3, S, S)."""
    motion, own = refiner.motion_fields(picture), refiner.read(picture)
    source = None if insets is None else insets.prepare(picture, motion, insets.find_anchors(picture))
    alpha, flow = own + 0.3, torch.zeros_like(picture)
    with FlopCounterMode(display=False) as counter:
        refined = refiner(picture, motion, own, flow, picture, alpha)
        if insets is not None and source is not None:
            pose = insets.get_buffer("pose")
            turned = refiner.motion_weights(alpha * pose) - refiner.motion_weights(own * pose)
            insets(source, turned, alpha - own, refined.positions, refined.residual, alpha)
    return int(counter.get_total_flops())


def official(device: str, turns: int) -> dict[str, float]:
    """A bank of the published size with random weights: frames of given coefficients."""
    bank: Bank = RandomBank.of()
    renderer, random = FaceRenderer(bank, device), np.random.default_rng(0)
    size = bank.config.size
    renderer.set_source(random.integers(0, 256, (size, size, 3)).astype(np.uint8))
    count = 2 * renderer.batch * renderer.lanes.count
    rows = renderer.source_coefficients.values + random.standard_normal((count, len(bank.names))) * 0.5
    columns = bank.config.bank_slices.get("exp", slice(0))
    rows[:, columns] = rows[0, columns]
    figures = rates(renderer, rows.astype(np.float32), turns)
    gflop = flops(bank.config)["decode"] / 1e9
    return figures | {
        "gflop_per_frame": gflop,
        "share_of_matrix_rate": gflop * figures["frames_per_second_per_gflops"],
    }


def capture_rate(renderer: FaceRenderer, clip: Path, count: int) -> dict[str, float]:
    """Frames per second of capture from a clip of 512 px and `count` frames, with finding and following the face."""
    from ..capture import capture
    from ..media.clip import Clip

    def captured() -> None:
        capture(renderer, Clip.at_own_rate(clip), "auto")

    captured()
    before, seconds = time.process_time(), seconds_of(captured)
    return {
        "frames_per_second": count / seconds,
        "processor_ms": (time.process_time() - before) / count * 1e3,
    }


def dubbing_rate(clip: Path, count: int, out: Path, device: str) -> dict[str, float]:
    """Frames per second of `render --source CLIP --mask mouth`, from reading the clip to the finished movie.

    count: frames of the clip, which is as long as the demo's line.
    """
    words = ["--source", clip, "--audio", LINE, "--paste-back", "--mask", "mouth", "--device", device]
    before, started = time.process_time(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            code = render.run(render.parse_words([*words, "--overwrite", "--out", out]))
        except EDTalkError as error:
            return {"error": str(error)}  # type: ignore[dict-item]
    if code:
        return {"error": "interrupted"}  # type: ignore[dict-item]
    return {
        "frames_per_second": count / (time.perf_counter() - started),
        "processor_ms": (time.process_time() - before) / count * 1e3,
    }


def worker_times(device: str) -> dict[str, Any]:
    """Start-up of a second worker, its first and second lip sync, and previews as Blender asks for them."""
    samples, _ = load_speech(LINE)
    samples = np.resize(samples, int(SECONDS * RATE)).astype(np.float32)
    speech = LipSync(None, RATE, samples, np.arange(0.0, SECONDS, 1 / 25))
    with _Client(device):
        pass  # the files of the first start come from the disk
    with _Client(device) as client:
        found: dict[str, Any] = {"ready_s": client.ready}
        found["first_lip_sync_s"], found["next_lip_sync_s"] = (client.seconds(speech) for _ in range(2))
        rest = np.zeros(len(load_bank(STARTER).names), np.float32)
        for size in SIZES[:2]:
            found[f"first_preview_{size}_s"] = client.seconds(Preview(None, PORTRAIT, "auto", rest, size))
            rows = np.random.default_rng(0).uniform(-0.3, 0.3, (PREVIEWS, len(rest))).astype(np.float32)
            times = [client.seconds(Preview(None, PORTRAIT, "auto", row, size)) * 1e3 for row in rows]
            found |= {f"preview_{size}_ms_{share}": float(np.percentile(times, share)) for share in (50, 95, 99)}
    return found


class _Client:
    """A worker process, as Blender starts it."""

    def __init__(self, device: str) -> None:
        started = time.perf_counter()
        command = [sys.executable, "-m", "inference", "worker", "--device", device]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, cwd=ROOT, **pipes)
        self._job = 0
        self._read("hello")
        self.ready = time.perf_counter() - started

    def seconds(self, request: Request) -> float:
        """The time until a request is answered."""
        assert self._process.stdin is not None
        self._job += 1
        started = time.perf_counter()
        protocol.write(self._process.stdin, request.to_message(self._job))
        self._process.stdin.flush()
        self._read("done", "error")
        return time.perf_counter() - started

    def _read(self, *kinds: str) -> protocol.Message:
        assert self._process.stdout is not None
        while (message := protocol.read(self._process.stdout)) is not None:
            if message.kind in kinds:
                if message.kind == "error":
                    raise RuntimeError(str(message.fields))
                return message
        raise RuntimeError("The worker has ended.")

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def busy_loop() -> Iterator[subprocess.Popen[bytes]]:
    """One process that uses a core all the time."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.5)
        yield process
    finally:
        process.kill()
        process.wait()


def chart(figures: dict[str, Any]) -> str:
    """An SVG picture of where a frame's time goes, for each size."""
    colours = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377")
    frames = figures["frames"]
    names = list(next(iter(frames.values()))["stages_ms_cpu"])
    longest = max(sum(row_figures["stages_ms_cpu"].values()) for row_figures in frames.values())
    lines = []
    for row, (size, row_figures) in enumerate(frames.items()):
        left, top = 90.0, 20 + 40 * row
        lines.append(f'<text x="80" y="{top + 18}" text-anchor="end">{size} px</text>')
        for name, colour in zip(names, colours, strict=False):
            width = 560 * row_figures["stages_ms_cpu"][name] / longest
            lines.append(f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="26" fill="{colour}"/>')
            left += width
        total = sum(row_figures["stages_ms_cpu"].values())
        lines.append(f'<text x="{left + 6:.1f}" y="{top + 18}">{total:.1f} ms</text>')
    for place, (name, colour) in enumerate(zip(names, colours, strict=False)):
        x, y = 90 + 250 * (place % 3), 40 * len(frames) + 40 + 24 * (place // 3)
        lines.append(f'<rect x="{x}" y="{y}" width="14" height="14" fill="{colour}"/>')
        lines.append(f'<text x="{x + 20}" y="{y + 12}">{escape(name)}</text>')
    height = 40 * len(frames) + 100
    font = 'font-family="sans-serif" font-size="14"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{height}" {font}>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *lines, "</svg>\n"])


def format_text(figures: dict[str, Any]) -> str:
    """The figures of `run` as a readable table."""
    computer, work_, worker = figures["machine"], figures["work"], figures["worker"]
    lines = [
        f"{computer['processor']}, {computer['cores']} cores, on {computer['device']}, {computer['lanes']} lanes of "
        f"{computer['batch']} frames, torch {computer['torch']}, painting in {computer['painting']}, "
        f"load {computer['load_average']}",
        f"a frame: {work_['gflop_per_frame']:.2f} GFLOP in direct form, {work_['operators_per_frame']:.0f} operators",
    ]
    for size, row in figures["frames"].items():
        share = work_["gflop_per_frame"] * row["frames_per_second_per_gflops"]
        lines.append(
            f"{size:>5} px {row['frames_per_second']:6.1f} frames/s, {row['frames_per_second_per_gflops']:.2f} per "
            f"GFLOP/s of the matrix product ({share:.0%} of its rate), {row['processor_ms']:.1f} ms of processor "
            f"time; one frame alone {row['alone_ms_50']:.0f} ms, 95 % within {row['alone_ms_95']:.0f} ms"
        )
    for size, row in figures["beside_one_busy_loop"].items():
        lines.append(
            f"{size:>5} px {row['frames_per_second']:6.1f} frames/s beside one busy loop, "
            f"{row['share_of_quiet_rate']:.2f} of the quiet rate"
        )
    large, capture, dubbed = figures["official_size"], figures["capture"], figures["dubbing"]
    lines += [
        f"official size {large['frames_per_second']:.2f} frames/s, {large['share_of_matrix_rate']:.2f} of the matrix "
        "rate",
        f"capture {capture['frames_per_second']:.1f} frames/s, {capture['processor_ms']:.0f} ms of processor time",
        f"dubbing {dubbed['frames_per_second']:.1f} frames/s, {dubbed['processor_ms']:.0f} ms of processor time"
        if "error" not in dubbed
        else f"dubbing failed: {dubbed['error']}",
        f"worker ready after {worker['ready_s']:.2f} s; lip sync of {SECONDS:.0f} s: first "
        f"{worker['first_lip_sync_s']:.2f} s, next {worker['next_lip_sync_s']:.2f} s",
        *(
            f"preview at {size} px: {worker[f'preview_{size}_ms_50']:.0f} ms, 95 % within "
            f"{worker[f'preview_{size}_ms_95']:.0f} ms"
            for size in SIZES[:2]
        ),
        f"peak memory {figures['peak_memory_mib']:.0f} MiB" if figures["peak_memory_mib"] else "",
        f"peak memory of the card {figures['peak_card_memory_mib']:.0f} MiB" if computer["card"] else "",
    ]
    return "\n".join(line for line in lines if line)


def _set_source(renderer: FaceRenderer, picture: np.ndarray, square: Any, size: int) -> None:
    native = renderer.config.size
    renderer.set_source(cut_at(picture, square, native), cut_at(picture, square, size) if size > native else None)


def _write_clip(renderer: FaceRenderer, picture: np.ndarray, square: Any, rows: np.ndarray, path: Path) -> None:
    """Write a clip of 512 px in which the portrait moves, one frame for each row."""
    from ..media.video_writer import VideoWriter

    _set_source(renderer, picture, square, 512)
    with VideoWriter(path, CLIP_FPS, (512, 512)) as writer:
        for pixels in renderer.render(rows):
            writer.write(pixels)
