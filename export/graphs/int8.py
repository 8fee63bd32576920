"""int8 for decode on a processor: a decode graph whose 3x3 convolutions multiply int8, calibrated on photos' tokens.

It stays ONNX, with QuantizeLinear and DequantizeLinear around what is int8: the repository holds one kind of file. OpenVINO computes the
rest in bf16. docs/decisions/0012 has what it costs and gains.
"""

import io
import logging
from contextlib import redirect_stdout

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.graphs import graph
from tokenizer import inference
from tokenizer.models.bsq import ABSENT

CALIBRATION_PHOTOS = 300
MIN_PSNR = 38.0  # dB, of its images against those of fp32


def quantise(decode_graph: bytes, tokens: NDArray[np.int32]) -> bytes:
    """The decode graph, serialised ONNX of the same inputs, outputs and facts, with its 3x3 convolutions in int8.

    decode_graph: as export.graphs.graph.decode_graph makes it, serialised. tokens: int32 [N, budget], of real photos and none absent
    (tokenizer.inference.encode); half of them are cut here to smaller k, as serving will see them.
    """
    import nncf  # takes seconds and torch: only who quantises waits for it

    nncf.set_log_level(logging.ERROR)
    model = onnx.load_model_from_string(decode_graph)
    facts = graph.facts(model)
    _prepare(model)
    one_by_one, others = _not_quantised(model)
    with redirect_stdout(io.StringIO()):  # progress bars
        made = nncf.quantize(
            model,
            nncf.Dataset(list(_at_several_budgets(tokens)), lambda row: {"tokens": row[None]}),
            # Activations get a zero point: what leaves a SiLU is not symmetric.
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(tokens),
            ignored_scope=nncf.IgnoredScope(names=one_by_one, types=others),
            # It cost 0.2 to 0.3 dB.
            advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
        )
    del made.graph.value_info[:]
    del made.metadata_props[:]
    helper.set_model_props(made, facts.as_strings())
    graph.store_as_fp16(made)
    onnx.checker.check_model(
        made, full_check=False
    )  # full: its shapes stop at GroupNormalization, see _prepare
    return bytes(made.SerializeToString())


def _prepare(model: onnx.ModelProto) -> None:
    # What NNCF cannot read: weights behind a cast, and GroupNormalization, of which ONNX infers no type.
    halves = {
        weight.name: weight
        for weight in model.graph.initializer
        if weight.data_type == onnx.TensorProto.FLOAT16
    }
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Cast" and (half := halves.get(node.input[0])) is not None:
            half.CopyFrom(
                numpy_helper.from_array(
                    numpy_helper.to_array(half).astype(np.float32), node.output[0]
                )
            )
            continue
        nodes.append(node)
        if node.op_type == "GroupNormalization":
            model.graph.value_info.append(
                helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, [None] * 4)
            )
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _not_quantised(model: onnx.ModelProto) -> tuple[list[str], list[str]]:
    """Names of 1x1 convolutions, and all operators but convolutions.

    A 1x1 that reads the residual stream, whose outliers no norm has tamed, made most of the error, and all 1x1 together are a twentieth of
    the time. Left to itself NNCF puts the SiLU's sigmoid and the residual stream into int8 as well, which is 4 dB worse and slower.
    """
    weights = {weight.name: weight.dims for weight in model.graph.initializer}
    one_by_one = [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and list(weights[node.input[1]][2:]) == [1, 1]
    ]
    return one_by_one, sorted({node.op_type for node in model.graph.node} - {"Conv"})


def _at_several_budgets(tokens: NDArray[np.int32]) -> NDArray[np.int32]:
    cut, channels = tokens.copy(), tokens.shape[1]
    smaller = [budget for budget in inference.budgets(channels) if budget < channels] or [channels]
    for i, row in enumerate(cut[::2]):
        row[smaller[i % len(smaller)] :] = ABSENT
    return cut
