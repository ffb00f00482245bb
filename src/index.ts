/// <reference types="long" preserve="true" />
/**
 * The library: what the commands do, as functions; and the parts that graphs are made of. Only what is here is kept from one
 * version to the next.
 *
 * Verbs take settings (the flags of the command in camelCase) and `{ reporter, signal }`, and return typed results. They throw
 * a `RequestError` where the request is wrong, a `RunError` where the work failed, and `Interrupted` where the signal was
 * aborted.
 */

// Graphs: values, gradients, attacks, losses, reading and writing of ONNX.
export { type PgdOptions, pgd } from "../graphs/attacks/pgd.ts";
export { l2, linf, type ThreatModel } from "../graphs/attacks/threat-model.ts";
export { grad, vjp } from "../graphs/autodiff/grad.ts";
export { type ReadModel, type ReadOptions, readModel } from "../graphs/import/read.ts";
export { crossEntropy } from "../graphs/losses/cross-entropy.ts";
export { dlr, margin } from "../graphs/losses/margin.ts";
export { klDivergence } from "../graphs/losses/trades.ts";
export type { DType } from "../graphs/onnx/dtype.ts";
export { GraphError } from "../graphs/onnx/error.ts";
export { constant, input, named, scalar, type Type, Value } from "../graphs/onnx/graph.ts";
export { float32, type Tensor, tensor, zeros } from "../graphs/onnx/tensor.ts";
export type { Model } from "../graphs/onnx/write.ts";
export * as ops from "../graphs/ops/public.ts";
export type { ImageLoss } from "../graphs/steps/evaluate.ts";
export { compile } from "../graphs/steps/step.ts";
export { portable } from "../graphs/targets/portable.ts";
// Verbs.
export { type ClusterFigures, type ClusterResult, cluster } from "./cluster/cluster.ts";
export { type CompareResult, compare } from "./compare/compare.ts";
export { type DemoResult, demo } from "./compare/demo.ts";
// Data, models and files.
export { type Dataset, type DatasetOptions, loadDataset } from "./data/dataset.ts";
export { type ExportResult, exportModel } from "./deploy/export.ts";
export { type ImportResult, importWeights } from "./deploy/import.ts";
export { type DoctorResult, doctor } from "./engine/doctor.ts";
export { createSession, type Session, type SessionOptions } from "./engine/session.ts";
export { RequestError, RunError } from "./errors.ts";
export type { AttackedImage, AttackResult, OwnAttack, Query } from "./evaluate/attacks/attack.ts";
export { type EvaluateResult, evaluate } from "./evaluate/evaluate.ts";
export { readSafetensors, writeSafetensors } from "./files/safetensors.ts";
export { type ClassifierOptions, type LoadedClassifier, loadClassifier } from "./models/classifier.ts";
export type { Kit, Plugin, PluginParts } from "./plugins/plugins.ts";
export { type ReportResult, report } from "./report/verb.ts";
export { type SmokeResult, smoke } from "./smoke/smoke.ts";
export { type FinetuneResult, finetune } from "./train/finetune.ts";
export { type HardenResult, harden } from "./train/harden.ts";
export { type PretrainResult, pretrain } from "./train/pretrain.ts";
export { type StepResult, step } from "./train/step.ts";
export type { ProgressLine, ProgressOptions, ProgressUpdate, Reporter } from "./verbs/reporter.ts";
export { Interrupted, type Verb, type VerbOptions } from "./verbs/verb.ts";
