#!/usr/bin/env bash
# Hardens classifiers made elsewhere (scripts/fixtures/trained_models.py writes some) on CIFAR-10 images by `advcl harden`, and shows
# that each hardened file loads wherever its first did. Prints accuracy on clean test images and under PGD-20 before and after.
#
#   scripts/benchmarks/harden-models.sh MODELS CIFAR10 OUT PYTHON [more settings of advcl harden, such as --epochs 4]
#
# PYTHON has onnx, onnxruntime and openvino. Needs the compiled project (npm run build).
set -euo pipefail
usage() { sed -n "2,7s/^# \{0,1\}//p" "$0"; }
case " $* " in *" --help "* | *" -h "*) usage; exit 0 ;; esac
[ $# -ge 4 ] || { usage >&2; exit 2; }
models=$1 data=$2 out=$3 python=$4
shift 4
root=$(dirname "$0")/../..
mkdir -p "$out"
for model in "$models"/*.onnx; do
  name=$(basename "$model" .onnx)
  [ -e "$out/$name.onnx" ] || node "$root/dist/src/cli/main.js" harden --from "$model" --dataset cifar10 --data "$data" --resume \
    --out "$out/$name.onnx" "$@" >"$out/$name.txt" 2>"$out/$name.log"
  echo "$name"
  sed "s/^/  /" "$out/$name.txt"
  echo "  $("$python" "$root/scripts/fixtures/same_model.py" "$model" "$out/$name.onnx")"
done
