"""Trace the network connections of a process and its children with strace."""

import ipaddress
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.running import ROOT, eventually

NAME_SERVER = 53
# The sockets of systemd-resolved. nscd's do not count: shells ask it for the user's name.
RESOLVED = "/systemd/resolve/"
_SENDS = re.compile(r"\d+ +(?:connect|sendto|sendmsg|sendmmsg)\(")
_ADDRESS = re.compile(
    r"sin_port=htons\((\d+)\), sin_addr=inet_addr\(\"([^\"]+)\"\)"
    r"|sin6_port=htons\((\d+)\).*?inet_pton\(AF_INET6, \"([^\"]+)\""
)
_PATH = re.compile(r'sun_path=@?"([^"]+)"')
# Without variables that would suppress a report: CI, and the opt-outs themselves.
_KEPT = {"PATH", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "TMPDIR"}


def outside(trace: Iterable[str], own: Iterable[str] = ()) -> list[str]:
    """Lines of a trace that connect outside loopback or look up a name, failed ones included.

    own: further addresses of this machine, treated as loopback.
    """
    return [line for line in trace if _SENDS.match(line) and _is_outside(line, set(own))]


def _is_outside(line: str, own: set[str]) -> bool:
    if any(RESOLVED in path for path in _PATH.findall(line)):
        return True
    peers = [(int(port4 or port6), ip4 or ip6) for port4, ip4, port6, ip6 in _ADDRESS.findall(line)]
    return any(port == NAME_SERVER or not _is_here(ip, own) for port, ip in peers)


def _is_here(text: str, own: set[str]) -> bool:
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified or str(address) in own


class NetworkTrace:
    """A trace, in a file, of a process and its children.

    command: prefix of the command to trace; the started process becomes that command.
    """

    def __init__(self, file: Path) -> None:
        """Skips the test without strace, which .ci/run rules out."""
        strace = shutil.which("strace", path=f"{ROOT / 'build/strace'}:{os.environ['PATH']}")
        if strace is None:
            pytest.skip("strace not found: `make build/strace` unpacks Debian's")
        self._file = file
        follow = ["-D", "-f", "-q", "--seccomp-bpf"]
        self.command = [
            strace,
            *follow,
            "-e",
            "trace=%network",
            "-e",
            "signal=none",
            "-o",
            str(file),
        ]

    def lines(self, pid: int) -> list[str]:
        """All lines, once `pid` has ended. AssertionError if strace does not report that."""
        ended = re.compile(rf"{pid} +\+\+\+ ")
        eventually(lambda: any(map(ended.match, self._lines())), event="the end of the trace")
        return self._lines()

    def _lines(self) -> list[str]:
        return self._file.read_text(errors="replace").splitlines()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, with all other variables removed from the environment."""
    for name in set(os.environ) - _KEPT:
        monkeypatch.delenv(name)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def files(folder: Path) -> list[str]:
    """Relative paths of all files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_stays_here(
    folder: Path,
    *command: str,
    exit_code: int = 0,
    own: Iterable[str] = (),
) -> None:
    """Run a command and assert that it connects to nothing outside. folder: for the trace."""
    trace = NetworkTrace(folder / "trace")
    with subprocess.Popen(
        [*trace.command, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == exit_code, output
    assert outside(trace.lines(process.pid), own) == []
