"""The folder that the stand-ins share, as they see it and as a test does."""

import contextlib
import fcntl
import json
import os
import pathlib
from typing import Any


class World:
  """The state of a cloud that is played.

  Attributes:
    root: its folder.
    plan: what is to happen. `workers`: of a slice. `lives`: for each slice that
      is created, in order, the states that it is described with, the last one
      for ever; 'ACTIVE/PREEMPTED' is a queued resource's and its slice's.
      `codes`: for each start of kd.main, in order, each worker's exit code,
      'hang' (until SIGTERM, then 42), 'deaf' (until SIGKILL) or 'real' (the
      real program). `fail`: [[text, worker, times], ...]: ssh to this worker
      fails so often where the command has this text. `create_fails`: how often
      creating fails. `missing`: programs that the machines lack.
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
    """All calls that have each of these words among their arguments."""
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

  def home(self, name: str, worker: int) -> pathlib.Path:
    """The home folder of a worker of the slice that is there now."""
    life = self.slice(name)['life']
    path = self.root / 'machines' / f'{name}-{life}' / f'w-{worker}'
    path.mkdir(parents=True, exist_ok=True)
    return path


def current() -> World:
  """The world of the process that was started in it."""
  return World(os.environ['KD_FAKE_WORLD'])
