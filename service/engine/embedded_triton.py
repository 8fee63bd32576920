"""Embedded Triton: tritonserver of the nvidia-pytriton wheel as a child process, and its models."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import psutil
import structlog
from channeltok.loopback import url_reaches_loopback
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from service.engine.cpu import cpu_engine
from service.errors import CannotStart, EngineUnavailable
from service.observability import tracing
from service.settings import Settings
from service.triton.client import Triton

log = structlog.get_logger()
INT8_GRAPH = (
    "model_int8.onnx"  # beside a decode graph, written by `python -m export tokenizer --int8`
)
# Rate-limiter resource that every execution holds, of whichever model: as many run at once as there
# are instances of one. More would share the processor, take turns in its caches, and find fewer
# images waiting (docs/decisions/0032).
CORES = "cores"
MAX_LOG_LINE_BYTES = 2**20  # of Triton's log; longer lines are dropped
START_SECONDS = 60.0
LAST_SPANS_SECONDS = 10.0
# Triton logs it as an error that a CPU machine has no GPU.
_NO_GPU_HERE = ("CudaDriverHelper", "NVML")
# Runs in the child before its program: prctl(PR_SET_PDEATHSIG, SIGKILL), and a mask of signals,
# which programs inherit. Popen's preexec_fn could do it, but is not safe in a process with threads.
_DIE_WITH_PARENT = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, 9); "
    "signal.pthread_sigmask(signal.SIG_BLOCK, map(int, sys.argv[1].split())); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


def die_with_parent(*command: str, blocked: Iterable[signal.Signals] = ()) -> list[str]:
    """The command, run so that the kernel kills it when its parent dies. It begins with a path.

    blocked: signals that it never gets.
    """
    numbers = " ".join(str(int(number)) for number in blocked)
    return [sys.executable, "-ISc", _DIE_WITH_PARENT, numbers, *command]


@dataclass
class _Engine:
    """Engine processes of a loaded model. since: load time, on the clock.

    killed: by us, to be replaced.
    """

    processes: list[psutil.Process]
    since: float
    killed: bool = False


class EmbeddedTriton:
    """One tritonserver on free loopback ports, serving every model of the repository."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.perf_counter) -> None:
        """Raises CannotStart when the repository holds no models."""
        self._repository = settings.model_repository.resolve()
        self._settings = settings
        self._clock = clock
        if not self.on_disk():
            raise CannotStart(
                f"{self._repository} holds no Triton models (no */config.pbtxt): "
                "write one with `python -m export`"
            )
        self._backends = tempfile.TemporaryDirectory(prefix="channeltok-triton-")
        self._engines: dict[str, _Engine] = {}  # loaded models, by name
        self._gone: dict[str, float] = {}  # loaded, but no longer in the repository -> since when
        self._process: asyncio.subprocess.Process | None = None
        self._log_reader: asyncio.Task[None] | None = None
        self._grpc_port, self._metrics_port = _free_ports(2)
        self.url = f"127.0.0.1:{self._grpc_port}"
        self.metrics_url = f"http://127.0.0.1:{self._metrics_port}/metrics"

    async def start(self, triton: Triton) -> None:
        """Start the server and load all models. Raises CannotStart."""
        self._process = await asyncio.create_subprocess_exec(
            # systemd sends SIGTERM to every process of a service, and Triton would refuse all
            # requests at once: it must stop after the drain.
            *die_with_parent(*self._command(), blocked=[signal.SIGTERM]),
            env=_environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=MAX_LOG_LINE_BYTES,
            start_new_session=True,  # no Ctrl-C from the terminal, for the same reason
        )
        assert self._process.stdout is not None
        self._log_reader = asyncio.create_task(_copy_log(self._process.stdout))
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
        try:
            await asyncio.gather(*(self._load(triton, name) for name in self.on_disk()))
        except EngineUnavailable as error:
            raise CannotStart(str(error)) from error

    async def restart(self, triton: Triton) -> None:
        """Kill it, clean up and start again on the same ports. Raises CannotStart."""
        await self._kill()
        await self.start(triton)

    def kill(self, name: str) -> None:
        """Kill a model's engine processes: it is `broken` then. No error where it is not loaded."""
        if (engine := self._engines.get(name)) is not None:
            engine.killed = True
            _kill(engine.processes)

    async def reload(self, triton: Triton, name: str) -> None:
        """Give one model new engine processes. Raises EngineUnavailable, CannotStart."""
        self.kill(name)  # Triton would wait for a hung one
        await triton.unload(name)
        await self._load(triton, name)

    async def load_new(self, triton: Triton) -> bool:
        """Load the models that are new in the repository; False, and a log line, when one fails."""
        new = [name for name in self.on_disk() if name not in self._engines]
        return all(await asyncio.gather(*(self._try_load(triton, name) for name in new)))

    async def _try_load(self, triton: Triton, name: str) -> bool:
        log.info("loading", model=name)
        try:
            await self._load(triton, name)
        except (EngineUnavailable, CannotStart) as error:
            log.error("cannot_load", model=name, why=str(error))
            return False
        return True

    async def retire(self, triton: Triton, in_use: set[str]) -> None:
        """Unload models that have been gone from the repository for `retire_seconds`.

        in_use: models that stay, because calls that name no older version go to them.
        Raises EngineUnavailable.
        """
        on_disk, now = set(self.on_disk()), self._clock()
        if not on_disk:  # the repository is being replaced, or was removed: keep what is loaded
            return
        self._gone = {
            name: self._gone.get(name, now) for name in self._engines.keys() - on_disk - in_use
        }
        for name, since in self._gone.items():
            if (
                now - since >= self._settings.retire_seconds
                and self._engines.pop(name, None) is not None
            ):
                log.info("retiring", model=name)
                await triton.unload(name)

    @property
    def exit_code(self) -> int | None:
        """Exit code of tritonserver; None while it runs, or before it was started."""
        return None if self._process is None else self._process.returncode

    @property
    def loaded(self) -> dict[str, float]:
        """Names of the loaded models -> load time, on the clock."""
        return {name: engine.since for name, engine in self._engines.items()}

    def failure(self) -> str | None:
        """What is wrong with the server process: it ended, or was suspended. None when it runs."""
        if self.exit_code is not None:
            return f"tritonserver ended with exit code {self.exit_code}"
        if self._process is not None and not _runs(psutil.Process(self._process.pid)):
            return "tritonserver is stopped"
        return None

    def broken(self) -> list[str]:
        """Loaded models with an engine process that does not run; Triton still calls them ready.

        Without those that are gone from the repository, because they could not be loaded again.
        """
        lacking = {
            name
            for name, engine in self._engines.items()
            if engine.killed or not all(map(_runs, engine.processes))
        }
        return sorted(lacking & set(self.on_disk())) if lacking else []

    async def stop(self) -> None:
        """Kill it and its engines, and remove their shared memory and the temporary folder.

        Triton has nothing to save, and its own shutdown takes four seconds. With tracing it gets
        SIGINT first, because it then sends its last spans.
        """
        if tracing.endpoint() is not None and self._process is not None and self.exit_code is None:
            self._process.send_signal(signal.SIGINT)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), LAST_SPANS_SECONDS)
        await self._kill()
        self._backends.cleanup()

    def on_disk(self) -> list[str]:
        """Names of the models in the repository, sorted."""
        return sorted(config.parent.name for config in self._repository.glob("*/config.pbtxt"))

    def _engine_processes(self, name: str) -> list[psutil.Process]:
        """The children of tritonserver that run a model.

        The first argument of a python-backend stub is REPOSITORY/MODEL/VERSION/model.py.
        """
        if self._process is None or self.exit_code is not None:
            return []
        processes = []
        for child in psutil.Process(self._process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                command = child.cmdline()  # empty for a zombie, other for a fresh fork
                if len(command) > 1 and Path(command[1]).parts[-3:-2] == (name,):
                    processes.append(child)
        return processes

    async def _load(self, triton: Triton, name: str) -> None:
        """Raises EngineUnavailable, CannotStart."""
        config = read_config(self._repository / name, self._settings)
        try:
            await triton.load(
                name, json_format.MessageToJson(config, preserving_proto_field_name=True)
            )
        except EngineUnavailable:
            # An engine that hangs while it starts would stay, and so would one more at each try.
            _kill(self._engine_processes(name))
            raise
        self._engines[name] = _Engine(self._engine_processes(name), self._clock())

    async def _kill(self) -> None:
        self._engines.clear()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
        if self._log_reader is not None:
            self._log_reader.cancel()
        self._remove_shared_memory()

    @property
    def _shared_memory_prefix(self) -> str:
        return f"channeltok_{self._grpc_port}_"

    def _remove_shared_memory(self) -> None:
        for leftover in Path("/dev/shm").glob(f"{self._shared_memory_prefix}*"):
            leftover.unlink(missing_ok=True)

    def _command(self) -> list[str]:
        try:
            triton = Path(str(resources.files("pytriton"))) / "tritonserver"
        except ModuleNotFoundError:
            raise CannotStart(
                "there is no Triton here: install the extra `serve`, or set CHANNELTOK_TRITON_URL"
            ) from None
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
        if not stub.exists():
            raise CannotStart(
                f"the nvidia-pytriton wheel has no python backend for Python {version}: "
                "use 3.11 or 3.12"
            )
        # The backend looks for the stub of the running Python beside itself: link both into a
        # folder of our own, because site-packages must stay untouched.
        python_backend = Path(self._backends.name) / "python"
        shutil.rmtree(python_backend, ignore_errors=True)
        python_backend.mkdir()
        for file in (*(triton / "backends" / "python").glob("*.*"), stub):
            (python_backend / file.name).symlink_to(file)
        return [
            str(triton / "bin" / "tritonserver"),
            f"--model-repository={self._repository}",
            f"--backend-directory={self._backends.name}",
            f"--cache-directory={triton / 'caches'}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory_prefix}",
            "--model-control-mode=explicit",
            # Our configs are complete; to ask a model for its own costs a second at each load.
            "--disable-auto-complete-config",
            "--allow-http=false",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self._grpc_port}",
            "--metrics-address=127.0.0.1",
            f"--metrics-port={self._metrics_port}",
            "--allow-gpu-metrics=false",
            "--pinned-memory-pool-byte-size=0",
            "--exit-timeout-secs=5",
            "--log-info=false",
            "--rate-limit=execution_count",
            f"--rate-limit-resource={CORES}:{self._settings.engine_instances}",
            *tracing.triton_arguments(),
        ]


