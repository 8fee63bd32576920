#!/usr/bin/env bash
# `make gpu-rehearsal`: run everything that a bare GPU host runs, on the CPU, with tiny sizes, in an
# environment that has only the host's packages and those of deploy.gpu.pack.
# $1: the Python interpreter. REHEARSAL_TORCH: replaces the pinned torch, such as torch==2.11.0.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
here=build/gpu-rehearsal
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
pinned() { sed -n "s/^ *\"\($1==[^\"]*\)\".*/\1/p" pyproject.toml | head -1; }

if ! test "$here/venv-$version/ready" -nt pyproject.toml; then
    "$python" -m venv --clear "$here/venv-$version"
    # numpy 2, as on the host: the project pins numpy 1 for Triton.
    "$here/venv-$version/bin/python" -m pip install \
        --quiet --disable-pip-version-check --no-compile \
        "${REHEARSAL_TORCH:-$(pinned torch)}" "numpy>=2" \
        "$(pinned onnx)" "$(pinned onnxruntime)" "$(pinned safetensors)" \
        pillow scikit-image matplotlib tqdm
    touch "$here/venv-$version/ready"
fi

rm -rf "$here/pack" "$here/report" "$here/run" "$here/results"
tar --create --file "$here/photos.tar" --directory docs/images cat.jpg coffee.jpg rocket.jpg
"$python" -m deploy.gpu.pack --python "$version" --output "$here/pack" \
    --train "$here/photos.tar" --validation "$here/photos.tar" > "$here/pack.txt"

export GPU_PACK=$here/pack PYTHON=$here/venv-$version/bin/python
deploy/gpu/host.sh acceptance "$here/report" --rehearse --minutes 20
deploy/gpu/host.sh train "$here/results" \
    --device cpu --run "$here/run" --size demo --batch 2 --minutes 0.4

export PYTHONPATH=$GPU_PACK/base/site:.
"$PYTHON" -m tokenizer.parts join "$here"/results/weights-*-of-*.safetensors \
    --output "$here/run/joined.safetensors"
"$PYTHON" -m deploy.gpu.compare_checkpoints \
    "$here/run/weights.safetensors" "$here/run/joined.safetensors"
