"""Compiles a run's programs for a slice that need not be there.

A process of its own, started by kd.planning.compiler: `python -m
kd.planning.compiling` with libtpu on its path and FOLDER as its argument. Reads
one JSON object: config, generation, topology, lengths, programs (names; null:
all). Prints one line of JSON for each length and program, as it is compiled.
What the compiler said is kept in FOLDER, by a digest of the program and of
everything else that it depends on: see compiler.Compiled.
"""

from collections.abc import Mapping
import glob
import gzip
import hashlib
from importlib import metadata
import json
import os
import shutil
import sys
import tempfile
import time
from typing import Any

import jax
from jax.experimental import topologies
import ml_collections

from kd.core import errors
from kd.partitioning import rules
from kd.planning import chips
from kd.planning import compiler
from kd.planning import programs
from kd.planning import subject


def _run(request, folder, say):
  options = chips.CHIPS[request['generation']].compiler_options
  topology = topologies.get_topology_desc(
    platform='tpu', topology_name=request['topology'], **options
  )
  config = ml_collections.ConfigDict(request['config'])
  for length in request['lengths']:
    run = subject.on_devices(
      subject.changed(config, {'data.length': length}), topology.devices
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
  """Compiles, unless it was done before; returns the key and the seconds."""
  begin = time.monotonic()
  with rules.active(program.mesh):
    lowered = program.function.lower(*program.arguments)
    key = _key(lowered.as_text(), topology)
    home = os.path.join(folder, key)
    known = os.path.isdir(home)
    if not known:
      _fill(home, lowered)
  seconds = time.monotonic() - begin
  return {'key': key, 'seconds': 0.0 if known else seconds}


def _key(text, topology):
  versions = [metadata.version(name) for name in ('jax', 'jaxlib', 'libtpu')]
  whole = json.dumps([text, topology, versions, compiler.FORMAT])
  return hashlib.sha256(whole.encode()).hexdigest()[:24]


def _fill(home, lowered):
  """Compiles and keeps what the compiler said, whole or not at all."""
  os.makedirs(os.path.dirname(home), exist_ok=True)
  aside = tempfile.mkdtemp(dir=os.path.dirname(home), prefix='tmp-')
  try:
    _keep(aside, _facts(lowered, aside))
    os.replace(aside, home)
  except BaseException:
    shutil.rmtree(aside)
    raise


def _facts(lowered, aside):
  dump = os.environ[compiler.DUMP_FOLDER]
  shutil.rmtree(dump, ignore_errors=True)
  facts = {'error': '', 'host': 0, 'bytes': 0}
  try:
    m = lowered.compile().memory_analysis()
    facts['host'] = m.host_temp_size_in_bytes + m.host_argument_size_in_bytes
    if m.temp_size_in_bytes:  # Of some small programs it is not counted.
      facts['bytes'] = (
        m.argument_size_in_bytes
        + m.temp_size_in_bytes
        + m.output_size_in_bytes
        - m.alias_size_in_bytes
      )
  except jax.errors.JaxRuntimeError as e:
    facts['error'] = str(e)
  if not _keep_dumps(dump, aside):
    raise errors.KdError(f'the compiler came to nothing: {facts["error"]}')
  return facts


def _keep(aside, facts):
  with open(os.path.join(aside, compiler.FACTS), 'w', encoding='utf-8') as f:
    json.dump(facts, f)


def _keep_dumps(dump, aside):
  """Keeps what the compiler wrote, if it came so far: returns whether.

  A program that does not fit is written too.
  """
  for name, end in compiler.DUMPS.items():
    found = [
      f
      for f in glob.glob(os.path.join(dump, f'module_*.after_{end}'))
      # Small programs that lowering itself runs on the CPU are among them.
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
  """Compiles what is asked for; an error of the config is a line too."""

  def say(**values):
    print(json.dumps(values), file=stream, flush=True)

  try:
    _run(request, folder, say)
  except errors.ConfigError as e:
    say(config_error=[e.path, str(e).removeprefix(f'{e.path}: ')])


if __name__ == '__main__':
  # libtpu prints to both streams; the parent reads one of them.
  _STREAM = os.fdopen(os.dup(1), 'w', encoding='utf-8')
  os.dup2(2, 1)
  main(json.load(sys.stdin), sys.argv[1], _STREAM)
