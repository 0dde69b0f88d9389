"""Measures the KL to the teacher at each token of generated answers."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import os
from typing import Any

import numpy as np

from kd.core import types
from kd.input_pipeline import packing
from kd.input_pipeline import tokenizers
from kd.sampling import requests
from kd.sampling import stops
from kd.teachers import replay_buffer
from kd.teachers import rollout_rows

_DECIMALS = 4


@dataclasses.dataclass(frozen=True)
class Asked:
  """The prompts of a task's first examples and the model's answers.

  Attributes:
    examples: the examples, as from Prepared.examples.
    prompts: ids of the prompt of each example; more prompts are ignored.
    samples: the answer to each example; more answers are ignored.
  """

  examples: Sequence[Mapping[str, Any]]
  prompts: Sequence[Sequence[int]]
  samples: Sequence[requests.Sample]

  @property
  def rows(self) -> list[int]:
    """Returns the index of the example of each row; long ones have no row."""
    return [i for i, e in enumerate(self.examples) if e['in_rows']]


def measure(
  asked: Asked,
  data: Iterable[types.Batch],
  batch_size: int,
  first_row_id: int,
  token_kl: Callable[[Iterable[types.Batch]], np.ndarray],
  tokenizer: tokenizers.Tokenizer,
) -> list[dict[str, list[Any]]]:
  """Measures answers as rows of the data, with answers for references.

  The batches have the shapes of the data's, so that no program is compiled for
  them. Answers are cut off at the length of a row.

  Args:
    asked: the prompts and answers.
    data: this process's rows of the task, as from rows.batches.
    batch_size: rows of a batch, over all processes.
    first_row_id: id of the task's first row.
    token_kl: function from batches to the KL at each target; see
      likelihood.Scorer.token_kl.
    tokenizer: the tokenizer of the answers.

  Returns:
    The fields `token_kl` and `token_ends` of each answer's record, see
    results.Result; {} for an answer that was not measured.
  """
  rows = asked.rows
  measured: list[dict[str, list[Any]]] = [{} for _ in asked.examples]
  if not rows:
    return measured
  examples = {first_row_id + n: i for n, i in enumerate(rows)}
  read = itertools.islice(data, -(-len(rows) // batch_size))
  by_row = token_kl(_batches(read, asked, examples, tokenizer.pad_id))
  for kl, i in zip(by_row, rows, strict=False):
    ends = token_ends(asked.samples[i], tokenizer.decode)
    begin = len(asked.prompts[i]) - 1  # The last id of the prompt predicts it.
    values = kl[begin : begin + len(ends)]
    if not np.all(np.isnan(values)):
      measured[i] = {
        'token_kl': [*map(_rounded, values.tolist())],
        'token_ends': ends[: len(values)],
      }
  return measured


def _batches(data, asked, examples, pad_id) -> Iterator[types.Batch]:
  """Yields batches with answers in the rows of `examples`; others are empty."""
  for batch in data:
    length, new_rows = batch.tokens.shape[1], {}
    for place, row_id in enumerate(batch.row_id.tolist()):
      fields, images = packing.empty(length, pad_id), None
      i = examples.get(row_id)
      if i is not None and len(asked.prompts[i]) <= length:
        prompt, sample = asked.prompts[i], asked.samples[i]
        fields = rollout_rows.answer_row(prompt, sample, length, pad_id)
        images = rollout_rows.images_of_prompt(batch, place, len(prompt))
      new_rows[place] = replay_buffer.BufferedRow(fields, row_id, 0, images)
    yield rollout_rows.replace(batch, new_rows, with_logprobs=False)


def _rounded(kl: float) -> float | None:
  return None if np.isnan(kl) else round(max(kl, 0.0), _DECIMALS)


def token_ends(sample: requests.Sample, decode: stops.Decode) -> list[int]:
  """Returns the number of characters of an answer up to the end of each token.

  A token that ends within a character ends where this character begins. The
  stop id, if there is one, comes last and has no characters.

  Args:
    sample: the answer.
    decode: function from ids to text.
  """
  texts = (decode(sample.ids[: n + 1]) for n in range(len(sample.ids)))
  # The first bytes of a character decode to another text than the answer's.
  same = (len(os.path.commonprefix([text, sample.text])) for text in texts)
  ends = [*itertools.accumulate(same, max)]
  if ends:
    ends[-1] = len(sample.text)
  return ends + [len(sample.text)] * (sample.stop_id is not None)
