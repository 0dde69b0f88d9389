"""Compiles a run's programs for a TPU slice, without a TPU.

kd.planning.compile_client starts it in a separate process: `python -m
kd.planning.compile_worker FOLDER` with libtpu on its path. It reads one line of
JSON with config, generation, topology, lengths and programs (names, or null for
all), and prints one line of JSON for each length and program as soon as it is
compiled. Results are stored in FOLDER, local or in a bucket, under a digest of
all inputs: the program, the slice, versions and flags; see
compile_client.Compiled. The process exits when standard input closes, as its
parent has exited.
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
import threading
import time
from typing import Any

import jax
from jax.experimental import topologies
import ml_collections

from kd.core import buckets
from kd.core import errors
from kd.core import folders
from kd.core import identity
from kd.core import paths
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
    for program in programs.all_programs(run):
      wanted = request['programs']
      if wanted is None or program.name in wanted:
        say(
          length=length,
          program=program.name,
          **_compile(program, request['topology'], folder),
        )


def _compile(program, topology, folder) -> dict[str, Any]:
  """Compiles a program unless an intact result is stored."""
  begin = time.monotonic()
  with rules.active(program.mesh):
    lowered = program.function.lower(*program.arguments)
    key = _key(lowered, topology)
    destination = os.path.join(folder, key)
    buckets.fetch(destination, check=False)
    exists = os.path.isdir(destination)
    is_known = exists and compile_client.is_intact(destination)
    if not is_known:
      _store(destination, lowered)
  return {
    'key': key,
    'seconds': 0.0 if is_known else time.monotonic() - begin,
    'damaged': exists and not is_known,
  }


def _key(lowered, topology):
  """Returns a digest of everything that the compiler's result depends on."""
  inputs = [
    compile_client.FORMAT,
    topology,
    _versions(),
    _flags(),
    lowered.as_text(),
    # Operation names, which classify buffers and are not in the text above.
    sorted(set(_SCOPE.findall(lowered.as_text(debug_info=True)))),
  ]
  return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:24]


def _versions():
  return {name: metadata.version(name) for name in ('jax', 'jaxlib', 'libtpu')}


def _flags():
  """Returns the environment's compiler flags that kd does not set."""
  ours = ('JAX_PLATFORMS', 'JAX_ENABLE_COMPILATION_CACHE')
  return {
    name: value
    for name, value in sorted(os.environ.items())
    if name not in ours and re.match('JAX_|LIBTPU_INIT_ARGS', name)
  }


def _store(destination, lowered):
  """Compiles a program and stores the result atomically."""
  os.makedirs(os.path.dirname(destination), exist_ok=True)
  temporary = folders.new_name(os.path.dirname(destination), 'tmp-')
  os.mkdir(temporary)
  try:
    facts = _facts(lowered, temporary)
    facts['date'] = datetime.date.today().isoformat()
    facts['versions'] = _versions()
    facts['sha256'] = {
      name: identity.file_digest(os.path.join(temporary, name))
      for name in compile_client.DUMPS
    }
    with open(
      os.path.join(temporary, compile_client.FACTS), 'w', encoding='utf-8'
    ) as f:
      json.dump(facts, f)
    shutil.rmtree(destination, ignore_errors=True)
    os.replace(temporary, destination)
  except BaseException:
    shutil.rmtree(temporary)
    raise
  buckets.upload_folder(destination)


def _facts(lowered, temporary):
  dump = os.environ[compile_client.DUMP_FOLDER]
  shutil.rmtree(dump, ignore_errors=True)
  facts = {'error': '', 'host': 0, 'bytes': 0}
  try:
    m = lowered.compile().memory_analysis()
    facts['host'] = m.host_temp_size_in_bytes + m.host_argument_size_in_bytes
    if m.temp_size_in_bytes:  # Not reported for small programs.
      facts['bytes'] = (
        m.argument_size_in_bytes
        + m.temp_size_in_bytes
        + m.output_size_in_bytes
        - m.alias_size_in_bytes
      )
  except jax.errors.JaxRuntimeError as e:
    facts['error'] = str(e)
  if not _keep_dumps(dump, temporary):
    raise errors.KdError(f'the compiler wrote no dump: {facts["error"]}')
  return facts


def _keep_dumps(dump, temporary):
  """Stores the compiler's dump files; returns False if one is missing.

  The compiler also writes complete dumps of a program that does not fit.
  """
  for name, end in compile_client.DUMPS.items():
    dumps = [
      f
      for f in glob.glob(os.path.join(dump, f'module_*.after_{end}'))
      # Lowering compiles small programs for the CPU, which are dumped, too.
      if '.cpu_' not in os.path.basename(f)
    ]
    if not dumps:
      return False
    with open(max(dumps, key=os.path.getsize), encoding='utf-8') as f:
      _write(os.path.join(temporary, name), f.read())
  return True


def _write(path, text):
  with gzip.open(path, 'wt', compresslevel=3, encoding='utf-8') as f:
    f.write(text)


def main(request: Mapping[str, Any], folder: str, stream) -> None:
  """Compiles the requested programs; prints a ConfigError as a line."""

  def say(**values):
    print(json.dumps(values), file=stream, flush=True)

  try:
    _run(request, folder, say)
  except errors.ConfigError as e:
    say(config_error=[e.path, str(e).removeprefix(f'{e.path}: ')])


def end_with_input() -> None:
  """Exits the process, even during compilation, when its input closes."""

  def watch():
    while os.read(0, 1):
      pass
    dumps = os.environ.get(compile_client.DUMP_FOLDER, '')
    # The folder also has the parent's log, which is no longer needed.
    shutil.rmtree(os.path.dirname(dumps), ignore_errors=True)
    os._exit(1)

  threading.Thread(target=watch, name='parent', daemon=True).start()


if __name__ == '__main__':
  # libtpu prints to stdout and stderr; the parent parses stdout.
  _STREAM = os.fdopen(os.dup(1), 'w', encoding='utf-8')
  os.dup2(2, 1)
  _REQUEST = json.loads(sys.stdin.readline())
  end_with_input()
  main(_REQUEST, paths.expand_sparse(sys.argv[1]), _STREAM)
