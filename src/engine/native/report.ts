/** What there is to say of the native engine on a machine, for `doctor`. */
import { readFileSync } from "node:fs";
import { missingApi, ortApi } from "./api.ts";

export interface NativeReport {
  readonly works: boolean;
  /** "works", or what is missing and how to get it. */
  readonly message: string;
  /** Of onnxruntime, and where its library lies. */
  readonly version?: string;
  readonly path?: string;
  /** The NVIDIA driver of the kernel; undefined where none is loaded, or this is not Linux. */
  readonly driver?: string | undefined;
}

/** Version of a kernel's NVIDIA driver by what /proc says of it. */
export const driverOf = (text: string): string | undefined => /Kernel Module.*?\s(\d+\.[\d.]+)/.exec(text)?.[1];

const driver = (): string | undefined => {
  try {
    return driverOf(readFileSync("/proc/driver/nvidia/version", "utf8"));
  } catch {
    return undefined;
  }
};

export const nativeReport = (): NativeReport => {
  const missing = missingApi();
  if (missing !== undefined)
    return { works: false, message: `cannot be used (${missing}); the binding is used`, driver: driver() };
  const { version, path } = ortApi();
  return { works: true, message: "works", version, path, driver: driver() };
};
