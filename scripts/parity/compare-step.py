"""Compares one full-size AdvCL step of this project with the PyTorch reference, on the same weights and the same batch.

Needs torch, numpy, safetensors, and the compiled project (npm run build).

  python scripts/parity/compare-step.py --data cifar-10-batches-bin

The network is first trained for a few steps (--warm-up): an untrained one maps all images to nearly the same features, and
then even PyTorch in float32 parts from itself in float64. PyTorch computes in float64 (the truth) and in float32 (what
rounding alone does); this project in float32. Prints relative L2 errors against the truth; for attacked images the share
of pixels off by more than 1e-5.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reference"))
import torch
from load_reference import add_reference, load_reference
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]


def warmed_up(ref, width, batches, steps, batch):
    torch.manual_seed(0)
    net = ref.AdvCLNet(width).train()
    opt = ref.sgd(net)
    for i in range(steps):
        opt.zero_grad()
        loss = ref.step(net, batches(batch), hoist=True, steps=1)[0]
        loss.backward()
        opt.step()
        print(f"warm-up {i + 1}/{steps}: loss {loss.item():.3f}", flush=True)
    net.zero_grad()
    return net


def ours(net, batch, heads, a, target, folder):
    """Runs `advcl step` and returns its results, or what it said where it failed."""
    weights, images, out = (str(Path(folder) / f"{n}.safetensors") for n in ("weights", "batch", f"result-{target}"))
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, weights)
    flat = {k: v.contiguous() for k, v in batch.items() if k != "labels"}
    save_file({**flat, **{f"label_{n[3:]}": t for n, t in zip(heads, batch["labels"])}}, images)
    command = [a.node, str(ROOT / "dist/src/cli/main.js"), "step", "--weights", weights, "--batch", images, "--out", out, "--json",
               "--width", str(a.width), "--attack-steps", str(a.attack_steps), "--target", target, "--threads", str(a.threads),
               "--provider", a.provider]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        return done.stderr.strip()[-1000:]
    return {k: v.double() for k, v in load_file(out).items()}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_reference(p)
    p.add_argument("--data", required=True, help="folder of CIFAR-10 binary files")
    p.add_argument("--width", type=int, default=64)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--attack-steps", type=int, default=5)
    p.add_argument("--warm-up", type=int, default=20)
    p.add_argument("--warm-up-batch", type=int, default=32)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--targets", default="portable,cpu")
    p.add_argument("--provider", default="cpu")
    p.add_argument("--node", default="node")
    p.add_argument("--worst", type=int, default=3, help="tensors furthest from the truth that are named, with their lengths")
    a = p.parse_args()
    ref = load_reference(a.reference)
    torch.set_num_threads(a.threads)
    batches = ref.RealBatches(a.data, 1)
    net = warmed_up(ref, a.width, batches, a.warm_up, a.warm_up_batch)
    batch = batches(a.batch)
    truth = ref.one_step(net, batch, a.attack_steps)[0]
    rows = {"PyTorch float32": ref.deviation(ref.one_step(net, batch, a.attack_steps, torch.float32)[0], truth)}
    failures = {}
    with tempfile.TemporaryDirectory() as folder:
        for target in a.targets.split(","):
            result = ours(net, batch, net.heads, a, target, folder)
            if isinstance(result, dict) and (missing := sorted(set(truth) - set(result))):
                result = f"advcl step --target {target} did not give {missing}"
            if isinstance(result, str):
                failures[f"advcl {target}"] = result
            else:
                rows[f"advcl {target}"] = ref.deviation(result, truth)
    groups = ["metric.", "attack.first_grad", "attack.first_x", "attack.x", "grad.", "after."]
    print(f"\n{'ResNet-18 width ' + str(a.width):24}" + "".join(f"{g:>26}" for g in groups))
    summary = {}
    for name, errors in rows.items():
        cells = []
        for g in groups:
            found = sorted(v for k, v in errors.items() if k.startswith(g))
            cells.append((found[len(found) // 2], found[-1]) if found else (float("nan"), float("nan")))
        summary[name] = dict(zip(groups, cells))
        print(f"{name:24}" + "".join(f"{m:>12.1e} /{w:>11.1e} " for m, w in cells))
    print("median over tensors / worst tensor; relative L2, for attacked images the share of unequal pixels")
    norms = {k: float(v.norm()) for k, v in truth.items()}
    for g in ("grad.", "after."):
        largest = max(v for k, v in norms.items() if k.startswith(g))
        for name, errors in rows.items():
            for k in sorted((k for k in errors if k.startswith(g)), key=errors.get, reverse=True)[:a.worst]:
                print(f"{name}: {k} off by {errors[k]:.1e}, {errors[k] * norms[k]:.1e} in length; itself {norms[k]:.1e}, "
                      f"the largest {g}* {largest:.1e}")
    for name, why in failures.items():
        print(f"{name} failed: {why}")
    print(json.dumps({**summary, **{name: {"error": why} for name, why in failures.items()}}))
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
