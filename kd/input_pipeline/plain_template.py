"""Defines the template without turns: BOS, a prompt, an answer, EOS."""

from collections.abc import Sequence

from kd.core import errors
from kd.models import chat_turns
from kd.models import families

JINJA = """\
{{ bos_token }}
{%- for turn in messages -%}
  {%- set whole = {'type': 'text', 'text': turn['content']} -%}
  {%- set parts = [whole] if turn['content'] is string else turn['content'] -%}
  {%- for part in parts -%}
    {{ part['text'] if part['type'] == 'text' else '<start_of_image>' }}
  {%- endfor -%}
  {%- if turn['role'] == 'assistant' -%}{{ eos_token }}{%- endif -%}
{%- endfor -%}
"""


def render(
  messages: Sequence[chat_turns.Message], generate: bool
) -> tuple[str, list[chat_turns.Turn]]:
  """Writes messages as text; see templates.render."""
  roles = [m['role'] for m in messages]
  if roles not in (['user'], ['user', 'assistant'], ['user', 'model']):
    raise errors.ConfigError(
      'messages',
      f"the 'plain' template cannot write the turns {roles}",
      legal='one user turn, then at most one assistant turn; or data.template '
      f'{", ".join(map(repr, families.chat_templates()))}',
    )
  if any(map(chat_turns.tool_calls, messages)):
    raise errors.ConfigError(
      'messages',
      "the 'plain' template does not support tool calls",
      legal=f'data.template {", ".join(map(repr, families.chat_templates()))}',
    )
  prompt = chat_turns.BOS + messages[0]['content']
  if generate or len(messages) == 1:
    if len(messages) != 1:
      raise errors.ConfigError(
        'messages',
        'end with an assistant turn, so there is nothing to generate',
        legal='a user turn at the end',
      )
    return prompt, []
  text = prompt + messages[1]['content'] + chat_turns.EOS
  answer = len(prompt) + len(chat_turns.rationale(messages[1]))
  weight = chat_turns.weight(messages[1])
  return text, [chat_turns.Turn(len(prompt), answer, len(text), weight)]


# The text in exports of earlier versions, which did not support images.
_OF_TEXT = """\
{{ bos_token }}
{%- for turn in messages -%}
  {{ turn['content'] }}
  {%- if turn['role'] == 'assistant' -%}{{ eos_token }}{%- endif -%}
{%- endfor -%}
"""


def _recognizes(jinja: str) -> bool:
  return jinja.strip() == _OF_TEXT.strip()


TEMPLATE = chat_turns.Template(
  render, JINJA, recognizes=_recognizes, images=True
)
