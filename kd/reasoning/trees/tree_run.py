"""Searches many instances at once, and resumes where it was killed.

  search.json     what decides the trees; another run's folder is refused
  calls.jsonl     what the model has answered, while trees grow
  trees/ID.json   each tree that is finished

A search asks for samples and does nothing else that could differ, so a run that
starts again plays the answers back and comes to the same trees.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
from typing import Any

from kd.core import atomic_files
from kd.core import errors
from kd.core import identity as identity_lib
from kd.core import json_lines
from kd.core import run_info
from kd.reasoning.trees import tree as tree_lib
from kd.reasoning.trees import tree_problem
from kd.reasoning.trees import tree_search
from kd.sampling import requests

IDENTITY = 'search.json'
CALLS = 'calls.jsonl'
TREES = 'trees'

Samples = list[requests.Sample]


@dataclasses.dataclass(frozen=True)
class ThoughtModel:
  """What proposes and judges.

  Attributes:
    sampler: answers.
    settings: of every request.
    encode: makes prompts.
  """

  sampler: requests.Sampler
  settings: requests.SamplingSettings
  encode: tree_search.Encode


def run(
  problem: tree_problem.TreeProblem,
  instances: Sequence[tree_problem.Instance],
  plan: tree_search.SearchSettings,
  model: ThoughtModel | None,
  folder: str,
  identity: Mapping[str, Any],
  concurrency: int,
  say: Callable[[str], None],
) -> list[tree_lib.Tree]:
  """Searches every instance.

  Args:
    problem: their kind.
    instances: with ids of their own.
    plan: how.
    model: None where the plan asks none.
    folder: as above; made where it is missing.
    identity: what decides the trees in addition to the instances, as JSON; a
      folder with another one is refused.
    concurrency: trees that grow at one time.
    say: called with progress.

  Returns:
    The trees, in the instances' order.

  Raises:
    ConfigError: the folder holds another search, or something else.
  """
  _claim(folder, identity)
  calls = _Calls(os.path.join(folder, CALLS))
  trees = {}
  for instance in instances:
    found = _finished(folder, instance)
    if found is not None:
      trees[instance.id] = found
  waiting = [i for i in instances if i.id not in trees]
  told = len(trees)
  if trees:
    date = run_info.date(os.path.join(folder, TREES))
    say(f'{folder}: {told} trees, the last of {date}, are kept')
  growing: dict[str, tuple[tree_search.Asked, list[requests.Request]]] = {}
  while waiting or growing:
    while waiting and len(growing) < concurrency:
      instance = waiting.pop(0)
      encode = model.encode if model else None
      search = tree_search.search(problem, instance, plan, encode)
      growing[instance.id] = search, []
    answers = _answer(model, calls, [asked for _, asked in growing.values()])
    for (name, (search, asked)), samples in zip(
      list(growing.items()), answers, strict=True
    ):
      try:
        # A generator's first value is waited for with None.
        growing[name] = search, search.send(samples if asked else None)
      except StopIteration as e:
        trees[name] = e.value
        del growing[name]
        atomic_files.write_text(_file(folder, name), e.value.to_json())
    if len(trees) > told:
      told = len(trees)
      solved = sum(bool(tree.solutions) for tree in trees.values())
      say(f'{told}/{len(instances)} trees, {solved} solved')
  calls.remove()
  return [trees[instance.id] for instance in instances]


def _answer(model, calls, asked: Sequence[Sequence[requests.Request]]):
  """Samples of all trees' requests, the unknown ones in one sampler call."""
  new = {}
  for request in (r for requests_ in asked for r in requests_):
    if request not in calls:
      new[_name(request)] = request
  if new:
    found = model.sampler(list(new.values()), model.settings)
    calls.add(dict(zip(new, found, strict=True)))
  return [[calls[request] for request in each] for each in asked]


def _name(request: requests.Request) -> str:
  ids = ','.join(map(str, request.ids)).encode()
  digest = identity_lib.bytes_digest(ids)
  return f'{request.seed}-{request.samples}-{digest}'


class _Calls:
  """Answers that are on the disk before a tree sees them."""

  def __init__(self, path: str):
    self._path = path
    self._samples: dict[str, Samples] = {}
    legal = 'remove the file: its trees grow anew'
    for where, record in json_lines.resume(path, legal):
      try:
        samples = [_sample(s) for s in record['samples']]
        self._samples[record['name']] = samples
      except (ValueError, KeyError, TypeError) as e:
        raise errors.ConfigError(
          where, f'is no answer that --mode=search wrote ({e})', legal
        ) from e

  def __contains__(self, request: requests.Request) -> bool:
    return _name(request) in self._samples

  def __getitem__(self, request: requests.Request) -> Samples:
    return self._samples[_name(request)]

  def add(self, samples: Mapping[str, Samples]) -> None:
    self._samples.update(samples)
    with open(self._path, 'ab') as f:
      json_lines.append(
        f,
        (
          {'name': name, 'samples': [_values(s) for s in each]}
          for name, each in samples.items()
        ),
      )

  def remove(self) -> None:
    if os.path.exists(self._path):
      os.unlink(self._path)


def _values(sample: requests.Sample) -> tuple:
  return sample.ids, sample.logprobs, sample.text, sample.finish


def _sample(values) -> requests.Sample:
  ids, logprobs, text, finish = values
  return requests.Sample(tuple(ids), tuple(logprobs), text, finish)


def _claim(folder, identity):
  """Makes the folder, or refuses one that holds another search."""
  identity_lib.claim(
    folder,
    IDENTITY,
    identity,
    'search.folder',
    'another search',
    'a new folder, or the same search, to resume it',
  )
  os.makedirs(os.path.join(folder, TREES), exist_ok=True)


def _file(folder: str, name: str) -> str:
  return os.path.join(folder, TREES, f'{name}.json')


def _finished(folder, instance) -> tree_lib.Tree | None:
  """Returns the instance's tree, if a run has finished it."""
  path = _file(folder, instance.id)
  if not os.path.exists(path):
    return None
  with open(path, encoding='utf-8') as f:
    text = f.read()
  try:
    tree = tree_lib.from_json(text)
  except (ValueError, KeyError, TypeError, RecursionError) as e:
    raise errors.ConfigError(
      path, f'is no tree ({e})', legal='remove the file: it grows anew'
    ) from e
  if (tree.question, tree.answer) != (instance.question, instance.answer):
    raise errors.ConfigError(
      path,
      f'is the tree of {tree.question!r}, and {instance.id} is now '
      f'{instance.question!r}',
      legal='a new folder, or the same data',
    )
  return tree
