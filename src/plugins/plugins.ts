/** Methods, attacks and losses of one's own, from files of JavaScript that --plugin names. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { z } from "zod";
import { methodNames, methods, type NamedMethod } from "../../graphs/methods/index.ts";
import type { Method } from "../../graphs/methods/method.ts";
import { Value } from "../../graphs/onnx/graph.ts";
import { attackLosses, type ImageLoss } from "../../graphs/steps/evaluate.ts";
import { RequestError } from "../errors.ts";
import { isAttackName } from "../evaluate/attack-list.ts";
import type { OwnAttack } from "../evaluate/attacks/attack.ts";
import { fileError } from "../files/file-error.ts";
import type { PluginFile } from "../runs/config.ts";
import { nearestName } from "../settings/resolve.ts";
import { printNames } from "../settings/schema.ts";
import * as kit from "./kit.ts";

/** What a plugin is given. */
export type Kit = typeof kit;

/** What a plugin brings; each name is one's own, in lower case with hyphens. */
export interface PluginParts {
  /** Of pretraining: `pretrain --method NAME`, `compare --methods NAME`. */
  readonly methods?: readonly Method[];
  /** Of evaluation: `evaluate --attacks NAME`. */
  readonly attacks?: readonly OwnAttack[];
  /** `evaluate --attacks apgd-NAME`, `finetune --loss NAME`, and queries of one's own attacks, as `own:NAME`. */
  readonly losses?: readonly { readonly name: string; readonly loss: ImageLoss }[];
}

/** The default export of a plugin. */
export type Plugin = (kit: Kit) => PluginParts;

/** What a run has from its plugins, and whence. */
export interface Plugins {
  /** By name, ours among them. */
  readonly methods: Readonly<Record<string, NamedMethod>>;
  readonly attacks: readonly OwnAttack[];
  readonly losses: Readonly<Record<string, ImageLoss>>;
  readonly files: readonly PluginFile[];
}

const callable = z.custom<(...given: never[]) => unknown>((value) => typeof value === "function", "must be a function");
const name = z.string().regex(/^[a-z][a-z0-9-]*$/, "must be a name in lower case, with hyphens");
const partsSchema = z.strictObject({
  methods: z
    .array(
      z.looseObject({
        name,
        title: z.string(),
        evaluatedBranch: z.string(),
        options: z.array(z.string(), "is missing: make the method by defineMethod"),
        paper: z.looseObject({}),
        inputs: callable,
        build: callable,
      }),
    )
    .default([]),
  attacks: z
    .array(
      z.looseObject({
        name,
        attack: callable,
        classes: z.int().min(2).optional(),
        gradients: z.boolean().optional(),
        passes: callable.optional(),
      }),
    )
    .default([]),
  losses: z.array(z.strictObject({ name, loss: callable })).default([]),
});

const example = "docs/plugins.md shows the smallest of each kind";

/** What a module's default export gives. Throws a RequestError where it is no plugin's. */
const partsOf = (module: object, path: string): Required<PluginParts> => {
  const plugin = (module as { readonly default?: unknown }).default;
  if (typeof plugin !== "function")
    throw new RequestError(
      `--plugin ${path} has no function as its default export: write export default (advcl) => ({ … }); ${example}`,
    );
  let given: unknown;
  try {
    given = (plugin as Plugin)(kit);
  } catch (error) {
    throw new RequestError(`--plugin ${path} fails: ${(error as Error).message}; correct it`, { cause: error });
  }
  const { success, data, error } = partsSchema.safeParse(given);
  if (!success) {
    const [issue] = error.issues;
    const where = issue?.path.join(".") || "what it returns";
    throw new RequestError(`--plugin ${path}: ${where}: ${issue?.message}; ${example}`);
  }
  const parts = data as unknown as Required<PluginParts>;
  if (Object.values(parts).every((list) => list.length === 0))
    throw new RequestError(`--plugin ${path} brings no methods, attacks or losses; ${example}`);
  return parts;
};

/** A loss whose result is looked at: one number an image. */
const checkedLoss =
  (path: string, { name, loss }: Required<PluginParts>["losses"][number]): ImageLoss =>
  (logits, labels) => {
    const each: unknown = loss(logits, labels);
    if (!(each instanceof Value) || each.rank !== 1 || each.dim(0) !== logits.dim(0)) {
      const shape = each instanceof Value ? `the shape [${each.shape}]` : typeof each;
      throw new RequestError(
        `--plugin ${path}: the loss ${name} gives ${shape} for logits [${logits.shape}] and must give one number an image, [${logits.dim(0)}]`,
      );
    }
    return each;
  };

/** Imports a file and says what it was. */
const load = async (path: string): Promise<{ readonly file: PluginFile; readonly parts: Required<PluginParts> }> => {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw fileError(error, "read", path);
  }
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  let module: object;
  try {
    module = await import(pathToFileURL(resolve(path)).href);
  } catch (error) {
    throw new RequestError(`--plugin ${path} can't be loaded: ${(error as Error).message}; correct it`, {
      cause: error,
    });
  }
  return { file: { file: path, sha256 }, parts: partsOf(module, path) };
};

const ownLossNames = [...Object.keys(attackLosses), "t"];

/** Refuses a name that is taken. */
const take = (taken: Set<string>, path: string, kind: string, name: string, ours: boolean): void => {
  if (ours || taken.has(`${kind} ${name}`))
    throw new RequestError(`--plugin ${path}: the ${kind} ${name} exists already; give yours another name`);
  taken.add(`${kind} ${name}`);
};

/**
 * Loads plugins.
 * @param paths JavaScript modules; none: what ships alone
 * @throws RequestError where one can't be loaded, is no plugin, or brings a name that is taken
 */
export const loadPlugins = async (paths: readonly string[]): Promise<Plugins> => {
  const all: Record<string, NamedMethod> = { ...methods };
  const attacks: OwnAttack[] = [];
  const losses: Record<string, ImageLoss> = {};
  const files: PluginFile[] = [];
  const taken = new Set<string>();
  for (const path of paths) {
    const { file, parts } = await load(path);
    files.push(file);
    for (const method of parts.methods) {
      take(
        taken,
        path,
        "method",
        method.name,
        methodNames.some((ours) => ours === method.name),
      );
      all[method.name] = method;
    }
    for (const attack of parts.attacks) {
      take(taken, path, "attack", attack.name, isAttackName(attack.name));
      attacks.push(attack);
    }
    for (const own of parts.losses) {
      take(taken, path, "loss", own.name, ownLossNames.includes(own.name));
      losses[own.name] = checkedLoss(path, own);
    }
  }
  return { methods: all, attacks, losses, files };
};

/**
 * The one of a table that a setting names.
 * @throws RequestError with the name that may be meant, or all of them
 */
export const pickNamed = <T>(setting: string, name: string, table: Readonly<Record<string, T>>): T => {
  const found = Object.hasOwn(table, name) ? table[name] : undefined;
  if (found !== undefined) return found;
  const names = Object.keys(table);
  const start = `--${setting} is ${JSON.stringify(name)} but`;
  if (names.length === 0) throw new RequestError(`${start} no plugin brings it; give the file that does by --plugin`);
  const nearest = nearestName(name, names);
  const remedy = nearest === undefined ? "--plugin brings your own" : `did you mean ${nearest}?`;
  throw new RequestError(`${start} must be ${printNames(names)}; ${remedy}`);
};
