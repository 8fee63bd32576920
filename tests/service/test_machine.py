"""Limits of control groups, in copies of the files that kernels show; and containers."""

import os
from pathlib import Path

import psutil
import pytest

from service import machine

MIB = 2**20


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/memory"
NO_LIMIT_V1 = "9223372036854771712\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": f"{300 * MIB}\n"}, 300 * MIB),
        (
            {
                "proc/self/cgroup": "0::/kubepods/pod1/main\n",
                f"{V2}/memory.max": "max\n",
                f"{V2}/kubepods/pod1/memory.max": f"{200 * MIB}\n",
                f"{V2}/kubepods/pod1/main/memory.max": "max\n",
            },
            200 * MIB,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/docker/a\n0::/\n",
                f"{V1}/memory.limit_in_bytes": NO_LIMIT_V1,
                f"{V1}/docker/a/memory.limit_in_bytes": f"{100 * MIB}\n",
            },
            100 * MIB,
        ),
        (  # the path is the host's, but the mount shows only the container's group
            {
                "proc/self/cgroup": "4:memory:/docker/a\n",
                f"{V1}/memory.limit_in_bytes": f"{100 * MIB}\n",
            },
            100 * MIB,
        ),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({}, None),
    ],
    ids=["v2", "v2 above", "v1", "v1 in a container", "no limit", "no cgroups"],
)
def test_memory_limit(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    assert machine.memory_limit(tree(tmp_path, **files)) == expected


V1_CPU = "sys/fs/cgroup/cpu"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "proc/self/cgroup": "0::/kubepods/pod1/main\n",
                f"{V2}/cpu.max": "max 100000\n",
                f"{V2}/kubepods/pod1/cpu.max": "100000 50000\n",
                f"{V2}/kubepods/pod1/main/cpu.max": "400000 100000\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/docker/a\n4:cpuset:/b\n0::/\n",
                f"{V1_CPU}/cpu.cfs_quota_us": "-1\n",
                f"{V1_CPU}/cpu.cfs_period_us": "100000\n",
                f"{V1_CPU}/docker/cpu.cfs_quota_us": "300000\n",
                f"{V1_CPU}/docker/cpu.cfs_period_us": "100000\n",
                f"{V1_CPU}/docker/a/cpu.cfs_quota_us": "-1\n",
                f"{V1_CPU}/docker/a/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (  # the path is the host's, but the mount shows only the container's group
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/docker/a\n",
                f"{V1_CPU}/cpu.cfs_quota_us": "50000\n",
                f"{V1_CPU}/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "max 100000\n"}, None),
        ({}, None),
    ],
    ids=["v2", "v2 above", "v1 above", "v1 in a container", "no quota", "no cgroups"],
)
def test_cpu_quota(tmp_path: Path, files: dict[str, str], expected: float | None) -> None:
    assert machine.cpu_quota(tree(tmp_path, **files)) == expected


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("50000", 1), ("100000", 1), ("199999", 1), ("250000", 2), ("6400000", 4), ("max", 4)],
)
def test_cores_are_whole_and_within_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5})
    tree(tmp_path, **{"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": f"{quota} 100000\n"})
    assert machine.cores(tmp_path) == expected


def test_default_max_memory_is_a_share_of_the_smaller_limit(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total
    assert machine.default_max_memory(tmp_path) == int(total * 0.75)
    tree(tmp_path, **{"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": f"{100 * MIB}\n"})
    assert machine.default_max_memory(tmp_path) == 90 * MIB
    tree(tmp_path, **{f"{V2}/memory.max": NO_LIMIT_V1})
    assert machine.default_max_memory(tmp_path) == int(total * 0.75)


def test_memory_in_use_counts_shared_pages_once() -> None:
    shared = bytearray(os.urandom(MIB)) * 64
    before = machine.memory_in_use()
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:  # shares every page until it writes
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(len(shared) == 0)
    try:
        assert machine.memory_in_use() < before + 32 * MIB
    finally:
        os.close(read_end)
        os.close(write_end)
        os.waitpid(child, 0)


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv"])
def test_in_container_knows_docker_and_podman(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert not machine.in_container(tmp_path)
    (file := tmp_path / mark).parent.mkdir(exist_ok=True)
    file.touch()
    assert machine.in_container(tmp_path)
