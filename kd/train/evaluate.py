"""Evaluates one model on every held-out set."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import itertools
from typing import Any

import jax
import numpy as np
import optax

from kd.core import errors
from kd.core import progress
from kd.core import types
from kd.evaluation import likelihood
from kd.evaluation import results
from kd.evaluation import seqio_adapter
from kd.input_pipeline import conversations
from kd.input_pipeline import mixtures
from kd.input_pipeline import prepare
from kd.input_pipeline import retry
from kd.input_pipeline import rows as rows_lib
from kd.models import family
from kd.partitioning import placement
from kd.partitioning import rules
from kd.run import model_checks
from kd.run import resolved
from kd.run import routed_teachers
from kd.run import source
from kd.sampling import engine
from kd.sampling import images as images_lib
from kd.sampling import requests
from kd.train import answer_kl
from kd.train import answer_records
from kd.train import shared_rows
from kd.train.feeds import feed


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """A prepared held-out set.

  Attributes:
    name: name in evaluation.sets.
    mixture: mixture of its tasks.
    prepared: rows of each task, one example per row.
    answers: number of examples of each task to answer by generation; negative
      for all.
  """

  name: str
  mixture: mixtures.Mixture
  prepared: Sequence[prepare.Prepared]
  answers: int

  @property
  def identity(self) -> dict[str, object]:
    """The set's identity: digests of examples and number of answers."""
    examples = {
      task_rows.task: [
        task_rows.counts['rows_sha256'],
        task_rows.counts['examples_sha256'],
      ]
      for task_rows in self.prepared
    }
    return {'examples': examples, 'answers': self.answers}


def prepare_sets(run: resolved.Run, say: progress.Say) -> list[HeldOut]:
  """Prepares the sets of evaluation.sets, sorted by name."""
  config = run.config
  held_out = []
  for name, entry in sorted(config.evaluation.sets.items()):
    count = max(entry.examples, entry.answers)
    if entry.examples == 0 and entry.answers == 0:
      continue
    mixture = mixtures.held_out(config, name)
    prepare_set = functools.partial(
      prepare.prepare,
      mixture,
      entry.split,
      tokenizer=run.tokenizer,
      template=config.data.template,
      length=config.data.length,
      pack=False,
      seed=config.seed,
      cache_dir=config.data.folder,
      limit=-1 if -1 in (entry.examples, entry.answers) else count,
      on_error=config.data.on_error,
      form=run.image_form,
      retry_policy=retry.RetryPolicy(**config.data.read),
      long=config.data.long,
      chunk_overlap=config.data.chunk_overlap,
      backend=config.data.backend,
      workers=config.data.workers,
      beam_args=config.data.beam_args,
      say=say,
    )
    prepared = shared_rows.prepare(
      f'rows of {name}', prepare_set, config.data.refresh
    )
    for task_rows in prepared:
      say(f'{name}: {task_rows.describe()}')
    model_checks.check_images(run, prepared)
    if entry.answers:
      _check_prompts(name, prepared)
    if run.teachers:
      routed_teachers.check_set(config, name, prepared)
    held_out.append(HeldOut(name, mixture, prepared, entry.answers))
  return held_out


def _check_prompts(name, prepared):
  """Raises ConfigError if examples are documents, which have no prompt."""
  for task_rows in prepared:
    if conversations.is_document(next(task_rows.examples())):
      raise errors.ConfigError(
        f'evaluation.sets.{name}.answers',
        f'found more than 0, and {task_rows.task} has documents, which have no '
        'prompt',
        legal='0',
      )


def _norm(params):
  """Returns the norm of floating-point parameters; codes are always finite."""
  leaves = jax.tree.leaves(params)
  floats = (np.float32, jax.numpy.bfloat16, np.float16)
  return optax.tree.norm(
    [x.astype(np.float32) for x in leaves if x.dtype in floats]
  )


