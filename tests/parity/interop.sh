#!/bin/sh
# interop.sh BUILD_DIR: interop.py under transformers 5 and 4.57 from PyPI, in a venv outside the tree.
#   DHA_HF_VENV     where it is (default: ~/.cache/dha/hf); made when it is not there (4.5 GB, about 4 minutes)
#   DHA_HF_SECONDS  the most this may take, all in all (default: 360)
# Always says how it ended: "interop: passed", "interop: FAILED" (exit 1), or "interop: SKIPPED: why" (exit 77).
#
# PyPI has torch for Linux with CUDA only, and its libraries must be there to load it, also on a machine without a GPU. What
# `import torch` needs of them was found by trying (not library by library); triton, cusolver, nvtx and cuda-bindings it does not.
set -eu
build=$(cd "${1:?usage: interop.sh BUILD_DIR}" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=${DHA_HF_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/dha/hf}
seconds=${DHA_HF_SECONDS:-360}
end=$(($(date +%s) + seconds))
stamp=$venv/complete-1

skip() { echo "interop: SKIPPED: $1"; exit 77; }
left() { n=$((end - $(date +%s))); [ "$n" -gt 0 ] && echo "$n" || echo 1; }
bounded() { timeout --kill-after=10 "$(left)" "$@"; }

pip_install() { bounded "$venv/bin/python" -m pip install -q --no-input --disable-pip-version-check "$@"; }

make_venv() {
    mkdir -p "$(dirname "$venv")"
    python3 -m venv "$venv" || return 1
    pip_install --no-deps torch numpy || return 1
    # the versions this torch was built against
    wanted=$("$venv/bin/python" - <<'PY'
import importlib.metadata as m, re
for r in m.requires("torch"):
    r = r.split(";")[0].strip()
    if r.startswith("cuda-toolkit"):
        keep = [e for e in re.search(r"\[(.*)\]", r)[1].split(",") if e not in ("cusolver", "nvtx")]
        print("cuda-toolkit[" + ",".join(keep) + "]" + r.split("]")[1])
    elif r.startswith("nvidia-") and "cusolver" not in r and "nvtx" not in r:
        print(r)
PY
    ) || return 1
    if [ -n "$wanted" ]; then
        # shellcheck disable=SC2086
        pip_install $wanted 2>"$venv/pip.log" || { cat "$venv/pip.log"; return 1; }
    fi
    pip_install "transformers>=5,<6" sympy networkx jinja2 fsspec filelock typing_extensions safetensors \
        2>"$venv/pip.log" || { cat "$venv/pip.log"; return 1; }
    # 4.57 beside it: only what differs
    pip_install --no-deps --target "$venv/t457" "transformers==4.57.*" "huggingface_hub<1.0" \
        "tokenizers>=0.22,<0.23.1" requests urllib3 charset_normalizer certifi idna || return 1
    "$venv/bin/python" -c 'import torch, transformers' || return 1
    touch "$stamp"
}

for program in dha-worker parity_logits parity_save; do
    [ -x "$build/bin/$program" ] || skip "no $program in $build/bin"
done
if [ ! -e "$stamp" ]; then
    curl -fsS -m 5 -o /dev/null https://pypi.org/simple/pip/ 2>/dev/null || skip "PyPI does not answer within 5 s, and there is no $venv"
    rm -rf "$venv"
    started=$(date +%s)
    make_venv || { rm -rf "$venv"; skip "transformers could not be installed from PyPI within $seconds s"; }
    echo "interop: installed into $venv in $(($(date +%s) - started)) s"
fi

export HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export HF_HOME="$scratch"
failed=0 cut=
for path in "" "$venv/t457"; do
    rc=0
    PYTHONPATH=$path bounded "$venv/bin/python" "$here/interop.py" "$build/bin" "$root/deploy/demo" "$root/tests/data/golden" \
        "$root/worker/model/hf" "${DHA_SHARED_DATA:-$root/../shared/data}/rp4m" || rc=$?
    case $rc in
    0) ;;
    124 | 137) cut="stopped after $seconds s" ;;
    77) cut="transformers cannot be imported from $venv ${path:+and $path}" ;;
    *) failed=1 ;;
    esac
done
[ $failed = 0 ] || { echo "interop: FAILED"; exit 1; }
[ -z "$cut" ] || skip "$cut"
echo "interop: passed"
