/** Runs attacks on many images side by side, their oracle in common batches. */
import type { Answer, Attack, AttackResult, Attempt, Attempts, Query } from "./attack.ts";
import type { Oracle } from "./oracle.ts";

/**
 * Images that make a run worth its cost: a ResNet-18 of width 64 answers 4 in half the time of 16 (two cores of an EPYC with
 * AVX-512), so later attempts fill what is missing.
 */
const WORTHWHILE = 16;

/**
 * The same for oracle ahead, some of which are asked in vain: 8 images take 1.8 times as long as 3 at width 64, 16 take 3.2
 * times as long.
 */
const WORTHWHILE_AHEAD = 8;

/**
 * Queries and those ahead of each that go together where there are more of them: Square takes about one proposal in twenty, and what was
 * asked behind it is in vain. At width 16 five images of a replica take 0.94 of the time so (two cores of an Intel Xeon).
 */
const AHEAD_OF_EACH = 3;

/** Attacks for each replica from which on they are dealt out. */
const FEW = 2;

/** After so many runs of one kind and size in a row, the next ones are taken to be alike. */
const STEADY = 50;

/** A query that waits; `attempt` is -1 before there are attempts. */
interface PendingQuery {
  readonly attack: number;
  readonly attempt: number;
  readonly steps: Generator<Query, AttackResult | Attempts, Answer>;
  readonly query: Query;
}

/** How far the attempts at an image are. */
interface AttemptState {
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

/** An image that a query offers ahead, with the place of that query in its batch. */
interface Offer {
  readonly place: number;
  readonly x: Float32Array;
}

/** Images that queries offer ahead, one of each in turn, until so many go together. */
const offersAhead = (asked: readonly PendingQuery[], together: number): Offer[] => {
  const chosen: Offer[] = [];
  let offers = asked.flatMap(({ query }, place) =>
    query.kind === "logits" && query.ahead !== undefined ? [{ place, images: query.ahead }] : [],
  );
  while (offers.length > 0 && asked.length + chosen.length < together) {
    offers = offers.slice(0, together - asked.length - chosen.length).filter(({ place, images }) => {
      const next = images.next();
      if (!next.done) chosen.push({ place, x: next.value });
      return !next.done;
    });
  }
  return chosen;
};

/** The attempt that counts, with what was spent up to it. */
const outcome = ({ ended, queries }: AttemptState, counts: number): AttackResult => {
  const made = Array.from({ length: counts + 1 }, (_, i) => ended.get(i) as AttackResult);
  return {
    ...made[counts]!,
    queries: made.reduce((sum, result) => sum + result.queries, queries),
    zeroGradient: made.some(({ zeroGradient }) => zeroGradient),
  };
};

/** Called after each run of the model with what was asked. */
export type AfterRun = (kind: Query["kind"], images: number) => Promise<void> | void;

/** The kind that most of the waiting queries are of, the first of equal ones; undefined where none waits. */
const mostAsked = (waiting: readonly PendingQuery[]): Query["kind"] | undefined => {
  const counts = new Map<Query["kind"], number>();
  for (const { query } of waiting) counts.set(query.kind, (counts.get(query.kind) ?? 0) + 1);
  let [chosen, largest]: [Query["kind"] | undefined, number] = [undefined, 0];
  for (const [kind, count] of counts) if (count > largest) [chosen, largest] = [kind, count];
  return chosen;
};

/** Attacks that one oracle answers. */
class AttackQueue {
  readonly #oracle: Oracle;
  readonly #results: (AttackResult | undefined)[];
  readonly #states = new Map<number, AttemptState>();
  #waiting: PendingQuery[] = [];

  constructor(attacks: readonly Attack[], oracle: Oracle) {
    this.#oracle = oracle;
    this.#results = new Array<AttackResult | undefined>(attacks.length);
    attacks.forEach((attack, at) => {
      if ("attempts" in attack) this.#pursue(at, attack);
      else this.#advance({ attack: at, attempt: -1, steps: attack });
    });
  }

