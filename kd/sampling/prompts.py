"""Reads files of prompts and writes files of answers, for --mode=generate."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import json
import os
import re
from typing import Any

import numpy as np

from kd.core import errors
from kd.core import identity as identity_lib
from kd.core import json_lines
from kd.core import run_info
from kd.data_files import examples
from kd.data_files import image_parts
from kd.data_files import locations
from kd.data_files import source
from kd.images import form as form_lib
from kd.images import loading
from kd.input_pipeline import conversations
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers
from kd.models import chat_turns
from kd.sampling import images as images_lib
from kd.sampling import requests

_LEGAL = (
  'rows of {"prompt": "text"} or {"messages": [{"role": "user", "content": '
  '"text"}]}'
)
_COLUMNS = examples.Columns()
TEXT = 'prompt_text'  # Key of the rendered prompt.
# Keys of a line of answers that a resumed run reads.
_READ_BACK = {
  'index': int,
  'samples': list,
  'request_digest': str,
  'model': str,
}
_WRITTEN = tuple(_READ_BACK)
# Keys of each sample; the last two only if generate.logprobs is set.
_SAMPLE_FIELDS = {
  'text': str,
  'finish': str,
  'tokens': int,
  'ids': list,
  'logprobs': list,
}
_SHOWN = 40  # Maximum characters of a file's digest in a message.
# Maps unanswered requests to pairs of a request's index and its samples.
Answers = Callable[
  [Sequence[requests.Request]], Iterable[tuple[int, list[requests.Sample]]]
]


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A line of a file of prompts.

  Attributes:
    ids: ids of the prompt, including BOS if the tokenizer has one.
    fields: the fields of the row: prompt or messages, and any other columns;
      and prompt_text, the text of `ids` without BOS.
    images: images of the prompt.
  """

  ids: list[int]
  fields: Mapping[str, Any]
  images: tuple[images_lib.Image, ...] = ()


def read(
  location: str,
  tokenizer: tokenizers.Tokenizer,
  template: str,
  columns: examples.Columns = _COLUMNS,
  form: form_lib.Form | None = None,
  urls: bool = False,
) -> list[Prompt]:
  """Reads prompts and encodes them.

  Args:
    location: files in the formats of training data: JSON lines, Parquet, ... An
      answer in a row (`completion` or the last message) is not part of the
      prompt. All fields of a row are written with the answers; embedded images
      are replaced by their digests.
    tokenizer: the tokenizer.
    template: name of the template; a `prompt` is the only message, of the user.
    columns: column names of the files.
    form: image format of the model; None if it reads no images.
    urls: whether to download images that rows refer to by URL.

  Raises:
    ConfigError: a file is missing or empty, or lines are invalid; the error
      names the first one and lists the others.
  """
  templates.check_tokenizer(tokenizer, template)
  field = 'generate.prompts'
  if not location:
    raise errors.ConfigError(field, "found ''", legal=locations.LEGAL)
  prompts, wrong = [], []
  for path in locations.files(location, field):
    folder, given = os.path.dirname(os.path.abspath(path)), {}
    loader = loading.Loader(
      folder, urls, given=image_parts.name_recorder(given)
    )
    for where, row in source.read_file(path, wrong.append):
      given.clear()
      try:
        messages = examples.prompt(_checked(row, where), where, columns, loader)
        ids, images = images_lib.encode(tokenizer, template, messages, form)
        text, _ = templates.render(template, messages, generate=True)
        shown = text.removeprefix(chat_turns.BOS)
        if images:
          shown = shown.replace(chat_turns.IMAGE, conversations.IMAGE)
        kept = _plain(image_parts.by_name(row, given))
        prompts.append(Prompt(ids, {**kept, TEXT: shown}, images))
      except errors.ConfigError as e:
        # Errors of templates do not name the file.
        at = e.path if e.path.startswith(where) else f'{where}: {e.path}'
        wrong.append(e.at(at))
  if wrong:
    lines = [re.match(r'(.*(:|: row )\d+)(:|$)', e.path) for e in wrong[1:]]
    others = ', '.join(line[1] for line in lines if line)
    more = f' (other invalid lines: {others})' if others else ''
    raise errors.ConfigError(
      wrong[0].path, str(wrong[0]).removeprefix(f'{wrong[0].path}: ') + more
    )
  if not prompts:
    raise errors.ConfigError(location, 'is empty', legal=_LEGAL)
  return prompts


