"""Tests that llama.cpp's server as a teacher returns the model's targets."""

import jax
import numpy as np

from kd.checkpoints import gguf_writer
from kd.config import base
from kd.core import types
from kd.input_pipeline import gguf_tokenizers
from kd.input_pipeline import tokenizers
from kd.models import families
from kd.models.gemma3 import config as gemma3_config
from kd.teachers.served import teacher as teacher_lib
from tests.oracles import client

_K = 8
# There are no padding rows, which would get a part of the mass.
_SIZES = gemma3_config.Gemma3Config(
  embed_dim=64,
  mlp_dim=96,
  num_heads=4,
  num_kv_heads=2,
  head_dim=32,
  vocab_size=263,
  layer_kinds=gemma3_config.published_kinds(6),
  window=6,
  context=128,
  query_scale=12.0,
  local_rope_base=5e3,
  global_rope_base=1e6,
  global_rope_factor=8.0,
  norm_epsilon=1e-6,
)


def _model(file):
  """Writes a GGUF file of random weights; returns model and parameters."""
  model = families.build(_SIZES, 'float32', 'none', 'student')
  random = np.random.default_rng(1)
  draw = lambda x: (0.3 * random.normal(size=x.shape)).astype(np.float32)
  params = jax.tree.map(draw, model.abstract_params())
  words = tokenizers.load('bytes')
  metadata = gguf_tokenizers.fields(words, 263, 'gemma', 'data.tokenizer')
  gguf_writer.write(file, params, _SIZES, 'F32', 'F32', metadata)
  return model, params


def _batch(length=24):
  """Returns a row of two examples, with ids of all kinds."""
  tokens = np.random.default_rng(2).integers(4, 263, (1, length + 1))
  tokens[0, [0, 14]] = 2  # BOS
  tokens[0, 20] = 5  # <end_of_turn>, which the server omits.
  tokens = tokens.astype(np.int32)
  segments = np.repeat([[1, 2]], [14, length - 14], axis=1).astype(np.int32)
  weights = np.ones((1, length), np.float32)
  weights[0, [0, 1, 2, 13]] = 0
  return types.Batch(
    tokens=tokens[:, :-1],
    targets=tokens[:, 1:],
    positions=np.r_[0:14, 0 : length - 14][None].astype(np.int32),
    segment_ids=segments,
    parts=np.zeros_like(segments),
    weights=weights,
    row_id=np.zeros(1, np.int32),
  )


def test_targets_equal_those_of_the_weights(tmp_path):
  file, batch, said = str(tmp_path / 'model.gguf'), _batch(), []
  model, params = _model(file)
  spec = base.get_config().teacher.server.to_dict()
  with client.llama_server(file) as url:
    spec |= {'url': f'{url}/v1', 'folder': str(tmp_path), 'concurrency': 1}
    words = tokenizers.load('bytes')
    teacher = teacher_lib.Teacher(spec, words, 263, _K, said.append)
    targets = teacher.finish(batch, teacher.begin(batch))
    teacher.close()
  assert 'llama_cpp' in said[0] and 'one request per token' in said[1]
  nothing = types.TapSpec((), ())
  hidden, _ = jax.jit(lambda p: model.forward(p, batch, nothing))(params)
  logits = np.asarray(hidden @ model.unembedding(params).T, np.float64)
  logprobs = np.asarray(jax.nn.log_softmax(logits))
  counted = batch.weights != 0
  ids = targets.ids[counted]
  assert (ids >= 0).all()
  told = np.take_along_axis(logprobs[counted], ids, axis=1)
  # The GELU of llama.cpp is a float16 table.
  np.testing.assert_allclose(targets.logprobs[counted], told, atol=0.02)
  best = -np.sort(-logprobs[counted], axis=1)[:, :_K]
  np.testing.assert_allclose(-np.sort(-told, axis=1), best, atol=0.02)
  tail = np.log1p(-np.exp(best).sum(1))
  np.testing.assert_allclose(targets.tail_logprob[counted], tail, atol=0.05)
  actual = np.take_along_axis(logprobs, batch.targets[..., None], 2)[..., 0]
  errors = targets.target_logprob[counted] - actual[counted]
  # Exact if the server can be forced to draw the id, otherwise a bound.
  assert (errors > -0.02).all() and (np.abs(errors) < 0.02).mean() > 0.4
