"""Timed program for the memory bandwidth: sums of a float32 array in JAX.

The argument is a JSON object:
  mib: size of the array in MiB.
"""

import json
import sys

import jax
import jax.numpy as jnp

from benchmarks import stepper
from kd.core import host_memory

_SUMS = 8  # A single sum is too short to average out the machine's noise.


def main(argument):
  stream = stepper.claim_stdout()
  size = json.loads(argument)['mib'] * 2**20
  x = jnp.ones((size // 4,), jnp.float32)
  total = jax.jit(jnp.sum)

  def step():
    for _ in range(_SUMS):
      total(x).block_until_ready()

  stepper.serve(stream, step, {'gb': 1e-9 * size * _SUMS})


if __name__ == '__main__':
  host_memory.use_large_pages()  # As `python -m kd` does.
  main(sys.argv[1])
