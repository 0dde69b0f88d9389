"""Runs the TPU compiler in a child process and reads its stored results."""

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
from kd.core import buckets
from kd.core import errors
from kd.core import identity
from kd.core import paths
from kd.planning import libtpu
from kd.planning.cost import chips

# Increment when the stored files change, to invalidate older results.
FORMAT = 2
FACTS = 'facts.json'
PROGRAM = 'program.hlo.gz'
LIVE = 'live-range.txt.gz'
BUFFERS = 'buffer-assignment.txt.gz'
# The stored files and the suffixes of the XLA dumps that they come from.
DUMPS = {
  PROGRAM: 'optimizations.txt',
  LIVE: 'optimizations-live-range.txt',
  BUFFERS: 'optimizations-buffer-assignment.txt',
}
DUMP_FOLDER = 'KD_PLAN_DUMP'
_LAST_LINES = 15


@dataclasses.dataclass(frozen=True)
class Compiled:
  """The compiler's result for one program.

  Attributes:
    length: L, tokens per row.
    program: name of the program; see programs.Program.
    seconds: compile time; 0 if a stored result was reused.
    folder: the folder of the stored result.
  """

  length: int
  program: str
  seconds: float
  folder: str

  @functools.cached_property
  def facts(self) -> Mapping[str, Any]:
    """Reads the numbers of the result and where they come from.

    'error': the compiler's message if the program does not fit, else ''.
    'host': bytes in host memory. 'bytes': bytes in HBM as the compiler reports
    them, or 0 if it does not. 'date': date of the compilation. 'versions':
    versions of jax, jaxlib and libtpu. 'sha256': digests of the stored files.
    """
    with open(os.path.join(self.folder, FACTS), encoding='utf-8') as f:
      return json.load(f)

  def text(self, name: str) -> str:
    """Returns the text of PROGRAM, LIVE or BUFFERS."""
    with gzip.open(
      os.path.join(self.folder, name), 'rt', encoding='utf-8'
    ) as f:
      return f.read()


def is_intact(folder: str) -> bool:
  """Returns whether all files of a stored result exist and are undamaged."""
  try:
    with open(os.path.join(folder, FACTS), encoding='utf-8') as f:
      stored = json.load(f)['sha256']
    return all(
      identity.file_digest(os.path.join(folder, name)) == stored[name]
      for name in DUMPS
    )
  except (OSError, ValueError, TypeError, KeyError):
    return False


def run(
  config: ml_collections.ConfigDict,
  chosen: chips.Slice,
  lengths: Sequence[int],
  programs: Sequence[str] | None,
  say: Callable[[str], None],
) -> Iterator[Compiled]:
  """Compiles the programs of a run sequentially.

  Args:
    config: the run's config; results are stored in its plan.folder.
    chosen: the TPU slice.
    lengths: row lengths L to compile for.
    programs: names of the programs; None for all.
    say: prints a line of progress.

  Yields:
    The result of each program as soon as it is compiled.

  Raises:
    ConfigError: libtpu is missing, or the config does not work on the slice.
    KdError: the compiler failed.
  """
  folder = os.path.abspath(paths.expand_sparse(config.plan.folder))
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
    process = _start(buckets.remote(folder), scratch, request)
    try:
      yield from _read(process, folder, scratch, say)
    finally:
      process.kill()
      process.wait()
  finally:
    shutil.rmtree(scratch, ignore_errors=True)


def _start(place, scratch, request):
  root = os.path.dirname(os.path.dirname(os.path.abspath(kd.__file__)))
  dump = os.path.join(scratch, 'dump')
  env = libtpu.environment(root, libtpu.packages())
  env[DUMP_FOLDER] = dump
  env['XLA_FLAGS'] = f'--xla_dump_to={dump} --xla_dump_hlo_as_text=true'
  with open(os.path.join(scratch, 'log'), 'w', encoding='utf-8') as log:
    process = subprocess.Popen(
      [sys.executable, '-m', 'kd.planning.compile_worker', place],
      env=env,
      text=True,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=log,
    )
  # The pipe stays open: the worker exits when it closes, however this ends.
  process.stdin.write(json.dumps(request) + '\n')
  process.stdin.flush()
  return process


def _read(process, folder, scratch, say):
  for line in process.stdout:
    message = json.loads(line)
    if 'config_error' in message:
      raise errors.ConfigError(*message['config_error'])
    compiled = Compiled(
      message['length'],
      message['program'],
      message['seconds'],
      os.path.join(folder, message['key']),
    )
    buckets.fetch(compiled.folder, check=False)
    title = f'{compiled.program}, {compiled.length:,} tokens'
    if message['damaged']:
      say(f'{compiled.folder} is damaged: compiled again')
    if compiled.seconds:
      say(f'compiled {title}: {compiled.seconds:.0f} s')
    else:
      say(f'reused {title}: compiled on {compiled.facts["date"]}')
    yield compiled
  code = process.wait()
  if code:
    with open(os.path.join(scratch, 'log'), encoding='utf-8') as f:
      last = ''.join(f.readlines()[-_LAST_LINES:])
    raise errors.KdError(f'the TPU compiler exited with {code}:\n{last}')