class Evaluator:
  """Scores one model's parameters: likelihood, KL, answers."""

  def __init__(
    self,
    run: resolved.Run,
    model: resolved.Model,
    teacher_targets: feed.LiveTargets | None,
    held_out: Sequence[HeldOut],
    say: progress.Say,
    detailed: bool = False,
    token_kl: int = 0,
  ):
    """Builds the compiled programs.

    Args:
      run: the resolved config.
      model: the model to evaluate.
      teacher_targets: function from batches to targets on the model's mesh, or
        None.
      held_out: held-out sets from prepare_sets.
      say: function that prints a line of progress.
      detailed: whether to compute the scores of a benchmark too.
      token_kl: number of answers per task whose records have the KL to the
        teacher at each token, if there is a teacher.
    """
    config = run.config
    self._run, self._held_out, self._say = run, held_out, say
    self._mesh, self._names = model.mesh, _names(run, model)
    self._config, self._has_teacher = model.config, bool(teacher_targets)
    self._norm = jax.jit(_norm)
    has_answers = any(s.answers for s in held_out)
    self._token_kl = token_kl if teacher_targets and has_answers else 0
    self._likelihood = likelihood.Scorer(
      model.module,
      teacher_targets,
      self._names,
      model.mesh,
      config.evaluation.batch_size,
      config.objective.chunk_tokens,
      detailed,
      with_tokens=self._token_kl > 0,
    )
    self._engine = None
    if has_answers:
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
  ) -> results.Result:
    """Evaluates the model with the given parameters.

    Args:
      params: parameters of the model.
      check: function called between batches; raises if the run must stop.
    """
    self._check_norm(params)
    metrics, scores, answers, descriptions = {}, {}, [], {}
    for held_out in self._held_out:
      prefix = f'eval/{held_out.name}'
      by_task = self._score(params, held_out, check)
      by_row = likelihood.join(by_task.values())
      found = {'': likelihood.summarize(by_row)}
      if len(by_task) > 1:
        found |= {
          f'/{task}': likelihood.summarize(rows)
          for task, rows in by_task.items()
        }
      columns = {key: value.tolist() for key, value in by_row.items()}
      if held_out.answers:
        answered, asked = self._answer(params, held_out, check)
        scored = seqio_adapter.score(
          answered,
          held_out.mixture,
          self._run.config.evaluation.metrics,
        )
        found[''] |= scored.pooled
        if len(by_task) > 1:
          for task, values in scored.by_task.items():
            found[f'/{task}'] |= values
        columns |= scored.by_example
        descriptions[held_out.name] = scored.descriptions
        token_kl = self._measure_tokens(
          params, held_out, answered, asked, check
        )
        answers += answer_records.of_set(
          held_out.name, answered, scored, token_kl
        )
      for task, values in found.items():
        metrics |= {f'{prefix}{task}/{k}': v for k, v in values.items()}
      scores[held_out.name] = columns
    return results.Result(metrics, scores, answers, descriptions)

  def _check_norm(self, params):
    """Raises NonFiniteError if the parameters' sum of squares is not finite.

    RMS norms divide by such sums, so a diverged model may output zeros and its
    evaluation may be finite.
    """
    if not np.isfinite(jax.device_get(self._norm(params))):
      name, *teachers = self._names
      raise errors.NonFiniteError(
        f'the parameters of {name} have no finite norm: nothing was recorded',
        teachers=[name] if name in teachers else [],
      )

  def _score(self, params, held_out, check):
    """Returns the examples' scores from likelihood.Scorer, by task."""
    size = self._run.config.evaluation.batch_size
    rows = sum(task_rows.counts['rows'] for task_rows in held_out.prepared)
    label = f'evaluating {held_out.name}'
    with progress.Progress(label, self._say, rows, 'rows') as task:

      def batches(task_rows):
        left = task_rows.counts['rows']
        data = self._batches(task_rows)
        for batch in self._routed(task_rows, data, check):
          yield batch
          # When the generator resumes, the batch has been scored.
          task.add(min(size, left))
          left -= size

      return {
        task_rows.task: self._likelihood(params, batches(task_rows))
        for task_rows in held_out.prepared
      }

  def _batches(self, task_rows):
    """Returns this process's rows of a task, in batches."""
    size = self._run.config.evaluation.batch_size
    mine = placement.local_rows(self._mesh, size)
    return rows_lib.batches([task_rows], size, mine)

  def _routed(self, task_rows, batches, check):
    """Yields batches with the weights of teachers that divide the examples."""
    router = None
    if self._has_teacher:
      router = routed_teachers.router(self._run.config, [task_rows])
    for batch in batches:
      check()
      yield router(batch) if router else batch

  def _answer(self, params, held_out, check):
    """Answers the first examples of each task; returns the requests, too."""
    chosen = answered_examples(held_out)
    label = f'answering {held_out.name}'
    total = sum(len(examples) for _, examples in chosen)
    with progress.Progress(label, self._say, total, 'prompts') as task:

      def advance(done, total):
        del total
        check()
        task.set(done)

      every = [example for _, examples in chosen for example in examples]
      asked = [
        requests.Request(ids, seed=0, samples=1, images=images)
        for ids, images in prompts(self._run, self._config, every)
      ]
      samples = iter(self._complete(params, asked, advance))
    template = self._run.config.data.template
    answered = [
      seqio_adapter.Answered(
        name, examples, [next(samples) for _ in examples], template
      )
      for name, examples in chosen
    ]
    return answered, asked

  def _measure_tokens(self, params, held_out, answered, asked, check):
    """Returns the result of answer_kl.measure for each task."""
    measured, tokenizer, ids = {}, self._run.tokenizer, (x.ids for x in asked)
    for task_rows, of_task in zip(held_out.prepared, answered, strict=True):
      prompt_ids = list(itertools.islice(ids, len(of_task.examples)))
      examples = of_task.examples[: self._token_kl]

      def token_kl(batches, task_rows=task_rows):
        routed = self._routed(task_rows, batches, check)
        return self._likelihood.token_kl(params, routed)

      measured[of_task.task] = answer_kl.measure(
        answer_kl.Asked(examples, prompt_ids, of_task.samples),
        self._batches(task_rows),
        self._run.config.evaluation.batch_size,
        task_rows.first_row_id,
        token_kl,
        tokenizer,
      )
    return measured

  def _complete(self, params, asked, advance):
    config = self._run.config
    with rules.active(self._mesh):
      completions = self._engine.generate(
        params,
        asked,
        requests.greedy(config.evaluation.max_new_tokens),
        progress=advance,
      )
    return [samples[0] for samples in completions]


