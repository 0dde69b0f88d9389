"""The seqio tasks: text in, text out, whatever the tokenizer.

Each example has `inputs` (the prompt), `targets` (the answer, ending with
'#### N'), `rationale` (the worked steps that the targets begin with, without
the blank behind them; '' where there are none) and `id`. Splits are disjoint by
a hash of the question; GSM8K's `test` is its published test set.
"""

import functools
import os

import seqio
import tensorflow as tf

from data.gsm8k import gsm8k_dataset_builder
from kd.core import errors
from kd.input_pipeline import arithmetic
from kd.reasoning import answers

# Up to three numbers of one or two digits: an example is under 64 bytes.
DIGITS = 2
TERMS = 3
TRAIN_PROBLEMS = 50_000
VALIDATION_PROBLEMS = 1_000
FEW_PROBLEMS = 1_000
NOISY_PROBLEMS = 10_000
NOISE = 0.3  # Share of the noisy task's training problems with a wrong answer.
SEED = 0

# What the tasks read; prepared rows are reused while these files are the same.
DATA_FILES = {
  'arithmetic_*': ('prompts/arithmetic.txt',),
  'gsm8k_*': (
    'prompts/gsm8k_*.txt',
    'gsm8k/checksums.tsv',
    '$KD_DATA_DIR/gsm8k/train.jsonl',
    '$KD_DATA_DIR/gsm8k/test.jsonl',
  ),
}

_FOLDER = os.path.dirname(os.path.abspath(__file__))


def _text_feature():
  return seqio.Feature(
    seqio.PassThroughVocabulary(size=0), add_eos=False, rank=0, dtype=tf.string
  )


# Of every task.
FEATURES = {'inputs': _text_feature(), 'targets': _text_feature()}


def _prompt(name):
  path = os.path.join(_FOLDER, 'prompts', f'{name}.txt')
  with open(path, encoding='utf-8') as f:
    return f.read()


def dataset(rows):
  """A tf.data.Dataset of (id, inputs, targets, rationale) rows."""
  names = ('id', 'inputs', 'targets', 'rationale')
  columns = zip(*rows, strict=True) if rows else ((),) * len(names)
  return tf.data.Dataset.from_tensor_slices(
    {
      name: tf.constant(column, tf.string)
      for name, column in zip(names, columns, strict=True)
    }
  )


def read_answer(output, example=None, is_target=False):
  """Postprocessor: the answer that a text ends with."""
  del example, is_target
  return answers.extract(output)


def exact_match(targets, predictions):
  """Metric: shares and counts of `answers.compare`."""
  return answers.compare(targets, predictions)


def _add(name, dataset, splits, counts=None):
  seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(
      dataset, splits=splits, num_input_examples=counts, caching_permitted=False
    ),
    preprocessors=[],
    output_features=FEATURES,
    postprocess_fn=read_answer,
    metric_fns=[exact_match],
    # Kept from seqio's own buffer: rows are shuffled when they are prepared.
    shuffle_buffer_size=None,
  )


def _arithmetic(split, shuffle_files, *, steps, problems, noise):
  """Generates a task's problems; only training labels are ever noisy."""
  del shuffle_files
  held_out = split == 'validation'
  count = VALIDATION_PROBLEMS if held_out else problems
  prompt = _prompt('arithmetic')
  rows = []
  found = arithmetic.generate(split, count, DIGITS, TERMS, SEED)
  for i, problem in enumerate(found):
    if not held_out:
      problem = arithmetic.spoil(problem, noise, SEED)
    work = ' '.join(problem.steps) if steps else ''
    last = f'{answers.MARKER} {problem.answer}'
    rows.append(
      (
        f'arithmetic-{split}-{i}',
        prompt.format(question=problem.question),
        f'{work} {last}' if steps else last,
        work,
      )
    )
  return dataset(rows)


def _add_arithmetic(name, steps, problems=TRAIN_PROBLEMS, noise=0.0):
  _add(
    name,
    functools.partial(_arithmetic, steps=steps, problems=problems, noise=noise),
    splits=arithmetic.SPLITS,
    counts={'train': problems, 'validation': VALIDATION_PROBLEMS},
  )


def _gsm8k_builder():
  """The tfds builder, its files made; other sources have other folders."""
  folder = os.path.expanduser(
    os.path.join(
      '~/.cache/kd/tensorflow_datasets', gsm8k_dataset_builder.fingerprint()
    )
  )
  builder = gsm8k_dataset_builder.Builder(data_dir=folder)
  builder.download_and_prepare()
  return builder


def gsm8k_targets(answer: str, steps: bool) -> tuple[str, str]:
  """A GSM8K answer without its calculator marks.

  Args:
    answer: as GSM8K has it.
    steps: False leaves its last line alone.

  Returns:
    The targets, and the rationale that they begin with.
  """
  work, _, final = answers.without_marks(answer).rpartition(answers.MARKER)
  last = f'{answers.MARKER} {final.strip()}'
  work = work.strip()
  return (f'{work}\n{last}', work) if steps else (last, '')


def _gsm8k(split, shuffle_files, *, steps, prompt):
  del shuffle_files
  prompt = _prompt(prompt)
  builder = _gsm8k_builder()
  if split not in builder.info.splits:
    raise errors.ConfigError(
      'data.split',
      f'found {split!r}, and $KD_DATA_DIR/gsm8k holds no {split}.jsonl',
      legal=', '.join(sorted(builder.info.splits)),
    )
  rows = []
  for example in builder.as_dataset(split).as_numpy_iterator():
    row = {name: value.decode('utf-8') for name, value in example.items()}
    rows.append(
      (
        row['id'],
        prompt.format(question=row['question']),
        *gsm8k_targets(row['answer'], steps),
      )
    )
  return dataset(rows)


def _add_gsm8k(name, steps):
  _add(
    name,
    functools.partial(_gsm8k, steps=steps, prompt=name),
    splits=('train', 'validation', 'test'),
  )


_add_arithmetic('arithmetic_cot', steps=True)
_add_arithmetic('arithmetic_answer', steps=False)
_add_arithmetic('arithmetic_few', steps=True, problems=FEW_PROBLEMS)
_add_arithmetic(
  'arithmetic_noisy', steps=True, problems=NOISY_PROBLEMS, noise=NOISE
)
_add_gsm8k('gsm8k_cot', steps=True)
_add_gsm8k('gsm8k_answer', steps=False)
