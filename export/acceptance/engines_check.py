"""`make engines-check`: compile the GPU graphs with TensorRT-RTX, on a machine without a GPU.

Each graph that `python -m export gpu` writes is parsed and compiled ahead of time with the profile
of serving, for the GPUs that the compiler knows. That proves operators, types and shapes; not
numerics, not speed, and not that Triton loads a plan (docs/gpu.md).
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import onnx
import tensorrt_rtx as trt
from onnx import helper

from export.figures import write_figures
from export.triton import repository

CAPABILITIES = ("8.0", "8.6", "8.9")
REPORT = Path("build/engines-check.json")


class CompileError(Exception):
    """The compiler rejects a graph; the message is its own."""


class _ErrorLog(trt.ILogger):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(message)


def compile_graph(graph: bytes, shapes: tuple[tuple[int, ...], ...]) -> int:
    """Compile a serialised graph of one input for all CAPABILITIES; returns its size in bytes.

    shapes: smallest, best and largest. Raises CompileError with the compiler's message.
    """
    log = _ErrorLog()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        raise CompileError(
            "; ".join(
                f"{error.code().name} {error.node_operator()} {error.node_name()}: {error.desc()}"
                for error in errors
            )
        )
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(CAPABILITIES)
    for i, capability in enumerate(CAPABILITIES):
        config.set_compute_capability(
            getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}"), i
        )
    profile = builder.create_optimization_profile()
    profile.set_shape(network.get_input(0).name, *shapes)
    config.add_optimization_profile(profile)
    compiled = builder.build_serialized_network(network, config)
    if compiled is None:
        raise CompileError("; ".join(log.errors))
    return int(compiled.nbytes)


def unsupported_graph() -> bytes:
    """The control: a valid graph with an operator that TensorRT does not support."""
    unique = helper.make_node("Unique", ["tokens"], ["values"])
    ends = [
        helper.make_tensor_value_info("tokens", onnx.TensorProto.FLOAT, ["batch"]),
        helper.make_tensor_value_info("values", onnx.TensorProto.FLOAT, ["count"]),
    ]
    graph = helper.make_graph([unique], "unsupported", ends[:1], ends[1:])
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString()
    )


def main(arguments: list[str] | None = None) -> None:
    """Compile every model of a repository. Exits with 1 when one fails, or the control does not."""
    parser = argparse.ArgumentParser(
        prog="python -m export.acceptance.engines_check", description=main.__doc__
    )
    parser.add_argument("repository", type=Path, nargs="?", default=Path("build/gpu_repository"))
    options = parser.parse_args(arguments)
    configs = sorted(options.repository.glob("*/config.pbtxt"))
    if not configs:
        sys.exit(f"{options.repository} holds no models: write them with `python -m export gpu`")
    started = time.monotonic()
    figures: dict[str, float] = {}
    failed = []
    print(
        f"TensorRT-RTX {trt.__version__}, compute capabilities {', '.join(CAPABILITIES)}\n"
        f"{'model':<28}{'seconds':>9}{'MB':>9}"
    )
    for path in configs:
        message = repository.parse(path.read_text())
        axes = tuple(message.input[0].dims)
        batches = [
            int(message.parameters[f"{which}_batch"].string_value)
            for which in ("min", "opt", "max")
        ]
        model_started = time.monotonic()
        try:
            size = compile_graph(
                (path.parent / "1/model.onnx").read_bytes(),
                tuple((batch, *axes) for batch in batches),
            )
        except CompileError as error:
            failed.append(f"{message.name} does not compile: {error}")
            continue
        figures[f"{message.name}_seconds"] = time.monotonic() - model_started
        figures[f"{message.name}_bytes"] = size
        print(
            f"{message.name:<28}{figures[f'{message.name}_seconds']:>9.1f}{size / 1e6:>9.1f}",
            flush=True,
        )
    try:
        compile_graph(unsupported_graph(), ((1,), (1,), (1,)))
        failed.append("the control, a graph with Unique, compiled: this check cannot be trusted")
    except CompileError as error:
        print(f"the control does not compile, as expected: {error}")
    figures |= {
        "models": len(configs),
        "failed": len(failed),
        "seconds": time.monotonic() - started,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    write_figures(REPORT, figures)
    if failed:
        sys.exit("\n".join(failed))
    print(
        f"{len(configs)} graphs compile, in {figures['seconds']:.0f} s "
        f"and {figures['peak_bytes'] / 2**30:.1f} GiB"
    )


if __name__ == "__main__":
    main()
