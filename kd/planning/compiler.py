"""The TPU compiler as a child process, and what it said."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from typing import Any

import ml_collections

import kd
from kd.core import errors
from kd.core import paths
from kd.planning import chips
from kd.planning import libtpu

# Changes with what is kept: older answers are then made anew.
FORMAT = 1
FACTS = 'facts.json'
PROGRAM = 'program.hlo.gz'
LIVE = 'live-range.txt.gz'
BUFFERS = 'buffer-assignment.txt.gz'
# What is kept of what XLA writes, and how its files' names end.
DUMPS = {
  PROGRAM: 'optimizations.txt',
  LIVE: 'optimizations-live-range.txt',
  BUFFERS: 'optimizations-buffer-assignment.txt',
}
DUMP_FOLDER = 'KD_PLAN_DUMP'
_LAST_LINES = 15


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What the compiler said of a program.

  Attributes:
    length: L of its rows.
    program: its name; see programs.Program.
    seconds: that it took; 0 if it was known.
    folder: where that is kept.
  """

  length: int
  program: str
  seconds: float
  folder: str

  @functools.cached_property
  def facts(self) -> Mapping[str, Any]:
    """What it said in numbers.

    'error', '' if the program fits; 'host', its bytes there; 'bytes', those in
    HBM by the compiler's own sum, 0 if there is none.
    """
    with open(os.path.join(self.folder, FACTS), encoding='utf-8') as f:
      return json.load(f)

  def text(self, name: str) -> str:
    """PROGRAM, LIVE or BUFFERS."""
    with gzip.open(
      os.path.join(self.folder, name), 'rt', encoding='utf-8'
    ) as f:
      return f.read()


def run(
  config: ml_collections.ConfigDict,
  chosen: chips.Slice,
  lengths: Sequence[int],
  programs: Sequence[str] | None,
  say: Callable[[str], None],
) -> Iterator[Compiled]:
  """Compiles a run's programs, one after the other.

  Args:
    config: the run's; its plan.folder keeps the answers.
    chosen: the slice.
    lengths: L, each of them.
    programs: names of the programs; None for all.
    say: told what is going on.

  Yields:
    Each program as soon as it is compiled.

  Raises:
    ConfigError: libtpu is missing, or the config is wrong for the slice.
    KdError: the compiler itself failed.
  """
  folder = os.path.abspath(paths.expand(config.plan.folder))
  os.makedirs(folder, exist_ok=True)
  request = {
    'config': config.to_dict(),
    'generation': chosen.generation,
    'topology': chosen.name,
    'lengths': list(lengths),
    'programs': programs and list(programs),
  }
  scratch = tempfile.mkdtemp(prefix='kd-plan-')
  try:
    process = _start(folder, scratch, request)
    try:
      yield from _read(process, folder, scratch, say)
    finally:
      process.kill()
      process.wait()
  finally:
    shutil.rmtree(scratch, ignore_errors=True)


def _start(folder, scratch, request):
  root = os.path.dirname(os.path.dirname(os.path.abspath(kd.__file__)))
  dump = os.path.join(scratch, 'dump')
  env = libtpu.environment(root, libtpu.packages())
  env[DUMP_FOLDER] = dump
  env['XLA_FLAGS'] = f'--xla_dump_to={dump} --xla_dump_hlo_as_text=true'
  with open(os.path.join(scratch, 'log'), 'w', encoding='utf-8') as log:
    process = subprocess.Popen(
      [sys.executable, '-m', 'kd.planning.compiling', folder],
      env=env,
      text=True,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=log,
    )
  json.dump(request, process.stdin)
  process.stdin.close()
  return process


def _read(process, folder, scratch, say):
  for line in process.stdout:
    answer = json.loads(line)
    if 'config_error' in answer:
      raise errors.ConfigError(*answer['config_error'])
    compiled = Compiled(
      answer['length'],
      answer['program'],
      answer['seconds'],
      os.path.join(folder, answer['key']),
    )
    took = f'{compiled.seconds:.0f} s' if compiled.seconds else 'known'
    say(f'compiled {compiled.program}, {compiled.length:,} tokens: {took}')
    yield compiled
  code = process.wait()
  if code:
    with open(os.path.join(scratch, 'log'), encoding='utf-8') as f:
      last = ''.join(f.readlines()[-_LAST_LINES:])
    raise errors.KdError(f'the compiler ended with {code}:\n{last}')
