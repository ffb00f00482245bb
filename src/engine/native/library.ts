/** The foreign function interface (koffi) and the onnxruntime library that onnxruntime-node ships, found and checked. */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { nativeFolder } from "../devices.ts";

/** What is used of koffi: pointers are bigints, null pointers null. */
export interface Koffi {
  /** A library, or what this program was linked with. */
  load(path: string | null): KoffiLibrary;
  proto(result: unknown, args: readonly unknown[]): unknown;
  pointer(type: unknown): unknown;
  register(callback: (...args: never[]) => unknown, type: unknown): bigint;
  unregister(callback: bigint): void;
  readonly decode: {
    (pointer: unknown, type: unknown, length?: number): unknown;
    string(pointer: bigint): string;
  };
  address(value: ArrayBufferView | ArrayBuffer): bigint;
  view(pointer: bigint, length: number): ArrayBuffer;
  config(settings?: Readonly<Record<string, number>>): Readonly<Record<string, number>>;
}

export interface KoffiLibrary {
  func(name: string, result: string, args: readonly string[]): NativeFunction;
}

export interface NativeFunction {
  (...args: unknown[]): unknown;
  /** The same in a thread of koffi's; the last argument is told of the end. */
  async(...args: unknown[]): void;
}

const require = createRequire(import.meta.url);
let koffi: Koffi | undefined;

/** The most that koffi gives. */
const STACK = 16 << 20;

/**
 * Loads koffi once. Native code runs on a stack that koffi allocates, 128 KiB in threads: onnxruntime walks graphs by
 * recursion, so it gets as much as koffi gives, about what a thread has by itself.
 */
export const loadKoffi = (): Koffi => {
  if (koffi === undefined) {
    const loaded = require("koffi") as Koffi;
    // It takes settings only before it has loaded a library, and a process has one koffi for all copies of this module.
    const set = loaded.config();
    if (set.sync_stack_size !== STACK || set.async_stack_size !== STACK)
      loaded.config({ sync_stack_size: STACK, async_stack_size: STACK });
    koffi = loaded;
  }
  return koffi;
};

/** Names of the library by platform, the one that onnxruntime-node 1.30 ships first. */
export const libraryNames = (platform: NodeJS.Platform): readonly string[] =>
  platform === "win32"
    ? ["onnxruntime.dll"]
    : platform === "darwin"
      ? ["libonnxruntime.1.dylib", "libonnxruntime.dylib"]
      : ["libonnxruntime.so.1", "libonnxruntime.so"];

/** Path of the library in a folder; throws an Error whose message says what is missing. */
export const libraryIn = (folder: string, platform: NodeJS.Platform = process.platform): string => {
  const names = libraryNames(platform);
  const name = names.find((file) => existsSync(join(folder, file)));
  if (name === undefined) throw new Error(`${names[0]} is not in ${folder}`);
  return join(folder, name);
};

/** Path of onnxruntime-node's library. */
export const libraryPath = (): string => libraryIn(nativeFolder());
