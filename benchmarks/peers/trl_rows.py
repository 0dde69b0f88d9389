"""Encodes a file with datasets.map and the fast tokenizer; packs it with TRL.

The argument is a JSON object:
  file: path of JSON lines with prompt and completion.
  tokenizer: folder of the tokenizer's files.
  length: number of positions in a row.
  folder: cache folder of datasets.
  processes: number of processes for each map.

The rows contain only ids; kd's also contain parts and weights.
"""

import json
import os
import sys
import time

from benchmarks import stepper


def main(argument):
  stream = stepper.claim_stdout()
  spec = json.loads(argument)
  os.environ['HF_HOME'] = spec['folder']
  # The tokenizer's threads would compete with the processes for cores.
  os.environ['TOKENIZERS_PARALLELISM'] = 'false'
  import datasets
  import transformers
  import trl

  tokenizer = transformers.AutoTokenizer.from_pretrained(spec['tokenizer'])
  if not tokenizer.is_fast:
    raise RuntimeError('the tokenizer is not a fast one')
  eos = tokenizer.eos_token_id

  def encode(batch):
    pairs = zip(batch['prompt'], batch['completion'], strict=True)
    ids = tokenizer([p + c for p, c in pairs])['input_ids']
    return {'input_ids': [[*one, eos] for one in ids]}

  began, cpu = time.monotonic(), stepper.cpu_seconds()
  data = datasets.load_dataset('json', data_files=spec['file'], split='train')
  options = {'num_proc': spec['processes']}
  encoded = data.map(
    encode, batched=True, remove_columns=data.column_names, **options
  )
  packed = trl.pack_dataset(
    encoded, spec['length'], strategy='bfd', map_kwargs=options
  )
  seconds = time.monotonic() - began
  cpu_seconds = stepper.cpu_seconds() - cpu
  lengths = packed.with_format('numpy')['seq_lengths']
  # Number of targets as kd counts them: all ids of an example but the first.
  tokens = sum(int((one - 1).sum()) for one in lengths)
  result = {
    'seconds': seconds,
    'cpu_seconds': cpu_seconds,
    'tokens': tokens,
    'fill': tokens / (len(packed) * spec['length']),
  }
  print(json.dumps(result), file=stream, flush=True)


if __name__ == '__main__':
  main(sys.argv[1])
