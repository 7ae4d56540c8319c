"""Write to a pipe that the other process may not read, without waiting for it.

A pipe that nobody reads becomes full after some 64 kB, and writing to it then waits for ever. Windows cannot tell
whether a pipe has room, so a thread writes, and the others only queue what it has to write.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable


class PipeWriter:
    """Writes pieces of data in their order, in a thread of its own.

    write: writes one piece completely; it may wait. failed: called in the thread if it raises OSError, because the
    other process has closed the pipe; nothing is written afterwards. limit: bytes that may wait to be written.
    """

    def __init__(self, write: Callable[[bytes], object], failed: Callable[[OSError], object], limit: int) -> None:
        self._write, self._failed, self._limit = write, failed, limit
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()  # the piece that is being written first
        self._bytes = self._written = 0  # bytes that wait, and pieces that were written
        self._closed = self._broken = False
        threading.Thread(target=self._run, daemon=True).start()

    def put(self, *pieces: bytes, wait: bool = True) -> None:
        """Write all pieces, without others in between. wait: first wait while the limit is exceeded, until `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._bytes <= self._limit or self._closed or not wait)
            self._append(pieces)

    def offer(self, piece: bytes) -> None:
        """Write a piece, or leave it out if the limit is exceeded."""
        with self._changed:
            if self._bytes <= self._limit:
                self._append((piece,))

    def close(self) -> None:
        """No longer wait in `put`, whatever the limit is."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def drain(self, patience: float) -> bool:
        """Wait until everything is written. Gives up and returns False if nothing was read for `patience` seconds."""
        with self._changed:
            before, until = self._written, time.monotonic() + patience
            while self._waiting:
                if not self._changed.wait(until - time.monotonic()) and self._written == before:
                    return False
                if self._written != before:
                    before, until = self._written, time.monotonic() + patience
            return True

    def _append(self, pieces: tuple[bytes, ...]) -> None:
        if self._broken:
            return
        self._waiting.extend(pieces)
        self._bytes += sum(map(len, pieces))
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                piece = self._waiting[0]
            try:
                self._write(piece)
            except OSError as error:
                self._failed(error)
                with self._changed:
                    self._waiting.clear()
                    self._bytes, self._broken = 0, True
                    self._changed.notify_all()
                return
            with self._changed:
                self._waiting.popleft()
                self._bytes -= len(piece)
                self._written += 1
                self._changed.notify_all()
