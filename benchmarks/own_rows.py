"""Prepares the rows of a file as a run does; prints a line of JSON.

The argument is a JSON object:
  file: path of JSON lines with prompt and completion.
  tokenizer: folder of the tokenizer's files.
  length: number of positions in a row.
  folder: output folder of the rows.
"""

import json
import sys
import time

from benchmarks import stepper
from kd.config import base
from kd.input_pipeline import examples
from kd.input_pipeline import mixtures
from kd.input_pipeline import prepare
from kd.input_pipeline import retry
from kd.input_pipeline import tokenizers


def main(argument):
  stream = stepper.claim_stdout()
  spec = json.loads(argument)
  config = base.get_config()
  config.data.mixture = spec['file']
  config.evaluation.sets = {}
  tokenizer = tokenizers.load(f'hf:{spec["tokenizer"]}')
  mixture = mixtures.training(config)
  examples.tasks(mixture, 'train')  # Imports TensorFlow before the timed part.
  began, cpu = time.monotonic(), stepper.cpu_seconds()
  (part,) = prepare.prepare(
    mixture,
    'train',
    tokenizer=tokenizer,
    template='plain',
    length=spec['length'],
    pack=True,
    seed=0,
    cache_dir=spec['folder'],
    limit=-1,
    retry_policy=retry.RetryPolicy(**config.data.read),
    workers=0,
    say=lambda line: print(line, file=sys.stderr),
  )
  result = {
    'seconds': time.monotonic() - began,
    'cpu_seconds': stepper.cpu_seconds() - cpu,
    'tokens': part.counts['tokens'],
    'fill': part.counts['fill'],
  }
  print(json.dumps(result), file=stream, flush=True)


if __name__ == '__main__':
  main(sys.argv[1])
