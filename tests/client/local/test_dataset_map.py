"""encode_dataset and decode_dataset with Hugging Face's datasets."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
from channeltok import InvalidInput, Tokenizer
from datasets.fingerprint import Hasher
from PIL import Image

from tests.support.photographs import crops

IMAGES = crops(10)


@pytest.fixture
def photos() -> datasets.Dataset:
    files = [{"bytes": image, "path": None} for image in IMAGES]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"image": files, "label": range(10)}, features)


@pytest.mark.parametrize("processes", [None, 2])
def test_map_tokenizes_a_dataset(
    tokenizer: Tokenizer, photos: datasets.Dataset, processes: int | None
) -> None:
    undecoded = photos.cast_column("image", datasets.Image(decode=False))
    mapped = undecoded.map(
        tokenizer.encode_dataset(k=16),
        batched=True,
        batch_size=4,
        num_proc=processes,
        remove_columns="image",
    )
    expected = tokenizer.encode(list(IMAGES), k=16)
    assert mapped["label"][:] == list(range(10))
    assert mapped["tokens"][:] == [tokens.ids.tolist() for tokens in expected]
    assert mapped.features["tokens"].feature.dtype == "uint16"


def test_map_takes_decoded_images_as_their_pixels(
    tokenizer: Tokenizer, photos: datasets.Dataset
) -> None:
    mapped = photos.map(tokenizer.encode_dataset(8, tokens="ids"), batched=True)
    expected = [tokenizer.encode(image, 8).ids.tolist() for image in photos["image"]]
    assert mapped["ids"][:] == expected


def test_map_decodes_a_dataset(tokenizer: Tokenizer, photos: datasets.Dataset) -> None:
    encoded = photos.map(tokenizer.encode_dataset(), batched=True, remove_columns="image")
    decoded = encoded.map(tokenizer.decode_dataset(k=8), batched=True)
    decoded = decoded.cast_column("image", datasets.Image())
    tokens = np.asarray(encoded[3]["tokens"])
    expected = tokenizer.decode(tokens, 8).as_numpy()
    assert (np.asarray(decoded[3]["image"]) == expected).all()
    assert decoded[3]["image"].size == (128, 128)


def test_map_refuses_a_dataset_with_a_bad_image(tokenizer: Tokenizer) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "GIF")
    bad = datasets.Dataset.from_dict({"image": [IMAGES[0], buffer.getvalue()]})
    with pytest.raises(InvalidInput, match="number 1 of 2: this is GIF"):
        bad.map(tokenizer.encode_dataset(), batched=True)


def test_hash_depends_on_the_tokens_alone(tokenizer: Tokenizer, tmp_path: Path) -> None:
    first = Hasher.hash(tokenizer.encode_dataset(k=16))
    with Tokenizer.from_pretrained("demo") as again:
        again.encode(IMAGES[0])  # loaded engines are no part of it
        assert Hasher.hash(again.encode_dataset(k=16)) == first
        assert Hasher.hash(again.encode_dataset(k=17)) != first
        assert Hasher.hash(again.encode_dataset(k=16, fit="pad")) != first
        assert Hasher.hash(again.encode_dataset(k=16, image="photo")) != first
    with Tokenizer.from_pretrained("demo", engine="openvino") as other:
        assert Hasher.hash(other.encode_dataset(k=16)) != first


def test_map_finds_what_it_has_computed_before(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the files in a cache, as those of a downloaded dataset."""
    rows = datasets.Dataset.from_dict({"image": list(IMAGES)})
    rows.save_to_disk(tmp_path)
    first = datasets.load_from_disk(tmp_path).map(tokenizer.encode_dataset(k=4), batched=True)
    with Tokenizer.from_pretrained("demo") as again:
        monkeypatch.setattr(Tokenizer, "encode", lambda *_, **__: pytest.fail("computed it again"))
        second = datasets.load_from_disk(tmp_path).map(again.encode_dataset(k=4), batched=True)
    assert first["tokens"][:] == second["tokens"][:]
