#!/usr/bin/env bash
# A real run, straight and killed: 3 epochs of AdvCL at width 16 on the CIFAR-10 images and pseudo-labels given, once without
# interruption and once killed twice with SIGKILL and resumed. Shows that the loss falls, that the kNN accuracy rises above the
# untrained encoder's, and that both runs end with the same bytes.
#
#   scripts/parity/killed-run.sh CIFAR10_FOLDER PSEUDO_LABELS OUT [more settings of advcl pretrain]
#
# Needs the compiled project (npm run build).
set -euo pipefail
usage() { sed -n "2,8s/^# \{0,1\}//p" "$0"; }
case " $* " in *" --help "* | *" -h "*) usage; exit 0 ;; esac
[ $# -ge 3 ] || { usage >&2; exit 2; }
data=$1 labels=$2 out=$3
shift 3
pretrain=(node "$(dirname "$0")/../../dist/src/cli/main.js" pretrain --dataset cifar10 --data "$data" --pseudo-labels "$labels" --width 16 --batch 16
  --epochs 3 --lr 0.03 --knn-every 1 "$@")
mkdir -p "$out"
"${pretrain[@]}" --out "$out/straight" >"$out/straight.log" 2>&1 &
straight=$!

lines() { if [ -f "$out/killed/metrics.jsonl" ]; then wc -l <"$out/killed/metrics.jsonl"; else echo 0; fi; }
for after in 350 700; do
  "${pretrain[@]}" --out "$out/killed" --resume >>"$out/killed.log" 2>&1 &
  run=$!
  while kill -0 $run 2>/dev/null && [ "$(lines)" -lt $after ]; do sleep 1; done
  kill -KILL $run
  wait $run || true
  echo "killed at $(lines) lines of metrics"
done
"${pretrain[@]}" --out "$out/killed" --resume >>"$out/killed.log" 2>&1
wait $straight

grep -E "knnAccuracy" "$out/straight.log"
last=$(ls "$out/straight/checkpoints" | tail -n 1)
cmp "$out/straight/metrics.jsonl" "$out/killed/metrics.jsonl"
cmp "$out/straight/checkpoints/$last/tensors.safetensors" "$out/killed/checkpoints/$last/tensors.safetensors"
echo "the same bytes: metrics.jsonl and checkpoints/$last/tensors.safetensors"
