"""Writes test/fixtures/python.safetensors: every dtype that safetensors files hold, made by the Python package."""
import argparse

import numpy as np, torch
from safetensors.torch import save_file

argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
t = {
  "f32": torch.tensor([[1.5, -2.0, 3.25], [0.0, float("inf"), -0.125]]),
  "f64": torch.tensor([np.pi, -1e300], dtype=torch.float64),
  "f16": torch.tensor([1.0, -0.5, 65504.0], dtype=torch.float16),
  "bf16": torch.tensor([1.0, -2.5, 3.0e38], dtype=torch.bfloat16),
  "i8": torch.tensor([-128, 127], dtype=torch.int8),
  "u8": torch.tensor([0, 255, 7], dtype=torch.uint8),
  "i16": torch.tensor([-32768, 32767], dtype=torch.int16),
  "u16": torch.tensor([0, 65535], dtype=torch.uint16),
  "i32": torch.tensor([-2147483648, 2147483647], dtype=torch.int32),
  "u32": torch.tensor([0, 4294967295], dtype=torch.uint32),
  "i64": torch.tensor([-(2**63), 2**63 - 1]),
  "u64": torch.tensor([0, 2**64 - 1], dtype=torch.uint64),
  "bool": torch.tensor([True, False, True]),
  "scalar": torch.tensor(0.5),
  "empty": torch.zeros(0, 3),
  "bn1.bn_list.2.größe": torch.tensor([1.0]),
  "10": torch.tensor([10.0]), "9": torch.tensor([9.0]),
}
save_file(t, "test/fixtures/python.safetensors", metadata={"format": "pt"})
