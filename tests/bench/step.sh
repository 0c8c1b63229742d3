#!/bin/sh
# step.sh BENCH_STEP [torch_step.py options]: our training step and PyTorch's, alternately on the same cores, and
# the ratios. PyTorch is looked for in $DHA_PYTHON (default python3); without it only ours is measured.
set -eu
bench=$1
shift
here=$(dirname "$0")
status=0
"${DHA_PYTHON:-python3}" "$here/torch_step.py" "$bench" "$@" || status=$?
if [ "$status" = 77 ]; then
    echo "PyTorch is not here (set DHA_PYTHON): only our own figures"
    "$bench"
    status=0
fi
[ "$status" = 0 ] || exit "$status"
"$bench" --fusion
