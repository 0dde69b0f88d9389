"""The problems that trees can be searched for, and where their data lies."""

from collections.abc import Callable
import dataclasses
import os

from kd.core import errors
from kd.core import paths
from kd.reasoning.trees import game24
from kd.reasoning.trees import gsm8k
from kd.reasoning.trees import tree_problem


@dataclasses.dataclass(frozen=True)
class Source:
  """A problem and its instances.

  Attributes:
    problem: what a search asks.
    read: makes instances of a file; raises ConfigError.
    file: where its data lies in $KD_DATA_DIR.
  """

  problem: tree_problem.TreeProblem
  read: Callable[[str], list[tree_problem.Instance]]
  file: str


SOURCES = {
  'game24': Source(game24.Game24(), game24.read, game24.FILE),
  'gsm8k': Source(gsm8k.Gsm8k(), gsm8k.read, gsm8k.FILE),
}


def instances(
  source: Source, path: str, first: int, count: int
) -> list[tree_problem.Instance]:
  """Instances of a file, or of the problem's own one.

  Args:
    source: the problem's.
    path: the file; '' for that in $KD_DATA_DIR.
    first: the number of the first one, from 0.
    count: how many; -1: all that follow.

  Raises:
    ConfigError: there is no such file or instance, or a line is wrong.
  """
  if not path:
    if 'KD_DATA_DIR' not in os.environ:
      raise errors.ConfigError(
        'search.data',
        'not given, and KD_DATA_DIR is not set',
        legal=f'a file, or a folder with {source.file} as KD_DATA_DIR',
      )
    path = os.path.join(os.environ['KD_DATA_DIR'], source.file)
  found = source.read(paths.expand(path))
  if first >= len(found):
    raise errors.ConfigError(
      'search.first',
      f'found {first}, and {path!r} holds {len(found)}',
      legal=f'0 to {len(found) - 1}',
    )
  return found[first:] if count == -1 else found[first : first + count]
