"""Searches many instances at once and resumes interrupted runs.

  search.json     settings that determine the trees; must match to resume
  calls.jsonl     samples of the model for unfinished trees
  trees/ID.json   finished trees

A search depends on its samples only, so a resumed run replays the stored
samples and gets the same trees.
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
  """The model that proposes and evaluates thoughts.

  Attributes:
    sampler: samples completions.
    settings: sampling settings of every request.
    encode: encodes prompts.
  """

  sampler: requests.Sampler
  settings: requests.SamplingSettings
  encode: tree_search.Encode


def run(
  problem: tree_problem.TreeProblem,
  instances: Sequence[tree_problem.Instance],
  settings: tree_search.SearchSettings,
  model: ThoughtModel | None,
  folder: str,
  identity: Mapping[str, Any],
  concurrency: int,
  say: Callable[[str], None],
) -> list[tree_lib.Tree]:
  """Searches every instance.

  Args:
    problem: the problem.
    instances: the instances, with unique ids.
    settings: settings of the search.
    model: the model; None if the search calls no model.
    folder: output folder; created if it is missing.
    identity: settings that determine the trees, in addition to the instances;
      as JSON. A folder with another identity is refused.
    concurrency: number of trees that are searched at the same time.
    say: prints a line of progress.

  Returns:
    The trees, in the order of the instances.

  Raises:
    ConfigError: the folder belongs to another search, or a file is damaged.
  """
  _claim(folder, identity)
  calls = _Calls(os.path.join(folder, CALLS))
  trees = {}
  for instance in instances:
    tree = _finished(folder, instance)
    if tree is not None:
      trees[instance.id] = tree
  waiting = [i for i in instances if i.id not in trees]
  num_reported = len(trees)
  if trees:
    date = run_info.date(os.path.join(folder, TREES))
    say(f'{folder}: {num_reported} trees, the last of {date}, are kept')
  active: dict[
    str, tuple[tree_search.SearchGenerator, list[requests.Request]]
  ] = {}
  while waiting or active:
    while waiting and len(active) < concurrency:
      instance = waiting.pop(0)
      encode = model.encode if model else None
      search = tree_search.search(problem, instance, settings, encode)
      active[instance.id] = search, []
    pending = [batch for _, batch in active.values()]
    answers = _sample_all(model, calls, pending)
    for (name, (search, batch)), samples in zip(
      list(active.items()), answers, strict=True
    ):
      try:
        # A generator must be started with None.
        active[name] = search, search.send(samples if batch else None)
      except StopIteration as e:
        trees[name] = e.value
        del active[name]
        atomic_files.write_text(_file(folder, name), e.value.to_json())
    if len(trees) > num_reported:
      num_reported = len(trees)
      solved = sum(bool(tree.solutions) for tree in trees.values())
      say(f'{num_reported}/{len(instances)} trees, {solved} solved')
  calls.remove()
  return [trees[instance.id] for instance in instances]


def _sample_all(model, calls, batches: Sequence[Sequence[requests.Request]]):
  """Returns samples of all requests; one sampler call for the new ones."""
  new = {}
  for request in (r for requests_ in batches for r in requests_):
    if request not in calls:
      new[_name(request)] = request
  if new:
    sampled = model.sampler(list(new.values()), model.settings)
    calls.add(dict(zip(new, sampled, strict=True)))
  return [[calls[request] for request in batch] for batch in batches]


def _name(request: requests.Request) -> str:
  ids = ','.join(map(str, request.ids)).encode()
  digest = identity_lib.bytes_digest(ids)
  return f'{request.seed}-{request.samples}-{digest}'


class _Calls:
  """Stores samples on disk before a search receives them."""

  def __init__(self, path: str):
    self._path = path
    self._samples: dict[str, Samples] = {}
    legal = 'remove the file to search its trees again'
    for where, record in json_lines.resume(path, legal):
      try:
        samples = [_sample(s) for s in record['samples']]
        self._samples[record['name']] = samples
      except (ValueError, KeyError, TypeError) as e:
        raise errors.ConfigError(
          where, f'is not a sample written by --mode=search ({e})', legal
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
  """Creates the folder, or raises if it belongs to another search."""
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
  """Returns the finished tree of an instance, or None."""
  path = _file(folder, instance.id)
  if not os.path.exists(path):
    return None
  with open(path, encoding='utf-8') as f:
    text = f.read()
  try:
    tree = tree_lib.from_json(text)
  except (ValueError, KeyError, TypeError, RecursionError) as e:
    raise errors.ConfigError(
      path, f'is not a tree ({e})', legal='remove the file to search it again'
    ) from e
  if (tree.question, tree.answer) != (instance.question, instance.answer):
    raise errors.ConfigError(
      path,
      f'is the tree of {tree.question!r}, and {instance.id} is now '
      f'{instance.question!r}',
      legal='a new folder, or the same data',
    )
  return tree
