"""From a checkpoint to what Triton serves: ONNX graphs, proof that they agree with PyTorch, and the model repository."""

import os
import sys

# ONNX Runtime, OpenVINO and NNCF report their use from their import on (docs/decisions/0035).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # as if it were not installed
