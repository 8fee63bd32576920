"""Model, Tensor and Inference: a Triton model's config, the request for it and its result."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2, service_pb2

_DTYPES: dict[int, tuple[str, type[np.generic]]] = {
    model_config_pb2.TYPE_UINT8: ("UINT8", np.uint8),
    model_config_pb2.TYPE_INT32: ("INT32", np.int32),
    model_config_pb2.TYPE_INT64: ("INT64", np.int64),
    model_config_pb2.TYPE_FP32: ("FP32", np.float32),
}
DTYPE_OF = dict(_DTYPES.values())  # Triton's datatype -> numpy's
_DATATYPES = {np.dtype(dtype): datatype for datatype, dtype in _DTYPES.values()}
# Output in which our python-backend models report each execution, int64 [n, 2]: nanoseconds and
# images in the batch. Other models lack it.
EXECUTION = "execution"


@dataclass(frozen=True)
class Tensor:
    """Name, Triton datatype, numpy dtype and shape without the batch axis."""

    name: str
    datatype: str
    dtype: type[np.generic]
    shape: tuple[int, ...]

    @cached_property
    def nbytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Model:
    """One Triton model as its config.pbtxt describes it.

    parameters: written by export/. largest_request: most images in one request, small enough that
    every instance gets work. deep_request: the same where many images wait, at least as much.
    instances: engines of the model in one Triton. tritons: how many share the work.
    """

    name: str
    input: Tensor
    output: Tensor
    parameters: dict[str, str]
    largest_request: int = 1
    deep_request: int = 1
    instances: int = 1
    tritons: int = 1

    @property
    def capacity(self) -> int:
        """Images that all instances compute at once, with a full request each."""
        return self.tritons * self.instances * self.largest_request

    @property
    def deep_capacity(self) -> int:
        """Images that all instances compute at once where many wait."""
        return self.tritons * self.instances * self.deep_request

    @property
    def vocab_size(self) -> int:
        """Number of token ids; they are 0 to vocab_size - 1."""
        # The parameter is only set if there are fewer ids than the bits of a token can hold.
        return int(self.parameters.get("codes", 2 ** int(self.parameters["bits_per_token"])))

    @property
    def engine(self) -> str:
        """Runtime and arithmetic, such as "openvino bf16"."""
        return " ".join(
            filter(None, (self.parameters.get("engine"), self.parameters.get("precision")))
        )


@dataclass(frozen=True)
class Inference:
    """Output and timing of one inference.

    queue_seconds: None if the backend does not report its execution time; compute_seconds then
    includes the time in the queue.
    """

    output: NDArray[Any]
    queue_seconds: float | None
    compute_seconds: float


def is_ours(config: Any) -> bool:
    """Whether a ModelConfig message is of a tokenizer or generator that `export` wrote."""
    return "tokenizer" in config.parameters or "generator" in config.parameters


def model_of(config: Any) -> Model:
    """Read a ModelConfig message, from Triton or from a config.pbtxt."""
    outputs = [_tensor(output) for output in config.output]
    return Model(
        name=config.name,
        input=_tensor(config.input[0]),
        output=next(tensor for tensor in outputs if tensor.name != EXECUTION),
        parameters={name: value.string_value for name, value in config.parameters.items()},
        largest_request=next(
            iter(config.dynamic_batching.preferred_batch_size), max(1, config.max_batch_size)
        ),
        deep_request=max(1, config.max_batch_size),
        instances=max(
            1, sum(group.count * max(1, len(group.gpus)) for group in config.instance_group)
        ),
    )


def _tensor(config: Any) -> Tensor:
    datatype, dtype = _DTYPES[config.data_type]
    return Tensor(config.name, datatype, dtype, tuple(config.dims))


def request_of(model: Model, inputs: Mapping[str, NDArray[Any]], sequence: str = "") -> Any:
    """Build a ModelInferRequest.

    inputs: by name, each [n, ...]. sequence: id of a stream, with which a later request stops it.
    """
    request = service_pb2.ModelInferRequest(
        model_name=model.name,
        id=sequence,
        inputs=[
            service_pb2.ModelInferRequest.InferInputTensor(
                name=name, datatype=_DATATYPES[array.dtype], shape=array.shape
            )
            for name, array in inputs.items()
        ],
        # Raw bytes, because typed contents take 500 times as long as a copy.
        raw_input_contents=[array.tobytes() for array in inputs.values()],
    )
    if sequence:
        request.parameters["triton_enable_empty_final_response"].bool_param = True
    return request
