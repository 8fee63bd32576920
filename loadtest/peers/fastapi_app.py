"""FastAPI with ONNX Runtime, the simplest server: one process per core, no batching."""

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from loadtest.peers.graph import Graph

app = FastAPI()
graph = Graph(threads=1)


def _encode(jpeg: bytes) -> list[int]:
    ids: list[int] = graph.ids(graph.pixels(jpeg)[None])[0].tolist()
    return ids


@app.post("/encode")
async def encode(request: Request) -> dict[str, list[int]]:
    """JPEG to ids."""
    return {"ids": await run_in_threadpool(_encode, await request.body())}
