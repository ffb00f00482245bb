"""Attacks the classifiers of scripts/fixtures/attacked_models.py with `torchattacks`, an independent implementation, for
comparison with `advcl evaluate` on the same weights and images.

    python compare-attacks.py MODEL.safetensors --data CIFAR-10-FOLDER --limit 200 --eps 8/255 --norm Linf

Prints one JSON object: robust accuracy of each attack alone on the images that are right, and of AutoAttack.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "fixtures"))
import torch
import torchattacks
from attacked_models import read, small_net
from safetensors.torch import load_file

p = argparse.ArgumentParser()
p.add_argument("weights", type=Path)
p.add_argument("--data", type=Path, required=True)
p.add_argument("--limit", type=int, default=200)
p.add_argument("--eps", type=lambda s: eval(s, {}), default=8 / 255)
p.add_argument("--norm", default="Linf", choices=["Linf", "L2"])
p.add_argument("--attacks", default="pgd20,apgd-ce,apgd-dlr,apgd-t,fab-t,square,autoattack")
p.add_argument("--threads", type=int, default=1)
a = p.parse_args()
torch.set_num_threads(a.threads)
model = small_net()
model.load_state_dict(load_file(a.weights), strict=False)
model.eval()
x, y = (t[: a.limit] for t in read([a.data / "test_batch.bin"]))
with torch.no_grad():
    right = model(x).argmax(1) == y
result = {"clean": right.float().mean().item()}
x, y = x[right], y[right]
common = {"eps": a.eps, "norm": a.norm, "verbose": False}
make = {
    "pgd20": lambda: torchattacks.PGD(model, eps=a.eps, alpha=a.eps / 4, steps=20) if a.norm == "Linf" else torchattacks.PGDL2(model, eps=a.eps, alpha=a.eps / 4, steps=20),
    "apgd-ce": lambda: torchattacks.APGD(model, steps=100, loss="ce", **common),
    "apgd-dlr": lambda: torchattacks.APGD(model, steps=100, loss="dlr", **common),
    "apgd-t": lambda: torchattacks.APGDT(model, steps=100, n_classes=10, **common),
    "fab-t": lambda: torchattacks.FAB(model, steps=100, n_classes=10, multi_targeted=True, **common),
    "square": lambda: torchattacks.Square(model, n_queries=5000, **common),
    "autoattack": lambda: torchattacks.AutoAttack(model, eps=a.eps, norm=a.norm, version="standard", n_classes=10),
}
standing = {}
for name in a.attacks.split(","):
    torch.manual_seed(0)
    start = time.time()
    z = make[name]()(x, y)
    with torch.no_grad():
        left = model(z).argmax(1) == y
    # What lies outside the ball is not broken.
    d = (z - x).flatten(1)
    far = (d.abs().amax(1) if a.norm == "Linf" else d.norm(dim=1)) > a.eps * 1.0001 + 1e-6
    standing[name] = left | far
    result[name] = (left | far).sum().item() / a.limit
    print(f"{name}: {result[name]:.4f} in {time.time() - start:.1f} s", file=sys.stderr, flush=True)
if {"apgd-ce", "apgd-t", "fab-t", "square"} <= standing.keys():  # AutoAttack's parts, each run on all images
    both = standing["apgd-ce"] & standing["apgd-t"] & standing["fab-t"] & standing["square"]
    result["all four"] = both.sum().item() / a.limit
print(json.dumps(result))
