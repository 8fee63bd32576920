"""A tokenizer is trained anew and takes the place of the old one in a running service."""

import math
import shutil
import threading
from pathlib import Path

import pytest
from channeltok import Client, FingerprintMismatch, Tokens

from loadtest.chaos import models
from tests.photographs import jpeg
from tests.system.metrics import sample
from tests.system.running import eventually, running


def test_a_new_version_is_loaded_beside_the_old_and_switched_to_without_a_failed_call(tmp_path: Path) -> None:
    exported = models.nudged_repository()
    repository = models.demo_repository(tmp_path)
    with running(model_repository=str(repository), probe_seconds="0.5", retire_seconds="4") as service, Client(service.grpc) as client:
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
        eventually(lambda: math.isnan(sample(service, "channeltok_engine_ready", model="demo_encode")), 10, "no more said of the old one")
        stopping.set()
        for worker in workers:
            worker.join()
        assert not failed
        assert {tokens.fingerprint for tokens in seen} == {old.fingerprint, new.fingerprint}
        with pytest.raises(FingerprintMismatch):
            client.decode(old_tokens)
        eventually(lambda: len(service.children("stub")) == 4, 30, "the end of the old engines")


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_at_work(tmp_path: Path) -> None:
    repository = models.demo_repository(tmp_path)
    with running(model_repository=str(repository), probe_seconds="0.3") as service, Client(service.grpc) as client:
        before = client.tokenizers()
        half = repository / "demo_encode_v2"
        shutil.copytree(repository / "demo_encode", half)
        (half / "1/model.onnx").write_bytes(b"half a copy")
        (half / "config.pbtxt").write_text((half / "config.pbtxt").read_text().replace('name: "demo_encode"', 'name: "demo_encode_v2"'))
        eventually(lambda: any("cannot_load" in line for line in service.log), 30, "the complaint")
        assert client.tokenizers() == before
        assert client.encode(jpeg()).fingerprint == before[0].fingerprint
        shutil.rmtree(half)
        assert service.stop() == 0
