"""Encode and Decode requests for the load generator, to the gateway or directly to its Triton."""

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
    encode = tuple(_infer_request(f"{name}_encode", "picture", "UINT8", rows) for rows in pixels)
    decode = tuple(_infer_request(f"{name}_decode_k{k}", "tokens", "INT32", row) for row in ids)
    return {"encode": Grpc(address, INFER, encode), "decode": Grpc(address, INFER, decode)}


def _infer_request(model: str, name: str, datatype: str, array: NDArray[np.generic]) -> bytes:
    tensor = service_pb2.ModelInferRequest.InferInputTensor(
        name=name, datatype=datatype, shape=(1, *array.shape)
    )
    request = service_pb2.ModelInferRequest(
        model_name=model, inputs=[tensor], raw_input_contents=[array.tobytes()]
    )
    return bytes(request.SerializeToString())
