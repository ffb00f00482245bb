"""Why float32 programs part ways in the golden step with 5 attack steps: near ties of its ReLUs, found in PyTorch's float64.

Needs torch, numpy, safetensors.

  python scripts/parity/golden-ties.py [--out artifacts/golden-ties]

For each step of the attack it prints the pre-activation of each ReLU that float32 can hardly tell from zero (--distance, in
standard deviations of its channel), and what changes when this one falls on the other side: the gradient of the images, and
how many pixels step the other way. Then it lets the one with the largest change fall on the other side in that one step, goes
on in float64, and compares the whole step with the golden one. With --out, a folder, the true images and gradients of each
attack step (attack.safetensors) and the results of that other step (turned.safetensors) are written for scripts/parity/golden-step.ts
--ties. The last line is one JSON object.
"""
import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reference"))
import torch
from load_reference import add_reference, load_reference
from safetensors.torch import load_file, save_file

FIXTURES = Path(__file__).resolve().parents[2] / "test/fixtures/golden"


class Relus:
    """Stands in for relu: remembers what each call got, and lets chosen elements (call, flat index) fall on the other side."""

    def __init__(self):
        self.given, self.flipped = [], set()

    def __call__(self, x, inplace=False):
        call = len(self.given)
        self.given.append(x.detach())
        passes = x > 0
        for at in (index for where, index in self.flipped if where == call):
            passes.view(-1)[at] ^= True
        return x * passes

    def again(self, flipped=()):
        self.given, self.flipped = [], set(flipped)


def write(tensors, path):
    save_file({k: v.float().contiguous() for k, v in tensors.items()}, path)


def relative(a, b):
    return float((a - b).norm() / b.norm())


def unequal(a, b):
    return int(((a - b).abs() > 1e-5).sum())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_reference(p)
    p.add_argument("--distance", type=float, default=1e-6, help="standard deviations from zero")
    p.add_argument("--out", type=Path)
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    ref = load_reference(a.reference)
    given, golden = load_file(FIXTURES / "given.safetensors"), load_file(FIXTURES / "pretrain_steps5.safetensors")
    net = ref.AdvCLNet(16).double().train()
    net.load_state_dict({k.removeprefix("before."): v for k, v in given.items() if k.startswith("before.")}, strict=False)
    batch = {k.removeprefix("input."): v.double() for k, v in given.items() if k.startswith("input.") and "label" not in k}
    batch["labels"] = [given[f"input.label_{n[3:]}"].long() for n in net.heads]
    relus = Relus()
    plain, ref.F.relu = ref.F.relu, relus
    with torch.no_grad():
        others = [net(v, "normal") for v in (batch["view1"], batch["view2"], ref.high_frequency(batch["clean"]))]

    def gradients(x, flipped=()):
        """The attack's gradient of each view; `flipped` holds ReLUs of the two, in the order of `view`, as (view, call, index)."""
        grads = {}
        for view, branch in (("cl", "pgd"), ("ce", "pgd_ce")):
            relus.again((call, at) for v, call, at in flipped if v == view)
            at = x[view].detach().requires_grad_()
            z = net(at, branch)
            loss = ref.contrastive([z, *others]) if view == "cl" else ref.CE_WEIGHT * ref.clustering(z[1], batch["labels"], "sum")
            grads[view], = torch.autograd.grad(loss, at)
            seen[view] = relus.given
        return grads

    seen = {}
    climbed = lambda x, g: {v: ref.project(x[v] + ref.STEP * g[v].sign(), batch["clean"]) for v in x}
    start = {v: batch["clean"] + batch[f"start_{v}"] for v in ("cl", "ce")}

    def attack(flips={}, visit=None):
        x = start
        for k in range(1, ref.STEPS + 1):
            g = gradients(x, flips.get(k, ()))
            after = climbed(x, g)
            if visit:
                visit(k, x, g, after)
            x = after
        return x

    names = ["bn1", *(f"layer{s}.{b}.{r}" for s in (1, 2, 3, 4) for b in (0, 1) for r in ("bn1", "sum")), "head_proj"]
    ties, trace = [], {}

    def visit(k, x, g, after):
        for v in x:
            trace[f"attack.grad{k}_{v}"], trace[f"attack.x{k}_{v}"] = g[v], after[v]
        for v, calls in {v: list(c) for v, c in seen.items()}.items():
            for call, pre in enumerate(calls):
                far = pre.abs() / pre.transpose(0, 1).flatten(1).std(1).view(1, -1, *[1] * (pre.dim() - 2))
                distance, at = far.flatten().min(0)
                if distance < a.distance:
                    flipped = gradients(x, [(v, call, int(at))])
                    turned = unequal(climbed(x, flipped)[v], after[v])
                    ties.append({"step": k, "view": v, "relu": names[call], "call": call, "at": int(at), "distance": float(distance),
                                 "gradient": relative(flipped[v], g[v]), "pixels": turned})
                    print("attack step {step}, {view}: a pre-activation of {relu} is {distance:.1e} deviations from zero; on the other side the "
                          "gradient differs by {gradient:.1e} and {pixels} pixels".format(**ties[-1]), flush=True)

    true = attack(visit=visit)
    print(f"the attack in float64 beside the golden images: {sum(unequal(true[v], golden[f'attack.x_{v}']) for v in true)} unequal pixels")
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        write(trace, a.out / "attack.safetensors")
    summary = {"ties": ties}
    if ties:
        tie = max(ties, key=lambda t: t["gradient"])
        turned = attack({tie["step"]: [(tie["view"], tie["call"], tie["at"])]})
        ref.F.relu = plain
        done = ref.one_step(net, {**batch, **{f"start_{v}": turned[v] - batch["clean"] for v in turned}}, 0)[0]
        kept = {k: v.double() for k, v in golden.items() if "running" not in k and "first" not in k}
        errors = ref.deviation(done, kept)
        group = lambda name: sorted(v for k, v in errors.items() if k.startswith(name))
        summary["turned"] = {"tie": tie, "pixels": {v: unequal(turned[v], true[v]) for v in turned}, "metric": group("metric.")[-1],
                             "gradientMedian": (gs := group("grad."))[len(gs) // 2], "gradient": gs[-1], "after": group("after.")[-1]}
        print(f"with only that of step {tie['step']} in {tie['relu']} on the other side, all else in float64: {json.dumps(summary['turned'])}")
        if a.out:
            write({k: done[k] for k in kept}, a.out / "turned.safetensors")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
