"""AdvCL in PyTorch: the yardstick for parity and for speed.

Written from the paper (arXiv 2111.01124) and checked against the authors' public code: same layer names, same
losses, same order of batch-norm updates. The width is free, so that fixtures stay small.

  python scripts/reference/advcl_torch.py bench -b 64    # seconds a step; --hoist, --channels-last, --bf16, --compile, --device cuda
  python scripts/reference/advcl_torch.py golden OUT --data CIFAR10
                                # write the golden values (float64 results; float32's own deviation beside them)
Needs torch, numpy and (for golden) safetensors.
"""
import argparse
import contextlib
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

BRANCHES = ("normal", "pgd", "pgd_ce")      # clean and high-frequency views; contrastive attack; clustering attack
CLUSTERS = (2, 10, 50, 100, 500)            # ClusterFit heads fc_002 .. fc_500
EPS, STEP, STEPS = 8 / 255, 2 / 255, 5
TEMPERATURE, BASE_TEMPERATURE, RADIUS, CE_WEIGHT = 0.5, 0.07, 8, 0.2


class MultiBatchNorm(nn.Module):
    """One set of batch-norm parameters and statistics a branch; `branch` picks which."""

    def __init__(self, channels):
        super().__init__()
        self.bn_list = nn.ModuleList(nn.BatchNorm2d(channels) for _ in BRANCHES)

    def forward(self, x, branch):
        return self.bn_list[BRANCHES.index(branch)](x)


class Downsample(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 1, stride, bias=False)
        self.bn = MultiBatchNorm(cout)

    def forward(self, x, branch):
        return self.bn(self.conv(x), branch)


