/**
 * Names of what a step's model takes and gives. It takes `input.*` (what a batch brings), `param.*` and `state.*`; it gives
 * `metric.*`, `grad.*` where asked, and, because ONNX has one name for one value, `next.param.*` and `next.state.*`, which a
 * driver feeds back. After the kind follows a path: PyTorch's name of a parameter or statistic, or the name of an input.
 */
export const kinds = ["input", "param", "state", "metric", "grad"] as const;
export type Kind = (typeof kinds)[number];

const NEXT = "next.";
const nameOf =
  <K extends Kind>(kind: K) =>
  <P extends string>(path: P): `${K}.${P}` =>
    `${kind}.${path}`;

/** `input.clean` */
export const feedName = nameOf("input");
/** `param.conv1.weight` */
export const paramName = nameOf("param");
/** `state.bn1.running_mean` */
export const stateName = nameOf("state");
/** `metric.loss` */
export const metricName = nameOf("metric");
/** `grad.conv1.weight` */
export const gradName = nameOf("grad");

/** `next.param.conv1.weight`: what a step gives for the input of that name. */
export const nextName = <N extends string>(name: N): `next.${N}` => `next.${name}`;
/** The input that an output is fed back to: `param.conv1.weight` of `next.param.conv1.weight`; undefined of any other. */
export const fedBackTo = (output: string): string | undefined =>
  output.startsWith(NEXT) ? output.slice(NEXT.length) : undefined;

/** The kind of a name, with or without `next.` before it; undefined where it has none. */
export const kindOf = (name: string): Kind | undefined => {
  const plain = fedBackTo(name) ?? name;
  return kinds.find((kind) => plain.startsWith(`${kind}.`));
};

/** What follows the kind: `conv1.weight` of `param.conv1.weight` and of `next.param.conv1.weight`; otherwise the name. */
export const pathOf = (name: string): string => {
  const kind = kindOf(name);
  return kind === undefined ? name : (fedBackTo(name) ?? name).slice(kind.length + 1);
};

/** Values by path, as metrics of a step. */
export const metrics = <T>(values: Readonly<Record<string, T>>): Record<`metric.${string}`, T> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [metricName(name), value]));

/** The figures of a step's results, by name: numbers of its `metric.*`. */
export const metricsOf = (
  results: Readonly<Record<string, { readonly data: ArrayLike<unknown> }>>,
): Record<string, number> =>
  Object.fromEntries(
    Object.entries(results).flatMap(([name, { data }]) =>
      kindOf(name) === "metric" ? [[pathOf(name), Number(data[0])]] : [],
    ),
  );

/** Values of one kind, by path. */
export const ofKind = <T>(kind: Kind, values: Readonly<Record<string, T>>): Record<string, T> =>
  Object.fromEntries(
    Object.entries(values).flatMap(([name, value]) => (kindOf(name) === kind ? [[pathOf(name), value]] : [])),
  );
