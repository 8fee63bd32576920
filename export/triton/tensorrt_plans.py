"""TensorRT plans for the model repository, built and checked inside the image that serves them.

    python3 plans.py build GRAPHS MODELS     make MODELS a Triton repository with a plan for this GPU; what is built already stays
    python3 plans.py check MODELS            refuse plans that this server, this GPU or these graphs did not make

A plan loads only in the TensorRT and on the compute capability that built it, so this runs in NVIDIA's image: it imports nothing but the
standard library, and `docker compose` mounts it there. Beside each plan lies a record of what made it. A plan is executable code: its
record also holds its own digest, so that a plan that was swapped is refused.
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


class Refused(Exception):
    """A plan cannot be built or must not be served; the message says which and what to do."""


@dataclass(frozen=True)
class Server:
    """What a plan depends on besides its graph. tensorrt: as trtexec prints it. compute_capability: "8.6". image: NVIDIA's release."""

    tensorrt: str
    compute_capability: str
    image: str


@dataclass(frozen=True)
class Record:
    """What made a plan. profile: trtexec's shape arguments, in full."""

    graph_sha256: str
    plan_sha256: str
    profile: tuple[str, ...]
    server: Server


def plan_name(compute_capability: str) -> str:
    """The file of a plan for "8.6": model_sm86.plan."""
    return f"model_sm{compute_capability.replace('.', '')}.plan"


def this_server() -> Server:
    """Asks trtexec and the GPU's driver. Raises Refused where there is none."""
    # Its banner: "&&&& RUNNING TensorRT.trtexec [TensorRT v110106] [b12]"
    version = re.search(r"\[TensorRT v(\d+)\]", _output([TRTEXEC, "--help"]))
    if version is None:
        raise Refused(f"{TRTEXEC} does not say which TensorRT it is")
    capabilities = _output(
        ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    ).split()
    if len(set(capabilities)) != 1:
        raise Refused(
            f"one kind of GPU is served at a time, and this host has compute capabilities {capabilities}: see CUDA_VISIBLE_DEVICES"
        )
    return Server(
        version[1], capabilities[0], os.environ.get("NVIDIA_TRITON_SERVER_VERSION", "unknown")
    )


def build(graphs: Path, models: Path, server: Server) -> None:
    """Make `models` serve what `graphs` (written by `python -m export gpu`) describes, for the GPU of this host.

    Each model becomes whole by one rename; one that fails leaves those before it in place. Models that `graphs` no longer has are removed.
    Raises Refused when trtexec does.
    """
    names = sorted(path.parent.name for path in graphs.glob("*/config.pbtxt"))
    if not names:
        raise Refused(f"{graphs} holds no models: write them with `python -m export gpu`")
    models.mkdir(parents=True, exist_ok=True)
    for old in models.iterdir():
        if old.is_dir() and old.name not in names:
            shutil.rmtree(old)
    for name in names:
        reason = _mismatch(models / name, server, graphs / name)
        if reason is None:
            print(f"{name}: built already", flush=True)
            continue
        print(f"{name}: building, for {reason}", flush=True)
        _build(graphs / name, models / name, server)


def check(models: Path, server: Server) -> None:
    """Raises Refused for the first plan that must not be served here."""
    folders = sorted(path.parent for path in models.glob("*/config.pbtxt"))
    if not folders:
        raise Refused(f"{models} holds no models: build them with `plans.py build`")
    for folder in folders:
        reason = _mismatch(folder, server, folder)
        if reason is not None:
            raise Refused(
                f"{folder.name} is not served: {reason}. Rebuild it: docker compose run --rm engines"
            )


def _mismatch(model: Path, server: Server, source: Path) -> str | None:
    """Why the plan of `model` is not the one that `source`'s graph and settings would give on `server`; None if it is."""
    version = model / "1"
    plan = version / plan_name(server.compute_capability)
    if not plan.exists():
        others = sorted(path.name for path in version.glob("*.plan"))
        return f"no plan for compute capability {server.compute_capability}" + (
            f", only {', '.join(others)}" if others else ""
        )
    try:
        raw = json.loads(plan.with_suffix(".json").read_text())
        record = Record(
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
    for what, built, now in differences:
        if built != now:
            return f"{what} is {now} and was {built} when its plan was built"
    return None


def profile(model: Path) -> tuple[str, ...]:
    """trtexec's shape arguments, from the parameters of config.pbtxt: input shape without the batch, and the three batches."""
    axes, name = _parameter(model, "input_shape"), _parameter(model, "input_name")
    batches = [_parameter(model, f"{which}_batch") for which in ("min", "opt", "max")]
    return tuple(
        f"--{which}Shapes={name}:{batch}x{axes}"
        for which, batch in zip(("min", "opt", "max"), batches, strict=True)
    )


def _build(source: Path, model: Path, server: Server) -> None:
    fresh = model.with_name(f".{model.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / "1").mkdir(parents=True)
    graph = source / "1/model.onnx"
    if _sha256(graph) != _parameter(source, "graph_sha256"):
        raise Refused(
            f"{graph} is not the graph that its config.pbtxt describes: write both again with `python -m export gpu`"
        )
    plan = fresh / "1" / plan_name(server.compute_capability)
    arguments = profile(source)
    # fp32 means fp32: TF32 would round what is kept in fp32 on purpose to 10 bits.
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
        raise Refused(f"TensorRT did not build {source.name}:\n{result.stdout[-4000:]}")
    record = Record(_sha256(graph), _sha256(plan), arguments, server)
    plan.with_suffix(".json").write_text(json.dumps(asdict(record), indent=2) + "\n")
    shutil.copyfile(source / "config.pbtxt", fresh / "config.pbtxt")
    shutil.rmtree(model, ignore_errors=True)
    fresh.rename(model)


def _parameter(model: Path, key: str) -> str:
    # Text, for the image has no protobuf schema of Triton's; export.triton.repository writes this form and a test holds it to it.
    text = (model / "config.pbtxt").read_text()
    found = re.search(rf'parameters {{\s*key: "{key}"\s*value {{\s*string_value: "([^"]*)"', text)
    if found is None:
        raise Refused(
            f"{model / 'config.pbtxt'} has no parameter {key!r}: write it again with `python -m export gpu`"
        )
    return found[1]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        ).stdout
    except FileNotFoundError as error:
        raise Refused(
            f"{command[0]} is not here: run this inside NVIDIA's Triton image, on a host with a GPU"
        ) from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; exits with 1 and a sentence where it refuses."""
    parser = argparse.ArgumentParser(
        prog="plans.py", description=(__doc__ or "").partition("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    builder = commands.add_parser("build", help="build what is missing or no longer matches")
    builder.add_argument("graphs", type=Path, help="written by `python -m export gpu`")
    builder.add_argument("models", type=Path, help="repository that Triton serves; made if missing")
    checker = commands.add_parser("check", help="refuse plans that do not match")
    checker.add_argument("models", type=Path)
    options = parser.parse_args(arguments)
    try:
        server = this_server()
        if options.command == "build":
            build(options.graphs, options.models, server)
        check(options.models, server)
    except Refused as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
