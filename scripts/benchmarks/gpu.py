"""Everything that needs a GPU, in one go, into one JSON file: golden steps, parity, nodes left to the CPU, every way of the CUDA target
for the whole step and for each convolution, TF32, float16, several steps a run, where the time goes, and throughput beside PyTorch.

A machine with an NVIDIA GPU, step by step (only the first three need a network; they can be done elsewhere and carried over):

  1. npm install                            # in the project; builds dist/ too. Bring node itself along where the machine has none
  2. python -m pip install torch numpy safetensors                     # a build for the machine's CUDA; it brings cuBLAS and cuDNN
  3. the CUDA provider beside onnxruntime-node's binding: npm run install:cuda for CUDA 12; docs/gpu.md tells the way for CUDA 13
  4. python scripts/benchmarks/gpu.py --data cifar-10-batches-bin --out artifacts/gpu.json --resume [--node PATH]

A call ends after --budget seconds (nine minutes, for machines that are lent for ten at a time); the same call again goes on where it
stopped. Exit code 0: everything is there; 1: something is missing or failed, and the file says what. CUDA's libraries are found in
torch's own packages, nothing is fetched, and the first run of each step, in which cuDNN chooses its algorithms, is not counted.

A machine without a GPU shows that every stage runs, on its CPU and with tiny networks; its figures mean nothing. Those of WebGPU run on
the software driver that Debian's chromium brings, where it is:

  python scripts/benchmarks/gpu.py --data cifar-10-batches-bin --dry

The file is rewritten after each measurement. A stage that fails is kept as {"error": …} and the others go on. With --resume what the
file holds is not measured again, what failed is; --stages picks some.
"""
import argparse
import glob
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reference"))
import torch
from load_reference import add_reference

ROOT = Path(__file__).resolve().parents[2]
TF32_OFF = {"NVIDIA_TF32_OVERRIDE": "0"}
# The largest error of a loss at which a target may be chosen: float16 and TF32 keep ten bits.
LOSS_ERROR = 1e-2
SOFTWARE_VULKAN = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
# The ways of the CUDA target, as its names spell them; "" is the one that a name leaves out (graphs/targets/cuda/index.ts).
AXES = (("", "convolution"), ("", "turned"), ("", "dots", "composed"))
# What --dry sets: a CPU in the GPU's place and networks that it gets through in a few minutes.
DRY = {"device": "cpu", "provider": "cpu", "width": 4, "batch": 4, "parity_width": 4, "parity_batch": 4, "warm_up": 1, "rounds": 1,
       "reps": 1, "golden_attack_steps": "0", "steps_a_run": "1,2",
       "targets": "cuda-composed,cuda-convolution-composed,cuda-turned-composed,cuda-composed-float16,cuda-turned-composed-float16",
       "budget": 3600.0, "timeout": 900.0,
       "out": Path("artifacts/gpu-dry.json")}


class OutOfTime(Exception):
    pass


class Report:
    """The JSON file: a dictionary that is written whenever something is put in."""

    def __init__(self, path, resume):
        self.path = path
        self.values = json.loads(path.read_text()) if resume and path.exists() else {}
        path.parent.mkdir(parents=True, exist_ok=True)

    def keep(self, name, value):
        self.values[name] = value
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text(json.dumps(self.values, indent=1) + "\n")
        partial.replace(self.path)

    def has(self, name):
        """Whether a stage is there as a whole."""
        value = self.values.get(name)
        return value is not None and not failed(value) and not (isinstance(value, dict) and any(map(failed, value.values())))

    def each(self, name, wanted, measure):
        """Measures each of `wanted` into a dictionary, which is kept after each; what it holds already stays."""
        found = self.values.get(name)
        found = {k: v for k, v in found.items() if not failed(v)} if isinstance(found, dict) and not failed(found) else {}
        for key in wanted:
            if key not in found:
                found[key] = measure(key)
                print(f"  {key}: {brief(found[key])}", flush=True)
                self.keep(name, found)
        return found


