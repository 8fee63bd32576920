"""int8 decode graphs for CPUs: 3x3 convolutions quantised with NNCF, calibrated on real tokens.

The result stays ONNX, with QuantizeLinear and DequantizeLinear around the int8 convolutions, and
OpenVINO computes the rest in bf16. docs/decisions/0012 has the cost and the gain.
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
MIN_PSNR = 38.0  # dB, of int8 images against fp32 images


def quantise(decode_graph: bytes, tokens: NDArray[np.int32]) -> bytes:
    """Quantise a serialised decode graph; inputs, outputs and metadata stay.

    tokens: int32 [N, budget] of real photos, none absent. Every other row is cut to a smaller k, to
    calibrate on what serving will decode.
    """
    import nncf  # slow to import, and needs torch

    nncf.set_log_level(logging.ERROR)
    model = onnx.load_model_from_string(decode_graph)
    metadata = graph.read_metadata(model)
    _prepare(model)
    one_by_one, others = _ignored(model)
    with redirect_stdout(io.StringIO()):  # progress bars
        quantised = nncf.quantize(
            model,
            nncf.Dataset(list(_at_several_budgets(tokens)), lambda row: {"tokens": row[None]}),
            # Activations get a zero point: the output of a SiLU is not symmetric.
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(tokens),
            ignored_scope=nncf.IgnoredScope(names=one_by_one, types=others),
            # Bias correction cost 0.2 to 0.3 dB.
            advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
        )
    del quantised.graph.value_info[:]
    del quantised.metadata_props[:]
    helper.set_model_props(quantised, metadata.as_strings())
    graph.store_as_fp16(quantised)
    # Not full_check: shape inference stops at GroupNormalization, see _prepare.
    onnx.checker.check_model(quantised, full_check=False)
    return bytes(quantised.SerializeToString())


def _prepare(model: onnx.ModelProto) -> None:
    # NNCF reads no weights behind a cast, and ONNX infers no output type of GroupNormalization.
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


def _ignored(model: onnx.ModelProto) -> tuple[list[str], list[str]]:
    """What stays unquantised: names of 1x1 convolutions, and all operator types but Conv.

    1x1 convolutions on the residual stream, whose outliers no norm has removed, caused most of the
    error and take a twentieth of the time. By default NNCF also quantises the SiLU's sigmoid and
    the residual stream: 4 dB worse, and slower.
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
