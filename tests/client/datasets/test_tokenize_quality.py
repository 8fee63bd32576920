"""tokenize with a quality instead of k, and its statistics."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from channeltok import Quality, Tokens
from channeltok.datasets import DestinationMismatch, TokenDataset, tokenize, verify
from PIL import Image

import imaging
from imaging.similarity import ssim
from service import in_process
from service.engine.in_process import InProcessEngine
from tests.support import dataset_files
from tests.support.photographs import crops

IMAGES = [(f"photo-{number:02d}", image) for number, image in enumerate(crops(24))]
QUALITY = Quality(ssim=0.6)


@pytest.fixture(scope="module")
def adaptive(engine: InProcessEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adaptive")
    for shard in range(2):
        dataset_files.tar(folder / f"source/train-{shard}.tar", IMAGES[shard::2], labels=True)
    tokenize(str(folder / "source"), str(folder / "tokens"), [engine], quality=QUALITY)
    return folder


def test_tokenize_keeps_the_fewest_tokens_that_reach_the_quality(
    engine: InProcessEngine, adaptive: Path
) -> None:
    """Compared with decoding every budget separately."""
    rows = {
        row["key"].partition("/")[2]: row
        for shard in (0, 1)
        for row in pq.read_table(adaptive / f"tokens/train-{shard}.parquet").to_pylist()
    }
    encoded = dict(
        zip(
            [key for key, _ in IMAGES],
            engine.encode_stream([image for _, image in IMAGES]),
            strict=True,
        )
    )
    for key, image in IMAGES:
        original, tokens, row = imaging.prepare(image, 128, 10**9), encoded[key], rows[key]
        assert isinstance(tokens, Tokens)
        ssims = []
        for decoded in engine.decode_stream([tokens.prefix(k) for k in QUALITY.budgets(256)]):
            assert isinstance(decoded, bytes)
            ssims.append(
                float(ssim(original[None], np.asarray(Image.open(io.BytesIO(decoded)))[None])[0])
            )
        reached = [index for index, value in enumerate(ssims) if value >= 0.6]
        chosen = reached[0] if reached else int(np.argmax(ssims))
        assert row["k"] == QUALITY.budgets(256)[chosen], key
        assert row["tokens"] == tokens.prefix(row["k"]).ids.tolist()
        assert row["ssim"] == pytest.approx(ssims[chosen], abs=1e-6)
    assert len({row["k"] for row in rows.values()}) >= 4


def test_summary_of_a_second_run_counts_all_images(engine: InProcessEngine, adaptive: Path) -> None:
    rows = [
        row
        for shard in (0, 1)
        for row in pq.read_table(
            adaptive / f"tokens/train-{shard}.parquet", columns=["k", "ssim"]
        ).to_pylist()
    ]
    again = tokenize(str(adaptive / "source"), str(adaptive / "tokens"), [engine], quality=QUALITY)
    assert again.done_before == 2
    lengths = again.lengths
    assert json.loads((adaptive / "tokens/.channeltok/summary.json").read_text())[
        "lengths"
    ] == json.loads(json.dumps(lengths))
    assert lengths["bytes"] == 2 * sum(row["k"] for row in rows)
    assert sum(lengths["images_by_k"].values()) == 24
    assert lengths["mean_ssim"] == pytest.approx(np.mean([row["ssim"] for row in rows]), abs=1e-6)
    assert lengths["reached"] == sum(row["ssim"] >= 0.6 for row in rows)
    ks, ssims = (
        [point["k"] for point in lengths["fixed"]],
        [point["mean_ssim"] for point in lengths["fixed"]],
    )
    assert np.interp(lengths["fixed_k_same_ssim"]["k"], ks, ssims) == pytest.approx(
        lengths["mean_ssim"]
    )
    assert lengths["fixed_k_same_ssim"]["saved"] == pytest.approx(
        1 - lengths["bytes"] / lengths["fixed_k_same_ssim"]["bytes"], abs=1e-3
    )
    assert 0 < lengths["fixed_k_same_reached"]["saved"] < 1


def test_token_dataset_pads_and_cuts_batches(adaptive: Path) -> None:
    dataset = TokenDataset(str(adaptive / "tokens"))
    rows = dict(dataset.rows())
    assert dataset.k == max(tokens.k for tokens in rows.values())
    (batch,) = dataset.batches(24)
    for line, tokens in zip(batch.tokens, rows.values(), strict=True):
        assert line[: tokens.k].tolist() == tokens.ids.tolist()
        assert (line[tokens.k :] == -1).all()
    (short,) = TokenDataset(str(adaptive / "tokens"), 8).batches(24)
    assert np.array_equal(short.tokens, batch.tokens[:, :8])


def test_ssim_per_token_saves_bytes_at_the_same_mean_ssim(
    engine: InProcessEngine, adaptive: Path, tmp_path: Path
) -> None:
    summary = tokenize(
        str(adaptive / "source"),
        str(tmp_path / "tokens"),
        [engine],
        quality=Quality(ssim_per_token=0.001),
    )
    assert summary.lengths["fixed_k_same_ssim"]["saved"] > 0
    assert summary.lengths["fixed_k_same_reached"] is None


def test_verify_accepts_tokens_of_a_quality(engine: InProcessEngine, adaptive: Path) -> None:
    result = verify(str(adaptive / "source"), str(adaptive / "tokens"), engine, sample=24)
    assert (result.images, result.different, result.missing) == (24, [], [])


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # webdataset leaves its file open
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_webdataset_stores_the_quality_reached(
    engine: InProcessEngine, adaptive: Path, tmp_path: Path
) -> None:
    import webdataset

    tokenize(
        str(adaptive / "source"),
        str(tmp_path / "tokens"),
        [engine],
        quality=Quality(psnr=20),
        container="webdataset",
    )
    for sample in webdataset.WebDataset(str(tmp_path / "tokens/train-0.tar"), shardshuffle=False):
        metadata = json.loads(sample["json"])
        assert Tokens.from_bytes(sample["ctok"]).k == metadata["k"]
        assert metadata["psnr"] >= 20 or metadata["k"] > 100


def test_tokenize_refuses_another_quality_in_one_destination(
    engine: InProcessEngine, adaptive: Path
) -> None:
    with pytest.raises(DestinationMismatch, match=r"ssim=0\.6"):
        tokenize(
            str(adaptive / "source"), str(adaptive / "tokens"), [engine], quality=Quality(ssim=0.7)
        )
    with pytest.raises(DestinationMismatch, match=r"ssim=0\.6"):
        tokenize(str(adaptive / "source"), str(adaptive / "tokens"), [engine], k=64)
    with pytest.raises(ValueError, match="exclude each other"):
        tokenize(
            str(adaptive / "source"), str(adaptive / "tokens"), [engine], k=64, quality=QUALITY
        )


def test_tokenize_command_takes_a_quality(
    adaptive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(adaptive / "source"), str(tmp_path / "tokens")]
    assert in_process.main(["tokenize", *paths, "--quality", "max_bytes=64"]) == 0
    output = capsys.readouterr().out
    assert "tokens on average by demo" in output
    assert "bytes of ids" in output
    assert "SSIM" in output
    with pytest.raises(SystemExit):
        in_process.main(["tokenize", "a", "b", "--quality", "fine"])
    assert "a quality is written" in capsys.readouterr().err
