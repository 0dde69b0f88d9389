"""A process that prepares shards for another one, which it dies with.

  python -m kd.input_pipeline.shard_worker

Pickles come through stdin: a Setup, then shards. For each, a pickle goes to
stdout: (counts, None), or (None, an error that pickles).
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
  """All that a shard's files depend on besides its examples.

  Attributes:
    folder: where the files go.
    request: see prepare.prepare.
    tokenizer: the folder of the tokenizer's files.
    plugins: modules of the user's, which may register templates.
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
    """Returns what shard_files.write returns."""
    setup = self._setup
    return shard_files.write(
      setup.folder, shard, setup.request, self._tokenizer
    )


def main() -> None:
  """Prepares shards until stdin ends."""
  # Ctrl-C reaches the whole group; the process that asks decides what happens.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  answers = os.fdopen(os.dup(1), 'wb')
  os.dup2(2, 1)  # What a library prints is no answer.
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
    pass  # The other process has no more shards, or is dead.


if __name__ == '__main__':
  main()
