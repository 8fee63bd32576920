"""Files that are wrong in a deep place: pixels or a declared error, soon, silently, in little
memory."""

import resource
import time

import numpy as np
import pytest

import imaging
from imaging import BadImage
from tests.support.images.mutations import mutated
from tests.support.images.seeds import SEEDS

SIZE, MAX_PIXELS = 16, 1_000_000
SECONDS, MEMORY_BYTES = 1.0, 200 * 2**20
# Each number is a file; one that fails can be made again alone.
SHORT, LONG = range(3_000), range(3_000, 100_000)


def check(numbers: range, capfd: pytest.CaptureFixture[str]) -> None:
    """Warnings are errors in all tests; a decoder's own remarks would go to the standard error."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = refused = 0
    for number in numbers:
        data = mutated(SEEDS, number)
        started = time.process_time()
        try:
            file = imaging.open_image(data, MAX_PIXELS)
            pixels = file.pixels(SIZE, imaging.FITS[number % 2])
        except BadImage as error:
            refused += 1
            assert 10 < len(str(error)) < 300, number
        except Exception as error:
            raise AssertionError(f"file {number} raised {error!r}") from error
        else:
            taken += 1
            assert (pixels.shape, pixels.dtype) == ((SIZE, SIZE, 3), np.uint8), number
        assert time.process_time() - started < SECONDS, number
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert memory < MEMORY_BYTES
    assert capfd.readouterr() == ("", "")
    # Neither is every file refused at the door, nor do the changes lie where nobody looks.
    assert min(taken, refused) > len(numbers) / 10


def test_prepare_takes_every_seed_that_is_not_refused_by_intent() -> None:
    refused = []
    for number, seed in enumerate(SEEDS):
        try:
            imaging.prepare(seed, SIZE)
        except BadImage as error:
            refused.append((number, str(error)))
    assert len(refused) == 3, refused
    assert sum("2 frames" in error for _, error in refused) == 2
    assert sum("more scans" in error for _, error in refused) == 1


def test_prepare_refuses_or_decodes_mutated_files(capfd: pytest.CaptureFixture[str]) -> None:
    check(SHORT, capfd)


@pytest.mark.slow
def test_prepare_refuses_or_decodes_a_hundred_thousand_mutated_files(
    capfd: pytest.CaptureFixture[str],
) -> None:
    check(LONG, capfd)
