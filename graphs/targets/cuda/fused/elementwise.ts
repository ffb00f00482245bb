/** What lies between the network and the rest of a step: its pooling, and the step of the attack on its images. */
import type { Type } from "../../../onnx/graph.ts";
import { clip, expand, type OpDefinition, type Reduction, reduceMean, reshape } from "../../../ops/index.ts";
import { type Lowered, rowMajor, sameShape } from "../../layout.ts";
import type { Lowering } from "../../lower.ts";
import { pgdStepOf } from "../../pgd-step.ts";
import { pgdStepKernel } from "../kernels/pgd-step.ts";
import { pixelMean, pixelSpread } from "../kernels/pixels.ts";
import type { Layouts } from "./layouts.ts";

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
