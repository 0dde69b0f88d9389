"""Defines a tiny model, requests and settings for tests of the engine."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kd.models import families
from kd.models.gemma3 import config as gemma3_config
from kd.sampling import engine
from kd.sampling import requests

WINDOW = 8
VOCAB = 40
CONFIG = gemma3_config.Gemma3Config(
  embed_dim=16,
  mlp_dim=32,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  vocab_size=VOCAB,
  layer_kinds=('local', 'global', 'local'),
  window=WINDOW,
  context=128,
  query_scale=8.0,
  local_rope_base=10_000.0,
  global_rope_base=1_000_000.0,
  global_rope_factor=8.0,
  norm_epsilon=1e-6,
)
MODEL = families.build(CONFIG, 'float32', 'none', 'student')


def strong_params(config=CONFIG):
  """Returns parameters with strong norms, so that answers vary."""
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    std = 3 if path[-1].key == 'scale' else 0.25
    return jnp.asarray(rng.normal(0, std, leaf.shape), jnp.float32)

  model = families.build(config, 'float32', 'none', 'student')
  return jax.tree_util.tree_map_with_path(draw, model.abstract_params())


def letters(ids):
  """Returns text with a different character for each id."""
  return ''.join(chr(ord('A') + i) for i in ids)


def make(batch=3, stop_ids=(), size=VOCAB, model=MODEL, shapes=engine.SHAPES):
  words = engine.Vocabulary(size, stop_ids, 0, letters)
  return engine.Engine(model, words, batch, shapes)


def settings(**changes):
  plain = dict(
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    repetition_penalty=1.0,
    max_new_tokens=20,
    stop_strings=(),
  )
  return requests.SamplingSettings(**(plain | changes))


def prompts(lengths, seed=0):
  rng = np.random.default_rng(seed)
  return [tuple(rng.integers(3, VOCAB, n).tolist()) for n in lengths]


def asked(ids, samples=1):
  """Returns a request for each prompt, with the prompt's index as seed."""
  return [requests.Request(p, i, samples) for i, p in enumerate(ids)]


@functools.partial(jax.jit, static_argnums=0)
def _forward(model, params, *args):
  return model.apply({'params': params}, *args)[0]


def logits(params, ids):
  """Returns logits [n, V] after each id, from a whole forward pass."""
  # One length, so that one program is compiled; padding is masked.
  tokens = np.zeros((1, CONFIG.context), np.int32)
  tokens[0, : len(ids)] = ids
  positions = np.arange(CONFIG.context, dtype=np.int32)[None]
  places = positions, (positions < len(ids)).astype(np.int32)
  hidden = _forward(MODEL, params, tokens, *places)
  table = np.asarray(MODEL.unembedding(params))
  return np.asarray(hidden)[0, : len(ids)] @ table.T


def logprobs(params, prompt, answer):
  """Returns the log-probabilities of an answer's ids, float64."""
  found = logits(params, [*prompt, *answer])[len(prompt) - 1 : -1]
  found = found.astype(np.float64)
  found -= np.log(np.exp(found).sum(-1, keepdims=True))
  return found[np.arange(len(answer)), list(answer)]


def greedy(params, prompt, count, vocab=VOCAB):
  """Returns the most likely ids, by a forward pass for each."""
  ids = list(prompt)
  for _ in range(count):
    ids.append(int(np.argmax(logits(params, ids)[-1][:vocab])))
  return tuple(ids[len(prompt) :])
