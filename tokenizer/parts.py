"""`python -m tokenizer.parts`: a checkpoint as several small files, and one file again.

For hosts that give back small files only. Each part is a safetensors file with a share of the tensors.
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from tokenizer import checkpoint

MIB = 2**20
PART_MIB = 15.0
HEADER = 256  # bytes that the name and the place of a tensor take in a file, at most
PART, PARTS, DIGEST = (
    "part",
    "parts",
    "whole_digest",
)  # what a part's metadata has beside the whole's


def split(whole: Path, folder: Path, most_mib: float = PART_MIB) -> list[Path]:
    """Write the tensors of a safetensors file to files NAME-1-of-N.safetensors in a folder.

    most_mib: the largest size of a part. Parts of the same name are replaced, all of them after the
    last one is written. Raises ValueError when a single tensor is larger than a part may be.
    """
    tensors, metadata = checkpoint.read(whole)
    shares = _shares(tensors, int(most_mib * MIB) - sum(map(len, metadata.values())) - 4096)
    facts = {**metadata, PARTS: str(len(shares)), DIGEST: _digest(tensors)}
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, share in enumerate(shares, start=1):
        path = folder / f"{whole.stem}-{number}-of-{len(shares)}.safetensors"
        temporary = path.with_suffix(".tmp")
        save_file(share, temporary, {**facts, PART: str(number)})
        temporary.chmod(0o644)
        written.append((temporary, path))
    for temporary, path in written:
        os.replace(temporary, path)
    return [path for _, path in written]


def join(parts: list[Path], whole: Path) -> None:
    """Write the file that `parts`, in any order, were split from: the same tensors and metadata.

    Raises ValueError when a part is missing, is there twice, or is of another file.
    """
    tensors: dict[str, Tensor] = {}
    facts: dict[str, str] = {}
    numbers = []
    for path in parts:
        share, metadata = checkpoint.read(path)
        if PART not in metadata:
            raise ValueError(f"{path} is no part of a checkpoint")
        numbers.append(int(metadata.pop(PART)))
        if facts and metadata != facts:
            raise ValueError(f"{path} is a part of another checkpoint than {parts[0]}")
        facts = metadata
        tensors |= share
    count = int(facts.pop(PARTS, "0"))
    if sorted(numbers) != list(range(1, count + 1)):
        raise ValueError(f"of the {count} parts of a checkpoint, these are here: {sorted(numbers)}")
    if _digest(tensors) != facts.pop(DIGEST):
        raise ValueError("the parts do not make the checkpoint that they were split from")
    whole.parent.mkdir(parents=True, exist_ok=True)
    temporary = whole.with_suffix(".tmp")
    save_file(tensors, temporary, facts)
    temporary.chmod(0o644)
    os.replace(temporary, whole)


def _shares(tensors: dict[str, Tensor], most: int) -> list[dict[str, Tensor]]:
    """In order of name, as many in each share as fit into `most` bytes."""
    shares: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in sorted(tensors.items()):
        size = tensor.nbytes + HEADER
        if size > most:
            raise ValueError(f"{name} has {size / MIB:.1f} MiB: a part may have {most / MIB:.1f}")
        if used + size > most:
            shares.append({})
            used = 0
        shares[-1][name] = tensor
        used += size
    return shares


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def main(arguments: list[str] | None = None) -> None:
    """Split a checkpoint, or join its parts. Exits with a sentence where that is not possible."""
    parser = argparse.ArgumentParser(prog="python -m tokenizer.parts", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("split", help="write NAME-1-of-N.safetensors and so on to a folder")
    one.add_argument("whole", type=Path)
    one.add_argument("-o", "--output", type=Path, required=True)
    one.add_argument("--mib", type=float, default=PART_MIB, help="the largest size of a part; 15")
    other = commands.add_parser("join", help="write the file that was split")
    other.add_argument("parts", type=Path, nargs="+")
    other.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        if options.command == "split":
            print(*split(options.whole, options.output, options.mib), sep="\n")
        else:
            join(options.parts, options.output)
            print(options.output)
    except (ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
