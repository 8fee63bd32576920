"""Find the graphs of a tokenizer: the shipped demo, a folder, a file, or a repository of a hub.

A graph's metadata says what it is (export/graphs/graph.py), so a folder needs no further
description. Nothing that lies beside the graphs is run.
"""

import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from channeltok._messages import TokenizerInfo
from channeltok.errors import InvalidInput, UnknownTokenizer

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
# All that a hub's repository may give us: none of it is code.
HUB_FILES = (CONFIG, WEIGHTS, "*.onnx")
_PACKAGE = Path(__file__).parents[1]
# Of what comes with the package: below `channeltok` in a wheel, in the root of a checkout.
_ROOT = _PACKAGE if (_PACKAGE / "model_repository").is_dir() else _PACKAGE.parents[1]
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_VERSION = re.compile(r"_v(\d+)$")
_ALLOWED = "a folder, a .onnx or .safetensors file, 'demo', or a hub's ORGANISATION/NAME"


@dataclass(frozen=True)
class Graphs:
    """Files of one tokenizer.

    encoder: uint8 [n, S, S, 3] to int32 [n, max_tokens]; None where there is none. decoders: the
    same way back, by budget, ascending. weights: its checkpoint, for `as_module`.
    """

    info: TokenizerInfo
    encoder: Path | None
    decoders: dict[int, Path] = field(default_factory=dict)
    weights: Path | None = None


def find(
    source: str | PathLike[str], name: str | None = None, revision: str | None = None
) -> Graphs:
    """The graphs of one tokenizer at `source`.

    source: see `Tokenizer.from_pretrained`. name: which one, where there are several. revision: of
    a hub's repository.
    Raises InvalidInput (BAD_REQUEST) for a source that is none, UnknownTokenizer.
    """
    paths, weights = _on_disk(source, revision)
    if not paths and weights is not None:
        from tokenizer.module import load

        return Graphs(_info(load(weights).facts(weights.stem)), None, {}, weights)
    tokenizers = _newest(paths)
    names = sorted(tokenizers)
    if not names:
        raise InvalidInput(
            "BAD_REQUEST", f"{fspath(source)} holds no graph of a tokenizer: it is {_ALLOWED}"
        )
    if name is None and len(names) > 1:
        raise UnknownTokenizer(
            "UNKNOWN_TOKENIZER",
            f"{fspath(source)} holds {', '.join(names)}: choose one, name={names[0]!r}",
        )
    if name is not None and name not in tokenizers:
        raise UnknownTokenizer(
            "UNKNOWN_TOKENIZER",
            f"{fspath(source)} has no tokenizer {name!r:.100}; it has {', '.join(names)}",
        )
    return replace(tokenizers[name or names[0]], weights=weights)


