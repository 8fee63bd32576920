"""A tokenizer checkpoint to ONNX: the encode graph, and a decode graph per budget.

Graphs go from uint8 pixels to int32 tokens and back. Normalisation, quantisation and rounding are
inside, so that no runtime (ONNX Runtime, TensorRT, a client's own) can do them differently.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tokenizer import checkpoint
from tokenizer.models.base import Tokenizer

OPSET = 21  # 20 splits GroupNorm; 23 has an Attention op whose fp32 form TensorRT refuses


@dataclass(frozen=True)
class ModelMetadata:
    """Description of a graph: metadata of the ONNX file and parameters of its config.pbtxt.

    tokenizer: its name in serving.
    budget: tokens per image, at the graph's token end.
    picture_size: image side in pixels, S.
    channels: tokens of an uncut image, C.
    fingerprint: see tokenizer.checkpoint.
    family, bits_per_token: see tokenizer.models.base.
    codes: vocabulary size; None where it is 2 ** bits_per_token.
    relative_cost: multiply-adds to decode an image, as a share of those at budget C; None where
    they are as many.
    """

    tokenizer: str
    role: Literal["encode", "decode"]
    budget: int
    picture_size: int
    channels: int
    fingerprint: str
    family: str = "channeltok"
    bits_per_token: int = 16
    codes: int | None = None
    relative_cost: float | None = None

    def as_strings(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self).items() if value is not None}


_METADATA = TypeAdapter(ModelMetadata)
# torch.export.Dim by axis, for each input; a list of these where an input is a list of tensors.
DynamicAxes = tuple[dict[int, Any] | list[dict[int, Any]], ...]


class Encode(nn.Module):
    """image uint8 [N, S, S, 3] -> tokens int32 [N, C]."""

    def __init__(self, model: Tokenizer) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        # TensorRT takes uint8 only at the edge of a network: cast first here, last in Decode.
        return self.model.encode(image.to(torch.float32).permute(0, 3, 1, 2) / 127.5 - 1)


class Decode(nn.Module):
    """tokens int32 [N, budget], -1 = absent -> image uint8 [N, S, S, 3]."""

    def __init__(self, model: Tokenizer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        pixels = self.model.decode_prefix(tokens).permute(0, 2, 3, 1)
        # As tokenizer.inference.to_uint8, with the cast last.
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def encode_graph(model: Tokenizer, name: str) -> onnx.ModelProto:
    """The graph `picture` uint8 [N, S, S, 3] -> `tokens` int32 [N, C], with metadata.

    name: the tokenizer's name in serving.
    """
    shape = model.shape
    image = torch.zeros(2, shape.image_size, shape.image_size, 3, dtype=torch.uint8)
    graph = to_onnx(Encode(model), image, "picture", "tokens")
    return _with_metadata(graph, model, name, "encode", shape.channels)


def decode_graph(model: Tokenizer, name: str, budget: int) -> onnx.ModelProto:
    """The graph `tokens` int32 [N, budget] -> `picture` uint8 [N, S, S, 3], with metadata.

    Channels from `budget` on are absent. name: the tokenizer's name in serving.
    Raises ValueError for a budget outside 1 to C.
    """
    shape = model.shape
    if not 1 <= budget <= shape.channels:
        raise ValueError(
            f"a budget is between 1 and the {shape.channels} channels of the model, not {budget}"
        )
    tokens = torch.zeros(2, budget, dtype=torch.int32)
    graph = to_onnx(Decode(model), tokens, "tokens", "picture")
    cost = round(_operations(model, budget) / _operations(model, shape.channels), 3)
    return _with_metadata(
        graph, model, name, "decode", budget, relative_cost=None if cost == 1 else cost
    )


def read_metadata(graph: onnx.ModelProto) -> ModelMetadata:
    """Metadata of a graph. Raises ValueError for a graph that this module did not export."""
    try:
        return _METADATA.validate_python({entry.key: entry.value for entry in graph.metadata_props})
    except ValidationError as error:
        raise ValueError(
            "the graph's metadata does not name its tokenizer: not written by export.graphs.graph"
        ) from error


def to_onnx(
    module: nn.Module, example: Tensor, input_name: str, output_name: str
) -> onnx.ModelProto:
    """Export a module of one input and one output with a dynamic batch; see `trace`."""
    return trace(module, (example,), [input_name], [output_name], ({0: torch.export.Dim("batch")},))


def trace(
    module: nn.Module,
    examples: tuple[Tensor | list[Tensor], ...],
    input_names: list[str],
    output_names: list[str],
    dynamic_shapes: DynamicAxes,
) -> onnx.ModelProto:
    """Export a module as a checked graph: fp32 arithmetic, weights stored as fp16 where exact."""
    with torch.inference_mode(), _quiet_exporter():
        program = torch.onnx.export(
            module.eval(),
            examples,
            dynamo=True,
            opset_version=OPSET,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )
    assert program is not None
    graph = cast(onnx.ModelProto, program.model_proto)
    _strip_debug_information(graph)
    store_as_fp16(graph)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def store_as_fp16(graph: onnx.ModelProto) -> None:
    """Halve the file, in place: store each fp32 weight that fp16 holds exactly as fp16 and a cast.

    The arithmetic stays fp32: runtimes fold the casts when they load the graph. Checkpoints are
    fp16, so all their weights qualify.
    """
    casts = []
    for weight in graph.graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT:
            continue
        full = numpy_helper.to_array(weight)
        with np.errstate(over="ignore"):
            half = full.astype(np.float16)
        if full.size == 1 or not np.array_equal(half.astype(np.float32), full):
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(half, f"{name}_fp16"))
        casts.append(
            helper.make_node(
                "Cast", [weight.name], [name], name=f"{name}_fp32", to=onnx.TensorProto.FLOAT
            )
        )
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    # Hides what needs no action: missing torchvision operators, which no model here uses, a
    # deprecation inside torch.export, and that all inputs share the name of the batch axis.
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "`isinstance\\(treespec, LeafSpec\\)` is deprecated", FutureWarning
            )
            warnings.filterwarnings(
                "ignore",
                "# The axis name: .* will not be used, since it shares the same shape",
                UserWarning,
            )
            yield
    finally:
        log.setLevel(level)


def _operations(model: Tokenizer, budget: int) -> int:
    """Operations of convolutions, products and attention that decode an image of `budget` tokens.

    Counted on tensors without data.
    """
    abstract = copy.deepcopy(model).to("meta")
    tokens = torch.zeros(1, budget, dtype=torch.int32, device="meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        abstract.decode_prefix(tokens)
    return counter.get_total_flops()


def _strip_debug_information(graph: onnx.ModelProto) -> None:
    # Stack traces hold paths of this machine; without them the same weights give the same file.
    del graph.metadata_props[:]
    del graph.graph.metadata_props[:]
    graph.graph.doc_string = graph.doc_string = ""
    for part in (
        *graph.graph.node,
        *graph.graph.value_info,
        *graph.graph.input,
        *graph.graph.output,
        *graph.graph.initializer,
    ):
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.graph.value_info[:]


def _with_metadata(
    graph: onnx.ModelProto,
    model: Tokenizer,
    name: str,
    role: Literal["encode", "decode"],
    budget: int,
    *,
    relative_cost: float | None = None,
) -> onnx.ModelProto:
    metadata = ModelMetadata(
        tokenizer=name,
        role=role,
        budget=budget,
        picture_size=model.shape.image_size,
        channels=model.shape.channels,
        fingerprint=checkpoint.fingerprint(model),
        family=model.family,
        bits_per_token=model.bits_per_token,
        codes=model.vocab_size if model.vocab_size < 2**model.bits_per_token else None,
        relative_cost=relative_cost,
    )
    helper.set_model_props(graph, metadata.as_strings())
    return graph
