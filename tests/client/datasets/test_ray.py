"""The same shards on a real Ray cluster of two nodes, one of whose workers is killed."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support import dataset_files
from tests.support.network_trace import assert_stays_here, files, home
from tests.support.photographs import crops
from tests.support.running import ROOT, running
from tests.support.tokenize_command import IN_PROCESS, ON_A_SERVICE, content

__all__ = ["home"]
SHARDS = 6


@pytest.fixture
def address() -> Iterator[str]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


def _workers() -> list[psutil.Process]:
    workers = []
    for process in psutil.process_iter():
        try:
            if any("MapWorker" in word for word in process.cmdline()):
                workers.append(process)
        except psutil.Error:
            continue
    return workers


@pytest.mark.slow  # 40 s, and once more than 4 minutes: Ray's own recovery
@pytest.mark.filterwarnings("ignore")
def test_cluster_replaces_a_killed_worker(address: str, tmp_path: Path) -> None:
    images = [(f"photo-{number:04d}", image) for number, image in enumerate(crops(SHARDS * 100))]
    for shard in range(SHARDS):
        dataset_files.tar(
            tmp_path / f"source/train-{shard}.tar",
            [*images[shard::SHARDS], (f"bad-{shard}", b"no image")],
        )

    def command(destination: str, *more: str) -> list[str]:
        paths = [str(tmp_path / "source"), str(tmp_path / destination)]
        return [*IN_PROCESS, *paths, "-k", "32", *more]

    subprocess.run(command("plain"), cwd=ROOT, check=True, timeout=120)
    run = subprocess.Popen(
        command("spread", "--ray", address),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 90
    while not list((tmp_path / "spread").glob("*.parquet")):
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = _workers()
    workers[0].kill()
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert "600 images" in out
    assert len(workers) == 2
    assert content(tmp_path / "spread") == content(tmp_path / "plain")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_cluster_workers_use_a_service(address: str, tmp_path: Path) -> None:
    for shard in range(3):
        images = [(f"photo-{shard}-{number}", image) for number, image in enumerate(crops(20))]
        dataset_files.tar(tmp_path / f"source/train-{shard}.tar", images)
    with running() as service:
        for destination, more in {"plain": [], "spread": ["--ray", address]}.items():
            paths = [str(tmp_path / "source"), str(tmp_path / destination)]
            command = [*ON_A_SERVICE, *paths, "-k", "32", "--server", service.grpc, *more]
            subprocess.run(command, cwd=ROOT, check=True, timeout=180)
    assert content(tmp_path / "spread") == content(tmp_path / "plain")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_cluster_run_connects_to_the_cluster_only(address: str, home: Path, tmp_path: Path) -> None:
    # `home` must come after `address`: the cluster keeps the environment that stops its reports.
    dataset_files.tar(
        tmp_path / "source/train-0.tar",
        [(f"photo-{number}", image) for number, image in enumerate(crops(20))],
    )
    own = {address.address for card in psutil.net_if_addrs().values() for address in card}
    command = [*IN_PROCESS, str(tmp_path / "source"), str(tmp_path / "tokens"), "-k", "8"]
    assert_stays_here(tmp_path, *command, "--ray", address, own=own)
    assert files(home) == []