class BasicBlock(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = MultiBatchNorm(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = MultiBatchNorm(cout)
        self.downsample = Downsample(cin, cout, stride) if stride != 1 or cin != cout else None

    def forward(self, x, branch):
        y = F.relu(self.bn1(self.conv1(x), branch))
        y = self.bn2(self.conv2(y), branch)
        return F.relu(y + (x if self.downsample is None else self.downsample(x, branch)))


class AdvCLNet(nn.Module):
    """ResNet-18 with the CIFAR stem (3x3, no max pool), three batch-norm branches, a projector and five heads."""

    def __init__(self, width=64, blocks=(2, 2, 2, 2), clusters=CLUSTERS):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = MultiBatchNorm(width)
        cin = width
        for stage, n in enumerate(blocks):
            cout = width << stage
            layer = nn.ModuleList()
            for i in range(n):
                layer.append(BasicBlock(cin, cout, 2 if stage and i == 0 else 1))
                cin = cout
            setattr(self, f"layer{stage + 1}", layer)
        self.heads = [f"fc_{k:03d}" for k in clusters]
        for name, k in zip(self.heads, clusters):
            setattr(self, name, nn.Linear(cin, k))
        self.head_proj = nn.Sequential(nn.Linear(cin, cin), nn.BatchNorm1d(cin), nn.ReLU(), nn.Linear(cin, 128))
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x, branch):
        x = F.relu(self.bn1(self.conv1(x), branch))
        for stage in range(1, 5):
            for block in getattr(self, f"layer{stage}"):
                x = block(x, branch)
        return x.mean((2, 3))

    def forward(self, x, branch):
        """Unit projections [B,128], and for the clustering branch also the logits of each head."""
        h = self.features(x, branch)
        z = F.normalize(self.head_proj(h), dim=1)
        return (z, [getattr(self, n)(h) for n in self.heads]) if branch == "pgd_ce" else z


def high_frequency(x, radius=RADIUS):
    """Images with the low frequencies (distance < radius from the shifted spectrum's centre) removed. Not clipped."""
    h, w = x.shape[-2:]
    i, j = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    keep = ((i - h / 2) ** 2 + (j - h / 2) ** 2).sqrt() >= radius
    return torch.fft.ifftn(torch.fft.fftn(x.float() if x.dtype != torch.float64 else x, dim=(-2, -1)) * torch.fft.ifftshift(keep).to(x.device), dim=(-2, -1)).real


def contrastive(views):
    """NT-Xent over all views ('all' mode of SupCon, no labels): each anchor's positives are its other views."""
    n, b = len(views), views[0].shape[0]
    z = torch.cat([v.float() if v.dtype != torch.float64 else v for v in views])
    logits = z @ z.T / TEMPERATURE
    logits = logits - logits.max(1, keepdim=True).values.detach()
    off = 1 - torch.eye(n * b, device=z.device)
    log_prob = logits - (logits.exp() * off).sum(1, keepdim=True).log()
    positive = torch.eye(b, device=z.device).repeat(n, n) * off
    return -(TEMPERATURE / BASE_TEMPERATURE) * ((positive * log_prob).sum(1) / positive.sum(1)).mean()


def clustering(logits, labels, reduction):
    return sum(F.cross_entropy(l.float() if l.dtype != torch.float64 else l, t, reduction=reduction) for l, t in zip(logits, labels)) / len(logits)


def project(x, clean, eps=EPS):
    return torch.min(torch.max(x, clean - eps), clean + eps).clamp(0, 1)


def step(net, batch, hoist=False, trace=None, steps=STEPS):
    """Loss of one pretraining step. batch: clean, view1, view2 [B,3,H,W] in [0,1]; start_cl, start_ce noise in
    [-eps, eps]; labels: one int64 [B] a head. The clean views do not change during the attack: `hoist` computes them
    once (then their running statistics move once instead of STEPS + 1 times)."""
    clean, v1, v2 = batch["clean"], batch["view1"], batch["view2"]
    hfc = high_frequency(clean)
    hfc = hfc.contiguous(memory_format=torch.channels_last) if clean.is_contiguous(memory_format=torch.channels_last) else hfc
    views = lambda: [net(v, "normal") for v in (v1, v2, hfc)]
    x_cl, x_ce = clean + batch["start_cl"], clean + batch["start_ce"]
    clean_views = views() if hoist else None
    for _ in range(steps):
        x_cl, x_ce = x_cl.detach().requires_grad_(), x_ce.detach().requires_grad_()
        z = net(x_cl, "pgd")
        logits = net(x_ce, "pgd_ce")[1]
        others = [v.detach() for v in clean_views] if hoist else views()
        loss = contrastive([z, *others]) + CE_WEIGHT * clustering(logits, batch["labels"], "sum")
        g_cl, g_ce = torch.autograd.grad(loss, [x_cl, x_ce])
        x_cl = project(x_cl.detach() + STEP * g_cl.sign(), clean)
        x_ce = project(x_ce.detach() + STEP * g_ce.sign(), clean)
        if trace is not None:
            trace.append((x_cl, x_ce, g_cl, g_ce))
    z = net(x_cl, "pgd")
    logits = net(x_ce, "pgd_ce")[1]
    con = contrastive([z, *(clean_views if hoist else views())])
    ce = clustering(logits, batch["labels"], "mean")
    return con + CE_WEIGHT * ce, con, ce, x_cl, x_ce, hfc


def random_batch(b, size=32, clusters=CLUSTERS, seed=0):
    g = torch.Generator().manual_seed(seed)
    smooth = lambda: F.interpolate(torch.rand(b, 3, 8, 8, generator=g), size=(size, size), mode="bilinear").clamp(0, 1)
    noise = lambda: (torch.rand(b, 3, size, size, generator=g) * 2 - 1) * EPS
    return {"clean": smooth(), "view1": smooth(), "view2": smooth(), "start_cl": noise(), "start_ce": noise(),
            "labels": [torch.randint(0, k, (b,), generator=g) for k in clusters]}


def sgd(net, lr=0.1):
    return torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)


class Classifier(nn.Module):
    """Encoder (one batch-norm branch) and linear head, as in finetuning. `train(encoder)` picks the batch-norm mode."""

    def __init__(self, net, classes=10, branch="pgd"):
        super().__init__()
        self.net, self.branch = net, branch
        self.fc = nn.Linear(net.fc_010.in_features, classes)

    def forward(self, x):
        return self.fc(self.net.features(x, self.branch))


