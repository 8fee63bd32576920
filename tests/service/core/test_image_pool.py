"""Real worker processes; only what they decode is made to misbehave."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from prometheus_client import REGISTRY

import imaging
from service.core.image_pool import HEAVY, LANES, LIGHT, ImagePool, Lane, WorkerBug
from service.errors import BadImage, EngineUnavailable, Stopping
from tests.support.hostile_images import HostileImage
from tests.support.photographs import jpeg

SOON = 5.0  # on a busy machine
AUTOGROUP = Path("/proc/self/autogroup")


@contextlib.asynccontextmanager
async def started(size: int = 1) -> AsyncIterator[ImagePool]:
    pool = ImagePool(size)
    await pool.start()
    try:
        await pool.ready()
        await until(lambda: len(workers(pool)) == size * len(LANES))
        yield pool
    finally:
        await pool.stop()


async def run(pool: ImagePool, act: str, lane: Lane = LIGHT, size: int = 8) -> NDArray[np.uint8]:
    image = cast(imaging.ImageFile, HostileImage(act))
    return await pool.pixels(lane, image, size, "crop")


def workers(pool: ImagePool) -> list[psutil.Process]:
    """Processes that the fork server has forked."""
    assert pool._process is not None
    return psutil.Process(pool._process.pid).children()


def alive(process: psutil.Process) -> bool:
    """Whether it runs; nobody may have waited for an orphan yet."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def restarts(reason: str) -> float:
    name = "channeltok_image_worker_restarts_total"
    return REGISTRY.get_sample_value(name, {"reason": reason}) or 0.0


async def until(condition: Any, seconds: float = SOON) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("lane", LANES, ids=lambda lane: lane.name)
async def test_pool_decodes_as_this_process_does(lane: Lane) -> None:
    file = imaging.open_image(jpeg())
    async with started() as pool:
        for fit in imaging.FITS:
            pixels = await pool.pixels(lane, file, 64, fit)
            np.testing.assert_array_equal(pixels, file.pixels(64, fit))


async def test_pool_gives_each_caller_its_own_pixels() -> None:
    """Many at once, of very different sizes, so that a worker's file shrinks and grows."""
    sizes = [3, 200, 17, 1000, 64]
    files = [
        imaging.open_image(imaging.encode_image(np.full((side, side, 3), side % 251, np.uint8), f))
        for side in sizes
        for f in ("PNG", "JPEG")
    ]
    async with started(2) as pool:
        jobs = [(file, size) for file in files for size in (8, 300)] * 3
        results = await asyncio.gather(
            *(pool.pixels(LANES[i % 2], file, size, "crop") for i, (file, size) in enumerate(jobs))
        )
    for (file, size), pixels in zip(jobs, results, strict=True):
        np.testing.assert_array_equal(pixels, file.pixels(size, "crop"))


async def test_pool_kills_a_worker_whose_caller_leaves_and_replaces_it() -> None:
    async with started() as pool:
        before, count = {process.pid for process in workers(pool)}, restarts("cancelled")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await run(pool, "sleep")
        asked = time.monotonic()
        await run(pool, "decode")
        assert time.monotonic() - asked < SOON  # the other one would sleep for a minute
        assert len({process.pid for process in workers(pool)} - before) == 1
        assert restarts("cancelled") == count + 1


async def test_pool_kills_nobody_for_a_caller_that_leaves_the_queue() -> None:
    async with started() as pool:
        await run(pool, "decode")
        before = {process.pid for process in workers(pool)}
        running = asyncio.create_task(run(pool, "sleep"))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(run(pool, "decode"))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert {process.pid for process in workers(pool)} == before
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await run(pool, "decode")