def read_config(folder: Path, settings: Settings) -> model_config_pb2.ModelConfig:
    """A model's config.pbtxt with this machine's engine, precision, instances and threads.

    Raises CannotStart when it cannot be read, or the model has no graph of the precision.
    """
    try:
        config = text_format.Parse(
            (folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
        )
    except (OSError, UnicodeError, text_format.ParseError) as error:  # a half-copied file, say
        raise CannotStart(f"{folder.name}/config.pbtxt cannot be read: {error}") from error
    if config.backend != "python":
        return config
    role, family = (config.parameters[name].string_value for name in ("role", "family"))
    engine, precision = cpu_engine(role, settings, family)
    if precision == "int8" and not (folder / "1" / INT8_GRAPH).exists():
        raise CannotStart(
            f"{folder.name} has no int8 graph ({INT8_GRAPH}): "
            "write one with `python -m export tokenizer CHECKPOINT --int8`"
        )
    parameters = {"engine": engine, "precision": precision, "threads": settings.engine_threads}
    if role == "generate":
        # One process, which generates several images at a time.
        parameters["at_once"] = settings.engine_instances
    else:
        config.instance_group[0].count = settings.engine_instances
        config.instance_group[0].rate_limiter.resources.add(name=CORES, count=1, **{"global": True})
    for key, value in parameters.items():
        config.parameters[key].string_value = str(value)
    return config


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _runs(process: psutil.Process) -> bool:
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


def _environment() -> dict[str, str]:
    libraries = sysconfig.get_config_var("LIBDIR")
    inherited = dict(os.environ)
    collector = tracing.endpoint()
    if collector is not None and url_reaches_loopback(collector):
        # It connects to nothing else. Its exporter of spans does not heed no_proxy.
        inherited = {
            name: value for name, value in inherited.items() if not name.lower().endswith("_proxy")
        }
    return {
        **inherited,
        # The stub links libpython and must find this interpreter's before any other; it finds
        # packages through the first python on PATH.
        "LD_LIBRARY_PATH": os.pathsep.join(
            filter(None, [libraries, os.environ.get("LD_LIBRARY_PATH")])
        ),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]
    finally:
        for free in sockets:
            free.close()
