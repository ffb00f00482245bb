/** Where in a file a ResNet lies: under which prefix, and by which names. */
import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import { RequestError } from "../../errors.ts";
import { knownNetworks } from "./architecture.ts";
import { isCopyPrefix, isOfEncoder, ourName } from "./names.ts";

type Shapes = ReadonlyMap<string, readonly number[]>;

/** A ResNet in a file. */
export interface Place {
  /** What stands before each of its names: "", `module.encoder_q.` */
  readonly prefix: string;
  /** What the numbers stand for in an nn.Sequential of its layers: 0 for conv1, 4 for layer1. */
  readonly layers?: ReadonlyMap<string, string>;
}

/** What a tensor is called here; undefined where it isn't under the place's prefix. */
export const nameAt = ({ prefix, layers }: Place, name: string): string | undefined => {
  if (!name.startsWith(prefix)) return undefined;
  const within = name.slice(prefix.length);
  if (layers === undefined) return ourName(within);
  const [, number = "", rest = ""] = /^(\d+)\.(.*)$/.exec(within) ?? [];
  const layer = layers.get(number);
  return layer === undefined ? undefined : ourName(`${layer}.${rest}`);
};

const isWithin = (prefix: string): boolean => prefix === "" || prefix.endsWith(".");

/** Of an nn.Sequential: the numbers of its stages, rising. */
const stagesIn = (names: Iterable<string>): Map<string, number[]> => {
  const found = new Map<string, number[]>();
  for (const name of names) {
    const [, prefix = "", number] = /^(.*?)(\d+)\.0\.conv1\.weight$/.exec(name) ?? [];
    if (number !== undefined && isWithin(prefix))
      found.set(
        prefix,
        [...(found.get(prefix) ?? []), Number(number)].sort((a, b) => a - b),
      );
  }
  return found;
};

/** The layers of an nn.Sequential by number: a convolution, its batch norm, stages, and a linear layer after them. */
const layersOf = (
  shapes: Shapes,
  prefix: string,
  stages: readonly number[],
): ReadonlyMap<string, string> | undefined => {
  const [first = 0] = stages;
  const last = stages.at(-1) as number;
  const numbers = Array.from({ length: first }, (_, number) => number);
  const conv = numbers.find((number) => shapes.get(`${prefix}${number}.weight`)?.length === 4);
  const norm = numbers.find((number) => number > (conv ?? first) && shapes.has(`${prefix}${number}.running_mean`));
  if (conv === undefined || norm === undefined || stages.some((number, i) => number !== first + i)) return undefined;
  const head = [1, 2, 3].find((n) => shapes.get(`${prefix}${last + n}.weight`)?.length === 2);
  return new Map([
    [String(conv), "conv1"],
    [String(norm), "bn1"],
    ...stages.map((number, i): [string, string] => [String(number), `layer${i + 1}`]),
    ...(head === undefined ? [] : [[String(last + head), "fc"] as [string, string]]),
  ]);
};

/** The first block of a ResNet or PreAct-ResNet, and of a WideResNet. */
const firstBlocks = ["layer1.0", "block1.layer.0"];

/** Every ResNet among names, in the order of the file: those with names, then those with numbers. */
export const placesIn = (shapes: Shapes): Place[] => {
  const places: Place[] = [];
  for (const [name, shape] of shapes) {
    const [, prefix] = /^(.*?)conv1\.weight$/.exec(name) ?? [];
    const holds = (block: string): boolean => shapes.has(`${prefix}${block}.conv1.weight`);
    if (prefix !== undefined && isWithin(prefix) && shape.length === 4 && firstBlocks.some(holds))
      places.push({ prefix });
  }
  for (const [prefix, stages] of stagesIn(shapes.keys())) {
    const layers = layersOf(shapes, prefix, stages);
    if (layers !== undefined) places.push({ prefix, layers });
  }
  return places;
};

export const shapesOf = (tensors: ReadonlyMap<string, Tensor>): Shapes =>
  new Map(Array.from(tensors, ([name, { shape }]) => [name, shape]));

const sameBytes = (a: Tensor, b: Tensor): boolean =>
  a.dtype === b.dtype &&
  a.shape.join() === b.shape.join() &&
  Buffer.compare(
    new Uint8Array(a.data.buffer, a.data.byteOffset, a.data.byteLength),
    new Uint8Array(b.data.buffer, b.data.byteOffset, b.data.byteLength),
  ) === 0;

const encoderAt = (tensors: ReadonlyMap<string, Tensor>, place: Place): Map<string, Tensor> =>
  new Map(
    [...tensors].flatMap(([name, value]): [string, Tensor][] => {
      const ours = nameAt(place, name);
      return ours !== undefined && isOfEncoder(ours) ? [[ours, value]] : [];
    }),
  );

