"""The command with which vLLM serves an exported model as kd serve does."""

import shlex
from typing import Any

from kd.checkpoints import weights
from kd.core import errors


def command(config: Any, init: str, dtype: str) -> str:
  """Returns the line for a shell.

  vLLM reads the API key of requests from VLLM_API_KEY.

  Args:
    config: the whole config: its `serve` and `deploy`.
    init: 'hf:DIR'.
    dtype: data type of the weights.

  Raises:
    ConfigError: it is a GGUF file.
  """
  kind, _, folder = init.partition(':')
  if kind != 'hf':
    raise errors.ConfigError(
      'command line',
      f'found {init!r}',
      legal='a folder for transformers; llama-server of llama.cpp serves GGUF '
      'files',
    )
  context = weights.model_config(init, 'command line').context
  words = [
    *('vllm', 'serve', folder),
    *('--served-model-name', config.deploy.name),
    *('--host', config.serve.host, '--port', str(config.serve.port)),
    *('--dtype', dtype),
    *('--max-model-len', str(min(config.serve.max_length, context))),
    *('--max-num-seqs', str(config.serve.max_batch)),
  ]
  return shlex.join(words)
