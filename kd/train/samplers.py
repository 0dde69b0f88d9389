"""Samplers of a run's models."""

from collections.abc import Callable, Sequence
import functools

from kd.config import rules as rules_lib
from kd.core import types
from kd.partitioning import rules
from kd.sampling import engine
from kd.sampling import fields
from kd.sampling import requests
from kd.teachers import replay
from kd.teachers import rollouts
from kd.train import resolve


def make(
  run: resolve.Run, model: resolve.Model, params: types.PyTree
) -> requests.Sampler:
  """A sampler that answers evaluation.batch_size rows at a time.

  Args:
    run: the resolved config.
    model: the student, or a teacher.
    params: of the model, on its devices.

  Raises:
    ConfigError: the tokenizer has more ids than the model.
  """
  rows = run.config.evaluation.batch_size
  return functools.partial(_sampler(run, model, rows), params)


def _sampler(run, model, rows):
  """As `make`, for `rows` at a time and parameters that may change."""
  engine_ = engine.Engine(model.module, engine.vocabulary(run.tokenizer), rows)

  def sample(
    params: types.PyTree,
    asked: Sequence[requests.Request],
    settings: requests.Settings,
    progress: Callable[[int, int], None] | None = None,
  ) -> list[list[requests.Sample]]:
    with rules.active(model.mesh):
      return engine_.generate(params, asked, settings, progress)

  return sample


def rollout_settings(run: resolve.Run) -> requests.Settings:
  """How the student samples rows of its own training."""
  return fields.settings(run.config.rollout, stop_strings=())


def make_rollouts(run: resolve.Run) -> rollouts.Rollouts | None:
  """The rows that the student writes; None where it writes none."""
  config = run.config
  if config.teacher.source != 'rollout':
    return None
  sample = _sampler(run, run.student, config.rollout.batch_size)
  settings = rollout_settings(run)
  buffer = None
  if config.rollout.buffer:
    buffer = replay.Buffer(config.rollout.buffer, config.data.length)
  return rollouts.Rollouts(
    lambda params, asked: sample(params, asked, settings),
    rules_lib.scheduled(config, 'rollout.share'),
    config.rollout.every,
    buffer,
    config.seed,
    run.tokenizer.pad_id,
    run.tokenizer.decode,
  )
