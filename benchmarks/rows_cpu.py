"""Compares preparing rows on this CPU with datasets and TRL.

Four cases: all of GSM8K's training problems, and 1 %, 10 % and all of many
generated problems of the same kind. The first two fit into one shard and need
no worker processes; 10 % and all must need the same memory. TRL truncates
examples that are longer than a row and counts their tokens; kd drops them. The
vocabulary is the real Gemma 3's, which comes with the peer's environment.
Prints one line of JSON. The time runs from the start of reading to the last
file, without imports and loading the tokenizer. If other programs use the
machine, compare tokens per second of CPU time.
"""

from collections.abc import Iterator, Sequence
import json
import os
import random
import shutil
import sys
import tempfile
from typing import Any

from absl import flags

from benchmarks import alternate
from benchmarks import environments
from benchmarks import needs
from benchmarks import process_memory
from benchmarks import results
from kd.core import json_files
from kd.data_files import json_rows
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import tokenizers

_EXAMPLES = flags.DEFINE_integer(
  'examples', 1_000_000, 'Number of examples.', lower_bound=100
)
_LENGTH = 512
_PEER = 'datasets_trl'
_THINGS = ('apples', 'books', 'coins', 'eggs', 'flowers', 'marbles', 'stamps')
_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def generated(count: int) -> Iterator[dict[str, str]]:
  """Yields problems with worked answers, 60 to 250 tokens long."""
  rng = random.Random(0)
  for _ in range(count):
    what, total = rng.choice(_THINGS), rng.randrange(10, 1000)
    asked, steps = [f'Natalia has {total} {what}.'], []
    for _ in range(rng.randrange(2, 9)):
      more = rng.randrange(2, 100)
      asked.append(f'Then a friend gives her {more} more of them.')
      steps.append(f'After that she has {total}+{more}={total + more} {what}.')
      total += more
    asked.append(f'How many {what} does she have altogether in the end?')
    answer = ' '.join([*steps, f'#### {total}'])
    yield {'prompt': ' '.join(asked) + '\n', 'completion': answer}


def _gsm8k() -> Iterator[dict[str, str]]:
  legal = 'an object with question and answer'
  for where, row in json_rows.read(needs.gsm8k(), legal=legal):
    texts = json_files.texts(row, where, legal, ('question', 'answer'))
    yield {'prompt': texts['question'] + '\n', 'completion': texts['answer']}


def _measure(python, module, spec) -> dict[str, Any]:
  folder = tempfile.mkdtemp(dir=os.path.dirname(spec['file']))
  alternate.say(f'{module}: {os.path.basename(spec["file"])}')
  try:
    text, peak = process_memory.run(
      [python, '-m', module, json.dumps(spec | {'folder': folder})],
      cwd=_FOLDER,
      env=os.environ | {'PYTHONPATH': os.pathsep.join([_FOLDER, *sys.path])}
      if python == sys.executable
      else os.environ | {'PYTHONPATH': _FOLDER},
    )
  finally:
    shutil.rmtree(folder)
  result = json.loads(text)
  for key in ('seconds', 'cpu_seconds'):
    result[f'tokens_per_{key[:-1]}'] = result['tokens'] / result[key]
  result['peak_mib'] = peak / 2**20
  return result


def run(
  tokenizer: tokenizers.Tokenizer,
  cases: dict[str, Iterator[dict[str, str]]],
  peers: Sequence[str],
) -> dict[str, Any]:
  """Measures and returns the result.

  Args:
    tokenizer: tokenizer of all programs.
    cases: examples by name.
    peers: programs to compare with, () or (_PEER,).

  Returns:
    By case and program: seconds, cpu_seconds (of all processes), tokens, tokens
    per second of each, fill and peak_mib; by case the ratios of our speeds to
    the peer's.
  """
  measured = {}
  with tempfile.TemporaryDirectory() as folder:
    where = os.path.join(folder, 'tokenizer')
    hf_tokenizer.write(tokenizer, where, '')
    with open(os.path.join(where, 'config.json'), 'w') as f:
      f.write('{"model_type": "gemma3_text"}')
    for name, examples in cases.items():
      file = os.path.join(folder, f'{name}.jsonl')
      with open(file, 'w') as f:
        f.writelines(json.dumps(example) + '\n' for example in examples)
      spec = {'file': file, 'tokenizer': where, 'length': _LENGTH}
      measured[name] = {
        'ours': _measure(sys.executable, 'benchmarks.own_rows', spec)
      }
      if peers:
        spec['processes'] = len(os.sched_getaffinity(0))
        measured[name][_PEER] = _measure(
          environments.python('peers_trl'), 'benchmarks.peers.trl_rows', spec
        )
      os.unlink(file)
  for programs in measured.values():
    if peers:
      ours, peer = programs['ours'], programs[_PEER]
      for key in ('tokens_per_second', 'tokens_per_cpu_second'):
        programs[f'{key}_ratio'] = ours[key] / peer[key]
  return {'benchmark': 'rows_cpu', 'cases': measured}


def main():
  """Prints the result."""
  needs.gsm8k()
  needs.environment('peers_trl', [*needs.MODULES['peers_trl'], 'datasets'])
  needs.weights()
  count = _EXAMPLES.value
  cases = {
    'gsm8k': _gsm8k(),
    'generated_hundredth': generated(count // 100),
    'generated_tenth': generated(count // 10),
    'generated': generated(count),
  }
  tokenizer = tokenizers.load(f'gguf:{needs.gguf()}')
  results.show(run(tokenizer, cases, (_PEER,)))


if __name__ == '__main__':
  needs.start(main)
