"""A new version of a tokenizer replaces the old one in a running service."""

import math
import shutil
import threading
from pathlib import Path

import pytest
from channeltok import Client, FingerprintMismatch, Tokens

from loadtest.chaos import models
from tests.support.engines import restarts, stubs, tokens_or_none
from tests.support.metrics import sample
from tests.support.photographs import jpeg
from tests.support.running import ROOT, eventually, running

PROGRAMS = ROOT / "tests/support/programs"


def test_a_new_version_is_loaded_beside_the_old_and_switched_to_without_a_failed_call(
    tmp_path: Path,
) -> None:
    exported = models.nudged_repository()
    repository = models.demo_repository(tmp_path)
    with (
        running(
            model_repository=str(repository), probe_seconds="0.5", retire_seconds="4"
        ) as service,
        Client(service.grpc) as client,
    ):
        (old,) = client.tokenizers()
        old_tokens = client.encode(jpeg())
        stopping = threading.Event()
        seen: list[Tokens] = []
        failed: list[Exception] = []

        def work() -> None:
            while not stopping.is_set():
                try:
                    tokens = client.encode(jpeg())
                    seen.append(tokens)
                    client.decode(tokens)
                except Exception as error:
                    failed.append(error)

        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        models.replace(repository, exported)
        eventually(lambda: client.tokenizers()[0].fingerprint != old.fingerprint, 60, "the switch")
        new, also = client.tokenizers()
        assert also == old
        assert client.encode(jpeg()).fingerprint == new.fingerprint
        assert client.decode(old_tokens) != client.decode(client.encode(jpeg()))
        current = {"tokenizer": "demo", "fingerprint": new.fingerprint}
        assert sample(service, "channeltok_tokenizer_info", **current) == 1
        assert sample(service, "channeltok_tokenizer_info") == 1
        eventually(lambda: client.tokenizers() == [new], 60, "the old one's retirement")
        eventually(
            lambda: math.isnan(sample(service, "channeltok_engine_ready", model="demo_encode")),
            10,
            "no more said of the old one",
        )
        stopping.set()
        for worker in workers:
            worker.join()
        assert not failed
        assert {tokens.fingerprint for tokens in seen} == {old.fingerprint, new.fingerprint}
        with pytest.raises(FingerprintMismatch):
            client.decode(old_tokens)
        eventually(lambda: len(service.children("stub")) == 4, 30, "the end of the old engines")


def test_models_that_fail_to_load_block_nothing(tmp_path: Path) -> None:
    """The old version keeps working, a new one is loaded, and engines are still replaced."""
    exported, staged = models.nudged_repository(), tmp_path / "staged"
    repository = models.demo_repository(tmp_path)
    bad = ["a_half_config", "a_half_graph", "a_hangs"]
    for name in bad:
        shutil.copytree(repository / "demo_encode", staged / name)
        config = staged / name / "config.pbtxt"
        config.write_text(config.read_text().replace('name: "demo_encode"', f'name: "{name}"'))
    (staged / "a_half_config/config.pbtxt").write_text('name: "a_half')
    (staged / "a_half_graph/1/model.onnx").write_bytes(b"half a copy")
    shutil.copy(PROGRAMS / "hanging_model.py", staged / "a_hangs/1/model.py")
    with (
        running(
            model_repository=str(repository), probe_seconds="0.3", engine_instances="1"
        ) as service,
        Client(service.grpc) as client,
    ):
        (old,) = client.tokenizers()
        for new in exported.glob("*_v2"):
            shutil.copytree(new, staged / new.name)
            (staged / new.name).rename(repository / new.name)
        for name in bad:
            (staged / name).rename(repository / name)
        eventually(
            lambda: (
                {event["model"] for event in service.events("cannot_load")}
                == {"a_half_config", "a_half_graph"}
            ),
            40,
            "the words",
        )
        eventually(lambda: len(client.tokenizers()) == 2, 40, "the new version")
        expected = client.encode(jpeg())
        assert expected.fingerprint != old.fingerprint
        (encoder,) = stubs(service, "demo_encode_v2/")
        encoder.kill()
        eventually(lambda: restarts(service, "demo_encode_v2") == 1, 30, "the restart")
        eventually(lambda: tokens_or_none(client) == expected, 30, "the same tokens again")
        assert "a_hangs" not in {
            event["model"] for event in service.events("cannot_load")
        }  # Triton still waits for it
