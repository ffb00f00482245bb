import { expect, test } from "@jest/globals";
import { shortage } from "../../src/cli/shortage.ts";
import { RunError } from "../../src/errors.ts";
import { fileError } from "../../src/files/file-error.ts";

test.each([
  [new Error("Failed to load model with error: std::bad_alloc"), "memory ran out"],
  [new RangeError("Array buffer allocation failed"), "memory ran out"],
  [new RangeError("WebAssembly.Memory(): could not allocate memory"), "memory ran out"],
  [
    new Error(
      'Could not load the "sharp" module using the linux-x64 runtime\nERR_DLOPEN_FAILED: libvips-cpp.so: failed to map segment from shared object\nPossible solutions:\n- npm install',
    ),
    "memory ran out",
  ],
  [
    Object.assign(new Error("EMFILE: too many open files, open 'x.js'"), { code: "EMFILE" }),
    "raise the limit (ulimit -n 1024)",
  ],
  [
    new RunError("a worker failed", {
      cause: new Error("libonnxruntime.so: cannot open shared object file: Too many open files"),
    }),
    "ulimit -n",
  ],
  [Object.assign(new Error("spawn EAGAIN"), { code: "EAGAIN" }), "lower --threads and --workers"],
])("%s is what the machine lacks, in one line", (error, text) => {
  expect(shortage(error)).toContain(text);
  expect(shortage(error)).not.toContain("\n");
});

test("sentences that name the remedy stay, other errors are none", () => {
  const ours = fileError(Object.assign(new Error("EMFILE"), { code: "EMFILE" }), "read", "a.bin") as Error;
  expect(shortage(ours)).toBe(ours.message);
  for (const error of [new TypeError("x is undefined"), new RunError("loss is NaN"), "text", undefined])
    expect(shortage(error)).toBeUndefined();
});
