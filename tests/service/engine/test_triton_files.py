"""The private folder of an embedded Triton, and what dead services left in /dev/shm."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest

from loadtest.harness.other_user import NOBODY, as_nobody
from service.engine.guardian import remove_files
from service.engine.triton_files import TritonFiles, remove_dead
from service.errors import CannotStart
from tests.support.running import ROOT


@pytest.fixture
def files() -> Iterator[TritonFiles]:
    files = TritonFiles(ROOT / "model_repository")
    yield files
    files.remove()


def test_files_are_made_once_and_again_where_missing(files: TritonFiles) -> None:
    files.make()
    before = files.folder.stat().st_ino
    stub = files.folder / "backends/python/triton_python_backend_stub"
    stub.unlink()
    files.make()
    assert os.access(stub, os.X_OK)
    assert files.folder.stat().st_ino == before
    shutil.rmtree(files.folder)
    files.make()
    assert os.access(stub, os.X_OK)
    assert (files.folder / "models/demo_encode/config.pbtxt").exists()


def test_files_are_a_link_to_the_program_where_a_copy_cannot_run(
    files: TritonFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoExec:
        f_flag = os.ST_NOEXEC

    monkeypatch.setattr(os, "statvfs", lambda path: NoExec)
    files.make()
    assert (files.folder / "backends/python/triton_python_backend_stub").is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make files of another user")
def test_files_are_not_made_in_a_folder_of_another_user(files: TritonFiles) -> None:
    files.folder.mkdir()
    os.chown(files.folder, NOBODY, NOBODY)
    try:
        with pytest.raises(CannotStart, match="belongs to another user"):
            files.make()
    finally:
        files.folder.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_remove_files_passes_over_those_of_other_users(files: TritonFiles) -> None:
    files.make()
    region = files.folder.with_name(f"{files.folder.name}-foreign")
    region.touch()
    try:
        as_nobody(lambda: remove_files(files.folder))
        as_nobody(remove_dead)
        assert region.exists()
        assert files.folder.exists()
    finally:
        region.unlink(missing_ok=True)


def test_remove_dead_removes_what_a_killed_service_left_and_nothing_else(
    files: TritonFiles,
) -> None:
    files.make()
    living = files.folder.with_name(f"{files.folder.name}-region")
    dead = files.folder.with_name("channeltok-0dead000")
    orphan = files.folder.with_name("channeltok-0dead001-region")
    shutil.rmtree(dead, ignore_errors=True)
    dead.mkdir()
    for path in (living, orphan, dead.with_name(f"{dead.name}-region")):
        path.touch()
    shutil.copy(shutil.which("sleep") or "", dead / "stub")
    (dead / "stub").chmod(0o700)
    process = subprocess.Popen([dead / "stub", "600"])
    remove_dead()
    assert process.wait(10) == -signal.SIGKILL
    assert not list(dead.parent.glob("channeltok-0dead*"))
    assert files.folder.exists()
    assert living.exists()
    files.remove()
    assert not list(files.folder.parent.glob(f"{files.folder.name}*"))


def test_paths_of_sockets_are_short_enough(files: TritonFiles) -> None:
    assert len(files.grpc_url.removeprefix("unix:")) < 108
    assert not files.sockets_exist()


def test_a_folder_that_is_locked_by_a_start_elsewhere_is_awaited(files: TritonFiles) -> None:
    """Another service may be about to remove the folder, as it was not locked yet."""
    files.folder.mkdir()
    remove_it = 'echo locked; sleep 1; rmdir "$0"'
    with subprocess.Popen(
        ["flock", files.folder, "sh", "-c", remove_it, files.folder], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        files.make()
        assert other.wait(10) == 0
    assert (files.folder / "models").exists()