def save(found: Graphs, folder: Path) -> None:
    """Write a folder that `find` reads. Raises InvalidInput (BAD_REQUEST), OSError."""
    if found.encoder is None or not found.decoders:
        raise InvalidInput("BAD_REQUEST", "only a tokenizer with graphs of both ways can be saved")
    files = {found.encoder: "encode.onnx"}
    files |= {graph: f"decode_k{budget}.onnx" for budget, graph in found.decoders.items()}
    if found.weights is not None:
        files[found.weights] = WEIGHTS
    folder.mkdir(parents=True, exist_ok=True)
    for file, name in files.items():
        shutil.copyfile(file, folder / name)
    config = {
        "model_type": "channeltok",
        **asdict(found.info),
        "graphs": {
            "encode": files[found.encoder],
            "decode": {str(k): files[graph] for k, graph in found.decoders.items()},
        },
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def shipped() -> Path:
    """The model repository with the demo tokenizer."""
    return _ROOT / "model_repository"


def read_metadata(graph: Path) -> dict[str, str]:
    """Metadata of an ONNX file. Raises InvalidInput (BAD_REQUEST) for another file."""
    message = _onnx_model_class()()
    try:
        message.ParseFromString(graph.read_bytes())
    except Exception as error:  # protobuf's DecodeError, of one class for each implementation
        raise InvalidInput("BAD_REQUEST", f"{graph} is no ONNX graph") from error
    return dict(message.metadata_props)


def _on_disk(source: str | PathLike[str], revision: str | None) -> tuple[list[Path], Path | None]:
    """Graphs, and the checkpoint if there is one."""
    if source == "demo":
        return _in_repository(shipped()), _if_file(_ROOT / "tokenizer/weights/demo.safetensors")
    path = Path(source)
    if path.is_file() and path.suffix == ".onnx":
        return [path], None
    if path.is_file() and path.suffix == ".safetensors":
        return [], path
    if not path.exists() and _HUB_NAME.fullmatch(fspath(source)):
        path = _from_hub(fspath(source), revision)
    if not path.is_dir():
        why = "is something else" if path.exists() else "does not exist"
        raise InvalidInput(
            "BAD_REQUEST", f"{fspath(source)!r:.200} {why}: a tokenizer is {_ALLOWED}"
        )
    if (path / CONFIG).is_file():
        return _configured(path), _if_file(path / WEIGHTS)
    return _in_repository(path) or sorted(path.glob("*.onnx")), _if_file(path / WEIGHTS)


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None


def _in_repository(folder: Path) -> list[Path]:
    """Graphs of a Triton model repository, the highest version of each model."""
    models: dict[Path, Path] = {}
    for graph in folder.glob("*/*/model.onnx"):
        if graph.parent.name.isdecimal():
            model = graph.parents[1]
            models[model] = max(
                models.get(model, graph), graph, key=lambda path: int(path.parent.name)
            )
    return sorted(models.values())


def _configured(folder: Path) -> list[Path]:
    """The graphs that config.json names; they lie beside it."""
    try:
        graphs = json.loads((folder / CONFIG).read_bytes())["graphs"]
        names = [graphs["encode"], *graphs["decode"].values()]
        missing = [
            name for name in names if Path(name).name != name or not (folder / name).is_file()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            "BAD_REQUEST",
            f"{folder / CONFIG} names no graphs of a tokenizer: save_pretrained writes such a file",
        ) from error
    if missing:
        raise InvalidInput("BAD_REQUEST", f"{folder} lacks {missing[0]}, which {CONFIG} names")
    return [folder / name for name in names]


def _from_hub(name: str, revision: str | None) -> Path:
    """The local copy of a hub's repository; fetched where it is not cached."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when it is imported
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            f"there is no folder {name}; to fetch it from a hub: pip install huggingface_hub"
        ) from error
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=list(HUB_FILES)
            )
        )
    except (huggingface_hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidInput(
            "BAD_REQUEST", f"there is no folder {name}, and no hub gives it: {reason}"
        ) from error


def _newest(paths: Iterable[Path]) -> dict[str, Graphs]:
    """Tokenizers by name, each in its newest version."""
    parts: dict[tuple[str, str], list[tuple[Path, dict[str, str]]]] = defaultdict(list)
    for path in paths:
        facts = read_metadata(path)
        if facts.get("role") in ("encode", "decode"):  # others generate tokens
            parts[facts["tokenizer"], facts["fingerprint"]].append((path, facts))
    return {
        name: _graphs(part)
        for (name, _), part in sorted(
            parts.items(), key=lambda item: max(_version(path) for path, _ in item[1])
        )
    }


def _graphs(part: list[tuple[Path, dict[str, str]]]) -> Graphs:
    encoders = [path for path, facts in part if facts["role"] == "encode"]
    decoders = {int(facts["budget"]): path for path, facts in part if facts["role"] == "decode"}
    decoders = dict(sorted(decoders.items()))
    costs = {path: float(facts.get("relative_cost", 1)) for path, facts in part}
    info = replace(
        _info(part[0][1]),
        budgets=tuple(decoders),
        relative_costs=tuple(costs[path] for path in decoders.values()),
    )
    return Graphs(info, encoders[0] if encoders else None, decoders)


def _info(facts: dict[str, str]) -> TokenizerInfo:
    bits = int(facts["bits_per_token"])
    return TokenizerInfo(
        name=facts["tokenizer"],
        family=facts["family"],
        fingerprint=facts["fingerprint"],
        max_tokens=int(facts["channels"]),
        bits_per_token=bits,
        vocab_size=int(facts.get("codes", 2**bits)),
        image_size=int(facts["picture_size"]),
        budgets=(),
    )


def _version(graph: Path) -> int:
    """Of a model repository's folder: demo_encode_v2 is of version 2."""
    version = _VERSION.search(graph.parents[1].name)
    return int(version[1]) if version and graph.name == "model.onnx" else 1


@cache
def _onnx_model_class() -> Any:
    """A message class of ONNX's ModelProto with nothing but its metadata."""
    file = descriptor_pb2.FileDescriptorProto(
        name="channeltok/onnx_metadata.proto", package="channeltok.onnx", syntax="proto3"
    )
    model = file.message_type.add(name="Model")
    entry = model.nested_type.add(name="MetadataPropsEntry")
    entry.options.map_entry = True
    text, once, many = (
        descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
        descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
        descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED,
    )
    entry.field.add(name="key", number=1, type=text, label=once)
    entry.field.add(name="value", number=2, type=text, label=once)
    model.field.add(
        name="metadata_props",
        number=14,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
        type_name=".channeltok.onnx.Model.MetadataPropsEntry",
        label=many,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("channeltok.onnx.Model"))
