/**
 * Keeps ONNX Runtime from reporting home: since 1.29 its official builds for Linux and macOS send events about sessions and
 * models to Microsoft, and write an identifier, a database and logs into the user's cache and temporary folders
 * (microsoft/onnxruntime#27379). It looks at the environment once, when its library is loaded or first used, so this is
 * called before. Who sets ORT_DISABLE_TELEMETRY decides: 0 leaves it on.
 *
 * Only the main thread changes the environment that native code sees: where a worker loads the library, whoever starts the
 * worker calls this.
 */
export const withoutTelemetry = (): void => {
  process.env.ORT_DISABLE_TELEMETRY ??= "1";
};
