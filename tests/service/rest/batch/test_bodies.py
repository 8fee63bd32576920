"""Bodies of many items: cut in all places, with limits, and with their memory."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, cast

import pytest
from fastapi import Request

from service.core.memory import COPIES, MemoryBudget
from service.errors import BadRequest, TooLarge
from service.rest.batch.bodies import Item, read_lines, read_parts

Read = Callable[[Request, MemoryBudget, float, int], AsyncGenerator[Item, None]]
LIMIT = 40
LINES = b'{"a": 1}\n\n{"b": 2}\r\n' + b"x" * 41 + b"\n" + b"y" * 40 + b"\n  \nlast"
PARTS = b"".join(
    [
        b"preamble\r\n",
        b'--x-y\r\nContent-Disposition: form-data; name="image"; filename="a\\"1.jpg"\r\n\r\n',
        b"one\r\n--x-\r\n--x",
        b"\r\n--x-y  \r\n\r\n",
        b"\r\n--x-y\r\nContent-Type: image/png\r\n\r\n" + b"z" * 41,
        b"\r\n--x-y\r\n\r\n" + b"w" * 40,
        b'\r\n--x-y\r\nContent-Disposition: form-data; filename="\xc3\xa4"\r\n\r\n',
        b"\r\n\r\n--x-y--epilogue",
    ]
)


def request(pieces: list[bytes], content_type: str = "") -> Request:
    class Sent:
        def __init__(self) -> None:
            self.headers = {"content-type": content_type}

        async def stream(self) -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece
            yield b""

    return cast(Request, Sent())


async def read(
    method: Read, pieces: list[bytes], memory: MemoryBudget | None = None
) -> list[tuple[str | None, bytes | type[Exception]]]:
    memory = memory or MemoryBudget(10**6)
    items: list[Any] = []
    sent = request(pieces, "multipart/form-data; boundary=x-y")
    async for item in method(sent, memory, 5.0, LIMIT):
        data = item.data
        items.append((item.name, data if isinstance(data, bytes) else type(data)))
        if isinstance(data, bytes):
            assert item.memory.size >= len(data)
        item.memory.release()
    assert memory.reserved == 0
    return items


EXPECTED_LINES = [
    (None, b'{"a": 1}'),
    (None, b'{"b": 2}\r'),
    (None, TooLarge),
    (None, b"y" * 40),
    (None, b"last"),
]
EXPECTED_PARTS = [
    ('a\\"1.jpg', b"one\r\n--x-\r\n--x"),
    (None, b""),
    (None, TooLarge),
    (None, b"w" * 40),
    ("ä", b"\r\n"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_lines_are_the_same_however_the_body_is_cut(size: int) -> None:
    pieces = [LINES[start : start + size] for start in range(0, len(LINES), size)]
    assert await read(read_lines, pieces) == EXPECTED_LINES


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_parts_are_the_same_however_the_body_is_cut(size: int) -> None:
    pieces = [PARTS[start : start + size] for start in range(0, len(PARTS), size)]
    assert await read(read_parts, pieces) == EXPECTED_PARTS


async def test_parts_are_the_same_wherever_the_body_is_cut_once() -> None:
    for cut in range(len(PARTS)):
        assert await read(read_parts, [PARTS[:cut], PARTS[cut:]]) == EXPECTED_PARTS, cut


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
async def test_last_line_may_lack_its_end_or_be_too_large(end: bytes) -> None:
    assert await read(read_lines, [b"a\nb" + end]) == [(None, b"a"), (None, b"b")]
    assert await read(read_lines, [b"a\n" + b"b" * 50 + end]) == [(None, b"a"), (None, TooLarge)]


async def test_parts_that_end_early_are_refused() -> None:
    memory = MemoryBudget(10**6)
    for end in range(PARTS.rindex(b"--epilogue")):
        with pytest.raises(BadRequest, match="before its last boundary"):
            await read(read_parts, [PARTS[:end]], memory)
    assert memory.reserved == 0


async def test_item_that_is_too_large_takes_no_more_memory_than_one_that_is_not() -> None:
    memory = MemoryBudget(10**6)
    most = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal most
        for _ in range(1000):
            yield b"x" * 1000
            most = max(most, memory.reserved)

    sent = request([])
    sent.stream = body  # type: ignore[assignment,method-assign]
    (item,) = [item async for item in read_lines(sent, memory, 5.0, LIMIT)]
    assert isinstance(item.data, TooLarge)
    assert most <= COPIES * (LIMIT + 1 + 2**16)


async def test_taken_item_holds_no_data_and_its_error_is_raised() -> None:
    items = [item async for item in read_lines(request([LINES]), MemoryBudget(10**6), 5.0, LIMIT)]
    assert items[0].take() == b'{"a": 1}'
    assert items[0].data == b""
    with pytest.raises(TooLarge, match="more than 40 bytes"):
        items[2].take()


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('multipart/form-data; charset=utf-8; Boundary="a=b:c" ; x=y', b"a=b:c"),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
        ("multipart/form-data; boundary=" + "a" * 71, None),
        ('multipart/form-data; boundary="a', None),
    ],
)
async def test_boundary_is_read_from_the_content_type(header: str, found: bytes | None) -> None:
    body = b"--" + (found or b"") + b"\r\n\r\n1\r\n--" + (found or b"") + b"--"
    items = read_parts(request([body], header), MemoryBudget(10**6), 5.0, LIMIT)
    if found is None:
        with pytest.raises(BadRequest, match="boundary"):
            await anext(items)
    else:
        assert [item.data async for item in items] == [b"1"]
