"""Texts and chats as the rows of which likelihood measures the targets."""

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
  """Returns a text, all of whose tokens but the first are targets.

  Args:
    tokenizer: gives the ids; a BOS, if it has one, is in front.
    text: the text.
    number: names it.
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
  """Returns a chat, of which the model's turns are targets.

  Args:
    tokenizer: gives the ids.
    template: how chats are written, a name of templates.TEMPLATES.
    messages: as chats.check returns them.
    form: how the model takes images; None if it takes none.
    number: names it.

  Raises:
    ConfigError: the template cannot write the chat, or the model reads no
      images.
  """
  ids, parts, weights = templates.encode(tokenizer, template, messages, form)
  images = tuple(sum(image_tokens.slots(messages, form), []))
  return packing.Example(
    ids, parts, (weights > 0).astype(np.float32), number, images
  )


def targets(example: packing.Example) -> int:
  """Returns the number of tokens whose likelihood is measured."""
  return int(np.count_nonzero(example.weights[1:]))


def check(example: packing.Example, context: int, where: str) -> None:
  """Raises ConfigError unless a model has room, and something to measure.

  Args:
    example: the text or chat.
    context: positions of the model.
    where: names it in the message.
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
  """Yields rows of one example each, the last batch filled up with padding.

  Lengths and numbers of images are few, so that few programs are compiled.

  Args:
    examples: the texts and chats, in order.
    batch_size: rows of a batch.
    pad_id: of positions without a token.
    form: how the model takes images; None if there are none.
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
