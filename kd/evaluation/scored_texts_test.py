"""Tests batched likelihoods of texts and chats against single ones."""

import base64

import jax
import numpy as np
import pytest
from scipy import special

from kd.core import errors
from kd.core import types
from kd.evaluation import likelihood
from kd.evaluation import scored_texts
from kd.images import form as form_lib
from kd.images import pictures
from kd.input_pipeline import tokenizers
from kd.models import chat_turns
from kd.models import families
from kd.models.vision import vision_cases as cases
from kd.partitioning import mesh as mesh_lib


def test_likelihoods_equal_those_of_each_chat_alone():
  model = families.build(cases.SIZES, 'float32', 'none', '')
  params = cases.params(model.abstract_params())
  tokenizer = tokenizers.load('bytes')
  start, soft, end = tokenizer.image_ids
  form = form_lib.Form(16, 4, soft, per_row=1)

  def chat(*images):
    return [
      {
        'role': 'user',
        'content': f'a{chat_turns.IMAGE * len(images)}?',
        'images': [base64.b64encode(x).decode() for x in images],
      },
      {'role': 'assistant', 'content': 'yes'},
    ]

  chats = [
    chat(cases.png(0)),
    chat(cases.png(1)),
    chat(cases.png(1), cases.png(2)),
  ]
  examples = [
    scored_texts.of_text(tokenizer, 'plain', 0),
    *(
      scored_texts.of_chat(tokenizer, 'plain', messages, form, i)
      for i, messages in enumerate(chats)
    ),
  ]
  mesh = mesh_lib.make({}, jax.devices()[:1])
  measure = likelihood.Scorer(model, None, ('',), mesh, 2, 64)
  batches = [*scored_texts.batches(examples, 2, tokenizer.pad_id, form)]
  assert len(batches) == 2
  measured = measure(params, batches)['nll']

  forward = jax.jit(
    lambda p, batch: model.forward(p, batch, types.TapSpec((), ()))[0]
  )
  for example, nll, files in zip(
    examples, measured, ((), (0,), (1,), (1, 2)), strict=True
  ):
    tokens, following = example.ids[None, :-1], example.ids[1:]
    ones, images = np.ones_like(tokens), None
    if files:
      pixels = np.stack([pictures.pixels(cases.png(i), 16) for i in files])[
        None
      ]
      is_soft = tokens == soft
      index = np.where(is_soft, np.cumsum(is_soft) - 1, -1)
      assert is_soft.sum() == 4 * len(files)
      images = types.Images(pixels, index.astype(np.int32))
    batch = types.Batch(
      *(tokens, ones, np.arange(tokens.size, dtype=np.int32)[None]),
      *(ones, ones, ones.astype(np.float32), ones[:, 0], images),
    )
    logits = np.asarray(
      forward(params, batch)[0] @ params['embedding'].T, np.float64
    )
    counted = np.flatnonzero(example.weights[1:])
    expected = -special.log_softmax(logits, -1)[counted, following[counted]]
    np.testing.assert_allclose(nll, expected.sum(), rtol=1e-4)
    assert scored_texts.targets(example) == len(counted)
    if files:
      # The answer and its end marker, and no image token.
      assert tokenizer.decode(following[counted]).startswith('yes')
  assert abs(measured[1] - measured[2]) > 0.01
  with pytest.raises(errors.ConfigError, match='w: has no answer'):
    question = scored_texts.of_chat(tokenizer, 'plain', chats[0][:1], form, 0)
    scored_texts.check(question, 512, 'w')
