"""The arguments of a training: what the loop needs to know of one student."""

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
    workdir: where this student's files go.
    label: prefix of its lines on the terminal.
    init: makes the student's first parameters.
    feed: supplies each step's batch and targets.
    evaluate: of (step, params, check); returns eval/ metrics, and calls check
      between batches, which raises if the run must stop.
    answers: from a step that was evaluated to Markdown by name: some answers.
    work: what a step computes.
    best: which evaluation makes a checkpoint the best one.
    stop: the metric that may end training early.
    compile_feed: of the student's parameters and `say`; compiles what the feed
      runs, before the first step.
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
