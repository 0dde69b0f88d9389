"""Samples worked solutions and keeps the correct ones as training data."""

from collections.abc import Callable
import dataclasses
import functools
import os
from typing import Any

import jax
import ml_collections

from kd.config import base
from kd.core import atomic_files
from kd.core import errors
from kd.core import paths
from kd.input_pipeline import mixtures
from kd.input_pipeline import templates
from kd.reasoning.chains import answer_kinds
from kd.reasoning.chains import chain_report
from kd.reasoning.chains import chains
from kd.reasoning.chains import prompting
from kd.reasoning.chains import provenance
from kd.reasoning.chains import questions as questions_lib
from kd.reasoning.chains import selection
from kd.reasoning.chains import served
from kd.reasoning.chains import traces
from kd.run import generation
from kd.run import load_params
from kd.run import lock
from kd.run import outputs
from kd.run import samplers
from kd.run import session
from kd.sampling import fields as sampling_fields
from kd.sampling import requests
from kd.sampling import together
from kd.teachers import param_digest
from kd.teachers.served import answers

_Config = ml_collections.ConfigDict | ml_collections.FrozenConfigDict

_PATH = 'reasoning.folder'
# Few-shot examples, prompts, and stop strings.
_Asked = tuple[
  list[questions_lib.Question], list[chains.Prompt], tuple[str, ...]
]


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Samples solutions and writes traces and a report; see docs/reasoning.md.

  Raises:
    ConfigError: problems are missing or wrong, the folder contains samples of
      another run, or there are no weights.
    NonFiniteError: the model's logits are NaN or infinite.
  """
  if config.reasoning.model == 'server':
    _solve_on_server(config, workdir)
    return
  with_teachers = config.reasoning.model == 'teacher'
  run = session.open_trained(config, workdir, with_teachers)
  fields, data = run.config.reasoning, run.config.data
  prompting.check(fields.style, fields.shots, data.template)
  encode = functools.partial(
    templates.encode_prompt, run.tokenizer, data.template
  )
  asked = None
  if jax.process_index() == 0:
    asked = _prompts(run.config, encode)
  folder = _folder(run.config, workdir)
  with lock.shared(folder, _PATH, session.say):
    model, params = _model(run, workdir)
    digest = param_digest.of(params)
    params = generation.cast_matrices(model, params)
    with together.shared(samplers.make(run, model, params)) as sampler:
      if sampler is None:
        return
      shots, prompts, stops = asked
      settings = sampling_fields.settings(fields, stops)
      solve = chains.solver(
        sampler, settings, fields.samples, fields.concurrency
      )
      identity = {
        'model': digest,
        'tokenizer': run.tokenizer.digest[:16],
        'template': data.template,
        **_settings(run.config, shots, settings),
      }
      _write(run.config, prompts, solve, identity, identity, folder)


def _folder(config, workdir):
  """Returns the folder of the traces."""
  return paths.expand(
    config.reasoning.folder or os.path.join(workdir, 'traces')
  )


def _solve_on_server(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Solves the problems with the model of a server, without local weights."""
  session.devices(config)  # Connects the processes.
  config = base.checked(config)
  fields, spec = config.reasoning, config.teacher.server.to_dict()
  if not spec['url']:
    raise errors.ConfigError(
      'teacher.server.url',
      "found '', and reasoning.model is 'server'",
      legal='the URL of a server, with its /v1',
    )
  if jax.process_index():
    return
  shots, prompts, stops = _prompts(config, None)
  folder = _folder(config, workdir)
  replies = paths.expand(spec['folder'] or os.path.join(folder, 'replies'))
  settings = sampling_fields.settings(fields, stops)
  api = served.APIS[fields.style]
  with (
    lock.exclusive(folder, _PATH, session.say),
    answers.Answerer(spec, replies, api, settings, session.say) as answerer,
  ):
    solve = served.solver(
      answerer, fields.samples, spec['concurrency'], fields.concurrency
    )
    source = {'model': answerer.model, 'api': api}
    identity = source | _settings(config, shots, settings)
    claims = {'endpoint': answerer.url, **identity}
    _write(config, prompts, solve, identity, claims, folder)


