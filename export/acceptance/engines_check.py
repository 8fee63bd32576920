"""`make engines-check`: does NVIDIA's compiler take the graphs? What can be known of the GPU's engines on a machine without a GPU.

TensorRT-RTX parses each graph that `python -m export gpu` writes and compiles it ahead of time, with the profile that serving will use,
for the GPUs it knows. That proves operators, types and shapes; not numbers, not speed, and not a plan that Triton loads: docs/gpu.md.
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


class Refused(Exception):
    """The compiler does not take a graph; the message is its own."""


class _Listening(trt.ILogger):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(message)


def compile_graph(graph: bytes, shapes: tuple[tuple[int, ...], ...]) -> int:
    """Compile a serialised graph of one input for all CAPABILITIES; shapes: smallest, best, largest. Returns the bytes of the result.

    Raises Refused with the compiler's words.
    """
    log = _Listening()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        raise Refused(
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
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise Refused("; ".join(log.errors))
    return int(built.nbytes)


def unservable() -> bytes:
    """A valid graph that TensorRT cannot have: the check that finds nothing wrong with it is broken."""
    unique = helper.make_node("Unique", ["tokens"], ["picture"])
    ends = [
        helper.make_tensor_value_info("tokens", onnx.TensorProto.FLOAT, ["batch"]),
        helper.make_tensor_value_info("picture", onnx.TensorProto.FLOAT, ["found"]),
    ]
    graph = helper.make_graph([unique], "unservable", ends[:1], ends[1:])
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString()
    )


def main(arguments: list[str] | None = None) -> None:
    """Check every model of a repository, then the control. Exits with 1 when a graph is refused, or the control is not."""
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
        f"TensorRT-RTX {trt.__version__}, compute capabilities {', '.join(CAPABILITIES)}\n{'model':<28}{'seconds':>9}{'MB':>9}"
    )
    for path in configs:
        message = repository.parse(path.read_text())
        axes = tuple(message.input[0].dims)
        batches = [
            int(message.parameters[f"{which}_batch"].string_value)
            for which in ("min", "opt", "max")
        ]
        begun = time.monotonic()
        try:
            size = compile_graph(
                (path.parent / "1/model.onnx").read_bytes(),
                tuple((batch, *axes) for batch in batches),
            )
        except Refused as error:
            failed.append(f"{message.name} is refused: {error}")
            continue
        figures[f"{message.name}_seconds"] = time.monotonic() - begun
        figures[f"{message.name}_bytes"] = size
        print(
            f"{message.name:<28}{figures[f'{message.name}_seconds']:>9.1f}{size / 1e6:>9.1f}",
            flush=True,
        )
    try:
        compile_graph(unservable(), ((1,), (1,), (1,)))
        failed.append(
            "the control, a graph with Unique, was not refused: this check cannot be trusted"
        )
    except Refused as error:
        print(f"the control was refused, as it must be: {error}")
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
        f"{len(configs)} graphs compile, in {figures['seconds']:.0f} s and {figures['peak_bytes'] / 2**30:.1f} GiB"
    )


if __name__ == "__main__":
    main()