def failed(value):
    return isinstance(value, dict) and "error" in value


def text(output):
    """What a process that was stopped had printed."""
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def cause(done):
    """Why a command failed: its last words, or how it ended where it had none."""
    said = (done.stderr.strip() or done.stdout.strip())[-2000:]
    ended = f"killed by {signal.Signals(-done.returncode).name}" if done.returncode < 0 else f"exit code {done.returncode}"
    return f"{ended}: {said}" if said else f"{ended}, without a word"


def named(ways, half):
    """`cuda-turned-float16`: a target by its way on each axis."""
    return "-".join(["cuda", *filter(None, ways), *(["float16"] if half else [])])


def ways_of(target):
    parts = target.split("-")[1:]
    return tuple(next((p for p in parts if p in axis), "") for axis in AXES)


def is_half(target):
    return target.endswith("float16")


def one_change(half):
    """The target that says nothing, and those that differ from it in one way."""
    base = tuple(axis[0] for axis in AXES)
    changes = [base[:i] + (way,) + base[i + 1:] for i, axis in enumerate(AXES) for way in axis[1:]]
    return [named(ways, half) for ways in (base, *changes)]


def together(seconds):
    """The target with every way that alone is faster than the first of `seconds`, the fastest of each axis."""
    first = next(iter(seconds))
    base = ways_of(first)
    best = list(base)
    for i in range(len(AXES)):
        alone = {t: s for t, s in seconds.items() if all((w == b) or k == i for k, (w, b) in enumerate(zip(ways_of(t), base)))}
        best[i] = ways_of(min(alone, key=alone.get))[i]
    return named(best, is_half(first))


def shape(s):
    g = s["geometry"]
    return f"{s['inputChannels']}→{s['outputChannels']} {g['input'][0]}×{g['input'][1]} k{g['kernel'][0]} s{g['strides'][0]}"


def brief(value):
    if isinstance(value, dict) and isinstance(value.get("secondsMedian"), float):
        return f"{value['secondsMedian']:.4f} s a step"
    return json.dumps(value)[:300]


