/** What some tests need and a machine may lack. */
export type Need =
  | "browser"
  | "webgpu"
  | "data"
  | "dist"
  | "compiler"
  | "koffi"
  | "nvrtc"
  | "onednn"
  | "mpi"
  | "mpich"
  | "namespaces";

const remedies: Readonly<Record<Need, string>> = {
  browser: "Chromium: install it, or name it in ADVCL_CHROMIUM",
  webgpu: "a Vulkan driver: name one in VK_DRIVER_FILES; Debian's chromium brings one",
  data: "the folder ../shared/data with samples of the public data sets",
  compiler: "g++ on Linux: install it",
  koffi: "koffi, an optional dependency: npm install --include=optional",
  nvrtc: "NVRTC, which needs no GPU: run scripts/install-nvrtc.sh",
  onednn: "oneDNN and a processor with AVX-512 BF16: run scripts/install-onednn.sh",
  mpi: "mpirun of Open MPI: install it (Debian: openmpi-bin)",
  mpich: "MPICH's mpiexec beside Open MPI's: install it (Debian: mpich), or name one in ADVCL_MPICH",
  namespaces: "network namespaces, which root makes on Linux with ip (Debian: iproute2)",
  dist: "the built project: npm run build",
};

/**
 * Whether tests that need something can run. Where they cannot, they are skipped; on CI (CI=1 or CI=true) nothing is skipped in
 * silence: then it is an error, unless ADVCL_MAY_MISS, a list such as browser,webgpu, says that it may be missing.
 */
export const available = (
  need: Need,
  isThere: boolean,
  { CI, ADVCL_MAY_MISS = "" }: NodeJS.ProcessEnv = process.env,
): boolean => {
  const onCi = CI === "1" || CI === "true";
  if (!isThere && onCi && !ADVCL_MAY_MISS.split(",").includes(need))
    throw new Error(`these tests need ${remedies[need]}; or set ADVCL_MAY_MISS=${need} where it may be missing`);
  return isThere;
};
