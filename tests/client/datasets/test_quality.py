"""Datasets whose images have as many tokens as each of them needs."""

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
ASKED = Quality(ssim=0.6)


@pytest.fixture(scope="module")
def made(engine: InProcessEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adaptive")
    for shard in range(2):
        dataset_files.tar(folder / f"source/train-{shard}.tar", IMAGES[shard::2], labels=True)
    tokenize(str(folder / "source"), str(folder / "tokens"), [engine], quality=ASKED)
    return folder


def test_each_image_has_the_fewest_tokens_that_reach_it(
    engine: InProcessEngine, made: Path
) -> None:
    """As one finds them who decodes every budget by itself."""
    rows = {
        row["key"]: row
        for shard in (0, 1)
        for row in pq.read_table(made / f"tokens/train-{shard}.parquet").to_pylist()
    }
    everything = dict(
        zip(
            [key for key, _ in IMAGES],
            engine.encode_stream([image for _, image in IMAGES]),
            strict=True,
        )
    )
    for key, image in IMAGES:
        original, tokens, row = imaging.prepare(image, 128, 10**9), everything[key], rows[key]
        assert isinstance(tokens, Tokens)
        likeness = []
        for decoded in engine.decode_stream([tokens.prefix(k) for k in ASKED.budgets(256)]):
            assert isinstance(decoded, bytes)
            likeness.append(
                float(ssim(original[None], np.asarray(Image.open(io.BytesIO(decoded)))[None])[0])
            )
        reaching = [index for index, one in enumerate(likeness) if one >= 0.6]
        due = reaching[0] if reaching else int(np.argmax(likeness))
        assert row["k"] == ASKED.budgets(256)[due], key
        assert row["tokens"] == tokens.prefix(row["k"]).ids.tolist()
        assert row["ssim"] == pytest.approx(likeness[due], abs=1e-6)
    assert len({row["k"] for row in rows.values()}) >= 4


def test_the_summary_adds_up_over_a_second_run(engine: InProcessEngine, made: Path) -> None:
    rows = [
        row
        for shard in (0, 1)
        for row in pq.read_table(
            made / f"tokens/train-{shard}.parquet", columns=["k", "ssim"]
        ).to_pylist()
    ]
    again = tokenize(str(made / "source"), str(made / "tokens"), [engine], quality=ASKED)
    assert again.done_before == 2
    lengths = again.lengths
    assert json.loads((made / "tokens/.channeltok/summary.json").read_text())[
        "lengths"
    ] == json.loads(json.dumps(lengths))
    assert lengths["bytes"] == 2 * sum(row["k"] for row in rows)
    assert sum(lengths["images_by_k"].values()) == 24
    assert lengths["mean_ssim"] == pytest.approx(np.mean([row["ssim"] for row in rows]), abs=1e-6)
    assert lengths["reached"] == sum(row["ssim"] >= 0.6 for row in rows)
    ks, likeness = (
        [one["k"] for one in lengths["fixed"]],
        [one["mean_ssim"] for one in lengths["fixed"]],
    )
    assert np.interp(lengths["fixed_k_same_ssim"]["k"], ks, likeness) == pytest.approx(
        lengths["mean_ssim"]
    )
    assert lengths["fixed_k_same_ssim"]["saved"] == pytest.approx(
        1 - lengths["bytes"] / lengths["fixed_k_same_ssim"]["bytes"], abs=1e-3
    )
    assert 0 < lengths["fixed_k_same_reached"]["saved"] < 1


def test_batches_are_padded_and_cut(made: Path) -> None:
    dataset = TokenDataset(str(made / "tokens"))
    rows = dict(dataset.rows())
    assert dataset.k == max(tokens.k for tokens in rows.values())
    (batch,) = dataset.batches(24)
    for line, tokens in zip(batch.tokens, rows.values(), strict=True):
        assert line[: tokens.k].tolist() == tokens.ids.tolist()
        assert (line[tokens.k :] == -1).all()
    (short,) = TokenDataset(str(made / "tokens"), 8).batches(24)
    assert np.array_equal(short.tokens, batch.tokens[:, :8])


def test_a_price_for_tokens_saves_bytes_at_the_same_mean(
    engine: InProcessEngine, made: Path, tmp_path: Path
) -> None:
    summary = tokenize(
        str(made / "source"),
        str(tmp_path / "tokens"),
        [engine],
        quality=Quality(ssim_per_token=0.001),
    )
    assert summary.lengths["fixed_k_same_ssim"]["saved"] > 0
    assert summary.lengths["fixed_k_same_reached"] is None


def test_verify_takes_them(engine: InProcessEngine, made: Path) -> None:
    verified = verify(str(made / "source"), str(made / "tokens"), engine, sample=24)
    assert (verified.images, verified.different, verified.missing) == (24, [], [])


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # webdataset leaves its file open
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_webdataset_tells_what_they_reach(
    engine: InProcessEngine, made: Path, tmp_path: Path
) -> None:
    import webdataset

    tokenize(
        str(made / "source"),
        str(tmp_path / "tokens"),
        [engine],
        quality=Quality(psnr=20),
        container="webdataset",
    )
    for sample in webdataset.WebDataset(str(tmp_path / "tokens/train-0.tar"), shardshuffle=False):
        facts = json.loads(sample["json"])
        assert Tokens.from_bytes(sample["ctok"]).k == facts["k"]
        assert facts["psnr"] >= 20 or facts["k"] > 100


def test_another_quality_is_not_mixed_in(engine: InProcessEngine, made: Path) -> None:
    with pytest.raises(DestinationMismatch, match=r"ssim=0\.6"):
        tokenize(str(made / "source"), str(made / "tokens"), [engine], quality=Quality(ssim=0.7))
    with pytest.raises(DestinationMismatch, match=r"ssim=0\.6"):
        tokenize(str(made / "source"), str(made / "tokens"), [engine], k=64)
    with pytest.raises(ValueError, match="exclude each other"):
        tokenize(str(made / "source"), str(made / "tokens"), [engine], k=64, quality=ASKED)


def test_the_command(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(made / "source"), str(tmp_path / "tokens")]
    assert in_process.main(["tokenize", *paths, "--quality", "max_bytes=64"]) == 0
    output = capsys.readouterr().out
    assert "tokens on average by demo" in output
    assert "bytes of ids" in output
    assert "SSIM" in output
    with pytest.raises(SystemExit):
        in_process.main(["tokenize", "a", "b", "--quality", "fine"])
    assert "a quality is written" in capsys.readouterr().err
