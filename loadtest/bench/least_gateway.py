"""Command `python -m loadtest.bench.least_gateway TRITON`: the least that a gateway can do.

Encode and Decode over gRPC, in grpc.aio on uvloop as the service: read or write the image, pass one
request on to Triton, reply. No limits, batches, deadlines, metrics or logs. A gateway of this kind
goes below what it takes only by joining requests (loadtest.bench.against_commit).
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# As service/__main__.py, before gRPC is imported.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")

import grpc
import numpy as np
import uvloop
from channeltok.tokens import Tokens
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1 import tokenizer_pb2_grpc
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2_grpc

import imaging
from loadtest.load.targets import infer_request

SIZE, CHANNELS = 128, 256  # of the demo tokenizer


class LeastGateway(tokenizer_pb2_grpc.TokenizerServicer):
    """Encode to all tokens and Decode of all tokens to JPEG, with the demo tokenizer."""

    def __init__(self, triton: str) -> None:
        """triton: its gRPC address."""
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.aio.insecure_channel(triton))

    async def Encode(self, request: pb.EncodeRequest, context: object) -> pb.EncodeResponse:
        pixels = imaging.prepare(request.image, SIZE)
        output = await self._infer("demo_encode", "picture", pixels)
        ids = np.frombuffer(output, np.int32).astype(np.uint16)
        return pb.EncodeResponse(tokens=Tokens(ids, fingerprint="0" * 16).to_bytes(), k=CHANNELS)

    async def Decode(self, request: pb.DecodeRequest, context: object) -> pb.DecodeResponse:
        ids = Tokens.from_bytes(request.tokens).ids.astype(np.int32)
        output = await self._infer(f"demo_decode_k{CHANNELS}", "tokens", ids)
        pixels = np.frombuffer(output, np.uint8).reshape(SIZE, SIZE, 3)
        return pb.DecodeResponse(image=imaging.encode_image(pixels, "JPEG"))

    async def _infer(self, model: str, name: str, array: NDArray[np.generic]) -> bytes:
        reply = await self._stub.ModelInfer(infer_request(model, name, array))
        return bytes(reply.raw_output_contents[0])


@contextmanager
def least_gateway(triton: str) -> Iterator[tuple[int, str]]:
    """Run the command in front of the Triton at `triton`; yields process id and address."""
    command = [sys.executable, "-m", "loadtest.bench.least_gateway", triton]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, process.stdout.readline().strip()
        finally:
            process.terminate()


async def serve(triton: str) -> None:
    """Print the address, and serve until the process is stopped."""
    server = grpc.aio.server()
    add_to = tokenizer_pb2_grpc.add_TokenizerServicer_to_server
    add_to(LeastGateway(triton), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.least_gateway")
    parser.add_argument("triton", help="gRPC address of a Triton that serves the demo tokenizer")
    uvloop.run(serve(parser.parse_args().triton))


if __name__ == "__main__":
    main()
