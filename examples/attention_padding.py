"""Times plain attention and kernels with padding on this machine's device.

  python examples/attention_padding.py [--implementation=xla] [--json=OUT]

It times forward and backward pass of one layer of ViT-B/16 for 197 tokens (ViT
at 224 px, patch 16) and 577 tokens (384 px). Queries and keys are padded to a
multiple of 2, 8 and 64 tokens. `--implementation=xla` also runs on a CPU.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp

from vit_jax_repro.models import attention

HEADS, HEAD_DIM = 12, 64  # ViT-B/16
TOKENS, MULTIPLES = (197, 577), (2, 8, 64)


def contenders(implementation, dtype):
  """Returns {name: function of query, key, value that returns the output}."""

  def plain(*arrays):
    out, _ = attention.attend(*arrays, implementation='plain', dtype=dtype)
    return out

  found = {'plain': plain}
  for multiple in MULTIPLES:
    found[f'{implementation}, multiples of {multiple}'] = (
      lambda *arrays, multiple=multiple: attention.padded(
        *arrays, implementation=implementation, multiple=multiple
      )
    )
  return found


def seconds(function, arrays, rounds, calls):
  """Returns the median time of a forward and backward pass, in seconds."""
  gradient = jax.jit(
    jax.grad(lambda *x: function(*x).astype(jnp.float32).sum(), (0, 1, 2))
  )
  jax.block_until_ready(gradient(*arrays))
  times = []
  for _ in range(rounds):
    started = time.perf_counter()
    for _ in range(calls):
      result = gradient(*arrays)
    jax.block_until_ready(result)
    times.append((time.perf_counter() - started) / calls)
  return statistics.median(times)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--implementation', default='cudnn')
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--calls', type=int, default=20)
  parser.add_argument('--json')
  options = parser.parse_args()
  rows = []
  for tokens in TOKENS:
    shape = (options.batch_size, tokens, HEADS, HEAD_DIM)
    arrays = [
      jax.random.normal(jax.random.key(i), shape, jnp.bfloat16)
      for i in range(3)
    ]
    for name, function in contenders(
      options.implementation, jnp.bfloat16
    ).items():
      took = seconds(function, arrays, options.rounds, options.calls)
      rows.append({'tokens': tokens, 'attention': name, 'seconds': took})
      print(f'{tokens} tokens, {name}: {1e6 * took:.0f} us', flush=True)
  if options.json:
    result = {
      'device': jax.devices()[0].device_kind,
      'jax': jax.__version__,
      'batch_size': options.batch_size,
      'rows': rows,
    }
    with open(options.json, 'w') as file:
      json.dump(result, file, indent=2)


if __name__ == '__main__':
  main()
