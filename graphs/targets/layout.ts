/**
 * Where the elements of a value lie in memory. Ops are written for row-major NCHW; a target's lowerings may ask for
 * their operands in another layout, and say in which they return. A layout may cut a value into several tensors.
 */
import type { Type, Value } from "../onnx/graph.ts";

export interface Layout {
  /** Equal names are equal layouts, parameters included: `blocked8`. */
  readonly name: string;
  /** The tensors that hold x, a row-major value. */
  pack(x: Value): readonly Value[];
  /** Back to one row-major value of the given type. */
  unpack(parts: readonly Value[], type: Type): Value;
  /** The tensors from those of another layout without row-major ones in between, where it knows that layout. */
  take?(from: Layout, parts: readonly Value[], type: Type): readonly Value[] | undefined;
}

/** Row-major, as ONNX has it. */
export const rowMajor: Layout = {
  name: "row-major",
  pack: (x) => [x],
  unpack: ([x]) => x as Value,
};

export const sameShape = (a: Type, b: Type): boolean => a.shape.join() === b.shape.join();

/** A value in a layout: what a lowering returns where that is not row-major. */
export interface Placed {
  readonly layout: Layout;
  readonly parts: readonly Value[];
  /** Computes the same parts anew from values that are kept anyway, so that these need not be kept for a backward pass. */
  readonly recompute?: () => readonly Value[];
  /** Sums on the way from what is kept to what `recompute` computes; 0 where left out. */
  readonly sums?: number;
  /** What else is known of the parts, for lowerings of the same target. */
  readonly known?: object;
}

/** A value of the source graph as the lowered graph has it, in one layout or in several; each reorder is made once. */
export class Lowered {
  readonly type: Type;
  /** The layout that it was computed in. */
  readonly layout: Layout;
  /** Whether its form in that layout can be computed anew at little cost. */
  readonly recomputable: boolean;
  /** Sums on the way there from what is kept; 0 where it is kept itself. */
  readonly sums: number;
  readonly known: object | undefined;
  readonly #recompute: Placed["recompute"];
  #recomputedParts: readonly Value[] | undefined;
  readonly #forms = new Map<string, readonly Value[]>();

  constructor(type: Type, placed: Placed) {
    this.type = type;
    this.layout = placed.layout;
    this.#recompute = placed.recompute;
    this.recomputable = placed.recompute !== undefined;
    this.sums = placed.sums ?? 0;
    this.known = placed.known;
    this.#forms.set(placed.layout.name, placed.parts);
  }

  /** Whether it is there already without a reorder. */
  has(layout: Layout): boolean {
    return this.#forms.has(layout.name);
  }

  /** Its tensors in a layout. */
  in(layout: Layout): readonly Value[] {
    const known = this.#forms.get(layout.name);
    if (known !== undefined) return known;
    const made =
      layout.take?.(this.layout, this.#own, this.type) ??
      layout.pack(layout.name === rowMajor.name ? this.#unpacked() : this.plain);
    this.#forms.set(layout.name, made);
    return made;
  }

  /** The one tensor of a value in a layout that does not cut it. */
  one(layout: Layout): Value {
    return this.in(layout)[0] as Value;
  }

  /** Its tensors, computed anew once for all that ask so; as they are where there is no recipe. */
  recomputed(layout: Layout): readonly Value[] {
    if (this.#recompute === undefined || layout.name !== this.layout.name) return this.in(layout);
    this.#recomputedParts ??= this.#recompute();
    return this.#recomputedParts;
  }

  /** Its row-major form. */
  get plain(): Value {
    return this.one(rowMajor);
  }

  get #own(): readonly Value[] {
    return this.#forms.get(this.layout.name) as readonly Value[];
  }

  #unpacked(): Value {
    return this.layout.unpack(this.#own, this.type);
  }
}
