"""Files of prompts and of answers, for --mode=generate."""

from collections.abc import Callable, Sequence
import hashlib
import json
import os

import numpy as np

from kd.core import errors
from kd.core import types
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers
from kd.sampling import decode

_KEYS = ('prompt', 'messages')
_LEGAL = (
  '{"prompt": "text"} or {"messages": [{"role": "user", "content": "text"}]}'
)
# What of an answer is read back; the rest is for the user.
_READ_BACK = {'index': int, 'prompt_digest': str}


def read(
  path: str, tokenizer: tokenizers.Tokenizer, template: str
) -> list[list[int]]:
  """Reads prompts and encodes them.

  Args:
    path: a file of JSON lines, each {"prompt": str} or {"messages": [...]}.
    tokenizer: gives the ids.
    template: how messages are written; a `prompt` is a user's only message.

  Returns:
    The ids of each line, BOS included.

  Raises:
    ConfigError: the file is missing or empty, or a line is wrong: names the
      first such line and numbers the others.
  """
  templates.check_tokenizer(tokenizer, template)
  if not os.path.isfile(path):
    raise errors.ConfigError('prompts', f'{path}: no such file')
  with open(path, 'rb') as f:
    lines = f.read().removesuffix(b'\n').split(b'\n')
  if lines == [b'']:
    raise errors.ConfigError(path, 'is empty', legal=f'JSON lines of {_LEGAL}')
  prompts, wrong = [], []
  for number, line in enumerate(lines, 1):
    try:
      messages = _messages(line, f'{path}:{number}')
      prompts.append(templates.encode_prompt(tokenizer, template, messages))
    except errors.ConfigError as e:
      where = f'{path}:{number}'
      # Templates do not know of the file.
      at = e.path if e.path.startswith(where) else f'{where}: {e.path}'
      wrong.append((number, at, str(e).removeprefix(f'{e.path}: ')))
  if wrong:
    others = ', '.join(str(number) for number, *_ in wrong[1:])
    more = f' (lines that are wrong too: {others})' if others else ''
    raise errors.ConfigError(wrong[0][1], wrong[0][2] + more)
  return prompts


def _messages(line: bytes, where: str) -> list[templates.Message]:
  """The messages of a line; raises ConfigError naming `where`."""
  try:
    record = json.loads(line.decode('utf-8'))
  except ValueError as e:
    raise errors.ConfigError(where, f'is no JSON ({e})', legal=_LEGAL) from e
  if not isinstance(record, dict):
    raise errors.ConfigError(
      where, f'holds a {type(record).__name__}', legal=_LEGAL
    )
  for key in record:
    if key not in _KEYS:
      raise errors.unknown(where, 'key', key, _KEYS)
  if len(record) != 1:
    raise errors.ConfigError(
      where, f'has {len(record)} of prompt and messages', legal=_LEGAL
    )
  if 'messages' in record:
    return _check_messages(record['messages'], f'{where}: messages')
  if not isinstance(record['prompt'], str):
    raise errors.ConfigError(
      where, f'prompt is {record["prompt"]!r}', legal='a string'
    )
  return templates.exchange(record['prompt'])


def _check_messages(messages, where):
  if not isinstance(messages, list) or not messages:
    raise errors.ConfigError(where, f'are {messages!r}', legal=_LEGAL)
  for i, message in enumerate(messages):
    is_dict = isinstance(message, dict)
    if (
      not is_dict
      or set(message) != {'role', 'content'}
      or not all(isinstance(value, str) for value in message.values())
    ):
      raise errors.ConfigError(
        f'{where}[{i}]',
        f'is {message!r}',
        legal='{"role": "user", "content": "text"}',
      )
  return messages