def pgd(model, clean, start, labels, steps=20):
    """PGD with cross-entropy (sum). start: noise in [-eps, eps]."""
    x = clean + start
    for _ in range(steps):
        x = x.detach().requires_grad_()
        g, = torch.autograd.grad(F.cross_entropy(model(x), labels, reduction="sum"), x)
        x = project(x.detach() + STEP * g.sign(), clean)
    return x.detach()


def trades(model, clean, start, labels, beta=6.0, steps=10):
    """TRADES (arXiv 1901.08573): attack on the KL with batch norm in evaluation mode from clean + start (start is
    0.001 * standard normal), then in training mode CE(clean) + beta * KL(softmax(clean) || softmax(adversarial))."""
    model.eval()
    with torch.no_grad():
        p = model(clean).softmax(1)
    x = clean + start
    for _ in range(steps):
        x = x.detach().requires_grad_()
        g, = torch.autograd.grad(F.kl_div(model(x).log_softmax(1), p, reduction="sum"), x)
        x = project(x.detach() + STEP * g.sign(), clean)
    x = x.detach()
    model.train()
    natural, robust = model(clean), model(x)
    ce = F.cross_entropy(natural, labels)
    kl = F.kl_div(robust.log_softmax(1), natural.softmax(1), reduction="batchmean")
    return ce + beta * kl, ce, kl, x


def bench(a):
    dev = torch.device(a.device)
    if dev.type == "cpu":
        torch.set_num_threads(a.threads)
    else:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    net = AdvCLNet(a.width).to(dev).train()
    batch = {k: [t.to(dev) for t in v] if k == "labels" else v.to(dev) for k, v in random_batch(a.batch).items()}
    if a.channels_last:
        net = net.to(memory_format=torch.channels_last)
        batch = {k: v if k == "labels" else v.contiguous(memory_format=torch.channels_last) for k, v in batch.items()}
    run, opt = (torch.compile(net) if a.compile else net), sgd(net, 0.01)
    amp = torch.autocast(dev.type, dtype=torch.bfloat16) if a.bf16 else contextlib.nullcontext()
    times = []
    for _ in range(a.reps + 1):
        if dev.type == "cuda":
            torch.cuda.synchronize()
        t = time.perf_counter()
        opt.zero_grad(set_to_none=True)
        with amp:
            loss = step(run, batch, a.hoist)[0]
        loss.backward()
        opt.step()
        loss.item()
        times.append(time.perf_counter() - t)
    times = sorted(times[1:])
    print(f"torch {torch.__version__} {vars(a)}\nseconds/step min {times[0]:.3f} median {times[len(times) // 2]:.3f} "
          f"images/s {a.batch / times[len(times) // 2]:.2f}")


class RealBatches:
    """Batches cut from CIFAR-10 binary files. Crops and zooms only: a stand-in for the real augmentations."""

    def __init__(self, folder, seed):
        import numpy as np
        from pathlib import Path
        files = sorted(Path(folder).glob("data_batch_*.bin"))
        raw = np.concatenate([np.fromfile(f, np.uint8).reshape(-1, 3073) for f in files])
        self.images = torch.from_numpy(raw[:, 1:].reshape(-1, 3, 32, 32).copy()).float() / 255
        self.classes = torch.from_numpy(raw[:, 0].astype(np.int64))
        self.g = torch.Generator().manual_seed(seed)

    def crop(self, x):
        i, j = torch.randint(0, 9, (2,), generator=self.g)
        x = F.pad(x, (4, 4, 4, 4))[:, :, i:i + 32, j:j + 32]
        return x.flip(3) if torch.rand(1, generator=self.g) < 0.5 else x

    def zoom(self, x):
        n = int(torch.randint(16, 33, (1,), generator=self.g))
        i, j = torch.randint(0, 33 - n, (2,), generator=self.g)
        x = F.interpolate(x[:, :, i:i + n, j:j + n], size=32, mode="bilinear", align_corners=False)
        return (x * (0.6 + 0.8 * torch.rand(1, 1, 1, 1, generator=self.g))).clamp(0, 1)

    def __call__(self, b):
        i = torch.randint(0, len(self.images), (b,), generator=self.g)
        x = self.images[i]
        each = lambda f: torch.cat([f(x[k:k + 1]) for k in range(b)])
        noise = lambda: (torch.rand(b, 3, 32, 32, generator=self.g) * 2 - 1) * EPS
        return {"clean": each(self.crop), "view1": each(self.zoom), "view2": each(self.zoom), "start_cl": noise(), "start_ce": noise(),
                "labels": [(self.classes[i] * 7 + i % 13) % k for k in CLUSTERS]}


