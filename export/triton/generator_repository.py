"""Write a generator into the Triton model repository: config.pbtxt, step graph, python backend.

    model_repository/demo_generate/     config.pbtxt, 1/model.onnx, 1/model.py

A generator that takes texts also has 1/tokenizer.json, of its language model. From version 2 on the
folder is `<generator>_generate_v<version>`. The parameter `fingerprint` names the tokenizer whose
tokens it generates.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import onnx
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from export.graphs import generator_graph
from export.triton import generator_backend, repository, triton_config

MODEL_FILE = Path(generator_backend.__file__)
MAX_SEQUENCES = 16  # of a step; each takes cache memory only once it runs


def model_name(generator: str, version: int = 1) -> str:
    """`<generator>_generate`, from version 2 on with `_v<version>`."""
    return f"{generator}_generate" if version == 1 else f"{generator}_generate_v{version}"


def declare_tensors(message: Any, channels: int, *, prompt: bool = False) -> None:
    """Add a generator's inputs and streamed outputs to a ModelConfig.

    channels: largest number of tokens in a sequence. prompt: it takes a text instead of a class.
    """
    message.model_transaction_policy.decoupled = True
    uint8, int32, int64, fp32 = (
        model_config_pb2.TYPE_UINT8,
        model_config_pb2.TYPE_INT32,
        model_config_pb2.TYPE_INT64,
        model_config_pb2.TYPE_FP32,
    )
    for name, data_type, size in (
        ("prompt", uint8, -1) if prompt else ("class", int32, 1),
        ("prefix", int32, channels),
        ("length", int32, 1),
        ("seed", int64, 1),
        ("temperature", fp32, 1),
        ("final_temperature", fp32, 1),
        ("top_k", int32, 1),
        ("top_p", fp32, 1),
        ("guidance", fp32, 1),
    ):
        message.input.add(name=name, data_type=data_type, dims=[size])
    for name, size in (("token", -1), ("index", 1)):  # consecutive tokens, index of the first
        message.output.add(name=name, data_type=int32, dims=[size])


def config(graph: bytes, version: int = 1, sequences: int = MAX_SEQUENCES) -> str:
    """The config.pbtxt of a serialised step graph, by Triton's own schema.

    sequences: most in one step.
    Raises ValueError for a graph that export.graphs.generator_graph did not write.
    """
    metadata = generator_graph.read_metadata(onnx.load_model_from_string(graph))
    message = model_config_pb2.ModelConfig(
        name=model_name(metadata.generator, version), backend="python", max_batch_size=0
    )
    declare_tensors(message, metadata.channels, prompt=metadata.prompt_bytes > 0)
    # One instance: see generator_backend.
    message.instance_group.add(count=1, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)
    parameters = {
        **metadata.as_strings(),
        "version": str(version),
        "graph_sha256": hashlib.sha256(graph).hexdigest(),
        "engine": "onnxruntime",
        "precision": "f32",
        "at_once": str(triton_config.CPU_INSTANCES),
        "threads": str(triton_config.CPU_THREADS),
        "sequences": str(sequences),
    }
    for key, value in parameters.items():
        message.parameters[key].string_value = value
    header = repository.HEADER.replace("repository", "generator_repository")
    return f"{header}{text_format.MessageToString(message)}"


def write(
    folder: Path, graph: bytes, sequences: int = MAX_SEQUENCES, text_tokenizer: str | None = None
) -> str:
    """Replace the generator's model in a repository by a serialised step graph; others stay.

    sequences: most in one step. text_tokenizer: tokenizer.json of a generator that takes texts.

    The version increases when the weights or the tokenizer differ from those of the replaced
    model. Returns the model's name.
    """
    metadata = generator_graph.read_metadata(onnx.load_model_from_string(graph))
    owner = {"generator": metadata.generator}
    weights = {
        "generator_fingerprint": metadata.generator_fingerprint,
        "fingerprint": metadata.fingerprint,
    }
    version = repository.next_version(folder, owner, weights)
    name = model_name(metadata.generator, version)
    with repository.replaced(folder, owner) as fresh:
        (fresh / name / "1").mkdir(parents=True)
        (fresh / name / "1/model.onnx").write_bytes(graph)
        shutil.copyfile(MODEL_FILE, fresh / name / "1/model.py")
        if text_tokenizer is not None:
            (fresh / name / "1/tokenizer.json").write_text(text_tokenizer)
        (fresh / name / "config.pbtxt").write_text(config(graph, version, sequences))
    return name