def prompts(
  run: resolved.Run,
  model: family.Config,
  examples: Sequence[Mapping[str, Any]],
) -> list[tuple[tuple[int, ...], tuple[images_lib.Image, ...]]]:
  """Returns the ids and images of examples' prompts.

  Args:
    run: run whose tokenizer, template and `data.images` are used.
    model: config of the model that answers.
    examples: the examples.

  Raises:
    ConfigError: the template cannot format one of them.
  """
  every, data = [], run.config.data
  form = run.image_form_of(model)
  for example in examples:
    messages = conversations.prompt(example)
    try:
      ids, images = images_lib.encode(
        run.tokenizer, data.template, messages, form
      )
    except errors.ConfigError as e:
      raise e.at(f'evaluation, example {example["id"]!r}') from e
    every.append((tuple(ids), images))
  return every


def answered_examples(
  held_out: HeldOut,
) -> list[tuple[str, list[dict[str, Any]]]]:
  """Returns the examples of a set to answer, by task."""
  most = held_out.answers if held_out.answers > 0 else None
  return [
    (task_rows.task, list(itertools.islice(task_rows.examples(), most)))
    for task_rows in held_out.prepared
  ]


def _names(run, model):
  """Returns the display names of the evaluated model and of each teacher."""
  teachers = source.of(run.config).teacher_names()
  return (teachers[0] if model is run.teacher else 'the student', *teachers)
