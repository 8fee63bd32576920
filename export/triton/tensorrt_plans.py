"""Build and check TensorRT plans for the model repository, inside NVIDIA's Triton image.

The image holds a copy of this file as plans.py:

    python3 plans.py build GRAPHS MODELS     make MODELS a repository of plans for this GPU
    python3 plans.py check MODELS            refuse plans of another server, GPU or graph

A plan loads only in the TensorRT version and on the compute capability that built it, so this runs
in the image that serves it: it imports only the standard library, and `docker compose` mounts it.
Beside each plan lies a JSON record of its graph, profile and server. A plan is executable code, so
the record also holds its digest: a plan that was swapped is refused.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

TRTEXEC = "/usr/src/tensorrt/bin/trtexec"


class PlanError(Exception):
    """A plan cannot be built or must not be served; the message says which, and what to do."""


@dataclass(frozen=True)
class Server:
    """What a plan depends on besides its graph.

    tensorrt: version as trtexec prints it, "110106". compute_capability: "8.6". image: NVIDIA's
    release, "26.07".
    """

    tensorrt: str
    compute_capability: str
    image: str


@dataclass(frozen=True)
class PlanRecord:
    """Inputs of a plan, and its digest. profile: trtexec's shape arguments, in full."""

    graph_sha256: str
    plan_sha256: str
    profile: tuple[str, ...]
    server: Server


def plan_name(compute_capability: str) -> str:
    """File name of a plan: model_sm86.plan for "8.6"."""
    return f"model_sm{compute_capability.replace('.', '')}.plan"


def detect_server() -> Server:
    """Ask trtexec and the GPU's driver. Raises PlanError where there is none."""
    # Its banner: "&&&& RUNNING TensorRT.trtexec [TensorRT v110106] [b12]"
    version = re.search(r"\[TensorRT v(\d+)\]", _output([TRTEXEC, "--help"]))
    if version is None:
        raise PlanError(f"{TRTEXEC} does not print its TensorRT version")
    capabilities = _output(
        ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    ).split()
    if len(set(capabilities)) != 1:
        raise PlanError(
            "one kind of GPU is served at a time, and this host has compute capabilities "
            f"{capabilities}: see CUDA_VISIBLE_DEVICES"
        )
    return Server(
        version[1], capabilities[0], os.environ.get("NVIDIA_TRITON_SERVER_VERSION", "unknown")
    )


def build(graphs: Path, models: Path, server: Server) -> None:
    """Build the plans of `graphs` (from `python -m export gpu`) into `models`, for this GPU.

    Plans that still match stay; models that `graphs` does not have are removed. Each model is
    replaced by one rename, so a failure leaves the others in place. Raises PlanError when trtexec
    fails.
    """
    names = sorted(path.parent.name for path in graphs.glob("*/config.pbtxt"))
    if not names:
        raise PlanError(f"{graphs} holds no models: write them with `python -m export gpu`")
    models.mkdir(parents=True, exist_ok=True)
    for old in models.iterdir():
        if old.is_dir() and old.name not in names:
            shutil.rmtree(old)
    for name in names:
        reason = _mismatch(models / name, server, graphs / name)
        if reason is None:
            print(f"{name}: built already", flush=True)
            continue
        print(f"{name}: building, because {reason}", flush=True)
        _build(graphs / name, models / name, server)


def check(models: Path, server: Server) -> None:
    """Raises PlanError for the first plan that must not be served here."""
    folders = sorted(path.parent for path in models.glob("*/config.pbtxt"))
    if not folders:
        raise PlanError(f"{models} holds no models: build them with `plans.py build`")
    for folder in folders:
        reason = _mismatch(folder, server, folder)
        if reason is not None:
            raise PlanError(
                f"{folder.name} is not served: {reason}. "
                "Rebuild it: docker compose run --rm engines"
            )


