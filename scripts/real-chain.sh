#!/usr/bin/env bash
# The whole chain on real images: an encoder pretrained on CIFAR-10 (scripts/real-run.sh makes one) is finetuned by SLF, ALF and
# AFF on CIFAR-10, CIFAR-100 and STL-10, and each classifier is evaluated: accuracy on clean test images, under PGD-20 and
# under AutoAttack at 8/255. One command each; started again it goes on where it was. Ends with a table.
#
#   scripts/real-chain.sh PRETRAINED_RUN DATA OUT [more settings of every command, such as --threads 1]
#
# DATA holds the folders cifar-10-batches-bin, cifar-100-binary and stl10_binary. Needs the compiled project (npm run build).
set -euo pipefail
[ $# -ge 3 ] || { sed -n 2,9p "$0"; exit 2; }
encoder=$1 data=$2 out=$3
shift 3
advcl=(node "$(dirname "$0")/../dist/src/main.js")
declare -A folder=([cifar10]=cifar-10-batches-bin [cifar100]=cifar-100-binary [stl10]=stl10_binary)
declare -A method=(
  [slf]="--epochs 20 --milestones 12,16 --lr 0.05 --batch 32"
  [alf]="--epochs 6 --milestones 4,5 --lr 0.05 --batch 32"
  [aff]="--epochs 6 --milestones 4,5 --lr 0.05 --batch 32"
)
mkdir -p "$out"
for dataset in cifar10 cifar100 stl10; do
  images="--dataset $dataset --data $data/${folder[$dataset]}"
  for scheme in slf alf aff; do
    name=$dataset-$scheme
    evaluation=$out/$name-evaluation
    [ -e "$evaluation/evaluation.json" ] && continue
    # shellcheck disable=SC2086 # settings are words
    "${advcl[@]}" finetune --scheme $scheme --from "$encoder" $images --limit 2000 ${method[$scheme]} --resume --out "$out/$name" "$@"
    # shellcheck disable=SC2086
    "${advcl[@]}" evaluate --model "$out/$name" $images --limit 100 --attacks clean,pgd20,autoattack --resume --out "$evaluation" "$@"
  done
done
node - "$out" <<'TABLE'
const { readFileSync } = require("node:fs");
const percent = ({ accuracy }) => Number((100 * accuracy).toFixed(1));
const rows = ["cifar10", "cifar100", "stl10"].flatMap((dataset) =>
  ["slf", "alf", "aff"].map((scheme) => {
    const { count, attacks } = JSON.parse(
      readFileSync(`${process.argv[2]}/${dataset}-${scheme}-evaluation/evaluation.json`, "utf8"),
    );
    const accuracies = Object.entries(attacks).map(([name, figures]) => [name, percent(figures)]);
    return { dataset, scheme, "test images": count, ...Object.fromEntries(accuracies) };
  }),
);
console.table(rows);
TABLE