def answer_file(
  decoder: decode.Decoder,
  params: types.PyTree,
  prompts: Sequence[Sequence[int]],
  tokenizer: tokenizers.Tokenizer,
  path: str,
  progress: Callable[[int, int], None] | None = None,
  rng: types.Array | None = None,
) -> list[dict]:
  """Answers the prompts that the file lacks and adds the answers to it.

  Each batch is on disk before the next begins; a last line that a kill cut off
  is dropped. In the end the file is in the prompts' order. Each line holds
  index, completion (text), finished, truncated (met the token limit),
  too_long (no room in the context), tokens (ids generated), prompt_digest.

  Args:
    decoder: answers.
    params: of its model.
    prompts: ids of each; see `read`.
    tokenizer: turns answers into text.
    path: the file of answers; made where it is missing.
    progress: called with the number of prompts answered and that of all.
    rng: what the decoder draws from.

  Returns:
    The records of the file, in the prompts' order.

  Raises:
    ConfigError: a line of the file is wrong or answers another prompt.
    NonFiniteError: the model's logits are NaN or infinite.
  """
  digests = [_digest(prompt) for prompt in prompts]
  done = _resume(path, digests)
  left = [i for i in range(len(prompts)) if i not in done]
  os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
  with open(path, 'ab') as f:
    for batch in decoder.stream(params, [prompts[i] for i in left], rng):
      records = [
        _record(left[i], answer, tokenizer, digests[left[i]])
        for i, answer in batch.items()
      ]
      f.write(b''.join(_line(record) for record in records))
      f.flush()
      os.fsync(f.fileno())
      done.update((record['index'], record) for record in records)
      if progress is not None:
        progress(len(done), len(prompts))
  ordered = [done[i] for i in range(len(prompts))]
  _replace(path, b''.join(_line(record) for record in ordered))
  return ordered


def _record(index, completion, tokenizer, digest):
  return {
    'index': index,
    'completion': tokenizer.decode(completion.ids),
    'finished': completion.finished,
    'truncated': completion.truncated,
    'too_long': completion.too_long,
    'tokens': len(completion.ids),
    'prompt_digest': digest,
  }


def _line(record) -> bytes:
  return json.dumps(record, ensure_ascii=False).encode('utf-8') + b'\n'


def _digest(prompt: Sequence[int]) -> str:
  """Of the ids: text, template and tokenizer all have a part in it."""
  return hashlib.sha256(np.asarray(prompt, '<i4').tobytes()).hexdigest()[:16]


def _resume(path: str, digests: Sequence[str]) -> dict[int, dict]:
  """The records already there, by index; cuts a torn last line off."""
  if not os.path.exists(path):
    return {}
  with open(path, 'rb') as f:
    data = f.read()
  whole = data[: data.rfind(b'\n') + 1]
  done = {}
  for number, line in enumerate(whole.split(b'\n')[:-1], 1):
    record = _check_record(line, f'{path}:{number}', digests)
    done[record['index']] = record
  # Only now, when the file is known to be one of answers to these prompts.
  os.truncate(path, len(whole))
  return done


def _check_record(line, where, digests):
  try:
    record = json.loads(line.decode('utf-8'))
  except ValueError as e:
    raise errors.ConfigError(where, f'is no JSON ({e})') from e
  if not isinstance(record, dict) or not all(
    key in record and isinstance(record[key], kind)
    for key, kind in _READ_BACK.items()
  ):
    raise errors.ConfigError(
      where,
      'is no answer that was written by --mode=generate',
      legal='a new file, or one that a run with these prompts began',
    )
  index = record['index']
  if not 0 <= index < len(digests) or record['prompt_digest'] != digests[index]:
    raise errors.ConfigError(
      where,
      f'answers another prompt than number {index} of this run',
      legal='a new file, or one that a run with these prompts began',
    )
  return record


def _replace(path: str, data: bytes) -> None:
  """Writes aside and renames."""
  aside = f'{path}.{os.getpid()}.tmp'
  with open(aside, 'wb') as f:
    f.write(data)
    f.flush()
    os.fsync(f.fileno())
  os.replace(aside, path)
