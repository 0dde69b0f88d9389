"""Timed program for the compute limit: float32 matrix products in JAX.

The argument is a JSON object:
  size: number of rows of the square matrices.
"""

import json
import sys

import jax
import jax.numpy as jnp

from benchmarks import stepper

_PRODUCTS = 8  # A single product is too short to average out the noise.


def main(argument):
  stream = stepper.claim_stdout()
  size = json.loads(argument)['size']
  x = jax.random.normal(jax.random.key(0), (size, size))
  product = jax.jit(jnp.matmul)

  def step():
    for _ in range(_PRODUCTS):
      product(x, x).block_until_ready()

  stepper.serve(stream, step, {'gflop': 2e-9 * size**3 * _PRODUCTS})


if __name__ == '__main__':
  main(sys.argv[1])
