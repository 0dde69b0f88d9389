"""A worker process that prepares shards for its parent.

  python -m kd.input_pipeline.shard_worker

Reads pickles from stdin: a Setup, then shards. For each shard, it writes a
pickle to stdout: (counts, None) or (None, error). It exits with its parent.
"""

import dataclasses
import os
import pickle
import signal
import sys
from typing import Any

from kd.core import errors
from kd.core import plugins
from kd.input_pipeline import shard_files
from kd.input_pipeline import shards
from kd.input_pipeline import tokenizers


@dataclasses.dataclass(frozen=True)
class Setup:
  """Settings that a shard's files depend on, in addition to its examples.

  Attributes:
    folder: folder for the files.
    request: see prepare.prepare.
    tokenizer: folder of the tokenizer's files.
    plugins: the user's modules, which may register templates.
  """

  folder: str
  request: dict[str, Any]
  tokenizer: str
  plugins: tuple[str, ...]


class Writer:
  """Writes shards with a tokenizer that is loaded once."""

  def __init__(self, setup: Setup):
    """Loads plugins and the tokenizer."""
    plugins.load(setup.plugins)
    self._setup = setup
    self._tokenizer = tokenizers.load(f'workdir:{setup.tokenizer}')

  def __call__(self, shard: shards.Shard) -> dict[str, Any]:
    """Writes a shard and returns its counts; see shard_files.write."""
    setup = self._setup
    return shard_files.write(
      setup.folder, shard, setup.request, self._tokenizer
    )


def main() -> None:
  """Prepares shards until stdin ends."""
  # Ctrl-C reaches the whole process group; the parent handles it.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  answers = os.fdopen(os.dup(1), 'wb')
  os.dup2(2, 1)  # Keeps output of libraries out of the answers.
  try:
    writer = Writer(pickle.load(sys.stdin.buffer))
    while True:
      shard = pickle.load(sys.stdin.buffer)
      try:
        answer = writer(shard), None
      except (errors.ConfigError, OSError) as e:
        answer = None, e
      pickle.dump(answer, answers)
      answers.flush()
  except (EOFError, BrokenPipeError):
    pass  # The parent has no more shards, or is dead.


if __name__ == '__main__':
  main()