def warmed_up(width, seed, folder, steps=80):
    """A network after some steps on real images. An untrained one maps all images to nearly the same features, and then
    two correct float32 programs part ways within the attack."""
    torch.manual_seed(seed)
    net, batches = AdvCLNet(width).train(), RealBatches(folder, seed + 1)
    opt = sgd(net)
    for _ in range(steps):
        opt.zero_grad()
        step(net, batches(64), hoist=True, steps=2)[0].backward()
        opt.step()
    net.zero_grad()
    return net, batches


def one_step(net, batch, steps, dtype=torch.float64, channels_last=False):
    """One whole step from a copy of net in the given arithmetic. Returns its results and its parameters after SGD."""
    import copy
    net = copy.deepcopy(net).to(dtype)
    batch = {k: v if k == "labels" else v.to(dtype) for k, v in batch.items()}
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
        batch = {k: v if k == "labels" else v.contiguous(memory_format=torch.channels_last) for k, v in batch.items()}
    opt, trace = sgd(net), []
    loss, con, ce, x_cl, x_ce, hfc = step(net, batch, trace=trace, steps=steps)
    loss.backward()
    out = {"metric.loss": loss.reshape(1), "metric.contrastive": con.reshape(1), "metric.clustering": ce.reshape(1), "attack.x_cl": x_cl, "attack.x_ce": x_ce}
    if trace:
        out |= {"attack.first_grad_cl": trace[0][2], "attack.first_grad_ce": trace[0][3], "attack.first_x_cl": trace[0][0], "attack.first_x_ce": trace[0][1]}
    out |= {f"grad.{k}": q.grad.clone() for k, q in net.named_parameters()}
    opt.step()
    out |= {f"after.{k}": t for k, t in net.state_dict().items() if "num_batches" not in k}
    return {k: v.detach().double().contiguous() for k, v in out.items()}, net


def deviation(a, b, eps_pixels=1e-5):
    """How far result a is from b: relative L2 for tensors, share of unequal pixels for attacked images."""
    return {k: float(((a[k] - v).abs() > eps_pixels).double().mean()) if ".x_" in k or "first_x" in k else
            float((a[k] - v).norm() / v.norm().clamp_min(1e-12)) for k, v in b.items() if k != "grad.head_proj.0.bias"}


