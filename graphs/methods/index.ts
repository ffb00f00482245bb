/** The methods of pretraining, by the name that `pretrain --method` takes. */
import type { PretrainOptions } from "../steps/pretrain.ts";
import { acl } from "./acl.ts";
import { advcl } from "./advcl.ts";
import { type ApDpeOptions, apDpe } from "./ap-dpe.ts";
import { byorl } from "./byorl.ts";
import { deacl } from "./deacl.ts";
import { dynacl } from "./dynacl.ts";
import type { Method } from "./method.ts";
import { rocl } from "./rocl.ts";
import { simclr } from "./simclr.ts";

export const methodNames = ["advcl", "simclr", "acl", "rocl", "byorl", "ap-dpe", "dynacl", "deacl"] as const;
export type MethodName = (typeof methodNames)[number];

/** What any method's step may be built with. */
export type AnyMethodOptions = PretrainOptions & ApDpeOptions;

export const methods: Readonly<Record<MethodName, Method<AnyMethodOptions>>> = {
  advcl,
  simclr,
  acl,
  rocl,
  byorl,
  "ap-dpe": apDpe,
  dynacl,
  deacl,
};
