"""Determines the data files of tasks: declared, known to seqio, or observed.

A task module declares them in DATA_FILES, as patterns relative to its folder:

  DATA_FILES = ('mine.jsonl', 'more/*.jsonl', '$MY_DATA/old.jsonl')

for all of its tasks, or by task name (which may be a pattern itself):

  DATA_FILES = {'mine': ('mine.jsonl',), 'sums_*': ()}

An empty tuple means that a task reads no files. Patterns may begin with '~',
'$VARIABLE', gs:// or s3://, contain '*', '?' and '**', and name a folder, which
stands for all files below it. Files of seqio's FileDataSource
(TextLineDataSource and others) and of TFDS need no declaration, nor do files
that Python code opens while it is watched (opened_files.py), including those
that locations.local downloaded. Those that TensorFlow or another library opens
do.
"""

from collections.abc import Iterator, Mapping, Sequence
import fnmatch
import glob
import os
import sys
import types
from typing import Any

from kd.core import errors
from kd.core import objects
from kd.data_files import locations
from kd.images import loading
from kd.input_pipeline import file_digests
from kd.input_pipeline import file_tasks
from kd.input_pipeline import shards
from kd.input_pipeline import task_code

NAME = 'DATA_FILES'
_LEGAL = (
  "a tuple of patterns such as ('mine.jsonl',), or a dict of them by task"
)
# Files of editors and version control next to data.
_JUNK = ('.#*', '#*#', '*~', '*.swp', '*.swo', '.DS_Store')
_JUNK_FOLDERS = ('.git', '.ipynb_checkpoints', '__pycache__')

# [module, pattern]: relative to the module's folder; '' for absolute patterns.
Pattern = list[str]


def describe(
  tasks: Sequence[Any],
  split: str,
  code: task_code.TaskCode,
  digests: file_digests.Digests,
  opened: Sequence[str] = (),
  images: Mapping[str, shards.Images] = types.MappingProxyType({}),
) -> dict[str, Any]:
  """Describes the files that tasks read, for a manifest.

  Args:
    tasks: seqio tasks of the module, which is imported.
    split: the split that is read.
    code: source files of the module.
    digests: computes digests of files.
    opened: paths and glob patterns that the module's code opened; used for
      tasks whose files are not known otherwise.
    images: by task, the images that its examples name, with the sizes and
      digests of the content that was read.

  Returns:
    `context` (the module's folder and variables) and, by task, `declared`
    (bool), `known` (bool), `patterns`, `files` and, if there are any, `images`:
    their patterns, `files` and `urls`, whose contents are recorded but not
    compared.

  Raises:
    ConfigError: DATA_FILES is malformed, or one of its patterns without
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
      'known': known or bool(opened) or bool(images.get(task.name)),
      'patterns': patterns,
      'files': _files(patterns, code, digests),
    }
    if images.get(task.name):
      found[task.name]['images'] = _images(images[task.name])
  return {'context': _context(code), 'tasks': found}


def unchanged(
  recorded: Mapping[str, Any],
  code: task_code.TaskCode,
  digests: file_digests.Digests,
) -> bool:
  """Returns whether the files are the same as in a result of `describe`.

  Does not import the module, which would import TensorFlow.

  Args:
    recorded: a result of `describe`, from a manifest.
    code: source files of the module, which have not changed.
    digests: computes digests of files.
  """
  for task in recorded['tasks'].values():
    # Undeclared paths may depend on the module's folder and on variables.
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
  """Returns a list of (module, pattern of task names, patterns of files)."""
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
  """Returns the patterns of the files of a task's source; None if unknown."""
  import seqio

  source, files = task.source, file_tasks.source_of(task)
  if files is not None:
    return list(locations.patterns(files.location))
  if isinstance(source, seqio.TfdsDataSource):
    # The path contains the version, and the file the sizes of all shards.
    builder = source.tfds_dataset.builder
    return [os.path.join(os.fspath(builder.data_path), 'dataset_info.json')]
  patterns = getattr(source, '_split_to_filepattern', {}).get(split)
  if patterns is None and isinstance(source, seqio.FileDataSource):
    patterns = source.list_shards(split)
  if patterns is None:
    return None
  given = [patterns] if isinstance(patterns, str) else patterns
  return [_absolute(os.fspath(pattern)) for pattern in given]


