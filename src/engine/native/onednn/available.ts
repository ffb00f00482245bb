/** Whether convolutions in bfloat16 can be computed here, and the ops that do. */
import type { Model } from "../../../../graphs/onnx/write.ts";
import { RequestError } from "../../../errors.ts";
import { missingApi } from "../api.ts";
import type { Kernels } from "../custom-op.ts";
import { installCommand } from "../foreign.ts";
import { loadKoffi } from "../library.ts";
import { type Onednn, openOnednn } from "./library.ts";
import { onednnOps } from "./ops.ts";
import { Primitives } from "./primitives.ts";

export interface OnednnTools {
  readonly missingApi: () => string | undefined;
  readonly openOnednn: (threads: number) => Onednn | undefined;
}
const usual: OnednnTools = { missingApi, openOnednn };

const install = (): string => `run  ${installCommand("onednn")}  or set ADVCL_ONEDNN`;

/** Why bfloat16 cannot be computed on this processor, in one sentence with a remedy; undefined where it can. */
export const missingBfloat16 = (threads: number, tools: OnednnTools = usual): string | undefined => {
  const api = tools.missingApi();
  if (api !== undefined) return api;
  const onednn = tools.openOnednn(threads);
  if (onednn === undefined) return `oneDNN 3 is not here: ${install()}`;
  return onednn.hasBfloat16 ? undefined : "this processor has no instructions for it (AVX-512 BF16 or AMX)";
};

/** What there is to say of it on a machine, for `doctor`. */
export const bfloat16Report = (threads: number): { readonly works: boolean; readonly message: string } => {
  const missing = missingBfloat16(threads);
  if (missing !== undefined) return { works: false, message: `cannot be computed on this processor: ${missing}` };
  const { version, name } = openOnednn(threads) as Onednn;
  return { works: true, message: `by oneDNN ${version} (${name}), with --precision bfloat16` };
};

/** Made once for all models: what oneDNN compiled is kept with them. */
let primitives: Primitives | undefined;

/** The ops of a model that oneDNN computes. Throws a RequestError where it is not here. */
export const onednnKernels = (model: Model, threads: number): Kernels => {
  const onednn = openOnednn(threads);
  if (onednn === undefined) throw new RequestError(`oneDNN 3 is not here: ${install()}`);
  primitives ??= new Primitives(onednn);
  const koffi = loadKoffi();
  return onednnOps(model, primitives, (buffer) => koffi.address(buffer));
};
