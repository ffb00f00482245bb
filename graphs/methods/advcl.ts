import { advclBranches, type PretrainOptions, pretrainStep } from "../steps/pretrain.ts";
import type { Method } from "./method.ts";

/** AdvCL (Fan et al., NeurIPS 2021); the step is in graphs/steps/pretrain.ts. */
export const advcl: Method<PretrainOptions> = {
  name: "advcl",
  title: "AdvCL (Fan et al. 2021)",
  branches: advclBranches,
  evaluatedBranch: "pgd",
  build: pretrainStep,
};
