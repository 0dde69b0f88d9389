"""Creates samplers of a run's models."""

from collections.abc import Callable, Sequence
import functools

from kd.core import types
from kd.partitioning import rules
from kd.run import resolved
from kd.sampling import engine
from kd.sampling import requests


def make(
  run: resolved.Run, model: resolved.Model, params: types.PyTree
) -> requests.Sampler:
  """Returns a sampler with batches of evaluation.batch_size.

  Args:
    run: the resolved config.
    model: the student or a teacher.
    params: parameters of the model, on its devices.

  Raises:
    ConfigError: the tokenizer has more ids than the model.
  """
  rows = run.config.evaluation.batch_size
  return functools.partial(without_params(run, model, rows), params)


def without_params(
  run: resolved.Run, model: resolved.Model, batch_size: int
) -> Callable[..., list[list[requests.Sample]]]:
  """Returns a sampler whose first argument is the model's parameters.

  Args:
    run: the resolved config.
    model: the student or a teacher.
    batch_size: number of rows to decode at a time.

  Raises:
    ConfigError: the tokenizer has more ids than the model.
  """
  engine_ = _engine(run, model, batch_size)

  def sample(
    params: types.PyTree,
    asked: Sequence[requests.Request],
    settings: requests.SamplingSettings,
    progress: Callable[[int, int], None] | None = None,
  ) -> list[list[requests.Sample]]:
    with rules.active(model.mesh):
      return engine_.generate(params, asked, settings, progress)

  return sample


def compile_(
  run: resolved.Run,
  model: resolved.Model,
  batch_size: int,
  params: types.PyTree,
  asked: Sequence[requests.Request],
  settings: requests.SamplingSettings,
) -> None:
  """Compiles the programs of `without_params`; see engine.Engine.compile."""
  with rules.active(model.mesh):
    _engine(run, model, batch_size).compile(params, asked, settings)


def _engine(run, model, batch_size):
  words = engine.vocabulary(run.tokenizer)
  return engine.Engine(model.module, words, batch_size)
