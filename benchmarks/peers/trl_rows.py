"""datasets.map with the fast tokenizer, then TRL's packing, of a file.

Its argument is a JSON object:
  file: JSON lines with prompt and completion.
  tokenizer: the folder of its files.
  length: of a row.
  folder: where datasets keeps what it makes.
  processes: for each map.

It makes ids alone; ours have parts and weights of their own.
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
  # Processes and threads of the tokenizer's would take turns on the cores.
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
  # Targets, as kd counts them: all ids of an example but the first.
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
