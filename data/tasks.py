"""Registers the seqio tasks, as text independent of the tokenizer.

Each example has `inputs` (the prompt), `targets` (the answer, ending with
'#### N'), `rationale` (the worked steps at the start of the targets, without
trailing white space; '' if there are none) and `id`. A hash of the question
keeps splits disjoint; GSM8K's `test` is its published test set.
"""

from collections.abc import Mapping, Sequence
import functools
import os

from kd.core import errors
from kd.data.gsm8k import gsm8k_dataset_builder
from kd.input_pipeline import arithmetic
from kd.input_pipeline import text_tasks
from kd.reasoning.arithmetic import answers

# Up to three numbers of one or two digits: an example is under 64 bytes.
DIGITS = 2
TERMS = 3
TRAIN_PROBLEMS = 50_000
VALIDATION_PROBLEMS = 1_000
FEW_PROBLEMS = 1_000
NOISY_PROBLEMS = 10_000
NOISE = 0.3  # Share of the noisy task's training problems with a wrong answer.
SEED = 0

# Files that the tasks read; prepared rows are reused until one changes.
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


def _prompt(name):
  path = os.path.join(_FOLDER, 'prompts', f'{name}.txt')
  with open(path, encoding='utf-8') as f:
    return f.read()


def read_answer(output, example=None, is_target=False):
  """Returns the answer at the end of a text; a seqio postprocessor."""
  del example, is_target
  return answers.extract(output)


def exact_match(targets, predictions):
  """Returns the metrics of `answers.compare`; a seqio metric function."""
  return answers.compare(targets, predictions)


def add(
  name: str,
  examples: text_tasks.Examples,
  splits: Sequence[str],
  sizes: Mapping[str, int] | None = None,
  has_answers: bool = True,
) -> None:
  """Registers a task whose answers are numbers.

  Args:
    name: name of the task.
    examples: function that yields the examples of a split.
    splits: names of the splits.
    sizes: number of examples in each split, if known.
    has_answers: whether targets end with an answer to compare.
  """
  text_tasks.add(
    name,
    examples,
    splits,
    postprocess=read_answer,
    metrics=[exact_match] if has_answers else [],
    sizes=sizes,
  )


def _arithmetic(split, *, steps, problems, noise):
  """Generates a task's problems; only training labels are noisy."""
  held_out = split == 'validation'
  count = VALIDATION_PROBLEMS if held_out else problems
  prompt = _prompt('arithmetic')
  generated = arithmetic.generate(split, count, DIGITS, TERMS, SEED)
  for i, problem in enumerate(generated):
    if not held_out:
      problem = arithmetic.spoil(problem, noise, SEED)
    work = ' '.join(problem.steps) if steps else ''
    last = f'{answers.MARKER} {problem.answer}'
    yield {
      'id': f'arithmetic-{split}-{i}',
      'inputs': prompt.format(question=problem.question),
      'targets': f'{work} {last}' if steps else last,
      'rationale': work,
    }


def _add_arithmetic(name, steps, problems=TRAIN_PROBLEMS, noise=0.0):
  add(
    name,
    functools.partial(_arithmetic, steps=steps, problems=problems, noise=noise),
    splits=arithmetic.SPLITS,
    sizes={'train': problems, 'validation': VALIDATION_PROBLEMS},
  )


def _gsm8k_builder():
  """Returns the prepared tfds builder; each source has its own folder."""
  folder = os.path.expanduser(
    os.path.join(
      '~/.cache/kd/tensorflow_datasets', gsm8k_dataset_builder.fingerprint()
    )
  )
  builder = gsm8k_dataset_builder.Builder(data_dir=folder)
  builder.download_and_prepare()
  return builder


def gsm8k_targets(answer: str, steps: bool) -> tuple[str, str]:
  """Returns a GSM8K answer without its calculator marks.

  Args:
    answer: answer in the format of GSM8K.
    steps: whether to keep the steps before the last line.

  Returns:
    The targets and the rationale at their start.
  """
  work, _, final = answers.without_marks(answer).rpartition(answers.MARKER)
  last = f'{answers.MARKER} {final.strip()}'
  work = work.strip()
  return (f'{work}\n{last}', work) if steps else (last, '')


def _gsm8k(split, *, steps, prompt):
  prompt = _prompt(prompt)
  builder = _gsm8k_builder()
  if split not in builder.info.splits:
    raise errors.ConfigError(
      'data.split',
      f'found {split!r}, and $KD_DATA_DIR/gsm8k contains no {split}.jsonl',
      legal=', '.join(sorted(builder.info.splits)),
    )
  for example in builder.as_dataset(split).as_numpy_iterator():
    row = {name: value.decode('utf-8') for name, value in example.items()}
    targets, rationale = gsm8k_targets(row['answer'], steps)
    yield {
      'id': row['id'],
      'inputs': prompt.format(question=row['question']),
      'targets': targets,
      'rationale': rationale,
    }


def _add_gsm8k(name, steps):
  add(
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
