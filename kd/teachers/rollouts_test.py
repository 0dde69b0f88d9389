"""Rows with the student's answers: their contents, and their selection."""

import collections

import jax
import numpy as np
import pytest

from kd.core import schedules
from kd.core import types
from kd.input_pipeline import packing
from kd.models import families
from kd.models.gemma3 import config as gemma3_config
from kd.sampling import engine
from kd.sampling import requests
from kd.teachers import replay_buffer
from kd.teachers import rollout_rows
from kd.teachers import rollouts

_LENGTH, _VOCAB, _STOP, _PAD = 16, 40, 2, 0
_CONFIG = gemma3_config.Gemma3Config(
  embed_dim=16,
  mlp_dim=32,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  vocab_size=_VOCAB,
  layer_kinds=('local', 'global'),
  window=4,
  context=64,
  query_scale=8.0,
  local_rope_base=10_000.0,
  global_rope_base=1_000_000.0,
  global_rope_factor=1.0,
  norm_epsilon=1e-6,
)


def _decode(ids):
  return ' '.join(map(str, ids))


def _example(prompt, answer):
  ids = np.asarray([*prompt, *answer], np.int32)
  weights = (np.arange(len(ids)) >= len(prompt)).astype(np.float32)
  return packing.Example(ids, np.zeros(len(ids), np.int32), weights, 0)


def _batch(prompts, first_id=0, answer=(30, 31, 1)):
  """Returns a row for each prompt, with an answer from the data."""
  rows = [
    packing.fill([_example(p, answer)] if p else [], _LENGTH, _PAD)
    for p in prompts
  ]
  fields = {n: np.stack([r[n] for r in rows]) for n in packing.FIELDS}
  ids = np.arange(first_id, first_id + len(prompts), dtype=np.int32)
  return types.Batch(**fields, row_id=ids)


class _Echo:
  """Answers with the prompt's last id, then with the seed's last digits."""

  def __init__(self):
    self.asked = []

  def __call__(self, params, asked):
    del params
    self.asked += asked
    return [[self._answer(request)] for request in asked]

  def _answer(self, request):
    if request.ids[-1] == 39:
      return requests.Sample((), (), '', 'too_long')
    ids = (request.ids[-1], 10 + request.seed % 20)
    logprobs = (-1.0, -2.0)
    return requests.Sample(ids, logprobs, _decode(ids), 'stop', _STOP, -3.0)


def _make(
  sampler,
  fraction=1.0,
  every=1,
  buffer=None,
  seed=0,
  image_tokens=0,
  with_logprobs=False,
):
  schedule = schedules.build(fraction, 'rollout.fraction', 100)
  return rollouts.Rollouts(
    *(sampler, schedule, every, buffer, seed, _PAD, _decode, image_tokens),
    with_logprobs,
  )


def test_rows_contain_the_prompt_and_the_students_answer():
  batch = _batch([(1, 5), (1, 5, 6, 7), ()])
  sampler = _Echo()
  outcome = _make(sampler)(3, None, batch, batch)
  assert [request.ids for request in sampler.asked] == [(1, 5), (1, 5, 6, 7)]
  for i, request in enumerate(sampler.asked):
    first, second = request.ids[-1], 10 + request.seed % 20
    n = len(request.ids) - 1
    row = jax.tree.map(lambda x, i=i: x[i], outcome.rows)
    wanted = [*request.ids, first, second, _STOP]
    assert row.tokens.tolist() == wanted[:-1] + [_PAD] * (13 - n)
    assert row.targets.tolist() == wanted[1:] + [_PAD] * (13 - n)
    assert row.weights.tolist() == [0.0] * n + [1.0] * 3 + [0.0] * (13 - n)
    assert (row.parts == types.SAMPLED).tolist() == (row.weights > 0).tolist()
    assert row.positions[: n + 3].tolist() == list(range(n + 3))
    assert row.segment_ids.tolist() == [1] * (n + 3) + [0] * (13 - n)
    assert row.row_id == i
  assert outcome.scalars['rollout/fraction'] == pytest.approx(2 / 3)
  assert outcome.scalars['rollout/age'] == 0
  assert outcome.scalars['rollout/new_tokens'] == 2
  assert outcome.scalars['rollout/logprob'] == -1.5
  assert outcome.example.prompt == '1 5'


