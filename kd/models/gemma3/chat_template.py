"""Gemma 3's turns; a system text goes in front of the first user message."""

from collections.abc import Sequence

from kd.models import chat_turns

MARKS = chat_turns.Marks('<start_of_turn>', '<end_of_turn>')

# Jinja's whitespace in `trim` is Python's str.strip, so both paths agree.
JINJA = """\
{{ bos_token }}
{%- set prefix = namespace(text='') -%}
{%- set turns = messages -%}
{%- if messages[0]['role'] == 'system' -%}
  {%- set prefix.text = messages[0]['content'] + '\\n\\n' -%}
  {%- set turns = messages[1:] -%}
{%- endif -%}
{%- for turn in turns -%}
  {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}
    {{ raise_exception('Roles must alternate: user, assistant, user, ...') }}
  {%- endif -%}
  {{ '<start_of_turn>' }}
  {{- 'model' if turn['role'] == 'assistant' else turn['role'] }}
  {{- '\\n' }}
  {{- prefix.text if loop.first else '' }}
  {{- turn['content'] | trim }}
  {{- '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""


def render(
  messages: Sequence[chat_turns.Message], generate: bool
) -> tuple[str, list[chat_turns.Turn]]:
  """Writes messages as text; see templates.render."""
  system, messages = chat_turns.split(messages, generate)
  start, end = MARKS
  prefix = '' if system is None else f'{system}\n\n'
  text, turns = chat_turns.BOS, []
  for i, message in enumerate(messages):
    is_model = chat_turns.is_model(message)
    text += f'{start}{"model" if is_model else "user"}\n'
    begin = len(text)
    said = message['content'].strip()
    text += (prefix if i == 0 else '') + said + end
    if is_model:
      rationale = chat_turns.rationale(message).lstrip()[: len(said)]
      turns.append(chat_turns.Turn(begin, begin + len(rationale), len(text)))
    text += '\n'
  if generate:
    text += f'{start}model\n'
  return text, turns


TEMPLATES = {
  'gemma': chat_turns.Template(
    render, JINJA, MARKS, lambda jinja: MARKS.start in jinja
  )
}
