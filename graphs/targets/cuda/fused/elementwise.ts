/** What lies between the network and the rest of a step: its pooling, and the step of the attack on its images. */
import { constantOf, type Node, type Type, type Value } from "../../../onnx/graph.ts";
import {
  add,
  clip,
  expand,
  max,
  min,
  mul,
  type OpDefinition,
  type Reduction,
  reduceMean,
  reshape,
  sign,
  sub,
} from "../../../ops/index.ts";
import { type Lowered, rowMajor, sameShape } from "../../layout.ts";
import type { Lowering } from "../../lower.ts";
import { pgdStepKernel } from "../kernels/pgd-step.ts";
import { pixelMean, pixelSpread } from "../kernels/pixels.ts";
import type { Layouts } from "./layouts.ts";

/** The operands of a value that an op of this kind made. */
const operands = (
  value: Value | undefined,
  { definition }: { readonly definition: OpDefinition },
): readonly Value[] | undefined => (value?.node.definition === definition ? value.node.inputs : undefined);

const numberOf = (value: Value | undefined): number | undefined => {
  const held = value && constantOf(value);
  return held !== undefined && value?.size === 1 ? Number(held.data[0]) : undefined;
};

interface Step {
  readonly x: Value;
  readonly gradient: Value;
  readonly clean: Value;
  readonly stepSize: number;
  readonly eps: number;
}

/** The step that a Clip ends, as graphs/attacks writes it: clip(min(max(x + stepSize · sign(g), clean - eps), clean + eps), 0, 1). */
export const pgdStepOf = ({ inputs: [limited, low, high] }: Node): Step | undefined => {
  const [above, most] = operands(limited, min) ?? [];
  const [moved, least] = operands(above, max) ?? [];
  const [x, scaled] = operands(moved, add) ?? [];
  const [direction, stepSize] = operands(scaled, mul) ?? [];
  const [gradient] = operands(direction, sign) ?? [];
  const [clean, below] = operands(least, sub) ?? [];
  const [same, beyond] = operands(most, add) ?? [];
  const [step, eps] = [numberOf(stepSize), numberOf(below)];
  if (x === undefined || gradient === undefined || clean === undefined || clean !== same) return undefined;
  if (step === undefined || eps === undefined || eps !== numberOf(beyond)) return undefined;
  if (numberOf(low) !== 0 || numberOf(high) !== 1) return undefined;
  const same4 = [gradient, clean].every((v) => v.shape.join() === x.shape.join() && v.dtype === "float32");
  return same4 && x.rank === 4 && x.dtype === "float32" ? { x, gradient, clean, stepSize: step, eps } : undefined;
};

export const elementwiseLowerings = (layouts: Layouts): readonly (readonly [OpDefinition, Lowering])[] => {
  const attack: Lowering = ({ node, lowered }) => {
    const step = pgdStepOf(node);
    if (step === undefined) return undefined;
    const gradient = lowered(step.gradient);
    const last = layouts.isGradient(gradient);
    const { stepSize, eps } = step;
    const direction = last ? layouts.descend(gradient) : gradient.plain;
    return [
      pgdStepKernel(lowered(step.x).plain, direction, lowered(step.clean).plain, {
        stepSize,
        eps,
        channelsLast: last ? 1 : 0,
      }),
    ];
  };

  const pooling: Lowering = ({ inputs, attributes, types: [y] }) => {
    const [x] = inputs as [Lowered];
    const { axes = [] } = attributes as Reduction;
    if (!layouts.isActivation(x) || x.type.shape.length !== 4) return undefined;
    if ([...axes].sort((a, b) => a - b).join() !== "2,3") return undefined;
    return [reshape(pixelMean(layouts.activate(x)), (y as Type).shape)];
  };

  /** A number a channel at each pixel: the gradient of that pooling. */
  const spreading: Lowering = ({ inputs, types }) => {
    const [x] = inputs as [Lowered];
    const { shape, dtype } = types[0] as Type;
    const [n = 1, c = 1, height = 1, width = 1] = shape;
    if (dtype !== "float32" || shape.length !== 4 || x.type.shape.join() !== [n, c, 1, 1].join()) return undefined;
    const half = layouts.precision === "float16" ? 1 : 0;
    const spread = pixelSpread(reshape(x.plain, [n, c]), { height, width, factor: layouts.lift, half });
    return [{ layout: layouts.gradient, parts: [spread] }];
  };

  /** To the shape that it has, as branches of which there is one are told apart: it stays where it lies. */
  const staying: Lowering = ({ inputs: [x], types: [y] }) =>
    x !== undefined && x.layout !== rowMajor && sameShape(x.type, y as Type)
      ? [{ layout: x.layout, parts: x.in(x.layout) }]
      : undefined;

  return [
    [reshape.definition, staying],
    [clip.definition, attack],
    [reduceMean.definition, pooling],
    [expand.definition, spreading],
  ];
};
