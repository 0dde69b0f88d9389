"""Collects the server's metrics in the text format of Prometheus."""

from collections.abc import Mapping

import prometheus_client

from kd.monitoring import measures
from kd.monitoring import memory
from kd.monitoring import names

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

# Seconds; they include the limits of deadlines and alarms, 0.5 and 1.
_SECONDS = (
  *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0),
  *(10.0, 30.0, 60.0, 300.0),
)


class Metrics:
  """Counts requests and tokens, and measures their times."""

  def __init__(self):
    self._registry = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=self._registry)
    counter, histogram, gauge = (
      prometheus_client.Counter,
      prometheus_client.Histogram,
      prometheus_client.Gauge,
    )
    at = dict(registry=self._registry)
    timed = dict(buckets=_SECONDS, **at)
    self._requests = counter(
      names.REQUESTS,
      'Requests that have ended; code 499: the client left.',
      ['model', 'endpoint', 'code'],
      **at,
    )
    self._tokens = counter(
      names.TOKENS,
      'Tokens of prompts that were read, and of answers.',
      ['model', 'kind'],
      **at,
    )
    self._first = histogram(
      names.FIRST_TOKEN_S,
      'Time from a request to its first token.',
      ['model'],
      **timed,
    )
    self._whole = histogram(
      names.REQUEST_S,
      'Time from a request to its end.',
      ['model'],
      **timed,
    )
    self._waiting = gauge(
      names.WAITING, 'Prompts in the queue.', ['model'], **at
    )
    self._running = gauge(
      names.RUNNING, 'Answers in the batch.', ['model'], **at
    )
    self._failed = gauge(
      names.FAILED, '1 while a model has failed.', ['model'], **at
    )
    self._ready = gauge(names.READY, '1 once all programs are compiled.', **at)

    self._compared = counter(
      names.COMPARED_TOKENS, 'Tokens of answers that the teacher scored.', **at
    )
    self._agreeing = counter(
      names.AGREEING_TOKENS,
      "Scored tokens that are the teacher's first choice.",
      **at,
    )
    self._version = gauge(
      names.VERSION,
      '1 for each version in a stage.',
      ['version', 'stage'],
      **at,
    )
    self._memory = gauge(names.MEMORY_BYTES, 'Memory in use.', ['kind'], **at)
    self._memory_limit = gauge(
      names.MEMORY_LIMIT_BYTES, 'Total memory.', ['kind'], **at
    )

  def compared(self, tokens: int, agreeing: int) -> None:
    """Records an answer that the teacher has scored."""
    self._compared.inc(tokens)
    self._agreeing.inc(agreeing)

  def versions(self, by_stage: Mapping[str, str]) -> None:
    """Records the names of the versions by stage."""
    self._version.clear()
    for stage, version in by_stage.items():
      self._version.labels(version, stage).set(1)

  def waiting(self, model: str) -> prometheus_client.Gauge:
    """Returns the gauge of waiting prompts."""
    return self._waiting.labels(model)

  def running(self, model: str) -> prometheus_client.Gauge:
    """Returns the gauge of running answers."""
    return self._running.labels(model)

  def failed(self, model: str) -> prometheus_client.Gauge:
    """Returns the gauge of whether a model has failed."""
    return self._failed.labels(model)

  def first_token(self, model: str, seconds: float) -> None:
    """Records the time to the first token of a request."""
    self._first.labels(model).observe(seconds)

  def ended(self, model: str, endpoint: str, code: int, seconds: float) -> None:
    """Records the end of a request.

    Args:
      model: name of the model; '' if the request names no served model.
      endpoint: path of the endpoint.
      code: HTTP status.
      seconds: duration of the request.
    """
    self._requests.labels(model, endpoint, str(code)).inc()
    if code == 200:
      self._whole.labels(model).observe(seconds)

  def tokens(self, model: str, prompt: int, answer: int) -> None:
    """Records the numbers of tokens of an answered request."""
    self._tokens.labels(model, 'prompt').inc(prompt)
    self._tokens.labels(model, 'answer').inc(answer)

  def text(self, ready: bool) -> bytes:
    """Returns all metrics in the text format of Prometheus."""
    self._ready.set(ready)
    self._measure_memory()
    return prometheus_client.generate_latest(self._registry)

  def samples(self) -> measures.Samples:
    """Returns the labels and values of all metrics by name."""
    self._measure_memory()
    samples = {}
    for family in self._registry.collect():
      for sample in family.samples:
        pair = sample.labels, sample.value
        samples.setdefault(sample.name, []).append(pair)
    return samples

  def _measure_memory(self):
    for kind, (used, limit) in memory.in_use().items():
      self._memory.labels(kind).set(used)
      self._memory_limit.labels(kind).set(limit)
