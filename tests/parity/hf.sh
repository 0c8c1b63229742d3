#!/bin/sh
# hf.sh PARITY_SAVE GOLDEN FORMAT HF_FILES PYTHON: saves a golden model and lets transformers load it.
set -eu
save=$1 golden=$2 format=$3 files=$4 python=${DHA_PYTHON:-$5}
command -v "$python" >/dev/null 2>&1 || { echo "skipped: no $python"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
kind=llama
if [ "$format" = dha ]; then
    kind=dha
    cp "$files"/*.py "$dir"
fi
"$save" "$golden" "$dir" "$format" ${6:-}
export HF_HUB_OFFLINE=1 HF_HOME="$dir/cache" PYTHONDONTWRITEBYTECODE=1
exec_status=0
"$python" "$(dirname "$0")/hf.py" "$golden" "$dir" "$kind" || exec_status=$?
exit $exec_status
