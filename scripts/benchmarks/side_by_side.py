"""The PyTorch half of the comparisons: one turn for each line on stdin, its figures as one line of JSON on stdout.

    python side_by_side.py pretrain --batch 32 --width 64 --size 32 --threads 2 --mode authors|hoisted|bf16
    python side_by_side.py finetune --batch 64 --width 64 --threads 2 --attack-steps 10
    python side_by_side.py pgd --batch 128 --width 64 --threads 2 --attack-steps 20

The TypeScript half, scripts/benchmarks/side-by-side.ts, starts it. A turn is one pretraining step, one step of AFF (TRADES) or one PGD
evaluation with ResNet-18; all but `--mode authors` keep tensors channels last. Figures: seconds of the clock (`wall`) and of the
processor (`cpu`), largest resident memory so far (`peak`, GB). The first line says that it is ready.
"""
import argparse
import contextlib
import json
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reference"))
import torch
from load_reference import add_reference, load_reference

LAST = {"memory_format": torch.channels_last}


def network(ref, width, stem):
    """The reference's network, with ImageNet's stem (7x7 by 2, max pool 3x3 by 2; He et al. 2016) where that is asked for."""
    if stem == "cifar":
        return ref.AdvCLNet(width)

    class Large(ref.AdvCLNet):
        def __init__(self):
            super().__init__(width)
            self.conv1 = torch.nn.Conv2d(3, width, 7, 2, 3, bias=False)

        def features(self, x, branch):
            x = torch.nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x), branch)), 3, 2, 1)
            for stage in range(1, 5):
                for block in getattr(self, f"layer{stage}"):
                    x = block(x, branch)
            return x.mean((2, 3))

    return Large()


def pretrain(ref, a):
    net, data = network(ref, a.width, a.stem).train(), ref.random_batch(a.batch, a.size)
    if a.mode != "authors":
        net = net.to(**LAST)
        data = {k: v if k == "labels" else v.contiguous(**LAST) for k, v in data.items()}
    optimizer = ref.sgd(net, 0.01)

    def turn():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16) if a.mode == "bf16" else contextlib.nullcontext():
            loss = ref.step(net, data, a.mode != "authors", steps=a.attack_steps)[0]
        loss.backward()
        optimizer.step()
        loss.item()

    return turn


def finetune(ref, a):
    model = ref.Classifier(ref.AdvCLNet(a.width)).to(**LAST)
    clean = ref.random_batch(a.batch, a.size)["clean"].contiguous(**LAST)
    start = 0.001 * torch.randn(clean.shape).contiguous(**LAST)
    labels = torch.randint(0, 10, (a.batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=2e-4)

    def turn():
        optimizer.zero_grad(set_to_none=True)
        loss = ref.trades(model, clean, start, labels, steps=a.attack_steps)[0]
        loss.backward()
        optimizer.step()
        loss.item()

    return turn


def pgd(ref, a):
    if a.device != "cpu":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    model = ref.Classifier(ref.AdvCLNet(a.width)).eval().to(a.device, **LAST)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    clean = torch.rand(a.batch, 3, a.size, a.size).to(a.device).contiguous(**LAST)
    start = torch.empty_like(clean).uniform_(-ref.EPS, ref.EPS)
    labels = torch.arange(a.batch, device=a.device) % 10

    def turn():
        x = ref.pgd(model, clean, start, labels, a.attack_steps)
        with torch.no_grad():
            (model(x).argmax(1) == labels).sum().item()

    return turn


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["pretrain", "finetune", "pgd"])
    add_reference(p)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--width", type=int, default=64)
    p.add_argument("--size", type=int, default=32)
    p.add_argument("--stem", choices=["cifar", "imagenet"], default="cifar", help="of pretraining")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--attack-steps", type=int, default=5)
    p.add_argument("--device", default="cpu", help="of pgd, which takes TF32 on a GPU")
    p.add_argument("--mode", choices=["authors", "hoisted", "bf16"], default="hoisted", help="of pretraining")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    turn = {"pretrain": pretrain, "finetune": finetune, "pgd": pgd}[a.what](load_reference(a.reference), a)
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        turn()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak}), flush=True)


if __name__ == "__main__":
    main()
