"""Attacks a classifier with `torchattacks`, an independent implementation, for comparison with `advcl evaluate` on the same
weights and images. The classifier is one of scripts/fixtures/attacked_models.py, or a ResNet-18 for 32x32 images of any width:
`advcl export --from RUN --format safetensors --layout torchvision` (channels last).

    python compare-attacks.py MODEL.safetensors --data CIFAR-10-FOLDER --limit 200 --eps 8/255 --norm Linf

Prints one JSON object: robust accuracy of each attack alone on the images that are right, and of AutoAttack, and the seconds
of each.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))
import torch
import torchattacks
from attacked_models import read, small_net
from safetensors.torch import load_file
from torchvision.models.resnet import BasicBlock, ResNet

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("weights", type=Path)
p.add_argument("--data", type=Path, required=True)
p.add_argument("--limit", type=int, default=200)
p.add_argument("--eps", type=lambda s: eval(s, {}), default=8 / 255)
p.add_argument("--norm", default="Linf", choices=["Linf", "L2"])
p.add_argument("--attacks", default="pgd20,apgd-ce,apgd-dlr,apgd-t,fab-t,square,autoattack")
p.add_argument("--threads", type=int, default=1)
a = p.parse_args()
torch.set_num_threads(a.threads)


def resnet18(weights):
    """torchvision's ResNet-18 with the stem for small images, as wide as `weights` are."""
    width = weights["conv1.weight"].shape[0]

    class Net(ResNet):
        def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
            if planes == 64:
                self.inplanes = width
            return super()._make_layer(block, planes * width // 64, blocks, stride, dilate)

    net = Net(BasicBlock, [2, 2, 2, 2], num_classes=len(weights["fc.bias"]))
    net.conv1 = torch.nn.Conv2d(3, width, 3, 1, 1, bias=False)
    net.bn1 = torch.nn.BatchNorm2d(width)
    net.maxpool = torch.nn.Identity()
    net.fc = torch.nn.Linear(8 * width, len(weights["fc.bias"]))
    net.load_state_dict(weights, strict=True)
    return net.to(memory_format=torch.channels_last)


weights = load_file(a.weights)
if "layer1.0.conv1.weight" in weights:
    model = resnet18(weights)
else:
    model = small_net()
    model.load_state_dict(weights, strict=False)
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
    # torchattacks.AutoAttack gives APGD and FAB 10 iterations; the standard version of the paper has 100.
    "autoattack": lambda: torchattacks.MultiAttack([make[name]() for name in ("apgd-ce", "apgd-t", "fab-t", "square")]),
}
standing, seconds = {}, {}
for name in a.attacks.split(","):
    torch.manual_seed(0)
    start = time.time()
    z = make[name]()(x, y)
    seconds[name] = time.time() - start
    with torch.no_grad():
        left = model(z).argmax(1) == y
    # What lies outside the ball is not broken.
    d = (z - x).flatten(1)
    far = (d.abs().amax(1) if a.norm == "Linf" else d.norm(dim=1)) > a.eps * 1.0001 + 1e-6
    standing[name] = left | far
    result[name] = (left | far).sum().item() / a.limit
    print(f"{name}: {result[name]:.4f} in {seconds[name]:.1f} s", file=sys.stderr, flush=True)
if {"apgd-ce", "apgd-t", "fab-t", "square"} <= standing.keys():  # AutoAttack's parts, each run on all images
    both = standing["apgd-ce"] & standing["apgd-t"] & standing["fab-t"] & standing["square"]
    result["all four"] = both.sum().item() / a.limit
print(json.dumps({**result, "seconds": seconds}))
