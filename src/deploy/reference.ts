/** What a run itself computes: its network with batch norms as they are, in evaluation mode. */
import { type NetworkPart, outputName } from "../../graphs/deploy/network.ts";
import { encoder } from "../../graphs/nn/encoder.ts";
import { projector } from "../../graphs/nn/head.ts";
import { linear } from "../../graphs/nn/layer.ts";
import { Scope, Store } from "../../graphs/nn/scope.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { compile } from "../../graphs/steps/step.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { createSession } from "../engine/session.ts";
import { weightFeeds } from "../runs/network.ts";
import type { Source } from "./source.ts";

/** The output that an export of `what` is about, of images [N,3,S,S], by the network that was not folded. */
export const runReference = async (
  { network, weights, branch, classes, folder }: Pick<Source, "network" | "weights" | "branch" | "classes" | "folder">,
  what: NetworkPart,
  image: Tensor,
): Promise<Float32Array> => {
  const store = new Store();
  const scope = new Scope(store, { mode: "eval", branches: [branch?.name ?? "normal"] });
  const features = encoder(network)(scope, store.input("image", image));
  const output =
    what === "encoder"
      ? features
      : what === "projector"
        ? projector(scope.at("head_proj"), features)
        : linear({ features: classes ?? 0 })(scope.at("fc"), features);
  const name = outputName(what);
  const session = await createSession(compile({ outputs: { [name]: output } }, portable));
  try {
    const results = await session.run({ "input.image": image, ...weightFeeds(store, weights, folder) });
    return results[name]?.data as Float32Array;
  } finally {
    await session.release();
  }
};