def _images(images: shards.Images) -> dict[str, Any]:
  """Returns the record of images, with files in the format of `_files`."""
  urls = [name for name in sorted(images) if loading.is_url(name)]
  paths = sorted(images.keys() - set(urls))
  patterns = [['', glob.escape(path)] for path in paths]
  files = [
    [_name(number, path, _fixed(pattern)), *images[path]]
    for number, (path, (_, pattern)) in enumerate(
      zip(paths, patterns, strict=True)
    )
  ]
  record = {'patterns': patterns, 'files': sorted(files)}
  return record | {'urls': [[x, *images[x]] for x in urls]} if urls else record


def _absolute(pattern: str) -> str:
  remote = file_digests.is_remote(pattern)
  if remote:
    return pattern
  return locations.remote_pattern(os.path.abspath(pattern))


def _check_matches(module: str, pattern: str, code) -> None:
  if '$' not in pattern and not _expand(module, pattern, code)[1]:
    raise errors.ConfigError(
      f'{module}.{NAME}',
      f'no file matches {pattern!r}',
      legal="existing files, relative to the module's folder",
    )


def _files(
  patterns: Sequence[Pattern],
  code: task_code.TaskCode,
  digests: file_digests.Digests,
) -> list[list[Any]]:
  """Returns [name, bytes, digest] of each file, sorted.

  A name is the index of its pattern, followed by its path below the pattern's
  fixed folders, so that a checkout that was moved has the same data.
  """
  found = []
  for number, (module, pattern) in enumerate(patterns):
    root, paths = _expand(module, pattern, code)
    for path in paths:
      known = digests.get(path)
      if known:
        found.append([_name(number, path, root), *known])
  return sorted(found)


def _name(number, path, root):
  remote = file_digests.is_remote(path)
  return f'{number}:{path if remote else os.path.relpath(path, root)}'


def _expand(
  module: str, pattern: str, code: task_code.TaskCode
) -> tuple[str, list[str]]:
  """Returns the fixed folder of a pattern, and the paths that it matches."""
  is_copied = pattern.startswith(locations.COPY)
  pattern = os.path.expandvars(pattern.removeprefix(locations.COPY))
  # TensorFlow reads those of seqio's sources directly from the bucket.
  is_declared = bool(module)
  if is_copied or (is_declared and objects.is_url(pattern)):
    pattern = locations.local(pattern)
  pattern = os.path.expanduser(pattern)
  if file_digests.is_remote(pattern):
    return '', _expand_remote(pattern)
  if module:
    folder = os.path.dirname(code.files[module])
    pattern = os.path.join(glob.escape(folder), pattern)
  root, paths = _fixed(pattern), []
  for path in sorted(glob.glob(pattern, recursive=True)):
    if os.path.isdir(path):
      paths += _below(path)
    elif not _is_junk(os.path.basename(path)):
      paths.append(path)
  return root, paths


def _fixed(pattern: str) -> str:
  """Returns the leading folders of a pattern, without wildcards."""
  root = pattern
  while root != os.path.dirname(root) and (
    root == pattern or glob.has_magic(root)
  ):
    root = os.path.dirname(root)
  return root


def _expand_remote(pattern: str) -> list[str]:
  import tensorflow as tf  # Supports the URL schemes.

  return sorted(tf.io.gfile.glob(pattern))


def _below(folder: str) -> Iterator[str]:
  for base, folders, names in os.walk(folder):
    folders[:] = sorted(name for name in folders if name not in _JUNK_FOLDERS)
    for name in sorted(names):
      if not _is_junk(name):
        yield os.path.join(base, name)


def _is_junk(name: str) -> bool:
  return any(fnmatch.fnmatch(name, pattern) for pattern in _JUNK)
