"""Standard output and error of the service, written by threads that nobody waits for.

A terminal closes, the reader of a pipe ends or stops reading, a disk is full: then lines are lost
and counted, and the service goes on (docs/decisions/0043). What libraries in C and our child
processes write to descriptor 2 takes the same way.
"""

import atexit
import datetime
import io
import json
import os
import select
import sys
import threading
import time
from queue import SimpleQueue

from service.observability import metrics

MAX_WAITING_BYTES = 2**20  # of one stream; further lines are lost
MAX_LINE_BYTES = 2**16  # of what others write to descriptor 2; longer lines are cut in two
FLUSH_SECONDS = 1.0  # at exit, for all streams together


def take_over() -> None:
    """Replace sys.stdout, sys.stderr and descriptor 2, until the process ends.

    Call it once, from the main thread, with nothing to exec afterwards: descriptor 2 is a pipe to
    a thread of this process.
    """
    open_standard_streams()
    error = Output(os.dup(2), reports_loss=True)
    output = Output(os.dup(1))
    read_end, write_end = os.pipe()
    # C code may hold Python's global lock while it writes: waiting for our thread, it would wait
    # forever. What does not fit is lost.
    os.set_blocking(write_end, False)
    os.dup2(write_end, 2)
    os.close(write_end)
    relay = threading.Thread(target=_relay, args=(read_end, error), name="stderr", daemon=True)
    relay.start()
    sys.stdout, sys.stderr = output, error
    atexit.register(_flush, output, error, relay)


def open_standard_streams() -> None:
    """Open /dev/null for those of the descriptors 0 to 2 that are closed.

    Otherwise the next file or socket would get the number, and with it what is printed.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


class Output(io.TextIOBase):
    """A text stream that never blocks and never raises: a thread writes its lines to a descriptor.

    reports_loss: write how many lines were lost, as a line of the log, once there is room again.
    """

    def __init__(self, descriptor: int, *, reports_loss: bool = False) -> None:
        self._descriptor = descriptor
        self._reports_loss = reports_loss
        self._queue: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        # Reentrant: the garbage collector may run code that logs, anywhere.
        self._lock = threading.RLock()
        self._partial = ""
        self._waiting_bytes = 0
        self._lost = 0  # lines, since the last report
        threading.Thread(target=self._write_queue, name="output", daemon=True).start()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: str) -> int:
        with self._lock:
            lines, newline, self._partial = (self._partial + text).rpartition("\n")
        if newline:
            self.put(_encoded(lines + newline))
        return len(text)

    def put(self, lines: bytes) -> None:
        """Queue whole lines, or lose them where too much waits already."""
        with self._lock:
            if self._waiting_bytes + len(lines) <= MAX_WAITING_BYTES:
                self._waiting_bytes += len(lines)
                self._queue.put(lines)
                return
        self._lose(lines)

    def flush_within(self, seconds: float) -> None:
        """Wait until all is written that was put, or `seconds` are over."""
        with self._lock:
            partial, self._partial = self._partial, ""
        self.put(_encoded(partial))
        done = threading.Event()
        self._queue.put(done)
        done.wait(seconds)

    def _lose(self, lines: bytes) -> None:
        count = lines.count(b"\n")
        metrics.LOG_LINES_LOST.inc(count)
        with self._lock:
            self._lost += count

    def _write_queue(self) -> None:
        while True:
            lines = self._queue.get()
            if isinstance(lines, threading.Event):
                lines.set()
                continue
            try:
                if self._lost and self._reports_loss:
                    self._report_loss()
                self._write(lines)
            except OSError:
                self._lose(lines)
            with self._lock:
                self._waiting_bytes -= len(lines)

    def _report_loss(self) -> None:
        lost = self._lost
        now = datetime.datetime.now(datetime.UTC).isoformat()
        line = {"event": "log_lines_lost", "count": lost, "level": "warning", "timestamp": now}
        self._write(_encoded(json.dumps(line) + "\n"))
        with self._lock:
            self._lost -= lost

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # somebody who shares it made it non-blocking
                select.select([], [self._descriptor], [])


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def _relay(descriptor: int, output: Output) -> None:
    """Pass on what arrives at a pipe, in whole lines, until its last write end is closed."""
    rest = b""
    while data := os.read(descriptor, MAX_LINE_BYTES):
        lines, newline, rest = (rest + data).rpartition(b"\n")
        if newline:
            output.put(lines + newline)
        if len(rest) > MAX_LINE_BYTES:
            output.put(rest + b"\n")
            rest = b""
    output.put(rest)


def _flush(output: Output, error: Output, relay: threading.Thread) -> None:
    end = time.monotonic() + FLUSH_SECONDS
    os.dup2(error.fileno(), 2)  # closes our write end of the pipe
    relay.join(FLUSH_SECONDS / 4)  # longer only where a child has kept it
    for stream in (output, error):
        stream.flush_within(end - time.monotonic())
