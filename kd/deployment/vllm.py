"""Makes the vLLM command that serves an exported model like `kd serve`."""

import shlex
from typing import Any

from kd.checkpoints import weights
from kd.core import errors


def command(config: Any, init: str, dtype: str) -> str:
  """Returns the command line for a shell.

  vLLM reads the API key of requests from VLLM_API_KEY.

  Args:
    config: the config, with sections `serve` and `deploy`.
    init: location of the weights: 'hf:DIR'.
    dtype: data type of the weights.

  Raises:
    ConfigError: the model is a GGUF file.
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
