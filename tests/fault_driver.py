"""Runs kd.main many times, each in a fork with injected faults.

  python -m tests.fault_driver < CHAINS > CODES

CHAINS is a JSON list of chains, which run two at a time. A chain is a list of
consecutive runs. A run has `arguments` of kd.main, `log` (path of its output)
and `faults`: names of functions below, with their arguments. CODES is JSON with
the exit code, or minus the signal, of each run of each chain. Slow imports
happen once, and each program is compiled once.
"""

import functools
import gc
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc

_AT_A_TIME = 2
IMPORTED = ('kd.main', 'kd.metrics.writers', 'matplotlib.pyplot', 'seqio')


def alternate_layers():
  """Makes the student's layers alternate, so that less is compiled."""
  importlib.import_module('tests.alternating').make_variants_alternate()


def count_events(folder, file):
  """Writes the file events below a folder to a file at the end of the run."""
  seen = _on_events(folder, lambda number: None)

  def write():
    with open(file, 'w', encoding='utf-8') as f:
      json.dump(seen, f)

  # atexit does not run in a fork that ends with os._exit.
  return write


def signal_at_event(folder, number, name):
  """Sends a signal just before a file event: open, rename, mkdir, remove."""
  _on_events(folder, lambda found: found == number and _send(name))


def signal_at_compile(number, name):
  """Sends a signal after a number of programs have been compiled."""
  import jax

  seen = []

  def listen(event, *unused, **unused_too):
    del unused, unused_too
    if event == '/jax/core/compile/backend_compile_duration':
      seen.append(event)
      if len(seen) == number:
        _send(name)

  jax.monitoring.register_event_duration_secs_listener(listen)


def signal_at_call(where, number, name):
  """Sends a signal at the start of the `number`-th call of a function."""
  seen = []

  def before():
    seen.append(where)
    if len(seen) == number:
      _send(name)

  _wrap(where, before)


def fail_at_call(where, first, last, seconds):
  """Makes calls `first` to `last` of a function wait and raise OSError."""
  seen = []

  def before():
    seen.append(where)
    if first <= len(seen) <= last:
      time.sleep(seconds)
      raise OSError(5, 'Input/output error')

  _wrap(where, before)


def slow_at_call(where, number, seconds):
  """Delays the `number`-th call of a function."""
  seen = []

  def before():
    seen.append(where)
    if len(seen) == number:
      time.sleep(seconds)

  _wrap(where, before)


def nan_at_steps(steps):
  """Sets the target weights of these steps to NaN."""
  rows = importlib.import_module('kd.input_pipeline.rows')
  call = rows.Rows.__call__

  def poisoned(self, step, *share):
    batch = call(self, step, *share)
    if step in steps:
      batch = batch.replace(weights=batch.weights * float('nan'))
    return batch

  rows.Rows.__call__ = poisoned


def watch_reader(file, sleeps):
  """Records the rows that are read, and sleeps before the rows of some steps.

  Args:
    file: path of the log, to which the process index is appended; it gets a
      line per step.
    sleeps: seconds by 'process:step'.
  """
  import jax

  rows = importlib.import_module('kd.input_pipeline.rows')
  read = rows.Rows.__call__

  def read_and_tell(self, step, numbers):
    where = f'{jax.process_index()}'
    with open(f'{file}.{where}', 'a', encoding='utf-8') as f:
      f.write(json.dumps([step, *map(int, numbers)]) + '\n')
    time.sleep(sleeps.get(f'{where}:{step}', 0.0))
    return read(self, step, numbers)

  rows.Rows.__call__ = read_and_tell


def watch_memory(file):
  """Records the memory of parameters as lines of JSON.

  A line has the shape of a parameter and the peak of host bytes while it is
  read, or, before a prompt is read, `devices`: the bytes of all arrays on this
  process's devices.

  Args:
    file: path of the log, to which the process index is appended.
  """
  import jax

  weights = importlib.import_module('kd.checkpoints.weights')
  device = importlib.import_module('kd.sampling.device')
  place, prefill = weights.place, device.prefill

  def tell(facts):
    with open(f'{file}.{jax.process_index()}', 'a', encoding='utf-8') as f:
      f.write(json.dumps(facts) + '\n')

  def place_and_tell(*args):
    tracemalloc.start()
    array = place(*args)
    host = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    tell({'shape': array.shape, 'host': host})
    return array

  def prefill_after_telling(*args):
    parts = {
      (part.device.id, part.data.unsafe_buffer_pointer()): part.data.nbytes
      for array in jax.live_arrays()
      for part in array.addressable_shards
    }
    tell({'devices': sum(parts.values())})
    return prefill(*args)

  weights.place, device.prefill = place_and_tell, prefill_after_telling


