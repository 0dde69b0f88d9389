"""Answers the prompts of a file."""

import functools
import os

import jax
import ml_collections

from kd.core import identity
from kd.core import paths
from kd.core import progress
from kd.data_files import examples
from kd.partitioning import rules
from kd.run import generation
from kd.run import outputs
from kd.run import session
from kd.sampling import engine
from kd.sampling import fields as sampling_fields
from kd.sampling import prompts
from kd.sampling import together
from kd.teachers import param_digest


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Answers the prompts of generate.prompts, one JSON line each.

  Resumes an incomplete file of answers.

  Raises:
    ConfigError: a file is missing or has a wrong line, or the devices do not
      divide generate.batch_size.
  """
  say = session.say
  run = session.open_trained(config, workdir)
  fields = run.config.generate
  settings = sampling_fields.settings(fields, tuple(fields.stop_strings))
  student = generation.student(run)
  module = student.module
  sampling_fields.check_devices(
    fields.batch_size, run.mesh, 'generate.batch_size'
  )
  engine.check_room(module, settings.max_new_tokens, 'generate.max_new_tokens')
  path = paths.expand_file(
    fields.output or os.path.join(workdir, 'completions.jsonl')
  )
  questions = []
  if jax.process_index() == 0:
    data = run.config.data
    questions = prompts.read(
      fields.prompts,
      run.tokenizer,
      data.template,
      examples.Columns(**data.columns),
      run.image_form_of(module.config),
      data.images.urls,
    )
  words = engine.vocabulary(run.tokenizer)
  sampler = engine.Engine(module, words, fields.batch_size)
  params = generation.params(run, student, workdir)
  model = identity.digest(student.identity(param_digest.of(params)))
  params = generation.cast_matrices(student, params)
  say(outputs.settings_line(settings))
  with (
    rules.active(run.mesh),
    together.shared(functools.partial(sampler.stream, params)) as stream,
    progress.Progress('generate', say, len(questions), 'prompts') as task,
  ):
    if stream is None:
      return
    records = prompts.answer_file(
      lambda asked: stream(asked, settings),
      questions,
      prompts.requests_of(questions, fields.seed, fields.samples),
      settings,
      path,
      fields.logprobs,
      model,
      say,
      progress=lambda done, total: task.set(done),
    )
  ends = [
    sample['finish'] for record in records for sample in record['samples']
  ]
  say(
    f'{path}: {len(records)}/{len(questions)} prompts answered, {len(ends)} '
    f'answers, {ends.count("length")} cut at '
    f'{settings.max_new_tokens} tokens, {ends.count("too_long")} prompts '
    'too long to answer'
  )