class Machine:
    """Runs commands inside the time that is left."""

    def __init__(self, a):
        self.a = a
        self.end = time.monotonic() + a.budget
        # Where pip's packages put CUDA's libraries, for a Node that knows nothing of them.
        home = Path(torch.__file__).parent
        folders = [str(home / "lib"), *sorted(glob.glob(str(home.parent / "nvidia" / "*" / "lib")))]
        known = os.environ.get("LD_LIBRARY_PATH")
        self.env = {**os.environ, "LD_LIBRARY_PATH": ":".join(folders + ([known] if known else []))}
        if a.dry and SOFTWARE_VULKAN.exists():
            self.env.setdefault("VK_DRIVER_FILES", str(SOFTWARE_VULKAN))

    def run(self, command, env=None):
        """What a command printed, or what went wrong with it."""
        left = self.end - time.monotonic()
        if left < 5:
            raise OutOfTime(f"the budget of {self.a.budget} s is used up")
        limit = min(self.a.timeout, left)
        start = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env={**self.env, **(env or {})})
        except subprocess.TimeoutExpired as late:
            said = (text(late.stderr).strip() or text(late.stdout).strip())[-500:]
            return {"error": f"no end after {limit:.0f} s" + (f": {said}" if said else "")}
        except OSError as error:
            return {"error": str(error)}
        out = {"stdout": done.stdout, "seconds": time.monotonic() - start}
        return out if done.returncode == 0 else {**out, "error": cause(done)}

    def advcl(self, *args, env=None):
        """Results of an advcl command."""
        got = self.run([self.a.node, str(ROOT / "dist/src/cli/main.js"), *args, "--threads", str(self.a.threads), "--json", "--quiet"], env)
        return {"error": got["error"]} if failed(got) else json.loads(got["stdout"].strip().splitlines()[-1])

    def shapes(self, target):
        """Milliseconds of each convolution of the encoder and of its gradients in one way; the attack's two views at once."""
        a = self.a
        got = self.advcl("bench", "--what", "lowerings", "--provider", a.provider, "--target", target, "--batch", str(2 * a.batch),
                         "--width", str(a.width), "--reps", str(a.reps))
        return got if failed(got) else {f"{r['op']} {shape(r['shape'])}": r["milliseconds"] for r in got["rows"]}

    def bench(self, target, steps=1, batch=None, provider=None, reps=None, shares=False, env=None):
        a = self.a
        return self.advcl("bench", "--provider", provider or a.provider, "--target", target, "--batch", str(batch or a.batch), "--width",
                          str(a.width), "--reps", str(reps or a.reps), "--steps-a-run", str(steps), *(["--shares"] if shares else []), env=env)

    def torch(self, *flags, batch=None):
        a = self.a
        got = self.run([sys.executable, a.reference, "bench", "--device", a.device, "-b", str(batch or a.batch), "--width", str(a.width),
                        "--reps", str(a.reps), "--threads", str(a.threads), *flags])
        found = re.search(r"min ([\d.]+) median ([\d.]+)", got.get("stdout", ""))
        if failed(got) or found is None:
            return {"error": got.get("error", "the reference printed no time")}
        return {"secondsMin": float(found[1]), "secondsMedian": float(found[2])}

    def script(self, name, target, provider, *args, env=None):
        """Results of a script that ends with a JSON object, whether what it found is right or wrong."""
        got = self.run([self.a.node, str(ROOT / f"dist/scripts/parity/{name}.js"), "--provider", provider, "--target", target, "--threads",
                        str(self.a.threads), *args], env)
        lines = got.get("stdout", "").strip().splitlines()
        if lines and lines[-1].startswith("{"):
            return json.loads(lines[-1])
        return {"error": got.get("error", f"{name}.js printed no result")}

    def golden(self, target, provider, env=None):
        """The golden steps on a target: errors by group, and what passes its tolerance."""
        return self.script("golden-step", target, provider, "--attack-steps", self.a.golden_attack_steps, env=env)

    def ops(self, target, provider, env=None):
        """Every op and its gradient beside the CPU's."""
        return self.script("check-ops", target, provider, env=env)

    def parity(self, targets, provider, env):
        """Errors of `advcl step` against PyTorch in float64, by target."""
        a = self.a
        got = self.run([sys.executable, str(ROOT / "scripts/parity/compare-step.py"), "--reference", a.reference, "--data", a.data, "--width",
                        str(a.parity_width), "--batch", str(a.parity_batch), "--warm-up", str(a.warm_up), "--warm-up-batch", "32",
                        "--threads", str(a.threads), "--node", a.node, "--provider", provider, "--targets", ",".join(targets)], env)
        lines = got.get("stdout", "").strip().splitlines()
        if lines and lines[-1].startswith("{"):
            return json.loads(lines[-1])
        return {"error": got.get("error", "compare-step.py printed no result")}


def native_libraries(m):
    """What lies beside the binding, and what the dynamic linker does not find for the CUDA provider."""
    folder = ROOT / "node_modules/onnxruntime-node/bin/napi-v6/linux/x64"
    files = {f.name: f.stat().st_size for f in sorted(folder.glob("lib*"))}
    provider = folder / "libonnxruntime_providers_cuda.so"
    if not provider.exists():
        return {"files": files, **({"error": f"{provider} is missing"} if m.a.provider == "cuda" else {})}
    got = m.run(["ldd", str(provider)])
    missing = [line.split()[0] for line in got.get("stdout", "").splitlines() if "not found" in line]
    return {"files": files, "missing": missing, **({"error": got["error"]} if failed(got) else {})}


