/** Tiny works on generated images: a command each, which can be killed and gone on with. */
import { join } from "node:path";
import { RequestError } from "../../src/errors.ts";

export interface Work {
  readonly name: string;
  /** The command's arguments, to write to `out`; `again` where something of it may be there. */
  argsFor(out: string, again: boolean): string[];
}

const words = (text: string): string[] => text.split(" ");
const resume = (again: boolean): string[] => (again ? ["--resume"] : []);

const training = "--dataset shapes --limit 64 --workers 0 --threads 1 --target portable";
const tiny = `pretrain ${training} --size 16 --width 2 --batch 32 --attack-steps 1 --knn-every 0 --radius 3 --no-clusters --lr 0.05`;

export const workNames = ["pretrain", "finetune", "evaluate", "cluster", "harden", "compare"] as const;

/**
 * The works of those names, and what they start from, made in `root`.
 *
 * @param run does a command and throws where it fails
 * @throws RequestError where there is no such work
 */
export const prepareWorks = async (
  root: string,
  names: readonly string[],
  run: (args: readonly string[]) => Promise<unknown>,
): Promise<readonly Work[]> => {
  const [encoder, classifier, model] = ["encoder", "classifier", "model.onnx"].map((name) => join(root, name)) as [
    string,
    string,
    string,
  ];
  const finetune = `finetune --scheme slf --from ${encoder} ${training} --batch 32 --test-limit 50 --lr 0.1`;
  const all: Readonly<Record<(typeof workNames)[number], (out: string, again: boolean) => string[]>> = {
    pretrain: (out, again) => [...words(`${tiny} --epochs 6 --out ${out}`), ...resume(again)],
    finetune: (out, again) => [...words(`${finetune} --epochs 6 --out ${out}`), ...resume(again)],
    evaluate: (out, again) => [
      ...words(
        `evaluate --model ${classifier} --dataset shapes --limit 40 --batch 8 --threads 1 --attacks clean,pgd10`,
      ),
      ...words(`--target portable --save-adversarial --out ${out}`),
      ...resume(again),
    ],
    cluster: (out) =>
      words(`cluster --teacher ${encoder} --dataset shapes --limit 200 --clusters 2,5 --threads 1 --out ${out}`),
    harden: (out, again) => [
      ...words(`harden --from ${model} --dataset shapes --limit 64 --test-limit 32 --batch 16 --epochs 3 --threads 1`),
      ...words(`--attack-steps 1 --test-steps 2 --out ${out}`),
      ...resume(again),
    ],
    compare: (out) => [
      ...words(
        `compare --methods simclr --schemes slf --seeds 0,1 --dataset shapes --limit 64 --test-limit 32 --size 16`,
      ),
      ...words(`--width 2 --epochs 1 --batch 32 --finetune-epochs 1 --finetune-batch 32 --attack-steps 1 --threads 1`),
      ...words(`--workers 0 --target portable --out ${out}`),
    ],
  };
  const works = names.map((name) => {
    const known = workNames.find((work) => work === name);
    if (known === undefined) throw new RequestError(`there is no work ${name}; there are ${workNames.join(", ")}`);
    return { name, argsFor: all[known] };
  });
  const need = (...of: string[]) => names.some((name) => of.includes(name));
  if (need("finetune", "evaluate", "cluster", "harden")) await run(words(`${tiny} --epochs 1 --out ${encoder}`));
  if (need("evaluate", "harden")) await run(words(`${finetune} --epochs 1 --out ${classifier}`));
  if (need("harden"))
    await run(words(`export --from ${classifier} --out ${model} --dataset shapes --limit 0 --threads 1`));
  return works;
};
