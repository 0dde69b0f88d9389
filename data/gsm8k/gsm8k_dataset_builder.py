"""GSM8K: grade-school problems with worked steps (arXiv:2110.14168, MIT)."""

from collections.abc import Iterator
import hashlib
import os
import urllib.request

from etils import epath
import tensorflow_datasets as tfds

from kd.core import errors
from kd.data import sources
from kd.reasoning import gsm8k_lines

_SOURCE = (
  'https://raw.githubusercontent.com/openai/grade-school-math/'
  '3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data/'
)
# One in this many problems of the training file is held out, by the hash of its
# question, so that tuning never uses the test file.
HELD_OUT = 20


def fingerprint() -> str:
  """Returns 16 hex digits that identify the source, without downloading."""
  digest = hashlib.sha256(_SOURCE.encode())
  for name, path in sources.gsm8k_files().items():
    with open(path, 'rb') as f:
      digest.update(name.encode() + f.read())
  return digest.hexdigest()[:16]


class Builder(tfds.core.GeneratorBasedBuilder):
  """Builder with the splits train, validation and, if its file exists, test."""

  VERSION = tfds.core.Version('1.1.0')
  # tfds looks for checksums.tsv next to this file. Its default way to locate
  # the file imports importlib_resources, which tfds does not install here.
  code_path = epath.Path(__file__)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description='Grade-school mathematics problems with worked steps.',
      homepage='https://github.com/openai/grade-school-math',
      features=tfds.features.FeaturesDict(
        {
          'id': tfds.features.Text(),
          'question': tfds.features.Text(),
          'answer': tfds.features.Text(),
        }
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    files = sources.gsm8k_files() or _download(dl_manager)
    splits = {
      'train': _examples(files['train.jsonl'], held_out=False),
      'validation': _examples(files['train.jsonl'], held_out=True),
    }
    if 'test.jsonl' in files:
      splits['test'] = _examples(files['test.jsonl'], held_out=None)
    return splits

  def _generate_examples(self, path):
    raise AssertionError(f'_split_generators reads {path} itself')


def _download(dl_manager) -> dict[str, str]:
  """Downloads both files; on failure the error explains the alternative."""
  names = ('train.jsonl', 'test.jsonl')
  try:
    # tfds retries an unreachable host for minutes: check it first.
    urllib.request.urlopen(_SOURCE + names[0], timeout=30).close()
    paths = dl_manager.download({name: _SOURCE + name for name in names})
  except Exception as e:  # Network, proxy and checksum errors share no base.
    raise errors.ConfigError(
      'KD_DATA_DIR',
      'GSM8K is not at $KD_DATA_DIR/gsm8k/train.jsonl '
      f'(KD_DATA_DIR is {os.environ.get("KD_DATA_DIR") or "not set"}), and '
      f'it could not be downloaded: {type(e).__name__}: {str(e)[:200]}',
      legal=f'network access to {_SOURCE}, or its train.jsonl at '
      '$KD_DATA_DIR/gsm8k/train.jsonl',
    ) from e
  return {name: os.fspath(path) for name, path in paths.items()}


def _held_out(question: str) -> bool:
  digest = hashlib.sha256(question.encode()).digest()
  return int.from_bytes(digest[:8], 'big') % HELD_OUT == 0


def _examples(
  path: str, held_out: bool | None
) -> Iterator[tuple[int, dict[str, str]]]:
  """Yields the examples of a file, of its held-out part or of the rest.

  Args:
    path: path of JSON lines with `question` and `answer`.
    held_out: whether to read the held-out part or the rest; None for all.

  Yields:
    The line number, starting at 1, and an example with id, question, answer.

  Raises:
    ConfigError: a line is not such an object, or its answer has no number.
  """
  name = os.path.basename(path).partition('.')[0]
  name = name if name in ('train', 'test') else 'problem'
  for line in gsm8k_lines.read(path):
    if held_out is None or _held_out(line.question) == held_out:
      yield (
        line.number,
        {
          'id': f'gsm8k-{name}-{line.number}',
          'question': line.question,
          'answer': line.answer,
        },
      )
