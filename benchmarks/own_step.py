"""Timed program for kd's training step.

The argument is a JSON object:
  folder: Hugging Face folder of both student and teacher, or
  student, teacher: fields of Gemma3Config.
  tokens: token ids, rows of equal length.
  remat, chunk_tokens, positions: as in kd/config/base.py.
  student_fields: more fields of the config's `student`; optional.
"""

from collections.abc import Mapping
import dataclasses
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import programs
from benchmarks import stepper
from kd.checkpoints import weights
from kd.config import base
from kd.core import host_memory
from kd.models.gemma3 import config as gemma3_config
from kd.partitioning import rules
from kd.train import update as update_lib


def arguments(positions: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the default settings of the argument, except for `positions`."""
  config = base.get_config()
  return {
    'positions': dict(positions),
    'remat': config.student.remat,
    'chunk_tokens': config.objective.chunk_tokens,
  }


def fields(config: gemma3_config.Gemma3Config) -> dict[str, Any]:
  """Returns a model's entry in the argument."""
  return dataclasses.asdict(config)


def main(argument):
  stream = stepper.claim_stdout()
  spec = json.loads(argument)
  student, teacher = configs(spec)
  rows = jnp.asarray(spec['tokens'], jnp.int32)
  devices = np.asarray(jax.devices()[:1])
  step = programs.build(student, teacher, 'float32', spec, rows.shape, devices)
  mesh = step.mesh
  batch = jax.device_put(programs.batch(rows), rules.batch_sharding(mesh))
  targets = step.targets(_params(spec, step.run.teacher, 1))
  state = step.state(_params(spec, step.run.student, 0))
  update = update_lib.CompiledOnce(step.update)

  def run():
    nonlocal state
    wanted = targets(batch)
    with rules.active(mesh):
      state, out = update(state, batch, wanted)
    jax.block_until_ready((state, out))

  sizes = [c.parameter_count for c in (student, teacher)]
  stepper.serve(stream, run, {'parameters': sizes})


def configs(spec) -> list[gemma3_config.Gemma3Config]:
  """Returns the configs of student and teacher in the argument."""
  if 'folder' in spec:
    config = weights.model_config(f'hf:{spec["folder"]}', 'folder')
    return config, config
  return [
    gemma3_config.Gemma3Config(
      **{**spec[name], 'layer_kinds': tuple(spec[name]['layer_kinds'])}
    )
    for name in ('student', 'teacher')
  ]


def _params(spec, model, seed):
  if 'folder' not in spec:
    return programs.random_params(model.module, seed)
  init = f'hf:{spec["folder"]}'
  return weights.load(
    init, model.module, model.shardings, (), 'float32', 'folder'
  )


if __name__ == '__main__':
  host_memory.use_large_pages()  # As `python -m kd` does.
  main(sys.argv[1])
