"""The model repository: config.pbtxt, versions, atomic replacement, and the committed one."""

from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format

from export.triton import repository
from tokenizer import checkpoint

COMMITTED = Path(__file__).parents[3] / "model_repository"


@pytest.fixture
def graphs(encode: bytes, decodes: dict[int, bytes]) -> list[bytes]:
    return [encode, *decodes.values()]


def renamed(graph: bytes, tokenizer: str) -> bytes:
    parsed = onnx.load_model_from_string(graph)
    next(entry for entry in parsed.metadata_props if entry.key == "tokenizer").value = tokenizer
    return bytes(parsed.SerializeToString())


def listing(folder: Path) -> list[str]:
    """Its files, without the __pycache__ of a running Triton."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    )


def files_of(*models: str) -> list[str]:
    return sorted(
        f"{model}/{name}"
        for model in models
        for name in ("1/model.onnx", "1/model.py", "config.pbtxt")
    )


def test_write_makes_a_model_per_graph(tmp_path: Path, graphs: list[bytes]) -> None:
    names = repository.write(tmp_path / "models", "demo", graphs)
    assert names == ["demo_encode", "demo_decode_k32", "demo_decode_k256"]
    assert listing(tmp_path) == [f"models/{name}" for name in files_of(*names)]


def test_config_has_everything_a_gateway_needs(decodes: dict[int, bytes]) -> None:
    config = repository.parse(repository.config(decodes[32]))
    assert (config.name, config.backend, config.max_batch_size) == ("demo_decode_k32", "python", 8)
    assert [
        (list(tensor.dims), tensor.data_type) for tensor in (*config.input, *config.output)
    ] == [
        ([32], 8),
        ([128, 128, 3], 2),
        ([2], 9),
    ]
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert [(group.count, group.kind) for group in config.instance_group] == [(2, 2)]
    facts = {key: value.string_value for key, value in config.parameters.items()}
    assert len(facts.pop("fingerprint")) == 16
    assert len(facts.pop("graph_sha256")) == 64
    assert facts == {
        "tokenizer": "demo",
        "family": "channeltok",
        "version": "1",
        "role": "decode",
        "budget": "32",
        "picture_size": "128",
        "channels": "256",
        "bits_per_token": "16",
        "engine": "onnxruntime",
        "precision": "f32",
        "threads": "1",
    }


def test_parse_refuses_an_unknown_field(encode: bytes) -> None:
    text = repository.config(encode)
    repository.parse(text)
    for typo in (
        text.replace("max_batch_size", "max_batchsize"),
        text.replace("TYPE_UINT8", "TYPE_BYTE"),
        text + "stray {",
    ):
        with pytest.raises(text_format.ParseError):
            repository.parse(typo)


def test_write_removes_stale_models_and_keeps_other_tokenizers(
    tmp_path: Path, encode: bytes, decodes: dict[int, bytes]
) -> None:
    folder = tmp_path / "models"
    repository.write(folder, "demo", [encode, *decodes.values()])
    repository.write(folder, "other", [renamed(encode, "other")])
    (folder / "README.md").write_text("kept")
    repository.write(folder, "demo", [encode, decodes[256]])
    assert listing(folder) == sorted(
        [*files_of("demo_encode", "demo_decode_k256", "other_encode"), "README.md"]
    )


def test_write_leaves_the_old_repository_when_it_fails(
    tmp_path: Path, graphs: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    repository.write(folder, "demo", graphs[:1])
    before = {path: (folder / path).read_bytes() for path in listing(folder)}
    monkeypatch.setattr(repository, "MODEL_FILE", tmp_path / "gone.py")
    with pytest.raises(FileNotFoundError):
        repository.write(folder, "demo", graphs)
    assert {path: (folder / path).read_bytes() for path in listing(folder)} == before


def test_write_recovers_from_an_interrupted_run(tmp_path: Path, graphs: list[bytes]) -> None:
    folder = tmp_path / "models"
    repository.write(folder, "other", [renamed(graphs[0], "other")])
    folder.rename(tmp_path / ".models.old")
    repository.write(folder, "demo", graphs[:1])
    assert listing(tmp_path) == [
        f"models/{name}" for name in files_of("demo_encode", "other_encode")
    ]


def committed_models() -> list[Path]:
    return sorted(path.parent for path in COMMITTED.glob("*/config.pbtxt"))


def test_committed_repository_has_one_encode_and_one_decode() -> None:
    roles = [
        repository.parse((model / "config.pbtxt").read_text()).parameters["role"].string_value
        for model in committed_models()
    ]
    assert roles.count("encode") == 1
    assert "decode" in roles
    assert listing(COMMITTED) == files_of(*(model.name for model in committed_models()))
    assert sum((COMMITTED / path).stat().st_size for path in listing(COMMITTED)) < 26e6


@pytest.mark.parametrize("model", committed_models(), ids=lambda model: model.name)
def test_committed_repository_matches_this_code(model: Path) -> None:
    # config() hashes the graph, so this compares graph_sha256 too.
    assert (model / "config.pbtxt").read_text() == repository.config(
        (model / "1/model.onnx").read_bytes()
    )
    assert (model / "1/model.py").read_bytes() == repository.MODEL_FILE.read_bytes()


def test_committed_graphs_match_the_committed_weights() -> None:
    weights = checkpoint.fingerprint(checkpoint.load(Path("tokenizer/weights/demo.safetensors")))
    assert {
        repository.parse((model / "config.pbtxt").read_text())
        .parameters["fingerprint"]
        .string_value
        for model in committed_models()
    } == {weights}


def retrained(graph: bytes, fingerprint: str) -> bytes:
    parsed = onnx.load_model_from_string(graph)
    next(entry for entry in parsed.metadata_props if entry.key == "fingerprint").value = fingerprint
    return bytes(parsed.SerializeToString())


def test_write_names_a_retrained_tokenizer_by_version(tmp_path: Path, graphs: list[bytes]) -> None:
    folder = tmp_path / "models"
    repository.write(folder, "demo", graphs)
    assert repository.write(folder, "demo", graphs) == [
        "demo_encode",
        "demo_decode_k32",
        "demo_decode_k256",
    ]
    second = repository.write(folder, "demo", [retrained(graph, "f" * 16) for graph in graphs])
    assert second == ["demo_encode_v2", "demo_decode_k32_v2", "demo_decode_k256_v2"]
    assert listing(folder) == files_of(*second)
    config = repository.parse((folder / "demo_encode_v2/config.pbtxt").read_text())
    assert (config.name, config.parameters["version"].string_value) == ("demo_encode_v2", "2")
    assert (
        repository.write(folder, "demo", [retrained(graph, "f" * 16) for graph in graphs]) == second
    )
    assert repository.write(folder, "demo", graphs)[0] == "demo_encode_v3"
