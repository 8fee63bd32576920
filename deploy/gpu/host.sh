#!/usr/bin/env bash
# Run the acceptance test or a training on a bare GPU host:
#
#     deploy/gpu/host.sh acceptance FOLDER [OPTIONS of export.acceptance --bare]
#     deploy/gpu/host.sh train FOLDER [OPTIONS of tokenizer.train]
#
# FOLDER gets the results. GPU_PACK: folder that deploy.gpu.pack wrote. PYTHON: the interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
command=$1
results=$2
shift 2
pack=${GPU_PACK:-build/gpu-pack}
python=${PYTHON:-python3}
export PYTHONPATH=$pack/base/site:.
if compgen -G "$pack/onnxruntime-*/piece-*" > /dev/null && ! test -d "$pack/cuda"; then
    # Unpack the wheel from its pieces; it takes precedence over the host's own. If a piece is
    # missing, the host's own is used.
    cat "$pack"/onnxruntime-*/piece-* > "$pack/wheel.zip"
    if "$python" -m zipfile -e "$pack/wheel.zip" "$pack/unpacked"; then
        mv "$pack/unpacked" "$pack/cuda"
    else
        echo "ONNX Runtime for CUDA is incomplete: continuing without it" >&2
    fi
    rm -rf "$pack/wheel.zip" "$pack/unpacked"
fi
test ! -d "$pack/cuda" || PYTHONPATH=$pack/cuda:$PYTHONPATH
case $command in
acceptance)
    exec "$python" -m export.acceptance --bare --checkpoint "$pack/base/demo.safetensors" \
        --data "$pack/base/photos" --repository "$pack/graphs" --output "$results" "$@"
    ;;
train)
    export CHANNELTOK_TRAIN_RECIPE=${CHANNELTOK_TRAIN_RECIPE:-tokenizer/recipes/bare_gpu.toml}
    exec "$python" -m tokenizer.train --train "$pack/photos-*/*.tar" \
        --validation "$pack/base/photos" --deliver "$results" "$@"
    ;;
*)
    echo "acceptance or train, not $command" >&2
    exit 2
    ;;
esac
