/** The thread of a replica (replica.ts): an oracle whose sessions live here, and attacks that ask it without a message. */
import { parentPort, workerData } from "node:worker_threads";
import { float32 } from "../../../graphs/onnx/tensor.ts";
import { handedOver, handover } from "../../engine/handover.ts";
import { createSession, type Session } from "../../engine/session.ts";
import type { Answer, Query } from "./attack.ts";
import { attackOf } from "./attack-of.ts";
import { ball } from "./ball.ts";
import { oracleOf } from "./oracle.ts";
import type { OracleProgram } from "./programs.ts";
import type { PackedAnswers, ReplicaData, ReplicaQuestion, ReplicaReply, ReplicaRequest } from "./replica-channel.ts";
import { packed } from "./rows.ts";
import { runQueue } from "./runner.ts";

const port = parentPort!;
const data = workerData as ReplicaData;
const tell = (reply: ReplicaReply): void => port.postMessage(reply);

/** An attack was asked to end. */
class Stopped extends Error {}

/** What failed, and in which program. */
class ProgramError extends Error {
  readonly program: OracleProgram;
  constructor(error: unknown, program: OracleProgram) {
    super(error instanceof Error ? error.message : String(error));
    this.program = program;
  }
}

/** Those who wait for the bytes of a program. */
const waiting = new Map<number, { made(bytes: Uint8Array): void; failed(error: Error): void }>();
let asked = 0;

/** Loads a program that the main thread builds. What goes wrong in it, then or later, says which it was. */
const load = async (program: OracleProgram): Promise<Session> => {
  const naming = (error: unknown): never => {
    throw new ProgramError(error, program);
  };
  const number = asked++;
  const bytes = await new Promise<Uint8Array>((made, failed) => {
    waiting.set(number, { made, failed });
    tell({ kind: "program", program: number, wanted: program });
  });
  const session = await createSession(bytes, data.session).catch(naming);
  return { ...session, run: (feeds, fetches) => session.run(feeds, fetches).catch(naming) };
};

const oracle = oracleOf({ ...data.oracle, load });
const results = handover();

const matrix = (rows: readonly Float32Array[]) => float32([rows.length, rows[0]?.length ?? 0], packed(rows));

const told = (answers: readonly Answer[]): PackedAnswers => {
  const losses = Float32Array.from(answers, ({ loss }) => loss);
  const values = {
    logits: matrix(answers.map(({ logits }) => logits)),
    loss: float32([answers.length], losses),
    gradient: matrix(answers.map(({ gradient }) => gradient)),
  };
  return { values: handedOver(results, values), infinite: answers.map(({ infinite }) => infinite === true) };
};

const answer = async (question: ReplicaQuestion & { kind: "answer" }): Promise<PackedAnswers> => {
  const { asked: kind, images, labels, targets, steady } = question;
  const pixels = images.shape[1]!;
  const all = images.data as Float32Array;
  const queries = Array.from({ length: images.shape[0]! }, (_, i): Query => {
    const x = all.subarray(i * pixels, (i + 1) * pixels);
    return kind === "logits" ? { kind, x } : { kind, x, label: labels[i]!, target: targets[i]! };
  });
  return told(await oracle.answer(queries, steady));
};

let stopped = false;
/** Milliseconds between two looks at what came, and two words of what was done. */
const PERIOD = 50;

const attack = async ({ attack, images, settings }: ReplicaQuestion & { kind: "attack" }) => {
  const around = ball(settings.norm, settings.eps);
  const attacks = images.map((image) => attackOf(attack, image, around, settings));
  let [passes, answered, last] = [0, 0, performance.now()];
  const report = (): void => {
    if (answered > 0) tell({ kind: "passed", passes, images: answered });
    [passes, answered, last] = [0, 0, performance.now()];
  };
  const found = await runQueue(attacks, oracle, async (kind, count) => {
    passes += (kind === "logits" ? 1 : 2) * count;
    answered += count;
    if (performance.now() - last < PERIOD) return;
    report();
    // Runs of the model keep messages from coming in.
    await new Promise((done) => setImmediate(done));
    if (stopped) throw new Stopped();
  });
  report();
  return found;
};

const resultOf = async (question: ReplicaQuestion): Promise<unknown> => {
  switch (question.kind) {
    case "answer":
      return answer(question);
    case "pgd":
      return oracle.pgd(question.attack, question.clean, question.start, question.labels);
    case "attack":
      return attack(question);
    case "release":
      return oracle.release();
  }
};

const replyTo = async (id: number, question: ReplicaQuestion): Promise<ReplicaReply> => {
  try {
    return { kind: "answer", id, result: await resultOf(question) };
  } catch (error) {
    if (error instanceof Stopped) return { kind: "stopped", id };
    const message = error instanceof Error ? error.message : String(error);
    return { kind: "error", id, message, ...(error instanceof ProgramError && { program: error.program }) };
  }
};

let turn: Promise<void> = Promise.resolve();
port.on("message", (request: ReplicaRequest) => {
  if (request.kind === "stop") stopped = true;
  else if (request.kind === "question") {
    if (request.question.kind === "attack") stopped = false;
    turn = turn.then(async () => tell(await replyTo(request.id, request.question)));
  } else {
    const { program, bytes } = request;
    if (bytes === undefined) waiting.get(program)?.failed(new Error("a program could not be built"));
    else waiting.get(program)?.made(bytes);
    waiting.delete(program);
  }
});
