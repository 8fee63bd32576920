"""The comparison with FastAPI, which needs no environment of its own, and the peers' requests."""

import base64
import json
import sys
from pathlib import Path

import pytest

from loadtest.peers import __main__ as peers


@pytest.mark.bench
def test_compare_writes_a_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peers, "REPORT", tmp_path / "peers.json")
    monkeypatch.setattr(
        sys, "argv", ["peers", "--only", "FastAPI", "--rounds", "1", "--seconds", "1"]
    )
    peers.main()
    figures = json.loads(peers.REPORT.read_text())
    assert set(figures["cells"]) == {
        "ChannelTok gRPC",
        "ChannelTok REST",
        "Triton, pixels",
        "FastAPI",
    }
    assert all(
        cell["good_share"] == 1
        for row in figures["cells"].values()
        for load, cell in row.items()
        if load != "64"
    )
    assert figures["default_over_best_peer_c16"] > 0


def test_body_of_a_form_holds_the_image() -> None:
    body = peers.PEERS["BentoML"].body(b"\xff\xd8image")
    assert body.startswith(b"--" + peers.BOUNDARY.encode())
    assert body.count(b"\xff\xd8image") == 1
    assert peers.PEERS["FastAPI"].body(b"image") == b"image"


def test_body_of_the_open_inference_protocol_holds_the_image_in_base64() -> None:
    mlserver = peers.PEERS["MLServer"]
    (jpeg,) = json.loads(mlserver.body(b"\xff\xd8image"))["inputs"]
    assert jpeg["parameters"] == {"content_type": "base64"}
    assert base64.b64decode(*jpeg["data"]) == b"\xff\xd8image"
    assert (mlserver.path, peers.PEERS["FastAPI"].path) == ("/v2/models/encode/infer", "/encode")
