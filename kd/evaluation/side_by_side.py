"""Formats answers of several models to the same examples."""

from collections.abc import Mapping, Sequence
import re
from typing import Any

from kd.evaluation import results

_LONGEST = 400  # characters of a text that are shown

Records = Sequence[Mapping[str, Any]]


def choose(
  answers: Mapping[str, Records], subject: str, each: int = 2
) -> list[dict[str, Mapping[str, Any]]]:
  """Selects examples on which models differ, or `subject` is right or wrong.

  Args:
    answers: records of one set (results.Result.answers) by model title.
    subject: title of the model of interest.
    each: maximum number of examples of each kind: only some models right,
      subject right, and subject wrong.

  Returns:
    For each example, which all models have answered, the records by title.
  """
  by_key = {
    title: {(x['task'], x['id']): x for x in records}
    for title, records in answers.items()
  }
  examples = [
    {title: records[key] for title, records in by_key.items()}
    for key in by_key[subject]
    if all(key in records for records in by_key.values())
  ]
  is_right = lambda record: record['verdict'] == 'right'
  kinds = (
    lambda e: len({is_right(r) for t, r in e.items()}) > 1,
    lambda e: is_right(e[subject]),
    lambda e: not is_right(e[subject]),
  )
  chosen: list[dict[str, Mapping[str, Any]]] = []
  for kind in kinds:
    chosen += [e for e in examples if e not in chosen and kind(e)][:each]
  return chosen


def pictures(example: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns an example's images as Markdown; '' without images.

  Args:
    example: records by title, from `choose`.
  """
  images = next(iter(example.values())).get('images', ())
  return ' '.join(f'![image {i + 1}]({uri})' for i, uri in enumerate(images))


def block(example: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns a Markdown code block with an example and its answers.

  Args:
    example: records by title, from `choose`.
  """
  first = next(iter(example.values()))
  parts = {'prompt': first['prompt'], 'reference': first['reference']}
  for title, record in example.items():
    verdict = record['verdict'] or record['finish']
    parts[f'{title}: {verdict}'] = record['answer']
  width = max(map(len, parts)) + 2
  lines = []
  for name, text in parts.items():
    shown = _printable(text).split('\n')
    lines.append(name.ljust(width) + shown[0])
    lines += [' ' * width + line for line in shown[1:]]
  body = '\n'.join(line.rstrip() for line in lines)
  # Longer than any fence in the text.
  runs = [len(run) for run in re.findall('`+', body)]
  fence = '`' * max(3, *(n + 1 for n in runs), 0)
  return f'{fence}text\n{body}\n{fence}'


def _printable(text):
  """Returns the start of a text with control characters escaped."""
  cut = text.rstrip('\n')[:_LONGEST]
  if len(cut) < len(text.rstrip('\n')):
    cut += ' ...'
  return re.sub(
    r'[^\n]',
    lambda match: match[0] if match[0].isprintable() else repr(match[0])[1:-1],
    cut,
  )


def texts_of(paths: Mapping[str, str]) -> dict[str, str]:
  """Returns `texts` for results in files, given the paths by model title."""
  found = {title: results.read(path) for title, path in paths.items()}
  return texts({title: x[1].answers for title, x in found.items() if x})


def texts(answers: Mapping[str, Records], most: int = 4) -> dict[str, str]:
  """Returns the first examples of each set as Markdown, by metric name.

  All evaluations show the same examples.

  Args:
    answers: records of all sets by model title.
    most: maximum number of examples per set.
  """
  found: dict[str, list[dict[str, Any]]] = {}
  for title, records in answers.items():
    rows: dict[str, int] = {}
    for record in records:
      at = rows.setdefault(record['set'], 0)
      examples = found.setdefault(record['set'], [])
      if at < most:
        if at == len(examples):
          examples.append({})
        examples[at][title] = record
        rows[record['set']] += 1
  return {
    f'eval/{name}/answers': '\n\n'.join(map(block, examples))
    for name, examples in found.items()
  }
