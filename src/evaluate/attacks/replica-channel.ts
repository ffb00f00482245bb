import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import type { SessionOptions } from "../../engine/session.ts";
import type { AttackSettings } from "../types.ts";
import type { AttackedImage, Query } from "./attack.ts";
import type { QueriedAttack } from "./attack-of.ts";
import type { OracleOptions, PgdAttack } from "./oracle.ts";
import type { OracleProgram } from "./programs.ts";

/** What the thread of a replica is of. */
export interface ReplicaData {
  readonly oracle: Omit<OracleOptions, "load">;
  readonly session: SessionOptions;
}

/** What a replica is asked, one thing after the other. */
export type ReplicaQuestion =
  /** Queries of one kind: their images [n,C,H,W] as the value `x`. */
  | {
      readonly kind: "answer";
      readonly asked: Query["kind"];
      readonly images: Tensor;
      readonly labels: readonly number[];
      readonly targets: readonly number[];
      readonly steady: boolean | undefined;
    }
  | {
      readonly kind: "pgd";
      readonly attack: PgdAttack;
      readonly clean: Float32Array;
      readonly start: Float32Array;
      readonly labels: readonly number[];
    }
  | {
      readonly kind: "attack";
      readonly attack: QueriedAttack;
      readonly images: readonly AttackedImage[];
      readonly settings: AttackSettings;
    }
  | { readonly kind: "release" };

/** A question, the bytes of a program that was asked for (none where it can't be built), or that the attack that was asked for is to end. */
export type ReplicaRequest =
  | { readonly kind: "question"; readonly id: number; readonly question: ReplicaQuestion }
  | { readonly kind: "program"; readonly program: number; readonly bytes?: Uint8Array }
  | { readonly kind: "stop" };

/** What a question came to, a program that is needed, or what an attack has done since it was last told. */
export type ReplicaReply =
  | { readonly kind: "answer"; readonly id: number; readonly result: unknown }
  | { readonly kind: "error"; readonly id: number; readonly message: string; readonly program?: OracleProgram }
  | { readonly kind: "stopped"; readonly id: number }
  | { readonly kind: "program"; readonly program: number; readonly wanted: OracleProgram }
  | { readonly kind: "passed"; readonly passes: number; readonly images: number };

/** Answers to many queries: values `logits` [n,classes], of a loss `loss` [n] and `gradient` [n,C,H,W] too; which gradients were not finite. */
export interface PackedAnswers {
  readonly values: Readonly<Record<string, Tensor>>;
  readonly infinite: readonly boolean[];
}
