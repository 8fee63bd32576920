"""Edit images by their tokens: continue one, replace a range of its tokens, mix two.

    python docs/examples/edit_images.py PHOTO OTHER --seed 1 -o edited.png

Needs `channeltok` and a service with a generator (`make serve MODEL=all`). Writes one image: PHOTO
and OTHER as decoded, then PHOTO continued, PHOTO with a range replaced, and half of each.
"""

import argparse
import dataclasses
from io import BytesIO
from pathlib import Path

import numpy as np
from channeltok import ChannelTokError, Client, Generated, GenerateParams, Tokens
from PIL import Image


def continued(client: Client, image: Tokens, keep: int, params: GenerateParams) -> Tokens:
    """The first `keep` tokens of `image`, and as many generated ones as it has more."""
    return generated(client, params, image.prefix(keep), image.k)


def replaced(client: Client, image: Tokens, first: int, end: int, params: GenerateParams) -> Tokens:
    """`image` with its tokens from index `first`, at least 1, up to but without `end` generated.

    They depend on those before them alone: a generator goes from coarse to fine.
    """
    made = generated(client, params, image.prefix(first), end)
    return Tokens(np.concatenate([made.ids, image.ids[end:]]), image.fingerprint)


def mixed(one: Tokens, other: Tokens, first: int) -> Tokens:
    """The first tokens of one image, and those of another from index `first` on.

    Raises ValueError unless one tokenizer made both.
    """
    if one.fingerprint != other.fingerprint:
        raise ValueError(f"tokens of {one.fingerprint} and of {other.fingerprint} do not mix")
    return Tokens(np.concatenate([one.ids[:first], other.ids[first:]]), one.fingerprint)


def generated(client: Client, params: GenerateParams, prefix: Tokens, k: int) -> Tokens:
    """`prefix`, continued to k tokens."""
    *_, last = client.generate(dataclasses.replace(params, prefix=prefix, k=k))
    assert isinstance(last, Generated)
    return last.tokens


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photo", metavar="PHOTO", type=Path)
    parser.add_argument("other", metavar="OTHER", type=Path)
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--class", dest="class_name", help="what to generate (any image)")
    parser.add_argument("--keep", type=int, default=16, help="first tokens to keep (%(default)s)")
    parser.add_argument("--end", type=int, default=128, help="end of the range (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("edited.png"))
    options = parser.parse_args()
    try:
        edit(options)
    except (ChannelTokError, OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


def edit(options: argparse.Namespace) -> None:
    params = GenerateParams(class_name=options.class_name, seed=options.seed)
    with Client(options.address, timeout=60) as client:
        photo, other = client.encode([options.photo, options.other])
        edited = [
            photo,
            other,
            continued(client, photo, options.keep, params),
            replaced(client, photo, options.keep, options.end, params),
            mixed(photo, other, photo.k // 2),
        ]
        images = [Image.open(BytesIO(client.decode(tokens))) for tokens in edited]
    Image.fromarray(np.hstack([np.asarray(image) for image in images])).save(options.output)


if __name__ == "__main__":
    main()
