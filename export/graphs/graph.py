"""A checkpoint becomes two kinds of ONNX graph: images to tokens, and tokens of one budget to images.

Everything lies inside the graph, uint8 pixels at one end and int32 tokens at the other: whatever runs it (ONNX Runtime, TensorRT, another
client's runtime) cannot normalise, quantise or round in another way.
"""

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

from tokenizer import checkpoint
from tokenizer.models.base import Tokenizer

OPSET = 21  # 20 takes GroupNorm apart; 23 makes one Attention op, whose fp32 form TensorRT refuses


@dataclass(frozen=True)
class Facts:
    """What a graph says of itself in its metadata, and its Triton model in the parameters of config.pbtxt.

    role: what it does. budget: tokens per image at its token end. picture_size: S, in pixels. fingerprint: see tokenizer.checkpoint.
    family, bits_per_token: see tokenizer.models.base. codes: how many ids there are, said only where they are fewer than those bits hold.
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

    def as_strings(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self).items() if value is not None}


def _facts_of(model: Tokenizer, name: str, role: Literal["encode", "decode"], budget: int) -> Facts:
    return Facts(
        name,
        role,
        budget,
        model.shape.image_size,
        model.shape.channels,
        checkpoint.fingerprint(model),
        model.family,
        model.bits_per_token,
        model.codes if model.codes < 2**model.bits_per_token else None,
    )


_FACTS = TypeAdapter(Facts)
FreeAxes = tuple[
    dict[int, Any] | list[dict[int, Any]], ...
]  # for each input, or each of a list, torch.export.Dim by axis


class Encode(nn.Module):
    """image uint8 [N, S, S, 3] -> tokens int32 [N, C]."""

    def __init__(self, model: Tokenizer) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        # TensorRT knows uint8 only at the edge of a network: the cast comes first here and last in Decode.
        return self.model.encode(image.to(torch.float32).permute(0, 3, 1, 2) / 127.5 - 1)


class Decode(nn.Module):
    """tokens int32 [N, budget], -1 = absent -> image uint8 [N, S, S, 3]. Channels from `budget` on are absent."""

    def __init__(self, model: Tokenizer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        pixels = self.model.decode_prefix(tokens).permute(0, 2, 3, 1)
        return (
            ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        )  # tokenizer.inference.to_uint8, in TensorRT's order


def encode_graph(model: Tokenizer, name: str) -> onnx.ModelProto:
    """The graph `picture` uint8 [N, S, S, 3] -> `tokens` int32 [N, C], with its facts; `name` is the tokenizer's."""
    shape = model.shape
    image = torch.zeros(2, shape.image_size, shape.image_size, 3, dtype=torch.uint8)
    graph = to_onnx(Encode(model), image, "picture", "tokens")
    return _with_facts(graph, _facts_of(model, name, "encode", shape.channels))


def decode_graph(model: Tokenizer, name: str, budget: int) -> onnx.ModelProto:
    """The graph `tokens` int32 [N, budget] -> `picture` uint8 [N, S, S, 3], with its facts.

    Raises ValueError for a budget outside 1 to C.
    """
    shape = model.shape
    if not 1 <= budget <= shape.channels:
        raise ValueError(
            f"a budget is between 1 and the {shape.channels} channels of the tokenizer, not {budget}"
        )
    tokens = torch.zeros(2, budget, dtype=torch.int32)
    graph = to_onnx(Decode(model), tokens, "tokens", "picture")
    return _with_facts(graph, _facts_of(model, name, "decode", budget))


def facts(graph: onnx.ModelProto) -> Facts:
    """The facts a graph carries. Raises ValueError for a graph that was not made here."""
    found = {entry.key: entry.value for entry in graph.metadata_props}
    try:
        return _FACTS.validate_python(found)
    except ValidationError as error:
        raise ValueError(
            "the graph's metadata does not name its tokenizer: not written by export.graphs.graph"
        ) from error


def to_onnx(
    module: nn.Module, example: Tensor, input_name: str, output_name: str
) -> onnx.ModelProto:
    """`module` of one input and one output as a checked graph with a free batch, fp32 arithmetic and weights stored as fp16 where exact."""
    return traced(
        module, (example,), [input_name], [output_name], ({0: torch.export.Dim("batch")},)
    )


def traced(
    module: nn.Module,
    examples: tuple[Tensor | list[Tensor], ...],
    input_names: list[str],
    output_names: list[str],
    dynamic_shapes: FreeAxes,
) -> onnx.ModelProto:
    """`module` as a checked graph, fp32 arithmetic and weights stored as fp16 where exact.

    dynamic_shapes: of each input, which axes are free, and what they are called.
    """
    with torch.inference_mode(), _quiet():
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
    _strip(graph)
    store_as_fp16(graph)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def store_as_fp16(graph: onnx.ModelProto) -> None:
    """Halve the file, in place: each float32 weight that fp16 holds exactly is stored so, and cast back to float32 where it is used.

    The arithmetic stays fp32, and a runtime folds the casts when it loads. Checkpoints are fp16, so all their weights qualify.
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
def _quiet() -> Iterator[None]:
    # Remarks of the exporter about itself: torchvision's operators, which no model here has, a deprecation inside torch.export, and that
    # one name stands for the batch of every input, as it should.
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


def _strip(graph: onnx.ModelProto) -> None:
    # The exporter records stack traces with the paths of the machine it ran on; without them the same weights give the same file.
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


def _with_facts(graph: onnx.ModelProto, facts: Facts) -> onnx.ModelProto:
    helper.set_model_props(graph, facts.as_strings())
    return graph
