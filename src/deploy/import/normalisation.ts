/** The normalisation that checkpoints keep as buffers: ACL's and DynACL's `normalize.mean`, RobustBench's `mu`, robustness' `new_mean`. */
import type { Normalisation } from "../../../graphs/nn/normalisation.ts";
import { type Tensor, typeName } from "../../../graphs/onnx/tensor.ts";
import { RequestError } from "../../errors.ts";

const meanName = /(^|\.)((?:new_|pixel_|image_|_)?mean|mu)$/;
const stdName = /(^|\.)((?:new_|pixel_|image_|_)?std|sigma)$/;

/** Three numbers of red, green and blue; undefined where a tensor is something else. */
const channelsOf = ({ shape, data, dtype }: Tensor): readonly number[] | undefined => {
  if (dtype !== "float32" || (data.length !== 3 && data.length !== 1)) return undefined;
  if (shape.filter((d) => d !== 1).join() !== (data.length === 3 ? "3" : "")) return undefined;
  const values = Array.from(data as Float32Array);
  return values.length === 3 ? values : [values[0]!, values[0]!, values[0]!];
};

export interface FoundNormalisation {
  readonly normalisation: Normalisation;
  /** The tensors that hold it. */
  readonly names: ReadonlySet<string>;
  readonly note: string;
}

const said = (values: readonly number[]): string => values.map((value) => Number(value.toPrecision(4))).join(",");

/**
 * Finds mean and deviation among tensors that are no weights of the network. Those of pixels from 0 to 255 are brought to
 * pixels in [0, 1], which is the same function.
 * @throws RequestError where there are several that differ
 */
export const findNormalisation = (
  tensors: ReadonlyMap<string, Tensor>,
  source: string,
): FoundNormalisation | undefined => {
  const pairs = [...tensors].flatMap(([name, value]) => {
    if (!meanName.test(name)) return [];
    const other = [...tensors.keys()].find(
      (std) => stdName.test(std) && std.replace(stdName, "$1") === name.replace(meanName, "$1"),
    );
    const [mean, std] = [channelsOf(value), other === undefined ? undefined : channelsOf(tensors.get(other) as Tensor)];
    return mean === undefined || std === undefined ? [] : [{ names: [name, other as string], mean, std }];
  });
  const [first, ...others] = pairs;
  if (first === undefined) return undefined;
  const text = ({ mean, std }: Normalisation): string => [...mean, ...std].join();
  const different = others.find((other) => text(other) !== text(first));
  if (different !== undefined)
    throw new RequestError(
      `${source} holds two normalisations that differ, ${first.names[0]} and ${different.names[0]}; leave one out by --leave-out ${different.names.join(",")}`,
    );
  for (const name of first.names) {
    const value = tensors.get(name) as Tensor;
    if (!value.data.every(Number.isFinite))
      throw new RequestError(
        `${source}: ${name}, ${typeName(value)}, is not finite; --leave-out ${name} leaves it out`,
      );
  }
  if (!first.std.every((value) => value > 0))
    throw new RequestError(
      `${source}: ${first.names[1]} is not above 0; --leave-out ${first.names.join(",")} leaves it out`,
    );
  const bytes = first.mean.some((value) => value > 1) || first.std.some((value) => value > 2);
  const scale = bytes ? 255 : 1;
  const normalisation = {
    mean: first.mean.map((value) => value / scale),
    std: first.std.map((value) => value / scale),
  };
  return {
    normalisation,
    names: new Set(pairs.flatMap(({ names }) => names)),
    note: `${first.names.join(" and ")} normalise the images inside the network: mean ${said(first.mean)}, std ${said(first.std)}${bytes ? ", of pixels from 0 to 255, taken as such of pixels in [0, 1]" : ""}`,
  };
};
