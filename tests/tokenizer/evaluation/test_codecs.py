"""Codec baselines: within the bytes, and better with more bytes."""

import numpy as np
import pytest

from imaging import prepare
from tests.support.photographs import crops
from tokenizer.evaluation.codecs import CODECS, candidates
from tokenizer.evaluation.fidelity import psnr


@pytest.mark.parametrize("codec", CODECS)
def test_codec_candidates_fit_and_improve_with_bytes(codec: str) -> None:
    photo = prepare(crops(1)[0], 128)
    found = candidates(photo, codec, (512, 1024, 2048))
    best = []
    for size, saved in found.items():
        assert saved
        assert max(file.size for file in saved) <= size
        images = np.stack([file.image for file in saved])
        assert images.shape[1:] == photo.shape
        best.append(psnr(np.repeat(photo[None], len(images), axis=0), images).max())
    assert best == sorted(best)
    assert best[-1] > best[0] + 1


def test_codec_has_no_candidates_for_impossible_sizes() -> None:
    assert candidates(prepare(crops(1)[0], 128), "JPEG", (64, 2048))[64] == []
