import { expect, test } from "@jest/globals";
import { available } from "./needs.ts";

test("what is missing skips tests, but on CI only where the environment says that it may be missing", () => {
  expect(available("browser", true, { CI: "1" })).toBe(true);
  expect(available("browser", false, {})).toBe(false);
  expect(available("browser", false, { CI: "1", ADVCL_MAY_MISS: "webgpu,browser" })).toBe(false);
  for (const CI of ["1", "true"])
    expect(() => available("browser", false, { CI, ADVCL_MAY_MISS: "webgpu" })).toThrow(
      "set ADVCL_MAY_MISS=browser where it may be missing",
    );
});
