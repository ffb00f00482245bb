/**
 * How long a word takes from one core to another: whoever moves threads among groups of cores that share a cache, as hosts of virtual machines
 * do, makes programs that pass data between threads slower and faster again. Comparisons print it beside their figures.
 *
 *     npm run build && node dist/scripts/benchmarks/core-latency.js
 */
import { coreLatency } from "../../src/engine/core-latency.ts";

const ns = await coreLatency();
console.log(ns === undefined ? "one core" : `${ns.toFixed(0)} ns from one core to another`);
