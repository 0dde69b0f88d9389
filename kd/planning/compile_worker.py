"""Compiles a run's programs for a TPU slice, without a TPU.

A separate process, started by kd.planning.compile_client: `python -m
kd.planning.compile_worker FOLDER` with libtpu on its path. Reads one line of
JSON: config, generation, topology, lengths, programs (names; null: all). Prints
one line of JSON for each length and program, as soon as it is compiled. The
answers are stored in FOLDER by a digest of everything they depend on: the
program, the slice, versions and flags; see compile_client.Compiled. When its
input ends, so does the process: its parent is gone.
"""

from collections.abc import Mapping
import datetime
import glob
import gzip
import hashlib
from importlib import metadata
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from typing import Any

import jax
from jax.experimental import topologies
import ml_collections

from kd.core import errors
from kd.core import identity
from kd.partitioning import rules
from kd.planning import compile_client
from kd.planning import planned_run
from kd.planning import programs
from kd.planning.cost import chips

# Locations of the form loc("jit(f)/while/body/dot_general"(#loc7)).
_SCOPE = re.compile(r'loc\("([^"]*)"\(')


def _run(request, folder, say):
  options = chips.CHIPS[request['generation']].compiler_options
  topology = topologies.get_topology_desc(
    platform='tpu', topology_name=request['topology'], **options
  )
  config = ml_collections.ConfigDict(request['config'])
  for length in request['lengths']:
    run = planned_run.on_devices(
      planned_run.changed(config, {'data.length': length}), topology.devices
    )
    for program in programs.of(run):
      wanted = request['programs']
      if wanted is None or program.name in wanted:
        say(
          length=length,
          program=program.name,
          **_compile(program, request['topology'], folder),
        )


def _compile(program, topology, folder) -> dict[str, Any]:
  """Compiles a program unless an intact answer about it is stored."""
  begin = time.monotonic()
  with rules.active(program.mesh):
    lowered = program.function.lower(*program.arguments)
    key = _key(lowered, topology)
    home = os.path.join(folder, key)
    exists = os.path.isdir(home)
    is_known = exists and compile_client.is_intact(home)
    if not is_known:
      _fill(home, lowered)
  return {
    'key': key,
    'seconds': 0.0 if is_known else time.monotonic() - begin,
    'damaged': exists and not is_known,
  }


def _key(lowered, topology):
  """Returns a digest of everything that the compiler's answer depends on."""
  whole = [
    compile_client.FORMAT,
    topology,
    _versions(),
    _flags(),
    lowered.as_text(),
    # Not in the text above. The plan sorts buffers by the names of operations.
    sorted(set(_SCOPE.findall(lowered.as_text(debug_info=True)))),
  ]
  return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:24]


def _versions():
  return {name: metadata.version(name) for name in ('jax', 'jaxlib', 'libtpu')}


def _flags():
  """Returns the environment's compiler flags, but for those set here."""
  ours = ('JAX_PLATFORMS', 'JAX_ENABLE_COMPILATION_CACHE')
  return {
    name: value
    for name, value in sorted(os.environ.items())
    if name not in ours and re.match('JAX_|LIBTPU_INIT_ARGS', name)
  }


def _fill(home, lowered):
  """Compiles a program and stores the answer, complete or not at all."""
  os.makedirs(os.path.dirname(home), exist_ok=True)
  aside = tempfile.mkdtemp(dir=os.path.dirname(home), prefix='tmp-')
  try:
    facts = _facts(lowered, aside)
    facts['date'] = datetime.date.today().isoformat()
    facts['versions'] = _versions()
    facts['sha256'] = {
      name: identity.file_digest(os.path.join(aside, name))
      for name in compile_client.DUMPS
    }
    with open(
      os.path.join(aside, compile_client.FACTS), 'w', encoding='utf-8'
    ) as f:
      json.dump(facts, f)
    shutil.rmtree(home, ignore_errors=True)
    os.replace(aside, home)
  except BaseException:
    shutil.rmtree(aside)
    raise


def _facts(lowered, aside):
  dump = os.environ[compile_client.DUMP_FOLDER]
  shutil.rmtree(dump, ignore_errors=True)
  facts = {'error': '', 'host': 0, 'bytes': 0}
  try:
    m = lowered.compile().memory_analysis()
    facts['host'] = m.host_temp_size_in_bytes + m.host_argument_size_in_bytes
    if m.temp_size_in_bytes:  # The compiler leaves it out of small programs.
      facts['bytes'] = (
        m.argument_size_in_bytes
        + m.temp_size_in_bytes
        + m.output_size_in_bytes
        - m.alias_size_in_bytes
      )
  except jax.errors.JaxRuntimeError as e:
    facts['error'] = str(e)
  if not _keep_dumps(dump, aside):
    raise errors.KdError(f'the compiler wrote no dump: {facts["error"]}')
  return facts


def _keep_dumps(dump, aside):
  """Stores the compiler's dump files; returns False if one is missing.

  The dump of a program that does not fit is complete too.
  """
  for name, end in compile_client.DUMPS.items():
    found = [
      f
      for f in glob.glob(os.path.join(dump, f'module_*.after_{end}'))
      # Lowering itself runs small programs on the CPU; they are dumped too.
      if '.cpu_' not in os.path.basename(f)
    ]
    if not found:
      return False
    with open(max(found, key=os.path.getsize), encoding='utf-8') as f:
      _write(os.path.join(aside, name), f.read())
  return True


def _write(path, text):
  with gzip.open(path, 'wt', compresslevel=3, encoding='utf-8') as f:
    f.write(text)


def main(request: Mapping[str, Any], folder: str, stream) -> None:
  """Compiles the requested programs; prints a ConfigError as a line too."""

  def say(**values):
    print(json.dumps(values), file=stream, flush=True)

  try:
    _run(request, folder, say)
  except errors.ConfigError as e:
    say(config_error=[e.path, str(e).removeprefix(f'{e.path}: ')])


def end_with_input() -> None:
  """Ends this process, in a compilation too, when its standard input ends."""

  def watch():
    while os.read(0, 1):
      pass
    dumps = os.environ.get(compile_client.DUMP_FOLDER, '')
    # With the parent's log, which nobody is left to read.
    shutil.rmtree(os.path.dirname(dumps), ignore_errors=True)
    os._exit(1)

  threading.Thread(target=watch, name='parent', daemon=True).start()


if __name__ == '__main__':
  # libtpu prints to stdout and stderr; the parent parses stdout.
  _STREAM = os.fdopen(os.dup(1), 'w', encoding='utf-8')
  os.dup2(2, 1)
  _REQUEST = json.loads(sys.stdin.readline())
  end_with_input()
  main(_REQUEST, sys.argv[1], _STREAM)
