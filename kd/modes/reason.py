"""Samples worked solutions and keeps the correct ones as training data."""

import dataclasses
import os
from typing import Any

import jax
import ml_collections

from kd.core import atomic_files
from kd.core import errors
from kd.core import paths
from kd.core import progress
from kd.input_pipeline import mixtures
from kd.input_pipeline import templates
from kd.reasoning.chains import chain_report
from kd.reasoning.chains import chains
from kd.reasoning.chains import prompting
from kd.reasoning.chains import questions as questions_lib
from kd.reasoning.chains import selection
from kd.reasoning.chains import traces
from kd.run import load_params
from kd.run import lock
from kd.run import outputs
from kd.run import resolved
from kd.run import samplers
from kd.run import session
from kd.sampling import fields as sampling_fields
from kd.sampling import requests
from kd.sampling import together
from kd.teachers import param_digest

_PATH = 'reasoning.folder'
# Few-shot examples, prompts, and the strings that end a reply.
_Asked = tuple[
  list[questions_lib.Question], list[chains.Prompt], tuple[str, ...]
]


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Samples solutions and writes traces and a report; see docs/reasoning.md.

  Raises:
    ConfigError: problems are missing or wrong, the folder holds samples of
      another run, or there are no weights.
    NonFiniteError: the model's logits are NaN or infinite.
  """
  say = session.say
  with_teachers = config.reasoning.model == 'teacher'
  run = session.open_trained(config, workdir, with_teachers)
  fields = run.config.reasoning
  prompting.check(fields.style, fields.shots, run.config.data.template)
  asked = _prompts(run, say) if jax.process_index() == 0 else None
  folder = paths.expand(fields.folder or os.path.join(workdir, 'traces'))
  with lock.shared(folder, _PATH, say):
    model, params = _model(run, workdir)
    digest = param_digest.of(params)
    with together.shared(samplers.make(run, model, params)) as sampler:
      if sampler is not None:
        say(_write(run, asked, sampler, digest, folder))


def _write(
  run: resolved.Run,
  asked: _Asked,
  sampler: requests.Sampler,
  digest: str,
  folder: str,
) -> str:
  """Samples, and writes traces and a report; returns a line about them."""
  fields = run.config.reasoning
  shots, prompts, stops = asked
  settings = sampling_fields.settings(fields, stops)
  identity = _identity(run, shots, settings, digest)
  sampled = chains.sample(
    prompts,
    sampler,
    settings,
    fields.samples,
    folder,
    identity,
    fields.concurrency,
    session.say,
  )
  groups = [
    traces.judge(prompt.question, replies)
    for prompt, replies in zip(prompts, sampled, strict=True)
  ]
  kept, rejected = selection.select(groups, _rules(fields))
  path = chains.write(folder, kept, prompts, identity)
  summary = chain_report.summarize(groups, kept, rejected)
  atomic_files.write_json(os.path.join(folder, chains.SUMMARY), summary)
  atomic_files.write_text(
    os.path.join(folder, chains.REPORT),
    chain_report.page(summary, identity, kept, rejected),
  )
  return (
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


def _prompts(run: resolved.Run, say: progress.Say) -> _Asked:
  """Returns few-shot examples, prompts, and the strings that end a reply."""
  config = run.config
  fields, data = config.reasoning, config.data
  if fields.problems:
    questions = questions_lib.read_file(fields.problems, fields.question_format)
  else:
    limit = fields.count
    if limit > 0:
      limit += fields.shots
    questions = questions_lib.read_task(
      mixtures.training(config), data.split, limit, say
    )
  shots, rest = questions_lib.split_shots(questions, fields.shots)
  if fields.count > 0:
    rest = rest[: fields.count]
  prompts = []
  for question in rest:
    messages = prompting.messages(
      fields.style, fields.instruction, shots, question
    )
    ids = templates.encode_prompt(run.tokenizer, data.template, messages)
    seed = chains.seed_of(config.seed, question)
    prompts.append(chains.Prompt(question, tuple(ids), seed))
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
      legal="'student', or teacher.source 'live' or 'on_policy' with "
      "teacher.tokenizer 'shared'",
    )
  seed = run.config.seed
  return run.teacher, load_params.load(run.teacher, seed, 'teacher.init', None)


def _identity(
  run: resolved.Run,
  shots: list[questions_lib.Question],
  settings: requests.SamplingSettings,
  digest: str,
) -> dict[str, Any]:
  """Returns the settings that determine the samples, without questions."""
  config = run.config
  fields = config.reasoning
  return {
    'model': digest,
    'tokenizer': run.tokenizer.digest[:16],
    'template': config.data.template,
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
