"""Encode and Decode requests for the load generator, to the gateway or directly to its Triton."""

from typing import Any

import numpy as np
from channeltok import Client
from channeltok.v1 import tokenizer_pb2 as pb
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

import imaging
from loadtest.harness import images
from loadtest.harness.service_process import Service
from loadtest.load.open_loop import DECODE, ENCODE, Grpc

K = 256
INFER = "/inference.GRPCInferenceService/ModelInfer"
_TYPES = {np.dtype(np.uint8): "UINT8", np.dtype(np.int32): "INT32"}


def gateway_targets(address: str) -> dict[str, Grpc]:
    """Encode of different 256 x 256 JPEGs to K tokens, and Decode of these tokens to JPEGs."""
    jpegs = images.crops()
    with Client(address, timeout=60) as client:
        tokens = [client.encode(jpeg, K).to_bytes() for jpeg in jpegs]
    encode = [pb.EncodeRequest(image=jpeg, k=K) for jpeg in jpegs]
    decode = [pb.DecodeRequest(tokens=data, format=pb.IMAGE_FORMAT_JPEG) for data in tokens]
    return {
        "encode": Grpc(address, ENCODE, tuple(body.SerializeToString() for body in encode)),
        "decode": Grpc(address, DECODE, tuple(body.SerializeToString() for body in decode)),
    }


def triton_targets(service: Service) -> dict[str, Grpc]:
    """The same images and tokens as ready pixels and ids, sent to the service's own Triton."""
    jpegs = images.crops()
    with Client(service.grpc) as client:
        tokenizer = client.tokenizers()[0]
        ids = [client.encode(jpeg).ids.astype(np.int32) for jpeg in jpegs]
    name, k = tokenizer.name, tokenizer.max_tokens
    pixels = [imaging.prepare(jpeg, tokenizer.image_size) for jpeg in jpegs]
    address = service.triton_address()
    encode = [infer_request(f"{name}_encode", "picture", rows) for rows in pixels]
    decode = [infer_request(f"{name}_decode_k{k}", "tokens", row) for row in ids]
    return {
        role: Grpc(address, INFER, tuple(request.SerializeToString() for request in requests))
        for role, requests in (("encode", encode), ("decode", decode))
    }


def infer_request(model: str, name: str, array: NDArray[np.generic]) -> Any:
    """A ModelInferRequest for one image or sequence. name: of the model's input."""
    tensor = service_pb2.ModelInferRequest.InferInputTensor(
        name=name, datatype=_TYPES[array.dtype], shape=(1, *array.shape)
    )
    return service_pb2.ModelInferRequest(
        model_name=model, inputs=[tensor], raw_input_contents=[array.tobytes()]
    )
