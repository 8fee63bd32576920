"""`python -m deploy.gpu.pack`: pack what a bare GPU host lacks into folders of limited size.

base/           site: the packages that the host lacks, for PYTHONPATH;
                photos: a shard of validation photos; the trained tokenizer
graphs/         the exported graphs of that tokenizer
photos-N/       the training shards
onnxruntime-N/  pieces of the wheel of ONNX Runtime for CUDA, with --onnxruntime-gpu

One folder travels with each command, beside the working tree: docs/gpu.md.
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
LIMIT_MIB = 62.0  # the host accepts 64
LARGE = MIB  # tracked files of at least so many bytes should not travel
VALIDATION_PHOTOS = 200
TOKENIZER = ROOT / "tokenizer/weights/demo.safetensors"
# Packages that the host lacks, in the versions that pyproject.toml pins. ALONE lists everything
# that those packages need except numpy, which the host has.
WITH_DEPENDENCIES = ("pydantic", "pydantic-settings")
ALONE = ("simplejpeg", "webdataset", "braceexpand", "pyyaml")


def pins() -> dict[str, str]:
    """Packages that pyproject.toml pins: name -> requirement, such as "name==version"."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    pinned = [line for extra in extras.values() for line in extra if "==" in line]
    return {line.partition("==")[0].partition("[")[0]: line for line in pinned}


def install_site(site: Path, python: str) -> None:
    """Unpack the packages that the host lacks into `site`, for Python `python` on Linux x86-64.

    python: such as "3.12".
    """
    pinned = pins()
    for names, options in ((WITH_DEPENDENCIES, []), (ALONE, ["--no-deps"])):
        requirements = [pinned.get(name, name) for name in names]
        _pip("install", "--target", site, *_platform(python), *options, *requirements)
    shutil.rmtree(site / "bin", ignore_errors=True)


def pack_onnxruntime(folder: Path, python: str, room: int) -> None:
    """Split the wheel of ONNX Runtime for CUDA into folders of at most `room` bytes."""
    wheels = folder / "wheel"
    _pip("download", "--dest", wheels, "--no-deps", *_platform(python), pins()["onnxruntime-gpu"])
    (wheel,) = wheels.glob("*.whl")
    content = wheel.read_bytes()
    for number, start in enumerate(range(0, len(content), room), start=1):
        part = folder / f"onnxruntime-{number}"
        part.mkdir()
        (part / f"piece-{number:02d}").write_bytes(content[start : start + room])
    shutil.rmtree(wheels)


def _platform(python: str) -> list[str]:
    platforms = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
    options = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    for platform in platforms:
        options += ["--platform", platform]
    return options


def _pip(command: str, *arguments: str | Path) -> None:
    quiet = ("--quiet", "--disable-pip-version-check")
    subprocess.run([sys.executable, "-m", "pip", command, *quiet, *map(str, arguments)], check=True)


def copy_first_members(shard: Path, count: int, target: Path) -> None:
    """Copy the first `count` files of a tar file to a new one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(shard) as source, tarfile.open(target, "w") as copy:
        for _ in range(count):
            member = source.next()
            if member is None:
                break
            copy.addfile(member, source.extractfile(member))


def pack_shards(shards: list[Path], folder: Path, room: int) -> None:
    """Copy shards, in order, to photos-1, photos-2 and so on, of at most `room` bytes each.

    Raises ValueError when a shard does not fit.
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
    """A sentence per part of a pack that exceeds `room` bytes."""
    sizes = {part.name: size_of(part) for part in sorted(folder.iterdir())}
    return [
        f"{name} has {_mib(size)}: a part has room for {_mib(room)}"
        for name, size in sizes.items()
        if size > room
    ]


def tracked() -> dict[str, int]:
    """Size in bytes of every tracked file that exists in the working tree, by path."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    return {name: (ROOT / name).stat().st_size for name in names if (ROOT / name).is_file()}


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.gpu.pack", description=main.__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/gpu-pack"))
    parser.add_argument("--python", default="3.12", help="of the host; 3.12")
    parser.add_argument("--train", required=True, help="training shards, a glob")
    parser.add_argument("--validation", required=True, help="validation shards, a glob")
    parser.add_argument(
        "--limit-mib",
        type=float,
        default=LIMIT_MIB,
        help="limit for one part and the working tree together; 62",
    )
    parser.add_argument(
        "--onnxruntime-gpu", action="store_true", help="also pack ONNX Runtime for CUDA, 256 MB"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Write the parts, print sizes and next steps. Exits with 1 if a part is too large."""
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
        for shard in _shards(options.validation)[:1]:
            copy_first_members(shard, VALIDATION_PHOTOS, base / "photos" / shard.name)
        shutil.copyfile(TOKENIZER, base / TOKENIZER.name)
        for model in sorted((ROOT / "model_repository").glob(f"{TOKENIZER.stem}_*")):
            graph = Path("1/model.onnx")
            (folder / "graphs" / model.name / "1").mkdir(parents=True)
            shutil.copyfile(model / graph, folder / "graphs" / model.name / graph)
        pack_shards(_shards(options.train), folder, room)
        if options.onnxruntime_gpu:
            pack_onnxruntime(folder, options.python, room)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    print(f"The working tree has {_mib(sum(files.values()))}.")
    print(f"Without the files of {_mib(LARGE)} and more it has {_mib(tree)}.")
    for part in sorted(folder.iterdir()):
        print(f"  {_mib(size_of(part)):>10}  {part}")
    if excess := too_large(folder, room):
        sys.exit("\n".join(excess))
    print("\nBefore the first command on the host, so that the tree is small enough:\n")
    print("    rm " + " ".join(large))
    print("\nAfter the last one:\n")
    print("    git checkout -- " + " ".join(large))
    print("\ndocs/gpu.md has the commands.")


def _shards(pattern: str) -> list[Path]:
    """The files of a glob, sorted. Raises FileNotFoundError when there are none."""
    shards = sorted(map(Path, glob.glob(pattern)))
    if not shards:
        raise FileNotFoundError(f"no shards at {pattern!r}")
    return shards


if __name__ == "__main__":
    main()
