/**
 * The step of AdvCL that ships with the package: what PyTorch computed in float64 (scripts/fixtures/shipped_step.py), beside
 * what this machine computes.
 */
import { join } from "node:path";
import { advcl } from "../../graphs/methods/advcl.ts";
import { float32, type Tensor, zeros } from "../../graphs/onnx/tensor.ts";
import type { Step } from "../../graphs/steps/step.ts";
import { chooseEngine } from "../engine/engine.ts";
import { readSafetensors } from "../files/safetensors.ts";
import { packageRoot } from "../version.ts";

/** The file that ships. */
export const goldenFile = join(packageRoot, "golden", "advcl-step.safetensors");

/**
 * How far float32 may be from the true values: relative L2, of attacked images the share of pixels that are not equal. PyTorch's
 * own float32 is off by 1e-7, 0, 5e-6 and 3e-7, this step on a CPU by 7e-8, 0, 3e-5 and 5e-7; the rest is room for other orders
 * of summation, in which a pixel whose gradient is nearly 0 may go the other way.
 */
const allowed = { metric: 1e-4, attack: 5e-3, grad: 5e-3, after: 1e-4 } as const;
type Kind = keyof typeof allowed;
const isKind = (name: string): name is Kind => Object.hasOwn(allowed, name);

/** What a golden step is off by. */
export interface GoldenStep {
  /** The worst error of each kind of result. */
  readonly errors: Readonly<Record<Kind, number>>;
  /** Results that are off by more than they may, as sentences. */
  readonly wrong: readonly string[];
}

/** ‖ours - truth‖ / ‖truth‖. */
const relativeError = (ours: ArrayLike<number>, truth: ArrayLike<number>): number => {
  let [difference, norm] = [0, 0];
  for (let i = 0; i < truth.length; i++) {
    difference += (ours[i]! - truth[i]!) ** 2;
    norm += truth[i]! ** 2;
  }
  return Math.sqrt(difference / Math.max(norm, 1e-24));
};

/** Share of pixels that differ by more than 1e-5. */
const unequalShare = (ours: ArrayLike<number>, truth: ArrayLike<number>): number =>
  Array.from(truth).filter((v, i) => !(Math.abs(ours[i]! - v) <= 1e-5)).length / truth.length;

/** The bias before a batch norm has no true gradient. */
const withoutGradient = "grad.head_proj.0.bias";

const readGolden = async (
  file: string,
): Promise<{
  readonly step: Step;
  readonly feeds: Readonly<Record<string, Tensor>>;
  readonly truth: ReadonlyMap<string, Tensor>;
  /** Learning rate and weight decay. */
  readonly rates: { readonly lr: number; readonly decay: number };
}> => {
  const { tensors, metadata } = await readSafetensors(file);
  const given = (name: string): Tensor => {
    const value = tensors.get(name);
    if (value === undefined) throw new Error(`internal: ${file} lacks ${name}`);
    return value;
  };
  const rates = { lr: Number(metadata.lr), decay: Number(metadata.weightDecay) };
  const [batch = 0, , size = 0] = given("input.clean").shape;
  const step = advcl.build({
    ...advcl.paper,
    ...{ batch, size, depth: 18, width: Number(metadata.width), stem: "cifar", clusters: [2, 10], trace: true },
    ...{ attackSteps: Number(metadata.attackSteps), radius: Number(metadata.radius) },
    weightDecay: rates.decay,
  });
  const { inputs, parameters, states } = step.store;
  const feeds: Record<string, Tensor> = {};
  for (const name of inputs.keys())
    feeds[`input.${name}`] = name === "lr" ? float32([], [rates.lr]) : given(`input.${name}`);
  for (const name of parameters.keys()) feeds[`param.${name}`] = given(`before.${name}`);
  for (const [name, { type }] of states)
    feeds[`state.${name}`] = name.startsWith("momentum.") ? zeros("float32", type.shape) : given(`before.${name}`);
  return { step, feeds, truth: tensors, rates };
};

/** Weights after the step, as its true gradients move them: plain SGD with momenta of zero. */
const movedWeights = (
  truth: ReadonlyMap<string, Tensor>,
  { lr, decay }: { lr: number; decay: number },
): Map<string, Float32Array> => {
  const moved = new Map<string, Float32Array>();
  for (const [name, { data }] of truth) {
    if (!name.startsWith("grad.")) continue;
    const path = name.slice("grad.".length);
    const before = truth.get(`before.${path}`)?.data as Float32Array;
    const gradient = data as Float32Array;
    moved.set(
      `after.${path}`,
      before.map((v, i) => v - lr * (gradient[i]! + decay * v)),
    );
  }
  return moved;
};

/**
 * Runs the golden step on what computes here, in float32.
 *
 * @throws RequestError where the provider is not there
 */
export const runGoldenStep = async (
  request: Parameters<typeof chooseEngine>[0],
  file = goldenFile,
): Promise<GoldenStep> => {
  const { step, feeds, truth, rates } = await readGolden(file);
  const engine = await chooseEngine({ ...request, precision: "float32" });
  const { session } = await engine.load(step);
  const results = await session.run(feeds).finally(() => session.release());
  const expected = new Map<string, ArrayLike<number>>(movedWeights(truth, rates));
  for (const [name, { data }] of truth) expected.set(name, data as Float32Array);
  const errors = { metric: 0, attack: 0, grad: 0, after: 0 };
  const wrong: string[] = [];
  for (const [name, values] of expected) {
    const kind = name.slice(0, name.indexOf("."));
    if (!isKind(kind) || name === withoutGradient) continue;
    const path = name.slice(kind.length + 1);
    const ours = kind === "after" ? (results[`next.param.${path}`] ?? results[`next.state.${path}`]) : results[name];
    if (ours === undefined) throw new Error(`internal: the step does not give ${name}`);
    const error = (kind === "attack" ? unequalShare : relativeError)(ours.data as Float32Array, values);
    errors[kind] = Math.max(errors[kind], error);
    if (!(error <= allowed[kind]))
      wrong.push(`${name} is off by ${error.toExponential(1)}, allowed are ${allowed[kind]}`);
  }
  return { errors, wrong };
};