def _checked(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
  """Raises ConfigError if a row has a key that is written with answers."""
  reserved = (*_WRITTEN, TEXT)
  for key in reserved:
    if key in row:
      raise errors.ConfigError(
        where,
        f'has a key {key!r}, which --mode=generate writes itself',
        legal=f'other keys than {", ".join(reserved)}',
      )
  return row


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a row as JSON: dates become text, bytes base64, NaN None."""
  text = json.dumps(row, default=_as_text)
  return json.loads(text, parse_constant=lambda name: None)


def _as_text(value: Any) -> str:
  if isinstance(value, bytes):
    return base64.b64encode(value).decode()
  return str(value)


def requests_of(
  prompts: Sequence[Prompt], seed: int, samples: int
) -> list[requests.Request]:
  """Returns a request for each prompt, numbered in order."""
  return [
    requests.numbered(prompt.ids, seed, number, samples, prompt.images)
    for number, prompt in enumerate(prompts)
  ]


def answer_file(
  stream: Answers,
  prompts: Sequence[Prompt],
  asked: Sequence[requests.Request],
  settings: requests.SamplingSettings,
  path: str,
  logprobs: bool,
  model: str,
  say: Callable[[str], None],
  progress: Callable[[int, int], None] | None = None,
) -> list[dict]:
  """Answers the requests that the file lacks and adds the answers to it.

  Each answer is written before the next one is awaited; an incomplete last line
  of a killed run is dropped. The finished file is in the order of the requests.
  Each line has index, the prompt's fields, samples (each with text, finish, see
  requests.Sample, and tokens, the number of ids), request_digest and model.

  Args:
    stream: answers requests, in any order.
    prompts: the prompts.
    asked: the request of each prompt.
    settings: sampling settings of all requests, which `stream` uses.
    path: path of the file of answers; created if it is missing.
    logprobs: whether samples also contain ids and logprobs.
    model: digest of the model that `stream` samples.
    say: prints a line if the file already has answers.
    progress: called with the number of prompts answered and the total.

  Returns:
    The records of the file, in the order of the requests.

  Raises:
    ConfigError: a line of the file is invalid, or is the answer to a different
      request or of a different model.
    NonFiniteError: the model's logits are NaN or infinite.
  """
  how = {**dataclasses.asdict(settings), 'logprobs': logprobs}
  digests = [_digest(request, how) for request in asked]
  done = _resume(path, digests, model, logprobs)
  for index, record in done.items():
    # The prompt's other keys may have changed since then.
    done[index] = _record(
      index, prompts[index], {key: record[key] for key in _WRITTEN[1:]}
    )
  if done:
    say(f'{path}: {len(done)} answers of {run_info.date(path)} reused')
  left = [i for i in range(len(asked)) if i not in done]
  os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
  if left:
    with open(path, 'ab') as f:
      for number, samples in stream([asked[i] for i in left]):
        index = left[number]
        written = {
          'samples': [_sample(sample, logprobs) for sample in samples],
          'request_digest': digests[index],
          'model': model,
        }
        record = _record(index, prompts[index], written)
        json_lines.append(f, [record])
        done[index] = record
        if progress is not None:
          progress(len(done), len(asked))
  ordered = [done[i] for i in range(len(asked))]
  json_lines.write(path, ordered)
  return ordered


def _record(index, prompt, written):
  return {'index': index, **prompt.fields, **written}


def _sample(sample, logprobs):
  one = {
    'text': sample.text,
    'finish': sample.finish,
    'tokens': len(sample.ids),
  }
  if logprobs:
    one |= {'ids': sample.ids, 'logprobs': sample.logprobs}
  return one


def _digest(request: requests.Request, how: dict) -> str:
  """Returns a digest of all that determines the answer.

  The ids stand for text, template and tokenizer.

  Args:
    request: the request.
    how: the settings that determine what is written, as JSON.
  """
  rest = [request.seed, request.samples, how]
  return identity_lib.bytes_digest(
    np.asarray(request.ids, '<i4').tobytes(),
    json.dumps(rest, sort_keys=True).encode(),
    *(image.key for image in request.images),
  )


def _resume(
  path: str, digests: Sequence[str], model: str, logprobs: bool
) -> dict[int, dict]:
  """Returns the records that are already in the file, by index."""
  done = {}
  legal = 'a line that --mode=generate has written'
  for where, record in json_lines.resume(path, legal):
    _check_record(record, where, digests, model, logprobs)
    done[record['index']] = record
  return done


def _is_answer(record: dict[str, Any], logprobs: bool) -> bool:
  """Returns whether a record has the required keys with the right types."""
  fields = list(_SAMPLE_FIELDS.items())[: None if logprobs else -2]
  return _has(record, _READ_BACK.items()) and all(
    isinstance(sample, dict)
    and len(sample) == len(fields)
    and _has(sample, fields)
    and sample['finish'] in requests.FINISHES
    for sample in record['samples']
  )


def _has(part, kinds):
  return all(isinstance(part.get(key), kind) for key, kind in kinds)


def _check_record(record, where, digests, model, logprobs):
  if not _is_answer(record, logprobs):
    raise errors.ConfigError(
      where,
      'was not written by --mode=generate',
      legal='a new file, or one that such a run began',
    )
  if record['model'] != model:
    raise errors.ConfigError(
      where,
      f'is an answer of another model: digest {record["model"][:_SHOWN]}, now '
      f'{model}',
      legal='a new file (generate.output), or the model that began this one',
    )
  index = record['index']
  if (
    not 0 <= index < len(digests) or record['request_digest'] != digests[index]
  ):
    raise errors.ConfigError(
      where,
      f'does not match prompt {index} and the settings of this run',
      legal='a new file, or one that such a run began',
    )
