"""Compares answers that join and leave a batch with the engine's."""

import dataclasses

import numpy as np
import pytest

from kd.sampling import continuous
from kd.sampling import continuous_device
from kd.sampling import engine as engine_lib
from kd.sampling import engine_cases as cases

SHAPES = continuous.Shapes(batch=4, length=64, steps=3, min_slots=32)


@pytest.fixture(name='params', scope='module')
def _params():
  return cases.strong_params()


@pytest.fixture(name='batch', scope='module')
def _batch(params):
  words = engine_lib.Vocabulary(cases.VOCAB, (), 0, cases.letters)
  batch = continuous.ContinuousBatch(cases.MODEL, params, words, SHAPES)
  *_, (done, total) = batch.compile()
  assert done == total
  return batch


def _programs():
  functions = (
    continuous_device.steps,
    continuous_device.score,
    continuous_device._put,
    continuous_device._cut,
    continuous_device._rows,
  )
  return [function._cache_size() for function in functions]


def _answers():
  """Returns answers with different settings and lengths, in order of arrival.

  The first one stays in the batch until all others have ended.
  """
  how = [
    dict(max_new_tokens=58),
    dict(temperature=1.0, max_new_tokens=9),
    dict(temperature=0.8, top_p=0.7, max_new_tokens=30),
    dict(temperature=2.0, min_p=0.2, max_new_tokens=14),
    dict(max_new_tokens=5),
    dict(temperature=1.5, max_new_tokens=22),
    dict(temperature=1.0, top_p=0.9, min_p=0.1, max_new_tokens=20),
    dict(max_new_tokens=12),
  ]
  asked = cases.asked(cases.prompts([6, 1, 30, 9, 17, 2, 40, 12]))
  return [
    continuous.Answer(request, i % 3, cases.settings(**settings), i % 2 == 0)
    for i, (request, settings) in enumerate(zip(asked, how))
  ]


def test_answers_equal_the_engines_in_any_batch(params, batch):
  programs = _programs()
  answers = _answers()
  # A failure in the middle of an answer leaves no trace in the batch.
  lost = _answers()[0]
  batch.add(lost, batch.prefill(lost.request.ids))
  batch.reset()
  assert batch.room == SHAPES.batch and not batch.answers
  waiting, cancelled = list(answers), answers[5]
  begun, together = [], set()
  while waiting or batch.answers:
    # Two join at a time, so that the batch grows and shrinks.
    for answer in waiting[:2] if batch.room > 1 else ():
      batch.add(answer, batch.prefill(answer.request.ids))
      begun.append(answer)
      waiting.remove(answer)
    together.add(len(batch.answers))
    batch.step()
    if len(cancelled.grown.ids) > 6:
      batch.remove(cancelled)
  assert max(together) == SHAPES.batch and min(together) == 1
  assert cancelled.result is None
  assert batch.room == SHAPES.batch
  # All programs were compiled beforehand.
  assert _programs() == programs
  engine = cases.make(batch=2)
  for answer in begun:
    request = dataclasses.replace(answer.request, samples=answer.sample + 1)
    ((*_, alone),) = engine.generate(params, [request], answer.settings)
    if answer is cancelled:
      assert tuple(answer.grown.ids) == alone.ids[: len(answer.grown.ids)]
      continue
    assert answer.result.ids == alone.ids
    assert answer.result.text == alone.text
    assert answer.result.finish == alone.finish == 'length'
    np.testing.assert_allclose(
      answer.result.logprobs, alone.logprobs, atol=2e-4
    )


def _check_alternatives(found, params, ids, first):
  """Compares with the best ids of full forward passes."""
  logits = cases.logits(params, ids)[first - 1 : -1].astype(np.float64)
  logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
  for alternatives, row in zip(found, logits, strict=True):
    best = np.argsort(-row)[: continuous.ALTERNATIVES]
    assert [i for i, _ in alternatives] == best.tolist()
    np.testing.assert_allclose(
      [logprob for _, logprob in alternatives], row[best], atol=2e-4
    )


def test_prompts_are_scored_with_alternatives(params, batch):
  (ids,) = cases.prompts([23])
  prompt = batch.prefill(ids, scored=True)
  np.testing.assert_allclose(
    prompt.logprobs, cases.logprobs(params, ids[:1], ids[1:]), atol=2e-4
  )
  _check_alternatives(prompt.alternatives, params, ids, 1)
  assert batch.prefill(ids[:1], scored=True).logprobs == ()
  (request,) = cases.asked([ids])
  # An answer ends in the middle of a slice; later ids are not returned.
  answer = continuous.Answer(
    request, 0, cases.settings(max_new_tokens=4), wants_alternatives=True
  )
  batch.add(answer, prompt)
  while not answer.ended:
    batch.step()
  assert len(answer.alternatives) == 4
  _check_alternatives(
    answer.alternatives, params, ids + answer.result.ids, len(ids)
  )
