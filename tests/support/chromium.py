"""Chromium, which opens pages of a small web server and reports what they could do."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import psutil

CHROMIUM = shutil.which("chromium")
_SCRIPT = """<!doctype html><title>page</title><script>
const report = result => fetch("/report", {method: "POST", body: JSON.stringify(result)});
(async () => { %s })().then(report, error => report({failed: String(error)}));
</script>"""


class Pages:
    """A web server on a free port of loopback. script: the body of an async function, in
    JavaScript, whose result the page reports."""

    def __init__(self) -> None:
        self.script = ""
        self.reports: Queue[Any] = Queue()
        pages = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer((_SCRIPT % pages.script).encode())

            def do_POST(self) -> None:
                pages.reports.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self._answer(b"")

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port

    @contextmanager
    def serving(self) -> Iterator["Pages"]:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        yield self
        self._server.shutdown()
        self._server.server_close()

    def run(self, host: str, script: str, profile: Path) -> Any:
        """What `script` returns on a page of this host, which leads to loopback."""
        self.script = script
        with _open(f"http://{host}:{self.port}/", profile):
            return self.reports.get(timeout=60)


def shown(url: str, profile: Path) -> str:
    """The document at `url` after its scripts have run."""
    command = _command(profile, "--dump-dom", "--virtual-time-budget=10000", url)
    return subprocess.run(command, capture_output=True, text=True, timeout=90).stdout


def console(url: str, profile: Path) -> list[str]:
    """What the page at `url` writes to the console: errors, and what its policy forbids."""
    options = ("--enable-logging=stderr", "--dump-dom", "--virtual-time-budget=10000")
    command = _command(profile, *options, url)
    log = subprocess.run(command, capture_output=True, text=True, timeout=90).stderr
    return [line for line in log.splitlines() if "CONSOLE" in line]


@contextmanager
def _open(url: str, profile: Path) -> Iterator[None]:
    command = _command(profile, "--remote-debugging-port=0", url)
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        for child in psutil.Process(browser.pid).children(recursive=True):
            child.kill()
        browser.kill()
        browser.wait(20)


def _command(profile: Path, *arguments: str) -> list[str]:
    assert CHROMIUM is not None
    return [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-proxy-server",
        f"--user-data-dir={profile}",
        "--host-resolver-rules=MAP *.example 127.0.0.1",
        *arguments,
    ]
