"""Scoring reports nonfinite logits of teachers."""

import jax
import numpy as np

from kd.core import types
from kd.models import families
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import placement
from kd.partitioning import rules
from kd.teachers import live
from kd.teachers.cache import compression
from kd.teachers.cache import scoring

_ROWS, _LENGTH = 2, 8
_TOKENIZER, _TABLE = 260, 264  # The last rows of the table are padding.


def _params(model, seed):
  rng = np.random.default_rng(seed)
  shapes = model.abstract_params()
  return jax.tree.map(
    lambda x: (rng.normal(size=x.shape) / 8).astype(np.float32), shapes
  )


def test_nonfinite_logits_of_omitted_ids_identify_the_teacher():
  tokens = np.random.default_rng(0).integers(4, 250, (2, _ROWS, _LENGTH))
  ones = np.ones((_ROWS, _LENGTH), np.int32)
  batch = types.Batch(
    tokens=tokens[0].astype(np.int32),
    targets=tokens[1].astype(np.int32),
    positions=np.cumsum(ones, 1, dtype=np.int32) - 1,
    segment_ids=ones,
    parts=0 * ones,
    weights=ones.astype(np.float32),
    row_id=np.arange(_ROWS, dtype=np.int32),
  )
  sizes = families.variant('nano', '')
  model = families.build(sizes.keep_layers((5,)), 'float32', 'none', '')
  mesh = mesh_lib.make({'data': 1}, jax.devices()[:1])
  method = compression.Method('top_k', 'float16', 5, 1.0, 0)
  good, bad = _params(model, 0), _params(model, 1)
  bad['embedding'][_TOKENIZER] = np.nan
  teachers = [
    live.Teacher(model, jax.device_put(params, rules.replicated(mesh)), 0.5)
    for params in (good, bad)
  ]
  score = scoring.make(teachers, method, _TOKENIZER, 64, 0)
  scored = score(placement.place(batch, mesh, _ROWS))
  assert np.isfinite(scored.compressed.logprobs).all()
  np.testing.assert_array_equal(scored.finite, ones[..., None] * [True, False])
