#!/bin/sh
# Everything that waits for a GPU, in two calls, one after the other, from the top of a source tree:
#
#     sh benchmarks/gpu_session.sh steps OUT [PUBLISHED]    kernels, graphs and a resumed run; ways of a step, a profile
#     sh benchmarks/gpu_session.sh run OUT DATA [KEPT]      trains bhvit_nano on DATA for four minutes
#
# The first takes at most 450 seconds, the second 300. They need python3 (or $PYTHON) with PyTorch for CUDA, torchvision,
# timm, safetensors, scikit-learn and pyarrow; bhvit need not be installed, and there may be no network. PUBLISHED is a
# checkout of the published code. DATA is what `bhvit train --data` takes, CIFAR-10 as parquet files for example. KEPT is
# the folder OUT/kept of an earlier call of `run`, which then goes on from there.
#
# Pages, logs and checkpoints go to OUT while they are made, so that a call that is killed leaves what it had: the first
# check.log, gpu.log and gpu.md, the second run.log and at most seven files in kept, none above 15 MiB, 50 MiB together.
#
# DEVICE=cpu tries both without a GPU, and TOY=1 on small models, in a few minutes.
set -u
what=$1 out=$2
device=${DEVICE:-cuda}
mkdir -p "$out"
python=${PYTHON:-python3}
PYTHONPATH=src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
if ! "$python" -c 'import importlib.metadata as m; m.version("bhvit")' 2>/dev/null; then # not installed: say its version
    info=$(mktemp -d)
    trap 'rm -rf "$info"' EXIT
    mkdir "$info/bhvit.dist-info"
    printf 'Metadata-Version: 2.1\nName: bhvit\nVersion: %s\n' "$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)" \
        >"$info/bhvit.dist-info/METADATA"
    PYTHONPATH=$PYTHONPATH:$info
fi
export PYTHONPATH PYTHONUNBUFFERED

# usage: timed SECONDS LOG MODULE ARGUMENTS…
timed() {
    seconds=$1 log=$2
    shift 2
    { timeout -k 10 "$seconds" "$python" -m "$@" 2>&1 || echo "ended with status $?"; } | tee "$log"
}

longest=290 check=150 measured=220 trained=240 small='' small_run=''
if [ -n "${TOY:-}" ]; then
    longest=900 check=900 measured=2 trained=60 small='--cases bhvit_nano:32:4 --ways fused graphs train'
    small_run='--set batch_size=64'
fi
# shellcheck disable=SC2086 # options are several words
case $what in
steps)
    timed "$check" "$out/check.log" benchmarks.training.gpu_check --device "$device"
    timed "$longest" "$out/gpu.log" benchmarks.training.gpu --device "$device" --seconds "$measured" $small \
        ${3:+--published "$3"} --page "$out/gpu.md"
    ;;
run)
    timed "$longest" "$out/run.log" benchmarks.accuracy.gpu_run --data "$3" --recipe small --seconds "$trained" \
        --out "$out/kept" ${4:+--resume-from "$4"} --set "device=$device" \
        --set epochs=200 --set batch_size=512 --set lr=4e-3 $small_run
    ;;
*)
    echo "usage: sh benchmarks/gpu_session.sh steps OUT [PUBLISHED] | run OUT DATA [KEPT]" >&2
    exit 2
    ;;
esac
