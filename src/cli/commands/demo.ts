import { demo } from "../../compare/demo.ts";
import { defineCommand } from "../command.ts";

export const demoCommand = defineCommand({
  verb: demo,
  summary: "the whole story on built-in images in a few minutes, with a report",
  description:
    "Every part of the method on generated images, each by the command that does it, so that its settings can be read and tried: a teacher is trained and clustered, AdvCL pretrains on the clusters, its encoder is finetuned by SLF, ALF and AFF beside a classifier of standard training, the classifiers are attacked, and the robust one is exported. Each part has a folder in --out; stopped, the same command goes on. Ends with a table and report.html.",
});
