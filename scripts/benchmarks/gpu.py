"""Everything that an NVIDIA GPU is needed for, in one go of at most six minutes, into one JSON file and a table that fits a screen.

Where the machine with the GPU has no network, pack on one that has (built by `npm run build`) and carry the pieces over:

  python scripts/benchmarks/gpu.py pack --out PIECES --provider LIBRARIES --reference advcl_torch.py --data cifar-10-batches-bin

LIBRARIES is a folder with libonnxruntime.so.1, libonnxruntime_providers_shared.so and libonnxruntime_providers_cuda.so (docs/gpu.md tells how to
get them). PIECES then holds node, the app and these in pieces of at most 60 MiB, and unpack.sh. There:

  sh PIECES/unpack.sh FOLDER && cd FOLDER && python scripts/benchmarks/gpu.py run --node ./node --reference advcl_torch.py --data cifar-10-batches-bin

`run` needs torch for the machine's CUDA, whose packages bring cuBLAS and cuDNN too, and ends after --budget seconds whatever happens: stages
come by worth, what a stage found is written when it ends, and one that fails or is out of time is kept as {"error": …}. The first run of
each step, in which cuDNN chooses its algorithms and graphs are captured, is not counted. Exit code 0: every stage is there.

`run --dry` shows on a CPU that every stage runs, with tiny sizes; its figures mean nothing and its goals say so.
"""
import argparse
import glob
import json
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PIECE = 60 * 2**20
NATIVE = Path("node_modules/onnxruntime-node/bin/napi-v6/linux/x64")
# What a step is measured as: name, then what bench is told: engine, precision, target (left out, the engine's own choice).
STEPS = (("fused, float16", "native", "float16", None), ("fused, tf32", "native", "tf32", None), ("fused, float32", "native", "float32", None))
STOCK = (("onnxruntime's ops, float16", "native", "float16", "cuda-convolution-turned-float16"), ("onnxruntime's ops, tf32", "native", "tf32", "cuda"))
BINDING = (("binding, tf32", "binding", "tf32", None),)
TORCH = (("torch, hoisted, channels last", ("--hoist", "--channels-last")), ("torch, hoisted, channels last, bf16", ("--hoist", "--channels-last", "--bf16")),
         ("torch, authors' way", ()))
OTHERS = (("torch, bf16", ("--bf16",)), ("torch, hoisted, channels last, compiled", ("--hoist", "--channels-last", "--compile")),)
# Of a kernel's name, what kind it is; the first that fits.
KINDS = (("copies and fills", r"^(copy|fill)"), ("fused kernels: batch norm, sums", r"^(sums|totals|moments)$"), ("fused kernels: batch norm, rest", r"^(normalise|gradient)$"),
         ("convolutions", r"fprop|dgrad|wgrad|[cC]onvol|conv2d"), ("turning layouts", r"[nN]chwToNhwc|[nN]hwcToNchw|[tT]ranspose|Padding|convertTensor"),
         ("products", r"gemm|nvjet|cutlass|splitK"), ("fused kernels: others", r"^[a-z][A-Za-z]+$"), ("onnxruntime's other kernels", r"."))


# --- packing -------------------------------------------------------------------------------------------------------------------------

