"""tokenize: engines that hang, and addresses where nobody listens."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from channeltok import Client, DeadlineExceeded, Unauthenticated, Unavailable, cli
from channeltok.datasets import (
    EngineGone,
    ProgressListener,
    engine_choice,
    retries,
    run,
    tokenize,
)

from tests.support import dataset_files
from tests.support.byte_engine import ByteEngine
from tests.support.running import ROOT


@pytest.fixture
def source(tmp_path: Path) -> str:
    for shard in range(6):
        images = [(f"{shard}-{number}", b"%d %d" % (shard, number)) for number in range(100)]
        dataset_files.tar(tmp_path / f"source/{shard}.tar", images)
    return str(tmp_path / "source")


@pytest.fixture
def hung() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


class Waits(ProgressListener):
    """Records how long the engine has not answered."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.failures = 0

    def wait(self, seconds: float, patience: float) -> None:
        self.seconds.append(seconds)

    def fail(self, shard: object, reason: str, retrying: bool) -> None:
        self.failures += 1


def test_an_engine_that_stops_answering_ends_the_run_after_the_patience(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "REPORT_SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(run, "GRACE_SECONDS", 0.1)
    waits = Waits()
    engine = ByteEngine(lambda number: time.sleep(60 if number > 250 else 0))
    started = time.monotonic()
    with pytest.raises(EngineGone, match=r"longer than the patience of 2 s; [1-4] of 6 shards"):
        tokenize(source, str(tmp_path / "tokens"), [engine], patience=2, listener=waits)
    assert time.monotonic() - started < 20
    assert waits.seconds
    summary = tokenize(source, str(tmp_path / "tokens"), [ByteEngine()])
    assert summary.images == 600
    assert summary.done_before >= 1


def test_an_engine_that_is_away_makes_all_shards_wait_together(source: str, tmp_path: Path) -> None:
    def away(number: int) -> None:
        raise Unavailable("UNAVAILABLE", "away")

    waits = Waits()
    with pytest.raises(EngineGone, match=r"the last failure: UNAVAILABLE: away; 0 of 6 shards"):
        tokenize(source, str(tmp_path / "tokens"), [ByteEngine(away)], patience=3, listener=waits)
    assert waits.failures <= 8


def test_an_engine_that_refuses_everybody_ends_the_run_before_its_patience(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "BACKOFF_SECONDS", 0.01)

    def refuse(number: int) -> None:
        if number > 150:
            raise Unauthenticated("UNAUTHENTICATED", "the token is wrong")

    with pytest.raises(EngineGone, match="refuses this run: UNAUTHENTICATED: the token is wrong"):
        tokenize(source, str(tmp_path / "tokens"), [ByteEngine(refuse)], patience=600)


def test_an_outage_within_the_patience_costs_no_shard(source: str, tmp_path: Path) -> None:
    back = time.monotonic() + 4

    def away_for_a_while(number: int) -> None:
        if time.monotonic() < back:
            raise Unavailable("UNAVAILABLE", "away")

    engine = ByteEngine(away_for_a_while)
    summary = tokenize(source, str(tmp_path / "tokens"), [engine], patience=60)
    assert (summary.images, summary.failed) == (600, {})


def test_a_hung_server_is_told_at_once(
    source: str, hung: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_choice, "FIRST_ANSWER_SECONDS", 2.0)
    with Client(hung) as client, pytest.raises(DeadlineExceeded, match="engine 1 of 1 did not say"):
        tokenize(source, str(tmp_path / "tokens"), [client])


def test_an_address_where_nobody_listens_is_told_within_seconds(
    source: str, closed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    assert cli.main(["tokenize", source, str(tmp_path / "tokens"), "--server", closed]) == 1
    assert time.monotonic() - started < 20
    assert f"no service at {closed}" in capsys.readouterr().err


def test_a_ray_address_where_nobody_listens_is_told_within_seconds(
    source: str, closed: str, hung: str, tmp_path: Path
) -> None:
    addresses = [closed, f"ray://{closed}", hung, f"ray://{hung}"]
    program = [sys.executable, "-m", "tests.support.programs.tokenize_on_ray"]
    done = subprocess.run(
        [*program, source, str(tmp_path / "tokens"), *addresses],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,  # Ray itself would wait 14 minutes for each
        check=True,
    )
    printed = done.stdout.splitlines()
    for line, address in zip(printed, addresses, strict=True):
        assert line.startswith(f"no Ray cluster at {address}: ")