  /** Answers queries until every attack has ended. */
  async run(afterRun: AfterRun): Promise<AttackResult[]> {
    const { batch } = this.#oracle;
    let [last, inRow] = ["", 0];
    for (;;) {
      this.#fill();
      const kind = mostAsked(this.#waiting);
      if (kind === undefined) return this.#results as AttackResult[];
      const asked = this.#waiting.filter(({ query }) => query.kind === kind).slice(0, batch);
      const taken = new Set(asked);
      this.#waiting = this.#waiting.filter((one) => !taken.has(one));
      const worthwhile = Math.min((1 + AHEAD_OF_EACH) * asked.length, WORTHWHILE);
      const room = Math.max(this.#oracle.rows(asked.length), Math.min(Math.max(WORTHWHILE_AHEAD, worthwhile), batch));
      const ahead = offersAhead(asked, room);
      const queries = [...asked.map(({ query }) => query), ...ahead.map(({ x }) => ({ kind: "logits", x }) as const)];
      const now = `${kind} ${queries.length}`;
      inRow = now === last ? inRow + 1 : 0;
      last = now;
      this.#deliver(asked, ahead, await this.#oracle.answer(queries, inRow > STEADY));
      await afterRun(kind, queries.length);
    }
  }

  #deliver(asked: readonly PendingQuery[], ahead: readonly Offer[], answers: readonly Answer[]): void {
    const more = ahead.map((offer, k) => ({ ...offer, logits: answers[asked.length + k]!.logits }));
    asked.forEach((one, i) => {
      if (one.attempt > (this.#states.get(one.attack)?.last ?? -1)) return;
      this.#advance(one, { ...answers[i]!, ahead: more.filter(({ place }) => place === i) });
    });
  }

  #advance({ attack, attempt, steps }: Omit<PendingQuery, "query">, answer?: Answer): void {
    const step = answer === undefined ? steps.next() : steps.next(answer);
    if (!step.done) this.#waiting.push({ attack, attempt, steps, query: step.value });
    else if ("attempts" in step.value) this.#pursue(attack, step.value);
    else if (attempt < 0) this.#results[attack] = step.value;
    else this.#end(attack, attempt, step.value);
  }

  #pursue(attack: number, { attempts, queries }: Attempts): void {
    const state: AttemptState = { attempts, begun: 0, turn: 0, last: attempts.length - 1, ended: new Map(), queries };
    this.#states.set(attack, state);
    this.#begin(attack, state);
  }

  #begin(attack: number, state: AttemptState): void {
    const attempt = state.begun++;
    this.#advance({ attack, attempt, steps: state.attempts[attempt]! });
  }

  #end(attack: number, attempt: number, result: AttackResult): void {
    const state = this.#states.get(attack) as AttemptState;
    state.ended.set(attempt, result);
    if (result.broken) {
      state.last = attempt;
      this.#waiting = this.#waiting.filter((other) => other.attack !== attack || other.attempt < attempt);
    }
    while (state.ended.has(state.turn)) state.turn++;
    if (state.turn > state.last) {
      this.#results[attack] = outcome(state, state.last);
      this.#states.delete(attack);
    } else if (state.turn === state.begun) this.#begin(attack, state);
  }

  /** Begins attempts ahead of their turn, the least far ahead first. */
  #fill(): void {
    for (;;) {
      const count = this.#waiting.length;
      const room = Math.max(this.#oracle.rows(count), Math.min(WORTHWHILE, this.#oracle.batch));
      if (count === 0 || count >= room) return;
      let [next, ahead] = [-1, Number.POSITIVE_INFINITY];
      for (const [attack, { begun, turn, last }] of this.#states)
        if (begun <= last && begun - turn < ahead) [next, ahead] = [attack, begun - turn];
      if (next < 0) return;
      this.#begin(next, this.#states.get(next) as AttemptState);
    }
  }
}

/** Attacks that one oracle answers, each round the queries of one kind. */
export const runQueue = (attacks: readonly Attack[], oracle: Oracle, afterRun: AfterRun): Promise<AttackResult[]> =>
  new AttackQueue(attacks, oracle).run(afterRun);

/**
 * Deals things out to the replicas of an oracle, a share each. Few are not dealt out: replicas share what is asked in each round, or one
 * would wait for the other that has the last image.
 * @param run what is done with a share, or with all by the oracle itself
 * @returns results in the order of the things
 */
export const dealOut = async <T, R>(
  things: readonly T[],
  oracle: Oracle,
  run: (share: readonly T[], oracle: Oracle) => Promise<readonly R[]>,
): Promise<R[]> => {
  const { replicas } = oracle;
  const count = replicas.length;
  if (things.length < FEW * count) return [...(await run(things, oracle))];
  const found = await Promise.all(
    replicas.map((replica, k) =>
      run(
        things.filter((_, at) => at % count === k),
        replica,
      ),
    ),
  );
  return things.map((_, at) => found[at % count]![Math.floor(at / count)]!);
};

/**
 * Runs attacks, on as many replicas of the oracle as answer side by side. Each round of a replica answers the queries of one
 * kind, the most asked one; where there is room, attempts begin before those ahead of them have ended. What comes of them is
 * used only if their turn comes, so that results are those of attempts made one after the other.
 * @param afterRun what it throws ends the attacks
 * @returns results in the order of the attacks
 */
export const runAttacks = (
  attacks: readonly Attack[],
  oracle: Oracle,
  afterRun: AfterRun = () => {},
): Promise<AttackResult[]> => dealOut(attacks, oracle, (share, replica) => runQueue(share, replica, afterRun));
