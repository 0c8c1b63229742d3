#!/bin/sh
# bench.sh BIN_DIR SHARED_DATA: every benchmark in turn, as ratios against a reference or against the goal in the same run.
# PyTorch is looked for in $DHA_PYTHON (default python3); what is not here is said and left out.
set -u
bin=$1 data=$2
here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

echo "== training step, 15M shape, f32, 2 threads, beside PyTorch; with fusion operators beside without"
sh "$here/step.sh" "$bin/bench_step"

echo "== spectral search on rp4m, 2 ranks (goal: 40 s)"
if [ -d "$data/rp4m" ]; then
    cat > "$work/spec.json" <<E2
{"model": "$data/rp4m/hf", "method": "spectral", "budget": 0.25, "tokens": {"train": 0},
 "data": {"train": ["$data/rp4m/train.u16"], "valid": "$data/rp4m/valid.u16", "seq_len": 256}}
E2
    OMP_NUM_THREADS=1 mpirun --oversubscribe --bind-to none -n 2 "$bin/dha-worker" run "$work/spec.json" --dir "$work/run" 2>&1 |
        grep -E "^(search|fuse) +ok|loss of"
else
    echo "left out: $data/rp4m is not here"
fi

echo "== submissions and lists through the API (goals: 1,000 a second durable; 50 ms)"
"${DHA_PYTHON:-python3}" "$here/bench_submit.py" "$bin"
echo "== event streams (goals: 1,000 readers, 1,000 events a second, none lost, loop turn p99 under 10 ms)"
"${DHA_PYTHON:-python3}" "$here/bench_events.py" "$bin"
echo "== submissions beside Slurm's (goals: 20 times; p99 5 and 20 ms)"
"${DHA_PYTHON:-python3}" "$here/bench_slurm.py" "$bin"
echo "== stage hand-over (goal: 50 ms over mpirun's own start-up)"
"${DHA_PYTHON:-python3}" "$here/bench_handover.py" "$bin"
echo "== 1,000 live attempts after kill -9 (goal: 5 s); 100,000 finished jobs (goals: 2 s, 200 MiB)"
"${DHA_PYTHON:-python3}" "$here/bench_adopt.py" "$bin"
"${DHA_PYTHON:-python3}" "$here/bench_many.py" "$bin"
echo "== one scheduling pass: the decisions alone, then as the daemon makes it (goal: 20 ms)"
"$bin/bench_sched"
"${DHA_PYTHON:-python3}" "$here/bench_pass.py" "$bin"
