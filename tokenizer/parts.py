"""Command `python -m tokenizer.parts`: split a checkpoint into small files, and join them again.

For hosts that return small files only. Each part is a safetensors file with some of the tensors.
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
HEADER = 256  # bytes of a tensor's entry in a file's header, at most
# Keys of a part's metadata, in addition to those of the whole checkpoint
PART, PARTS, DIGEST = "part", "parts", "whole_digest"


def split(whole: Path, folder: Path, max_mib: float = PART_MIB) -> list[Path]:
    """Write the tensors of a safetensors file to files NAME-1-of-N.safetensors in a folder.

    max_mib: size limit of a part. Files of the same name are replaced, but only after all parts are
    written. Raises ValueError when a single tensor exceeds the limit.
    """
    tensors, metadata = checkpoint.read(whole)
    shares = _shares(tensors, int(max_mib * MIB) - sum(map(len, metadata.values())) - 4096)
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
    """Write the checkpoint that `parts`, in any order, were split from: same tensors and metadata.

    Raises ValueError when a part is missing, duplicated, or of another checkpoint.
    """
    tensors: dict[str, Tensor] = {}
    facts: dict[str, str] = {}
    numbers = []
    for path in parts:
        share, metadata = checkpoint.read(path)
        if PART not in metadata:
            raise ValueError(f"{path} is no part of a checkpoint: use the files that `split` wrote")
        numbers.append(int(metadata.pop(PART)))
        if facts and metadata != facts:
            raise ValueError(f"{path} is a part of another checkpoint than {parts[0]}")
        facts = metadata
        tensors |= share
    count = int(facts.pop(PARTS, "0"))
    if sorted(numbers) != list(range(1, count + 1)):
        raise ValueError(
            f"a checkpoint has {count} parts, each needed once; got parts {sorted(numbers)}"
        )
    if _digest(tensors) != facts.pop(DIGEST):
        raise ValueError("the parts do not make the checkpoint that they were split from")
    whole.parent.mkdir(parents=True, exist_ok=True)
    temporary = whole.with_suffix(".tmp")
    save_file(tensors, temporary, facts)
    temporary.chmod(0o644)
    os.replace(temporary, whole)


def _shares(tensors: dict[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    """Tensors in order of name, as many in each share as fit into `limit` bytes."""
    shares: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in sorted(tensors.items()):
        size = tensor.nbytes + HEADER
        if size > limit:
            raise ValueError(
                f"{name} has {size / MIB:.1f} MiB; a part has at most {limit / MIB:.1f}"
            )
        if used + size > limit:
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
    """Split a checkpoint, or join its parts. Exits with a message on failure."""
    parser = argparse.ArgumentParser(prog="python -m tokenizer.parts", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    splitter = commands.add_parser("split", help="write NAME-1-of-N.safetensors, ... to a folder")
    splitter.add_argument("whole", type=Path)
    splitter.add_argument("-o", "--output", type=Path, required=True)
    splitter.add_argument("--mib", type=float, default=PART_MIB, help="size limit of a part (15)")
    joiner = commands.add_parser("join", help="write the checkpoint that was split")
    joiner.add_argument("parts", type=Path, nargs="+")
    joiner.add_argument("-o", "--output", type=Path, required=True)
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