def gpu_machine(m):
    smi = m.run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"])
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    node = m.run([m.a.node, "--version"])
    return {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": cudnn, "cores": os.cpu_count(),
            "node": node.get("stdout", "").strip() or node.get("error"), "nvidia-smi": smi.get("stdout", "").strip() or smi.get("error")}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_reference(p)
    p.add_argument("--data", required=True, help="folder of CIFAR-10 binary files")
    p.add_argument("--out", type=Path, default=Path("artifacts/gpu.json"))
    p.add_argument("--dry", action="store_true", help="on the CPU, tiny: shows that every stage runs")
    p.add_argument("--resume", action="store_true", help="keep what --out holds already")
    p.add_argument("--stages", help="comma-separated; default: all")
    p.add_argument("--budget", type=float, default=540, help="seconds of this call")
    p.add_argument("--timeout", type=float, default=240, help="seconds for one command")
    p.add_argument("--node", default="node")
    p.add_argument("--device", default="cuda", help="torch's")
    p.add_argument("--provider", default="cuda", help="onnxruntime's")
    p.add_argument("--width", type=int, default=64)
    p.add_argument("--batch", type=int, default=512)
    p.add_argument("--parity-width", type=int, default=64)
    p.add_argument("--parity-batch", type=int, default=16)
    p.add_argument("--warm-up", type=int, default=10, help="training steps before parity is looked at")
    p.add_argument("--golden-attack-steps", default="0,1,5")
    p.add_argument("--rounds", type=int, default=3, help="of throughput, each contender once a round")
    p.add_argument("--reps", type=int, default=5, help="steps of a measurement")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--targets", help="comma-separated; default: the CUDA target and every single change of its ways")
    p.add_argument("--steps-a-run", default="1,2,4")
    p.add_argument("--webgpu", action=argparse.BooleanOptionalAction, default=True, help="also the WebGPU provider (needs Vulkan)")
    if "--dry" in sys.argv:
        p.set_defaults(**DRY)
    a = p.parse_args()
    targets = a.targets.split(",") if a.targets else one_change(False) + one_change(True)
    precisions = [of for half in (False, True) if (of := [t for t in targets if is_half(t) == half])]
    singles = precisions[0]
    # Two targets hold both ways of each gradient of a convolution.
    convolutions = [named(ways, is_half(of[0])) for of in precisions
                    for ways in (ways_of(of[0]), (AXES[0][1], AXES[1][1], ways_of(of[0])[2]))]
    report = Report(a.out, a.resume)
    m = Machine(a)

    def throughput():
        """Contenders in turn, so that a machine that slows down slows all."""
        best = {}
        for key, value in report.values.get("steps a run", {}).items():
            target, _, steps = key.partition(" × ")
            if not failed(value) and value["secondsMedian"] < best.get(target, (float("inf"),))[0]:
                best[target] = (value["secondsMedian"], int(steps))
        contenders = {f"advcl {t}" + (f", {steps} steps a run" if steps > 1 else ""): (lambda t=t, steps=steps: m.bench(t, steps))
                      for t, steps in ((t, best.get(t, (0, 1))[1]) for t in report.values["chosen"])}
        contenders |= {"torch official": m.torch,
                       "torch official, bf16": lambda: m.torch("--bf16"),
                       "torch hoisted, channels last": lambda: m.torch("--hoist", "--channels-last"),
                       "torch hoisted, channels last, bf16": lambda: m.torch("--hoist", "--channels-last", "--bf16")}
        try:
            rounds = report.each("rounds", [f"{i + 1} {name}" for i in range(a.rounds) for name in contenders],
                                 lambda key: contenders[key.partition(" ")[2]]())
        except OutOfTime as error:
            print(error)
            rounds = report.values.get("rounds", {})
        seconds = {name: [r["secondsMedian"] for key, r in rounds.items() if key.partition(" ")[2] == name and not failed(r)]
                   for name in contenders}
        medians = {name: statistics.median(s) for name, s in seconds.items() if s}
        ratios = {name: {other: medians[other] / medians[name] for other in medians if other.startswith("torch")}
                  for name in medians if name.startswith("advcl")}
        return {"secondsMedian": medians, "imagesPerSecond": {n: a.batch / s for n, s in medians.items()}, "times as fast as": ratios}

    def measured(*stages):
        return {t: r["secondsMedian"] for stage in stages for t, r in report.values.get(stage, {}).items() if not failed(r)}

    def combined():
        """For each precision all ways together that are faster alone, where that is not one of the targets."""
        seconds = measured("ways")
        found = [together(of) for half in (False, True) if (of := {t: s for t, s in seconds.items() if is_half(t) == half})]
        return [t for t in found if t not in targets]

    def chosen():
        """The fastest target of each precision among those that ran and whose loss is right."""
        wrong = {t: row for stage in ("parity as it is", "parity of ways together") for t in [*targets, *combined()]
                 if isinstance(row := report.values.get(stage, {}).get(f"advcl {t}"), dict)
                 and (failed(row) or not row["metric."][1] <= LOSS_ERROR)}
        seconds = {t: s for t, s in measured("ways", "ways together").items() if t not in wrong}
        if wrong:
            report.keep("not chosen for their losses", wrong)
        found = [min(of, key=seconds.get) for half in (False, True) if (of := [t for t in seconds if is_half(t) == half])]
        if not found:
            raise RuntimeError("no target ran with the right loss")
        return found

    def profile(target):
        # Launches that wait for their kernels: a node's time is then its kernels', not the queue's.
        return m.bench(target, reps=1, shares=True, env={"CUDA_LAUNCH_BLOCKING": "1"})

    def fastest():
        """The fastest way of each convolution, and how much the step's own choice loses there."""
        rows = {t: r for t, r in report.values.get("shapes", {}).items() if not failed(r)}
        of = lambda half: {t: r for t, r in rows.items() if is_half(t) == half}
        return {name: {key: min(times, key=lambda t: times[t][key]) for key in next(iter(times.values()))}
                for name, times in (("float32", of(False)), ("float16", of(True))) if times}

    def goals():
        """Each goal with its figure. A CPU in the GPU's place meets none: its figures are shown, and that they do not count."""
        kept = lambda name: {k: v for k, v in report.values.get(name, {}).items() if not failed(v)}
        speed = kept("throughput").get("times as fast as", {})
        times = lambda half: next((r for name, r in speed.items() if ("float16" in name) == half), {})
        profiles = kept("profile")
        left = {t: r["onCpu"] for t, r in profiles.items()}
        wrong = {t: [w for part in ("steps", "atGolden") for s in r[part].values() for w in s["wrong"]] for t, r in kept("golden").items()}
        wrong_ops = {t: r["wrong"] for t, r in kept("ops").items()}
        figures = {
            "float32 (TF32) at least 1.5 times as fast as PyTorch's official mode": (times(False).get("torch official"), lambda x: x >= 1.5),
            "float32 (TF32) at least as fast as PyTorch hoisted, channels last":
                (times(False).get("torch hoisted, channels last"), lambda x: x >= 1),
            "float16 at least as fast as PyTorch hoisted, channels last, bf16":
                (times(True).get("torch hoisted, channels last, bf16"), lambda x: x >= 1),
            "at least 75 % of the time in convolutions and matrix products":
                (min((r["products"] for r in profiles.values()), default=None), lambda x: x >= 0.75),
            "no node on the CPU": (left or None, lambda x: not any(x.values())),
            "every op equal to the CPU's, TF32 off": (wrong_ops or None, lambda x: not any(x.values())),
            "golden steps within their tolerances, TF32 off": (wrong or None, lambda x: not any(x.values())),
        }
        on_gpu = a.device != "cpu" and a.provider != "cpu"
        verdict = lambda figure, met: "not measured" if figure is None or not on_gpu else "met" if met(figure) else "missed"
        return {name: {"figure": figure, "goal": verdict(figure, met)} for name, (figure, met) in figures.items()}

    def webgpu(measure):
        """CUDA libraries from PyPI are built without WebGPU, and a server may have no Vulkan driver: then nothing can be measured."""
        found = report.values.get("doctor", {}).get("providers", {}).get("webgpu", {"works": True})
        return measure() if found["works"] else {"not measured": found["message"]}

    stages = {
        "machine": lambda: gpu_machine(m),
        "libraries": lambda: native_libraries(m),
        "doctor": lambda: m.advcl("doctor"),
        # The provider has no switch for TF32 from Node; the libraries have one.
        "ops": lambda: report.each("ops", singles, lambda target: m.ops(target, a.provider, TF32_OFF)),
        "golden": lambda: report.each("golden", singles, lambda target: m.golden(target, a.provider, TF32_OFF)),
        "parity TF32 off": lambda: m.parity(singles, a.provider, TF32_OFF),
        "parity as it is": lambda: m.parity(targets, a.provider, None),
        "ways": lambda: report.each("ways", targets, m.bench),
        "ways together": lambda: report.each("ways together", combined(), m.bench),
        "parity of ways together": lambda: m.parity(combined(), a.provider, None) if combined() else {},
        "TF32 off": lambda: m.bench(targets[0], env=TF32_OFF),
        "chosen": chosen,
        "steps a run": lambda: report.each("steps a run", [f"{t} × {n}" for t in report.values["chosen"] for n in a.steps_a_run.split(",")],
                                           lambda key: m.bench(key.partition(" × ")[0], int(key.partition(" × ")[2]))),
        "profile": lambda: report.each("profile", report.values["chosen"], profile),
        "throughput": throughput,
        "shapes": lambda: report.each("shapes", convolutions, m.shapes),
        "fastest way by shape": fastest,
        "webgpu ops": lambda: webgpu(lambda: m.ops("webgpu", "webgpu")),
        "webgpu golden": lambda: webgpu(lambda: m.golden("webgpu", "webgpu")),
        "webgpu parity": lambda: webgpu(lambda: m.parity(["webgpu"], "webgpu", None)),
        "webgpu": lambda: webgpu(lambda: m.bench("webgpu", provider="webgpu", batch=min(a.batch, 64), shares=True)),
        "goals": goals,
    }
    if not a.webgpu:
        stages = {name: stage for name, stage in stages.items() if not name.startswith("webgpu")}
    wanted = a.stages.split(",") if a.stages else list(stages)
    unknown = [name for name in wanted if name not in stages]
    if unknown:
        p.error(f"no stages {', '.join(unknown)}; there are {', '.join(stages)}")
    # Failed entries inside these stages are measured again; the others are whole or not.
    partial = {"ops", "golden", "ways", "ways together", "steps a run", "profile", "throughput", "shapes", "fastest way by shape", "goals", "chosen"}
    report.keep("arguments", {k: str(v) if isinstance(v, Path) else v for k, v in vars(a).items()})
    report.keep("started", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    for name in wanted:
        if a.resume and report.has(name) and name not in partial:
            continue
        print(f"{name} …", flush=True)
        start = time.monotonic()
        try:
            value = stages[name]()
        except OutOfTime as error:
            print(error)
            if name not in report.values:
                report.keep(name, {"error": str(error)})
            continue
        except Exception as error:  # whatever it is, the other stages are worth having
            value = {"error": f"{type(error).__name__}: {error}"}
        report.keep(name, value)
        print(f"{name}: {brief(value)} ({time.monotonic() - start:.0f} s)", flush=True)
    left = [name for name in wanted if not report.has(name)]
    print(f"wrote {a.out}" + (f"; without {', '.join(left)}" if left else ""))
    sys.exit(1 if left else 0)


if __name__ == "__main__":
    main()
