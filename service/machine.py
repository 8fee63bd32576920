"""Memory of the machine: how much this service may use, and how much it uses."""

import contextlib
from pathlib import Path

import psutil

CONTAINER_SHARE = 0.9  # the rest is for what the kernel counts too: sockets, files in /tmp
MACHINE_SHARE = 0.75  # other programs run there as well


def default_max_memory(root: Path = Path("/")) -> int:
    """Bytes: 90 % of the container's memory limit or, without one, 75 % of the machine's memory."""
    machine = int(psutil.virtual_memory().total)
    limit = container_limit(root)
    if limit is None or limit >= machine:
        return int(machine * MACHINE_SHARE)
    return int(limit * CONTAINER_SHARE)


def container_limit(root: Path = Path("/")) -> int | None:
    """The smallest memory limit of our control group and those above it, bytes; None without any.

    Reads versions 2 and 1 of cgroups. root: where /proc and /sys are.
    """
    limits = []
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            mount, file = (
                (root / "sys/fs/cgroup/memory", "memory.limit_in_bytes")
                if controllers
                else (root / "sys/fs/cgroup", "memory.max")
            )
            # In a container the path may be the host's, while the mount shows only our group.
            group = mount / path.lstrip("/")
            for folder in (group, *group.parents):
                with contextlib.suppress(OSError, ValueError):  # "max" is no number
                    limits.append(int((folder / file).read_text()))
                if folder == mount:
                    break
    return min(limits, default=None)


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
