"""The process of an embedded Triton: tritonserver of nvidia-pytriton's wheel, under a guardian."""

import asyncio
import contextlib
import os
import signal
import sys
import sysconfig
from pathlib import Path

import psutil
import structlog
from channeltok.loopback import url_reaches_loopback

from service.engine import guardian
from service.engine.guardian import END
from service.engine.repository import CORES
from service.engine.triton_files import TritonFiles, installed_libraries, remove_dead
from service.errors import CannotStart
from service.observability import tracing
from service.settings import Settings
from service.triton.client import Triton

log = structlog.get_logger()
MAX_LOG_LINE_BYTES = 2**20  # of Triton's log; longer lines are dropped
START_SECONDS = 60.0
KILL_SECONDS = 10.0  # for the guardian; then it is killed too
LAST_SPANS_SECONDS = 10.0
# Triton logs it as an error that a CPU machine has no GPU.
_NO_GPU_HERE = ("CudaDriverHelper", "NVML")


class TritonServer:
    """One tritonserver without models, on Unix sockets that only this user can reach."""

    def __init__(self, settings: Settings) -> None:
        self.files = TritonFiles(settings.model_repository.resolve())
        self._settings = settings
        self._guardian: asyncio.subprocess.Process | None = None
        self._triton: psutil.Process | None = None
        self._log_reader: asyncio.Task[None] | None = None

    async def start(self, triton: Triton) -> None:
        """Start the server and wait until it answers. Raises CannotStart."""
        await asyncio.to_thread(remove_dead)
        self.files.make()
        self._guardian = await asyncio.create_subprocess_exec(
            # Isolated (-I): it imports the standard library alone, from wherever we run.
            *(sys.executable, "-I", guardian.__file__),
            *(str(os.getpid()), str(self.files.folder), *self.command()),
            env=environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=MAX_LOG_LINE_BYTES,
            start_new_session=True,  # no Ctrl-C from the terminal: Triton stops after the drain
        )
        assert self._guardian.stdout is not None
        self._log_reader = asyncio.create_task(_copy_log(self._guardian.stdout))
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not await triton.alive():
            if self.exit_code is not None:
                raise CannotStart(
                    f"tritonserver ended with exit code {self.exit_code} while starting; "
                    "its log is above"
                )
            if asyncio.get_running_loop().time() > deadline:
                raise CannotStart(f"tritonserver did not answer within {START_SECONDS:.0f} s")
            await asyncio.sleep(0.05)
        ((self._triton, _),) = self._started_by(psutil.Process(self._guardian.pid))

    async def stop(self) -> None:
        """Kill it and its engines, and remove its files.

        Triton has nothing to save, and its own shutdown takes four seconds. With tracing it gets
        SIGINT first, because it then sends its last spans.
        """
        if tracing.endpoint() is not None and self._triton is not None:
            assert self._guardian is not None
            with contextlib.suppress(psutil.NoSuchProcess, TimeoutError):
                self._triton.send_signal(signal.SIGINT)
                await asyncio.wait_for(self._guardian.wait(), LAST_SPANS_SECONDS)
        await self.kill()

    async def kill(self) -> None:
        """Kill it and its engines, and remove its files, at once."""
        if self._guardian is not None and self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                self._guardian.send_signal(END)
            try:
                await asyncio.wait_for(self._guardian.wait(), KILL_SECONDS)
            except TimeoutError:
                self._guardian.kill()
                await self._guardian.wait()
        if self._log_reader is not None:
            self._log_reader.cancel()
        self._triton = None
        await asyncio.to_thread(self.files.remove)  # for a guardian that was killed

    @property
    def exit_code(self) -> int | None:
        """Exit code of tritonserver, 128 + N after signal N; None while it runs, or before."""
        return None if self._guardian is None else self._guardian.returncode

    def failure(self) -> str | None:
        """What is wrong with the process: it ended, or was suspended. None when it runs."""
        if self.exit_code is not None:
            return f"tritonserver ended with exit code {self.exit_code}"
        if self._triton is None or self._guardian is None:
            return None
        if not runs(self._triton) or not runs(psutil.Process(self._guardian.pid)):
            return "tritonserver is stopped"
        if not self.files.sockets_exist():
            return f"tritonserver's sockets in {self.files.folder} were removed"
        return None

    def engine_processes(self, model: str) -> list[psutil.Process]:
        """The children of tritonserver that run a model.

        The first argument of a python-backend stub is REPOSITORY/MODEL/VERSION/model.py.
        """
        if self._triton is None or self.exit_code is not None:
            return []
        return [
            stub
            for stub, command in self._started_by(self._triton)
            if len(command) > 1 and Path(command[1]).parts[-3:-2] == (model,)
        ]

    def _started_by(self, parent: psutil.Process) -> list[tuple[psutil.Process, list[str]]]:
        """Its children whose program is in our folder, with their command lines."""
        children = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in parent.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    command = child.cmdline()  # empty for a zombie, other for a fresh fork
                    if command and command[0].startswith(f"{self.files.folder}/"):
                        children.append((child, command))
        return children

    def command(self) -> list[str]:
        """The command line of tritonserver."""
        return [
            str(self.files.program),
            *self.files.arguments(),
            "--model-control-mode=explicit",
            # Our configs are complete; to ask a model for its own costs a second at each load.
            "--disable-auto-complete-config",
            "--allow-http=false",
            "--allow-gpu-metrics=false",
            "--pinned-memory-pool-byte-size=0",
            "--exit-timeout-secs=5",
            "--log-info=false",
            "--rate-limit=execution_count",
            f"--rate-limit-resource={CORES}:{self._settings.engine_instances}",
            *tracing.triton_arguments(),
        ]


