import { type EncoderOptions, encoder } from "./encoder.ts";
import { type Layer, linear } from "./layer.ts";

export interface ClassifierOptions extends EncoderOptions {
  /** Number of classes. */
  readonly classes: number;
}

/** The linear head `fc`: features [N,D] to logits [N,classes]. */
export const head =
  (classes: number): Layer =>
  (scope, features) =>
    linear({ features: classes })(scope.at("fc"), features);

/** An encoder and its head: images [N,3,H,W] to logits [N,classes]. */
export const classifier = ({ classes, ...options }: ClassifierOptions): Layer => {
  const [features, logits] = [encoder(options), head(classes)];
  return (scope, images) => logits(scope, features(scope, images));
};
