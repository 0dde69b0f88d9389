"""The folder that the stand-ins share, as they see it and as a test does."""

import contextlib
import fcntl
import json
import os
import pathlib
from typing import Any


class World:
  """The state of a simulated cloud.

  Attributes:
    root: its folder.
    plan: what is to happen. `workers`: how many a slice has. `endpoints`: how
      many the cloud says it has. `lives`: for each slice that is created, in
      order, the states that it is described with, the last one forever;
      'ACTIVE/PREEMPTED' is a queued resource's state and its slice's,
      'ACTIVE/READY,PREEMPTED' those of two slices.
      `codes`: for each start of kd.main, in order, each worker's exit code,
      'hang' (until SIGTERM, then 42), 'deaf' (until SIGKILL) or 'real' (the
      real program). `fail`: [[text, worker, times], ...]: ssh to this worker
      fails this many times where the command has this text; `mute`: the same,
      but ssh succeeds, prints nothing and runs nothing. `create_fails`: how
      often creating fails. `missing`: programs that the machines lack.
      `gcsfuse`: the version that they have. `storage`: the address of Cloud
      Storage and of the metadata server, for launch/worker/bucket.py.
  """

  def __init__(self, root: str):
    self.root = pathlib.Path(root)
    self.plan = json.loads((self.root / 'plan.json').read_text())

  @contextlib.contextmanager
  def lock(self):
    """One stand-in at a time: workers run at the same time."""
    with open(self.root / 'lock', 'w', encoding='utf-8') as f:
      fcntl.flock(f, fcntl.LOCK_EX)
      yield

  def record(self, program: str, arguments: list[str]) -> None:
    """Writes a call down."""
    line = json.dumps([program, *arguments]) + '\n'
    with self.lock(), open(self.root / 'calls.jsonl', 'a') as f:
      f.write(line)

  def calls(self, *words: str) -> list[list[str]]:
    """Returns all calls that have each of these words among their arguments."""
    path = self.root / 'calls.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return [c for c in found if all(w in c for w in words)]

  def count(self, name: str) -> int:
    """Returns 0 at the first call with a name, then 1, ..."""
    path = self.root / 'counts' / name
    path.parent.mkdir(exist_ok=True)
    with self.lock():
      value = int(path.read_text()) if path.exists() else 0
      path.write_text(str(value + 1))
    return value

  def slice(self, name: str) -> dict[str, Any] | None:
    """What is there of this name."""
    path = self.root / 'slices' / name
    return json.loads(path.read_text()) if path.exists() else None

  def put_slice(self, name: str, value: dict[str, Any] | None) -> None:
    """Changes what is there; None takes it away."""
    path = self.root / 'slices' / name
    path.parent.mkdir(exist_ok=True)
    if value is None:
      path.unlink()
    else:
      path.write_text(json.dumps(value))

  def worker_ids(self, name: str) -> list[str]:
    """The ids of all workers: '1', or '0/1' where there are several slices."""
    slices = (self.slice(name) or {}).get('slices', 1)
    workers = range(self.plan['workers'])
    if slices == 1:
      return [str(i) for i in workers]
    return [f'{s}/{i}' for s in range(slices) for i in workers]

  def home(self, name: str, worker: str | int) -> pathlib.Path:
    """Returns the home folder of a worker of the slice that is there now."""
    life = self.slice(name)['life']
    folder = f'w-{worker}'.replace('/', '-')
    path = self.root / 'machines' / f'{name}-{life}' / folder
    path.mkdir(parents=True, exist_ok=True)
    return path


def current() -> World:
  """Returns the world of the process that was started in it."""
  return World(os.environ['KD_FAKE_WORLD'])
