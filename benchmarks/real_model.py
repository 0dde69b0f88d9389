"""Writes a GGUF model as a float32 Hugging Face folder; prints a row of ids.

Usage: python -m benchmarks.real_model GGUF JSONL FOLDER LENGTH
"""

import itertools
import json
import sys

from kd.checkpoints import huggingface
from kd.checkpoints import weights
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers
from kd.models import families

_PROBLEMS = 8


def row(tokenizer: tokenizers.Tokenizer, file: str, length: int) -> list[int]:
  """Returns the first ids of questions and answers, starting with BOS.

  Args:
    tokenizer: tokenizer of the model.
    file: path of JSON lines with `question` and `answer`.
    length: number of ids.
  """
  with open(file, encoding='utf-8') as f:
    problems = [json.loads(line) for line in itertools.islice(f, _PROBLEMS)]
  text = '\n\n'.join(
    f'Question: {p["question"]}\nAnswer: {p["answer"]}' for p in problems
  )
  messages = templates.exchange(text)
  return templates.encode_prompt(tokenizer, 'plain', messages)[:length]


def main(gguf, file, folder, length):
  init = f'gguf:{gguf}'
  tokenizer = tokenizers.for_source(init, 'gguf')
  config = weights.model_config(init, 'gguf')
  model = families.build(config, 'float32', 'none', 'gguf')
  huggingface.write(
    folder,
    weights.load(init, model, None, (), 'float32', 'gguf'),
    config,
    'float32',
    tokenizer.bos_id,
    tokenizer.stop_ids,
    tokenizer.pad_id,
    lambda new: hf_tokenizer.write(
      tokenizer, new, templates.TEMPLATES['plain'].jinja
    ),
  )
  print(json.dumps(row(tokenizer, file, int(length))))


if __name__ == '__main__':
  main(*sys.argv[1:])
