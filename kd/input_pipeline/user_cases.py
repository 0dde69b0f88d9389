"""Task modules like those of users, for tests."""

import json
import time

import pytest

from kd.core import errors
from kd.input_pipeline import mixtures
from kd.input_pipeline import prepare
from kd.input_pipeline import retry
from kd.input_pipeline import tokenizers

# A test adds the imports and the body.
_MODULE = """
import json
import os

import seqio
import tensorflow as tf

{imports}
HERE = os.path.dirname(os.path.abspath(__file__))
FEATURE = seqio.Feature(
  seqio.PassThroughVocabulary(size=0), add_eos=False, rank=0, dtype=tf.string
)


def add(name, source, *preprocessors):
  seqio.TaskRegistry.add(
    name, source=source, preprocessors=preprocessors,
    output_features={{'inputs': FEATURE, 'targets': FEATURE}}, metric_fns=[],
  )


def table(**columns):
  return seqio.FunctionDataSource(
    lambda split, shuffle_files: tf.data.Dataset.from_tensor_slices(columns),
    splits=['train'],
  )


{body}
"""


class User:
  """A folder with a user's module, and the rows prepared from it.

  Attributes:
    folder: folder of the module, importable.
    lines: lines that the last preparation printed.
    retries: seconds waited before each retry.
  """

  def __init__(self, folder, monkeypatch):
    """Creates the folder.

    Args:
      folder: an empty folder.
      monkeypatch: pytest's; makes the module importable and replaces sleep.
    """
    self.folder, self.rows = folder / 'own', folder / 'rows'
    self.folder.mkdir()
    self.lines, self.retries = [], []
    monkeypatch.syspath_prepend(self.folder)
    monkeypatch.setattr(time, 'sleep', self.retries.append)

  def module(self, name, body, imports=''):
    """Writes a module with a task of the same name."""
    body = f'NAME = {name!r}\n{body}'
    text = _MODULE.format(imports=imports, body=body)
    (self.folder / f'{name}_tasks.py').write_text(text)

  def data(self, count, name='mine.jsonl'):
    """Writes a file of `count` examples."""
    rows = [{'inputs': f'{i}+1? ', 'targets': f'{count}'} for i in range(count)]
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    (self.folder / name).write_text(text)

  def prepare(self, name, files=(), urls=False, **changes):
    """Prepares the rows of files and a task; returns those of the task."""
    self.lines.clear()
    task = mixtures.Component(name, None)
    *_, part = prepare.prepare(
      mixtures.Mixture((*files, task), f'{name}_tasks', urls),
      'train',
      tokenizer=tokenizers.load('bytes'),
      template='plain',
      length=128,
      pack=True,
      seed=0,
      cache_dir=str(self.rows),
      limit=-1,
      retry_policy=retry.RetryPolicy(attempts=3, wait_s=0.5, timeout_s=60.0),
      say=self.lines.append,
      **changes,
    )
    return part

  def refused(self, name):
    """Returns the error of a task, raised without retries, with exit code 2."""
    with pytest.raises(errors.ConfigError) as e:
      self.prepare(name)
    assert e.value.exit_code == 2 and not self.retries
    return str(e.value)
