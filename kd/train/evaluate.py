"""Evaluation of one model on every held-out set."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools

import numpy as np

from kd.core import types
from kd.evaluation import likelihood
from kd.evaluation import seqio_adapter
from kd.input_pipeline import prepare
from kd.input_pipeline import reading
from kd.input_pipeline import rows as rows_lib
from kd.input_pipeline import templates
from kd.partitioning import placement
from kd.partitioning import processes
from kd.partitioning import rules
from kd.sampling import engine
from kd.sampling import requests
from kd.train import resolve

# The metric of a task that is compared between models, example by example.
EXACT_MATCH = 'exact_match'

TeacherTargets = Callable[[types.Batch], types.Targets]


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """A held-out set, prepared.

  Attributes:
    name: in evaluation.sets.
    parts: its tasks, one example a row.
    answers: how many examples of each task are answered by generation.
  """

  name: str
  parts: Sequence[prepare.Prepared]
  answers: int


def prepare_sets(run: resolve.Run, say: Callable[[str], None]) -> list[HeldOut]:
  """Prepares the sets of evaluation.sets, in order of their names."""
  config = run.config
  held_out = []
  for name, entry in sorted(config.evaluation.sets.items()):
    count = max(entry.examples, entry.answers)
    if entry.examples == 0 and entry.answers == 0:
      continue
    prepare_set = functools.partial(
      prepare.prepare,
      entry.mixture or config.data.mixture,
      entry.split,
      tokenizer=run.tokenizer,
      template=config.data.template,
      length=config.data.length,
      pack=False,
      seed=config.seed,
      cache_dir=config.data.folder,
      limit=-1 if -1 in (entry.examples, entry.answers) else count,
      module=config.data.module,
      patience=reading.Patience(**config.data.read),
      say=say,
    )
    parts = processes.first_then_all(f'rows of {name}', prepare_set)
    held_out.append(HeldOut(name, parts, entry.answers))
  return held_out


class Evaluator:
  """Scores one model's parameters: likelihood, distance, answers."""

  def __init__(
    self,
    run: resolve.Run,
    model: resolve.Model,
    teacher_targets: TeacherTargets | None,
    held_out: Sequence[HeldOut],
  ):
    """Builds the programs.

    Args:
      run: the resolved config.
      model: the model that is evaluated.
      teacher_targets: the live teacher, from and to the model's mesh, or None.
      held_out: from prepare_sets.
    """
    config = run.config
    self._run, self._held_out = run, held_out
    self._mesh = model.mesh
    self._likelihood = likelihood.make(
      model.module,
      teacher_targets,
      model.mesh,
      config.evaluation.batch_size,
      config.objective.chunk_tokens,
    )
    self._engine = None
    if any(s.answers for s in held_out):
      self._engine = engine.Engine(
        model.module,
        engine.vocabulary(run.tokenizer),
        config.evaluation.batch_size,
      )
      engine.check_room(
        model.module,
        config.evaluation.max_new_tokens,
        'evaluation.max_new_tokens',
      )

  def __call__(
    self, params: types.PyTree, check: Callable[[], None]
  ) -> tuple[dict[str, float], dict[str, dict[str, list[float]]]]:
    """Evaluates parameters.

    Args:
      params: the model's.
      check: called between batches; raises if the run must stop.

    Returns:
      Metrics by name, eval/<set>/<metric>, and by set the scores of each
      example: those of likelihood.make, and 'exact_match' of those answered.
    """
    metrics, scores = {}, {}
    for held_out in self._held_out:
      by_row = self._likelihood(
        params, _checked(self._batches(held_out), check)
      )
      means = likelihood.summarize(by_row)
      per_example = {key: value.tolist() for key, value in by_row.items()}
      if held_out.answers:
        more, exact = self._answer(params, held_out, check)
        means.update(more)
        if exact:
          per_example[EXACT_MATCH] = exact
      metrics.update({f'eval/{held_out.name}/{k}': v for k, v in means.items()})
      scores[held_out.name] = per_example
    return metrics, scores

  def _batches(self, held_out):
    size = self._run.config.evaluation.batch_size
    mine = placement.local_rows(self._mesh, size)
    return rows_lib.batches(held_out.parts, size, mine)

  def _answer(self, params, held_out, check):
    """Generates answers; metrics over all tasks, and 0 or 1 by example."""
    totals: dict[str, list[float]] = {}
    exact = []
    for part in held_out.parts:
      examples = part.examples()
      if held_out.answers > 0:
        examples = examples[: held_out.answers]
      samples = self._complete(params, examples, check)
      texts = [sample.text for sample in samples]
      named = part.task, self._run.config.data.module
      score = seqio_adapter.score(*named, examples, texts, samples)
      for name, value in score.items():
        totals.setdefault(name, []).append(value)
      each = seqio_adapter.score_each(*named, examples, texts)
      exact += each[EXACT_MATCH].tolist() if EXACT_MATCH in each else []
    return {name: float(np.mean(v)) for name, v in totals.items()}, exact

  def _complete(self, params, examples, check):
    config = self._run.config
    asked = []
    for example in examples:
      messages = templates.exchange(example['inputs'])
      ids = templates.encode_prompt(
        self._run.tokenizer, config.data.template, messages
      )
      asked.append(requests.Request(tuple(ids), seed=0, samples=1))
    with rules.active(self._mesh):
      found = self._engine.generate(
        params,
        asked,
        requests.greedy(config.evaluation.max_new_tokens),
        progress=lambda done, total: check(),
      )
    return [samples[0] for samples in found]


def _checked(
  batches: Iterator[types.Batch], check: Callable[[], None]
) -> Iterator[types.Batch]:
  for batch in batches:
    check()
    yield batch


def first_quality(held_out: Sequence[HeldOut]) -> str:
  """The metric that decides which checkpoint is best: the first set's NLL."""
  return f'eval/{held_out[0].name}/nll' if held_out else ''


Scores = Mapping[str, Mapping[str, Sequence[float]]]
