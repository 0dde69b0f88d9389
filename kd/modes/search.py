"""Searches trees of thought, draws them and writes training data."""

from collections.abc import Mapping, Sequence
import dataclasses
import html
import os
from typing import Any

import jax
import ml_collections

from kd.core import atomic_files
from kd.core import paths
from kd.input_pipeline import templates
from kd.reasoning.trees import problems
from kd.reasoning.trees import tree as tree_lib
from kd.reasoning.trees import tree_data
from kd.reasoning.trees import tree_picture
from kd.reasoning.trees import tree_problem
from kd.reasoning.trees import tree_run
from kd.reasoning.trees import tree_search
from kd.run import generation
from kd.run import lock
from kd.run import outputs
from kd.run import resolve
from kd.run import resolved
from kd.run import samplers
from kd.run import session
from kd.sampling import fields as sampling_fields
from kd.sampling import requests
from kd.sampling import together
from kd.teachers import param_digest

SUMMARY = 'summary.json'
PICTURES = 'pictures'
# Fields that do not affect how a single tree is searched.
_NOT_IN_IDENTITY = (
  'data',
  'first',
  'count',
  'folder',
  'concurrency',
  'num_pictures',
  'contrast',
)


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Searches the instances of `search`, or resumes an earlier search.

  Writes trees, pictures of the first ones, training data and summary.json into
  search.folder.

  Raises:
    ConfigError: the data is missing or wrong, the folder contains another
      search, or there are no weights.
  """
  say = session.say
  if _asks_model(config.search):
    run = session.open_trained(config, workdir)
  else:
    run = resolve.resolve(config, session.devices(config))
  fields = run.config.search
  instances = ()
  if jax.process_index() == 0:
    source = problems.SOURCES[fields.problem]
    instances = problems.instances(
      source, fields.data, fields.first, fields.count
    )
  folder = paths.expand(fields.folder or os.path.join(workdir, 'search'))
  with lock.shared(folder, 'search.folder', say):
    if not _asks_model(fields):
      if jax.process_index() == 0:
        _search(run, instances, None, None, folder)
      return
    params = outputs.student_params(run, workdir)
    digest = param_digest.of(params)
    params = generation.cast_matrices(run.student, params)
    sampler = samplers.make(run, run.student, params)
    with together.shared(sampler) as sampler:
      if sampler is not None:
        _search(run, instances, _model(run, sampler), digest, folder)


def _search(
  run: resolved.Run,
  instances: Sequence[tree_problem.Instance],
  model: tree_run.ThoughtModel | None,
  digest: str | None,
  folder: str,
) -> None:
  """Searches the instances and writes the results into the folder."""
  fields, say = run.config.search, session.say
  problem = problems.SOURCES[fields.problem].problem
  trees = tree_run.run(
    problem,
    instances,
    _plan(fields),
    model,
    folder,
    _identity(run, digest),
    fields.concurrency,
    say,
  )
  readers = (
    tree_data.Reader(problem, *pair)
    for pair in zip(instances, trees, strict=True)
  )
  provenance = {'problem': fields.problem, 'model': digest, 'seed': fields.seed}
  counts = tree_data.write(folder, readers, fields.contrast, provenance)
  _draw(folder, fields.problem, trees[: fields.num_pictures])
  summary = summarize(trees)
  atomic_files.write_json(os.path.join(folder, SUMMARY), summary)
  say(f'{folder}: {describe(summary)}')
  say(', '.join(f'{name}: {count:,} lines' for name, count in counts.items()))


def _asks_model(fields) -> bool:
  """Returns whether a search needs a model."""
  return (
    fields.proposals == 'sampled'
    or fields.evaluator in tree_search.MODEL_EVALUATORS
  )


def _plan(fields) -> tree_search.SearchSettings:
  """Returns the fields that determine the search of a tree."""
  names = [
    field.name for field in dataclasses.fields(tree_search.SearchSettings)
  ]
  return tree_search.SearchSettings(**{name: fields[name] for name in names})


def _settings(fields) -> requests.SamplingSettings:
  """Returns the sampling settings, where an answer is a line."""
  return sampling_fields.settings(fields, ('\n',))


def _model(run, sampler) -> tree_run.ThoughtModel:
  """Returns the student as the model that proposes and evaluates thoughts."""
  template = run.config.data.template

  def encode(inputs, so_far):
    messages = templates.exchange(inputs)
    text, _ = templates.render(template, messages, generate=True)
    return tuple(templates.encode_text(run.tokenizer, text + so_far))

  settings = _settings(run.config.search)
  return tree_run.ThoughtModel(sampler, settings, encode)


def _identity(run, digest: str | None) -> dict[str, Any]:
  """Returns the values that determine a tree, except for its instance."""
  identity = {
    name: value
    for name, value in run.config.search.to_dict().items()
    if name not in _NOT_IN_IDENTITY
  }
  if digest:
    identity['model'] = digest
    identity['tokenizer'] = run.tokenizer.digest
    identity['template'] = run.config.data.template
  return identity


def _draw(folder, problem, trees):
  """Writes a picture of each tree, and a page with all of them."""
  if not trees:
    return
  os.makedirs(os.path.join(folder, PICTURES), exist_ok=True)
  page = ['<!DOCTYPE html><meta charset="utf-8"><title>Trees</title>']
  for tree in trees:
    title = f'{problem}: {tree.question}'
    picture = tree_picture.draw(tree, title)
    path = os.path.join(folder, PICTURES, f'{tree.instance}.svg')
    atomic_files.write_text(path, picture)
    page.append(f'<h2 id="{html.escape(tree.instance)}"></h2>{picture}')
  path = os.path.join(folder, f'{PICTURES}.html')
  atomic_files.write_text(path, '\n'.join(page))


def summarize(trees: Sequence[tree_lib.Tree]) -> dict[str, Any]:
  """Returns the contents of summary.json: counts over all trees."""
  faults: dict[str, int] = {}
  stopped: dict[str, int] = {}
  for tree in trees:
    for kind, count in tree.faults.items():
      faults[kind] = faults.get(kind, 0) + count
    if tree.stopped:
      stopped[tree.stopped] = stopped.get(tree.stopped, 0) + 1
  return {
    'trees': len(trees),
    'solved': sum(bool(tree.solutions) for tree in trees),
    'solutions': sum(len(tree.solutions) for tree in trees),
    'nodes': sum(len(tree.nodes) for tree in trees),
    'calls': sum(tree.spent.calls for tree in trees),
    'prompt_tokens': sum(tree.spent.prompt_tokens for tree in trees),
    'new_tokens': sum(tree.spent.new_tokens for tree in trees),
    'faults': faults,
    'stopped_by_budget': stopped,
  }


def describe(summary: Mapping[str, Any]) -> str:
  """Formats a summary in one line."""
  faults = ', '.join(f'{n:,} {k}' for k, n in sorted(summary['faults'].items()))
  return (
    f'{summary["solved"]} of {summary["trees"]} solved, '
    f'{summary["nodes"]:,} nodes, {summary["calls"]:,} calls, '
    f'{summary["prompt_tokens"] + summary["new_tokens"]:,} tokens, '
    f'faults: {faults or "none"}'
  )
