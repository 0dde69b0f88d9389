"""Lists the problems that can be searched, with their data files."""

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
  """A problem and its data.

  Attributes:
    problem: the problem.
    read: reads the instances of a file; raises ConfigError.
    file: path of its data within $KD_DATA_DIR.
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
  """Reads instances of a problem.

  Args:
    source: the problem and its data.
    path: path of the file; '' for the file in $KD_DATA_DIR.
    first: index of the first instance, from 0.
    count: number of instances; -1: all remaining ones.

  Raises:
    ConfigError: there is no such file or instance, or a line is invalid.
  """
  if not path:
    if 'KD_DATA_DIR' not in os.environ:
      raise errors.ConfigError(
        'search.data',
        'not given, and KD_DATA_DIR is not set',
        legal=f'a file, or a folder with {source.file} as KD_DATA_DIR',
      )
    path = os.path.join(os.environ['KD_DATA_DIR'], source.file)
  all_instances = source.read(paths.expand(path))
  if first >= len(all_instances):
    raise errors.ConfigError(
      'search.first',
      f'found {first}, and {path!r} has {len(all_instances)}',
      legal=f'0 to {len(all_instances) - 1}',
    )
  return (
    all_instances[first:]
    if count == -1
    else all_instances[first : first + count]
  )
