#!/usr/bin/env bash
# `make gpu-rehearsal`: all that a bare GPU host would run, on the CPU, with tiny sizes, in an environment
# that has what the host has and what deploy.gpu.pack carries, and nothing else.
# $1: the Python to rehearse with. REHEARSAL_TORCH: another torch than the pinned one, such as torch==2.11.0.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
here=build/gpu-rehearsal
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
pinned() { sed -n "s/^ *\"\($1==[^\"]*\)\".*/\1/p" pyproject.toml | head -1; }

if ! test "$here/venv-$version/ready" -nt pyproject.toml; then
    "$python" -m venv --clear "$here/venv-$version"
    # numpy 2, as the host has it: what the project pins for Triton is numpy 1.
    "$here/venv-$version/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile \
        "${REHEARSAL_TORCH:-$(pinned torch)}" "numpy>=2" "$(pinned onnx)" "$(pinned onnxruntime)" "$(pinned safetensors)" \
        pillow scikit-image matplotlib tqdm
    touch "$here/venv-$version/ready"
fi

rm -rf "$here/pack" "$here/report" "$here/run" "$here/kept"
tar --create --file "$here/photos.tar" --directory docs/images cat.jpg coffee.jpg rocket.jpg
"$python" -m deploy.gpu.pack --python "$version" --output "$here/pack" \
    --train "$here/photos.tar" --validation "$here/photos.tar" > "$here/pack.txt"

export GPU_PACK=$here/pack PYTHON=$here/venv-$version/bin/python
deploy/gpu/host.sh acceptance "$here/report" --rehearse --minutes 20
deploy/gpu/host.sh train "$here/kept" --device cpu --run "$here/run" --size demo --batch 2 --minutes 0.4

export PYTHONPATH=$GPU_PACK/base/site:.
"$PYTHON" -m tokenizer.parts join "$here"/kept/weights-*-of-*.safetensors --output "$here/run/joined.safetensors"
"$PYTHON" - "$here/run/weights.safetensors" "$here/run/joined.safetensors" <<'END'
import platform
import sys
from pathlib import Path

import numpy
import torch

from tokenizer import checkpoint

whole, joined = (checkpoint.fingerprint(checkpoint.load(Path(path))) for path in sys.argv[1:])
assert whole == joined, f"{whole} was split, and {joined} came back"
versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {numpy.__version__}"
print(f"GPU kit rehearsed on the CPU with {versions}: {whole} trained, split and joined")
END
