/** Every op: for callers who build graphs, for tests and for reading files. */
export * from "./compare.ts";
export * from "./control.ts";
export * from "./conv.ts";
export * from "./define.ts";
export * from "./elementwise.ts";
export * from "./guard.ts";
export * from "./indexing.ts";
export * from "./linear.ts";
export * from "./movement.ts";
export * from "./normalize.ts";
export * from "./pool.ts";
export * from "./random.ts";
export * from "./ranks.ts";
export * from "./reduce.ts";
export * from "./slice.ts";
