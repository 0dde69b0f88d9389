"""The data files that tasks read: declared, known to seqio, or unknown.

A task module declares them in DATA_FILES, patterns relative to its folder:

  DATA_FILES = ('mine.jsonl', 'more/*.jsonl', '$MY_DATA/old.jsonl')

for all of its tasks, or by task name (which may be a pattern itself):

  DATA_FILES = {'mine': ('mine.jsonl',), 'sums_*': ()}

An empty tuple says that a task reads no file. Patterns may begin with '~' or
'$VARIABLE', hold '*', '?' and '**', and name a folder, which stands for all
files below it. Files of seqio's FileDataSource (TextLineDataSource and others)
and of TFDS need no declaration, nor do files that Python code opens while it is
watched (opened_files.py); those that TensorFlow or another library opens do.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import fnmatch
import glob
import os
import sys
from typing import Any

from kd.core import errors
from kd.data_files import locations
from kd.input_pipeline import file_digests
from kd.input_pipeline import file_tasks
from kd.input_pipeline import task_code

NAME = 'DATA_FILES'
_LEGAL = (
  "a tuple of patterns such as ('mine.jsonl',), or a dict of them by task"
)
# What editors and version control leave next to data.
_JUNK = ('.#*', '#*#', '*~', '*.swp', '*.swo', '.DS_Store')
_JUNK_FOLDERS = ('.git', '.ipynb_checkpoints', '__pycache__')

# A pattern, and the module whose folder it is relative to ('': it is absolute).
Pattern = list[str]


def describe(
  tasks: Sequence[Any],
  split: str,
  code: task_code.TaskCode,
  digests: file_digests.Digests,
  opened: Sequence[str],
) -> dict[str, Any]:
  """Returns the files that tasks read, as a manifest records them.

  Args:
    tasks: seqio tasks of the module, which is imported.
    split: the split that is read.
    code: the module's source files.
    digests: gives the files' digests.
    opened: paths and glob patterns that the module's code was seen to open;
      they count for tasks whose files are not known otherwise.

  Returns:
    `context`, where and with which variables the module runs, and by task
    `declared` (bool), `known` (bool), `patterns` and `files`; and `images`, the
    patterns and files of images that have been read, if there are any.

  Raises:
    ConfigError: DATA_FILES has another form, or a pattern of it without
      variables matches nothing.
  """
  declarations = _declarations(code)
  found = {}
  for task in tasks:
    declared = [d for d in declarations if fnmatch.fnmatch(task.name, d[1])]
    patterns = [[module, p] for module, _, given in declared for p in given]
    for module, pattern in patterns:
      _check_matches(module, pattern, code)
    of_source = _of_source(task, split)
    known = bool(declared) or of_source is not None
    undeclared = of_source if known else opened
    patterns += [['', pattern] for pattern in undeclared or ()]
    found[task.name] = {
      'declared': bool(declared),
      'known': known or bool(opened),
      'patterns': patterns,
      'files': _files(patterns, code, digests),
    }
    images = _images(task)
    if images:
      found[task.name]['images'] = {
        'patterns': images,
        'files': _files(images, code, digests),
      }
  return {'context': _context(code), 'tasks': found}


def unchanged(
  recorded: Mapping[str, Any],
  code: task_code.TaskCode,
  digests: file_digests.Digests,
) -> bool:
  """Returns whether all that `describe` recorded still holds.

  The module is not imported for this, which would bring TensorFlow along.

  Args:
    recorded: from a manifest.
    code: the module's source files, which are as they were.
    digests: gives the files' digests.
  """
  for task in recorded['tasks'].values():
    # What code computes, it may compute from its folder and from variables.
    if not task['declared'] and recorded['context'] != _context(code):
      return False
    for read in (task, task['images']) if 'images' in task else (task,):
      if _files(read['patterns'], code, digests) != read['files']:
        return False
  return True


def _context(code: task_code.TaskCode) -> dict[str, Any]:
  return {'folder': code.folder, 'variables': code.variables}


def _declarations(
  code: task_code.TaskCode,
) -> list[tuple[str, str, Sequence[str]]]:
  """Returns (module, pattern of task names, patterns of files)."""
  found = []
  for name in sorted(code.files):
    value = getattr(sys.modules.get(name), NAME, None)
    if value is None:
      continue
    by_task = value if isinstance(value, Mapping) else {'*': value}
    for tasks, patterns in by_task.items():
      if not isinstance(patterns, tuple | list) or not all(
        isinstance(text, str) for text in (tasks, *patterns)
      ):
        raise errors.ConfigError(
          f'{name}.{NAME}', f'is {value!r}', legal=_LEGAL
        )
      found.append((name, tasks, patterns))
  return found


def _of_source(task: Any, split: str) -> list[str] | None:
  """Returns the patterns that a task's source reads; None if unknown."""
  import seqio

  source, files = task.source, file_tasks.source_of(task)
  if files is not None:
    return list(locations.patterns(files.location))
  if isinstance(source, seqio.TfdsDataSource):
    # Its version is in its name; the file has the sizes of all shards.
    builder = source.tfds_dataset.builder
    return [os.path.join(os.fspath(builder.data_path), 'dataset_info.json')]
  patterns = getattr(source, '_split_to_filepattern', {}).get(split)
  if patterns is None and isinstance(source, seqio.FileDataSource):
    patterns = source.list_shards(split)
  if patterns is None:
    return None
  given = [patterns] if isinstance(patterns, str) else patterns
  return [_absolute(os.fspath(pattern)) for pattern in given]


