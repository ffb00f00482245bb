import { bench } from "../../bench/bench.ts";
import { defineCommand } from "../command.ts";

export const benchCommand = defineCommand({
  verb: bench,
  summary: "measure the step, the data pipeline or the engine on this machine",
});
