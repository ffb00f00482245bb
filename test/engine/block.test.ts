import { expect, test } from "@jest/globals";
import { blockSize } from "../../src/engine/block.ts";
import { processor } from "../../src/engine/devices.ts";

// Elsewhere what vectors there are is not told.
if (process.platform === "linux" && process.arch === "x64")
  test("blocks are found as large as the processor's vectors", async () => {
    expect(await blockSize()).toBe(processor().blockSize);
  });
else test("blocks are found, or none", async () => expect([undefined, 4, 8, 16]).toContain(await blockSize()));