def runtime_packages():
    """Folders under node_modules of what runs, without development's."""
    listed = subprocess.run(["npm", "ls", "--all", "--omit=dev", "--parseable"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    # What lies within a package comes with it.
    return sorted({folder[len(f"{ROOT}/"):] for folder in listed if folder.startswith(f"{ROOT}/node_modules/") and folder.count("node_modules") == 1})


def wanted(info):
    """Leaves out what the other machine does not need: other systems' libraries, the browser's engine, packages that are listed themselves."""
    out = (r"onnxruntime-node/bin/napi-v6/(darwin|win32|linux/arm64)", r"node_modules/onnxruntime-web(/|$)", r".+/node_modules/.+/node_modules(/|$)", r"\.map$", r"\.d\.[mc]?ts$", r"/\.git(/|$)", r"__pycache__")
    return None if any(re.search(pattern, info.name) for pattern in out) else info


def pack(a):
    a.out.mkdir(parents=True, exist_ok=True)
    missing = [n for n in ("libonnxruntime.so.1", "libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so") if a.provider and not (a.provider / n).exists()]
    if missing:
        sys.exit(f"error: {a.provider} lacks {', '.join(missing)}")
    if not (ROOT / "dist/src/cli/main.js").exists():
        sys.exit("error: dist is missing: run npm run build")
    packages = runtime_packages()
    if not packages:
        sys.exit("error: npm ls names no package: run npm ci")
    # The provider's own library of this name comes in the place of the binding's.
    needed = lambda info: None if a.provider and info.name.startswith(str(NATIVE / "libonnxruntime")) else wanted(info)
    with tempfile.TemporaryDirectory() as scratch:
        whole, bare = Path(scratch) / "all.tar.xz", Path(scratch) / "all.tar"
        with tarfile.open(bare, "w", dereference=True) as tar:
            for name in ("package.json", "dist", "scripts", "test/fixtures/golden", *packages):
                tar.add(ROOT / name, name, filter=needed)
            for library in sorted(a.provider.glob("libonnxruntime*")) if a.provider else ():
                tar.add(library, str(NATIVE / library.name))
            tar.add(Path(a.node).resolve(), "node")
            tar.add(a.reference, "advcl_torch.py")
            for file in sorted(Path(a.data).glob("*")):
                if file.is_file() and (a.all_data or file.name in ("data_batch_1.bin", "test_batch.bin", "batches.meta.txt")):
                    tar.add(file, f"cifar-10-batches-bin/{file.name}")
        for old in a.out.glob("piece-*"):
            old.unlink()
        if shutil.which("xz"):
            subprocess.run(["xz", "-6", "-T0", str(bare)], check=True)
        else:
            with open(bare, "rb") as source, lzma.open(whole, "wb", preset=6) as into:
                shutil.copyfileobj(source, into, 1 << 20)
        with open(whole, "rb") as source:
            for number in range(10**3):
                data = source.read(PIECE)
                if not data:
                    break
                (a.out / f"piece-{number:03d}").write_bytes(data)
    (a.out / "unpack.sh").write_text('#!/bin/sh\n# Puts the pieces beside this script together in a folder.\nset -e\nmkdir -p "${1:?give a folder}"\n'
                                     'cat "$(dirname "$0")"/piece-* | python3 -c "import sys, tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode=\'r|xz\').extractall(sys.argv[1])" "$1"\n')
    pieces = sorted(a.out.glob("piece-*"))
    print(f"{len(pieces)} pieces, {sum(p.stat().st_size for p in pieces) / 2**20:.0f} MiB, the largest {max(p.stat().st_size for p in pieces) / 2**20:.0f} MiB: {a.out}")


# --- measuring -----------------------------------------------------------------------------------------------------------------------

class OutOfTime(Exception):
    pass


class Machine:
    """Runs commands inside the time that is left, and ends what does not end."""

    def __init__(self, a):
        self.a, self.end = a, time.monotonic() + a.budget
        folders = []
        self.packages = sorted({p for p in sys.path if p.endswith("site-packages")})
        for base in self.packages:
            folders += [str(Path(base) / "torch/lib"), *sorted(glob.glob(f"{base}/nvidia/*/lib"))]
        known = os.environ.get("LD_LIBRARY_PATH")
        self.env = {**os.environ, "LD_LIBRARY_PATH": ":".join(folders + ([known] if known else []))}

    def left(self):
        return self.end - time.monotonic()

    def run(self, command, limit, stop=signal.SIGKILL):
        """(what was printed, what went wrong or None)"""
        limit = min(limit, self.left() - 2)
        if limit < 3:
            raise OutOfTime("the budget is used up")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.env)
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.send_signal(stop)
            try:
                out, err = process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
            return out, f"no end after {limit:.0f} s: {err.strip()[-300:]}"
        return out, None if process.returncode == 0 else f"exit code {process.returncode}: {(err.strip() or out.strip())[-1000:]}"

    def json(self, command, limit):
        out, error = self.run([self.a.node, *command, "--threads", str(self.a.threads)], limit)
        lines = out.strip().splitlines()
        if lines and lines[-1].startswith("{"):
            return json.loads(lines[-1])
        return {"error": error or "it printed no result"}

    def advcl(self, *args, limit=90):
        return self.json([str(ROOT / "dist/src/cli/main.js"), *args, "--json", "--quiet"], limit)

    def script(self, name, *args, limit=120):
        return self.json([str(ROOT / f"dist/scripts/parity/{name}.js"), "--provider", self.a.provider, *args], limit)


def each(m, report, stage, items, measure):
    """Measures each item into one stage, and writes after each."""
    found = {}
    for name, *rest in items:
        try:
            found[name] = measure(*rest)
        except OutOfTime as error:
            found[name] = {"error": str(error)}
        report(stage, found)
    return found


def bench(m, engine, precision, target):
    a = m.a
    asked = [] if a.dry else ["--precision", precision, *(["--target", target] if target else [])]
    got = m.advcl("bench", "--provider", a.provider, "--engine", engine, *asked, "--batch", str(a.batch), "--width", str(a.width), "--reps", str(a.reps))
    return {k: got[k] for k in ("secondsMedian", "secondsMin", "createSeconds", "error") if k in got}


def torch_bench(m, flags):
    a = m.a
    out, error = m.run([sys.executable, a.reference, "bench", "--device", a.device, "-b", str(a.batch), "--width", str(a.width), "--reps", str(a.reps), "--threads", str(a.threads), *flags], 400 if a.dry else 90)
    found = re.search(r"min ([\d.]+) median ([\d.]+)", out)
    return {"secondsMin": float(found[1]), "secondsMedian": float(found[2])} if found else {"error": error or "no time was printed"}


def train(m):
    """A minute of real training; what a step took there, data and metrics and all."""
    a = m.a
    out = a.out.with_suffix(".run")
    subprocess.run(["rm", "-rf", str(out)], check=True)
    seconds = 20 if a.dry else a.training
    _, error = m.run([a.node, str(ROOT / "dist/src/cli/main.js"), "pretrain", "--dataset", "cifar10", "--data", a.data, "--provider", a.provider, "--batch", str(a.batch), "--width", str(a.width), *(["--limit", str(8 * a.batch)] if a.dry else []),
                      "--no-clusters", "--knn-every", "0", "--epochs", "1000", "--threads", str(a.threads), "--out", str(out), "--quiet"], seconds + 15, signal.SIGTERM)
    try:
        rows = [json.loads(line) for line in (out / "timing.jsonl").read_text().splitlines()]
    except OSError:
        return {"error": error or "it wrote no timings"}
    rates = sorted(row["imagesPerSecond"] for row in rows[3:] if "imagesPerSecond" in row)
    return {"steps": len(rows), "imagesPerSecondMedian": rates[len(rates) // 2]} if rates else {"error": f"only {len(rows)} steps: {error}"}


def pgd(m):
    """PGD-20 on a classifier, the whole attack in one run, beside PyTorch's with TF32: seconds of a batch, in turn."""
    a = m.a
    got = m.json([str(ROOT / "dist/scripts/benchmarks/compare-pgd.js"), "--python", sys.executable, "--reference", str(a.reference), "--provider", a.provider, "--device", a.device,
                  "--batch", str(a.batch), "--width", str(a.width), "--rounds", str(a.reps), "--attack-steps", "2" if a.dry else "20"], 90)
    return {row["name"]: {"secondsMedian": row["wall"]} for row in got["contenders"]} if "contenders" in got else got


def spread(m):
    """The last losses of some 300 steps at width 32, three seeds in each precision, all at once."""
    a = m.a
    steps, width, batch = (24, 2, 4) if a.dry else (300, 32, 64)
    there = sum(file.stat().st_size for file in Path(a.data).glob("data_batch_*.bin")) // 3073
    images = min(steps * batch // 6, there) // batch * batch
    epochs = -(-steps * batch // images) if images else 0
    if not images:
        return {"error": f"{a.data} holds {there} training images, fewer than a batch of {batch}"}

    def last(precision, seed):
        out = a.out.with_suffix(f".{precision}-{seed}")
        subprocess.run(["rm", "-rf", str(out)], check=True)
        asked = [] if a.dry else ["--precision", precision]
        _, error = m.run([a.node, str(ROOT / "dist/src/cli/main.js"), "pretrain", "--dataset", "cifar10", "--data", a.data, "--provider", a.provider, *asked, "--batch", str(batch), "--width", str(width),
                          "--limit", str(images), "--no-clusters", "--knn-every", "0", "--epochs", str(epochs), "--seed", str(seed), "--threads", "2", "--workers", "1", "--out", str(out), "--quiet"], 100)
        try:
            losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
        except OSError:
            return {"error": error or "it wrote no metrics"}
        tail = losses[-len(losses) // 6:]
        return {"steps": len(losses), "loss": sum(tail) / len(tail)} if losses else {"error": error or "it wrote no loss"}

    asked = [(precision, seed) for precision in ("float32", "float16") for seed in (0, 1, 2)]
    with ThreadPoolExecutor(len(asked) if not a.dry else 1) as pool:
        found = list(pool.map(lambda one: last(*one), asked))
    return {f"{precision}, seed {seed}": got for (precision, seed), got in zip(asked, found)}


def kernels(m):
    """Milliseconds of a replayed step by kind of kernel, from what CUPTI sees (gpu-kernels.c)."""
    a = m.a
    if a.dry:
        return {"none": "a CPU has no kernels"}
    library, table = a.out.with_suffix(".so"), a.out.with_suffix(".tsv")
    bases = ["/usr/local/cuda", "/usr/local/cuda/extras/CUPTI", *(str(p) for base in m.packages for p in sorted(Path(base).glob("nvidia/*")))]
    flags = [f"-I{base}/include" for base in bases if Path(base, "include").is_dir()] + [f"-L{base}/{lib}" for base in bases for lib in ("lib", "lib64") if Path(base, lib).is_dir()]
    found = [str(p) for base in bases for p in sorted(Path(base).glob("lib*/libcupti.so*"))]
    if not found:
        return {"error": "libcupti is not here"}
    _, error = m.run(["cc", "-O2", "-shared", "-fPIC", str(ROOT / "scripts/benchmarks/gpu-kernels.c"), *flags, found[0], "-lpthread", "-o", str(library)], 30)
    if error:
        return {"error": error}
    m.env |= {"CUDA_INJECTION64_PATH": str(library), "GPU_KERNELS": str(table)}
    try:
        m.advcl("bench", "--provider", a.provider, "--precision", "float16", "--batch", str(a.batch), "--width", str(a.width), "--reps", "4")
    finally:
        del m.env["CUDA_INJECTION64_PATH"], m.env["GPU_KERNELS"]
    rows = [line.split("\t") for line in table.read_text(errors="replace").splitlines()]
    rows = sorted((int(r[0]), int(r[1]), r[4]) for r in rows if len(r) == 5)
    ends = [i for i, r in enumerate(rows) if r[2] == "sgdStep" and (i + 400 > len(rows) or all(x[2] != "sgdStep" for x in rows[i + 1:i + 400]))]
    if len(ends) < 3:
        return {"error": f"{len(rows)} kernels, and no two steps among them"}
    step = rows[ends[-2] + 1:ends[-1] + 1]
    times, counts = {}, {}
    for _, taken, name in step:
        kind = next(kind for kind, pattern in KINDS if re.search(pattern, name))
        times[kind], counts[kind] = times.get(kind, 0) + taken / 1e6, counts.get(kind, 0) + 1
    return {"kernels": len(step), "msFromFirstToLast": (step[-1][0] + step[-1][1] - step[0][0]) / 1e6,
            "kinds": {kind: {"ms": round(times[kind], 2), "kernels": counts[kind]} for kind in sorted(times, key=times.get, reverse=True)}}


def together(m, report, stages):
    """Stages that time nothing, side by side."""
    with ThreadPoolExecutor(len(stages)) as pool:
        for name, value in zip(stages, pool.map(lambda stage: stage(), stages.values())):
            report(name, value)
    return {name: "done" for name in stages}


def gpu_machine(m):
    out, error = m.run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"], 20) if not m.a.dry else ("none (dry)", None)
    return {"gpu": out.strip() or error, "cores": os.cpu_count(), "doctor": m.advcl("doctor", limit=60)}


def goals(values, dry):
    seconds = lambda stage, name: values.get(stage, {}).get(name, {}).get("secondsMedian")
    wrong = values.get("ops", {}).get("wrong")
    golden = values.get("golden", {})
    ends = values.get("spread", {})
    losses = {p: [got["loss"] for name, got in ends.items() if name.startswith(f"{p},") and "loss" in got] for p in ("float32", "float16")}
    apart = None
    if all(len(of) == 3 for of in losses.values()):
        mean = {p: sum(of) / 3 for p, of in losses.items()}
        apart = abs(mean["float16"] - mean["float32"]) / (max(losses["float32"]) - min(losses["float32"]))
    rows = [("step in float16, at most 0.12 s", seconds("steps", "fused, float16"), lambda x: x <= 0.12), ("step in TF32, at most 0.17 s", seconds("steps", "fused, tf32"), lambda x: x <= 0.17),
            ("check-ops, all right in float32", None if wrong is None else len(wrong), lambda x: x == 0),
            ("golden steps within tolerance", None if "steps" not in golden else sum(len(s["wrong"]) for part in ("steps", "atGolden") for s in golden[part].values()), lambda x: x == 0),
            ("float16 ends as float32: means apart, in spreads of three seeds", apart, lambda x: x <= 1)]
    return {name: {"figure": figure, "goal": "not measured" if figure is None or dry else "met" if met(figure) else "missed"} for name, figure, met in rows}


def measure(a):
    values = {"arguments": {k: str(v) for k, v in vars(a).items()}, "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    a.out.parent.mkdir(parents=True, exist_ok=True)

    def report(stage, value):
        values[stage] = value
        partial = a.out.with_name(a.out.name + ".partial")
        partial.write_text(json.dumps(values, indent=1) + "\n")
        partial.replace(a.out)

    m = Machine(a)
    exact = [] if a.dry else ["--precision", "float32"]
    steps = lambda name, which: lambda: each(m, report, name, which, lambda *asked: bench(m, *asked))
    torch = lambda name, which: lambda: each(m, report, name, which, lambda flags: torch_bench(m, flags))
    checks = {"golden": lambda: m.script("golden-step", "--attack-steps", "0" if a.dry else "0,1,5", "--engine", "native", *exact),
              "ops": lambda: m.script("check-ops", "--engine", "native", *exact)}
    stages = {"machine": lambda: gpu_machine(m), "steps": steps("steps", STEPS), "torch": torch("torch", TORCH), "checks": lambda: together(m, report, checks), "pgd": lambda: pgd(m),
              "kernels": lambda: kernels(m), "training": lambda: train(m), "spread": lambda: spread(m), "stock": steps("stock", STOCK), "binding": steps("binding", BINDING), "others": torch("others", OTHERS)}
    for stage in a.without.split(","):
        stages.pop(stage, None)
    for name, stage in stages.items():
        start = time.monotonic()
        try:
            value = stage()
        except Exception as error:  # whatever it is, the other stages are worth having
            value = {"error": f"{type(error).__name__}: {error}"}
        report(name, value)
        print(f"{name}: {'failed' if 'error' in value else 'done'} in {time.monotonic() - start:.0f} s, {m.left():.0f} s left", flush=True)
    report("goals", goals(values, a.dry))
    for stage, unit in (("steps", "step"), ("stock", "step"), ("binding", "step"), ("torch", "step"), ("others", "step"), ("pgd", "batch of PGD-20")):
        for name, got in values.get(stage, {}).items():
            print(f"{name:42} {got['secondsMedian']:9.4f} s a {unit}" if "secondsMedian" in got else f"{name:42} {str(got['error'] if isinstance(got, dict) else got)[:70]}")
    for name in ("training", "golden", "ops", "spread", "kernels"):
        if name in values:
            print(f"{name:42} {json.dumps(values[name])[:400 if name == 'kernels' else 76]}")
    for name, row in values["goals"].items():
        print(f"{name:42} {row['figure']} {row['goal']}")
    broken = [name for name in [n for n in stages if n != "checks"] + [n for n in checks if "checks" in stages] if "error" in values[name] or any(isinstance(v, dict) and "error" in v for v in values[name].values())]
    print(f"wrote {a.out}" + (f"; without {', '.join(broken)}" if broken else ""))
    sys.exit(1 if broken else 0)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(dest="command", required=True)
    packing, running = commands.add_parser("pack"), commands.add_parser("run")
    for command in (packing, running):
        command.add_argument("--node", default="node" if command is running else "/usr/bin/node")
        command.add_argument("--reference", required=True, help="advcl_torch.py")
        command.add_argument("--data", required=True, help="folder of CIFAR-10 binary files")
    packing.add_argument("--out", type=Path, required=True)
    packing.add_argument("--provider", type=Path, help="folder with the three libraries of the CUDA provider; left out, those beside the binding")
    packing.add_argument("--all-data", action="store_true", help="all batches of CIFAR-10, not only the first and the test's")
    running.add_argument("--out", type=Path, default=Path("artifacts/gpu.json"))
    running.add_argument("--budget", type=float, default=360, help="seconds of the whole call")
    running.add_argument("--training", type=float, default=60, help="seconds of real training")
    running.add_argument("--without", default="", help="stages to leave out, with commas between")
    running.add_argument("--dry", action="store_true", help="on the CPU, tiny")
    running.add_argument("--device", default="cuda", help="torch's")
    running.add_argument("--provider", default="cuda", help="onnxruntime's")
    running.add_argument("--width", type=int, default=64)
    running.add_argument("--batch", type=int, default=512)
    running.add_argument("--reps", type=int, default=5)
    running.add_argument("--threads", type=int, default=os.cpu_count())
    if "--dry" in sys.argv:
        running.set_defaults(device="cpu", provider="cpu", width=2, batch=4, reps=1, threads=1, budget=3600.0, out=Path("artifacts/gpu-dry.json"))
    a = p.parse_args()
    pack(a) if a.command == "pack" else measure(a)


if __name__ == "__main__":
    main()
