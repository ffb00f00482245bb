import type { Budget } from "./budget.ts";

/** What a pickle calls to make an object. */
export interface PickleClass {
  /** Makes the object of a call; it keeps the arguments rather than working through them. */
  make(args: readonly unknown[]): unknown;
}

/** An object that a pickle may give a state to. */
export abstract class PickleObject {
  /** Keeps the state rather than working through it: a hostile pickle may give it over and over. */
  abstract setState(state: unknown): void;
}

/** What stands for an object of a class that is of no interest: it takes whatever the pickle does to it. */
export class Inert extends PickleObject {
  /** `module.name` of its class. */
  readonly className: string;
  constructor(className: string) {
    super();
    this.className = className;
  }
  setState(): void {}
}

/** An Inert is made by calling what stands for its class. */
export class InertClass implements PickleClass {
  readonly className: string;
  constructor(className: string) {
    this.className = className;
  }
  make(): Inert {
    return new Inert(this.className);
  }
}

export interface PickleHandlers {
  /** What a class or function named in the pickle is; throws an Error where it is not to be there. */
  resolve(module: string, name: string): PickleClass;
  /** What a persistent id stands for; without it they are refused. */
  persistent?(id: unknown): unknown;
}

/** Characters of the longest name of a class, or key of Python 2. */
export const longestName = 1024;

/** Text of a str, or of Python 2's, which are bytes (taken as latin 1). Undefined for what is neither or is too long. */
export const textOf = (value: unknown): string | undefined => {
  if (typeof value === "string") return value;
  if (!(value instanceof Uint8Array) || value.length > longestName) return undefined;
  return Buffer.from(value.buffer, value.byteOffset, value.length).toString("latin1");
};

const keyOf = (key: unknown): unknown => {
  if (!(key instanceof Uint8Array)) return key;
  const text = textOf(key);
  if (text === undefined) throw new Error(`a key of ${key.length} bytes`);
  return text;
};

/** Bytes that values take in memory, about: what an opcode of one byte may cost. */
const slotBytes = 8;
const entryBytes = 48;
const arrayBytes = 64;
const tableBytes = 320;

/** The stack, marks and memo of the machine, and what its opcodes do to them. */
export class PickleStack {
  readonly #handlers: PickleHandlers;
  readonly #memo = new Map<unknown, unknown>();
  readonly #marks: unknown[][] = [];
  #stack: unknown[] = [];

  readonly #budget: Budget;

  constructor(handlers: PickleHandlers, budget: Budget) {
    this.#handlers = handlers;
    this.#budget = budget;
  }

  /** Takes from the budget what a value of one byte in the file takes in memory. */
  #charge(bytes: number): void {
    this.#budget.take(bytes, "its values");
  }

  push(value: unknown): void {
    this.#charge(slotBytes);
    this.#stack.push(value);
  }

  /** Pushes a container that was made for it. */
  fresh(value: unknown[] | Map<unknown, unknown> | Set<unknown>): void {
    this.#charge(Array.isArray(value) ? arrayBytes : tableBytes);
    this.push(value);
  }

  pop(): unknown {
    if (this.#stack.length === 0) throw new Error("it takes more than it made");
    return this.#stack.pop();
  }

  top(): unknown {
    const value = this.pop();
    this.#stack.push(value);
    return value;
  }

  mark(): void {
    this.#charge(arrayBytes);
    this.#marks.push(this.#stack);
    this.#stack = [];
  }

  /** What was pushed since the last mark. */
  marked(): unknown[] {
    const values = this.#stack;
    const before = this.#marks.pop();
    if (before === undefined) throw new Error("a mark is missing");
    this.#stack = before;
    return values;
  }

  /** Takes off a value, or a mark where there is no value above it. */
  drop(): void {
    if (this.#stack.length === 0 && this.#marks.length > 0) this.marked();
    else this.pop();
  }

  /** The top `count` values as a tuple. */
  tuple(count: number): void {
    const values = Array.from({ length: count }, () => this.pop());
    this.fresh(values.reverse());
  }

  get(index: unknown): void {
    if (!this.#memo.has(index)) throw new Error(`nothing was kept under ${index}`);
    this.push(this.#memo.get(index));
  }

  put(index: unknown): void {
    this.#charge(entryBytes);
    this.#memo.set(index, this.top());
  }

  memoize(): void {
    this.put(this.#memo.size);
  }

  append(values: readonly unknown[]): void {
    const list = this.top();
    if (Array.isArray(list)) for (const value of values) list.push(value);
    else if (!(list instanceof PickleObject)) throw new Error("values are appended to what is no list");
  }

  add(values: readonly unknown[]): void {
    const set = this.top();
    this.#charge(entryBytes * values.length);
    if (set instanceof Set) for (const value of values) set.add(value);
    else if (!(set instanceof PickleObject)) throw new Error("values are added to what is no set");
  }

  /** Keys and values in turn, into the dictionary below them. */
  setItems(items: readonly unknown[]): void {
    const dictionary = this.top();
    if (items.length % 2 !== 0) throw new Error("a key has no value");
    if (dictionary instanceof Map)
      for (let i = 0; i < items.length; i += 2) {
        this.#charge(entryBytes);
        dictionary.set(keyOf(items[i]), items[i + 1]);
      }
    else if (!(dictionary instanceof PickleObject)) throw new Error("keys are set on what is no dictionary");
  }

  dictionary(items: readonly unknown[]): void {
    this.fresh(new Map());
    this.setItems(items);
  }

  frozenSet(values: readonly unknown[]): void {
    this.#charge(entryBytes * values.length);
    this.fresh(new Set(values));
  }

  stackName(name: unknown, module: unknown): void {
    this.name(module, name);
  }

  name(module: unknown, name: unknown): void {
    const [from, what] = [textOf(module), textOf(name)];
    if (from === undefined || what === undefined || from.length > longestName || what.length > longestName)
      throw new Error("a class has no name");
    this.push(this.#handlers.resolve(from, what));
  }

  call(made: unknown, args: unknown): void {
    if (!(typeof made === "object" && made !== null && "make" in made && Array.isArray(args)))
      throw new Error("it calls what is no class");
    this.#charge(arrayBytes);
    this.push((made as PickleClass).make(args));
  }

  /** Calls a class by name with what was pushed since the last mark. */
  instance(module: string, name: string): void {
    const args = this.marked();
    this.name(module, name);
    this.call(this.pop(), args);
  }

  /** Calls the first of `values` with the others. */
  object([made, ...args]: readonly unknown[]): void {
    this.call(made, args);
  }

  /** Calls the class below the arguments; those by name are left out. */
  reduce(_named?: unknown): void {
    const args = this.pop();
    this.call(this.pop(), args);
  }

  build(): void {
    const state = this.pop();
    const object = this.top();
    // An OrderedDict's attributes (PyTorch's `_metadata`) are of no interest.
    if (object instanceof PickleObject) object.setState(state);
    else if (!(object instanceof Map || object instanceof Set)) throw new Error("a state is given to what has none");
  }

  persistent(id: unknown): void {
    if (this.#handlers.persistent === undefined) throw new Error("it refers to data outside of it");
    this.push(this.#handlers.persistent(id));
  }
}
