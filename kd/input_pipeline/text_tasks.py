r"""Registers seqio tasks of texts from plain Python functions.

The module in the config's `data.module` calls `add` for each of its tasks:

  def pairs(split):
    with open(f'{split}.tsv', encoding='utf-8') as f:
      for line in f:
        prompt, answer = line.rstrip('\n').split('\t')
        yield {'inputs': prompt, 'targets': answer}

  text_tasks.add('mine', pairs, splits=('train', 'validation'))
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from kd.core import errors
from kd.core import json_files
from kd.data_files import chats
from kd.data_files import json_rows
from kd.images import loading
from kd.input_pipeline import conversations

_REQUIRED = ('inputs', 'targets')
_OPTIONAL = ('id', 'rationale')
_LEGAL = (
  f'a mapping with {", ".join((*_REQUIRED, *_OPTIONAL))}; or with messages or '
  'text, and id'
)

# Loads images of code's examples; paths are relative to the current folder.
FROM_CURRENT_FOLDER = loading.Loader('')

# Maps a split's name to its examples.
Examples = Callable[[str], Iterable[Mapping[str, Any]]]
# Maps a split's name, a callback for the errors of invalid examples, and a
# loader of images to the texts of each valid example by key.
Reader = Callable[
  [str, json_rows.Bad, loading.Loader], Iterator[dict[str, str]]
]
# Postprocesses an expected or generated text, with the keyword arguments
# `example` and `is_target`, as in seqio.
Postprocessor = Callable[..., Any]
# Maps postprocessed targets and predictions to numbers or metric.Metric by
# name.
Metrics = Callable[[list[Any], list[Any]], Mapping[str, Any]]


def add(
  name: str,
  examples: Examples,
  splits: Sequence[str],
  postprocess: Postprocessor | None = None,
  metrics: Sequence[Metrics] = (),
  sizes: Mapping[str, int] | None = None,
) -> None:
  """Registers a task.

  Args:
    name: name of the task, for data.mixture or a mixture's rates.
    examples: yields the examples of a split: `inputs` (the prompt), `targets`
      (the answer) and, optionally, `rationale` (the steps at the beginning of
      the targets, '' for none) and `id`; or `messages`, a list for chats.check,
      or `text`, a document, and `id`. All examples have the same keys.
    splits: names of the splits.
    postprocess: function of targets and generated answers whose results are
      compared; None compares the texts.
    metrics: functions that score answers; if empty, answers are not scored.
    sizes: number of examples of each split, if known.
  """
  # Imported here, since seqio imports TensorFlow: 5 s and 880 MB.
  import seqio
  import tensorflow as tf

  def read(split, bad=json_rows.refuse, loader=FROM_CURRENT_FOLDER):
    return _checked(name, split, examples(split), bad, loader)

  def dataset(split, shuffle_files):
    del shuffle_files  # Rows are shuffled when they are prepared.
    rows = list(read(split))
    keys = rows[0] if rows else _REQUIRED
    return tf.data.Dataset.from_tensor_slices(
      {key: tf.constant([row[key] for row in rows], tf.string) for key in keys}
    )

  source = seqio.FunctionDataSource(
    dataset, splits=splits, num_input_examples=sizes, caching_permitted=False
  )
  source.read_texts = read  # For reader_of.
  register(name, source, postprocess, metrics)


def register(
  name: str,
  source: Any,
  postprocess: Postprocessor | None,
  metrics: Sequence[Metrics],
) -> Any:
  """Registers and returns the seqio task of a source of texts.

  Args:
    name: name of the task.
    source: a seqio.DataSource with the texts `inputs` and `targets`.
    postprocess: see `add`.
    metrics: see `add`.
  """
  import seqio
  import tensorflow as tf

  feature = seqio.Feature(
    seqio.PassThroughVocabulary(size=0), add_eos=False, rank=0, dtype=tf.string
  )
  return seqio.TaskRegistry.add(
    name,
    source=source,
    preprocessors=[],
    output_features=dict.fromkeys(_REQUIRED, feature),
    postprocess_fn=postprocess,
    metric_fns=list(metrics),
    shuffle_buffer_size=None,
  )


def reader_of(task: Any) -> Reader | None:
  """Returns a function that reads a task's texts one example at a time.

  Reading a data set instead is slower and holds all examples in memory.

  Args:
    task: a seqio task.

  Returns:
    The function; None for a task that `add` did not register.
  """
  return getattr(task.source, 'read_texts', None)


def _texts(example, where, loader):
  """Returns the texts of an example, with the inputs and targets for seqio."""
  if not isinstance(example, Mapping):
    raise errors.ConfigError(
      where, f'found {json_files.short(example)}', legal=_LEGAL
    )
  if 'messages' in example:
    whole = {'messages': chats.check(example['messages'], where, loader)}
    chats.check_trained(whole['messages'], where)
    texts = {
      'messages': chats.dump(whole['messages']),
      'inputs': conversations.prompt_text(whole),
      'targets': conversations.reference(whole),
    }
  elif 'text' in example:
    text = chats.text(example['text'], f'{where}: text')
    texts = {'text': text, 'inputs': '', 'targets': text}
  else:
    return json_files.texts(example, where, _LEGAL, _REQUIRED, _OPTIONAL)
  return texts | json_files.texts(example, where, _LEGAL, (), ('id',))


def _checked(name, split, examples, bad, loader):
  """Yields the texts of examples by key.

  Calls `bad` with the errors of invalid examples and of those with other keys
  than the first example, which are left out.
  """
  keys = None
  for number, example in enumerate(examples):
    where = f'data.mixture: task {name!r}, split {split!r}, example {number}'
    try:
      texts = _texts(example, where, loader)
      keys = texts.keys() if keys is None else keys
      _check_keys(texts, keys, where)
    except errors.ConfigError as e:
      bad(e)
      continue
    yield texts


def _check_keys(texts, keys, where):
  if texts.keys() != keys:
    raise errors.ConfigError(
      where,
      f'has {", ".join(texts)}, but the first example has {", ".join(keys)}',
      legal='the same keys in all examples',
    )
