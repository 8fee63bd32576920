"""Build and run real containers without a Docker engine or a registry, with Debian's podman.

Replacements stand for base images. docs/containers.md says what this proves and what it does not.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build/containers"
(BASE,) = set(re.findall(r"^FROM (\S+:\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
PACKAGES = [
    "podman",
    "buildah",
    "runc",
    "catatonit",
    "netavark",
    "aardvark-dns",
    "iptables",
    "debootstrap",
]
# Some hosts, such as containers, refuse raised limits and hybrid cgroups. crun needs both.
CONFIGURATION = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
runtime = "runc"
"""
_BUILD = [
    "buildah",
    "bud",
    "--isolation",
    "chroot",
    "--network",
    "host",
    "--pull-never",
    "--layers",
    "--format",
    "docker",
]
HARDENED = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]


def prepare() -> None:
    """Install missing programs and build the base image if it does not exist. Needs root."""
    if any(
        shutil.which(program) is None
        for program in ("podman", "buildah", "debootstrap", "runc", "iptables")
    ):
        subprocess.run(["apt-get", "-qq", "update"], check=True)
        install = ["apt-get", "-qq", "install", "-y", "--no-install-recommends", *PACKAGES]
        subprocess.run(
            install,
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "containers.conf").write_text(CONFIGURATION)
    if not has_image(f"docker.io/library/{BASE}"):
        script = str(Path(__file__).with_name("base_image.sh"))
        subprocess.run(
            [script, f"docker.io/library/{BASE}", sys.executable],
            check=True,
            env=environment(),
            stdout=subprocess.DEVNULL,
        )


def environment() -> dict[str, str]:
    """Environment variables for podman and buildah."""
    return {**os.environ, "CONTAINERS_CONF": str(BUILD / "containers.conf")}


def podman(
    *arguments: str, check: bool = True, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run podman; see `run`."""
    return run("podman", *arguments, check=check, timeout=timeout)


def run(
    *command: str, check: bool = True, timeout: float = 120, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a command in `environment()`. AssertionError with its output if `check` and it fails."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=timeout,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == 0 or not check, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


def has_image(name: str) -> bool:
    """Whether an image of this name exists."""
    return podman("image", "exists", name, check=False).returncode == 0


def build(target: str, name: str, *options: str) -> float:
    """Build one stage of our unchanged Dockerfile, with cached layers. Returns the seconds.

    pip's configuration and the machine's certificates are mounted for the build only: the image
    does not contain them.
    """
    started = time.monotonic()
    run(
        *_BUILD,
        *_build_volumes(),
        *options,
        "--target",
        target,
        "-t",
        name,
        str(ROOT),
        timeout=1200,
    )
    return time.monotonic() - started


def build_folder(context: Path, name: str) -> None:
    """Build the Dockerfile of a folder."""
    run(*_BUILD, "-t", name, str(context))


def package_index() -> str:
    """The package index that pip uses here."""
    return _pip_settings().get("index-url", "https://pypi.org/simple")


def _pip_settings() -> dict[str, str]:
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    return dict(re.findall(r"^(?:global|:env:)\.([\w-]+)='(.*)'$", listed, re.MULTILINE))


def _build_volumes() -> list[str]:
    settings = _pip_settings()
    configuration = BUILD / "pip.conf"
    lines = [f"{name} = {value}" for name, value in settings.items()]
    configuration.write_text("\n".join(["[global]", *lines, ""]))
    mounted = {Path("/etc/ssl/certs")} if Path("/etc/ssl/certs").is_dir() else set()
    for word in " ".join(settings.values()).split():
        path = Path(word.removeprefix("file://"))
        if word.startswith("file://"):
            path = path.parent  # an index links to files beside it
        if (
            path.is_absolute()
            and path.exists()
            and not any(path.is_relative_to(other) for other in mounted)
        ):
            mounted.add(path)
    volumes = {str(path): str(path) for path in sorted(mounted)} | {
        str(configuration): "/etc/pip.conf"
    }
    return [
        option for source, target in volumes.items() for option in ("-v", f"{source}:{target}:ro")
    ]


@dataclass(frozen=True)
class Container:
    """A container that runs, or ran. published: 127.0.0.1:PORT by the port inside.

    Checks never use a container's own address: once its network is gone, others may have it.
    """

    name: str
    published: Mapping[int, str] = field(default_factory=dict, hash=False)

    def inspect(self) -> dict[str, Any]:
        """Podman's description of it."""
        description: dict[str, Any] = json.loads(podman("inspect", self.name).stdout)[0]
        return description

    def logs(self) -> str:
        """Its output on both streams."""
        done = podman("logs", self.name)
        return done.stdout + done.stderr

    def healthy(self) -> bool:
        """Run the image's health check once, which needs no systemd."""
        return podman("healthcheck", "run", self.name, check=False).returncode == 0

    def wait(self, timeout: float = 60) -> int:
        """Wait for its end; returns the exit code."""
        return int(podman("wait", self.name, timeout=timeout).stdout)

    def stop(self, seconds: int = 30) -> tuple[int, float]:
        """SIGTERM, then SIGKILL after `seconds`. Returns the exit code and the time it took."""
        started = time.monotonic()
        podman("stop", "-t", str(seconds), self.name, timeout=seconds + 30)
        return self.wait(), time.monotonic() - started

    def resident_bytes(self) -> int:
        """Proportional set size of all its processes."""
        pids = podman("top", self.name, "hpid").stdout.split()[1:]
        total = 0
        for pid in pids:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(re.findall(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)[0]) * 1024
        return total


@contextmanager
def running(
    image: str, *options: str, command: Sequence[str] = (), name: str = "channeltok-check"
) -> Iterator[Container]:
    """A container, hardened as in docker-compose.yml; its logs are printed when a check fails."""
    podman("rm", "-f", "-t", "0", name, check=False)
    podman("run", "-d", "--name", name, *HARDENED, *options, image, *command)
    published = re.findall(
        r"^(\d+)/tcp -> (127\.0\.0\.1:\d+)$", podman("port", name).stdout, re.MULTILINE
    )
    container = Container(name, {int(inside): outside for inside, outside in published})
    try:
        yield container
    except AssertionError:
        print(container.logs()[-4000:])
        raise
    finally:
        podman("rm", "-f", "-t", "0", name, check=False)
