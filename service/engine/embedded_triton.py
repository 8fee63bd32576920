"""The real tritonserver from the nvidia-pytriton wheel, as a child process."""

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
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import psutil
import structlog
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from service.engine import child_process
from service.engine.cpu import cpu_engine
from service.errors import CannotStart, EngineUnavailable
from service.observability import tracing
from service.settings import Settings
from service.triton.client import Triton

log = structlog.get_logger()
INT8_GRAPH = "model_int8.onnx"  # beside a decode graph, where export/ was asked for it
# What an execution holds, of whichever model: as many run at once as there are instances of one. More would share the processor, take
# turns in its caches, and find fewer images waiting (docs/decisions/0032).
CORES = "cores"
START_SECONDS = 60.0
LAST_SPANS_SECONDS = 10.0
_NO_GPU_HERE = (
    "CudaDriverHelper",
    "NVML",
)  # Triton calls it an error that a CPU machine has no GPU


@dataclass
class _Engine:
    """Of one model. since: when it was loaded, in seconds of time.perf_counter. killed: by us, to be replaced."""

    processes: list[psutil.Process]
    since: float
    killed: bool = False


class EmbeddedTriton:
    """Starts, stops and restarts one tritonserver on free loopback ports, serving every model of the repository."""

    def __init__(self, settings: Settings) -> None:
        """Raises CannotStart when the repository holds no models."""
        self._repository = settings.model_repository.resolve()
        self._settings = settings
        if not self.on_disk():
            raise CannotStart(
                f"{self._repository} holds no Triton models (no */config.pbtxt): write one with `python -m export`"
            )
        self._backends = tempfile.TemporaryDirectory(prefix="channeltok-triton-")
        self._engines: dict[str, _Engine] = {}  # models that are loaded, by name
        self._gone: dict[
            str, float
        ] = {}  # models that are loaded but no longer in the repository -> since when
        self._process: asyncio.subprocess.Process | None = None
        self._log_reader: asyncio.Task[None] | None = None
        self._grpc_port, self._metrics_port = _free_ports(2)
        self.url = f"127.0.0.1:{self._grpc_port}"
        self.metrics_url = f"http://127.0.0.1:{self._metrics_port}/metrics"

    async def start(self, triton: Triton) -> None:
        """Start the server and load all models. Raises CannotStart."""
        self._process = await asyncio.create_subprocess_exec(
            *child_process.bound(*self._command()),
            env=_environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=2
            ** 20,  # a longer line would end the reading of its log, and a full pipe would then stop Triton
            start_new_session=True,  # Ctrl-C is ours to handle: Triton stops after the drain, not with it
        )
        assert self._process.stdout is not None
        self._log_reader = asyncio.create_task(_pass_on(self._process.stdout))
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not await triton.alive():
            if self.exit_code is not None:
                raise CannotStart(
                    f"tritonserver ended with exit code {self.exit_code} while starting; its log is above"
                )
            if asyncio.get_running_loop().time() > deadline:
                raise CannotStart(f"tritonserver did not answer within {START_SECONDS:.0f} s")
            await asyncio.sleep(0.05)
        try:
            await asyncio.gather(*(self._load(triton, name) for name in self.on_disk()))
        except EngineUnavailable as error:
            raise CannotStart(str(error)) from error

    async def restart(self, triton: Triton) -> None:
        """After it failed: clean up and start again on the same ports. Raises CannotStart."""
        await self._kill()
        await self.start(triton)

    def kill(self, name: str) -> None:
        """A model's engine processes. It is broken then."""
        if (engine := self._engines.get(name)) is not None:  # it may have been retired meanwhile
            engine.killed = True
            _kill(engine.processes)

    async def reload(self, triton: Triton, name: str) -> None:
        """Give one model new engine processes. Raises EngineUnavailable or CannotStart; it is broken still then."""
        self.kill(name)  # Triton would wait for one that hangs
        await triton.unload(name)
        await self._load(triton, name)

    async def load_new(self, triton: Triton) -> bool:
        """Load what is new in the repository, each model whatever becomes of the others. Whether all are; why not is in the log."""
        new = [name for name in self.on_disk() if name not in self._engines]
        return all(await asyncio.gather(*(self._could_load(triton, name) for name in new)))

    async def _could_load(self, triton: Triton, name: str) -> bool:
        log.info("loading", model=name)
        try:
            await self._load(triton, name)
        except (EngineUnavailable, CannotStart) as error:
            log.error("cannot_load", model=name, why=str(error))
            return False
        return True

    async def retire(self, triton: Triton, in_use: set[str]) -> None:
        """Unload what has been gone from the repository and from `in_use` for `retire_seconds`.

        in_use: models that calls are sent to, unless they bring tokens of an older version.
        Raises EngineUnavailable.
        """
        on_disk, now = set(self.on_disk()), asyncio.get_running_loop().time()
        if not on_disk:  # it is being replaced this very moment, or somebody took it away: what is loaded goes on
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
        """None while it runs."""
        return None if self._process is None else self._process.returncode

    @property
    def loaded(self) -> dict[str, float]:
        """Names of the models that Triton has -> since when, in seconds of time.perf_counter."""
        return {name: engine.since for name, engine in self._engines.items()}

    def failure(self) -> str | None:
        """What is wrong with the server process itself: it ended, or was stopped."""
        if self.exit_code is not None:
            return f"tritonserver ended with exit code {self.exit_code}"
        if self._process is not None and not _runs(psutil.Process(self._process.pid)):
            return "tritonserver is stopped"
        return None

    def broken(self) -> list[str]:
        """Loaded models that lack a running engine process: Triton goes on calling them ready. Not those that are no longer in the
        repository, which nobody could load again."""
        lacking = {
            name
            for name, engine in self._engines.items()
            if engine.killed or not all(map(_runs, engine.processes))
        }
        return sorted(lacking & set(self.on_disk())) if lacking else []

    async def stop(self) -> None:
        """It and its stubs are killed, after the drain: Triton has nothing to save, and its own way takes four seconds. With tracing it
        is asked first, for it sends its last spans then. The memory they shared and the temporary folder are removed."""
        if tracing.endpoint() is not None and self._process is not None and self.exit_code is None:
            self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), LAST_SPANS_SECONDS)
        await self._kill()
        self._backends.cleanup()

    def on_disk(self) -> list[str]:
        """Names of the models in the repository, sorted."""
        return sorted(config.parent.name for config in self._repository.glob("*/config.pbtxt"))

    def _engine_processes(self, name: str) -> list[psutil.Process]:
        """Of one model, looked up among all processes. A python-backend stub's first argument is REPOSITORY/MODEL/VERSION/model.py."""
        found = []
        for child in (
            psutil.Process(self._process.pid).children()
            if self._process is not None and self.exit_code is None
            else ()
        ):
            with contextlib.suppress(psutil.NoSuchProcess):
                command = child.cmdline()  # of a zombie: empty
                if len(command) > 1 and Path(command[1]).parts[-3:-2] == (
                    name,
                ):  # one just forked has other arguments yet
                    found.append(child)
        return found

    async def _load(self, triton: Triton, name: str) -> None:
        """With this machine's engine, instances and threads. Raises EngineUnavailable, CannotStart."""
        try:
            config = text_format.Parse(
                (self._repository / name / "config.pbtxt").read_text(),
                model_config_pb2.ModelConfig(),
            )
        except (OSError, UnicodeError, text_format.ParseError) as error:  # half a copy, say
            raise CannotStart(f"{name}/config.pbtxt cannot be read: {error}") from error
        if config.backend == "python":
            role, family = (config.parameters[name].string_value for name in ("role", "family"))
            engine, precision = cpu_engine(role, self._settings, family)
            if precision == "int8" and not (self._repository / name / "1" / INT8_GRAPH).exists():
                raise CannotStart(
                    f"{name} has no int8 graph ({INT8_GRAPH}): write one with `python -m export tokenizer CHECKPOINT --int8`"
                )
            for key, value in {
                "engine": engine,
                "precision": precision,
                "threads": self._settings.engine_threads,
            }.items():
                config.parameters[key].string_value = str(value)
            if (
                role == "generate"
            ):  # one process that makes several tokens at a time, and is bounded by max_generations
                config.parameters["at_once"].string_value = str(self._settings.engine_instances)
            else:
                config.instance_group[0].count = self._settings.engine_instances
                config.instance_group[0].rate_limiter.resources.add(
                    name=CORES, count=1, **{"global": True}
                )
        try:
            await triton.load(
                name, json_format.MessageToJson(config, preserving_proto_field_name=True)
            )
        except EngineUnavailable:
            _kill(
                self._engine_processes(name)
            )  # one that hangs while it begins would stay, and so would one more of each further try
            raise
        self._engines[name] = _Engine(self._engine_processes(name), time.perf_counter())

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
                f"the nvidia-pytriton wheel has no python backend for Python {version}: use 3.11 or 3.12"
            )
        # The backend looks for the stub of the running Python beside itself; site-packages stays untouched.
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
            "--disable-auto-complete-config",  # ours are complete; a stub started just to be asked costs every load a second
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


async def _pass_on(stream: asyncio.StreamReader) -> None:
    """Triton's log, line by line, into ours. Its lines begin with E, W or I and the date; others come from the stubs."""
    async for raw in stream:
        line = raw.decode(errors="replace").rstrip()
        if line.startswith("E") and not any(word in line for word in _NO_GPU_HERE):
            log.error("triton", line=line)
        elif line.startswith("W"):
            log.warning("triton", line=line)
        else:
            log.debug("triton", line=line)


def _environment() -> dict[str, str]:
    libraries = sysconfig.get_config_var("LIBDIR")
    return {
        **os.environ,
        # The stub links libpython and must find that of this interpreter before any other; it finds packages through PATH's first python.
        "LD_LIBRARY_PATH": os.pathsep.join(
            filter(None, [libraries, os.environ.get("LD_LIBRARY_PATH")])
        ),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
