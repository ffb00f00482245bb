/** The methods of pretraining, by the name that `pretrain --method` takes. */

import type { Step } from "../steps/step.ts";
import { aInfoNce, aInfoNceHn, aInfoNceIp } from "./a-infonce.ts";
import { acl } from "./acl.ts";
import { advcl } from "./advcl.ts";
import { aclAir, dynaclAir } from "./air.ts";
import { apDpe } from "./ap-dpe.ts";
import { byorl } from "./byorl.ts";
import { deacl } from "./deacl.ts";
import { dynacl } from "./dynacl.ts";
import type { Method, StepOptions } from "./method.ts";
import { rocl } from "./rocl.ts";
import { simclr } from "./simclr.ts";

/** Each with the type of its own options; a program that knows a method by name only takes it from `methods`. */
const table = {
  advcl,
  simclr,
  acl,
  rocl,
  byorl,
  "ap-dpe": apDpe,
  dynacl,
  deacl,
  "acl-air": aclAir,
  "dynacl-air": dynaclAir,
  "a-infonce": aInfoNce,
  "a-infonce-ip": aInfoNceIp,
  "a-infonce-hn": aInfoNceHn,
} satisfies Record<string, Method>;

export type MethodName = keyof typeof table;
export const methodNames = Object.keys(table) as readonly MethodName[] as readonly [MethodName, ...MethodName[]];

/** A method that is known by name only: `build` throws where one of its own options is missing. */
export interface NamedMethod extends Method {
  build(options: StepOptions & Readonly<Record<string, unknown>>): Step;
}

const untyped: Readonly<Record<MethodName, Method>> = table;
export const methods: Readonly<Record<MethodName, NamedMethod>> = untyped;