def golden(a):
    import json
    import numpy as np
    from pathlib import Path
    from safetensors.numpy import save_file
    torch.set_num_threads(2)
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    to = lambda d: {k: np.ascontiguousarray(v.detach().float().numpy() if v.is_floating_point() else v.numpy()) for k, v in d.items()}
    net, batches = warmed_up(a.width, a.seed, a.data)
    images = batches(4)["clean"]
    stl = F.interpolate(batches(2)["clean"], size=96, mode="bicubic", align_corners=False).clamp(0, 1)
    save_file(to({"image32": images, "hfc32": high_frequency(images.double()), "image96": stl, "hfc96": high_frequency(stl.double())}), out / "high_frequency.safetensors")
    v = [F.normalize(torch.randn(6, 128), dim=1) for _ in range(4)]
    w = [t.double().requires_grad_() for t in v]
    loss = contrastive(w)
    g = torch.autograd.grad(loss, w)
    save_file(to({**{f"view{i}": t for i, t in enumerate(v)}, **{f"grad{i}": t for i, t in enumerate(g)}, "loss": loss.reshape(1)}), out / "contrastive.safetensors")

    batch, torchs = batches(16), {}
    save_file(to({**{f"before.{k}": t for k, t in net.state_dict().items() if "num_batches" not in k}, **{f"input.{k}": t for k, t in batch.items() if k != "labels"},
                  **{f"input.label_{n[3:]}": t for n, t in zip(net.heads, batch["labels"])}}), out / "given.safetensors")
    small = lambda d: {k: t for k, t in d.items() if t.numel() <= 4096 or not k.startswith(("grad.", "after.")) or k.endswith(("layer1.0.conv1.weight", "layer2.0.conv1.weight", "layer4.1.conv2.weight", "head_proj.3.weight"))}
    for steps in (0, 1, 5):
        true, after = one_step(net, batch, steps)
        torchs[f"steps{steps}"] = {name: deviation(one_step(net, batch, steps, torch.float32, cl)[0], true) for name, cl in (("contiguous", False), ("channels_last", True))}
        save_file(to(small(true)), out / f"pretrain_steps{steps}.safetensors")
    after.eval()
    clean = batch["clean"].double()
    with torch.no_grad():
        save_file(to({f"features.{b}": after.features(clean, b) for b in BRANCHES}), out / "features_after_steps5.safetensors")

    model = Classifier(net)
    with torch.no_grad():                       # a head that is not random: ridge regression on the features
        model.eval()
        x = batches.images[:1000]
        f = torch.cat([net.features(x, "pgd"), torch.ones(len(x), 1)], 1).double()
        sol = torch.linalg.solve(f.T @ f + torch.eye(f.shape[1]), f.T @ F.one_hot(batches.classes[:1000], 10).double()).float()
        model.fc.weight.copy_(10 * sol[:-1].T)
        model.fc.bias.copy_(10 * sol[-1])
    labels = torch.randint(0, 10, (16,))
    model = model.double()
    state = {k: t.clone() for k, t in model.state_dict().items() if "num_batches" not in k and (".bn_list.1." in k or "conv" in k or k.startswith("fc."))}
    start = 0.001 * torch.randn(clean.shape)
    adv = pgd(model, clean, batch["start_cl"].double(), labels)
    with torch.no_grad():
        clean_logits, adv_logits = model(clean), model(adv)
    opt = sgd(model)
    loss, ce, kl, x_adv = trades(model, clean, start.double(), labels)
    loss.backward()
    opt.step()
    save_file(to({**{f"before.{k}": t for k, t in state.items()}, "input.clean": clean, "input.label": labels, "input.start": start, "input.start_pgd": batch["start_cl"],
                  "pgd20.x": adv, "pgd20.logits": adv_logits, "clean.logits": clean_logits, "attack.x": x_adv,
                  "metric.loss": loss.reshape(1), "metric.ce": ce.reshape(1), "metric.kl": kl.reshape(1),
                  **{f"after.{k}": t for k, t in model.state_dict().items() if k in state and t.numel() <= 4096}}), out / "finetune.safetensors")
    groups = lambda d: {g: max(v for k, v in d.items() if k.startswith(g)) for g in ("metric.", "attack.first_grad", "attack.first_x", "attack.x", "grad.", "after.") if any(k.startswith(g) for k in d)}
    (out / "torch_float32_deviation.json").write_text(json.dumps({s: {n: groups(d) for n, d in t.items()} for s, t in torchs.items()}, indent=1) + "\n")
    print(json.dumps({s: {n: groups(d) for n, d in t.items()} for s, t in torchs.items()}, indent=1))
    print("wrote", *[f"{p.name} {p.stat().st_size // 1024} KiB" for p in sorted(out.iterdir())])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="what", required=True)
    b = sub.add_parser("bench")
    b.add_argument("-b", "--batch", type=int, default=64)
    b.add_argument("--width", type=int, default=64)
    b.add_argument("--reps", type=int, default=3)
    b.add_argument("--threads", type=int, default=2)
    b.add_argument("--device", default="cpu")
    for f in ("--hoist", "--channels-last", "--bf16", "--compile"):
        b.add_argument(f, action="store_true")
    g = sub.add_parser("golden")
    g.add_argument("out")
    g.add_argument("--data", required=True, help="folder of CIFAR-10 binary files")
    g.add_argument("--width", type=int, default=16)
    g.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    {"bench": bench, "golden": golden}[a.what](a)


if __name__ == "__main__":
    main()
