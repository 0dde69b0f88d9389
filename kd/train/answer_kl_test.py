"""KL of answers' tokens against float64 sums over each answer's own forward."""

import dataclasses

import jax
import numpy as np
from scipy import special

from kd.core import types
from kd.evaluation import likelihood
from kd.input_pipeline import packing
from kd.input_pipeline import tokenizers
from kd.models import families
from kd.models import model_cases
from kd.partitioning import mesh as mesh_lib
from kd.sampling import requests
from kd.teachers import live
from kd.train import answer_kl

_LENGTH, _SIZE, _FIRST_ROW = 16, 2, 7
_SIZES = dataclasses.replace(
  families.variant('nano', ''), layer_kinds=('global',)
)
_TOKENIZER = tokenizers.load('bytes')
_STOP = _TOKENIZER.stop_ids[0]


def _sample(text, finish='stop'):
  ids, stops = _TOKENIZER.encode(text), finish == 'stop'
  return requests.Sample(
    tuple(ids), (0.0,) * len(ids), text, finish, _STOP if stops else None
  )


_PROMPTS = [
  [_TOKENIZER.bos_id, *_TOKENIZER.encode(text)]
  for text in ('far too long ' * 3, 'Q: a', 'Q: bc', 'Q: no room', 'Q: d')
]
_SAMPLES = [
  _sample('x'),
  _sample('no 🙂!'),
  _sample('cut off at the row', 'length'),
  _sample('', 'too_long'),
  _sample(''),
]
_EXAMPLES = [{'in_rows': i != 0} for i in range(len(_PROMPTS))]


def _data():
  """Yields rows of other answers: the examples' and more of the task."""
  numbers = [*range(_FIRST_ROW, _FIRST_ROW + 5), -1]
  for first in range(0, len(numbers), _SIZE):
    row_ids = numbers[first : first + _SIZE]
    rows = [packing.empty(_LENGTH, _TOKENIZER.pad_id) for _ in row_ids]
    for row, number in zip(rows, row_ids, strict=True):
      if number >= 0:
        row['tokens'][:9], row['segment_ids'][:9] = number, 1
        row['weights'][3:9] = 1.0
    fields = {k: np.stack([row[k] for row in rows]) for k in packing.FIELDS}
    yield types.Batch(**fields, row_id=np.asarray(row_ids, np.int32))


def _logits(model, params, ids):
  """Returns float64 logits of one answer, without batches or chunks."""
  ones = np.ones((1, len(ids)), np.int32)
  batch = types.Batch(
    *(np.asarray([ids], np.int32), ones, np.arange(len(ids))[None]),
    *(ones, ones, ones.astype(np.float32), ones[:, 0]),
  )
  hidden, _ = model.forward(params, batch, types.TapSpec((), ()))
  table = np.asarray(model.unembedding(params), np.float64)
  return np.asarray(hidden[0], np.float64) @ table.T


def test_invalid_bytes_are_tokens_of_their_own():
  first = _TOKENIZER.encode('\0')[0]
  ids = first + 0xFF, first + 0xC3, first + 0xA9, first + 0xFF
  sample = requests.Sample(ids, (), _TOKENIZER.decode(ids), 'length')
  assert sample.text == '\ufffdé\ufffd'
  assert answer_kl.token_ends(sample, _TOKENIZER.decode) == [1, 1, 2, 3]


def test_token_kl_equals_float64_sums_over_each_answer():
  model = families.build(_SIZES, 'float32', 'none', '')
  mesh = mesh_lib.make({}, jax.devices()[:1])
  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  draw = lambda seed: jax.device_put(
    model_cases.random_params(model.abstract_params(), seed), place
  )
  teacher, student = draw(1), draw(2)
  targets = live.make(
    [live.Teacher(model, teacher, 1.0)], _SIZES.vocab_size, live.NO_TAPS, mesh
  )
  scorer = likelihood.Scorer(
    *(model, targets, ('student', 'teacher'), mesh, _SIZE, 4),
    with_tokens=True,
  )
  asked = answer_kl.Asked(_EXAMPLES, _PROMPTS, _SAMPLES)
  measured = answer_kl.measure(
    *(asked, _data(), _SIZE, _FIRST_ROW),
    lambda batches: scorer.token_kl(student, batches),
    _TOKENIZER,
  )
  # No row, and no answer.
  assert measured[0] == measured[3] == {}
  assert [len(x.get('token_kl', ())) for x in measured] == [0, 9, 11, 0, 1]
  # Four bytes of one character.
  assert measured[1]['token_ends'] == [1, 2, 3, 3, 3, 3, 4, 5, 5]
  for i in (1, 2, 4):
    sample, prompt = _SAMPLES[i], _PROMPTS[i]
    ids = [*prompt, *sample.ids]
    log_p, log_q = (
      special.log_softmax(_logits(model, params, ids)[len(prompt) - 1 :], -1)
      for params in (teacher, student)
    )
    expected = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    got = measured[i]['token_kl']
    np.testing.assert_allclose(got, expected[: len(got)], atol=1e-4)
    assert min(got) > 0.01
  # References are scored by the same program, as without the KL of tokens.
  plain = likelihood.Scorer(
    *(model, targets, ('student', 'teacher'), mesh, _SIZE, 4)
  )
  expected = plain(student, _data())
  for name, values in scorer(student, _data()).items():
    np.testing.assert_array_equal(values, expected[name])
