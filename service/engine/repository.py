"""The model repository: which models it holds, and their configs for this machine."""

import contextlib
import re
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from service.engine.cpu import cpu_engine
from service.errors import CannotStart
from service.settings import EngineSettings, Settings
from service.triton.models import is_ours

# Beside a decode graph, written by `python -m export tokenizer --int8`.
INT8_GRAPH = "model_int8.onnx"
# Rate-limiter resource that every execution holds, of whichever model: as many run at once as there
# are instances of one. More would share the processor, take turns in its caches, and find fewer
# images waiting (docs/decisions/0032).
CORES = "cores"
LONE_GROUP = "lone"  # of the instance that uses all cores where no other one computes
_CONFIG = "config.pbtxt"
_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*")  # Triton passes names to a shell


def model_folders(repository: Path) -> list[Path]:
    """The folders that hold a model, sorted; none where the repository cannot be read.

    That is a folder with a config.pbtxt, and with a name of ASCII letters, digits and ._+- that
    does not begin with a dot.
    """
    folders = []
    with contextlib.suppress(OSError):
        for entry in sorted(repository.iterdir()):
            with contextlib.suppress(OSError):  # a folder that we may not read
                if _NAME.fullmatch(entry.name) and (entry / _CONFIG).is_file():
                    folders.append(entry)
    return folders


def strays(repository: Path) -> list[str]:
    """Names of everything else in the repository, sorted."""
    with contextlib.suppress(OSError):
        models = model_folders(repository)
        return sorted(entry.name for entry in repository.iterdir() if entry not in models)
    return []


def parse_config(folder: Path) -> model_config_pb2.ModelConfig:
    """A model's config.pbtxt as it is on disk. Raises CannotStart when it cannot be read."""
    config = model_config_pb2.ModelConfig()
    try:
        text_format.Parse((folder / _CONFIG).read_text(encoding="utf-8"), config)
    except (OSError, UnicodeError, text_format.ParseError) as error:  # a half-copied file, say
        raise CannotStart(f"{folder.name}/{_CONFIG} cannot be read: {error}") from error
    if config.name != folder.name:
        raise CannotStart(
            f"{folder.name}/{_CONFIG} is of a model called {config.name!r}: folder and model must "
            "have the same name"
        )
    if not (config.backend or config.platform):
        raise CannotStart(f"{folder.name}/{_CONFIG} names no backend: is it copied completely?")
    return config


def read_config(folder: Path, settings: Settings) -> model_config_pb2.ModelConfig:
    """A model's config.pbtxt with this machine's engine, precision, instances and threads.

    Raises CannotStart when it cannot be read, or the model has no graph of the precision.
    """
    config = parse_config(folder)
    if config.backend != "python" or not is_ours(config):
        return config
    role = config.parameters["role"].string_value
    engine, precision = engine_of(config, settings)
    if precision == "int8" and not (folder / "1" / INT8_GRAPH).exists():
        raise CannotStart(
            f"{folder.name} has no int8 graph ({INT8_GRAPH}): "
            "write one with `python -m export tokenizer CHECKPOINT --int8`"
        )
    parameters = {"engine": engine, "precision": precision, "threads": settings.engine_threads}
    if role == "generate":
        # One process, which generates several images at a time.
        parameters["at_once"] = settings.engine_instances
    else:
        group = config.instance_group[0]
        group.count = settings.engine_instances
        group.rate_limiter.resources.add(name=CORES, count=1, **{"global": True})
        more_threads = settings.engine_threads < settings.engine_threads_alone
        # Graphs of 64 MB or more, which run image by image, are too large to be held twice. That
        # bf16 has the same bits for any number of threads was not seen.
        if precision == "f32" and more_threads and config.max_batch_size > 1:
            _add_lone_group(config)
            parameters["lone_threads"] = settings.engine_threads_alone
    for key, value in parameters.items():
        config.parameters[key].string_value = str(value)
    return config


def engine_of(config: model_config_pb2.ModelConfig, settings: EngineSettings) -> tuple[str, str]:
    """Engine and precision of one of our models on this machine: ("openvino", "bf16"), say."""
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    return cpu_engine(parameters, settings)


def _add_lone_group(config: model_config_pb2.ModelConfig) -> None:
    """Let one instance use all cores where no other one computes, and let Triton prefer it."""
    group = config.instance_group[0]
    lone = config.instance_group.add()
    lone.CopyFrom(group)
    lone.name, lone.count = LONE_GROUP, 1
    group.count -= 1
    # Of two idle instances Triton takes the one with the smaller product of priority and number of
    # executions.
    group.rate_limiter.priority = 1_000_000
    if not group.count:
        del config.instance_group[0]
