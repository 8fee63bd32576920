"""What this service may use of the machine, how much memory it uses, and whether it is shared."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil

Limit = TypeVar("Limit", bound=float)
CONTAINER_SHARE = 0.9  # the rest is for what the kernel counts too: sockets, files in /tmp
MACHINE_SHARE = 0.75  # other programs run there as well


def default_max_memory(root: Path = Path("/")) -> int:
    """Bytes: 90 % of the container's memory limit or, without one, 75 % of the machine's memory."""
    machine = int(psutil.virtual_memory().total)
    limit = memory_limit(root)
    if limit is None or limit >= machine:
        return int(machine * MACHINE_SHARE)
    return int(limit * CONTAINER_SHARE)


def cores(root: Path = Path("/")) -> int:
    """Whole cores that this process may use: its affinity, within `cpu_quota`; at least 1.

    A fraction of a core is left to everything beside the engines. With a thread more, the kernel
    would stop all threads of the container, the gateway's too, for a part of each 100 ms.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota(root)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def memory_limit(root: Path = Path("/")) -> int | None:
    """The smallest memory limit of our control group and those above it, bytes; None without any.

    root: where /proc and /sys are.
    """

    def read(group: Path, version: int) -> int:
        return int(
            (group / ("memory.max" if version == 2 else "memory.limit_in_bytes")).read_text()
        )

    return min(_limits(root, "memory", read), default=None)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The smallest CPU quota of our control group and those above it, cores; None without any.

    root: where /proc and /sys are.
    """

    def read(group: Path, version: int) -> float:
        if version == 2:
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = (
                (group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        if int(quota) < 0:
            raise ValueError("no quota")
        return int(quota) / int(period)

    return min(_limits(root, "cpu", read), default=None)


def _limits(root: Path, controller: str, read: Callable[[Path, int], Limit]) -> Iterator[Limit]:
    """What `read` finds in our control group and those above it, in versions 1 and 2 of cgroups.

    read: gets a group's folder and the version. Raises OSError or ValueError where it has no limit.
    """
    cgroups = root / "sys/fs/cgroup"
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            version = 1 if controllers else 2
            mount = cgroups / controller if controllers else cgroups
            # In a container the path may be the host's, while the mount shows only our group.
            group = mount / path.lstrip("/")
            for folder in (group, *group.parents):
                with contextlib.suppress(OSError, ValueError):  # "max" is no number
                    yield read(folder, version)
                if folder == mount:
                    break


def memory_in_use(pid: int | None = None) -> int:
    """Bytes that a process (by default this one) and its descendants take; shared pages count once.

    Takes milliseconds for each process: call it in a thread.
    """
    root = psutil.Process(pid)
    total = 0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            try:
                total += process.memory_full_info().pss
            except psutil.AccessDenied:
                total += process.memory_info().rss  # more than it takes, never less
    return total


def in_container(root: Path = Path("/")) -> bool:
    """Whether this is a container of Kubernetes, Docker or Podman, which has no other users."""
    return "KUBERNETES_SERVICE_HOST" in os.environ or any(
        (root / mark).exists() for mark in (".dockerenv", "run/.containerenv")
    )
