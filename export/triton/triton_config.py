"""Engine settings of config.pbtxt: python backend on a CPU, ONNX Runtime or TensorRT on a GPU.

Backend, instances, batching, CUDA graphs, warm-up and TensorRT profiles.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import model_config_pb2

from export.triton.tensorrt_plans import plan_name

# A model's folder may hold a plan file for each of these; Triton loads the one for its GPU.
COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "10.3", "12.0", "12.1")
# An instance that takes the whole queue leaves single images, which cost most, to the next one
# (docs/decisions/0025). Only where many images wait does the gateway send the largest batch, which
# takes the least time for each (docs/decisions/0070).
CPU_BATCH = 4
CPU_MAX_BATCH = 8
# Graphs of at least so many bytes run one image at a time: a batch gains nothing and takes memory.
CPU_UNBATCHED_BYTES = 64_000_000
# The service replaces both by what suits its machine: on two cores two instances of one thread are
# a third faster than one of two.
CPU_INSTANCES = 2
CPU_THREADS = 1
GPU_MAX_BATCH = 128
GPU_BEST_BATCH = 32  # TensorRT tunes its kernels for this size
# The faster engine for f32 on a processor with AVX-512, by role and family; ONNX Runtime for all
# others (docs/decisions/0073).
AVX512_ENGINES = {("encode", "channeltok"): "openvino"}
# Output that model.py adds: nanoseconds the graph ran, and images in its batch. Triton reports sums
# only.
EXECUTION = model_config_pb2.ModelOutput(
    name="execution", data_type=model_config_pb2.TYPE_INT64, dims=[2]
)


@dataclass(frozen=True)
class Engine:
    """A way to run graphs in Triton.

    name: value of `python -m export gpu --engine`.
    describe: completes a ModelConfig that declares its tensors, for a graph of so many bytes.
    """

    name: str
    describe: Callable[[Any, int], None]


def _python(message: Any, size: int) -> None:
    message.backend = "python"
    if size >= CPU_UNBATCHED_BYTES:
        message.max_batch_size = 1
    else:
        message.max_batch_size = CPU_MAX_BATCH
        message.dynamic_batching.preferred_batch_size.append(CPU_BATCH)
    message.output.append(EXECUTION)
    message.instance_group.add(
        count=CPU_INSTANCES, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU
    )
    parameters = {"engine": "onnxruntime", "precision": "f32", "threads": str(CPU_THREADS)}
    role, family = (message.parameters[name].string_value for name in ("role", "family"))
    if engine := AVX512_ENGINES.get((role, family)):
        parameters["avx512_engine"] = engine
    for key, value in parameters.items():
        message.parameters[key].string_value = value


def _gpu(message: Any, backend: str, engine: str) -> None:
    message.backend = backend
    message.parameters["engine"].string_value = engine
    message.parameters["precision"].string_value = (
        "f32" if message.parameters["role"].string_value == "encode" else "f16"
    )  # export.graphs.fp16
    message.max_batch_size = GPU_MAX_BATCH
    message.instance_group.add(count=1, kind=model_config_pb2.ModelInstanceGroup.KIND_GPU)
    message.dynamic_batching.preferred_batch_size.extend([GPU_BEST_BATCH, GPU_MAX_BATCH])
    for batch in (1, GPU_MAX_BATCH):  # the first inference of each shape is slow
        warmup = message.model_warmup.add(name=f"batch of {batch}", batch_size=batch)
        tensor = message.input[0]
        warmup.inputs[tensor.name].CopyFrom(
            model_config_pb2.ModelWarmup.Input(
                data_type=tensor.data_type, dims=tensor.dims, zero_data=True
            )
        )


def _onnxruntime(provider: str, options: dict[str, str]) -> Callable[[Any, int], None]:
    def describe(message: Any, size: int) -> None:
        _gpu(message, "onnxruntime", f"onnxruntime-{provider}")
        accelerator = message.optimization.execution_accelerators.gpu_execution_accelerator.add(
            name=provider
        )
        accelerator.parameters.update(options)

    return describe


def _tensorrt(message: Any, size: int) -> None:
    _gpu(message, "tensorrt", "tensorrt")
    for capability in COMPUTE_CAPABILITIES:
        message.cc_model_filenames[capability] = plan_name(capability)
    tensor = message.input[0]
    # The CUDA graph of a power of two also runs smaller batches, down to the next power of two.
    message.optimization.cuda.graphs = True
    batch, lower = 1, 1
    while batch <= GPU_MAX_BATCH:
        spec = message.optimization.cuda.graph_spec.add(batch_size=batch)
        spec.input[tensor.name].dim.extend(tensor.dims)
        spec.graph_lower_bound.batch_size = lower
        spec.graph_lower_bound.input[tensor.name].dim.extend(tensor.dims)
        batch, lower = 2 * batch, batch + 1
    profile = {  # export.triton.tensorrt_plans reads these parameters
        "input_name": tensor.name,
        "input_shape": "x".join(map(str, tensor.dims)),
        "min_batch": 1,
        "opt_batch": GPU_BEST_BATCH,
        "max_batch": GPU_MAX_BATCH,
    }
    for key, value in profile.items():
        message.parameters[key].string_value = str(value)


PYTHON = Engine("python", _python)
# use_tf32=0: what the graph keeps in fp32 must not be rounded to TF32.
ENGINES = {
    engine.name: engine
    for engine in (
        PYTHON,
        Engine("onnxruntime-cuda", _onnxruntime("cuda", {"use_tf32": "0"})),
        Engine(
            "onnxruntime-tensorrt",
            _onnxruntime(
                "tensorrt",
                {"trt_engine_cache_enable": "1", "trt_engine_cache_path": "/tmp/tensorrt"},
            ),
        ),
        Engine("tensorrt", _tensorrt),
    )
}
