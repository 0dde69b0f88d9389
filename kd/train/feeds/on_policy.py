"""Supplies on-policy batches: teachers score answers of the student."""

import dataclasses
import time

import jax
import numpy as np

from kd.config import rules as config_rules
from kd.core import errors
from kd.core import schedules
from kd.input_pipeline import retry
from kd.partitioning import placement
from kd.run import resolved
from kd.run import samplers
from kd.run import source
from kd.sampling import engine
from kd.sampling import fields
from kd.sampling import requests
from kd.teachers import replay_buffer
from kd.teachers import rollouts as rollouts_lib
from kd.teachers import sampling_ahead
from kd.train.feeds import feed
from kd.train.feeds import live
from kd.train.feeds import prompt_buckets

# Parts of the data's own answers, which the student's rows lack.
_OF_DATA = ('answer', 'rationale')


@source.SOURCES.register('on_policy')
class Source(live.Source):
  """Live teachers that score the student's samples."""

  def check(self, mesh, student, objective):
    config = self._config
    if not objective.needs_teacher:
      raise errors.ConfigError(
        'teacher.source',
        f'found {config.teacher.source!r}, and no term in `losses` uses a '
        'teacher',
        legal="'none', or a term of next-token distributions",
      )
    fraction = config_rules.scheduled(config, 'rollout.fraction')
    lowest, _ = schedules.extremes(fraction, config.steps)
    for term in objective.terms:
      of_data = term.loss.reads_labels or term.loss.part in _OF_DATA
      if lowest == 1 and of_data:
        raise errors.ConfigError(
          f'losses.{term.key}',
          "uses the data's answers, but rollout.fraction replaces every row",
          legal='a fraction below 1, or a divergence with part '
          "'all' or 'sampled'",
        )
    if objective.importance is not None and not objective.logits_terms:
      raise errors.ConfigError(
        'rollout.importance_cap',
        f'found {objective.importance.cap:g}, and no term in `losses` reads '
        'logits',
        legal='0.0, or a divergence of next-token distributions',
      )
    if not config.rollout.devices:
      rows = config.rollout.batch_size
      fields.check_devices(rows, mesh, 'rollout.batch_size')
    engine.check_room(
      student.module, config.rollout.max_new_tokens, 'rollout.max_new_tokens'
    )

  def sampling(self):
    return self._config.rollout

  def compile(self, run, prepared, params, say):
    settings = _settings(run.config.rollout)
    prompt_buckets.compile_(run, prepared, settings, params, say)

  def describe(self):
    rollout = self._config.rollout
    settings = dataclasses.asdict(_settings(rollout))
    del settings['stop_strings']
    how = ', '.join(f'{name} {value}' for name, value in settings.items())
    fraction = schedules.text(rollout.fraction)
    lines = [
      f'rollouts: {fraction} of the rows, every {rollout.every} steps, {how}'
    ]
    if rollout.devices:
      lines.append(
        f'rollouts: on {rollout.devices} devices of their own, by parameters '
        f'up to {rollout.staleness} updates old'
      )
    return lines

  def feed(self, run, rows, digest, opened, live_targets):
    names = self.teacher_names()
    return Feed(run, rows, digest, names, live_targets, opened)


def _settings(rollout) -> requests.SamplingSettings:
  """Returns the settings with which the student samples."""
  return fields.settings(rollout, stop_strings=())


class Feed(feed.Feed):
  """Supplies batches in which the student wrote some of the answers."""

  def __init__(
    self, run, rows, digest, teacher_names, targets, for_teacher=None
  ):
    """Opens the feed; see feed.Feed."""
    super().__init__(run, rows, digest, teacher_names, targets, for_teacher)
    self._run, self._rollouts, self._ahead = run, _rollouts(run), None
    if run.sampler is not None:
      self._ahead = _sampling_ahead(run, self._rollouts, self._read_all)
    # Every process reads all prompts, since all sample together.
    self._all_rows = np.arange(self._batch_size)

  def _read_all(self, step):
    return self._rows(step, self._all_rows)

  def read(self, step):
    if self._ahead is not None:
      return ()  # SamplingAhead reads the rows.
    rows = self._read_all(step)
    prompts_step = self._rollouts.prompts_step(step)
    if prompts_step is None:
      return rows, None
    if prompts_step == step:
      return rows, rows
    return rows, self._read_all(prompts_step)

  def __call__(self, step, params, read):
    try:
      if self._ahead is None:
        outcome = self._rollouts(step, params, *read)
      else:
        outcome = self._take(step, params)
    except errors.NonFiniteError as e:
      raise errors.NonFiniteError(
        f"sampling the student's answers: {e}", e.teachers
      ) from e
    rows = jax.tree.map(lambda x: x[self._local_rows], outcome.rows)
    batch, targets, placing_s = self._scored(rows)
    example = outcome.example
    texts = dataclasses.asdict(example) if example else {}
    return feed.StepInputs(
      batch,
      targets,
      placing_s,
      outcome.scalars,
      {f'rollout/{name}': text for name, text in texts.items()},
      outcome.seconds,
    )

  def _take(self, step, params):
    """Returns a step's rollout from `_ahead`; its seconds are the wait."""
    began = time.monotonic()
    rows, answers = self._ahead.take(step, params)
    waited = time.monotonic() - began
    return self._rollouts.batch(
      step, rows, rows, answers.samples, answers.sampled_at, waited
    )

  def _scored(self, rows):
    """Returns the batch of this process's rows, its targets, and placing_s."""
    batch, placing_s = self._place(self._with_teacher(rows))
    return batch, self._score(batch), placing_s

  def state(self):
    kept = self._rollouts.buffer or self._ahead
    return {} if kept is None else kept.state()

  def expect(self, names):
    if 'pixels' in names:
      vision = self._run.student.config.vision
      per_row = self._run.config.data.images.per_row
      self._rollouts.buffer.allocate_images(per_row, vision.image_size)

  def load(self, state):
    kept = self._rollouts.buffer or self._ahead
    if kept is not None:
      kept.load(state)

  def close(self):
    if self._ahead is not None:
      self._ahead.close()


def _rollouts(run: resolved.Run) -> rollouts_lib.Rollouts:
  config = run.config
  sample = samplers.without_params(run, run.student, config.rollout.batch_size)
  settings, vision = _settings(config.rollout), run.student.config.vision
  buffer, with_logprobs = None, config.rollout.importance_cap > 0
  if config.rollout.buffer:
    buffer = replay_buffer.Buffer(
      config.rollout.buffer, config.data.length, with_logprobs
    )
  return rollouts_lib.Rollouts(
    lambda params, asked: sample(params, asked, settings),
    config_rules.scheduled(config, 'rollout.fraction'),
    config.rollout.every,
    buffer,
    config.seed,
    run.tokenizer.pad_id,
    run.tokenizer.decode,
    vision.soft_tokens if vision else 0,
    with_logprobs,
  )


def _sampling_ahead(run, rollouts, read) -> sampling_ahead.SamplingAhead:
  config, shardings = run.config, run.sampler.shardings
  rollout = config.rollout
  sample = samplers.without_params(run, run.sampler, rollout.batch_size)
  settings = _settings(rollout)
  return sampling_ahead.SamplingAhead(
    read,
    rollouts.asked,
    lambda params, asked, said: sample(params, asked, settings, said),
    lambda params: placement.copy(params, shardings),
    rollout.staleness,
    config.steps,
    (config.data.batch_size, rollout.max_new_tokens),
    retry.RetryPolicy(**config.data.read).timeout_s,
  )