def environment() -> dict[str, str]:
    """The environment of tritonserver."""
    # The stub links libpython and must find this interpreter's before any other; a copy does not
    # find the wheel's own libraries. It finds packages through the first python on PATH.
    libraries = [sysconfig.get_config_var("LIBDIR"), str(installed_libraries())]
    inherited = dict(os.environ)
    collector = tracing.endpoint()
    if collector is not None and url_reaches_loopback(collector):
        # It connects to nothing else. Its exporter of spans does not heed no_proxy.
        inherited = {
            name: value for name, value in inherited.items() if not name.lower().endswith("_proxy")
        }
    return {
        **inherited,
        "LD_LIBRARY_PATH": os.pathsep.join(
            filter(None, [*libraries, os.environ.get("LD_LIBRARY_PATH")])
        ),
        # Triton finds the shell that starts the stub there, too.
        "PATH": os.pathsep.join(
            [str(Path(sys.executable).parent), os.environ.get("PATH") or os.defpath]
        ),
        "PYTHONUTF8": "1",  # for the names of those folders, whatever the locale
    }


def runs(process: psutil.Process) -> bool:
    """Whether it is there, and neither stopped nor traced."""
    try:
        return process.status() not in (
            psutil.STATUS_STOPPED,
            psutil.STATUS_TRACING_STOP,
            psutil.STATUS_ZOMBIE,
            psutil.STATUS_DEAD,
        )
    except psutil.NoSuchProcess:
        return False


async def _copy_log(stream: asyncio.StreamReader) -> None:
    """Copy Triton's log into ours. Its lines begin with E, W or I; others come from the stubs."""
    while True:
        try:
            raw = await stream.readline()
        except ValueError:  # longer than MAX_LOG_LINE_BYTES, and dropped
            log.warning("triton", line=f"a line of more than {MAX_LOG_LINE_BYTES:,} bytes")
            continue
        if not raw:
            return
        line = raw.decode(errors="replace").rstrip()
        if line.startswith("E") and not any(word in line for word in _NO_GPU_HERE):
            log.error("triton", line=line)
        elif line.startswith("W"):
            log.warning("triton", line=line)
        else:
            log.debug("triton", line=line)
