import type { CommandEntry } from "../command.ts";

/** The commands in the order of --help. */
export const commands: Readonly<Record<string, CommandEntry>> = {
  demo: {
    summary: "the whole story on built-in images in a few minutes, with a report",
    load: async () => (await import("./demo.ts")).demoCommand,
  },
  pretrain: {
    summary: "train an encoder without labels so that it stays robust",
    load: async () => (await import("./pretrain.ts")).pretrainCommand,
  },
  cluster: {
    summary: "cluster a teacher's features into pseudo-labels",
    load: async () => (await import("./cluster.ts")).clusterCommand,
  },
  finetune: {
    summary: "train a classifier on an encoder, or from the start",
    load: async () => (await import("./finetune.ts")).finetuneCommand,
  },
  evaluate: {
    summary: "accuracy of a classifier on clean, attacked and corrupted images",
    load: async () => (await import("./evaluate.ts")).evaluateCommand,
  },
  compare: {
    summary: "methods under one budget: pretrain, finetune and attack each with several seeds",
    load: async () => (await import("./compare.ts")).compareCommand,
  },
  report: {
    summary: "write what a folder holds as one HTML page: curves, tables, settings",
    load: async () => (await import("./report.ts")).reportCommand,
  },
  export: {
    summary: "write a trained encoder or classifier for other runtimes",
    load: async () => (await import("./export.ts")).exportCommand,
  },
  import: {
    summary: "turn weights in PyTorch's names into a run folder",
    load: async () => (await import("./import.ts")).importCommand,
  },
  harden: {
    summary: "make an ONNX classifier from elsewhere robust on your own images",
    load: async () => (await import("./harden.ts")).hardenCommand,
  },
  serve: {
    summary: "open a trained classifier in the browser, attack it and teach it",
    load: async () => (await import("./serve.ts")).serveCommand,
  },
  smoke: {
    summary: "a whole training in under a minute, for continuous integration",
    load: async () => (await import("./smoke.ts")).smokeCommand,
  },
  doctor: {
    summary: "what this machine can compute on, and how to mend what is missing",
    load: async () => (await import("./doctor.ts")).doctorCommand,
  },
  step: {
    summary: "one AdvCL step on given weights and a given batch, for comparisons",
    load: async () => (await import("./step.ts")).stepCommand,
  },
  bench: {
    summary: "measure the step, the data pipeline or the engine on this machine",
    load: async () => (await import("./bench.ts")).benchCommand,
  },
  config: {
    summary: "print all settings of a command as YAML",
    load: async () => (await import("./config.ts")).configCommand(commands),
  },
  completion: {
    summary: "print what completes commands and flags in bash, zsh or fish",
    load: async () => (await import("./completion.ts")).completionCommand(commands),
  },
};
