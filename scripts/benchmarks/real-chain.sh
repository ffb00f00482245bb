#!/usr/bin/env bash
# The whole chain on real images, one command a step: an encoder is pretrained on CIFAR-10 (short), finetuned by SLF, ALF and AFF
# on CIFAR-10, CIFAR-100 and STL-10, and each classifier is evaluated: accuracy on clean test images (SA), under PGD-20 (RA) and
# under AutoAttack (AA) at 8/255. Started again it goes on where it was. Ends with a table, OUT/table.json and OUT/report.html.
#
#   scripts/benchmarks/real-chain.sh DATA PSEUDO_LABELS OUT [more settings of every command, such as --threads 1]
#
# DATA holds the folders cifar-10-batches-bin, cifar-100-binary and stl10_binary. Needs the compiled project (npm run build).
set -euo pipefail
usage() { sed -n "2,8s/^# \{0,1\}//p" "$0"; }
case " $* " in *" --help "* | *" -h "*) usage; exit 0 ;; esac
[ $# -ge 3 ] || { usage >&2; exit 2; }
data=$1 labels=$2 out=$3
shift 3
dist="$(cd "$(dirname "$0")/.." && pwd)/dist"
advcl=(node "$dist/src/cli/main.js")
declare -A folder=([cifar10]=cifar-10-batches-bin [cifar100]=cifar-100-binary [stl10]=stl10_binary)
pretraining="--width 16 --batch 16 --epochs 1 --lr 0.03 --limit 2000 --knn-every 0"
declare -A finetuning=(
  [slf]="--epochs 10 --milestones 6,8 --lr 0.01 --batch 32"
  [alf]="--epochs 3 --milestones 2 --lr 0.01 --batch 32"
  [aff]="--epochs 3 --milestones 2 --lr 0.05 --batch 32"
)
mkdir -p "$out"
# shellcheck disable=SC2086 # settings are words
"${advcl[@]}" pretrain --dataset cifar10 --data "$data/${folder[cifar10]}" --pseudo-labels "$labels" $pretraining \
  --resume --out "$out/encoder" "$@"
for dataset in cifar10 cifar100 stl10; do
  images="--dataset $dataset --data $data/${folder[$dataset]}"
  for scheme in slf alf aff; do
    name=$dataset-$scheme
    evaluation=$out/$name-evaluation
    [ -e "$evaluation/evaluation.json" ] && continue
    # shellcheck disable=SC2086
    "${advcl[@]}" finetune --scheme $scheme --from "$out/encoder" $images --limit 500 ${finetuning[$scheme]} \
      --resume --out "$out/$name" "$@"
    # shellcheck disable=SC2086
    "${advcl[@]}" evaluate --model "$out/$name" $images --limit 50 --attacks clean,pgd20,autoattack \
      --resume --out "$evaluation" "$@"
  done
done
node --input-type=module - "$out" "$dist" <<'TABLE'
import { readFileSync } from "node:fs";
const [out, dist] = process.argv.slice(2);
const { printTable } = await import(`${dist}/src/compare/table.js`);
const { writeSealed } = await import(`${dist}/src/files/seal.js`);
const cells = ["cifar10", "cifar100", "stl10"].flatMap((dataset) =>
  ["slf", "alf", "aff"].map((scheme) => {
    const { attacks, seed } = JSON.parse(readFileSync(`${out}/${dataset}-${scheme}-evaluation/evaluation.json`, "utf8"));
    const of = (name) => attacks[name].accuracy;
    return { variant: "advcl", seed, dataset, scheme, figures: { SA: of("clean"), RA: of("pgd20"), AA: of("autoattack") } };
  }),
);
await writeSealed(`${out}/table.json`, { cells });
console.log(printTable(cells));
TABLE
"${advcl[@]}" report --from "$out"
