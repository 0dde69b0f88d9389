"""The sampler of a run's model."""

from collections.abc import Callable, Sequence

from kd.core import types
from kd.partitioning import rules
from kd.sampling import engine
from kd.sampling import requests
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
  engine_ = engine.Engine(model.module, engine.vocabulary(run.tokenizer), rows)

  def sample(
    asked: Sequence[requests.Request],
    settings: requests.Settings,
    progress: Callable[[int, int], None] | None = None,
  ) -> list[list[requests.Sample]]:
    with rules.active(model.mesh):
      return engine_.generate(params, asked, settings, progress)

  return sample
