"""What the codecs reach is what a user would get: within the bytes, and the better the more of them."""

import numpy as np
import pytest

from imaging import prepare
from tests.support.photographs import crops
from tokenizer.evaluation.codecs import CODECS, candidates
from tokenizer.evaluation.fidelity import psnr


@pytest.mark.parametrize("codec", CODECS)
def test_more_bytes_are_better_and_never_too_many(codec: str) -> None:
    photo = prepare(crops(1)[0], 128)
    found = candidates(photo, codec, (512, 1024, 2048))
    best = []
    for size, saved in found.items():
        assert saved
        assert max(one.size for one in saved) <= size
        images = np.stack([one.image for one in saved])
        assert images.shape[1:] == photo.shape
        best.append(psnr(np.repeat(photo[None], len(images), axis=0), images).max())
    assert best == sorted(best)
    assert best[-1] > best[0] + 1


def test_a_size_no_file_can_have_has_no_candidates() -> None:
    assert candidates(prepare(crops(1)[0], 128), "JPEG", (64, 2048))[64] == []
