"""Decoding against a full forward pass at every step, and its ends."""

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.core import errors
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers
from kd.models import gemma3
from kd.models import gemma3_config
from kd.sampling import decode

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


@pytest.fixture(name='model', scope='module')
def _model():
  return gemma3.build(CONFIG, 'float32', 'none', 'student')


@pytest.fixture(name='params', scope='module')
def _params(model):
  """Strong norms, so that an answer does not settle on one id."""
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    std = 3 if path[-1].key == 'scale' else 0.25
    return jnp.asarray(rng.normal(0, std, leaf.shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(
    draw, nn.unbox(gemma3.abstract_params(model))
  )


def _prompts(lengths, seed=0):
  rng = np.random.default_rng(seed)
  return [rng.integers(3, VOCAB, n).tolist() for n in lengths]


def _decoder(model, stop_ids=(), tokens=20, batch=3, vocab=VOCAB):
  return decode.Decoder(
    model, vocab, stop_ids, pad_id=0, max_new_tokens=tokens, batch_size=batch
  )


@functools.partial(jax.jit, static_argnums=0)
def _forward(model, params, *args):
  return model.apply({'params': params}, *args)[0]


def _full_forward(model, params, prompt, count, vocab=VOCAB):
  """The argmax of a whole forward pass for each new id, without a cache."""
  # One length, so that one program is compiled; what follows is masked out.
  length = 80
  ids = list(prompt)
  for _ in range(count):
    tokens = np.zeros((1, length), np.int32)
    tokens[0, : len(ids)] = ids
    positions = np.arange(length, dtype=np.int32)[None]
    hidden = _forward(
      model,
      params,
      tokens,
      positions,
      (positions < len(ids)).astype(np.int32),
    )
    logits = np.asarray(hidden)[0, len(ids) - 1] @ params['embedding'].T
    ids.append(int(np.argmax(logits[:vocab])))
  return ids[len(prompt) :]


def test_equals_full_forward_for_mixed_lengths_past_the_window(model, params):
  # Out of order; a batch of 3 with fillers behind it; two prompt buckets.
  prompts = _prompts([2, 30, WINDOW, 1, 2 * WINDOW + 1])
  done = []
  found = _decoder(model).generate(
    params, prompts, progress=lambda *counts: done.append(counts)
  )
  wanted = [_full_forward(model, params, p, 20) for p in prompts]
  assert [c.ids for c in found] == wanted
  assert done == [(3, 5), (5, 5)]
  # The oracle is telling: answers differ and are no repetition of one id.
  assert len({tuple(w) for w in wanted}) == 5
  assert sum(len(set(w)) > 3 for w in wanted) >= 4
  single = _decoder(model, batch=1)
  alone = [single.generate(params, [p]) for p in prompts]
  assert [a[0].ids for a in alone] == wanted


def test_ends_at_each_stop_id_and_tells_truncated_apart(model, params):
  prompts = _prompts([5, 9, 12, 3])
  free = [c.ids for c in _decoder(model).generate(params, prompts)]
  # Two ids that end answer 0 and answer 1, and that answer 3 never has.
  stops = tuple(
    next(i for i in free[row][3:] if i not in free[3]) for row in (0, 1)
  )
  found = _decoder(model, stops).generate(params, prompts)
  for completion, ids in zip(found, free, strict=True):
    ends = [i for i, token in enumerate(ids) if token in stops]
    assert completion.finished == bool(ends)
    assert completion.truncated != completion.finished
    assert completion.ids == (ids[: ends[0]] if ends else ids)
  assert found[0].finished and found[1].finished and found[3].truncated
  assert len(set(stops)) == 2


def test_stop_id_at_the_limit_counts_as_finished(model, params):
  (prompt,) = _prompts([5])
  (free,) = _decoder(model).generate(params, [prompt])
  at = next(i for i, x in enumerate(free.ids) if x not in free.ids[:i] and i)
  stop = (free.ids[at],)
  (found,) = _decoder(model, stop, tokens=at + 1).generate(params, [prompt])
  assert (found.ids, found.finished) == (free.ids[:at], True)
  (found,) = _decoder(model, stop, tokens=at).generate(params, [prompt])
  assert (found.ids, found.finished) == (free.ids[:at], False)


def test_rows_beyond_the_tokenizer_are_never_produced(model, params):
  real = VOCAB - 3
  prompts = [[i % real for i in p] for p in _prompts([4, 11])]
  wanted = [
    c.ids for c in _decoder(model, vocab=real).generate(params, prompts)
  ]
  hidden_length = CONFIG.embed_dim**0.5
  row = 100 * np.ones(CONFIG.embed_dim) / hidden_length
  # One padded row that wins wherever the others do not, one that is NaN.
  padded = np.stack([row, -row, np.full_like(row, np.nan)])
  embedding = params['embedding'].at[real:].set(padded)
  assert (
    max(
      _full_forward(
        model, {**params, 'embedding': embedding}, prompts[0], 1, VOCAB - 1
      )
    )
    >= real
  )
  found = _decoder(model, vocab=real).generate(
    {**params, 'embedding': embedding}, prompts
  )
  assert [c.ids for c in found] == wanted


def test_too_long_prompts_are_reported_and_the_others_answered(model, params):
  limit = CONFIG.context - 20
  prompts = _prompts([limit + 1, 4, limit, 4000])
  found = _decoder(model).generate(params, prompts)
  assert [c.too_long for c in found] == [True, False, False, True]
  assert [len(c.ids) for c in found] == [0, 20, 20, 0]
  assert not found[0].truncated and not found[0].finished
  only = _decoder(model).generate(params, prompts[:1])
  assert only[0].too_long


def test_non_finite_logits_are_an_error_that_names_the_prompt(model, params):
  prompts = _prompts([3, 6, 9], seed=2)
  for prompt in prompts:
    prompt[:] = [i for i in prompt if i != 7] + [8]
  prompts[1][1] = 7
  embedding = params['embedding'].at[7].set(jnp.nan)
  # The row of id 7 is NaN: as an input in prompt 1, as a logit everywhere.
  with pytest.raises(errors.NonFiniteError, match='logits of prompt'):
    _decoder(model).generate({**params, 'embedding': embedding}, prompts)
  # Beyond the tokenizer its logit does not count; as an input it still does.
  moved = _decoder(model, vocab=7)
  with pytest.raises(errors.NonFiniteError, match='prompt 1 are .* 0 new'):
    moved.generate({**params, 'embedding': embedding}, prompts)


def test_bfloat16_parameters_are_cast_as_the_layers_do(params):
  model = gemma3.build(CONFIG, 'bfloat16', 'none', 'student')
  cast = decode._cast(_decoder(model)._loop, params)
  assert cast['embedding'].dtype == jnp.bfloat16
  tokens = jnp.asarray(_prompts([30]))
  args = (tokens, jnp.arange(30)[None], jnp.ones_like(tokens))
  plain = _forward(model, params, *args)
  ours = _forward(model, cast, *args)
  np.testing.assert_array_equal(plain, ours)


def test_wrong_input_is_named(model, params):
  with pytest.raises(ValueError, match='prompt 1 is empty'):
    _decoder(model).generate(params, [[2], []])
  with pytest.raises(ValueError, match='prompt 0 holds id 40'):
    _decoder(model).generate(params, [[2, VOCAB]])
  with pytest.raises(errors.ConfigError, match='has 41 ids, the model 40'):
    _decoder(model, vocab=VOCAB + 1)
  with pytest.raises(errors.ConfigError, match='max_new_tokens: found 128'):
    _decoder(model, tokens=128)


def test_one_program_serves_prompts_of_one_bucket(model, params):
  before = decode._run._cache_size()
  _decoder(model, tokens=4).generate(params, _prompts([17, 20, 31, 25, 32]))
  _decoder(model, tokens=4).generate(params, _prompts([30]))
  assert decode._run._cache_size() == before + 1


@pytest.mark.parametrize('stop', ('eos_id', 'end_of_turn_id'))
def test_text_through_the_byte_tokenizer(stop):
  tokenizer = tokenizers.load('bytes')
  config = dataclasses.replace(CONFIG, vocab_size=264)
  model = gemma3.build(config, 'float32', 'none', 'student')
  # With layers of zero weight the hidden state is the last id's embedding. Rows
  # of these inner products make each id of the chain point at the next.
  chain = [*tokenizer.encode('?hi'), getattr(tokenizer, stop)]
  products = np.diag(16.0 ** np.arange(4))
  for k in range(3):
    products[k, k + 1] = products[k + 1, k] = 2 * 16.0**k
  table = np.zeros((264, CONFIG.embed_dim), np.float32)
  table[chain, :4] = np.linalg.cholesky(products)
  params = jax.tree.map(
    lambda x: jnp.zeros(x.shape), nn.unbox(gemma3.abstract_params(model))
  )
  params['embedding'] = jnp.asarray(table)
  prompt = templates.encode_prompt(
    tokenizer, 'plain', templates.exchange('say hi?')
  )
  decoder = decode.Decoder(
    model, tokenizer.vocab_size, tokenizer.stop_ids, tokenizer.pad_id, 10, 2
  )
  (found,) = decoder.generate(params, [prompt])
  assert found.finished and tokenizer.decode(found.ids) == 'hi'
