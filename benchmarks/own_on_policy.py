"""Timed program for kd's on-policy step.

The argument is a JSON object:
  student, teacher: fields of Gemma3Config.
  prompts: token ids of each prompt, of equal length, one per row.
  new_tokens: number of tokens in each answer.
"""

import dataclasses
import json
import sys

import jax
import numpy as np

from benchmarks import own_step
from benchmarks import programs
from benchmarks import stepper
from kd.config import base
from kd.core import host_memory
from kd.core import types
from kd.partitioning import rules
from kd.run import source
from kd.train import update as update_lib


@dataclasses.dataclass(frozen=True)
class _Ids:
  """Tokenizer without text or stop ids, so all answers have full length."""

  vocab_size: int
  pad_id: int = 0
  stop_ids: tuple[int, ...] = ()

  def decode(self, ids) -> str:
    return f'{len(ids)} ids'


def main(argument):
  stream = stepper.claim_stdout()
  spec = json.loads(argument)
  student, teacher = own_step.configs(spec)
  prompts = np.asarray(spec['prompts'], np.int32)
  rows, length = prompts.shape
  step = programs.build(
    student,
    teacher,
    'float32',
    own_step.arguments({'rule': 'all', 'fraction': 1.0}),
    (rows, length + spec['new_tokens']),
    np.asarray(jax.devices()[:1]),
    {
      'teacher.source': 'on_policy',
      'data.pack': False,
      'losses': {'kl': base.term('reverse_kl')},
      'rollout.max_new_tokens': spec['new_tokens'],
      'rollout.batch_size': rows,
    },
  )
  run = dataclasses.replace(step.run, tokenizer=_Ids(student.vocab_size))
  targets = step.targets(programs.random_params(run.teacher.module, 1))
  state = step.state(programs.random_params(run.student.module, 0))
  update = update_lib.CompiledOnce(step.update)
  batch = _batch(prompts, length + spec['new_tokens'])
  feed = source.of(run.config).feed(
    run, lambda step, places: batch, '', None, targets
  )
  number = 0

  def once():
    nonlocal state, number
    fed = feed(number, state.params, feed.read(number))
    with rules.active(step.mesh):
      state, out = update(state, fed.batch, fed.targets)
    jax.block_until_ready((state, out))
    assert fed.metrics['rollout/new_tokens'] == spec['new_tokens']
    number += 1

  sizes = [c.parameter_count for c in (student, teacher)]
  stepper.serve(stream, once, {'parameters': sizes})


def _batch(prompts, length):
  """Returns rows of prompts, each with one token as the data's answer."""
  rows, size = prompts.shape
  tokens = np.zeros((rows, length), np.int32)
  tokens[:, :size] = prompts
  places = np.arange(length, dtype=np.int32)
  inside = np.tile(places < size, (rows, 1))
  return types.Batch(
    tokens=tokens,
    targets=np.roll(tokens, -1, axis=1),
    positions=places * inside,
    segment_ids=inside.astype(np.int32),
    parts=np.zeros_like(tokens),
    weights=np.tile(places == size - 1, (rows, 1)).astype(np.float32),
    row_id=np.arange(rows, dtype=np.int32),
  )


if __name__ == '__main__':
  host_memory.use_large_pages()  # As `python -m kd` does.
  main(sys.argv[1])
