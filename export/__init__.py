"""Export checkpoints to ONNX graphs and a Triton model repository, after a parity check."""

import os
import sys

# ONNX Runtime, OpenVINO and NNCF send telemetry from their import on (docs/decisions/0035).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # as if it were not installed