def count_collectives(file):
  """Records the points where this process synchronizes with others, in order.

  These are exchanges through the shared store, and programs whose arguments are
  arrays of several processes.

  Args:
    file: path of the log, to which the process index is appended.
  """
  import jax
  from jax._src import pjit
  from jax._src.interpreters import pxla

  def tell(name):
    with open(f'{file}.{jax.process_index()}', 'a', encoding='utf-8') as f:
      f.write(f'{name}\n')

  _wrap('kd.partitioning.processes:from_first', lambda: tell('from_first'))
  # Without this, repeated calls would bypass Python.
  pjit._get_fastpath_data = lambda *args, **kwargs: None
  pxla.MeshExecutable.create_cpp_call = lambda *args: None
  call = pxla.ExecuteReplicated.__call__

  def counted(self, *args):
    arrays = [x for x in args if isinstance(x, jax.Array)]
    if any(not x.is_fully_addressable for x in arrays):
      tell(self.name)
    return call(self, *args)

  pxla.ExecuteReplicated.__call__ = counted


def damage(folder, item, how):
  """Flips or cuts off the last byte of an item of the latest checkpoint.

  The byte is in the item's largest file.
  """
  latest = max((n for n in os.listdir(folder) if n.isdigit()), key=int)
  files = [
    os.path.join(parent, name)
    for parent, _, names in os.walk(os.path.join(folder, latest, item))
    for name in names
  ]
  with open(max(files, key=os.path.getsize), 'r+b') as f:
    f.seek(-1, os.SEEK_END)
    last = f.read(1)[0]
    f.seek(-1, os.SEEK_END)
    if how == 'flip':
      f.write(bytes([last ^ 1]))
    else:
      f.truncate()


def mount(folder, options):
  """Mounts a tmpfs on a folder, or remounts it with other options."""
  os.makedirs(folder, exist_ok=True)
  command = ['mount', '-t', 'tmpfs', '-o', options, 'kd-test', folder]
  subprocess.run(command, check=True)


def jump_clock(seed):
  """Makes each reading of the wall clock off by up to an hour."""
  real, jumps = time.time, random.Random(seed)
  now = lambda: real() + jumps.uniform(-3600, 3600)
  time.time, time.time_ns = now, lambda: int(now() * 1e9)


def _on_events(folder, call):
  """Calls `call` at each file event below a folder; returns the events."""
  kinds = ('open', 'os.rename', 'os.mkdir', 'os.remove', 'os.rmdir')
  seen = []

  def hook(event, args):
    if event in kinds and str(args[0]).startswith(folder):
      seen.append(f'{event} {args[0]}')
      call(len(seen))

  sys.addaudithook(hook)
  return seen


def _send(name):
  os.kill(os.getpid(), getattr(signal, name))
  # Give the watching thread time to end the process.
  time.sleep(0.2)


def _wrap(where, before):
  """Makes the function `where`, module:Class.name, call `before` first."""
  module, _, path = where.partition(':')
  owner_name, _, name = path.rpartition('.')
  owner = importlib.import_module(module)
  owner = getattr(owner, owner_name) if owner_name else owner
  call = getattr(owner, name)

  @functools.wraps(call)
  def wrapped(*args, **kwargs):
    before()
    return call(*args, **kwargs)

  setattr(owner, name, wrapped)


def _run(run):
  """Runs the program with its faults, in a fork; does not return."""
  log = os.open(run['log'], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  os.dup2(log, 1)
  os.dup2(log, 2)
  code, last = 1, []
  try:
    for name, arguments in run['faults'].items():
      last.append(globals()[name](**arguments))
    sys.argv = ['kd', *run['arguments']]
    importlib.import_module('kd.main').run()
  except SystemExit as e:
    code = e.code or 0
  except BaseException:
    sys.excepthook(*sys.exc_info())
  for call in filter(None, last):
    call()
  sys.stdout.flush()
  os._exit(code)


def _fork(call):
  process = os.fork()
  if not process:
    call()
    os._exit(0)
  return process


def _chain(chain, file):
  """Runs the runs of a chain in order, in a fork."""
  codes = []
  for run in chain:
    status = os.waitpid(_fork(lambda run=run: _run(run)), 0)[1]
    codes.append(os.waitstatus_to_exitcode(status))
  with open(file, 'w', encoding='utf-8') as f:
    json.dump(codes, f)


def collect_rarely():
  """Collects garbage in this process and its forks as conftest.py does."""
  gc.freeze()
  gc.set_threshold(100_000)


def main():
  chains = json.load(sys.stdin)
  out = os.dup(1)
  os.dup2(2, 1)
  for name in IMPORTED:
    importlib.import_module(name)
  collect_rarely()

  with tempfile.TemporaryDirectory() as folder:
    running = 0
    for i, chain in enumerate(chains):
      if running == _AT_A_TIME:
        os.wait()
        running -= 1
      _fork(lambda c=chain, i=i: _chain(c, f'{folder}/{i}'))
      running += 1
    while running:
      os.wait()
      running -= 1
    codes = []
    for i in range(len(chains)):
      with open(f'{folder}/{i}', encoding='utf-8') as f:
        codes.append(json.load(f))
  os.write(out, json.dumps(codes).encode())


if __name__ == '__main__':
  main()
