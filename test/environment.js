import { TestEnvironment } from "jest-environment-node";

// A test's process.env is a copy that native code does not see: src/engine/telemetry.ts has no hold on it there.
process.env.ORT_DISABLE_TELEMETRY ??= "1";

/**
 * onnxruntime-node checks `instanceof Float32Array` against the constructors of the outer realm, so the sandbox of a
 * test gets those.
 */
export default class OuterTypedArrays extends TestEnvironment {
  constructor(config, context) {
    super(config, context);
    for (const type of [
      Float32Array,
      Float64Array,
      Int8Array,
      Uint8Array,
      Int16Array,
      Uint16Array,
      Int32Array,
      Uint32Array,
      BigInt64Array,
      BigUint64Array,
      ArrayBuffer,
    ]) {
      this.global[type.name] = type;
    }
  }
}