def test_long_answers_are_cut_and_full_prompts_keep_their_data():
  long = requests.Sample(tuple(range(10, 30)), (0.0,) * 20, '', 'length')
  row = rollout_rows.answer_row((1, 5, 6), long, _LENGTH, _PAD)
  assert row['targets'].tolist() == [5, 6, *range(10, 24)]
  assert row['weights'].sum() == 14
  batch = _batch([(1, 39), (1, 5)])
  outcome = _make(_Echo())(0, None, batch, batch)
  kept = jax.tree.map(lambda x: x[0], (outcome.rows, batch))
  jax.tree.map(np.testing.assert_array_equal, *kept)
  assert outcome.scalars['rollout/no_room'] == 1
  assert outcome.scalars['rollout/fraction'] == 0.5


def test_metrics_are_computed_on_the_trained_tokens():
  """Prompts of 14, 15, 8 and 4 ids in rows of 16; answers of 8 and a stop."""
  ids = tuple(range(10, 18))
  asked = []

  def sampler(params, requests_):
    del params
    asked.extend(requests_)
    logprobs = tuple(-float(i) for i in range(8))
    return [[requests.Sample(ids, logprobs, '', 'stop', _STOP)] for _ in asked]

  prompts = [(1, *range(3, 2 + n)) for n in (14, 15, 8, 4)]
  batch = _batch(prompts, answer=(30,))
  outcome = _make(sampler)(0, None, batch, batch)
  trained = (outcome.rows.weights > 0).sum(axis=1)
  assert trained.tolist() == [3, 2, 9, 9]
  assert [request.max_new_tokens for request in asked] == [3, 2, 9, 13]
  kept = [3, 2, 8, 8]  # Without stop ids, which two rows have.
  assert outcome.scalars['rollout/new_tokens'] == np.mean(kept)
  assert outcome.scalars['rollout/stopped'] == 0.5
  assert outcome.scalars['rollout/truncated'] == 0.5
  wanted = -np.concatenate([np.arange(n) for n in kept]).mean()
  assert outcome.scalars['rollout/logprob'] == pytest.approx(wanted)


def test_the_buffer_keeps_log_probabilities_with_their_tokens():
  """One prompt has room for two of three answer ids, the other for all."""
  prompts = _batch([(1, *range(3, 17)), (1, 5)], answer=(30,))
  buffer = replay_buffer.Buffer(2, _LENGTH, logprobs=True)
  make = _make(_Echo(), every=2, buffer=buffer, with_logprobs=True)
  drawn = make(0, None, prompts, prompts).rows
  want = np.zeros((2, _LENGTH), np.float32)
  want[0, 14:], want[1, 1:4] = [-1, -2], [-1, -2, -3]
  np.testing.assert_array_equal(drawn.sampling_logprobs, want)
  again = replay_buffer.Buffer(2, _LENGTH, logprobs=True)
  again.load(buffer.state())
  make.buffer = again
  reused = make(1, None, prompts, None).rows
  by_row = np.argsort(reused.row_id)
  np.testing.assert_array_equal(reused.sampling_logprobs[by_row], want)


def test_every_answer_has_its_own_seed():
  """Every row, step and seed of the run has its own, even for one prompt."""
  batch = _batch([(1, 5)] * 6)
  seeds = collections.Counter()
  for seed in (0, 1):
    for step in range(4):
      sampler = _Echo()
      first = _make(sampler, seed=seed)(step, None, batch, batch)
      seeds.update(request.seed for request in sampler.asked)
      again = _make(_Echo(), seed=seed)(step, None, batch, batch)
      jax.tree.map(np.testing.assert_array_equal, first.rows, again.rows)
  assert len(seeds) == 2 * 4 * 6


def test_the_fraction_is_met_on_average_over_all_rows():
  batch = _batch([(1, 5)] * 5)
  make = _make(_Echo(), fraction=0.3)
  taken = np.zeros(5)
  for step in range(400):
    rows = make(step, None, batch, batch).rows
    taken += (rows.parts == types.SAMPLED).any(axis=1)
  # 600 in total, spread evenly over 5 rows.
  assert abs(taken.sum() - 600) < 40
  assert (abs(taken - 120) < 40).all(), taken


