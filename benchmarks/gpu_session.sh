#!/bin/sh
# What waits for a GPU, in two calls of less than ten minutes each, from the top of a source tree:
#
#     sh benchmarks/gpu_session.sh steps OUT [PUBLISHED]    kernels, graphs, and a step's ways and profile
#     sh benchmarks/gpu_session.sh run OUT DATA             trains bhvit_nano on DATA; again, it goes on
#
# PUBLISHED is a checkout of the published code. Pages, logs and checkpoints go to OUT.
set -u
what=$1 out=$2
mkdir -p "$out"
PYTHONPATH=src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export PYTHONPATH PYTHONUNBUFFERED
python=${PYTHON:-python3}
case $what in
steps)
    timeout 90 "$python" -m benchmarks.training.gpu_check 2>&1 | tee "$out/check.log"
    timeout 300 "$python" -m benchmarks.training.gpu --seconds 220 ${3:+--published "$3"} --page "$out/gpu.md" 2>&1 |
        tee "$out/gpu.log"
    ;;
run)
    timeout 300 "$python" -m benchmarks.accuracy.gpu_run --data "$3" --recipe small --seconds 240 --out "$out/kept" \
        --set epochs=200 --set batch_size=512 --set lr=4e-3 2>&1 | tee "$out/run.log"
    ;;
*)
    echo "usage: sh benchmarks/gpu_session.sh steps OUT [PUBLISHED] | run OUT DATA" >&2
    exit 2
    ;;
esac
