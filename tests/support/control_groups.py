"""A control group with a CPU quota, as a container has one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_CGROUPS = Path("/sys/fs/cgroup")
_PERIOD = 100_000  # microseconds


@contextmanager
def cpu_quota(cores: float) -> Iterator[list[str]]:
    """A command that runs the program in its arguments in a group whose parent has the quota.

    Skips the test where control groups cannot be made: without root, or in a container.
    """
    v1 = _CGROUPS / "cpu"
    parent = (v1 if v1.is_dir() else _CGROUPS) / f"channeltok-test-{os.getpid()}"
    group = parent / "service"
    try:
        group.mkdir(parents=True)
        quota = int(cores * _PERIOD)
        if v1.is_dir():
            (parent / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (parent / "cpu.max").write_text(f"{quota} {_PERIOD}")
    except OSError as error:
        _remove(group)
        pytest.skip(f"cannot make a control group with a CPU quota: {error}")
    try:
        yield ["sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh"]
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    for folder in (group, group.parent):
        with suppress(OSError):  # never made, or a process has not ended yet
            folder.rmdir()
