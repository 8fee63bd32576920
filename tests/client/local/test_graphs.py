"""Sources of a tokenizer: folders, files, several in one folder, a hub's folder and cache."""

import json
import shutil
from pathlib import Path

import pytest
from channeltok import InvalidInput, Tokenizer, UnknownTokenizer
from channeltok.local import graphs

from tests.support import shipped
from tests.support.photographs import jpeg
from tests.support.running import ROOT

REPOSITORY = ROOT / "model_repository"
WEIGHTS = ROOT / "tokenizer/weights/demo.safetensors"
PHOTO = jpeg()


@pytest.fixture(scope="module")
def saved(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of save_pretrained."""
    folder = tmp_path_factory.mktemp("saved") / "demo"
    tokenizer.save_pretrained(folder)
    return folder


def test_find_describes_the_demo_as_the_service_does() -> None:
    found = graphs.find("demo")
    assert found.info.name == "demo"
    assert found.info.fingerprint == shipped.DEMO
    assert (found.info.max_tokens, found.info.image_size, found.info.budgets) == (256, 128, (256,))
    assert found.encoder == REPOSITORY / "demo_encode/1/model.onnx"
    assert found.weights == WEIGHTS


@pytest.mark.parametrize("source", [REPOSITORY, str(REPOSITORY)])
def test_from_pretrained_reads_a_model_repository(tokenizer: Tokenizer, source: str | Path) -> None:
    with Tokenizer.from_pretrained(source) as opened:
        assert opened.encode(PHOTO) == tokenizer.encode(PHOTO)


def test_from_pretrained_reads_what_save_pretrained_wrote(
    tokenizer: Tokenizer, saved: Path
) -> None:
    names = {path.name for path in saved.iterdir()}
    assert names == {"config.json", "encode.onnx", "decode_k256.onnx", "model.safetensors"}
    with Tokenizer.from_pretrained(saved) as opened:
        assert opened.info == tokenizer.info
        tokens = opened.encode(PHOTO, k=9)
        assert tokens == tokenizer.encode(PHOTO, k=9)
        decoded, expected = opened.decode(tokens), tokenizer.decode(tokens)
        assert (decoded.as_numpy() == expected.as_numpy()).all()
        assert opened.as_module().fingerprint == tokenizer.info.fingerprint


def test_from_pretrained_reads_a_hubs_cache_without_a_network(
    tokenizer: Tokenizer, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As huggingface_hub lays it out: refs, and snapshots of links to blobs."""
    from huggingface_hub import constants

    commit = "0" * 39 + "1"
    repository = tmp_path / "models--someone--tokenizer"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    (repository / "blobs").mkdir()
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(saved.iterdir())):
        blob = repository / "blobs" / f"{number:040d}"
        shutil.copyfile(file, blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with Tokenizer.from_pretrained("someone/tokenizer") as opened:
        assert opened.encode(PHOTO) == tokenizer.encode(PHOTO)
    with pytest.raises(InvalidInput, match="no hub gives it"):
        Tokenizer.from_pretrained("someone/else")


def test_from_pretrained_prefers_a_folder_to_a_hub(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved.parents[1])
    monkeypatch.setattr(graphs, "_from_hub", lambda *_: pytest.fail("asked the hub"))
    Tokenizer.from_pretrained(f"{saved.parent.name}/{saved.name}").close()


def test_from_pretrained_of_one_graph_goes_one_way(tokenizer: Tokenizer, saved: Path) -> None:
    with Tokenizer.from_pretrained(saved / "encode.onnx") as encoder:
        tokens = encoder.encode(PHOTO)
        assert tokens == tokenizer.encode(PHOTO)
        with pytest.raises(InvalidInput, match="no graph of 'demo' here decodes 256 tokens"):
            encoder.decode(tokens)
    with Tokenizer.from_pretrained(saved / "decode_k256.onnx") as decoder:
        assert decoder.decode(tokens).as_numpy().shape == (128, 128, 3)
        with pytest.raises(InvalidInput, match="only decodes"):
            decoder.encode(PHOTO)


def test_from_pretrained_takes_the_newest_version_of_each_name(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """demo_encode_v10 is newer than demo_encode and demo_encode_v2; a generator's graph is none."""
    for version, fingerprint in (("", "0" * 16), ("_v2", "2" * 16), ("_v10", "a" * 16)):
        for model in ("demo_encode", "demo_decode_k256"):
            copy_as(model, tmp_path / f"{model}{version}/1", shipped.DEMO.encode(), fingerprint)
    copy_as("demo_encode", tmp_path / "other_encode/1", b"demo", "twin")
    copy_as("demo_encode", tmp_path / "other_generate/1", b"encode", "create")
    with pytest.raises(UnknownTokenizer, match="holds demo, twin: choose one, name='demo'"):
        Tokenizer.from_pretrained(tmp_path)
    with pytest.raises(UnknownTokenizer, match="has no tokenizer 'third'; it has demo, twin"):
        Tokenizer.from_pretrained(tmp_path, name="third")
    assert Tokenizer.from_pretrained(tmp_path, name="demo").info.fingerprint == "a" * 16
    assert Tokenizer.from_pretrained(tmp_path, name="twin").info.fingerprint == (
        tokenizer.info.fingerprint
    )


def copy_as(model: str, folder: Path, old: bytes, new: str) -> None:
    """A copy of a committed graph whose metadata has other text of the same length."""
    graph = (REPOSITORY / model / "1/model.onnx").read_bytes()
    head, end = graph[:-2000], graph[-2000:]  # the metadata is at the end
    assert old in end
    assert len(old) == len(new)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(head + end.replace(old, new.encode()))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./nothing", "'./nothing' does not exist: a tokenizer is a folder"),
        ("nothing", "'nothing' does not exist: a tokenizer is a folder, a .onnx or .safetensors"),
        (ROOT / "docs/images/cat.jpg", "is something else: a tokenizer is a folder"),
        (ROOT / "docs/images", "holds no graph of a tokenizer"),
    ],
)
def test_from_pretrained_says_what_a_source_is(source: str | Path, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        Tokenizer.from_pretrained(source)
    assert caught.value.code == "BAD_REQUEST"


def test_from_pretrained_refuses_an_onnx_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(PHOTO)
    with pytest.raises(InvalidInput, match="is no ONNX graph"):
        Tokenizer.from_pretrained(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "names no graphs of a tokenizer"),
        ("[]", "names no graphs of a tokenizer"),
        ('{"graphs": {"encode": "encode.onnx"}}', "names no graphs of a tokenizer"),
        ('{"graphs": {"encode": "no.onnx", "decode": {}}}', "lacks no.onnx"),
    ],
)
def test_from_pretrained_refuses_a_config_that_names_no_graphs(
    tmp_path: Path, config: str, message: str
) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InvalidInput, match=message):
        Tokenizer.from_pretrained(tmp_path)


def test_from_pretrained_reads_no_file_outside_of_its_folder(saved: Path, tmp_path: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    for name in (f"../{saved.name}/encode.onnx", str(saved / "encode.onnx")):
        config["graphs"]["encode"] = name
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(InvalidInput, match="lacks"):
            Tokenizer.from_pretrained(tmp_path)


def test_from_pretrained_runs_no_code_of_a_folder(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY, tmp_path / "models")
    for file in (tmp_path / "models").rglob("model.py"):
        file.write_text("raise SystemExit('it ran')\n")
    with Tokenizer.from_pretrained(tmp_path / "models") as opened:
        assert opened.decode(opened.encode(PHOTO)).as_numpy().shape == (128, 128, 3)


def test_read_metadata_is_what_onnx_reads() -> None:
    import onnx

    graph = REPOSITORY / "demo_encode/1/model.onnx"
    read = {entry.key: entry.value for entry in onnx.load(graph).metadata_props}
    assert graphs.read_metadata(graph) == read
