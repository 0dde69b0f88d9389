"""Prepares rows in several shards, for tests."""

import os
import pathlib
import signal
import subprocess
import sys

from kd.input_pipeline import mixtures
from kd.input_pipeline import prepare
from kd.input_pipeline import prepared as prepared_lib
from kd.input_pipeline import retry
from kd.input_pipeline import shard_files
from kd.input_pipeline import shards
from kd.input_pipeline import tokenizers

CHARACTERS = 500  # per shard


def prepared(folder, characters=CHARACTERS, **changes) -> prepared_lib.Prepared:
  """Prepares rows with a number of characters per shard."""
  shards.CHARACTERS = characters
  arguments = dict(
    tokenizer=tokenizers.load('bytes'),
    template='plain',
    length=100,
    pack=True,
    seed=3,
    cache_dir=str(folder),
    limit=60,
    retry_policy=retry.RetryPolicy(attempts=1, wait_s=0.0, timeout_s=60.0),
    say=lambda line: None,
  )
  mixture = mixtures.task('arithmetic_few', 'kd.data.mixtures')
  (part,) = prepare.prepare(mixture, 'train', **arguments | changes)
  return part


def start(call: str) -> subprocess.Popen:
  """Starts a process that calls a function of this module."""
  return subprocess.Popen(
    [sys.executable, '-c', f'from {__name__} import *; {call}'],
    env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)},
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )


def killed(folder: str) -> None:
  """Prepares two shards and kills the process in the third."""
  write, calls = shard_files.write, []

  def count(*arguments):
    calls.append(arguments)
    if len(calls) == 3:
      os.kill(os.getpid(), signal.SIGKILL)
    return write(*arguments)

  shard_files.write = count
  prepared(folder)


def shared(folder: str) -> None:
  """Prepares rows with another process; prints the number of its own shards.

  Prints 'began' in the first one, and waits for a line.
  """
  write, calls = shard_files.write, []

  def count(*arguments):
    calls.append(arguments)
    if len(calls) == 1:
      print('began', flush=True)
      input()
    return write(*arguments)

  shard_files.write = count
  prepared(folder)
  print(len(calls))


def files(folder) -> dict[str, bytes]:
  """Returns the contents of a folder's files except the manifest."""
  paths = sorted(pathlib.Path(folder).iterdir())
  return {p.name: p.read_bytes() for p in paths if p.name != 'manifest.json'}
