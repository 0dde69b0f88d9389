"""Chat templates that come with weights, compared with data.template."""

import os
from typing import NamedTuple

from kd.checkpoints import gguf_parts
from kd.core import json_files
from kd.core import paths
from kd.core import text_files
from kd.input_pipeline import added_tokens
from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import templates

_FIELD = 'chat_template'
_GGUF_FIELD = 'tokenizer.chat_template'


class Found(NamedTuple):
  """A chat template that comes with weights.

  Attributes:
    file: where it is.
    name: the template of templates.NAMES with the same turns, '' if none has.
  """

  file: str
  name: str


def warning(template: str, init: str) -> str:
  """Says that weights were trained with another template than is in use.

  Args:
    template: data.template.
    init: where the weights come from: 'hf:DIR', 'gguf:FILE', 'workdir:DIR'; any
      other source has no template.

  Returns:
    The warning, '' if the template is the same or not known.

  Raises:
    ConfigError: a file that may hold the template is damaged.
  """
  kind, _, where = init.partition(':')
  if kind not in _READERS:
    return ''
  found = _READERS[kind](paths.expand(where))
  if found is None or found.name == template:
    return ''
  problem = (
    f'data.template is {template!r}, but the chat template in {found.file} '
  )
  if not found.name:
    legal = ', '.join(map(repr, templates.NAMES))
    return (
      f'{problem}is none of {legal}: the model sees prompts of another form'
    )
  return f'{problem}is {found.name!r}: --config.data.template={found.name}'


def _name(jinja: str) -> str:
  """Returns the template of templates.NAMES that a Jinja text writes, or ''."""
  for name, known in templates.JINJA.items():
    if jinja.strip() == known.strip():
      return name
  # Gemma's own text differs from ours, and from one size to the next.
  return 'gemma' if sentencepiece_models.START_OF_TURN in jinja else ''


def _from_hf(directory: str) -> Found | None:
  """Reads the places that transformers has used, the newest first."""
  file = os.path.join(directory, f'{_FIELD}.jinja')
  if os.path.isfile(file):
    return Found(file, _name(text_files.read(file)))
  for name in (added_tokens.CONFIG, f'{_FIELD}.json'):
    jinja = json_files.read_in(directory, name).get(_FIELD)
    if isinstance(jinja, list):  # Several, each with a name.
      named = [t for t in jinja if isinstance(t, dict)]
      defaults = [t for t in named if t.get('name') == 'default']
      jinja = defaults[0].get('template') if defaults else None
    if isinstance(jinja, str):
      return Found(os.path.join(directory, name), _name(jinja))
  return None


def _from_gguf(file: str) -> Found | None:
  jinja = gguf_parts.read(file).metadata.get(_GGUF_FIELD)
  return Found(file, _name(jinja)) if isinstance(jinja, str) else None


def _from_workdir(workdir: str) -> Found | None:
  data = json_files.read_in(workdir, 'config.json').get('data')
  name = data.get('template') if isinstance(data, dict) else None
  if name not in templates.NAMES:
    return None
  return Found(os.path.join(workdir, 'config.json'), name)


_READERS = {'hf': _from_hf, 'gguf': _from_gguf, 'workdir': _from_workdir}
