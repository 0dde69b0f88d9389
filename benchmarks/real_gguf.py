"""Writes a GGUF model's weights as GGUF files of other types.

Usage: python -m benchmarks.real_gguf GGUF FOLDER TYPE...

Writes FOLDER/TYPE.gguf for each type. With Q4_0 the embedding uses Q8_0.
"""

import os
import sys

from kd.checkpoints import gguf_writer
from kd.checkpoints import weights
from kd.input_pipeline import gguf_tokenizers
from kd.input_pipeline import tokenizers
from kd.models import families


def main(gguf, folder, *kinds):
  init = f'gguf:{gguf}'
  config = weights.model_config(init, 'gguf')
  model = families.build(config, 'float32', 'none', 'gguf')
  params = weights.load(init, model, None, (), 'float32', 'gguf')
  tokenizer = tokenizers.for_source(init, 'gguf')
  metadata = gguf_tokenizers.fields(
    tokenizer, config.vocab_size, 'plain', 'gguf'
  )
  for kind in kinds:
    table = gguf_writer.embedding_type('auto', kind)
    path = os.path.join(folder, f'{kind}.gguf')
    gguf_writer.write(path, params, config, kind, table, metadata)


if __name__ == '__main__':
  main(*sys.argv[1:])
