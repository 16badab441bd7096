"""The most that accelerators compute: dense matrix products, no sparsity.

Of one JAX device: half a chip for TPU v2 and v3, a chip from v4 on. Sources:
NVIDIA's data sheets of the cards (tensor cores, float32 accumulation) and
Google Cloud's pages on TPU versions (bfloat16).
"""

# Part of `device_kind`: TFLOP/s in bfloat16 and in float32 as JAX computes it
# by default (TensorFloat-32 on NVIDIA cards from Ampere on, bfloat16 on TPUs).
# The first part that matches counts. V100 and T4 have float16 alone, which is
# what stands for bfloat16, and no TensorFloat-32.
PEAKS = (
  ('H200', 989.4, 494.7),
  ('H100 PCIe', 756.0, 378.0),
  ('H100 NVL', 835.0, 417.5),
  ('H100', 989.4, 494.7),
  ('A100', 312.0, 156.0),
  ('A10G', 70.0, 35.0),
  ('A10', 125.0, 62.5),
  ('A30', 165.0, 82.0),
  ('A40', 149.7, 74.8),
  ('L40S', 362.0, 183.0),
  ('L4', 121.0, 60.0),
  ('RTX 4090', 165.2, 82.6),
  ('RTX 3090', 71.0, 35.6),
  ('V100', 125.0, 15.7),
  ('T4', 65.0, 8.1),
  ('TPU v2', 22.5, 22.5),
  ('TPU v3', 61.5, 61.5),
  ('TPU v4', 275.0, 275.0),
  ('TPU v5 lite', 197.0, 197.0),
  ('TPU v5e', 197.0, 197.0),
  ('TPU v5', 459.0, 459.0),
  ('TPU v6', 918.0, 918.0),
)


def of(device_kind: str, dtype: str) -> float | None:
  """FLOP/s of a kind of device in 'float32' or 'bfloat16'; None: unknown."""
  for part, bfloat16, float32 in PEAKS:
    if part in device_kind:
      return 1e12 * (bfloat16 if dtype == 'bfloat16' else float32)
  return None
