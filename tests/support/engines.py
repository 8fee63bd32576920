"""The engine processes of a running service, and a service whose encoder fails on command."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from channeltok import ChannelTokError, Client, Tokens

from tests.support.metrics import sample
from tests.support.photographs import jpeg
from tests.support.running import ROOT, Service, running

FAULTY_MODEL = Path(__file__).with_name("faulty_encoder") / "model.py"


def stubs(service: Service, model: str = "") -> list[psutil.Process]:
    """Processes of Triton's python backend, of one model or of all."""
    return [child for child in service.children("stub") if f"/{model}" in " ".join(child.cmdline())]


def triton(service: Service) -> psutil.Process:
    """The embedded tritonserver."""
    (process,) = service.children("tritonserver")
    return process


def restarts(service: Service, component: str) -> float:
    """How often a model, `triton` or a `worker` was restarted."""
    return sample(service, "channeltok_engine_restarts_total", component=component)


def tokens_or_none(client: Client) -> Tokens | None:
    """Tokens of a fixed image, or None where the service refuses."""
    try:
        return client.encode(jpeg())
    except ChannelTokError:
        return None


def image_or_none(client: Client, tokens: Tokens) -> bytes | None:
    """The image of these tokens, or None where the service refuses."""
    try:
        return client.decode(tokens)
    except ChannelTokError:
        return None


@dataclass(frozen=True)
class FaultyEncoder:
    """A service whose encoder goes wrong as `fault` says, once it is written."""

    service: Service
    fault: Path


@contextmanager
def running_faulty_encoder(folder: Path, **settings: str) -> Iterator[FaultyEncoder]:
    """A service on a copy of the model repository in `folder`, with a faulty encoder."""
    repository = folder / "models"
    shutil.copytree(
        ROOT / "model_repository", repository, ignore=shutil.ignore_patterns("__pycache__")
    )
    version = repository / "demo_encode/1"
    (version / "model.py").rename(version / "healthy_model.py")
    shutil.copy(FAULTY_MODEL, version / "model.py")
    with running(model_repository=str(repository), **settings) as service:
        yield FaultyEncoder(service, version / "fault")
