"""A removed bearer token ends the streams that were opened with it, on both protocols."""

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from channeltok import AsyncClient, GenerateParams, Unauthenticated
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support.photographs import jpeg
from tests.support.running import Service, eventually, running
from tests.support.sketch_generator import repository
from tests.support.sketch_generator.repository import GeneratorRepository

KEPT, REMOVED = "kept-0123456789abcdef", "removed-0123456789abcdef"
PAUSE = 0.1  # seconds for a token
LONG = 256  # tokens: 26 s, far longer than any token that was removed may be used
SECONDS = 15.0  # a service on a busy machine gets for what takes it three


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(f"{KEPT}\n{REMOVED}\n")
    return file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> GeneratorRepository:
    return repository.write(tmp_path_factory.mktemp("generator"), PAUSE)


@pytest.fixture(scope="module")
def service(file: Path, made: GeneratorRepository) -> Iterator[Service]:
    with running(
        model_repository=str(made.models), bearer_token_file=str(file), max_generations="4"
    ) as service:
        yield service
        assert not [line for line in service.log if KEPT in line or REMOVED in line]
        assert not [line for line in service.log if "internal_error" in line or "Traceback" in line]


async def encode_stream(service: Service, token: str) -> AsyncIterator[object]:
    async def images() -> AsyncIterator[bytes]:
        while True:
            yield jpeg()
            await asyncio.sleep(0.05)

    async with AsyncClient(service.grpc, bearer_token=token) as client:
        async for result in client.encode_stream(images(), 8):
            yield result


async def silent_decode_stream(service: Service, token: str) -> AsyncIterator[object]:
    """Nothing is sent after the first item, so nothing but the service can end it."""

    async def one() -> AsyncIterator[object]:
        yield tokens
        await asyncio.sleep(3600)

    async with AsyncClient(service.grpc, bearer_token=token) as client:
        tokens = await client.encode(jpeg(), 8)
        async for result in client.decode_stream(one()):
            yield result


async def generate(service: Service, token: str) -> AsyncIterator[object]:
    async with AsyncClient(service.grpc, bearer_token=token, timeout=60) as client:
        async for event in client.generate(GenerateParams(k=LONG)):
            yield event


async def server_sent_events(service: Service, token: str) -> AsyncIterator[object]:
    async with (
        httpx.AsyncClient(base_url=service.rest, timeout=60) as client,
        client.stream(
            "POST",
            "/v1/generate",
            json={"k": LONG},
            headers={"Authorization": f"Bearer {token}"},
        ) as reply,
    ):
        assert reply.status_code == 200
        lines = reply.aiter_lines()
        async for line in lines:
            if line == "event: error":
                problem = json.loads((await anext(lines)).removeprefix("data: "))
                assert problem["status"] == 401
                assert [line async for line in lines] == [""]  # it ends there
                raise Unauthenticated(problem["code"], problem["detail"])
            yield line


async def batch(service: Service, token: str) -> AsyncIterator[object]:
    """Its reply begins at the end of the body, which never comes."""
    line = json.dumps({"image": base64.b64encode(jpeg()).decode()}).encode() + b"\n"
    host, port = service.rest.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /v1/encode:batch HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n"
        b"Authorization: Bearer %s\r\n\r\n" % token.encode()
    )

    async def send() -> None:
        while True:
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))
            await writer.drain()
            await asyncio.sleep(0.2)

    sending = asyncio.create_task(send())
    try:
        yield "sent"
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 401 ")
        problem = json.loads(await reader.readuntil(b"}"))
        raise Unauthenticated(problem["code"], problem["detail"])
    finally:
        sending.cancel()
        writer.close()


async def reflection(service: Service, token: str) -> AsyncIterator[object]:
    metadata = (("authorization", f"Bearer {token}"),)

    async def one() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        await asyncio.sleep(3600)

    async with grpc.aio.insecure_channel(service.grpc) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        try:
            async for reply in stub.ServerReflectionInfo(one(), metadata=metadata):
                yield reply
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                raise
            raise Unauthenticated("UNAUTHENTICATED", error.details()) from error


STREAMS = [
    encode_stream,
    silent_decode_stream,
    generate,
    server_sent_events,
    batch,
    reflection,
]


async def test_removing_a_token_ends_its_open_streams_and_no_others(
    service: Service, file: Path, made: GeneratorRepository
) -> None:
    async def read(stream: AsyncIterator[object]) -> None:
        async for _ in stream:
            pass

    opened = {token: [stream(service, token) for stream in STREAMS] for token in (KEPT, REMOVED)}
    for stream in (*opened[KEPT], *opened[REMOVED]):
        assert await anext(stream)
    kept, ended = ([asyncio.create_task(read(one)) for one in each] for each in opened.values())
    (beside := file.with_suffix(".new")).write_text(f"{KEPT}\n")
    os.replace(beside, file)
    await asyncio.wait(ended, timeout=SECONDS)
    for stream, task in zip(STREAMS, ended, strict=True):
        assert task.done(), stream.__name__
        with pytest.raises(Unauthenticated, match="no longer accepted"):
            await task
    assert not [task for task in kept if task.done()]
    # Those of `generate` and `server_sent_events`: the others have stopped in the engine too.
    await asyncio.to_thread(eventually, lambda: made.sequences() == 2)
    for task in kept:
        task.cancel()
    await asyncio.gather(*kept, return_exceptions=True)
