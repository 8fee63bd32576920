"""The files of an embedded Triton: a private folder in /dev/shm, and shared memory beside it."""

import contextlib
import fcntl
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import psutil

from service.engine.guardian import remove_files
from service.errors import CannotStart

SHARED_MEMORY = Path("/dev/shm")
_PREFIX = "channeltok-"
_GRPC_PORT = 1  # Triton appends a port to every address, and so to the path of a socket


class TritonFiles:
    """What a Triton needs, under paths that it can take.

    It starts its engine processes through a shell without quoting, and a socket's path may have 107
    bytes. So Triton gets links to the program, the backend and the models. They are in /dev/shm,
    where its shared memory has to be anyhow, and where nothing removes old files.

    The folder is locked as long as this process has it: one without a lock is a dead service's.
    """

    def __init__(self, repository: Path) -> None:
        self.folder = SHARED_MEMORY / f"{_PREFIX}{secrets.token_hex(4)}"
        self.program = self.folder / "tritonserver"
        self._repository = repository
        self._lock: int | None = None

    @property
    def grpc_url(self) -> str:
        """For a gRPC client."""
        return f"unix:{self.folder}/grpc:{_GRPC_PORT}"

    @property
    def metrics_url(self) -> str:
        """For `observability.metrics.exposition`."""
        return f"unix:{self.folder}/metrics"

    def arguments(self) -> list[str]:
        """The options of tritonserver that name files and sockets."""
        return [
            f"--model-repository={self.folder / 'models'}",
            f"--backend-directory={self.folder / 'backends'}",
            f"--cache-directory={self.folder / 'caches'}",
            f"--backend-config=python,shm-region-prefix-name={self.folder.name}-",
            f"--grpc-address=unix:{self.folder}/grpc",
            f"--grpc-port={_GRPC_PORT}",
            f"--metrics-address={self.metrics_url}",
        ]

    def make(self) -> None:
        """Make the folder, or what is missing in it. Raises CannotStart."""
        try:
            self._make_folder()
            backend = self.folder / "backends/python"
            backend.mkdir(parents=True, exist_ok=True)
            for link, target in self._links():
                if not link.is_symlink():
                    link.symlink_to(target)
            copy, stub = backend / "triton_python_backend_stub", _installed_stub()
            if not copy.exists():
                # Triton may change the stub's mode: a copy leaves the installed one alone. In
                # containers nothing in /dev/shm can be executed, but the installed one is
                # read-only.
                noexec = os.statvfs(self.folder).f_flag & os.ST_NOEXEC
                if noexec or not os.access(stub, os.R_OK):
                    copy.symlink_to(stub)
                else:
                    shutil.copyfile(stub, copy)
                    copy.chmod(0o700)
        except OSError as error:
            raise CannotStart(f"cannot write the files of Triton: {error}") from error

    def sockets_exist(self) -> bool:
        """False where somebody removed a socket: no client could connect any more."""
        return all(
            Path(url.removeprefix("unix:")).exists() for url in (self.grpc_url, self.metrics_url)
        )

    def remove(self) -> None:
        """Kill the processes that were started from the folder, and remove all files."""
        _kill_processes(self.folder)
        remove_files(self.folder)
        self._unlock()

    def _make_folder(self) -> None:
        """Make the folder and lock it, unless it is there and locked."""
        while not (self.folder.is_dir() and self._is_locked()):
            self._unlock()
            self.folder.mkdir(0o700, exist_ok=True)
            if self.folder.stat().st_uid != os.geteuid():
                raise CannotStart(f"{self.folder} belongs to another user")
            # Another service may take it for a dead one's until it is locked: then look again.
            with contextlib.suppress(FileNotFoundError):
                self._lock = os.open(self.folder, os.O_RDONLY)
                fcntl.flock(self._lock, fcntl.LOCK_EX)

    def _is_locked(self) -> bool:
        if self._lock is None:
            return False
        return os.path.samestat(os.fstat(self._lock), self.folder.stat())

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _links(self) -> Iterator[tuple[Path, Path]]:
        """Pairs of a link and its target."""
        triton = _installed_triton()
        yield self.program, triton / "bin/tritonserver"
        yield self.folder / "caches", triton / "caches"
        yield self.folder / "models", self._repository
        for file in (triton / "backends/python").glob("*.*"):
            yield self.folder / "backends/python" / file.name, file


def remove_dead() -> None:
    """Remove what killed services of this user left, files and processes."""
    for folder in SHARED_MEMORY.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, or removed meanwhile
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            if not folder.is_dir():
                owner = folder.with_name(_PREFIX + folder.name.removeprefix(_PREFIX)[:8])
                if not owner.exists():
                    folder.unlink()
                continue
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _kill_processes(folder)
                remove_files(folder)
            finally:
                os.close(lock)


def _kill_processes(folder: Path) -> None:
    """Kill tritonserver and the engine processes whose program is in the folder."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"]
        if command and command[0].startswith(f"{folder}/"):
            with contextlib.suppress(psutil.Error):
                process.kill()


def installed_libraries() -> Path:
    """Folder of the shared libraries of Triton's wheel. Raises CannotStart."""
    return _installed_triton().parents[1] / "nvidia_pytriton.libs"


def _installed_triton() -> Path:
    try:
        return Path(str(resources.files("pytriton"))) / "tritonserver"
    except ModuleNotFoundError:
        raise CannotStart(
            "there is no Triton here: install the extra `serve`, or set CHANNELTOK_TRITON_URL"
        ) from None


def _installed_stub() -> Path:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = _installed_triton() / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise CannotStart(
            f"the nvidia-pytriton wheel has no python backend for Python {version}: "
            "use 3.11 or 3.12"
        )
    return stub