def _mismatch(model: Path, server: Server, source: Path) -> str | None:
    """Why the plan of `model` is not what `source` would give on `server`; None if it is."""
    version = model / "1"
    plan = version / plan_name(server.compute_capability)
    if not plan.exists():
        others = sorted(path.name for path in version.glob("*.plan"))
        return f"it has no plan for compute capability {server.compute_capability}" + (
            f", only {', '.join(others)}" if others else ""
        )
    try:
        raw = json.loads(plan.with_suffix(".json").read_text())
        record = PlanRecord(
            **{**raw, "profile": tuple(raw["profile"]), "server": Server(**raw["server"])}
        )
    except (OSError, ValueError, TypeError, KeyError):
        return "the record beside its plan is missing or unreadable"
    differences = [
        ("its graph", record.graph_sha256, _parameter(source, "graph_sha256")),
        ("its profile", " ".join(record.profile), " ".join(profile(source))),
        ("TensorRT", record.server.tensorrt, server.tensorrt),
        ("the image", record.server.image, server.image),
        ("the plan's own digest", record.plan_sha256, _sha256(plan)),
    ]
    for name, built, now in differences:
        if built != now:
            return f"{name} is {now} and was {built} when its plan was built"
    return None


def profile(model: Path) -> tuple[str, ...]:
    """trtexec's shape arguments: smallest, best and largest batch of config.pbtxt's parameters."""
    axes, name = _parameter(model, "input_shape"), _parameter(model, "input_name")
    batches = [_parameter(model, f"{which}_batch") for which in ("min", "opt", "max")]
    return tuple(
        f"--{which}Shapes={name}:{batch}x{axes}"
        for which, batch in zip(("min", "opt", "max"), batches, strict=True)
    )


def _build(source: Path, model: Path, server: Server) -> None:
    unfinished = model.with_name(f".{model.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "1").mkdir(parents=True)
    graph = source / "1/model.onnx"
    if _sha256(graph) != _parameter(source, "graph_sha256"):
        raise PlanError(
            f"{graph} is not the graph that its config.pbtxt describes: "
            "write both again with `python -m export gpu`"
        )
    plan = unfinished / "1" / plan_name(server.compute_capability)
    arguments = profile(source)
    # --noTF32: TF32 would round to 10 bits what is kept in fp32 on purpose.
    command = [
        TRTEXEC,
        f"--onnx={graph}",
        f"--saveEngine={plan}",
        *arguments,
        "--noTF32",
        "--skipInference",
    ]
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode != 0 or not plan.exists():
        raise PlanError(f"TensorRT did not build {source.name}:\n{result.stdout[-4000:]}")
    record = PlanRecord(_sha256(graph), _sha256(plan), arguments, server)
    plan.with_suffix(".json").write_text(json.dumps(asdict(record), indent=2) + "\n")
    shutil.copyfile(source / "config.pbtxt", unfinished / "config.pbtxt")
    shutil.rmtree(model, ignore_errors=True)
    unfinished.rename(model)


def _parameter(model: Path, key: str) -> str:
    # Parsed as text: the image has no protobuf schema of Triton's. A test ties this form to what
    # export.triton.repository writes.
    text = (model / "config.pbtxt").read_text()
    match = re.search(rf'parameters {{\s*key: "{key}"\s*value {{\s*string_value: "([^"]*)"', text)
    if match is None:
        raise PlanError(
            f"{model / 'config.pbtxt'} has no parameter {key!r}: "
            "write it again with `python -m export gpu`"
        )
    return match[1]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        ).stdout
    except FileNotFoundError as error:
        raise PlanError(
            f"{command[0]} is missing: run this inside NVIDIA's Triton image, on a host with a GPU"
        ) from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits with 1 and one sentence on a PlanError."""
    parser = argparse.ArgumentParser(
        prog="plans.py", description=(__doc__ or "").partition("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    builder = commands.add_parser("build", help="build plans that are missing or do not match")
    builder.add_argument("graphs", type=Path, help="written by `python -m export gpu`")
    builder.add_argument(
        "models", type=Path, help="repository that Triton serves; created if missing"
    )
    checker = commands.add_parser("check", help="refuse plans that do not match")
    checker.add_argument("models", type=Path)
    options = parser.parse_args(arguments)
    try:
        server = detect_server()
        if options.command == "build":
            build(options.graphs, options.models, server)
        check(options.models, server)
    except PlanError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
