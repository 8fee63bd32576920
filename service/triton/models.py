"""What Triton serves, and what goes there and back, as this service sees it."""

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
DTYPE_OF = dict(_DTYPES.values())  # Triton's name of it -> numpy's
_DATATYPES = {np.dtype(dtype): datatype for datatype, dtype in _DTYPES.values()}
# Tensor in which our python-backend models report how the graph ran, int64: nanoseconds, images in the batch. Others do not have it.
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
        """Bytes of one entry."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Model:
    """One Triton model as its config.pbtxt describes it.

    parameters: the facts export/ wrote there. largest_request: images in a request at most, so that all instances get some.
    instances: engines of it in one Triton.
    """

    name: str
    input: Tensor
    output: Tensor
    parameters: dict[str, str]
    largest_request: int = 1
    instances: int = 1

    @property
    def vocab_size(self) -> int:
        """How many ids a token may have: 0 to vocab_size - 1. Said where they are fewer than the bits of a token hold."""
        return int(self.parameters.get("codes", 2 ** int(self.parameters["bits_per_token"])))

    @property
    def engine(self) -> str:
        """What computes it, and in which arithmetic: "openvino bf16", say."""
        return " ".join(
            filter(None, (self.parameters.get("engine"), self.parameters.get("precision")))
        )


@dataclass(frozen=True)
class Inference:
    """Output of one inference. queue_seconds is None where the backend does not report its own time; compute_seconds has it then."""

    output: NDArray[Any]
    queue_seconds: float | None
    compute_seconds: float


def model_of(config: Any) -> Model:
    """From a ModelConfig, as Triton tells it or a config.pbtxt holds it."""
    outputs = [_tensor(output) for output in config.output]
    return Model(
        name=config.name,
        input=_tensor(config.input[0]),
        output=next(tensor for tensor in outputs if tensor.name != EXECUTION),
        parameters={name: value.string_value for name, value in config.parameters.items()},
        largest_request=next(
            iter(config.dynamic_batching.preferred_batch_size), max(1, config.max_batch_size)
        ),
        instances=max(
            1, sum(group.count * max(1, len(group.gpus)) for group in config.instance_group)
        ),
    )


def _tensor(config: Any) -> Tensor:
    datatype, dtype = _DTYPES[config.data_type]
    return Tensor(config.name, datatype, dtype, tuple(config.dims))


def request_of(model: Model, inputs: Mapping[str, NDArray[Any]], sequence: str = "") -> Any:
    """A ModelInferRequest. inputs: by name, each [n, ...]. sequence: its id, by which a second one can stop it."""
    request = service_pb2.ModelInferRequest(
        model_name=model.name,
        id=sequence,
        inputs=[
            service_pb2.ModelInferRequest.InferInputTensor(
                name=name, datatype=_DATATYPES[array.dtype], shape=array.shape
            )
            for name, array in inputs.items()
        ],
        # Raw bytes: typed contents cost 500 times the time of a memory copy.
        raw_input_contents=[array.tobytes() for array in inputs.values()],
    )
    if sequence:
        request.parameters["triton_enable_empty_final_response"].bool_param = True
    return request
