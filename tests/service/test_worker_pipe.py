import asyncio
import json
import os

import pytest

from service import worker_pipe
from service.triton.health import EngineHealth
from service.worker_pipe import Event, ParentPipe, read_events


@pytest.fixture
def pipe() -> tuple[int, int]:
    """The parent's end, and the worker's."""
    return os.pipe()


async def received(descriptor: int, patience: float = 60.0) -> list[Event]:
    return [event async for event in read_events(descriptor, patience)]


async def test_events_arrive_as_they_were_sent(pipe: tuple[int, int]) -> None:
    events = [
        Event("alive"),
        Event("suspect", "a model with spaces", 12.25),
        Event("ready"),
    ]
    parent = ParentPipe(pipe[1])
    for event in events:
        parent.send(event)
    os.close(pipe[1])
    assert await received(pipe[0]) == events


async def test_each_event_is_one_line_of_json(pipe: tuple[int, int]) -> None:
    ParentPipe(pipe[1]).send(Event("suspect", "demo_encode", 1.5))
    line = os.read(pipe[0], 1000)
    for end in pipe:
        os.close(end)
    assert json.loads(line) == {"event": "suspect", "model": "demo_encode", "sent": 1.5}
    assert line.count(b"\n") == 1


async def test_report_repeats_no_suspect_until_it_fails_again(pipe: tuple[int, int]) -> None:
    parent, health = ParentPipe(pipe[1]), EngineHealth()
    health.suspect("encoder", 1.0)
    reporting = asyncio.create_task(parent.report(health, seconds=0.001))
    suspects = []
    async for event in read_events(pipe[0], 60.0):
        if event.event == "suspect":
            suspects.append((event.model, event.sent))
        elif len(suspects) == 1:
            health.suspect("encoder", 2.0)
        elif len(suspects) == 2:
            break
    assert suspects == [("encoder", 1.0), ("encoder", 2.0)]
    reporting.cancel()
    os.close(pipe[1])
    await asyncio.wait([reporting])


async def test_a_worker_that_fell_silent_hangs(pipe: tuple[int, int]) -> None:
    ParentPipe(pipe[1]).send(Event("alive"))
    with pytest.raises(TimeoutError):
        await received(pipe[0], patience=0.01)
    os.close(pipe[1])


async def test_a_worker_may_be_silent_while_it_starts(pipe: tuple[int, int]) -> None:
    reading = asyncio.create_task(received(pipe[0], patience=0.001))
    assert not (await asyncio.wait([reading], timeout=0.02))[0]
    ParentPipe(pipe[1]).send(Event("alive"))
    os.close(pipe[1])
    assert await reading == [Event("alive")]


async def test_a_line_cut_off_by_the_end_of_the_worker_is_dropped(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b'{"event": "alive"}\n{"event": "sus')
    os.close(pipe[1])
    assert await received(pipe[0]) == [Event("alive")]


def test_only_a_worker_has_a_pipe(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    os.close(pipe[0])
    monkeypatch.delenv(worker_pipe.PIPE, raising=False)
    assert ParentPipe.from_environment() is None
    monkeypatch.setenv(worker_pipe.PIPE, str(pipe[1]))
    assert ParentPipe.from_environment() is not None
    os.close(pipe[1])


def test_sending_to_a_parent_that_is_gone_is_no_error(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    ParentPipe(pipe[1]).send(Event("alive"))
    os.close(pipe[1])
