"""Probes the capabilities of a server."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from kd.core import errors
from kd.teachers.served import apis
from kd.teachers.served import client as client_lib
from kd.teachers.served import prompt_scorer
from kd.teachers.served import vocabulary as vocabulary_lib

_URL = 'teacher.server.url'
_SAME = 1e-3  # Nats; smaller differences are rounding.


@dataclasses.dataclass(frozen=True)
class Probed:
  """The capabilities of a server.

  Attributes:
    model: name of the model.
    api: name of the API.
    scorer: scores prompts with the model.
    scores: scores of the probe.
    origin: origin of these scores.
    notes: one line on each limitation and its consequence.
  """

  model: str
  api: str
  scorer: prompt_scorer.PromptScorer
  scores: prompt_scorer.PromptScores
  origin: prompt_scorer.Origin
  notes: list[str]


def probe(
  client: client_lib.Client,
  vocabulary: vocabulary_lib.Vocabulary,
  model: str,
  api: str,
  most: int,
) -> Probed:
  """Finds the server's API for log-probabilities, and its limit of ids.

  Args:
    client: client of the server.
    vocabulary: vocabulary of the tokenizer.
    model: name of the model; '' for the only one.
    api: a name in APIS, or 'auto'.
    most: wanted number of likeliest ids per position.

  Raises:
    ConfigError: the server returns no log-probabilities, or has another model
      or other tokens.
    ReadError: the server cannot be reached.
  """
  listed = models(client)
  model = chosen(model, listed)
  names = [api] if api != 'auto' else _candidates(listed, model)
  problems = []
  for name in names:
    kind = apis.APIS[name]
    by_position = kind.by_position
    make = lambda count, generated, kind=kind: prompt_scorer.PromptScorer(
      client, kind(model, vocabulary), vocabulary, count, generated
    )
    ids = vocabulary.probe
    try:
      found = _with_all(make, _score(make, ids, most, by_position), ids)
    except (apis.MalformedError, client_lib.RefusedError) as e:
      problems.append(f'  {name}: {e}')
      continue
    scorer, scores, origin = found
    notes = list(_notes(scorer, scores, ids, most, by_position))
    return Probed(model, name, scorer, scores, origin, notes)
  raise errors.ConfigError(
    _URL,
    f'{client.url} does not return log-probabilities of given ids',
    legal='a server of vLLM, SGLang, llama.cpp or kd, or one that has '
    '/v1/completions with echo and logprobs',
    details='\n'.join(problems),
  )


def models(client: client_lib.Client) -> list[dict[str, Any]]:
  """Returns the models that a server lists; [] if it has no list.

  Raises:
    ConfigError, ReadError: from the client.
  """
  try:
    listed = client.get('/models')['data']
    return [x for x in listed if isinstance(x, dict)]
  except (client_lib.RefusedError, KeyError, TypeError):
    return []  # Not every server has a list.


def chosen(model: str, listed: Sequence[Mapping[str, Any]]) -> str:
  """Returns the name of the model to use.

  Args:
    model: name in the config; '' for the only one.
    listed: the models from `models`.

  Raises:
    ConfigError: the server lists only others, or several for ''.
  """
  names = [str(x.get('id')) for x in listed]
  if model and names and model not in names:
    raise errors.ConfigError(
      'teacher.server.model',
      f'found {model!r}',
      legal=', '.join(names),
      nearest=errors.nearest(model, names),
    )
  if not model and len(names) != 1:
    raise errors.ConfigError(
      'teacher.server.model',
      f"found '', and the server lists {len(names)} models",
      legal=', '.join(names) or 'the name of a model',
    )
  return model or names[0]


def _candidates(listed, model):
  owner = next((x.get('owned_by') for x in listed if x.get('id') == model), '')
  if owner in apis.OWNERS:
    return [apis.OWNERS[owner]]
  return ['prompt_logprobs', 'echo', 'sglang', 'llama_cpp']


def _score(make, ids, most, by_position):
  """Requests the wanted number of ids, then fewer until the server answers.

  Returns:
    The scorer, its scores of the probe and their origin.

  Raises:
    MalformedError, RefusedError: a request for one id fails too.
  """
  positions, last = range(len(ids) - 1), None

  def answered(count, generated):
    nonlocal last
    scorer = make(count, generated)
    try:
      return scorer, *scorer.score(ids, positions)
    except (apis.MalformedError, client_lib.RefusedError) as e:
      last = e
      return None

  choices = (1,) if by_position else (0, 1)
  for generated in choices:
    if found := answered(most, generated):
      return found
  for generated in choices:
    if found := answered(1, generated):
      break
  else:
    raise last
  low, high = 1, most  # `low` was answered, `high` was not.
  while low + 1 < high:
    middle = (low + high) // 2
    better = answered(middle, generated)
    low, high = (middle, high) if better else (low, middle)
    found = better or found
  return found


def _with_all(make, found, ids):
  """Returns the scorer with the number of ids that the server returns."""
  scorer, scores, origin = found
  count = int((scores.ids >= 0).sum(axis=1).max())
  if count >= scorer.most:
    return found
  scorer = make(max(count, 1), scorer.generated)
  return scorer, *scorer.score(ids, range(len(ids) - 1))


def _notes(scorer, scores, ids, most, by_position) -> Iterator[str]:
  """Yields a line on each limitation of the server."""
  if scorer.most < most:
    yield (
      f'it returns at most {scorer.most} ids per token: K is '
      f'{scorer.most} instead of {most}; all other ids form the tail'
    )
  if by_position:
    yield (
      'it returns no log-probabilities of prompts: one request per token is '
      'sent, and the NLL of a token that is not among the K is a lower bound'
    )
    return
  if scorer.generated:
    yield (
      'it refuses max_tokens 0: each request generates one token, which '
      'counts toward the budget'
    )
  fewest = int((scores.ids >= 0).sum(axis=1).min())
  if fewest < scorer.most:
    yield (
      'it returns texts, some of which several ids share: for some tokens '
      f'only {fewest} of {scorer.most} ids are known; the others count to '
      'the tail'
    )
  other, _ = scorer.score(ids, range(len(ids) - 1), temperature=0.5)
  if np.abs(other.actual - scores.actual).max() < _SAME:
    yield (
      'its log-probabilities ignore the temperature: a term with a '
      'temperature other than 1 softens the tail as one outcome'
    )
