"""Estimates pass@k: the probability that one of k answers is right.

Of n sampled answers to a prompt, c are right. The fraction of all choices of k
answers with at least one right answer is 1 - C(n - c, k) / C(n, k). This
estimate is unbiased, unlike 1 - (1 - c / n)^k (arXiv 2107.03374).
"""

from collections.abc import Callable, Sequence
import math
from typing import Any

from kd.benchmarking import models
from kd.core import errors
from kd.core import progress
from kd.core import types
from kd.evaluation import results
from kd.evaluation import seqio_adapter
from kd.metrics import metric
from kd.partitioning import rules
from kd.sampling import engine
from kd.sampling import requests
from kd.train import evaluate


def estimate(n: int, c: int, k: int) -> float:
  """Returns the unbiased estimate of pass@k.

  Args:
    n: number of answers to a prompt.
    c: number of right answers.
    k: number of answers to choose, at most n.
  """
  return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def measure(
  opened: models.Opened,
  params: types.PyTree,
  held_out: Sequence[evaluate.HeldOut],
  say: progress.Say,
) -> dict[str, dict[str, metric.Metric]]:
  """Samples answers and returns pass@k of each held-out set with answers.

  Args:
    opened: the model.
    params: its parameters.
    held_out: the sets.
    say: prints a line of progress.

  Returns:
    By set, the metrics, such as 'pass@4', with a value for each answered
    example.

  Raises:
    ConfigError: a task lacks the exact match metric.
  """
  fields = opened.run.config.benchmark
  answered = [x for x in held_out if x.answers]
  if not fields.pass_at or not answered:
    return {}
  settings = requests.SamplingSettings(
    temperature=fields.temperature,
    top_k=0,
    top_p=fields.top_p,
    min_p=0.0,
    repetition_penalty=1.0,
    max_new_tokens=opened.run.config.evaluation.max_new_tokens,
    stop_strings=(),
  )
  sampler = engine.Engine(
    opened.model.module,
    engine.vocabulary(opened.run.tokenizer),
    opened.run.config.evaluation.batch_size,
  )

  def complete(asked, advance):
    with rules.active(opened.model.mesh):
      return sampler.generate(params, asked, settings, progress=advance)

  return {one.name: _of_set(opened, one, complete, say) for one in answered}


def _of_set(
  opened: models.Opened,
  held_out: evaluate.HeldOut,
  complete: Callable[..., list[list[requests.Sample]]],
  say: progress.Say,
) -> dict[str, metric.Metric]:
  config = opened.run.config
  n = config.benchmark.samples
  chosen = evaluate.answered_examples(held_out)
  every = [example for _, examples in chosen for example in examples]
  asked = [
    requests.numbered(ids, config.benchmark.seed, number, n, images)
    for number, (ids, images) in enumerate(
      evaluate.prompts(opened.run, opened.model.config, every)
    )
  ]
  label = f'sampling {n} answers each, {held_out.name}'
  with progress.Progress(label, say, n * len(asked), 'answers') as task:
    samples = complete(asked, lambda done, total: task.set(done))
  right = [0] * len(every)
  for number in range(n):
    scores = _exact_matches(opened, held_out, chosen, samples, number)
    right = [
      total + int(x == 1) for total, x in zip(right, scores, strict=True)
    ]
  return {
    f'pass@{k}': metric.Metric(
      [estimate(n, c, k) for c in right], title=f'pass@{k} of {n} answers'
    )
    for k in config.benchmark.pass_at
  }


def _exact_matches(opened, held_out, chosen, samples, number) -> list[Any]:
  """Returns the exact match of answer `number` to each example."""
  config = opened.run.config
  position, parts = 0, []
  for task, examples in chosen:
    of_task = samples[position : position + len(examples)]
    position += len(examples)
    parts.append(
      seqio_adapter.Answered(
        task, examples, [s[number] for s in of_task], config.data.template
      )
    )
  scored = seqio_adapter.score(
    parts, held_out.mixture, config.evaluation.metrics
  )
  if results.EXACT_MATCH not in scored.by_example:
    raise errors.ConfigError(
      'benchmark.pass_at',
      f'set {held_out.name!r} has a task without the metric '
      f'{results.EXACT_MATCH!r}',
      legal='(), or tasks with it',
    )
  return scored.by_example[results.EXACT_MATCH]
