"""Compares the engine with full forward passes; tests how answers end."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.core import errors
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers
from kd.models import decoding
from kd.models import families
from kd.sampling import device
from kd.sampling import engine as engine_lib
from kd.sampling import engine_cases as cases
from kd.sampling import requests as requests_lib
from kd.sampling import streaming

WINDOW = cases.WINDOW


@pytest.fixture(name='params', scope='module')
def _params():
  return cases.strong_params()


def _ids(found):
  return [sample.ids for samples in found for sample in samples]


def test_greedy_equals_full_forward_for_mixed_lengths(params):
  # Out of order, past the ring of local layers, two prompt buckets, more
  # prompts than rows.
  asked = cases.prompts([2, 30, WINDOW, 1, 2 * WINDOW + 1])
  done = []
  found = cases.make().generate(
    params,
    cases.asked(asked),
    cases.settings(),
    lambda *counts: done.append(counts),
  )
  wanted = [cases.greedy(params, p, 20) for p in asked]
  assert _ids(found) == wanted
  assert done[-1] == (5, 5) and done == sorted(done)
  # The oracle is not trivial: answers differ and do not repeat one id.
  assert len(set(wanted)) == 5
  assert sum(len(set(w)) > 3 for w in wanted) >= 4
  for prompt, (sample,) in zip(asked, found, strict=True):
    np.testing.assert_allclose(
      sample.logprobs, cases.logprobs(params, prompt, sample.ids), atol=2e-4
    )
    assert sample.finish == 'length' and sample.text == cases.letters(
      sample.ids
    )


def test_a_sample_does_not_depend_on_its_batch(params):
  drawn = cases.settings(temperature=1.0)
  asked = cases.asked(cases.prompts([5, 30, 9, 3, 17, 12, 30]), samples=2)
  together = cases.make(batch=3).generate(params, asked, drawn)
  # Bit for bit, including log-probabilities, in another order or alone.
  back = cases.make(batch=3).generate(params, asked[::-1], drawn)
  assert back[::-1] == together
  longest = asked[1]
  for request, samples in zip(asked, together, strict=True):
    # Together with a longest prompt, so that caches have the same size.
    alone = cases.make(batch=3).generate(params, [request, longest], drawn)
    assert alone[0] == samples
  # In batches of a different size bits may differ, but ids do not.
  two = cases.make(batch=2).generate(params, asked, drawn)
  assert _ids(two) == _ids(together)
  assert len(set(_ids(together))) == 14


def test_n_samples_equal_n_single_requests(params):
  drawn = cases.settings(temperature=1.0, max_new_tokens=9)
  (request,) = cases.asked(cases.prompts([11]), samples=5)
  (five,) = cases.make(batch=2).generate(params, [request], drawn)
  assert len({sample.ids for sample in five}) == 5
  for n in range(1, 5):
    fewer = cases.asked([request.ids], samples=n)
    assert cases.make(batch=2).generate(params, fewer, drawn) == [five[:n]]


def test_log_probabilities_are_of_the_plain_distribution(params):
  """Tests prompts of 2 and 5 ids; each value belongs to its own id."""
  asked = cases.prompts([2, 5])
  drawn = cases.settings(
    temperature=2.0, top_k=9, top_p=0.9, min_p=0.01, repetition_penalty=1.5
  )
  found = cases.make().generate(params, cases.asked(asked, 3), drawn)
  for prompt, samples in zip(asked, found, strict=True):
    for sample in samples:
      wanted = cases.logprobs(params, prompt, sample.ids)
      np.testing.assert_allclose(sample.logprobs, wanted, atol=1e-4)


def test_answers_end_at_each_stop_id(params):
  asked = cases.asked(cases.prompts([5, 9, 12, 3]))
  free = _ids(cases.make().generate(params, asked, cases.settings()))
  # Two ids that end answers 0 and 1, and are not in answer 3.
  stops = tuple(
    next(i for i in free[row][3:] if i not in free[3]) for row in (0, 1)
  )
  found = cases.make(stop_ids=stops).generate(params, asked, cases.settings())
  for (sample,), ids in zip(found, free, strict=True):
    ends = [i for i, token in enumerate(ids) if token in stops]
    assert sample.finish == ('stop' if ends else 'length')
    assert sample.ids == (ids[: ends[0]] if ends else ids)
    assert len(sample.logprobs) == len(sample.ids)
  assert [found[i][0].finish for i in (0, 1, 3)] == ['stop', 'stop', 'length']
  assert len(set(stops)) == 2


def test_stop_id_at_the_limit_counts_as_a_stop(params):
  asked = cases.asked(cases.prompts([5]))
  ((free,),) = cases.make().generate(params, asked, cases.settings())
  at = next(i for i, x in enumerate(free.ids) if x not in free.ids[:i] and i)
  stopping = cases.make(stop_ids=(free.ids[at],))
  for tokens, finish in ((at + 1, 'stop'), (at, 'length')):
    limit = cases.settings(max_new_tokens=tokens)
    ((found,),) = stopping.generate(params, asked, limit)
    assert (found.ids, found.finish) == (free.ids[:at], finish)


def test_a_request_can_have_a_smaller_limit(params):
  """Tests that answers are shortened, and that the limit counts for room."""
  asked = cases.asked(cases.prompts([5, 9, 30, 115]))
  whole = cases.make().generate(params, asked, cases.settings())
  assert whole[3][0].finish == 'too_long'  # 115 + 20 ids in a context of 128.
  limits = [3, None, 25, 13]
  limited = [
    dataclasses.replace(request, max_new_tokens=limit)
    for request, limit in zip(asked, limits, strict=True)
  ]
  samples = cases.make().generate(params, limited, cases.settings())
  assert _ids(samples)[:3] == [whole[0][0].ids[:3], *_ids(whole)[1:3]]
  assert _ids(samples)[3] == cases.greedy(params, asked[3].ids, 13)
  assert {sample.finish for (sample,) in samples} == {'length'}


def test_stop_strings_end_an_answer_and_its_row(params):
  asked = cases.asked(cases.prompts([5, 9, 12, 3, 7]))
  limit = cases.settings(max_new_tokens=40)
  free = [s for (s,) in cases.make().generate(params, asked, limit)]
  # Strings of two ids, in the first and the second slice of steps.
  strings = tuple(
    next(
      text[i : i + 2]
      for i in range(first, 38)
      if text.find(text[i : i + 2]) == i
    )
    for text, first in ((free[0].text, 4), (free[1].text, 15))
  )
  limit = cases.settings(max_new_tokens=40, stop_strings=strings)
  for batch in (2, 3):
    found = cases.make(batch).generate(params, asked, limit)
    for (sample,), whole in zip(found, free, strict=True):
      places = [p for s in strings if (p := whole.text.find(s)) >= 0]
      if not places:
        assert sample == whole
        continue
      at = min(places)
      assert sample.finish == 'stop' and sample.text == whole.text[:at]
      # The ids of the stop string are returned as well.
      assert sample.ids == whole.ids[: at + 2]
      assert len(sample.logprobs) == at + 2
    assert found[0][0].finish == found[1][0].finish == 'stop'


def _read(engine, params, request, how, limit=99):
  """Returns the sample, and the text and the counts of ids of its stream."""
  stream, counts = streaming.Stream(cases.letters, how.stop_strings), []

  def watch(index, number, ids):
    assert (index, number) == (0, 0)
    stream.add(ids)
    counts.append(len(ids))
    if len(ids) == limit:
      raise KeyError

  weights = engine.weights(params)
  ((_, (sample,)),) = engine.stream(
    params, [request], how, watch=watch, weights=weights
  )
  return sample, stream, counts


@pytest.mark.parametrize('temperature', (0.0, 1.0))
def test_partial_answers_are_streamed_for_all_shapes(params, temperature):
  asked = cases.asked(cases.prompts([5, 30]))
  how = cases.settings(temperature=temperature)
  ((free,), _) = cases.make().generate(params, asked, how)
  # Two characters of the answer in different slices.
  how = dataclasses.replace(how, stop_strings=(free.text[11:13],))
  wanted = cases.make().generate(params, asked, how)
  assert wanted[0][0].finish == 'stop'
  shapes = engine_lib.Shapes(steps=1, prompt=32, slots=64)
  engine = cases.make(batch=1, shapes=shapes)
  with pytest.raises(KeyError):
    _read(engine, params, asked[1], how, limit=3)
  for request, (sample,) in zip(asked, wanted, strict=True):
    got, stream, counts = _read(engine, params, request, how)
    assert (got.ids, got.text) == (sample.ids, sample.text)
    # The last token is returned with the sample.
    assert counts == list(range(1, len(got.ids)))
    assert got.text.startswith(stream.text)
    stream.end(got.text)
    assert stream.text == got.text


def test_finished_rows_are_refilled(params, monkeypatch):
  """Tests one long answer and many short ones in the fewest steps."""
  asked = cases.asked(cases.prompts([6, 7, 8, 9, 10, 11, 12, 13]))
  free = cases.make().generate(params, asked, cases.settings(max_new_tokens=64))
  # Ids that are not in the first answer end the others.
  rare = [i for i in range(cases.VOCAB) if i not in free[0][0].ids]
  limit = cases.settings(max_new_tokens=64)
  slices = []
  run = device.steps
  monkeypatch.setattr(
    device, 'steps', lambda *args: slices.append(1) or run(*args)
  )
  engine = cases.make(batch=2, stop_ids=tuple(rare))
  found = engine.generate(params, asked, limit)
  lengths = [len(samples[0].ids) for samples in found]
  assert lengths[0] == 64
  # Slices of 16 steps, including the step of the stop id.
  need = [-(-min(n + 1, 64) // 16) for n in lengths]
  rows = [0, 0]
  for slices_needed in need:
    rows[rows.index(min(rows))] += slices_needed
  in_batches = sum(max(need[i : i + 2]) for i in range(0, len(need), 2))
  assert len(slices) == max(rows) < in_batches


def test_ids_beyond_the_tokenizer_are_never_produced(params):
  real = cases.VOCAB - 3
  asked = [tuple(i % real for i in p) for p in cases.prompts([4, 11])]
  row = 100 * np.ones(cases.CONFIG.embed_dim) / cases.CONFIG.embed_dim**0.5
  # One padded row that wins wherever the others do not, one that is NaN.
  padded = np.stack([row, -row, np.full_like(row, np.nan)])
  worse = {**params, 'embedding': params['embedding'].at[real:].set(padded)}
  won = cases.greedy(
    {**worse, 'embedding': worse['embedding'].at[-1].set(0)}, asked[0], 1
  )
  assert max(won) >= real
  for how in (
    cases.settings(),
    cases.settings(temperature=2.0),
    cases.settings(temperature=9.0, top_p=0.999, repetition_penalty=0.5),
  ):
    engine = cases.make(size=real)
    found = engine.generate(worse, cases.asked(asked, 3), how)
    assert found == engine.generate(params, cases.asked(asked, 3), how)
    assert max(max(ids) for ids in _ids(found)) < real


def test_the_penalty_counts_prompt_and_answer(params):
  """Tests a penalty so strong that no id is repeated while others are left."""
  (prompt,) = cases.prompts([12])
  how = cases.settings(repetition_penalty=1e6, max_new_tokens=20)
  others = cases.prompts([3, 25])
  found = cases.make().generate(
    params, cases.asked([others[0], prompt, others[1]]), how
  )
  ids = list(prompt)
  for _ in range(20):
    scores = cases.logits(params, ids)[-1].astype(np.float64)
    seen = sorted(set(ids))
    scores[seen] *= np.where(scores[seen] > 0, 1e-6, 1e6)
    ids.append(int(np.argmax(scores)))
  assert found[1][0].ids == tuple(ids[12:])


def test_too_long_prompts_are_reported_and_others_answered(params):
  limit = cases.CONFIG.context - 20
  asked = cases.prompts([limit + 1, 4, limit, 4000])
  found = cases.make().generate(params, cases.asked(asked, 2), cases.settings())
  assert [[s.finish for s in samples] for samples in found] == [
    *(['too_long'] * 2, ['length'] * 2, ['length'] * 2, ['too_long'] * 2)
  ]
  assert [len(samples[1].ids) for samples in found] == [0, 20, 20, 0]
  (only,) = cases.make().generate(
    params, cases.asked(asked[:1]), cases.settings()
  )
  assert only[0].finish == 'too_long'


def test_errors_about_nonfinite_logits_name_the_prompt(params):
  asked = [[i for i in p if i != 7] + [8] for p in cases.prompts([3, 6, 9], 2)]
  asked[1][1] = 7
  broken = {**params, 'embedding': params['embedding'].at[7].set(jnp.nan)}
  # The row of id 7 is NaN: as an input in prompt 1, as a logit everywhere.
  requests = cases.asked([tuple(p) for p in asked])
  with pytest.raises(errors.NonFiniteError, match='logits of prompt'):
    cases.make().generate(broken, requests, cases.settings())
  # Beyond the tokenizer its logit does not count; as an input it still does.
  with pytest.raises(errors.NonFiniteError, match='prompt 1 are .* 0 new'):
    cases.make(size=7).generate(broken, requests, cases.settings())


def test_bfloat16_parameters_are_cast_as_the_layers_do(params):
  model = families.build(cases.CONFIG, 'bfloat16', 'none', 'student')
  held = device.weights(model, params)
  assert held.embedding.dtype == jnp.bfloat16
  (ids,) = cases.prompts([30])
  tokens = jnp.asarray([ids])
  places = (jnp.arange(30)[None], jnp.ones_like(tokens))

  @jax.jit
  def decoded(params, held):
    length = jnp.asarray([29])
    cache = decoding.insert(
      decoding.empty(model, 1, 40),
      decoding.prefill(model, params, tokens[:, :-1], length)[1],
      jnp.asarray([True]),
      jnp.asarray([0]),
    )
    return decoding.extend(model, held, cache, tokens[:, -1], length)[0]

  apply = jax.jit(
    lambda params: model.apply({'params': params}, tokens, *places)
  )
  plain, ours = apply(params)[0][0, -1], decoded(params, held)
  as_float = lambda x: np.asarray(x.astype(jnp.float32))
  np.testing.assert_allclose(as_float(ours[0]), as_float(plain), atol=0.15)


def test_wrong_input_is_named(params):
  generate = lambda *ids: cases.make().generate(
    params, cases.asked(ids), cases.settings()
  )
  with pytest.raises(ValueError, match='prompt 1 is empty'):
    generate((2,), ())
  with pytest.raises(ValueError, match='prompt 0 contains id 40'):
    generate((2, cases.VOCAB))
  with pytest.raises(errors.ConfigError, match='has 41 ids, the model 40'):
    cases.make(size=cases.VOCAB + 1)


def test_one_program_serves_a_bucket_and_any_parameters(params):
  engine, how = cases.make(), cases.settings(temperature=0.7)
  engine.generate(params, cases.asked(cases.prompts([18])), how)
  programs = (
    device.steps,
    device.insert,
    device.prefill,
    device.changed_weights,
  )
  before = [program._cache_size() for program in programs]
  other = jax.tree.map(lambda x: x * 1.1, params)
  hotter = cases.settings(temperature=1.3)
  asked = cases.asked(cases.prompts([17, 20, 31, 25, 33]), 2)
  found = engine.generate(other, asked, hotter)
  assert found == engine.generate(other, asked, hotter)
  assert [program._cache_size() for program in programs] == before


@pytest.mark.parametrize('stop', ('<eos>', '<end_of_turn>'))
def test_text_through_the_byte_tokenizer(stop):
  """Tests that the end of a turn ends an answer, like the end of a text."""
  tokenizer = tokenizers.load('bytes')
  stop_id = {tokenizer.text_of(i): i for i in tokenizer.stop_ids}[stop]
  config = dataclasses.replace(cases.CONFIG, vocab_size=264)
  model = families.build(config, 'float32', 'none', 'student')
  # With layers of zero weight the hidden state is the last id's embedding. Rows
  # of these inner products make each id of the chain point at the next.
  chain = [*tokenizer.encode('?hi'), stop_id]
  products = np.diag(16.0 ** np.arange(4))
  for k in range(3):
    products[k, k + 1] = products[k + 1, k] = 2 * 16.0**k
  table = np.zeros((264, config.embed_dim), np.float32)
  table[chain, :4] = np.linalg.cholesky(products)
  params = jax.tree.map(lambda x: jnp.zeros(x.shape), model.abstract_params())
  params['embedding'] = jnp.asarray(table)
  prompt = templates.encode_prompt(
    tokenizer, 'plain', templates.exchange('say hi?')
  )
  words = engine_lib.vocabulary(tokenizer)
  ((found,),) = engine_lib.Engine(model, words, 2).generate(
    params,
    [requests_lib.Request(tuple(prompt), 0, 1)],
    requests_lib.greedy(10),
  )
  assert (found.text, found.finish) == ('hi', 'stop')
  assert found.stop_id == chain[-1] and found.ids == tuple(chain[1:-1])
