"""The arguments of the training loop for one student."""

from collections.abc import Callable, Mapping
import dataclasses

from kd.core import progress
from kd.core import types
from kd.losses import objective as objective_lib
from kd.run import resolved
from kd.train import best as best_lib
from kd.train import train_metrics
from kd.train.feeds import feed as feed_lib

Evaluate = Callable[[int, types.PyTree, Callable[[], None]], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class TrainJob:
  """The arguments of loop.train: one student to train.

  Attributes:
    run: the resolved config.
    objective: the run's training objective, or the baseline's.
    workdir: folder of this student's files.
    label: prefix of its lines on the terminal.
    init: function that creates the student's initial parameters.
    feed: feed of each step's batch and targets.
    evaluate: function from (step, params, check) to eval/ metrics. It calls
      check between batches, which raises if the run must stop.
    answers: function from an evaluated step to some answers, as Markdown by
      name.
    work: amount of computation per step.
    best: the metric that selects the best checkpoint.
    stop: the metric that may end training early.
    compile_feed: function of the student's parameters and `say` that compiles
      the feed's programs before the first step.
  """

  run: resolved.Run
  objective: objective_lib.Objective
  workdir: str
  label: str
  init: Callable[[], types.PyTree]
  feed: feed_lib.Feed
  evaluate: Evaluate
  answers: Callable[[int], Mapping[str, str]]
  work: train_metrics.StepWork
  best: best_lib.Best
  stop: best_lib.Best
  compile_feed: Callable[[types.PyTree, progress.Say], None] = lambda *_: None
