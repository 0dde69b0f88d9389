"""Registers seqio tasks that read data files in Python."""

from typing import Any

from kd.core import errors
from kd.data_files import source as source_lib
from kd.input_pipeline import conversations
from kd.input_pipeline import text_tasks
from kd.metrics import metric


def register(name: str, source: source_lib.Source) -> Any:
  """Registers and returns a seqio task for files.

  Replaces a task for files with the same name.

  Args:
    name: name of the task.
    source: the files.

  Raises:
    ConfigError: another kind of task has that name.
  """
  import seqio
  import tensorflow as tf

  registry = seqio.TaskRegistry
  if name in registry.names():
    held = source_of(registry.get(name))
    if held is None:
      raise errors.ConfigError(
        source.field,
        f'the task name {name!r} of {source.location!r} is already taken',
        legal='a file with another name',
      )
    if held == source:
      return registry.get(name)
    registry.remove(name)

  def texts(split):
    for example in source.read(split, _raise):
      is_document = conversations.is_document(example)
      yield {
        'id': example['id'],
        'inputs': conversations.prompt_text(example),
        'targets': example['text']
        if is_document
        else conversations.reference(example),
      }

  def dataset(split, shuffle_files):
    del shuffle_files  # Rows are shuffled when they are prepared.
    return tf.data.Dataset.from_generator(
      lambda: texts(split),
      output_signature=dict.fromkeys(
        ('id', 'inputs', 'targets'), tf.TensorSpec([], tf.string)
      ),
    )

  data = seqio.FunctionDataSource(
    dataset, splits=source.splits(), caching_permitted=False
  )
  data.files = source  # For source_of.
  return text_tasks.register(name, data, _stripped, [same_answer])


def source_of(task: Any) -> source_lib.Source | None:
  """Returns the files of a seqio task; None for any other task."""
  return getattr(task.source, 'files', None)


def _raise(error: errors.ConfigError) -> None:
  raise error


def _stripped(text, example=None, is_target=False):
  del example, is_target
  return text.strip()


def same_answer(targets, predictions):
  """Returns whether each answer equals that of the file; a metric function."""
  same = [t == p for t, p in zip(targets, predictions, strict=True)]
  return {'same_answer': metric.Metric(same, title='answers as in the file')}
