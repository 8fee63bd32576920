#!/usr/bin/env bash
# On a bare GPU host: `deploy/gpu/host.sh acceptance FOLDER` or `deploy/gpu/host.sh train FOLDER`, then options
# of export.acceptance --bare or of tokenizer.train. What is to be kept lies in FOLDER.
# GPU_PACK: what deploy.gpu.pack wrote. PYTHON: the interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
what=$1
kept=$2
shift 2
pack=${GPU_PACK:-build/gpu-pack}
python=${PYTHON:-python3}
export PYTHONPATH=$pack/base/site:.
if compgen -G "$pack/onnxruntime-*/piece-*" > /dev/null && ! test -d "$pack/cuda"; then
    # The wheel came in pieces. Unpacked, it stands in the place of the host's own; without all pieces that stays.
    cat "$pack"/onnxruntime-*/piece-* > "$pack/wheel.zip"
    if "$python" -m zipfile -e "$pack/wheel.zip" "$pack/unpacked"; then
        mv "$pack/unpacked" "$pack/cuda"
    else
        echo "ONNX Runtime for CUDA is not whole: going on without it" >&2
    fi
    rm -rf "$pack/wheel.zip" "$pack/unpacked"
fi
test ! -d "$pack/cuda" || PYTHONPATH=$pack/cuda:$PYTHONPATH
case $what in
acceptance)
    exec "$python" -m export.acceptance --bare --checkpoint "$pack/base/demo.safetensors" \
        --data "$pack/base/photos" --repository "$pack/graphs" --output "$kept" "$@"
    ;;
train)
    export CHANNELTOK_TRAIN_RECIPE=${CHANNELTOK_TRAIN_RECIPE:-tokenizer/recipes/bare_gpu.toml}
    exec "$python" -m tokenizer.train --train "$pack/photos-*/*.tar" --validation "$pack/base/photos" \
        --deliver "$kept" "$@"
    ;;
*)
    echo "acceptance or train, not $what" >&2
    exit 2
    ;;
esac
