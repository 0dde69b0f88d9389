"""Builds the records of generated answers; see results.Result."""

import base64
from collections.abc import Mapping, Sequence
import itertools
from typing import Any

from kd.core import run_info
from kd.evaluation import results
from kd.evaluation import seqio_adapter
from kd.images import thumbnails
from kd.input_pipeline import conversations
from kd.models import chat_turns


def of_set(
  set_name: str,
  answered: Sequence[seqio_adapter.Answered],
  scored: seqio_adapter.Scores,
  token_kl: Mapping[str, Sequence[Mapping[str, Any]]],
) -> list[dict[str, Any]]:
  """Returns the answers to a set as records.

  Args:
    set_name: name of the set.
    answered: the answers by task.
    scored: their scores.
    token_kl: fields of each answer from answer_kl.measure, by task.
  """
  records, by_example = [], scored.by_example
  names = [name for name in scored.pooled if name in by_example]
  for task_rows in answered:
    for example, sample, tokens in itertools.zip_longest(
      task_rows.examples,
      task_rows.samples,
      token_kl.get(task_rows.task, ()),
      fillvalue={},
    ):
      at = len(records)
      scores = {name: by_example[name][at] for name in names}
      records.append(
        {
          'set': set_name,
          'task': task_rows.task,
          'id': example['id'],
          'prompt': conversations.prompt_text(example),
          'reference': conversations.reference(example, task_rows.template),
          'answer': sample.text,
          'verdict': _verdict(scores),
          'scores': {k: run_info.json_number(x) for k, x in scores.items()},
          'finish': sample.finish,
          'tokens': len(sample.ids),
          'in_rows': example['in_rows'],
          **tokens,
          **_thumbnails(example),
        }
      )
  return records


def _thumbnails(example) -> dict[str, list[str]]:
  """Returns a record's `images` entry; {} if the prompt has none."""
  files = [
    base64.b64decode(file)
    for message in conversations.prompt(example)
    for file in chat_turns.images(message)
  ]
  return {'images': [*map(thumbnails.data_uri, files)]} if files else {}


def _verdict(scores: Mapping[str, float | None]) -> str | None:
  """Returns 'right', 'wrong' or 'unparsed'; None without an exact match."""
  exact = scores.get(results.EXACT_MATCH)
  if exact is None:
    return None
  if exact == 1:
    return 'right'
  return 'unparsed' if scores.get('unparsed') else 'wrong'
