"""Everything that needs a GPU, in one go, into one JSON file: parity, nodes left to the CPU, every way of the CUDA target,
several steps a run, throughput beside the PyTorch reference.

Needs a CUDA GPU, torch, numpy, safetensors, Node (--node), the compiled project with its node_modules, and the CUDA provider
beside onnxruntime-node's binding (npm run install:cuda). On a machine without a GPU, --device cpu with small numbers runs the
script itself:

  python scripts/gpu.py --reference ../shared/reference/advcl_torch.py --data ../shared/data/cifar-10-batches-bin --out artifacts/gpu.json
  python scripts/gpu.py … --device cpu --provider cpu --width 4 --batch 8 --parity-width 4 --rounds 1 --targets portable --steps-a-run 1

Every figure is written as soon as it is measured, so that an ended session keeps what it had.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(command, env=None, timeout=900):
    """Output of a command, or what went wrong with it."""
    start = time.time()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})})
    except subprocess.TimeoutExpired:
        return {"error": f"no end after {timeout} s"}
    if done.returncode != 0:
        return {"error": (done.stderr or done.stdout).strip()[-2000:]}
    return {"stdout": done.stdout, "seconds": time.time() - start}


def advcl(a, *args, env=None):
    """Results of an advcl command with --json."""
    got = run([a.node, str(ROOT / "dist/src/main.js"), *args, "--json", "--quiet"], env)
    return got if "error" in got else json.loads(got["stdout"].strip().splitlines()[-1])


def bench(a, target, steps=1, batch=None):
    return advcl(a, "bench", "--provider", a.provider, "--target", target, "--batch", str(batch or a.batch), "--width", str(a.width),
                 "--reps", str(a.reps), "--steps-a-run", str(steps), "--threads", str(a.threads))


def torch_bench(a, *flags, batch=None):
    got = run([sys.executable, a.reference, "bench", "--device", a.device, "-b", str(batch or a.batch), "--width", str(a.width),
               "--reps", str(a.reps), "--threads", str(a.threads), *flags])
    if "error" in got:
        return got
    found = re.search(r"min ([\d.]+) median ([\d.]+)", got["stdout"])
    return {"secondsMin": float(found[1]), "secondsMedian": float(found[2])}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--reference", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--node", default="node")
    p.add_argument("--device", default="cuda")
    p.add_argument("--provider", default="cuda")
    p.add_argument("--width", type=int, default=64)
    p.add_argument("--batch", type=int, default=512)
    p.add_argument("--parity-width", type=int, default=64)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--reps", type=int, default=5)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--targets", help="comma-separated; default: every way of the CUDA target")
    p.add_argument("--steps-a-run", default="1,4")
    a = p.parse_args()
    ways = ["cuda", "cuda-turned", "cuda-im2col", "cuda-im2col-turned"]
    targets = a.targets.split(",") if a.targets else [w + s for s in ("", "-float16") for w in ways]
    result = {"arguments": vars(a), "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}

    def keep(name, value):
        result[name] = value
        Path(a.out).parent.mkdir(parents=True, exist_ok=True)
        Path(a.out).write_text(json.dumps(result, indent=1) + "\n")
        print(f"{name}: {json.dumps(value)[:400]}", flush=True)

    import torch
    smi = run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    keep("machine", {"torch": torch.__version__, "cuda": torch.version.cuda, "nvidia-smi": smi.get("stdout", smi.get("error", "")).strip()})
    keep("doctor", advcl(a, "doctor"))

    # Parity: with TF32 off on both sides (the provider has no switch for it from Node; the libraries have one), and as it is.
    exact = {"NVIDIA_TF32_OVERRIDE": "0"}
    parity = [sys.executable, str(ROOT / "scripts/compare-step.py"), "--reference", a.reference, "--data", a.data, "--width", str(a.parity_width),
              "--batch", "16", "--warm-up", "10", "--warm-up-batch", "32", "--threads", str(a.threads), "--node", a.node, "--provider", a.provider]
    for name, env in (("parity TF32 off", exact), ("parity as it is", None)):
        got = run([*parity, "--targets", ",".join(targets)], env)
        keep(name, got if "error" in got else json.loads(got["stdout"].strip().splitlines()[-1]))

    # Every way, once; the fastest of each precision goes on.
    single = {t: bench(a, t) for t in targets}
    keep("ways", single)
    whole = {t: r["secondsMedian"] for t, r in single.items() if "secondsMedian" in r}
    if not whole:
        raise SystemExit("no target ran; see the JSON file")
    chosen = []
    for half in (False, True):
        of = {t: s for t, s in whole.items() if t.endswith("float16") == half}
        if of:
            chosen.append(min(of, key=of.get))
    keep("chosen", chosen)
    keep("steps a run", {f"{t} × {n}": bench(a, t, int(n)) for t in chosen for n in a.steps_a_run.split(",")})
    keep("profile", {t: advcl(a, "bench", "--provider", a.provider, "--target", t, "--batch", str(a.batch), "--width", str(a.width),
                              "--reps", "1", "--shares", "--threads", str(a.threads)) for t in chosen})

    # Throughput, alternating.
    contenders = {f"advcl {t}": lambda t=t: bench(a, t) for t in chosen}
    contenders |= {"torch official": lambda: torch_bench(a), "torch hoisted, channels last": lambda: torch_bench(a, "--hoist", "--channels-last"),
                   "torch hoisted, channels last, bf16": lambda: torch_bench(a, "--hoist", "--channels-last", "--bf16")}
    rounds = {name: [] for name in contenders}
    for _ in range(a.rounds):
        for name, measure in contenders.items():
            rounds[name].append(measure())
            keep("rounds", rounds)
    medians = {n: statistics.median([r["secondsMedian"] for r in rs if "secondsMedian" in r] or [float("nan")]) for n, rs in rounds.items()}
    keep("throughput", {"secondsMedian": medians, "imagesPerSecond": {n: a.batch / s for n, s in medians.items()},
                        "ratio to torch official": {n: medians["torch official"] / s for n, s in medians.items()}})


if __name__ == "__main__":
    main()
