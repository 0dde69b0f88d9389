"""Gemma 3's turns, with the system text before the first user message.

Gemma 3 has no tokens for tools. As in its guide to function calling, the model
writes calls as JSON, {"name": ..., "parameters": ...}. Results are in a user
turn, in blocks that begin with ```tool_output.
"""

from collections.abc import Sequence
import json

from kd.models import chat_turns

MARKS = chat_turns.Marks('<start_of_turn>', '<end_of_turn>')
_RESULT = '```tool_output\n', '\n```'

# Jinja's `trim` strips the same characters as Python's str.strip, and
# transformers' `tojson` is json.dumps as below, so both paths agree.
# `generation` marks the assistant's text, for transformers'
# return_assistant_tokens_mask.
JINJA = """\
{{ bos_token }}
{%- set prefix = namespace(text='', role='') -%}
{%- set turns = messages -%}
{%- if messages[0]['role'] == 'system' -%}
  {%- set prefix.text = messages[0]['content'] + '\\n\\n' -%}
  {%- set turns = messages[1:] -%}
{%- endif -%}
{%- for turn in turns -%}
  {%- set model_said = prefix.role == 'assistant' -%}
  {%- set told = prefix.role == 'tool' -%}
  {%- if not (
    (turn['role'] == 'assistant' and not loop.first and not model_said)
    or (turn['role'] == 'user' and (loop.first or model_said))
    or (turn['role'] == 'tool' and (model_said or told))
  ) -%}
    {{ raise_exception('Roles must alternate: user, assistant, user, ...') }}
  {%- endif -%}
  {%- set prefix.role = turn['role'] -%}
  {%- if turn['role'] == 'tool' -%}
    {{ '\\n' if told else '<start_of_turn>user\\n' }}
    {{- '```tool_output\\n' + turn['content'] | trim + '\\n```' }}
    {%- if loop.last or loop.nextitem['role'] != 'tool' -%}
      {{ '<end_of_turn>\\n' }}
    {%- endif -%}
  {%- elif turn['role'] == 'user' -%}
    {{ '<start_of_turn>user\\n' }}
    {{- prefix.text if loop.first else '' }}
    {%- set said = namespace(text='') -%}
    {%- set parts = turn['content'] -%}
    {%- if parts is string -%}
      {%- set parts = [{'type': 'text', 'text': parts}] -%}
    {%- endif -%}
    {%- for part in parts -%}
      {%- if part['type'] == 'text' -%}
        {%- set said.text = said.text + part['text'] -%}
      {%- else -%}
        {{ said.text | trim }}
        {{- '<start_of_image>' }}
        {%- set said.text = '' -%}
      {%- endif -%}
    {%- endfor -%}
    {{ said.text | trim }}
    {{- '<end_of_turn>\\n' }}
  {%- else -%}
    {{ '<start_of_turn>model\\n' }}
    {%- generation -%}
    {%- set said = (turn['content'] or '') | trim -%}
    {{ said }}
    {%- for call in turn['tool_calls'] or [] -%}
      {%- set call = call['function'] or call -%}
      {{ '\\n' if said or not loop.first else '' }}
      {{- '{"name": ' + call['name'] | tojson + ', "parameters": ' }}
      {%- if call['arguments'] is string -%}
        {{ call['arguments'] }}
      {%- else -%}
        {{ call['arguments'] | tojson }}
      {%- endif -%}
      {{ '}' }}
    {%- endfor -%}
    {{ '<end_of_turn>' }}
    {%- endgeneration -%}
    {{ '\\n' }}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""


def render(
  messages: Sequence[chat_turns.Message], generate: bool
) -> tuple[str, list[chat_turns.Turn]]:
  """Writes messages as text; see templates.render."""
  system, groups = chat_turns.split(messages, generate)
  start, end = MARKS
  prefix = '' if system is None else f'{system}\n\n'
  text, turns = chat_turns.BOS, []
  for i, group in enumerate(groups):
    message = group[0]
    is_model = chat_turns.is_model(message)
    text += f'{start}{"model" if is_model else "user"}\n'
    begin = len(text)
    body = _model_text(message) if is_model else _user_text(group)
    text += (prefix if i == 0 else '') + body + end
    if is_model:
      rationale = chat_turns.rationale(message).lstrip()[: len(body)]
      turns.append(
        chat_turns.Turn(
          begin, begin + len(rationale), len(text), chat_turns.weight(message)
        )
      )
    text += '\n'
  if generate:
    text += f'{start}model\n'
  return text, turns


def _model_text(message: chat_turns.Message) -> str:
  """Returns the text of a model's message, then its calls, one per line."""
  lines = [message['content'].strip()]
  lines = lines if lines[0] else []
  for call in chat_turns.tool_calls(message):
    name = json.dumps(call['name'], ensure_ascii=False)
    arguments = chat_turns.arguments(call)
    lines.append(f'{{"name": {name}, "parameters": {arguments}}}')
  return '\n'.join(lines)


def _user_text(messages: Sequence[chat_turns.Message]) -> str:
  """Returns the text of a user's message, or the results of tools."""
  if messages[0]['role'] != 'tool':
    # The published template trims each part of a content.
    parts = messages[0]['content'].split(chat_turns.IMAGE)
    return chat_turns.IMAGE.join(part.strip() for part in parts)
  first, last = _RESULT
  return '\n'.join(f'{first}{m["content"].strip()}{last}' for m in messages)


TEMPLATES = {
  'gemma': chat_turns.Template(
    render, JINJA, MARKS, lambda jinja: MARKS.start in jinja, images=True
  )
}
