"""Measures the cost of generation: latency, throughput, memory and disk.

Prompts are random ids and no id ends an answer, so that all answers have the
same length and all models do the same work. Programs are compiled before the
timing. Latency is measured with one token per call, as in streaming, and
throughput with the engine's default number.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import time
from typing import Any

from etils import epath
import jax
import numpy as np

from kd.benchmarking import models
from kd.checkpoints import gguf_parts
from kd.checkpoints import manager
from kd.core import host_memory
from kd.core import progress
from kd.core import types
from kd.partitioning import rules
from kd.run import outputs
from kd.sampling import calls
from kd.sampling import engine
from kd.sampling import requests

PERCENTILES = (50, 95, 99)
# Suffixes of the weight files in a Hugging Face folder.
_WEIGHTS = ('.safetensors',)


@dataclasses.dataclass(frozen=True)
class Timing:
  """The speed for one batch size and prompt length.

  Attributes:
    batch_size: number of prompts per batch.
    prompt_length: number of tokens per prompt.
    first_token_s: seconds to the first token, by percentile.
    per_token_s: seconds between two tokens, by percentile.
    tokens_per_s: median number of new tokens per second, over the batch.
    requests_per_s: median number of answers per second, over the batch.
    measured: number of measurements of first tokens, of later tokens and of
      whole batches.
  """

  batch_size: int
  prompt_length: int
  first_token_s: dict[str, float]
  per_token_s: dict[str, float]
  tokens_per_s: float
  requests_per_s: float
  measured: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Cost:
  """The cost of a model.

  Attributes:
    parameters: number of parameters.
    parameter_bytes: size of the parameters in the memory of all devices.
    disk_bytes: size of the weight files.
    host_peak_bytes: peak memory of the process so far, including libraries and
      the compiler.
    device_peak_bytes: peak memory of one device so far; None if the device does
      not report it.
    timings: timings by size; empty if not measured.
  """

  parameters: int
  parameter_bytes: int
  disk_bytes: int
  host_peak_bytes: int
  device_peak_bytes: int | None
  timings: Sequence[Timing]


def measure(
  opened: models.Opened, params: types.PyTree, say: progress.Say
) -> Cost:
  """Measures the cost of a model.

  Args:
    opened: the model.
    params: its parameters.
    say: prints a line of progress.

  Raises:
    ConfigError: prompt and answer do not fit in the context.
  """
  fields = opened.run.config.benchmark.cost
  sizes = []
  if fields.measure:
    longest = max(fields.prompt_lengths)
    engine.check_room(
      opened.model.module,
      fields.new_tokens + longest - 1,
      'benchmark.cost.prompt_lengths',
    )
    sizes = [(b, n) for b in fields.batch_sizes for n in fields.prompt_lengths]
  timings = []
  with progress.Progress('measuring cost', say, len(sizes), 'sizes') as task:
    for batch_size, length in sizes:
      timings.append(_time(opened, params, batch_size, length))
      task.add(1)
  return Cost(
    opened.model.config.parameter_count,
    sum(x.nbytes for x in jax.tree.leaves(params)),
    disk_bytes(opened),
    host_memory.peak_bytes(),
    device_peak_bytes(),
    timings,
  )


def _time(opened, params, batch_size, length) -> Timing:
  """Times one batch size and prompt length."""
  config = opened.run.config.benchmark
  fields, module = config.cost, opened.model.module
  words = dataclasses.replace(
    engine.vocabulary(opened.run.tokenizer), stop_ids=()
  )
  rng = np.random.default_rng(config.seed)
  prompts = rng.integers(words.size, size=(batch_size, length)).tolist()
  asked = [requests.Request(tuple(ids), seed=0, samples=1) for ids in prompts]
  settings = requests.greedy(fields.new_tokens)
  # The batch must be a multiple of the number of row shards.
  shards = rules.row_shards(opened.model.mesh)
  rows = -(-batch_size // shards) * shards
  one_by_one = engine.Engine(module, words, rows, calls.Shapes(steps=1))
  usual = engine.Engine(module, words, rows)
  first, gaps, whole = [], [], []
  with rules.active(opened.model.mesh):
    weights = usual.weights(params)
    # The first round compiles.
    for number in range(fields.repeats + 1):
      times = _token_times(one_by_one, params, weights, asked, settings)
      start = time.perf_counter()
      list(usual.stream(params, asked, settings, weights=weights))
      if number:
        whole.append(time.perf_counter() - start)
        first.append(times[1] - times[0])
        gaps += np.diff(times[1:]).tolist()
  middle = float(np.median(whole))
  return Timing(
    batch_size,
    length,
    _percentiles(first),
    _percentiles(gaps),
    batch_size * fields.new_tokens / middle,
    batch_size / middle,
    {'first_token': len(first), 'per_token': len(gaps), 'whole': len(whole)},
  )


def _token_times(sampler, params, weights, asked, settings) -> list[float]:
  """Returns the times of the request and of the arrival of each token."""
  times = [time.perf_counter()]

  def watch(request, sample, ids):
    del sample, ids
    if request == 0:
      times.append(time.perf_counter())

  answers = sampler.stream(
    params, asked, settings, watch=watch, weights=weights
  )
  for _ in answers:
    if len(times) == settings.max_new_tokens:
      times.append(time.perf_counter())  # All answers end with the same step.
  return times


def _percentiles(values) -> dict[str, float]:
  return {f'p{p}': float(np.percentile(values, p)) for p in PERCENTILES}


def by_size(
  costs: Mapping[str, Cost],
) -> dict[tuple[int, int], dict[str, Timing]]:
  """Returns timings by (batch size, prompt length), then by title."""
  timings: dict[tuple[int, int], dict[str, Timing]] = {}
  for title, cost in costs.items():
    for timing in cost.timings:
      size = timing.batch_size, timing.prompt_length
      timings.setdefault(size, {})[title] = timing
  return dict(sorted(timings.items()))


def disk_bytes(opened: models.Opened) -> int:
  """Returns the size of a model's weight files."""
  if opened.kind == 'gguf':
    tensors = gguf_parts.read(opened.where).tensors.values()
    return sum(map(os.path.getsize, {x.file for x in tensors}))
  if opened.kind == 'hf':
    return sum(
      entry.stat().st_size
      for entry in os.scandir(opened.where)
      if entry.name.endswith(_WEIGHTS)
    )
  step = outputs.student_step(opened.run, opened.where)
  if step is None:  # A workdir without a checkpoint.
    return 0
  # The folder may be in a bucket.
  folder = epath.Path(manager.folder_of(opened.where)) / str(step) / 'params'
  return sum(
    (base / name).stat().length
    for base, _, names in folder.walk()
    for name in names
  )


def device_peak_bytes() -> int | None:
  """Returns the peak memory of one device so far; None if not reported."""
  peaks = [
    (device.memory_stats() or {}).get('peak_bytes_in_use')
    for device in jax.local_devices()
  ]
  return None if None in peaks else max(peaks)


def as_json(cost: Cost) -> dict[str, Any]:
  """Returns a cost as JSON values."""
  return dataclasses.asdict(cost)


def from_json(fields: dict[str, Any]) -> Cost:
  """Returns the cost from JSON values; the inverse of `as_json`."""
  timings = [Timing(**timing) for timing in fields['timings']]
  return Cost(**{**fields, 'timings': timings})
