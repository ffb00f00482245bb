import { advcl, advclBranches } from "../../../graphs/methods/advcl.ts";
import { headName } from "../../../graphs/nn/head.ts";
import { float32, type Tensor, typeName, zeros } from "../../../graphs/onnx/tensor.ts";
import { chooseEngine, targetRow } from "../../engine/engine.ts";
import { listed, RequestError } from "../../errors.ts";
import { checkWritable } from "../../files/atomic.ts";
import { readSafetensors, writeSafetensors } from "../../files/safetensors.ts";
import { depthNames, type Network, stemNames, stemOf } from "../../runs/network.ts";
import { defineCommand } from "../command.ts";

/** Names that a file of weights may hold besides what the step reads: counters of PyTorch's batch norm, unused heads. */
const ignored = /(^|\.)num_batches_tracked$|^head_(ce|pred)\./;

export const step = defineCommand({
  name: "step",
  summary: "one AdvCL step on given weights and a given batch, for comparisons",
  description:
    "Runs one pretraining step on tensors from files and writes everything it computed: metric.*, attack.*, grad.* and after.* of every parameter and running statistic.",
  settings: {
    weights: { type: "path", required: true, help: "safetensors with every parameter and statistic by PyTorch name" },
    batchFile: {
      type: "path",
      required: true,
      aliases: ["batch"],
      help: "safetensors with clean, view1, view2, start_cl, start_ce and label_KKK",
    },
    out: { type: "path", required: true, help: "safetensors to write the results to" },
    target: targetRow,
    depth: { type: "enum", values: depthNames, default: "18", help: "layers of the ResNet" },
    width: { type: "integer", default: 64, min: 1, max: 1024, help: "channels of the first stage" },
    stem: { type: "enum", values: stemNames, default: "auto", help: "auto: ImageNet's for images over 64" },
    highFrequency: { type: "boolean", default: true, help: "the high-frequency view" },
    radius: { type: "number", default: 8, min: 0.5, help: "radius of the removed frequencies, pixels" },
    clusterWeight: { type: "number", default: 0.2, min: 0, help: "weight of the clustering loss" },
    temperature: { type: "number", default: 0.5, min: 1e-3, help: "of the contrastive loss" },
    baseTemperature: { type: "number", default: 0.07, min: 1e-3, help: "SupCon's, which scales the loss" },
    attack: { type: "boolean", default: true, help: "the attack" },
    attackSteps: { type: "integer", default: 5, min: 0, help: "PGD steps of the attack" },
    eps: { type: "number", default: 8 / 255, min: 0, max: 1, help: "radius of the L-inf ball" },
    stepSize: { type: "number", default: 2 / 255, min: 0, max: 1, help: "of a PGD step" },
    lr: { type: "number", default: 0.1, min: 0, help: "learning rate" },
    momentum: { type: "number", default: 0.9, min: 0, max: 1, help: "of SGD; momenta start at 0" },
    weightDecay: { type: "number", default: 1e-4, min: 0, help: "on every parameter" },
  },
  run: async (settings, context) => {
    const { weights: weightsPath, batchFile } = settings;
    await checkWritable(settings.out);
    const weights = (await readSafetensors(weightsPath)).tensors;
    const batch = (await readSafetensors(batchFile)).tensors;
    const clean = batch.get("clean");
    if (clean === undefined || clean.shape.length !== 4 || clean.shape[2] !== clean.shape[3])
      throw new RequestError(`${batchFile} has no square images as clean [B,3,S,S]; write them under that name`);
    const [rows = 0, , , size = 0] = clean.shape;
    const clusters = [...batch.keys()].flatMap((name) => (/^label_\d+$/.test(name) ? [Number(name.slice(6))] : []));
    const network: Network = {
      depth: Number(settings.depth) as Network["depth"],
      width: settings.width,
      stem: stemOf(settings.stem, size),
      size,
      branches: advclBranches,
      evaluatedBranch: "pgd",
    };
    const program = advcl.build({
      ...settings,
      ...network,
      batch: rows,
      clusters: clusters.sort((a, b) => a - b),
      radius: settings.highFrequency ? settings.radius : 0,
      trace: true,
    });
    const { store } = program;
    const engine = await chooseEngine(settings);

    const feeds: Record<string, Tensor> = { "input.lr": float32([], [settings.lr]) };
    const wrong: string[] = [];
    const take = (
      from: ReadonlyMap<string, Tensor>,
      file: string,
      name: string,
      feed: string,
      type: { dtype: Tensor["dtype"]; shape: readonly number[] },
    ) => {
      const value = from.get(name);
      const converted = value === undefined ? undefined : asDtype(value, type.dtype);
      if (converted === undefined) wrong.push(`${file} lacks ${name}`);
      else if (typeName(converted) !== typeName(type))
        wrong.push(`${name} is ${typeName(converted)} and should be ${typeName(type)}`);
      else feeds[feed] = converted;
    };
    for (const name of weights.keys())
      if (!store.parameters.has(name) && !store.states.has(name) && !ignored.test(name))
        wrong.push(`${name} is not of this network`);
    for (const { path, type } of store.parameters.values()) take(weights, weightsPath, path, `param.${path}`, type);
    for (const { path, type } of store.states.values())
      if (path.startsWith("momentum.")) feeds[`state.${path}`] = zeros(type.dtype, type.shape);
      else take(weights, weightsPath, path, `state.${path}`, type);
    for (const [name, value] of store.inputs) if (name !== "lr") take(batch, batchFile, name, `input.${name}`, value);
    if (wrong.length > 0)
      throw new RequestError(
        `the files do not fit the step: ${listed(wrong)}; give the weights of this network and a whole batch`,
      );

    const { session } = await engine.load(program);
    const results = await session.run(feeds);
    await session.release();
    const named: Record<string, Tensor> = {};
    for (const [name, value] of Object.entries(results)) {
      const after = /^next\.(param|state)\.(.*)$/.exec(name)?.[2];
      if (after === undefined) named[name] = value.shape.length === 0 ? { ...value, shape: [1] } : value;
      else if (!after.startsWith("momentum.")) named[`after.${after}`] = value;
    }
    await writeSafetensors(settings.out, named);
    const metrics = Object.fromEntries(
      Object.entries(named).flatMap(([name, value]) =>
        name.startsWith("metric.") ? [[name.slice("metric.".length), Number(value.data[0])]] : [],
      ),
    );
    context.print(
      `${settings.out}: ${Object.entries(metrics)
        .map(([name, value]) => `${name} ${value}`)
        .join(", ")}`,
    );
    context.result({
      out: settings.out,
      provider: engine.provider,
      target: engine.target.name,
      metrics,
      heads: clusters.map(headName),
    });
  },
});

/** Integers of another width as int32, which labels are; anything else as it is. */
const asDtype = (value: Tensor, dtype: Tensor["dtype"]): Tensor =>
  dtype === "int32" && (value.dtype === "int64" || value.dtype === "uint8")
    ? { dtype, shape: value.shape, data: Int32Array.from(value.data as BigInt64Array, Number) }
    : value;