/** Whether two places hold one encoder, as a module that is registered under two names does. */
const isSame = (tensors: ReadonlyMap<string, Tensor>, a: Place, b: Place): boolean => {
  const [one, other] = [encoderAt(tensors, a), encoderAt(tensors, b)];
  return (
    one.size === other.size &&
    [...one].every(([name, value]) => {
      const found = other.get(name);
      return found !== undefined && sameBytes(value, found);
    })
  );
};

const shown = (prefix: string): string => (prefix === "" ? '""' : prefix.replace(/\.$/, ""));

/** Why nothing was found, by the names that are there. */
const nothingFound = (shapes: Shapes, source: string): RequestError => {
  const names = [...shapes.keys()];
  const some = `${names.slice(0, 4).join(", ")}${names.length > 4 ? ` and ${names.length - 4} more` : ""}`;
  const start = names.find((name) => name.endsWith("layer1.0.conv1.weight"))?.slice(0, -"layer1.0.conv1.weight".length);
  const stem = names.filter(
    (name) =>
      start !== undefined && name.startsWith(start) && !name.includes("layer") && shapes.get(name)?.length === 4,
  );
  const what =
    start !== undefined && stem.length > 0
      ? `it has no ${start}conv1.weight but ${stem.slice(0, 4).join(", ")}, which is another stem`
      : `it has no conv1.weight and layer1.0.conv1.weight, under any prefix, but ${some}`;
  return new RequestError(`${source} holds no ResNet that is known here: ${what}; give weights of ${knownNetworks}`);
};

/** What was found in a file. */
export interface Found {
  readonly place: Place;
  /** Other networks in it, which are left out. */
  readonly copies: readonly Place[];
  /** The same network under other names. */
  readonly aliases: readonly Place[];
  /** What was decided, as sentences for people. */
  readonly notes: readonly string[];
}

/** What was decided, as sentences for people. */
const notesOf = ({ place, copies, aliases }: Omit<Found, "notes">, asked: boolean): string[] => {
  const { prefix, layers } = place;
  const numbered = layers && [...layers].map(([number, layer]) => `${number} is ${layer}`).join(", ");
  const under = copies.map((copy) => shown(copy.prefix)).join(", ");
  return [
    ...(numbered === undefined ? [] : [`the network is an nn.Sequential: ${numbered}`]),
    ...(prefix === "" ? [] : [`the network lies under ${shown(prefix)}`]),
    ...aliases.map((alias) => `the same network lies under ${shown(alias.prefix)} once more`),
    ...(copies.length === 0
      ? []
      : asked
        ? [`not taken is the network under ${under}`]
        : [
            `not taken is the copy under ${under}, which follows it by momentum (--prefix ${shown(copies[0]!.prefix)} takes that)`,
          ]),
  ];
};

/** Networks that differ, and for the rest which they are the same as. */
const sorted = (tensors: ReadonlyMap<string, Tensor>, all: readonly Place[]) => {
  const order = [...all].sort((a, b) => Number(!!a.layers) - Number(!!b.layers) || a.prefix.length - b.prefix.length);
  const different: Place[] = [];
  for (const place of order) if (!different.some((other) => isSame(tensors, other, place))) different.push(place);
  return different;
};

/**
 * Finds the one ResNet in a file. Of a pair of which one follows the other by momentum, the one that was trained is taken.
 * @param wanted the prefix that is asked for, with or without its last dot
 * @throws RequestError where there is none, or several of which none is known to follow
 */
export const findNetwork = (
  tensors: ReadonlyMap<string, Tensor>,
  source: string,
  wanted: string | undefined,
): Found => {
  const shapes = shapesOf(tensors);
  const all = placesIn(shapes);
  if (all.length === 0) throw nothingFound(shapes, source);
  const different = sorted(tensors, all);
  const names = (places: readonly Place[]) => places.map(({ prefix }) => shown(prefix)).join(", ");
  const trained = different.filter(({ prefix }) => !isCopyPrefix(prefix));
  const asked = wanted === undefined || wanted === "" ? wanted : `${wanted.replace(/\.+$/, "")}.`;
  const known = trained.length > 0 ? trained : different;
  const [place, ...others] = asked === undefined ? known : all.filter(({ prefix }) => prefix === asked);
  if (place === undefined)
    throw new RequestError(`--prefix ${wanted}: ${source} holds no network under that; it has one under ${names(all)}`);
  if (others.length > 0)
    throw new RequestError(
      `${source} holds ${known.length} networks, under ${names(known)}; choose one, such as --prefix ${shown(place.prefix)}`,
    );
  const same = (other: Place): boolean => isSame(tensors, other, place);
  const found = {
    place,
    copies: all.filter((other) => other !== place && !same(other)),
    aliases: all.filter((other) => other !== place && same(other)),
  };
  return { ...found, notes: notesOf(found, asked !== undefined) };
};