def _write(
  config: _Config,
  prompts: list[chains.Prompt],
  solve: chains.Solver,
  identity: dict[str, Any],
  claims: dict[str, Any],
  folder: str,
) -> None:
  """Samples solutions, writes traces and a report, and prints a summary.

  Args:
    config: the run's config.
    prompts: the prompts.
    solve: function that samples solutions.
    identity: the values that determine the samples.
    claims: identity, and further information on the origin of traces.
    folder: folder of the traces.
  """
  fields = config.reasoning
  solved = chains.sample(
    prompts, solve, fields.samples, folder, identity, session.say
  )
  kind = answer_kinds.KINDS[fields.answer]
  groups = [
    traces.judge(prompt.question, one.samples, kind)
    for prompt, one in zip(prompts, solved, strict=True)
  ]
  rules = _rules(fields)
  kept, rejected = selection.select(groups, rules)
  path = chains.write(folder, kept, prompts, claims)
  summary = chain_report.summarize(groups, kept, rejected)
  atomic_files.write_json(os.path.join(folder, chains.SUMMARY), summary)
  atomic_files.write_text(
    os.path.join(folder, chains.REPORT),
    chain_report.page(summary, claims, kept, rejected),
  )
  selected = {'answer': fields.answer, **dataclasses.asdict(rules)}
  provenance.write(folder, claims, selected, summary, solved)
  session.say(
    f'{path}: {summary["accepted"]:,} of {summary["samples"]:,} samples, of '
    f'{summary["problems_with_traces"]:,} of {summary["problems"]:,} problems; '
    f'not kept: {_counts(summary["reasons"])}'
  )


def _rules(fields):
  """Returns the selection rules of the section `reasoning`."""
  names = [field.name for field in dataclasses.fields(selection.Rules)]
  return selection.Rules(**{name: fields[name] for name in names})


def _counts(reasons):
  shown = ', '.join(f'{count:,} {name}' for name, count in reasons.items())
  return shown or 'none'


def _prompts(
  config: _Config,
  encode: Callable[[list[templates.Message]], list[int]] | None,
) -> _Asked:
  """Returns few-shot examples, prompts, and stop strings.

  Args:
    config: the run's config.
    encode: function from messages to ids; None if a server encodes them.
  """
  fields, data = config.reasoning, config.data
  if fields.problems:
    questions = questions_lib.read_file(fields.problems, fields.question_format)
  else:
    limit = fields.count
    if limit > 0:
      limit += fields.shots
    questions = questions_lib.read_task(
      mixtures.training(config), data.split, limit, session.say
    )
  shots, rest = questions_lib.split_shots(
    questions, fields.shots, answer_kinds.KINDS[fields.answer]
  )
  if fields.count > 0:
    rest = rest[: fields.count]
  prompts = []
  for question in rest:
    messages = prompting.messages(
      fields.style,
      fields.instruction,
      shots,
      question,
      keep_chat=encode is None,
    )
    seed = chains.seed_of(config.seed, question)
    if encode is None:
      plain = [{k: m[k] for k in ('role', 'content')} for m in messages]
      prompts.append(chains.Prompt(question, (), seed, tuple(plain)))
      continue
    prompts.append(chains.Prompt(question, tuple(encode(messages)), seed))
  stops = prompting.stop_strings(fields.style, [*shots, *rest])
  return shots, prompts, stops


def _model(run, workdir):
  """Returns the model to sample from, and its parameters."""
  if run.config.reasoning.model == 'student':
    return run.student, outputs.student_params(run, workdir)
  if run.teacher is None:
    raise errors.ConfigError(
      'reasoning.model',
      f"found 'teacher', and teacher.source is {run.config.teacher.source!r}",
      legal="'student', 'server', or teacher.source 'live' or 'on_policy' with "
      "teacher.tokenizer 'shared'",
    )
  seed = run.config.seed
  return run.teacher, load_params.load(run.teacher, seed, 'teacher.init', None)


def _settings(
  config: _Config,
  shots: list[questions_lib.Question],
  settings: requests.SamplingSettings,
) -> dict[str, Any]:
  """Returns the settings that determine the samples of a model."""
  fields = config.reasoning
  return {
    'style': fields.style,
    'instruction': fields.instruction if fields.style == 'chat' else '',
    'shots': [shot.id for shot in shots],
    'samples': fields.samples,
    'run_seed': config.seed,
    'temperature': settings.temperature,
    'top_k': settings.top_k,
    'top_p': settings.top_p,
    'min_p': settings.min_p,
    'repetition_penalty': settings.repetition_penalty,
    'max_new_tokens': settings.max_new_tokens,
    'stop_strings': list(settings.stop_strings),
  }
