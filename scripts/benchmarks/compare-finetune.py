"""The PyTorch side of compare-finetune.ts: one AFF step (TRADES) for each line on stdin, its seconds as JSON on stdout.

  python compare-finetune.py REFERENCE BATCH WIDTH THREADS STEPS
"""
import argparse
import importlib.util
import json
import sys
import time

import torch

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("reference")
p.add_argument("shape", type=int, nargs=4, metavar="N", help="batch, width, threads and attack steps")
given = p.parse_args()
batch, width, threads, steps = given.shape
spec = importlib.util.spec_from_file_location("advcl_torch", given.reference)
ref = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ref)
torch.set_num_threads(threads)
torch.manual_seed(0)
last = dict(memory_format=torch.channels_last)
model = ref.Classifier(ref.AdvCLNet(width)).to(**last)
clean = ref.random_batch(batch)["clean"].contiguous(**last)
start = 0.001 * torch.randn(clean.shape).contiguous(**last)
labels = torch.randint(0, 10, (batch,))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=2e-4)
print(json.dumps({"torch": torch.__version__}), flush=True)
for _ in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    optimizer.zero_grad(set_to_none=True)
    loss = ref.trades(model, clean, start, labels, steps=steps)[0]
    loss.backward()
    optimizer.step()
    loss.item()
    print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}), flush=True)
