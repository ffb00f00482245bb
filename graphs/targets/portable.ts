import type { Target } from "./lower.ts";

/** Standard ONNX ops only: what is saved or exported, and what every other target falls back to. */
export const portable: Target = { name: "portable", lowerings: new Map(), loops: "keep" };