def forget_images(tasks: Iterable[Any]) -> None:
  """Forgets the images that rows of tasks have named so far."""
  for task in tasks:
    if source := file_tasks.source_of(task):
      source.images.clear()


def _images(task: Any) -> list[Pattern]:
  """Returns the images that the rows of a task of files have named so far."""
  source = file_tasks.source_of(task)
  paths = sorted(source.images) if source else ()
  return [['', glob.escape(path)] for path in paths]


def _absolute(pattern: str) -> str:
  remote = file_digests.is_remote(pattern)
  return pattern if remote else os.path.abspath(pattern)


def _check_matches(module: str, pattern: str, code) -> None:
  if '$' not in pattern and not _expand(module, pattern, code)[1]:
    raise errors.ConfigError(
      f'{module}.{NAME}',
      f'no file matches {pattern!r}',
      legal="files, relative to the module's folder, that are there",
    )


def _files(
  patterns: Sequence[Pattern],
  code: task_code.TaskCode,
  digests: file_digests.Digests,
) -> list[list[Any]]:
  """Returns [name, bytes, digest] of each file, sorted.

  A name is the number of its pattern, followed by its path below the pattern's
  fixed folders: a checkout that was moved reads the same data.
  """
  found = []
  for number, (module, pattern) in enumerate(patterns):
    root, paths = _expand(module, pattern, code)
    for path in paths:
      known = digests.of(path)
      if known:
        remote = file_digests.is_remote(path)
        name = path if remote else os.path.relpath(path, root)
        found.append([f'{number}:{name}', *known])
  return sorted(found)


def _expand(
  module: str, pattern: str, code: task_code.TaskCode
) -> tuple[str, list[str]]:
  """Returns the folder that a pattern begins with, and the paths it matches."""
  if pattern.startswith(locations.COPY):
    pattern = locations.local(pattern.removeprefix(locations.COPY))
  pattern = os.path.expanduser(os.path.expandvars(pattern))
  if file_digests.is_remote(pattern):
    return '', _expand_remote(pattern)
  if module:
    folder = os.path.dirname(code.files[module])
    pattern = os.path.join(glob.escape(folder), pattern)
  root = pattern
  while root != os.path.dirname(root) and (
    root == pattern or glob.has_magic(root)
  ):
    root = os.path.dirname(root)
  paths = []
  for path in sorted(glob.glob(pattern, recursive=True)):
    if os.path.isdir(path):
      paths += _below(path)
    elif not _is_junk(os.path.basename(path)):
      paths.append(path)
  return root, paths


def _expand_remote(pattern: str) -> list[str]:
  import tensorflow as tf  # Its file systems know the schemes.

  return sorted(tf.io.gfile.glob(pattern))


def _below(folder: str) -> Iterator[str]:
  for base, folders, names in os.walk(folder):
    folders[:] = sorted(name for name in folders if name not in _JUNK_FOLDERS)
    for name in sorted(names):
      if not _is_junk(name):
        yield os.path.join(base, name)


def _is_junk(name: str) -> bool:
  return any(fnmatch.fnmatch(name, pattern) for pattern in _JUNK)
