import { normalizedMutualInformation, purity } from "../../cluster/agreement.ts";
import { createPoints, kMeans } from "../../cluster/k-means.ts";
import { openTeacher } from "../../cluster/teacher.ts";
import { datasetNames, loadDataset, splits } from "../../data/dataset.ts";
import { UNLABELLED, writePseudoLabels } from "../../data/pseudo-labels.ts";
import { chooseEngine } from "../../engine/engine.ts";
import { RequestError } from "../../errors.ts";
import { checkWritable } from "../../files/atomic.ts";
import { defineCommand } from "../command.ts";

/** Pseudo-labels by clustering a teacher's features (ClusterFit, Yan et al. 2020). */
export const cluster = defineCommand({
  name: "cluster",
  summary: "cluster a teacher's features into pseudo-labels",
  description:
    "Features of a whole dataset by a teacher (any ONNX model, or a run of pretrain), then k-means for each K, to a file for pretrain --pseudo-labels. What is not said of an ONNX teacher is guessed from its file and printed.",
  settings: {
    teacher: { type: "path", required: true, help: "run folder or ONNX model", group: "Teacher" },
    teacherSize: { type: "integer", min: 1, help: "side of its images; left out, as the model says", group: "Teacher" },
    layout: {
      type: "enum",
      values: ["nchw", "nhwc"],
      help: "of its images; left out, as the model says",
      group: "Teacher",
    },
    mean: { type: "numbers", help: "taken off pixels in [0, 1], one or three numbers", group: "Teacher" },
    std: { type: "numbers", min: 1e-6, help: "what they are then divided by", group: "Teacher" },
    output: { type: "string", help: "name of the features: an output or any inner value", group: "Teacher" },
    branch: { type: "string", help: "batch-norm branch of a run's encoder", group: "Teacher" },
    featureBatch: { type: "integer", default: 100, min: 1, help: "images at once", group: "Teacher" },
    dataset: { type: "enum", values: datasetNames, default: "cifar10", help: "images", group: "Data" },
    data: { type: "path", help: "folder or archive of the dataset, as downloaded", group: "Data" },
    split: { type: "enum", values: splits, default: "train", help: "part to cluster", group: "Data" },
    limit: { type: "integer", default: 0, min: 0, help: "use only the first N images; 0 for all", group: "Data" },
    clusters: { type: "integers", default: [2, 10, 50, 100, 500], min: 2, help: "each K", group: "k-means" },
    restarts: { type: "integer", default: 3, min: 1, help: "runs of which the best is kept", group: "k-means" },
    maxPasses: { type: "integer", default: 100, min: 1, help: "passes of a run at most", group: "k-means" },
    tolerance: { type: "number", default: 1e-4, min: 0, help: "as scikit-learn's tol", group: "k-means" },
    out: { type: "path", required: true, help: "safetensors file to write", group: "Common settings" },
  },
  run: async (settings, context) => {
    const { clusters, seed, out } = settings;
    if (clusters.length === 0) throw new RequestError("clusters is empty: give at least one K");
    await checkWritable(out);
    const engine = await chooseEngine(settings);
    const { signal } = context;
    const teacher = await openTeacher(
      { ...settings, size: settings.teacherSize, batch: settings.featureBatch },
      engine,
      context.warn,
    );
    context.log(`teacher ${teacher.description}`);
    const dataset = await loadDataset({
      name: settings.dataset,
      data: settings.data,
      split: settings.split,
      size: teacher.size,
      limit: settings.limit > 0 ? settings.limit : undefined,
      seed,
    });
    const largest = Math.max(...clusters);
    if (largest > dataset.count)
      throw new RequestError(`K = ${largest} is more than the ${dataset.count} images; give smaller clusters`);
    const reading = context.progress({ steps: dataset.count, unit: "image" });
    let read = 0;
    const began = performance.now();
    const { data, dim } = await teacher
      .features(dataset, (images) => {
        read += images;
        reading.update({ step: read, images });
      })
      .finally(() => teacher.release());
    reading.stop();
    const featureSeconds = (performance.now() - began) / 1000;
    context.log(`${dataset.count} × ${dim} features in ${featureSeconds.toFixed(1)} s`);

    const points = createPoints(data, dim);
    const labels = new Map<number, Int32Array>();
    const figures: Record<string, unknown>[] = [];
    for (const k of [...clusters].sort((a, b) => a - b)) {
      const started = performance.now();
      const progress = context.progress({ steps: settings.restarts * settings.maxPasses, unit: "pass" });
      let passes = 0;
      let found: Awaited<ReturnType<typeof kMeans>>;
      try {
        found = await kMeans(points, {
          ...settings,
          k,
          engine: engine.options,
          signal,
          onPass: ({ inertia }) => progress.update({ step: ++passes, figures: { inertia } }),
        });
      } catch (error) {
        if (signal.aborted) return;
        throw error;
      } finally {
        progress.stop();
      }
      const sizes = Array.from(found.sizes).sort((a, b) => a - b);
      const figure = {
        k,
        inertia: found.inertia,
        passes: found.passes,
        seconds: (performance.now() - started) / 1000,
        smallest: sizes[0] as number,
        median: ((sizes[(k - 1) >> 1] as number) + (sizes[k >> 1] as number)) / 2,
        largest: sizes.at(-1) as number,
        ...(dataset.labels && {
          purity: purity(found.labels, dataset.labels),
          nmi: normalizedMutualInformation(found.labels, dataset.labels),
        }),
      };
      figures.push(figure);
      const agreement =
        "purity" in figure ? `, purity ${figure.purity?.toFixed(4)}, NMI ${figure.nmi?.toFixed(4)}` : "";
      context.print(
        `K = ${k}: sizes ${figure.smallest} to ${figure.largest} (median ${figure.median}), inertia ${found.inertia.toPrecision(6)}, ` +
          `${found.passes} passes, ${figure.seconds.toFixed(1)} s${agreement}`,
      );
      // An index is the image's place in the full official dataset; images that are not here have none.
      const official = new Int32Array(dataset.officialCount).fill(UNLABELLED);
      dataset.index.forEach((at, i) => {
        official[at] = found.labels[i] as number;
      });
      labels.set(k, official);
    }
    await writePseudoLabels(
      out,
      { ks: [...labels.keys()], labels: (k) => labels.get(k) as Int32Array },
      {
        teacher: teacher.description,
        dataset: `${dataset.name} ${dataset.split}`,
        images: `${dataset.count} of ${dataset.officialCount}`,
        seed: String(seed),
      },
      settings.split === "test" ? "test" : "train",
    );
    context.print(
      `${out}: labels of ${dataset.count} images${dataset.count < dataset.officialCount ? ` (the other ${dataset.officialCount - dataset.count} of ${dataset.name} have none)` : ""}`,
    );
    context.result({
      out,
      teacher: teacher.description,
      images: dataset.count,
      features: dim,
      featureSeconds,
      clusters: figures,
    });
  },
});
