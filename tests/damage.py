"""Damages files at random; their readers must notice and name the file."""

from collections.abc import Callable
import json
import os
import pathlib
import random
import shutil
import threading
import time
from typing import Any

from kd.core import errors

_LONGEST_READ_S = 60
_LONGEST_MESSAGE = 3000  # Characters.
_VALUES = (
  *(None, True, -1, 0, 2**70, 1e308, '', 'linear', [], {}, [[]]),
  *({'rope_type': []}, ['x'], {'a': {}}, 'x' * 10_000),
)


def seed() -> int:
  """Returns the seed of all random damage and prints it.

  Set the variable KD_FUZZ_SEED to repeat a test's damage.
  """
  chosen = int(os.environ.get('KD_FUZZ_SEED', time.time_ns() % 10**9))
  print(f'KD_FUZZ_SEED={chosen}')  # Shown by pytest if the test fails.
  return chosen


def _change_bytes(rng: random.Random, raw: bytes) -> bytes:
  """Flips, cuts, replaces or repeats some bytes, mostly in the header."""
  changed = bytearray(raw)
  for _ in range(rng.randrange(1, 4)):
    at = int(len(changed) * rng.random() ** 4)
    kind = rng.randrange(4)
    if kind == 0 and at < len(changed):
      changed[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
      del changed[at:]
    elif kind == 2:
      changed[at : at + 8] = rng.randbytes(8)
    else:
      changed[at:at] = changed[at : at + rng.randrange(64)]
  return bytes(changed)


def _change_json(rng: random.Random, raw: bytes) -> bytes:
  """Replaces one value at any depth, with the same or another type."""
  value = node = json.loads(raw)
  while rng.random() < 0.95 and isinstance(node, dict | list) and node:
    key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
    if not isinstance(node[key], dict | list) or rng.random() < 0.2:
      node[key] = _other_value(rng, node[key])
      return json.dumps(value).encode()
    node = node[key]
  return json.dumps(rng.choice(_VALUES)).encode()


def _other_value(rng, value):
  if isinstance(value, int | float | str) and rng.random() < 0.4:
    return value + type(value)(1)
  return rng.choice(_VALUES)


def _change_content(rng, raw):
  """Changes a file's JSON, one of its lines of JSON, or its bytes."""
  if rng.random() < 0.3:
    return _change_bytes(rng, raw)
  lines = raw.splitlines(keepends=True)
  number = rng.randrange(len(lines)) if lines else 0
  for before, part, after in (
    (b'', raw, b''),
    (b''.join(lines[:number]), lines[number], b''.join(lines[number + 1 :])),
  ):
    try:
      return before + _change_json(rng, part) + b'\n' + after
    except ValueError:  # Not JSON.
      continue
  return _change_bytes(rng, raw)


def _damage(rng, folder, name, other):
  """Damages a file of a folder; returns a description of the damage."""
  file, kind = folder / name, rng.random()
  if kind < 0.6:
    file.write_bytes(_change_content(rng, file.read_bytes()))
    return 'other content'
  if kind < 0.7:
    file.write_bytes(b'')
    return 'empty'
  if kind < 0.8:
    file.unlink()
    if kind < 0.75:
      return 'missing'
    file.mkdir()
    return 'a folder'
  if kind < 0.9 and other is not None and (other / name).exists():
    shutil.copy(other / name, file)
    return f'the file of {other.name}'
  neighbors = [x for x in _files(folder) if x != name]
  if not neighbors:
    file.write_bytes(b'')
    return 'empty'
  neighbor, content = rng.choice(neighbors), file.read_bytes()
  shutil.copy(folder / neighbor, file)
  (folder / neighbor).write_bytes(content)
  return f'swapped with {neighbor}'


def _files(folder):
  return sorted(
    str(path.relative_to(folder))
    for path in folder.rglob('*')
    if path.is_file()
  )


def _in_time(call: Callable[[], Any]) -> Any:
  """Returns the result or exception of a call; fails if it hangs."""
  outcome: list[Any] = []

  def run():
    try:
      outcome.append(call())
    except BaseException as e:
      outcome.append(e)

  # A daemon thread does not keep the test's process alive.
  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  thread.join(_LONGEST_READ_S)
  assert not thread.is_alive(), f'hangs: not read in {_LONGEST_READ_S} s'
  return outcome[0]


def fuzz(
  name: str,
  chosen: int,
  folder: pathlib.Path,
  read: Callable[[], Any],
  seconds: float,
  other: pathlib.Path | None = None,
  prepare: Callable[[random.Random], None] = lambda rng: None,
) -> None:
  """Repeatedly damages a file of a folder and reads the folder.

  Each `read` must return or raise a KdError that names the folder. Fails unless
  some damage is noticed and some is not.

  Args:
    name: name of the test, which with the seed determines the damage.
    chosen: the seed.
    folder: folder of the files, restored before each damage.
    read: function that reads the folder. It raises AssertionError if the
      contents are neither unchanged nor refused, and returns True if it noticed
      damage without refusing it.
    seconds: duration of the test.
    other: folder with files of the same names to use as replacements.
    prepare: function that changes the restored folder before the damage.
  """
  rng = random.Random(f'{chosen} {name}')
  whole = folder.with_name(f'{folder.name}-whole')
  shutil.copytree(folder, whole)
  assert not _in_time(read)
  tried, noticed = 0, 0
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    shutil.rmtree(folder)
    shutil.copytree(whole, folder)
    prepare(rng)
    file = rng.choice(_files(folder))
    where = f'KD_FUZZ_SEED={chosen}, try {tried}: {file}: '
    where += _damage(rng, folder, file, other)
    tried += 1
    error = _in_time(read)
    noticed += bool(error)
    if not isinstance(error, BaseException):
      continue  # `read` returned.
    if not isinstance(error, errors.KdError):
      raise AssertionError(f'{where}: {error!r}') from error
    assert error.exit_code in (1, 2), f'{where}: {error}'
    assert str(folder) in str(error), f'{where}: {error}'
    assert len(str(error)) < _LONGEST_MESSAGE, f'{where}: {len(str(error))}'
  print(f'{name}: damaged {tried} times, noticed {noticed} times')
  assert 0 < noticed < tried
