/** The page: choose an image, see the prediction, attack it, teach a head. */
import type { PageDescription } from "../src/serve/page-description.ts";
import { Classifier, type Head, type Picture } from "./classifier.ts";
import { openEngine } from "./engine.ts";
import { distance, draw, drawDifference, fromBytes, fromFile } from "./pictures.ts";
import { showBars, showCurve } from "./verdict.ts";

const $ = <E extends HTMLElement = HTMLElement>(id: string): E => document.getElementById(id) as E;
const canvas = (id: string): HTMLCanvasElement => $<HTMLCanvasElement>(id);
const button = (id: string): HTMLButtonElement => $<HTMLButtonElement>(id);

/** An image to choose. `label` counts in the model's classes, -1 where unknown. */
interface Choice {
  readonly picture: Picture;
  readonly label: number;
}

interface OwnClass {
  name: string;
  readonly examples: { readonly picture: Picture; readonly features: Float32Array }[];
}

const TRAIN_STEPS = 120;

const start = async (): Promise<void> => {
  const about = (await (await fetch("page.json")).json()) as PageDescription;
  const { size, slots } = about;
  $("title").textContent = about.title;
  document.title = `${about.title} · advcl`;
  $("facts").textContent = Object.entries(about.facts)
    .map(([name, value]) => (name === "" ? value : `${name} ${value}`))
    .join(" · ");

  const { engine, probed } = await openEngine("features.onnx");
  const classifier = await Classifier.load(engine, about, probed);
  const rows = new Float32Array(await (await fetch("head.bin")).arrayBuffer());
  const modelHead: Head = {
    weight: rows.slice(0, slots * about.features),
    bias: rows.slice(slots * about.features),
    classes: about.classes,
  };
  $("engine").textContent = engine.name;
  $("engine").dataset.state = "ready";

  let head = modelHead;
  let ownHead: Head | undefined;
  let chosen: Choice | undefined;
  let features: Float32Array | undefined;
  let clean: readonly number[] = [];
  /** Counts up with each change that makes a running attack pointless. */
  let turn = 0;
  const own: OwnClass[] = [
    { name: "first", examples: [] },
    { name: "second", examples: [] },
  ];

  const isOwn = (): boolean => head === ownHead;
  const best = (p: readonly number[]): number => p.indexOf(Math.max(...p));
  /** The class that an attack leads away from: the true one where it is known, else the one predicted. */
  const truth = (): number => (!isOwn() && chosen !== undefined && chosen.label >= 0 ? chosen.label : best(clean));
  const known = (): boolean => !isOwn() && chosen !== undefined && chosen.label >= 0;

  const eps = $<HTMLInputElement>("eps");
  const steps = $<HTMLInputElement>("steps");
  const goal = $<HTMLSelectElement>("goal");
  eps.value = String(Math.min(32, Math.round(about.eps * 255 * 2) / 2));
  const showSliders = (): void => {
    $("epsValue").textContent = `${eps.value}/255`;
    $("stepsValue").textContent = steps.value;
  };
  showSliders();

  const showGoals = (): void => {
    const before = goal.value;
    const away = new Option(known() ? "not the true class" : "not the predicted class", "away");
    goal.replaceChildren(away, ...head.classes.map((name, c) => new Option(`seen as ${name}`, String(c))));
    goal.value = [...goal.options].some(({ value }) => value === before) ? before : "away";
  };

  /** A class as a prediction, marked where it is known to be wrong. */
  const verdict = (c: number): string => `${head.classes[c]}${known() && c !== truth() ? " (wrong)" : ""}`;

  const showClean = (): void => {
    if (chosen === undefined) return;
    draw(canvas("clean"), chosen.picture, size);
    draw(canvas("attacked"), chosen.picture, size);
    drawDifference(canvas("noise"), chosen.picture, chosen.picture, size, 1);
    $("gain").textContent = "";
    $("distance").textContent = "";
    $("truth").textContent = known() ? `true class: ${head.classes[truth()]}` : "";
    $("summary").textContent = verdict(best(clean));
    $("curveNote").textContent = "";
    showBars($("bars"), head.classes, clean, undefined, known() ? truth() : -1);
    showCurve($("curve") as unknown as SVGSVGElement, [], 1);
    button("reset").disabled = true;
  };

  const judge = (): void => {
    if (features === undefined) return;
    clean = classifier.judge(features, head);
    showGoals();
    showClean();
    button("attack").disabled = false;
  };

  const choose = async (choice: Choice, thumb: HTMLElement): Promise<void> => {
    const mine = ++turn;
    for (const other of document.querySelectorAll(".thumb")) other.setAttribute("aria-pressed", "false");
    thumb.setAttribute("aria-pressed", "true");
    const found = await classifier.features(choice.picture);
    if (mine !== turn) return;
    chosen = choice;
    features = found;
    judge();
    showOwn();
    document.body.dataset.chosen = String(mine);
  };

  const addThumb = (choice: Choice, first = false): HTMLElement => {
    const thumb = document.createElement("button");
    thumb.className = "thumb";
    thumb.type = "button";
    const label = choice.label >= 0 ? about.classes[choice.label] : "your image";
    thumb.setAttribute("aria-label", label ?? "");
    thumb.title = label ?? "";
    const small = document.createElement("canvas");
    draw(small, choice.picture, size);
    thumb.append(small);
    thumb.addEventListener("click", () => guarded(choose(choice, thumb)));
    if (first) $("samples").prepend(thumb);
    else $("samples").append(thumb);
    return thumb;
  };

  const attack = async (): Promise<void> => {
    if (chosen === undefined) return;
    const mine = ++turn;
    const { picture } = chosen;
    const [radius, count] = [Number(eps.value) / 255, Number(steps.value)];
    const towards = goal.value !== "away";
    const from = truth();
    const label = towards ? Number(goal.value) : from;
    const paths = { from: [clean[from]!], other: [] as number[] };
    button("attack").disabled = true;
    button("reset").disabled = false;
    const gain = radius > 0 ? 0.5 / radius : 1;
    let last: Picture = picture;
    const curve = (): void =>
      showCurve(
        $("curve") as unknown as SVGSVGElement,
        [
          { values: paths.from, colour: "--clean" },
          { values: paths.other, colour: "--bad" },
        ],
        count,
      );
    paths.other.push(Math.max(...clean.map((p, c) => (c === from ? 0 : p))));
    const show = (at: Picture, probabilities: readonly number[], step: number): void => {
      draw(canvas("attacked"), at, size);
      drawDifference(canvas("noise"), picture, at, size, gain);
      $("gain").textContent = `× ${Math.round(gain)}`;
      $("distance").textContent = `±${(255 * distance(picture, at)).toFixed(1)}/255`;
      $("distance").dataset.value = String(distance(picture, at));
      showBars($("bars"), head.classes, clean, probabilities, known() ? from : -1);
      const [before, after] = [verdict(best(clean)), verdict(best(probabilities))];
      $("summary").textContent = before === after ? `still ${after}` : `${before} → ${after}`;
      curve();
      $("curveNote").textContent =
        `step ${step} of ${count}: probability of ${head.classes[from]} and of the strongest other class`;
    };
    for await (const { step, picture: at, probabilities } of classifier.attack(picture, head, {
      eps: radius,
      steps: count,
      label,
      towards,
    })) {
      if (mine !== turn) return;
      last = at;
      if (step > 1) {
        paths.from.push(probabilities[from]!);
        paths.other.push(Math.max(...probabilities.map((p, c) => (c === from ? 0 : p))));
      }
      show(at, probabilities, step);
      await new Promise(requestAnimationFrame);
    }
    const final = classifier.judge(await classifier.features(last), head);
    if (mine !== turn) return;
    paths.from.push(final[from]!);
    paths.other.push(Math.max(...final.map((p, c) => (c === from ? 0 : p))));
    show(last, final, count);
    button("attack").disabled = false;
    document.body.dataset.attacked = String(mine);
  };

  const examples = () =>
    own.flatMap(({ examples: all }, label) => all.map(({ features: f }) => ({ features: f, label })));
  const correct = (tried: Head): number => {
    const all = examples();
    const right = all.filter(({ features: f, label }) => best(classifier.judge(f, tried)) === label).length;
    return right / Math.max(1, all.length);
  };

  const showOwn = (): void => {
    $("own").replaceChildren(
      ...own.map((one, c) => {
        const row = document.createElement("div");
        row.className = "ownClass";
        const name = document.createElement("input");
        name.type = "text";
        name.value = one.name;
        name.setAttribute("aria-label", `name of class ${c + 1}`);
        name.addEventListener("change", () => {
          one.name = name.value;
        });
        const add = document.createElement("button");
        add.type = "button";
        add.textContent = "add image";
        add.dataset.add = String(c);
        add.disabled = chosen === undefined;
        add.addEventListener("click", () => {
          if (chosen === undefined || features === undefined) return;
          one.examples.push({ picture: chosen.picture, features });
          showOwn();
        });
        row.append(name, add);
        for (const { picture } of one.examples.slice(-10)) {
          const small = document.createElement("canvas");
          draw(small, picture, size);
          row.append(small);
        }
        if (one.examples.length > 10) row.append(`and ${one.examples.length - 10} more`);
        return row;
      }),
    );
    button("train").disabled = own.filter(({ examples: e }) => e.length > 0).length < 2;
    button("addClass").disabled = own.length >= slots;
  };

  const use = (next: Head): void => {
    turn++;
    head = next;
    button("useModel").setAttribute("aria-pressed", String(!isOwn()));
    button("useOwn").setAttribute("aria-pressed", String(isOwn()));
    judge();
  };

  const train = async (): Promise<void> => {
    button("train").disabled = true;
    const classes = own.map(({ name }) => name);
    const untrained = {
      weight: new Float32Array(slots * about.features),
      bias: new Float32Array(slots),
      classes,
    };
    const before = correct(untrained);
    let losses: number[] = [];
    for await (const { step, loss, head: next } of classifier.train(examples(), classes, TRAIN_STEPS)) {
      losses = [...losses, loss];
      if (step % 10 === 0) {
        $("trained").textContent = `step ${step} of ${TRAIN_STEPS}, loss ${loss.toFixed(3)}`;
        await new Promise(requestAnimationFrame);
      }
      ownHead = next;
    }
    if (ownHead === undefined) return;
    const after = correct(ownHead);
    const share = (x: number) => `${Math.round(100 * x)} %`;
    $("trained").textContent =
      `${examples().length} examples: loss ${losses[0]?.toFixed(3)} → ${losses.at(-1)?.toFixed(3)}, right ${share(before)} → ${share(after)}`;
    $("trained").dataset.before = String(before);
    $("trained").dataset.after = String(after);
    button("useOwn").disabled = false;
    use(ownHead);
    showOwn();
  };

  const addFiles = async (files: Iterable<File>): Promise<void> => {
    for (const file of files) {
      const picture = await fromFile(file, size).catch(() => undefined);
      if (picture === undefined) throw new Error(`${file.name} is not an image that this browser reads`);
      const choice = { picture, label: -1 };
      await choose(choice, addThumb(choice, true));
    }
  };

  eps.addEventListener("input", showSliders);
  steps.addEventListener("input", showSliders);
  button("attack").addEventListener("click", () => guarded(attack()));
  button("reset").addEventListener("click", () => {
    turn++;
    showClean();
    button("attack").disabled = false;
  });
  button("addClass").addEventListener("click", () => {
    own.push({ name: `class ${own.length + 1}`, examples: [] });
    showOwn();
  });
  button("train").addEventListener("click", () => guarded(train()));
  button("useModel").addEventListener("click", () => use(modelHead));
  button("useOwn").addEventListener("click", () => {
    if (ownHead !== undefined) use(ownHead);
  });
  const drop = $("drop");
  $<HTMLInputElement>("file").addEventListener("change", ({ target }) =>
    guarded(addFiles((target as HTMLInputElement).files ?? [])),
  );
  for (const kind of ["dragover", "dragleave", "drop"])
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") guarded(addFiles((event as DragEvent).dataTransfer?.files ?? []));
    });

  const bytes = new Uint8Array(await (await fetch("samples.bin")).arrayBuffer());
  const thumbs = about.samples.map((label, i) => {
    const choice = { picture: fromBytes(bytes, i * 3 * size * size, size, 3), label };
    return { choice, thumb: addThumb(choice) };
  });
  showOwn();
  const [first] = thumbs;
  if (first !== undefined) await choose(first.choice, first.thumb);
  document.body.dataset.ready = "yes";
};

const fail = (error: unknown): void => {
  const text = error instanceof Error ? error.message : String(error);
  $("fault").hidden = false;
  $("fault").textContent = text;
  if ($("engine").textContent === "WebGPU") {
    const other = document.createElement("a");
    other.href = "?engine=wasm";
    other.textContent = "Try WebAssembly instead.";
    $("fault").append(" ", other);
  }
  console.error(error);
};

const guarded = (work: Promise<void>): void => {
  $("fault").hidden = true;
  work.catch(fail);
};

start().catch((error: unknown) => {
  $("engine").textContent = "failed";
  $("engine").dataset.state = "failed";
  fail(error);
});
