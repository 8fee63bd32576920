"""`python -m deploy.gpu.pack`: what a bare GPU host lacks, in folders small enough to be copied.

base/      site: the packages that the host lacks, ready for PYTHONPATH, nothing to install there;
           photos: a shard of validation photos; the trained tokenizer
graphs/    the exported graphs of that tokenizer
photos-N/  the training shards
onnxruntime-N/  pieces of the wheel of ONNX Runtime for CUDA, with --onnxruntime-gpu

One folder travels with each command, beside the working tree. docs/gpu.md says how it is used.
"""

import argparse
import glob
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
MIB = 2**20
LIMIT_MIB = 62.0  # the host takes 64
LARGE = MIB  # bytes from which a tracked file is better left at home
VALIDATION_PHOTOS = 200
TOKENIZER = ROOT / "tokenizer/weights/demo.safetensors"
# Packages that the host lacks, of the versions that pyproject.toml pins. What the first need comes
# with them; of what the others need the host has numpy, and the rest is named here.
WITH_DEPENDENCIES = ("pydantic", "pydantic-settings")
ALONE = ("simplejpeg", "webdataset", "braceexpand", "pyyaml")


def pins() -> dict[str, str]:
    """Every package that pyproject.toml pins: name to requirement, such as name==version."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    requirements = [one for extra in extras.values() for one in extra if "==" in one]
    return {one.partition("==")[0].partition("[")[0]: one for one in requirements}


def install_site(site: Path, python: str) -> None:
    """Unpack what the host lacks into a folder, for Python `python` ("3.12") on Linux, x86-64."""
    pinned = pins()
    for names, further in ((WITH_DEPENDENCIES, []), (ALONE, ["--no-deps"])):
        requirements = [pinned.get(name, name) for name in names]
        _pip("install", "--target", site, *_for(python), *further, *requirements)
    shutil.rmtree(site / "bin", ignore_errors=True)


def pack_onnxruntime(folder: Path, python: str, room: int) -> None:
    """The wheel of ONNX Runtime for CUDA in pieces of at most `room` bytes, a folder each."""
    wheels = folder / "wheel"
    _pip("download", "--dest", wheels, "--no-deps", *_for(python), pins()["onnxruntime-gpu"])
    (wheel,) = wheels.glob("*.whl")
    content = wheel.read_bytes()
    for number, start in enumerate(range(0, len(content), room), start=1):
        part = folder / f"onnxruntime-{number}"
        part.mkdir()
        (part / f"piece-{number:02d}").write_bytes(content[start : start + room])
    shutil.rmtree(wheels)


def _for(python: str) -> list[str]:
    platforms = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
    options = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    for platform in platforms:
        options += ["--platform", platform]
    return options


def _pip(command: str, *arguments: str | Path) -> None:
    quiet = ("--quiet", "--disable-pip-version-check")
    subprocess.run([sys.executable, "-m", "pip", command, *quiet, *map(str, arguments)], check=True)


def first_members(shard: Path, count: int, written: Path) -> None:
    """Copy the first `count` files of a tar file to another one."""
    written.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(shard) as source, tarfile.open(written, "w") as target:
        for _ in range(count):
            member = source.next()
            if member is None:
                break
            target.addfile(member, source.extractfile(member))


def pack_shards(shards: list[Path], folder: Path, room: int) -> None:
    """Copy shards, in order, to photos-1, photos-2 and so on, each of at most `room` bytes.

    Raises ValueError when one shard does not fit.
    """
    number, used = 0, room
    for shard in shards:
        size = shard.stat().st_size
        if size > room:
            raise ValueError(f"{shard} has {_mib(size)}: a part has room for {_mib(room)}")
        if used + size > room:
            number, used = number + 1, 0
        part = folder / f"photos-{number}"
        part.mkdir(exist_ok=True)
        shutil.copyfile(shard, part / shard.name)
        used += size


def size_of(folder: Path) -> int:
    """Bytes of all files under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def too_large(folder: Path, room: int) -> list[str]:
    """A sentence for each part of a pack that has more than `room` bytes."""
    sizes = {part.name: size_of(part) for part in sorted(folder.iterdir())}
    return [
        f"{name} has {_mib(size)}: a part has room for {_mib(room)}"
        for name, size in sizes.items()
        if size > room
    ]


def tracked() -> dict[str, int]:
    """Bytes of every tracked file of the working tree that is there, by its path."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    return {name: (ROOT / name).stat().st_size for name in names if (ROOT / name).is_file()}


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.gpu.pack", description=main.__doc__)
    data = ROOT.parent / "shared/data"
    parser.add_argument("-o", "--output", type=Path, default=Path("build/gpu-pack"))
    parser.add_argument("--python", default="3.12", help="of the host; 3.12")
    parser.add_argument("--train", default=f"{data}/train/*.tar", help="training shards, a glob")
    parser.add_argument("--validation", default=f"{data}/val/*.tar", help="as --train")
    parser.add_argument(
        "--limit-mib",
        type=float,
        default=LIMIT_MIB,
        help="for one part and the working tree together; 62",
    )
    parser.add_argument(
        "--onnxruntime-gpu", action="store_true", help="pack ONNX Runtime for CUDA too, 256 MB"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Write the parts, and print their sizes and what to do. Exits with 1 when one is too large."""
    options = _options(arguments)
    files = tracked()
    large = {name: size for name, size in files.items() if size >= LARGE}
    tree = sum(files.values()) - sum(large.values())
    room = int(options.limit_mib * MIB) - tree
    folder: Path = options.output
    shutil.rmtree(folder, ignore_errors=True)
    base = folder / "base"
    base.mkdir(parents=True)
    try:
        install_site(base / "site", options.python)
        for shard in _found(options.validation)[:1]:
            first_members(shard, VALIDATION_PHOTOS, base / "photos" / shard.name)
        shutil.copyfile(TOKENIZER, base / TOKENIZER.name)
        for model in sorted((ROOT / "model_repository").glob(f"{TOKENIZER.stem}_*")):
            graph = Path("1/model.onnx")
            (folder / "graphs" / model.name / "1").mkdir(parents=True)
            shutil.copyfile(model / graph, folder / "graphs" / model.name / graph)
        pack_shards(_found(options.train), folder, room)
        if options.onnxruntime_gpu:
            pack_onnxruntime(folder, options.python, room)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    print(f"The working tree has {_mib(sum(files.values()))}.")
    print(f"Without the files of {_mib(LARGE)} and more it has {_mib(tree)}.")
    for part in sorted(folder.iterdir()):
        print(f"  {_mib(size_of(part)):>10}  {part}")
    if broken := too_large(folder, room):
        sys.exit("\n".join(broken))
    print("\nBefore the first command on the host, so that the tree is small enough:\n")
    print("    rm " + " ".join(large))
    print("\nAfter the last one:\n")
    print("    git checkout -- " + " ".join(large))
    print("\ndocs/gpu.md has the commands.")


def _found(pattern: str) -> list[Path]:
    """The files of a glob, sorted. Raises FileNotFoundError when there are none."""
    found = sorted(map(Path, glob.glob(pattern)))
    if not found:
        raise FileNotFoundError(f"no shards at {pattern!r}")
    return found


if __name__ == "__main__":
    main()
