/** Runs attacks on many images side by side, their questions in common batches. */
import type { Answer, Attack, AttackResult, Attempt, Attempts, Query } from "./attack.ts";
import type { Questions } from "./questions.ts";

/**
 * Images that make a run worth its cost: a ResNet-18 of width 64 answers 4 in half the time of 16 (two cores of an EPYC with
 * AVX-512), so later attempts fill what is missing.
 */
const WORTHWHILE = 16;

/**
 * The same for questions ahead, some of which are asked in vain: 8 images take 1.8 times as long as 3 at width 64, 16 take 3.2
 * times as long.
 */
const WORTHWHILE_AHEAD = 8;

/** After so many runs of one kind and size in a row, the next ones are taken to be alike. */
const STEADY = 50;

/** A question that waits; `attempt` is -1 before there are attempts. */
interface Waiting {
  readonly at: number;
  readonly attempt: number;
  readonly steps: Generator<Query, AttackResult | Attempts, Answer>;
  readonly query: Query;
}

/** How far an image is. */
interface Course {
  readonly attempts: readonly Attempt[];
  /** Attempts that have begun. */
  begun: number;
  /** The first attempt that has not ended. */
  turn: number;
  /** The last attempt that may count: none after one that broke the image. */
  last: number;
  /** What attempts ended with, by attempt. */
  readonly ended: Map<number, AttackResult>;
  readonly queries: number;
}

/** Images that questions offer ahead, one of each in turn, until so many are asked together; with the place of their question. */
const aheadOf = (asked: readonly Waiting[], together: number): { readonly of: number; readonly x: Float32Array }[] => {
  const chosen: { of: number; x: Float32Array }[] = [];
  let offers = asked.flatMap(({ query }, of) =>
    query.kind === "logits" && query.ahead !== undefined ? [{ of, images: query.ahead }] : [],
  );
  while (offers.length > 0 && asked.length + chosen.length < together) {
    offers = offers.slice(0, together - asked.length - chosen.length).filter(({ of, images }) => {
      const next = images.next();
      if (!next.done) chosen.push({ of, x: next.value });
      return !next.done;
    });
  }
  return chosen;
};

/** The attempt that counts, with what was spent up to it. */
const outcome = ({ ended, queries }: Course, counts: number): AttackResult => {
  const made = Array.from({ length: counts + 1 }, (_, i) => ended.get(i) as AttackResult);
  return {
    ...(made[counts] as AttackResult),
    queries: made.reduce((sum, result) => sum + result.queries, queries),
    zeroGradient: made.some(({ zeroGradient }) => zeroGradient),
  };
};

type Rest = (kind: Query["kind"], images: number) => Promise<void> | void;

/**
 * Runs attacks, in as many lanes as answer side by side. Each round of a lane answers the questions of one kind, the most asked one; where there is room, attempts begin before
 * those ahead of them have ended. What comes of them is used only if their turn comes, so that results are those of attempts
 * made one after the other.
 * @param rest called after each run of the model with what was asked; what it throws ends the attacks
 * @returns results in the order of the attacks
 */
export const runAttacks = async (
  attacks: readonly Attack[],
  questions: Questions,
  rest: Rest = () => {},
): Promise<AttackResult[]> => {
  const { lanes } = questions;
  const shares = lanes.map((_, lane) => Array.from(attacks.keys()).filter((at) => at % lanes.length === lane));
  const found = await Promise.all(
    lanes.map((lane, k) =>
      runInLane(
        (shares[k] as number[]).map((at) => attacks[at] as Attack),
        lane,
        rest,
      ),
    ),
  );
  const results = new Array<AttackResult>(attacks.length);
  for (const [k, share] of shares.entries())
    for (const [i, at] of share.entries()) results[at] = found[k]?.[i] as AttackResult;
  return results;
};

const runInLane = async (attacks: readonly Attack[], questions: Questions, rest: Rest): Promise<AttackResult[]> => {
  const results = new Array<AttackResult | undefined>(attacks.length);
  const courses = new Map<number, Course>();
  let waiting: Waiting[] = [];

  const advance = ({ at, attempt, steps }: Omit<Waiting, "query">, answer?: Answer): void => {
    const step = answer === undefined ? steps.next() : steps.next(answer);
    if (!step.done) waiting.push({ at, attempt, steps, query: step.value });
    else if ("attempts" in step.value) pursue(at, step.value);
    else if (attempt < 0) results[at] = step.value;
    else end(at, attempt, step.value);
  };
  const pursue = (at: number, { attempts, queries }: Attempts): void => {
    const course: Course = { attempts, begun: 0, turn: 0, last: attempts.length - 1, ended: new Map(), queries };
    courses.set(at, course);
    begin(at, course);
  };
  const begin = (at: number, course: Course): void => {
    const attempt = course.begun++;
    advance({ at, attempt, steps: course.attempts[attempt] as Attempt });
  };
  const end = (at: number, attempt: number, result: AttackResult): void => {
    const course = courses.get(at) as Course;
    course.ended.set(attempt, result);
    if (result.broken) {
      course.last = attempt;
      waiting = waiting.filter((other) => other.at !== at || other.attempt < attempt);
    }
    while (course.ended.has(course.turn)) course.turn++;
    if (course.turn > course.last) {
      results[at] = outcome(course, course.last);
      courses.delete(at);
    } else if (course.turn === course.begun) begin(at, course);
  };
  /** Begins attempts ahead of their turn, the least far ahead first. */
  const fill = (): void => {
    for (;;) {
      const room = Math.max(questions.rows(waiting.length), Math.min(WORTHWHILE, questions.batch));
      if (waiting.length === 0 || waiting.length >= room) return;
      let [next, ahead] = [-1, Number.POSITIVE_INFINITY];
      for (const [at, { begun, turn, last }] of courses)
        if (begun <= last && begun - turn < ahead) [next, ahead] = [at, begun - turn];
      if (next < 0) return;
      begin(next, courses.get(next) as Course);
    }
  };

  attacks.forEach((attack, at) => {
    if ("attempts" in attack) pursue(at, attack);
    else advance({ at, attempt: -1, steps: attack });
  });
  let [last, inRow] = ["", 0];
  for (;;) {
    fill();
    const counts = new Map<Query["kind"], number>();
    for (const { query } of waiting) counts.set(query.kind, (counts.get(query.kind) ?? 0) + 1);
    const [most] = [...counts].reduce((a, b) => (b[1] > a[1] ? b : a), [undefined, 0] as [
      Query["kind"] | undefined,
      number,
    ]);
    if (most === undefined) return results as AttackResult[];
    const asked = waiting.filter(({ query }) => query.kind === most).slice(0, questions.batch);
    const taken = new Set(asked);
    waiting = waiting.filter((one) => !taken.has(one));
    const room = Math.max(questions.rows(asked.length), Math.min(WORTHWHILE_AHEAD, questions.batch));
    const ahead = aheadOf(asked, room);
    const queries = [...asked.map(({ query }) => query), ...ahead.map(({ x }) => ({ kind: "logits", x }) as const)];
    const now = `${most} ${queries.length}`;
    inRow = now === last ? inRow + 1 : 0;
    last = now;
    const answers = await questions.answer(queries, inRow > STEADY);
    const more = ahead.map(({ of, x }, k) => ({ of, x, logits: (answers[asked.length + k] as Answer).logits }));
    asked.forEach((one, i) => {
      if (one.attempt > (courses.get(one.at)?.last ?? -1)) return;
      advance(one, { ...(answers[i] as Answer), ahead: more.filter(({ of }) => of === i) });
    });
    await rest(most, queries.length);
  }
};
