"""The folder shared by the fake programs and the test."""

import contextlib
import fcntl
import json
import os
import pathlib
from typing import Any


class World:
  """The state of a simulated cloud.

  Attributes:
    root: folder of the world.
    plan: planned behavior. `workers`: number of workers in a slice.
      `endpoints`: number of workers that the cloud reports. `lives`: for each
      created slice, in order, its described states, of which the last repeats;
      'ACTIVE/PREEMPTED' is the state of a queued resource and of its slice,
      'ACTIVE/READY,PREEMPTED' has two slices. `codes`: for each start of
      kd.main, in order, each worker's exit code, 'hang' (until SIGTERM, then
      42), 'deaf' (until SIGKILL) or 'real' (the real program). `fail`: [[text,
      worker, times], ...]: ssh to this worker fails this many times if the
      command contains this text; `mute`: the same, but ssh succeeds without
      running the command. `create_fails`: number of failed creations.
      `missing`: programs missing on the machines. `gcsfuse`: their version of
      gcsfuse. `storage`: address of Cloud Storage and of the metadata server
      for launch/worker/bucket.py.
  """

  def __init__(self, root: str):
    self.root = pathlib.Path(root)
    self.plan = json.loads((self.root / 'plan.json').read_text())

  @contextlib.contextmanager
  def lock(self):
    """Locks the world, since workers run concurrently."""
    with open(self.root / 'lock', 'w', encoding='utf-8') as f:
      fcntl.flock(f, fcntl.LOCK_EX)
      yield

  def record(self, program: str, arguments: list[str]) -> None:
    """Records a call."""
    line = json.dumps([program, *arguments]) + '\n'
    with self.lock(), open(self.root / 'calls.jsonl', 'a') as f:
      f.write(line)

  def calls(self, *words: str) -> list[list[str]]:
    """Returns all calls whose arguments include all of these words."""
    path = self.root / 'calls.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return [c for c in found if all(w in c for w in words)]

  def count(self, name: str) -> int:
    """Returns 0 for the first call with a name, then 1, ..."""
    path = self.root / 'counts' / name
    path.parent.mkdir(exist_ok=True)
    with self.lock():
      value = int(path.read_text()) if path.exists() else 0
      path.write_text(str(value + 1))
    return value

  def slice(self, name: str) -> dict[str, Any] | None:
    """Returns the resource with this name, or None."""
    path = self.root / 'slices' / name
    return json.loads(path.read_text()) if path.exists() else None

  def put_slice(self, name: str, value: dict[str, Any] | None) -> None:
    """Creates or replaces a resource; None deletes it."""
    path = self.root / 'slices' / name
    path.parent.mkdir(exist_ok=True)
    if value is None:
      path.unlink()
    else:
      path.write_text(json.dumps(value))

  def worker_ids(self, name: str) -> list[str]:
    """Returns all worker ids: '1', or '0/1' if there are several slices."""
    slices = (self.slice(name) or {}).get('slices', 1)
    workers = range(self.plan['workers'])
    if slices == 1:
      return [str(i) for i in workers]
    return [f'{s}/{i}' for s in range(slices) for i in workers]

  def home(self, name: str, worker: str | int) -> pathlib.Path:
    """Returns the home folder of a worker of the current slice."""
    life = self.slice(name)['life']
    folder = f'w-{worker}'.replace('/', '-')
    path = self.root / 'machines' / f'{name}-{life}' / folder
    path.mkdir(parents=True, exist_ok=True)
    return path


def current() -> World:
  """Returns the world that this process was started in."""
  return World(os.environ['KD_FAKE_WORLD'])
