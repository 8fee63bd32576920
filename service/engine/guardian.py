"""The parent of tritonserver: `python -I guardian.py GATEWAY FOLDER COMMAND...`.

Triton's engine processes outlive a killed tritonserver, for ever if it was busy, and nobody can
clean up after a gateway that was killed. The guardian can: it runs tritonserver and, when that ends
or the gateway ends or sends END, kills all that is left of it and removes its files. Should the
guardian be killed itself, the kernel kills tritonserver, and the gateway does the rest; when both
are killed, the next start of a service does it.

Only the standard library is imported here: the process stays as long as Triton does.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import NoReturn

END = signal.SIGUSR1
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
_PR_SET_NO_NEW_PRIVS = 38
_SYS_SECCOMP, _SET_MODE_FILTER, _SPEC_ALLOW = 317, 1, 4


def remove_files(folder: Path) -> None:
    """Remove a Triton's folder and its shared memory, which lies beside it and begins alike.

    What belongs to other users stays.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for region in folder.parent.glob(f"{folder.name}-*"):
        with contextlib.suppress(OSError):
            region.unlink()


def main() -> NoReturn:
    gateway, folder, *command = sys.argv[1:]
    # A service manager may send SIGTERM to every process at once, but calls in progress need Triton
    # until they are drained: neither we nor, as it inherits the mask, Triton take it.
    blocked = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, END}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    _prctl(_PR_SET_NAME, b"triton-guardian")
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans of tritonserver become our children
    _prctl(_PR_SET_PDEATHSIG, END)
    status = 0
    if os.getppid() == int(gateway):  # else it ended before it could be watched
        guardian = os.getpid()
        triton = os.fork()
        if triton == 0:
            _become(command, guardian)
        with contextlib.suppress(OSError):  # the child does the same, and may be first
            os.setpgid(triton, triton)
        status = _wait(triton)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(triton, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
    remove_files(Path(folder))
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


def _wait(triton: int) -> int:
    """Wait until tritonserver ends, and return its status; 0 when it shall end now."""
    while signal.sigwait({signal.SIGCHLD, END}) != END:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                if ended[0] == triton:
                    return ended[1]
    return 0


def _become(command: list[str], guardian: int) -> NoReturn:
    """Turn this fork into tritonserver."""
    try:
        os.setpgid(0, 0)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == guardian:
            os.umask(0o077)
            _pretend_fchmod_and_mkdtemp()
            signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM})
            os.execv(command[0], command)
    except OSError as error:
        print(f"E cannot start {command[0]}: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def _pretend_fchmod_and_mkdtemp() -> None:
    """Let two system calls of Triton succeed without an effect.

    fchmod: it would make shared memory, with callers' images, readable for all users of the host,
    whatever the umask. mkdir with mode 0700, as of mkdtemp: it would make a folder for unpacked
    Python environments in /tmp, which no model of ours has, and which a killed Triton leaves there.
    """
    load, equal, answer = 0x20, 0x15, 0x06
    number, architecture, mode = 0, 4, 24  # offsets in struct seccomp_data; mode: second argument
    x86_64, fchmod, mkdir, pretend, allow = 0xC000003E, 91, 83, 0x50000, 0x7FFF0000
    program = [
        (load, 0, 0, architecture),
        (equal, 0, 6, x86_64),
        (load, 0, 0, number),
        (equal, 3, 0, fchmod),
        (equal, 0, 3, mkdir),
        (load, 0, 0, mode),
        (equal, 0, 1, 0o700),
        (answer, 0, 0, pretend),
        (answer, 0, 0, allow),
    ]

    class Instruction(ctypes.Structure):
        _fields_ = (
            ("code", ctypes.c_uint16),
            ("if_true", ctypes.c_uint8),
            ("if_false", ctypes.c_uint8),
            ("value", ctypes.c_uint32),
        )

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_uint16), ("first", ctypes.POINTER(Instruction)))

    instructions = (Instruction * len(program))(*(Instruction(*line) for line in program))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # With _SPEC_ALLOW, as the filter isolates nothing that the processor could leak: without it,
    # kernels before 5.16 slow all code down.
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (_SYS_SECCOMP, _SET_MODE_FILTER, _SPEC_ALLOW)
    if libc.syscall(*arguments, ctypes.byref(Program(len(program), instructions))) != 0:
        print(
            "W other users of this host can read Triton's shared memory: the kernel refuses a "
            f"seccomp filter ({os.strerror(ctypes.get_errno())})",
            file=sys.stderr,
            flush=True,
        )


def _prctl(option: int, value: int | bytes) -> None:
    unused = (ctypes.c_ulong(0),) * 3
    ctypes.CDLL(None).prctl(
        option, value if isinstance(value, bytes) else ctypes.c_ulong(value), *unused
    )


if __name__ == "__main__":
    main()
