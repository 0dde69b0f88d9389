"""Compares strided perplexity of texts with transformers, by window."""

import json

import numpy as np
import pytest

from kd.benchmarking import measuring
from kd.benchmarking import models
from kd.config import base
from kd.evaluation import measures
from kd.train import evaluate
from tests.oracles import client

_MODEL = 'data/fixtures/quickstart_teacher'
_LENGTH, _STRIDE = 16, 6
_TEXTS = [
  'Q: 12+30=?\nA:\n12+30=42\n#### 42\nQ: 7-5=?\nA:\n7-5=2\n#### 2\n',
  '1+1=2',
]


def _windows(ids):
  """Yields the ids of each window, and the number of last ids to score."""
  scored = begin = 1  # Each window begins with the BOS, which is not scored.
  while scored < len(ids):
    end = min(begin + _LENGTH, len(ids))
    yield [ids[0], *ids[begin:end]], end - scored
    scored = end
    begin += _STRIDE


def test_perplexity_of_windows(tmp_path):
  path = tmp_path / 'texts.jsonl'
  path.write_text(''.join(json.dumps({'text': x}) + '\n' for x in _TEXTS))
  config = base.get_config()
  with config.unlocked():
    config.student.dtype = 'float32'
    config.data.folder = str(tmp_path / 'rows')
    config.data.length = _LENGTH
    config.benchmark.stride = _STRIDE
    config.evaluation.sets = {
      'texts': base.evaluation_set(mixture=str(path), split='train')
    }
  opened = models.open_model(config, _MODEL)
  held_out = evaluate.prepare_sets(opened.run, lambda line: None)
  result = measuring.measure(
    opened, opened.params(), None, held_out, lambda line: None
  )

  tokenizer = opened.run.tokenizer
  arrays, counts = {}, {}
  for number, text in enumerate(_TEXTS):
    ids = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
    for place, (window, count) in enumerate(_windows(ids)):
      name = f'w{number}_{place}'
      arrays[name], counts[name] = np.array(window), count
  case = {'directory': _MODEL, 'dtype': 'float32', 'logits': [*arrays]}
  _, made = client.run('hf', 'models', {'m': case}, arrays, tmp_path / 'hf')
  totals = np.zeros(len(_TEXTS))
  for name, ids in arrays.items():
    logits = np.asarray(made[f'm.{name}'], np.float64)[:-1]
    peak = logits.max(axis=-1, keepdims=True)
    log_sums = peak[:, 0] + np.log(np.exp(logits - peak).sum(axis=-1))
    nll = log_sums - logits[np.arange(len(ids) - 1), ids[1:]]
    text = int(name[1:].partition('_')[0])
    totals[text] += nll[-counts[name] :].sum()
  tokens = sum(counts.values())
  lengths = [len(tokenizer.encode(x)) + 1 for x in _TEXTS]
  assert tokens == sum(lengths)
  assert sum(result.scores['texts']['weight']) == tokens
  # The bootstrap draws texts, whatever their number of windows.
  nll_measure = measures.LIKELIHOODS[0]
  values, weights = measures.per_example(result, 'texts', nll_measure)
  assert weights == lengths
  np.testing.assert_allclose(values, totals / lengths, rtol=1e-4)
  expected = np.exp(totals.sum() / tokens)
  found = result.metrics['eval/texts/perplexity']
  assert found == pytest.approx(expected, rel=1e-4)
