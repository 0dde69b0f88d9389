"""Converts texts and chats to rows for computing likelihoods."""

from collections.abc import Iterator, Sequence
import dataclasses

import numpy as np

from kd.core import errors
from kd.core import types
from kd.images import form as form_lib
from kd.input_pipeline import image_rows
from kd.input_pipeline import image_tokens
from kd.input_pipeline import packing
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers

_FEWEST_POSITIONS = 64


def of_text(
  tokenizer: tokenizers.Tokenizer, text: str, number: int
) -> packing.Example:
  """Encodes a text; all tokens except the first are targets.

  Args:
    tokenizer: the tokenizer; its BOS, if any, is prepended.
    text: the text.
    number: number of the example.
  """
  first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  ids = np.array([*first, *tokenizer.encode(text)], np.int32)
  weights = np.ones(len(ids), np.float32)
  return packing.Example(ids, np.zeros(len(ids), np.int32), weights, number)


def of_chat(
  tokenizer: tokenizers.Tokenizer,
  template: str,
  messages: Sequence[templates.Message],
  form: form_lib.Form | None,
  number: int,
) -> packing.Example:
  """Encodes a chat; the model's turns are targets.

  Args:
    tokenizer: the tokenizer.
    template: name of the chat template, from templates.TEMPLATES.
    messages: messages as returned by chats.check.
    form: image format of the model; None if it does not take images.
    number: number of the example.

  Raises:
    ConfigError: the template cannot represent the chat, or the chat has images
      and the model takes none.
  """
  ids, parts, weights = templates.encode(tokenizer, template, messages, form)
  images = tuple(sum(image_tokens.slots(messages, form), []))
  return packing.Example(
    ids, parts, (weights > 0).astype(np.float32), number, images
  )


def targets(example: packing.Example) -> int:
  """Returns the number of target tokens."""
  return int(np.count_nonzero(example.weights[1:]))


def check(example: packing.Example, context: int, where: str) -> None:
  """Raises ConfigError unless an example fits and has targets.

  Args:
    example: the text or chat.
    context: context length of the model in positions.
    where: name of the example in the message.
  """
  count = len(example.ids)
  if not 2 <= count <= context:
    raise errors.ConfigError(
      where, f'found {count} tokens', legal=f'2 to {context}'
    )
  if not targets(example):
    raise errors.ConfigError(
      where, 'has no answer', legal='a message of the assistant to score'
    )


def batches(
  examples: Sequence[packing.Example],
  batch_size: int,
  pad_id: int,
  form: form_lib.Form | None,
) -> Iterator[types.Batch]:
  """Yields batches with one example per row; padding fills the last batch.

  The length and the number of images per row are rounded up to powers of two,
  so that few programs are compiled.

  Args:
    examples: the texts and chats, in order.
    batch_size: rows of a batch.
    pad_id: id of padding.
    form: image format of the model; None if there are no images.
  """
  longest = max((e.positions for e in examples), default=1)
  length = max(_FEWEST_POSITIONS, 1 << (longest - 1).bit_length())
  most = max((len(e.images) for e in examples), default=0)
  if most:
    form = dataclasses.replace(form, per_row=1 << (most - 1).bit_length())
  empty = packing.empty(length, pad_id)
  for begin in range(0, len(examples), batch_size):
    some = examples[begin : begin + batch_size]
    rows = [packing.fill([e], length, pad_id) for e in some]
    rows += [empty] * (batch_size - len(rows))
    fields = {
      name: np.stack([row[name] for row in rows]) for name in packing.FIELDS
    }
    images = None
    if any(e.images for e in some):
      slots = [e.images for e in some] + [()] * (batch_size - len(some))
      images = image_rows.read(fields['tokens'], slots, form)
      is_soft = fields['targets'] == form.soft_id
      fields['targets'] = np.where(is_soft, np.int32(pad_id), fields['targets'])
    row_id = np.zeros(batch_size, np.int32)
    yield types.Batch(row_id=row_id, **fields, images=images)
