"""Compares data.template with the chat templates that come with weights."""

import os
from typing import NamedTuple

from kd.checkpoints import gguf_parts
from kd.core import identity as identity_lib
from kd.core import json_files
from kd.core import paths
from kd.core import text_files
from kd.input_pipeline import added_tokens
from kd.input_pipeline import templates

_FIELD = 'chat_template'
FILE = f'{_FIELD}.jinja'
_GGUF_FIELD = 'tokenizer.chat_template'


class ChatTemplate(NamedTuple):
  """A chat template that comes with weights.

  Attributes:
    file: path of the file with the template.
    names: names of the templates in templates.TEMPLATES with the same turns,
      starting with the default format of the chat template; () if there are
      none.
    jinja: text of the template; '' if it is only given by name.
  """

  file: str
  names: tuple[str, ...]
  jinja: str = ''


def warning(template: str, init: str) -> str:
  """Returns a warning if data.template is not the template of the weights.

  Args:
    template: data.template.
    init: source of the weights: 'hf:DIR', 'gguf:FILE' or 'workdir:DIR'; any
      other source has no template.

  Returns:
    The warning, '' if the template is the same or unknown.

  Raises:
    ConfigError: a file that may contain the template is damaged.
  """
  trained = _read(init)
  if trained is None or template in trained.names:
    return ''
  problem = (
    f'data.template is {template!r}, but the chat template in {trained.file} '
  )
  if not trained.names:
    legal = ', '.join(map(repr, templates.TEMPLATES.names()))
    return (
      f'{problem}is none of {legal}: the model sees prompts of another form'
    )
  names = ' or '.join(map(repr, trained.names))
  return f'{problem}is {names}: --config.data.template={trained.names[0]}'


def default(init: str) -> str:
  """Returns the template that weights were trained with, else 'plain'.

  Args:
    init: source of the weights, as for `warning`.

  Raises:
    ConfigError: a file that may contain the template is damaged.
  """
  trained = _read(init)
  return trained.names[0] if trained and trained.names else 'plain'


def identity(init: str) -> str:
  """Returns an identifier of the chat format of weights.

  Args:
    init: source of the weights, as for `warning`.

  Returns:
    The name of a template in templates.TEMPLATES, the digest of the text of any
    other template, or '' if there is none.

  Raises:
    ConfigError: a file that may contain the template is damaged.
  """
  trained = _read(init)
  if trained is None:
    return ''
  if trained.names:
    return trained.names[0]
  return identity_lib.bytes_digest(trained.jinja.encode())


def _read(init: str) -> ChatTemplate | None:
  kind, _, where = init.partition(':')
  return _READERS[kind](paths.expand(where)) if kind in _READERS else None


def names(jinja: str) -> tuple[str, ...]:
  """Returns the names of the templates that a Jinja text can write.

  Args:
    jinja: a chat template of a Hugging Face folder or a GGUF file.

  Returns:
    Names in templates.TEMPLATES, starting with the default format of the text.
  """
  known = [(n, templates.TEMPLATES[n]) for n in templates.TEMPLATES.names()]
  ours = [
    name
    for name, t in known
    if jinja.strip() in (t.jinja.strip(), t.jinja_of_gguf.strip())
  ]
  # Published texts differ from kd's and between model sizes.
  theirs = [n for n, t in known if t.recognizes(jinja)]
  return tuple(dict.fromkeys([*ours, *theirs]))


def _of_text(file: str, jinja: str) -> ChatTemplate:
  return ChatTemplate(file, names(jinja), jinja)


def read_folder(directory: str) -> ChatTemplate | None:
  """Reads the chat template of a Hugging Face folder.

  Tries the locations that transformers has used, newest first.

  Args:
    directory: the folder.

  Returns:
    The template, None if there is none.

  Raises:
    ConfigError: a file that may contain it is damaged.
  """
  file = os.path.join(directory, FILE)
  if os.path.isfile(file):
    return _of_text(file, text_files.read(file))
  for name in (added_tokens.CONFIG, f'{_FIELD}.json'):
    jinja = json_files.read_in(directory, name).get(_FIELD)
    if isinstance(jinja, list):  # Several named templates.
      named = [t for t in jinja if isinstance(t, dict)]
      defaults = [t for t in named if t.get('name') == 'default']
      jinja = defaults[0].get('template') if defaults else None
    if isinstance(jinja, str):
      return _of_text(os.path.join(directory, name), jinja)
  return None


def _from_gguf(file: str) -> ChatTemplate | None:
  jinja = gguf_parts.read(file).metadata.get(_GGUF_FIELD)
  return _of_text(file, jinja) if isinstance(jinja, str) else None


def _from_workdir(workdir: str) -> ChatTemplate | None:
  data = json_files.read_in(workdir, 'config.json').get('data')
  name = data.get('template') if isinstance(data, dict) else None
  if name not in templates.TEMPLATES:
    return None
  return ChatTemplate(os.path.join(workdir, 'config.json'), (name,))


_READERS = {'hf': read_folder, 'gguf': _from_gguf, 'workdir': _from_workdir}
