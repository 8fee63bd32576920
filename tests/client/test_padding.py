import numpy as np
from channeltok.padding import pad_prefixes


def test_pad_prefixes_cuts_to_each_k_and_pads_with_minus_one() -> None:
    padded = pad_prefixes(np.array([7, 8, 65535], np.uint16), [1, 3, 0], 4)
    assert padded.dtype == np.int32
    assert padded.tolist() == [[7, -1, -1, -1], [7, 8, 65535, -1], [-1, -1, -1, -1]]