def test_reused_rows_skip_no_prompt():
  """After 3 samplings in 6 updates, the next prompts are those of batch 3."""

  def run(make, steps):
    seen = []
    for step in steps:
      rows = _batch([(1, 38)] * 2, first_id=1000)
      number = make.prompts_step(step)
      prompts = None
      if number is not None:
        prompts = _batch([(1, 5 + number)] * 2, first_id=2 * number)
      outcome = make(step, None, rows, prompts)
      assert outcome.rows.row_id.max() < 1000
      seen.append((outcome.rows, outcome.scalars))
    return seen

  sampler = _Echo()
  whole = run(
    _make(sampler, every=2, buffer=replay_buffer.Buffer(2, _LENGTH)), range(10)
  )
  prompts = [request.ids[1] - 5 for request in sampler.asked]
  assert prompts == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
  ages = [scalars['rollout/age'] for _, scalars in whole]
  assert ages == [0, 1] * 5
  begun, sampler = replay_buffer.Buffer(2, _LENGTH), _Echo()
  run(_make(sampler, every=2, buffer=begun), range(7))
  resumed, sampler = replay_buffer.Buffer(2, _LENGTH), _Echo()
  resumed.load(begun.state())
  rest = run(_make(sampler, every=2, buffer=resumed), range(7, 10))
  assert [request.ids[1] - 5 for request in sampler.asked] == [4, 4]
  for one, other in zip(whole[7:], rest, strict=True):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_log_probabilities_equal_a_recomputation():
  """The unchanged student recomputes them for prompts of several lengths."""
  model = families.build(_CONFIG, 'float32', 'none', 'student')
  rng = np.random.default_rng(1)
  params = jax.tree_util.tree_map_with_path(
    lambda path, leaf: rng.normal(
      0, 3 if path[-1].key == 'scale' else 0.25, leaf.shape
    ).astype(np.float32),
    model.abstract_params(),
  )
  words = engine.Vocabulary(_VOCAB, tuple(range(2, 9)), _PAD, _decode)
  sampling = requests.SamplingSettings(1.0, 0, 1.0, 0.0, 1.0, 8, ())
  found = []

  def sample(params, asked):
    sampler = engine.Engine(model, words, 2)
    found.extend(sampler.generate(params, asked, sampling))
    return found

  batch = _batch([(1, 9), (1, 9, 11, 12, 13), (1, 14, 15), (1, 16)])
  rows = _make(sample)(0, params, batch, batch).rows
  hidden, _ = model.forward(params, rows, types.TapSpec((), ()))
  logits = np.asarray(hidden, np.float64) @ params['embedding'].T
  logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
  stopped = 0
  for i, (answer,) in enumerate(found):
    at = np.flatnonzero(rows.weights[i])
    logprobs = logits[i, at, rows.targets[i, at]]
    np.testing.assert_allclose(
      np.exp(logprobs[: len(answer.ids)] - answer.logprobs), 1, 1e-4
    )
    ended = answer.finish == 'stop'
    stopped += ended
    assert len(at) == len(answer.ids) + ended
    if ended:
      assert rows.targets[i, at[-1]] == answer.stop_id in words.stop_ids
      np.testing.assert_allclose(
        np.exp(logprobs[-1] - answer.stop_logprob), 1, 1e-4
      )
  assert stopped > 0


def test_images_of_a_prompt_stay_with_the_answer():
  """Rows have two images (the second after the answer), none, and one."""
  tokens, count, side = 2, 2, 3
  batch = _batch([(1, 9, 9, 7), (1, 5), (1, 6, 9, 9, 7)])
  rng = np.random.default_rng(0)
  pixels = rng.integers(1, 255, (3, count, side, side, 3), np.uint8)
  index = np.full((3, _LENGTH), -1, np.int32)
  index[0, [1, 2, 7, 8]] = [0, 1, 2, 3]
  index[2, [2, 3]] = [0, 1]
  batch = batch.replace(images=types.Images(pixels, index))
  other = jax.tree.map(np.zeros_like, batch.images).replace(index=0 * index - 1)
  rows = batch.replace(images=other)
  sampler = _Echo()
  buffer = replay_buffer.Buffer(8, _LENGTH)
  assert 'pixels' not in buffer.state()
  make = _make(sampler, every=2, buffer=buffer, image_tokens=tokens)
  drawn = make(0, None, rows, batch).rows
  for request, starts in zip(sampler.asked, [[1], [], [2]], strict=True):
    assert [image.start for image in request.images] == starts
  np.testing.assert_array_equal(sampler.asked[2].images[0].data, pixels[2, 0])
  want = index.copy()
  want[0, 4:] = -1
  np.testing.assert_array_equal(drawn.images.index, want)
  np.testing.assert_array_equal(drawn.images.pixels, pixels)
  again = replay_buffer.Buffer(8, _LENGTH)
  again.load(buffer.state())
  make.buffer = again
  # Also if the data's own rows have no image.
  reused = make(1, None, rows.replace(images=None), None).rows
  by_row = np.argsort(reused.row_id)
  np.testing.assert_array_equal(reused.images.index[by_row], want)
  np.testing.assert_array_equal(reused.images.pixels[by_row][::2], pixels[::2])
