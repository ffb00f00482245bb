/** onnxruntime's C API by name: loaded once a process, statuses become errors. */
import { withoutTelemetry } from "../telemetry.ts";
import { type ApiEntry, type ApiName, apiTable, type Kind } from "./api-table.ts";
import { openForGood } from "./foreign.ts";
import { type Koffi, type KoffiLibrary, libraryPath, loadKoffi, type NativeFunction } from "./library.ts";

/** The version of the table that is asked for; onnxruntime 1.24 and all later ones have it. */
const API_VERSION = 24;
/** `ORT_LOGGING_LEVEL_FATAL`: what goes wrong is thrown. */
const FATAL = 4;

/** What onnxruntime said in a status. */
export class OrtError extends Error {
  override readonly name = "OrtError";
  readonly code: number;
  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}

export interface OrtApi {
  readonly koffi: Koffi;
  /** Of onnxruntime. */
  readonly version: string;
  /** Of the library. */
  readonly path: string;
  /** The process's environment, which lives until it ends. */
  readonly env: bigint;
  /** Calls a function; throws an OrtError where it gives a status that is not null. Memory of typed arrays is passed. */
  call(name: ApiName, ...args: readonly Argument[]): unknown;
  /** The same in another thread; whatever the arguments point to has to live until then. */
  callAsync(name: ApiName, ...args: readonly Argument[]): Promise<void>;
  /** Calls a function whose last argument is where it writes a pointer (or a size), and returns that. */
  out(name: ApiName, ...args: readonly Argument[]): bigint;
  /** A C string's text. */
  text(pointer: bigint): string;
}

export type Argument = bigint | number | string | null | ArrayBufferView;

const kinds = (kind: Kind): string =>
  kind === "pointer"
    ? "void *"
    : kind === "text"
      ? "str"
      : kind === "path"
        ? process.platform === "win32"
          ? "str16"
          : "str"
        : kind === "int"
          ? "int"
          : "size_t";
const results = { status: "void *", pointer: "void *", nothing: "void", text: "str", int: "int" } as const;

const loaded = (koffi: Koffi, path: string): KoffiLibrary => {
  try {
    return openForGood(koffi, path);
  } catch (error) {
    throw new Error(`${path} cannot be loaded: ${(error as Error).message}`, { cause: error });
  }
};

const open = (): OrtApi => {
  const koffi = loadKoffi();
  const path = libraryPath();
  withoutTelemetry();
  const library = loaded(koffi, path);
  const base = library.func("OrtGetApiBase", "void *", [])() as bigint;
  const [getApi, getVersion] = koffi.decode(base, "void *", 2) as [bigint, bigint];
  const version = (koffi.decode(getVersion, koffi.proto("str", [])) as NativeFunction)() as string;
  const [major = 0, minor = 0] = version.split(".").map(Number);
  // Asking for a table that is not there prints a line of onnxruntime's own.
  if (major !== 1 || minor < API_VERSION)
    throw new Error(`${path} is onnxruntime ${version}; 1.${API_VERSION} or later is needed`);
  const api = (koffi.decode(getApi, koffi.proto("void *", ["uint32"])) as NativeFunction)(API_VERSION) as bigint | null;
  if (api === null) throw new Error(`${path} (onnxruntime ${version}) has no API ${API_VERSION}`);
  const length = Math.max(...Object.values(apiTable).map(({ at }) => at)) + 1;
  const table = koffi.decode(api, "void *", length) as (bigint | null)[];
  const functions = new Map<ApiName, NativeFunction>();
  const functionOf = (name: ApiName): NativeFunction => {
    const known = functions.get(name);
    if (known !== undefined) return known;
    const { at, gives, takes }: ApiEntry = apiTable[name];
    const made = koffi.decode(table[at], koffi.proto(results[gives], takes.map(kinds))) as NativeFunction;
    functions.set(name, made);
    return made;
  };
  for (const [name, { at }] of Object.entries(apiTable))
    if (table[at] === null) throw new Error(`${path} (onnxruntime ${version}) lacks ${name}`);
  const checked = (status: unknown): void => {
    if (status === null) return;
    const code = functionOf("GetErrorCode")(status) as number;
    const message = functionOf("GetErrorMessage")(status) as string;
    functionOf("ReleaseStatus")(status);
    throw new OrtError(code, message);
  };
  const call: OrtApi["call"] = (name, ...args) => {
    const result = functionOf(name)(...args);
    if (apiTable[name].gives === "status") checked(result);
    return result;
  };
  const out: OrtApi["out"] = (name, ...args) => {
    const place = new BigUint64Array(1);
    call(name, ...args, place);
    return place[0]!;
  };
  return {
    koffi,
    version,
    path,
    env: out("CreateEnv", FATAL, "advcl"),
    call,
    out,
    callAsync: (name, ...args) =>
      new Promise((done, failed) => {
        functionOf(name).async(...args, (error: unknown, status: unknown) => {
          // The arguments are named here so that the collector leaves their memory alone until now.
          void args;
          try {
            if (error) throw error;
            checked(status);
            done();
          } catch (reason) {
            failed(reason);
          }
        });
      }),
    text: (pointer) => koffi.decode.string(pointer),
  };
};

let opened: OrtApi | undefined;
let failure: Error | undefined;

/** The C API. Throws an Error whose message says what is missing where koffi or the library cannot be loaded. */
export const ortApi = (): OrtApi => {
  if (failure !== undefined) throw failure;
  try {
    opened ??= open();
    return opened;
  } catch (error) {
    failure = error as Error;
    throw error;
  }
};

/** Why the C API cannot be used here, in one line; undefined where it can. */
export const missingApi = (): string | undefined => {
  try {
    ortApi();
    return undefined;
  } catch (error) {
    const [line = ""] = (error as Error).message.split("\n");
    return line.includes("'koffi'") ? "the package koffi is not installed: npm install koffi" : line;
  }
};

/**
 * A thing of onnxruntime's with one owner: released once, and not usable afterwards.
 * @param release what it is given back with
 */
export class Handle {
  readonly #what: string;
  readonly #giveBack: (pointer: bigint) => void;
  #pointer: bigint | undefined;
  /** @internal What JavaScript's collector keeps for it. */
  kept: unknown;
  constructor(pointer: bigint, what: string, release: (pointer: bigint) => void) {
    this.#pointer = pointer;
    this.#what = what;
    this.#giveBack = release;
  }
  /** The pointer; throws where it was given back. */
  get address(): bigint {
    if (this.#pointer === undefined) throw new Error(`internal: ${this.#what} was released and is used`);
    return this.#pointer;
  }
  /** Has JavaScript's collector keep what the thing lies over, until it is released. */
  keep(kept: unknown): this {
    this.kept = kept;
    return this;
  }
  release(): void {
    const pointer = this.#pointer;
    this.#pointer = undefined;
    this.kept = undefined;
    if (pointer !== undefined) this.#giveBack(pointer);
  }
}

/** A handle that a function of the API makes and another releases. */
export const handleOf = (
  api: OrtApi,
  release: ApiName & `Release${string}`,
  create: ApiName,
  ...args: readonly Argument[]
): Handle =>
  new Handle(api.out(create, ...args), release.slice("Release".length), (pointer) => api.call(release, pointer));
