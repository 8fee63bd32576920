"""A model repository with the demo tokenizer and a generator of its tokens."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from export.graphs import generator_graph
from export.triton import generator_repository
from tests.support.running import ROOT

CLASSES = ("cat", "dog", "house", *(f"thing {number}" for number in range(40)))
GENERATOR_FINGERPRINT = "feedfacecafebeef"


@dataclass(frozen=True)
class GeneratorRepository:
    """models: the model repository. active: one file per running sequence. fault: see model.py."""

    models: Path
    active: Path
    fault: Path

    def sequences(self) -> int:
        """Number of running sequences. Files of a killed process do not count."""
        return sum(_runs(int(marker.name.partition("-")[0])) for marker in self.active.iterdir())


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def write(folder: Path, pause: float, fingerprint: str | None = None) -> GeneratorRepository:
    """pause: seconds per token. fingerprint: of the tokenizer it serves, by default the demo."""
    repository = GeneratorRepository(folder / "models", folder / "active", folder / "fault")
    shutil.copytree(
        ROOT / "model_repository", repository.models, ignore=shutil.ignore_patterns("__pycache__")
    )
    repository.active.mkdir()
    demo = text_format.Parse(
        (repository.models / "demo_encode/config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    channels = int(demo.parameters["channels"].string_value)
    config = model_config_pb2.ModelConfig(
        name="sketch_generate", backend="python", max_batch_size=0
    )
    config.instance_group.add(count=1, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)
    generator_repository.declare_tensors(config, channels)
    facts = {
        "generator": "sketch",
        "role": "generate",
        "family": "gpt",
        "fingerprint": fingerprint or demo.parameters["fingerprint"].string_value,
        "generator_fingerprint": GENERATOR_FINGERPRINT,
        "channels": str(channels),
        "codes": "65536",
        "bits_per_token": "16",
        "classes": json.dumps(CLASSES),
        "interface": str(generator_graph.INTERFACE),
        "version": "1",
        "graph_sha256": "0" * 64,
        "pause": str(pause),
        "active": str(repository.active),
        "fault": str(repository.fault),
    }
    for key, value in facts.items():
        config.parameters[key].string_value = value
    model = repository.models / config.name
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(text_format.MessageToString(config))
    shutil.copy(Path(__file__).with_name("model.py"), model / "1/model.py")
    return repository
