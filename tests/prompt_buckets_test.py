"""Tests that the sampling programs are compiled before the first step."""

import json

import jax
import numpy as np

from kd.core import compilations
from kd.input_pipeline import rows as rows_lib
from kd.run import resolve
from kd.run import samplers
from kd.run import source
from kd.teachers import rollout_rows
from kd.train import training_rows
from kd.train.feeds import on_policy
from tests import cache_runs


def test_no_prompt_of_the_data_compiles_a_program(tmp_path):
  prompts = [7 * n * '1' for n in (1, 3, 2, 1, 3)]
  text = ''.join(
    json.dumps({'prompt': prompt, 'completion': '2'}) + '\n'
    for prompt in prompts
  )
  (tmp_path / 'data.jsonl').write_text(text)
  changes = {
    'data.mixture': str(tmp_path / 'data.jsonl'),
    'data.examples': -1,
    'data.pack': False,
    'teacher.source': 'on_policy',
    'rollout.batch_size': 2,
    'rollout.max_new_tokens': 4,
  }
  config = cache_runs.config(tmp_path, tmp_path / 'cache', **changes)
  run = resolve.resolve(config, jax.devices()[:1])
  prepared = training_rows.prepare(run, lambda line: None)
  params = run.student.module.init_params(jax.random.key(0))
  said = []
  source.of(run.config).compile(run, prepared, params, said.append)
  batch = rows_lib.Numbered(prepared)(range(len(prompts)))
  asked = [
    rollout_rows.request(batch, place, 0, 0) for place in range(len(prompts))
  ]
  lengths = {max(16, 1 << (len(x.ids) - 2).bit_length()) for x in asked}
  assert len(lengths) == 2, lengths
  before = compilations.total().programs
  sample = samplers.without_params(run, run.student, 2)
  settings = on_policy._settings(run.config.rollout)
  rng = np.random.default_rng(0)
  for count in (1, 2, 5, 1, 3, 1):
    chosen = rng.permutation(len(asked))[:count]
    answers = sample(params, [asked[i] for i in chosen], settings)
    assert all(1 <= len(x.ids) <= 4 or x.stop_id for (x,) in answers)
  assert compilations.total().programs == before