@pytest.mark.parametrize(
    ("act", "error", "says", "reason"),
    [
        ("abort", BadImage, "crashed", "crash"),
        ("segfault", BadImage, "crashed", "crash"),
        ("allocate", BadImage, "memory", "memory"),
        ("be_killed", EngineUnavailable, "try again", "killed"),
        ("fail", WorkerBug, "ZeroDivisionError: a bug of ours", "bug"),
    ],
)
async def test_pool_says_why_a_worker_ended_and_replaces_it(
    act: str, error: type[Exception], says: str, reason: str
) -> None:
    async with started() as pool:
        before = restarts(reason)
        for _ in range(2):
            with pytest.raises(error, match=says):
                await run(pool, act)
            await asyncio.wait_for(run(pool, "decode"), SOON)
        assert restarts(reason) == before + 2


async def test_pool_limits_processor_time() -> None:
    async with started() as pool:
        with pytest.raises(BadImage, match="more than 2 s of a processor"):
            await asyncio.wait_for(run(pool, "spin"), 60)
        await asyncio.wait_for(run(pool, "decode"), SOON)


async def test_pool_passes_on_why_an_image_is_bad_and_keeps_the_worker() -> None:
    async with started() as pool:
        first = await run(pool, "decode")
        with pytest.raises(BadImage, match="the PNG is damaged: a test says so"):
            await run(pool, "refuse")
        np.testing.assert_array_equal(await run(pool, "decode"), first)  # the same process


async def test_pool_lanes_do_not_wait_for_each_other_and_heavy_is_nicer() -> None:
    async with started() as pool:
        heavy = asyncio.create_task(run(pool, "sleep", HEAVY))
        for _ in range(3):
            await asyncio.wait_for(run(pool, "decode", LIGHT), SOON)
        own = os.nice(0)
        assert sorted(process.nice() - own for process in workers(pool)) == [0, HEAVY.nice]
        heavy.cancel()


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this kernel does not share by session")
async def test_pool_heavy_workers_yield_to_other_sessions_too() -> None:
    """Triton has a session of its own, and nice alone counts only within one."""
    async with started() as pool:
        await until(lambda: sum(os.getsid(row.pid) == row.pid for row in workers(pool)) == 1)
        light, heavy = sorted(workers(pool), key=lambda row: os.getsid(row.pid) == row.pid)
        group = AUTOGROUP.parents[1] / str(heavy.pid) / AUTOGROUP.name
        await until(lambda: group.read_text().endswith(f"nice {HEAVY.nice}\n"))
        assert os.getsid(light.pid) == os.getsid(0)


async def test_pool_stop_kills_what_runs_at_once() -> None:
    async with started(2) as pool:
        await run(pool, "decode")
        jobs = [asyncio.create_task(run(pool, "sleep", lane)) for lane in LANES for _ in range(2)]
        await until(lambda: len(workers(pool)) == 4)
        await asyncio.sleep(0.1)
        processes, began = workers(pool), time.monotonic()
        await pool.stop()
        results = await asyncio.gather(*jobs, return_exceptions=True)
        assert time.monotonic() - began < SOON
        assert [type(result) for result in results] == [Stopping] * 4
        await until(lambda: not any(map(alive, processes)))


async def test_pool_survives_the_end_of_its_fork_server() -> None:
    async with started() as pool:
        await run(pool, "decode")
        job = asyncio.create_task(run(pool, "sleep"))
        await asyncio.sleep(0.1)
        processes = workers(pool)
        assert pool._process is not None
        pool._process.kill()
        with pytest.raises(EngineUnavailable, match="try again"):
            await asyncio.wait_for(job, SOON)
        await asyncio.wait_for(run(pool, "decode"), 2 * SOON)
        await asyncio.wait_for(run(pool, "decode", HEAVY), SOON)
        await until(lambda: not any(map(alive, processes)))


async def test_workers_are_small_single_threaded_and_close_what_is_not_theirs() -> None:
    async with started(2) as pool:
        for lane in LANES:
            await asyncio.gather(*(run(pool, "decode", lane) for _ in range(4)))
        await until(lambda: len(workers(pool)) == 4)
        for process in workers(pool):
            assert process.num_threads() == 1
            assert process.memory_full_info().uss < 30 * 2**20
            assert process.num_fds() == 5  # stdin, stdout, stderr, its socket, its file
            assert not [file.path for file in process.memory_maps() if "grpc" in file.path]
