/**
 * The library: graphs of ONNX ops as values, their gradients, attacks on them, reading and writing of ONNX files, and sessions
 * that run them. Commands are made of the same parts; only what is here is kept from one version to the next.
 */
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
export * as ops from "../graphs/ops/index.ts";
export { compile } from "../graphs/steps/step.ts";
export { portable } from "../graphs/targets/portable.ts";
export { type Dataset, type DatasetOptions, loadDataset } from "./data/dataset.ts";
export { createSession, type Session, type SessionOptions } from "./engine/session.ts";
export { RequestError, RunError } from "./errors.ts";
export { type ClassifierOptions, type LoadedClassifier, loadClassifier } from "./evaluate/classifier.ts";
export { readSafetensors, writeSafetensors } from "./files/safetensors.ts";
