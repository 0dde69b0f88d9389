"""Local runs of several processes, started from their command lines."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import os
import socket
import time

import numpy as np

from tests import alternating
from tests import command
from tests import warm

_CONFIG = (
  *command.QUICK,
  '--config.data.batch_size=8',
  '--config.evaluation.baseline=False',
  '--config.evaluation.every=0',
  # The last of two batches has one row, which is on one process.
  '--config.evaluation.batch_size=32',
  '--config.evaluation.sets.held_out.examples=33',
  '--config.evaluation.sets.held_out.answers=0',
  '--config.log.every=1',
  '--config.processes.dead_after_s=20',
  '--config.processes.slow_after_s=2',
  '--config.processes.start_timeout_s=200',
)
_WAIT_S = 400


def _free_port():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


class Run:
  """Processes that share a workdir."""

  def __init__(
    self,
    forks,
    folder,
    name,
    count,
    *changes,
    sleeps=None,
    devices=1,
    homes=None,
    config='',
    memory=None,
  ):
    """Starts the processes.

    Args:
      forks: warm.Warm that starts kd.main.
      folder: folder of workdirs, outputs and prepared rows.
      name: name of the workdir.
      count: number of processes.
      *changes: more arguments of kd.main.
      sleeps: seconds to sleep before rows are read, by 'process:step'.
      devices: number of devices per process.
      homes: home folder of each process, which then contains its prepared rows.
        As on separate machines, one path then means different folders.
      config: path of the config; '' for the quickstart's.
      memory: file of fault_driver.watch_memory, or None.
    """
    self.workdir, self.reads = f'{folder}/{name}', f'{folder}/{name}.reads'
    self._meetings = f'{folder}/{name}.meetings'
    arguments = [
      f'--config={config}' if config else _CONFIG[0],
      *_CONFIG[1:],
      alternating.teacher(folder),
      f'--workdir={self.workdir}',
      f'--config.data.folder={"~" if homes else folder}/rows',
      *changes,
    ]
    if count > 1:
      arguments += [
        f'--config.processes.coordinator=127.0.0.1:{_free_port()}',
        f'--config.processes.count={count}',
      ]
    faults = {
      'alternate_layers': {},
      'watch_reader': {'file': self.reads, 'sleeps': sleeps or {}},
      'count_collectives': {'file': self._meetings},
      **({'watch_memory': {'file': memory}} if memory else {}),
    }
    self.processes = [
      forks.start(
        [*arguments, f'--config.processes.index={i}'],
        faults,
        {
          **command.with_devices(devices),
          **({'HOME': str(homes[i])} if homes else {}),
        },
        f'{self.workdir}.{i}',
      )
      for i in range(count)
    ]

  def text(self, index, stream):
    """Returns the output of a process to 'out' or 'err'."""
    with open(f'{self.workdir}.{index}.{stream}') as f:
      return f.read()

  def meetings(self, index):
    """Returns a process's synchronization points, in order."""
    with open(f'{self._meetings}.{index}') as f:
      return f.read().splitlines()

  def wait_for(self, words):
    """Waits until process 0 has printed `words`."""
    end = time.monotonic() + _WAIT_S
    while words not in self.text(0, 'out'):
      assert self.processes[0].poll() is None, self.text(0, 'err')
      assert time.monotonic() < end, self.text(0, 'out')
      time.sleep(0.1)

  def finish(self):
    """Waits for all processes; returns their exit codes."""
    return [p.wait(_WAIT_S) for p in self.processes]


@contextlib.contextmanager
def starting(folder) -> Iterator[Callable[..., Run]]:
  """Yields a function (name, count, ...) that starts a Run; ends all runs."""
  # The folder may contain modules with tasks.
  path = f'{os.getcwd()}{os.pathsep}{folder}'
  forks = warm.Warm({**command.environment(), 'PYTHONPATH': path})
  yield functools.partial(Run, forks, folder)
  forks.close()


def assert_as_alone(run, alone):
  """Asserts that metrics equal those of a single process up to rounding."""
  found = command.metrics(run.workdir)
  assert [(x['step'], x['phase']) for x in found] == [
    (x['step'], x['phase']) for x in alone
  ]
  for got, expected in zip(found, alone, strict=True):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
      if isinstance(value, str):
        assert got[name] == value, name
      else:
        np.testing.assert_allclose(got[name], value, 2e-4, 1e-6, err_msg=name)
