/**
 * Libraries that stand in for CUDA's, so that onnxruntime's own CUDA provider starts on a machine without a GPU, loads models, and captures and
 * launches graphs, which compute nothing (cuda-stand-ins.c). Needs Linux x64, gcc and nm.
 */
import { spawnSync } from "node:child_process";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { unzipSync } from "fflate";
import { nativeFolder } from "../../src/engine/devices.ts";
import { packageRoot } from "../../src/version.ts";

const filesIn = (wheel: string, wanted: RegExp) =>
  Object.entries(unzipSync(readFileSync(wheel), { filter: ({ name }) => wanted.test(name) }));

const shell = (command: string, args: readonly string[]): string => {
  const { stdout, stderr, status } = spawnSync(command, args, { encoding: "utf8", maxBuffer: 2 ** 28 });
  if (status !== 0) throw new Error(`${command} failed: ${stderr}`);
  return stdout;
};

/** This package in a folder, with the provider's libraries in the place of onnxruntime-node's own; returns the folder of those. */
const packageIn = (folder: string, provider: string): string => {
  const modules = realpathSync(join(packageRoot, "node_modules"));
  mkdirSync(join(folder, "node_modules"));
  for (const name of readdirSync(modules)) {
    const place = join(folder, "node_modules", name);
    if (/^onnxruntime-(node|common)$/.test(name)) cpSync(join(modules, name), place, { recursive: true });
    else symlinkSync(join(modules, name), place);
  }
  for (const name of ["package.json", "dist"]) cpSync(join(packageRoot, name), join(folder, name), { recursive: true });
  const binding = join(folder, "node_modules", relative(modules, nativeFolder()));
  for (const [name, bytes] of filesIn(provider, /capi\/libonnxruntime(\.so|_providers_(shared|cuda)\.so)/)) {
    const file = (name.split("/").at(-1) as string).replace(/\.so\.[\d.]+$/, ".so.1");
    rmSync(join(binding, file), { force: true });
    writeFileSync(join(binding, file), bytes);
  }
  return binding;
};

/** CUDA's headers, but for what they include that no wheel of the runtime has. */
const headersIn = (folder: string, headers: string): string => {
  const include = join(folder, "include");
  mkdirSync(join(include, "crt"), { recursive: true });
  for (const [name, bytes] of filesIn(headers, /include\/[^/]+\.h$/))
    writeFileSync(join(include, name.split("/").at(-1) as string), bytes);
  const annotations = ["__host__", "__device__", "__device_builtin__", "__cudart_builtin__", "CUDARTAPI"];
  const defined = [
    ...annotations.map((name) => `#define ${name}`),
    "#define __align__(n) __attribute__((aligned(n)))",
    "#define __builtin_align__(n) __align__(n)",
  ];
  writeFileSync(join(include, "crt", "host_defines.h"), defined.join("\n"));
  return include;
};

const answers = (): string => readFileSync(join(packageRoot, "scripts/parity/cuda-stand-ins.c"), "utf8");

/** A function that is not answered does nothing; one that creates a handle gives one. */
const idle = (name: string): string => {
  if (/Get(Error|Status)(Name|String)/.test(name)) return `const char *${name}() { return "none"; }`;
  if (name === "cudnnBackendCreateDescriptor")
    return `int ${name}(int kind, void **p) { static char h[4096]; *p = h; return 0; }`;
  return /Create(_v2|WithFlags)?$|^cudnnCreate/.test(name)
    ? `int ${name}(void **p) { static char h[4096]; *p = h; return 0; }`
    : `int ${name}() { return 0; }`;
};

/**
 * Makes a folder with this package and the libraries, for `LD_LIBRARY_PATH`; the caller's to remove.
 * @param provider wheel of onnxruntime-gpu
 * @param headers wheel of nvidia-cuda-runtime
 */
export const cudaStandIns = (provider: string, headers: string): { readonly folder: string } => {
  const folder = mkdtempSync(join(tmpdir(), "advcl-cuda-"));
  const binding = packageIn(folder, provider);
  const include = headersIn(folder, headers);
  const text = answers();
  const answered = new Set(Array.from(text.matchAll(/^(?!static)[\w *]*?(\w+)\([^;]*\) \{/gm), ([, name]) => name));
  const own = /^lib(cudart|cudnn|cuda|nvrtc)\.so/;
  const library = (file: string, names: readonly string[], versioned = false): void => {
    const [source, script] = [join(folder, `${file}.c`), join(folder, `${file}.map`)];
    const functions = names.filter((name) => !answered.has(name)).map(idle);
    writeFileSync(source, `${own.test(file) ? text : ""}\n${functions.join("\n")}\n`);
    writeFileSync(script, `${file} { global: *; };\n`);
    const flags = ["-w", "-shared", "-fPIC", `-I${include}`, `-Wl,-soname,${file}`];
    shell("gcc", [
      ...flags,
      "-o",
      join(folder, file),
      source,
      ...(versioned ? [`-Wl,--version-script=${script}`] : []),
    ]);
  };
  const file = join(binding, "libonnxruntime_providers_cuda.so");
  const undefinedNames = shell("nm", ["-D", "--undefined-only", file])
    .split("\n")
    .map((line) => /U (\w+)/.exec(line)?.[1] ?? "");
  const linked = (pattern: RegExp) => undefinedNames.filter((name) => pattern.test(name));
  library("libcudart.so.13", linked(/^(__)?cuda/), true);
  library("libcublas.so.13", linked(/^cublas(?!Lt)/), true);
  library("libcublasLt.so.13", linked(/^cublasLt/), true);
  library("libcurand.so.10", linked(/^curand/));
  library("libcuda.so.1", linked(/^cu[A-Z]/));
  // Those that are looked up by name at run time stand in the provider's text.
  library("libcudnn.so.9", [...new Set(readFileSync(file, "latin1").match(/\bcudnn[A-Z]\w+(?=\0)/g))]);
  library("libnvrtc.so.13", []);
  return { folder };
};
