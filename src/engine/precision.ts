/** What convolutions and matrix products compute in, and where each is to be had. */
import { RequestError } from "../errors.ts";
import { missingBfloat16, type OnednnTools } from "./native/onednn/available.ts";
import { openOnednn } from "./native/onednn/library.ts";
import type { EngineName, Provider } from "./session-contract.ts";

/** float32 itself; with ten bits (TF32) or float16, on CUDA; bfloat16, on a CPU that has instructions for it. */
export const precisions = ["float32", "tf32", "float16", "bfloat16"] as const;
export type Precision = (typeof precisions)[number];

/** Whether it is a CPU target whose convolutions are in bfloat16; asked for by name, it asks for the precision. */
export const isBfloat16Target = (name: string | undefined): boolean => /^cpu-bfloat16/.test(name ?? "");

/** The one for this processor: chunks of 16 images for those with a matrix unit (AMX), of 32 for others. */
export const bfloat16Target = (threads: number): string =>
  openOnednn(threads)?.hasMatrixUnit === true ? "cpu-bfloat16" : "cpu-bfloat16-32";

export interface PrecisionRequest {
  readonly precision?: Precision | "auto" | undefined;
  readonly target?: string | undefined;
}

/** What was asked for, by its own name or by a target's. Throws a RequestError where the two do not go together. */
export const precisionAsked = ({ precision = "auto", target }: PrecisionRequest): Precision | "auto" => {
  if (isBfloat16Target(target) && precision === "auto") return "bfloat16";
  if (target !== undefined && (precision === "bfloat16") !== isBfloat16Target(target))
    throw new RequestError(`--precision ${precision} is not computed by --target ${target}; leave one of them out`);
  return precision;
};

const onCuda = (asked: Precision | "auto", name: EngineName): Precision => {
  if (asked === "bfloat16")
    throw new RequestError("--precision bfloat16 is for the CPU, and this is cuda; choose --precision float16");
  if (asked === "float32" && name === "binding")
    throw new RequestError(
      "the binding cannot switch TF32 off; choose --engine native, or leave --precision out and set NVIDIA_TF32_OVERRIDE=0",
    );
  return asked === "auto" ? "tf32" : asked;
};

/** What products compute in. Throws a RequestError where the provider, the engine or the machine cannot do what was asked for. */
export const pickPrecision = (
  asked: Precision | "auto",
  provider: Provider,
  name: EngineName,
  threads: number,
  tools?: OnednnTools,
): Precision => {
  if (provider === "cuda") return onCuda(asked, name);
  if (asked === "auto" || asked === "float32") return "float32";
  if (asked !== "bfloat16" || provider !== "cpu") {
    const place = asked === "bfloat16" ? "the CPU" : "CUDA";
    throw new RequestError(`--precision ${asked} is for ${place}, and this is ${provider}; leave it out`);
  }
  if (name === "binding") throw new RequestError("--precision bfloat16 needs --engine native; leave --engine out");
  const missing = missingBfloat16(threads, tools);
  if (missing !== undefined) throw new RequestError(`--precision bfloat16 cannot be computed here: ${missing}`);
  return asked;
};
