"""One PGD-20 evaluation of a classifier in PyTorch, channels last, each time a line is read: seconds of the clock and of
the processor on one line of JSON. The other side of compare-pgd.ts.

    python compare-pgd.py ADVCL_TORCH.PY WIDTH BATCH STEPS THREADS
"""

import argparse
import importlib.util
import json
import sys
import time

import torch

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("reference")
p.add_argument("shape", type=int, nargs=4, metavar="N", help="width, batch, steps and threads")
given = p.parse_args()
width, batch, steps, threads = given.shape
spec = importlib.util.spec_from_file_location("advcl_torch", given.reference)
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)
torch.set_num_threads(threads)
torch.manual_seed(0)
model = reference.Classifier(reference.AdvCLNet(width)).eval().to(memory_format=torch.channels_last)
for parameter in model.parameters():
    parameter.requires_grad_(False)
clean = torch.rand(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
start = torch.empty_like(clean).uniform_(-8 / 255, 8 / 255)
labels = torch.arange(batch) % 10
for _ in sys.stdin:
    wall, processor = time.perf_counter(), time.process_time()
    x = reference.pgd(model, clean, start, labels, steps)
    with torch.no_grad():
        right = (model(x).argmax(1) == labels).sum().item()
    print(json.dumps({"wall": time.perf_counter() - wall, "processor": time.process_time() - processor, "right": right}), flush=True)
