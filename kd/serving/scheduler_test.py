"""Tests requests whose models fail or are removed."""

import asyncio
import time
import types

import jax
import pytest

from kd.sampling import continuous
from kd.serving import lane
from kd.serving import metrics as metrics_lib
from kd.serving import scheduler as scheduler_lib
from kd.serving import served_model
from kd.serving import work as work_lib

_IDS = tuple(range(600))


class _Batch:
  """Records prompts, and raises out-of-memory errors on demand."""

  def __init__(self, fails=False):
    self.room, self.fails = 4, fails
    self.read = []
    self.resets = []

  def compile(self):
    yield 1, 1

  def prefill(self, ids, scored, images):
    del scored, images
    if self.fails:
      raise MemoryError('1 GiB')
    self.read.append(ids)
    return continuous.Prefilled(ids, cache=object())

  def step(self):
    return []

  def reset(self):
    self.resets.append(time.monotonic())
    if self.fails:
      raise MemoryError('1 GiB')


def _model(name, **settings):
  mesh = jax.make_mesh((1,), ('data',))
  run = types.SimpleNamespace(mesh=mesh)
  return served_model.ServedModel(name, run, _Batch(**settings))


def _scheduler(*models, queue=8):
  return scheduler_lib.Scheduler(
    models, queue, metrics_lib.Metrics(), print, lambda: None
  )


def _scored(model, count=1, client='client'):
  """Returns a request to score prompts."""
  prompts = [work_lib.Prompt(_IDS, [], scored=True) for _ in range(count)]
  return work_lib.Work(model, prompts, client)


async def _ask(scheduler, model):
  work = _scored(model)
  scheduler.submit(work, 60.0)
  async with asyncio.timeout(60):
    return work.prompts[0], await work.event()


def test_a_failing_model_does_not_affect_others():
  good, bad = _model('good'), _model('bad', fails=True)
  scheduler = _scheduler(good, bad)

  async def ask():
    scheduler.start()
    while scheduler.state == scheduler_lib.COMPILING:
      await asyncio.sleep(0.01)
    for _ in range(2):  # While it fails, and later.
      with pytest.raises(lane.ModelError, match='MemoryError'):
        await _ask(scheduler, bad)
    prompt, event = await _ask(scheduler, good)
    assert event.ended
    # A prompt that is only scored no longer needs its KV cache.
    assert prompt.read.cache is None
    assert scheduler.remove(bad)
    # The client of a model that is gone leaves late.
    scheduler.cancel(_scored(bad))
    await _ask(scheduler, good)
    with pytest.raises(scheduler_lib.StoppedError, match='no longer served'):
      await _ask(scheduler, bad)

  asyncio.run(ask())
  scheduler.close()
  scheduler.join(60)
  assert scheduler.state == scheduler_lib.STOPPING and not scheduler.error


def test_failed_models_are_retried_with_growing_delays(monkeypatch):
  monkeypatch.setattr(lane, '_FIRST_RETRY_S', 0.1)
  good, bad = _model('good'), _model('bad', fails=True)
  metrics = metrics_lib.Metrics()
  scheduler = scheduler_lib.Scheduler(
    (good, bad), 8, metrics, print, lambda: None
  )

  async def ask():
    scheduler.start()
    while scheduler.state == scheduler_lib.COMPILING:
      await asyncio.sleep(0.01)
    start = time.monotonic()
    with pytest.raises(lane.ModelError, match='MemoryError'):
      await _ask(scheduler, bad)
    assert list(scheduler.failed()) == ['bad']
    assert b'kd_failed{model="bad"} 1.0' in metrics.text(True)
    while not bad.batch.resets:
      await asyncio.sleep(0.01)
    bad.batch.fails = False
    async with asyncio.timeout(60):
      while scheduler.failed():
        await asyncio.sleep(0.01)
    await _ask(scheduler, bad)
    times = [t - start for t in bad.batch.resets]
    assert times[0] >= 0.1 and times[1] - times[0] >= 0.2
    assert b'kd_failed{model="bad"} 0.0' in metrics.text(True)

  asyncio.run(ask())
  scheduler.close()
  scheduler.join(60)
  assert not scheduler.error


def test_retries_are_at_most_a_minute_apart():
  one = lane.Lane(_model('bad', fails=True))
  for _ in range(1100):
    one.fail('')
  assert 55 < one.retry_s <= 60


def test_the_server_ends_when_all_models_have_failed():
  bad = _model('bad', fails=True)
  scheduler = _scheduler(bad)

  async def ask():
    scheduler.start()
    while scheduler.state == scheduler_lib.COMPILING:
      await asyncio.sleep(0.01)
    with pytest.raises(scheduler_lib.StoppedError, match='has failed'):
      await _ask(scheduler, bad)

  asyncio.run(ask())
  scheduler.join(60)
  assert isinstance(scheduler.error, MemoryError)


def test_scored_prompts_are_admitted_one_at_a_time():
  model = _model('model')
  scheduler = _scheduler(model)
  scheduler.state = scheduler_lib.READY

  async def admit():
    scheduler.submit(_scored(model, count=3), 60.0)
    scheduler._admit(scheduler._lanes[model])

  asyncio.run(admit())
  assert len(model.batch.read) == 1
