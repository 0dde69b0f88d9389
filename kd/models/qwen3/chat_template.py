"""Qwen3's turns (ChatML), with a block of thoughts before the last answer.

Model turns after the last user message, which call tools, keep theirs.
"""

from collections.abc import Sequence

from kd.models import chat_turns

MARKS = chat_turns.Marks('<|im_start|>', '<|im_end|>')
_OPEN, _CLOSE = '<think>', '</think>'
_NO_THOUGHTS = f'{_OPEN}\n\n{_CLOSE}\n\n'

# The published template also lists the available tools. `generation` marks the
# assistant's text, for transformers' return_assistant_tokens_mask.
_JINJA = """\
{%- set system = messages[0]['role'] == 'system' -%}
{%- set turns = messages[1:] if system else messages -%}
{%- if system -%}
  {{ '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif -%}
{%- set asked = namespace(last=0) -%}
{%- for turn in turns -%}
  {%- if turn['role'] == 'user' -%}
    {%- set asked.last = loop.index -%}
  {%- endif -%}
{%- endfor -%}
{%- set before = namespace(role='') -%}
{%- for turn in turns -%}
  {%- set model_said = before.role == 'assistant' -%}
  {%- set told = before.role == 'tool' -%}
  {%- if not (
    (turn['role'] == 'assistant' and not loop.first and not model_said)
    or (turn['role'] == 'user' and (loop.first or model_said))
    or (turn['role'] == 'tool' and (model_said or told))
  ) -%}
    {{ raise_exception('Roles must alternate: user, assistant, user, ...') }}
  {%- endif -%}
  {%- set before.role = turn['role'] -%}
  {%- if turn['role'] == 'user' -%}
    {{ '<|im_start|>user\\n' + turn['content'] + '<|im_end|>\\n' }}
  {%- elif turn['role'] == 'tool' -%}
    {{ '' if told else '<|im_start|>user' }}
    {{- '\\n<tool_response>\\n' + turn['content'] + '\\n</tool_response>' }}
    {%- if loop.last or loop.nextitem['role'] != 'tool' -%}
      {{ '<|im_end|>\\n' }}
    {%- endif -%}
  {%- else -%}
    {%- set content = turn['content'] or '' -%}
    {%- set parts = content.split('</think>') -%}
    {%- set thoughts = '' -%}
    {%- set answer = content -%}
    {%- if parts | length > 1 -%}
      {%- set thoughts = parts[0].split('<think>')[-1].strip('\\n') -%}
      {%- set answer = parts[-1].lstrip('\\n') -%}
    {%- endif -%}
    {{ '<|im_start|>assistant\\n' }}
    {%- set block = '' -%}
    {%- if loop.last or (thoughts and loop.index > asked.last) -%}
      {%- set block = '<think>\\n' + thoughts + '\\n</think>\\n\\n' -%}
      {%- set answer = answer.lstrip('\\n') -%}
    {%- endif -%}
    {%- if not thoughts and (CONDITION) -%}
      {{ block }}
      {%- set block = '' -%}
    {%- endif -%}
    {%- generation -%}
    {{ block + answer }}
    {%- for call in turn['tool_calls'] or [] -%}
      {%- set call = call['function'] or call -%}
      {{ '\\n' if answer or not loop.first else '' }}
      {{- '<tool_call>\\n{"name": "' + call['name'] + '", "arguments": ' }}
      {%- if call['arguments'] is string -%}
        {{ call['arguments'] }}
      {%- else -%}
        {{ call['arguments'] | tojson }}
      {%- endif -%}
      {{ '}\\n</tool_call>' }}
    {%- endfor -%}
    {{ '<|im_end|>' }}
    {%- endgeneration -%}
    {{ '\\n' }}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{ '<|im_start|>assistant\\n' }}
  {%- if CONDITION -%}
    {{ '<think>\\n\\n</think>\\n\\n' }}
  {%- endif -%}
{%- endif -%}
"""
JINJA = _JINJA.replace(
  'CONDITION', 'enable_thinking is defined and not enable_thinking'
)
NO_THINKING_JINJA = _JINJA.replace('CONDITION', 'true')


def render(
  messages: Sequence[chat_turns.Message], generate: bool
) -> tuple[str, list[chat_turns.Turn]]:
  """Writes messages as text in which the model opens its block of thoughts.

  See templates.render. The block is part of the model's last turn, even if it
  is empty, and turns before the last user message lose theirs, as in the
  training of Qwen3.
  """
  return _render(messages, generate, thinking=True)


def render_without_thinking(
  messages: Sequence[chat_turns.Message], generate: bool
) -> tuple[str, list[chat_turns.Turn]]:
  """Writes messages as text whose prompt ends in an empty block of thoughts.

  See templates.render, and `enable_thinking=False` of Qwen3's own template.
  """
  return _render(messages, generate, thinking=False)


def _render(messages, generate, thinking):
  system, groups = chat_turns.split(messages, generate)
  start, end = MARKS
  text = '' if system is None else f'{start}system\n{system}{end}\n'
  turns = []
  asked = max(i for i, g in enumerate(groups) if g[0]['role'] == 'user')
  for i, group in enumerate(groups):
    message, is_last = group[0], i == len(groups) - 1
    if chat_turns.is_model(message):
      text += f'{start}assistant\n'
      block, said, rationale = _parts(message, is_last, i > asked)
      begin, answer = len(text), len(text) + len(block)
      if block == _NO_THOUGHTS and not thinking:
        begin = answer  # The prompt ends with the block.
      worked = answer + len(rationale)
      if not chat_turns.rationale(message):
        worked = begin
      text += block + said + _calls(message, said) + end
      weight = chat_turns.weight(message)
      turns.append(chat_turns.Turn(begin, worked, len(text), weight))
    elif message['role'] == 'tool':
      text += f'{start}user{"".join(map(_result, group))}{end}'
    else:
      text += f'{start}user\n{message["content"]}{end}'
    text += '\n'
  if generate:
    text += f'{start}assistant\n' + ('' if thinking else _NO_THOUGHTS)
  return text, turns


def _parts(
  message: chat_turns.Message, is_last: bool, keeps_thoughts: bool
) -> tuple[str, str, str]:
  """Splits a message of the model.

  Args:
    message: its content may contain a block of thoughts.
    is_last: whether the turn is the last, which has the block even if there are
      no thoughts.
    keeps_thoughts: whether no message of the user follows.

  Returns:
    The block with its separator from the answer, the answer, and the prefix of
    the answer that is rationale.
  """
  said, rationale = message['content'], chat_turns.rationale(message)
  thoughts, is_closed = '', _CLOSE in said
  if is_closed:
    thoughts = said.partition(_CLOSE)[0].split(_OPEN)[-1].strip('\n')
    said = said.rpartition(_CLOSE)[2]
    # The rationale is a prefix of the content, so it may end in the block.
    _, closed, rationale = rationale.rpartition(_CLOSE)
    rationale = rationale if closed else ''
  if is_closed or is_last:
    stripped = said.lstrip('\n')
    rationale = rationale[len(said) - len(stripped) :]
    said = stripped
  block = ''
  if is_last or (thoughts and keeps_thoughts):
    block = f'{_OPEN}\n{thoughts}\n{_CLOSE}\n\n'
  return block, said, rationale


def _calls(message: chat_turns.Message, said: str) -> str:
  """Returns the tool calls that follow the model's text."""
  text = ''
  for call in chat_turns.tool_calls(message):
    arguments = chat_turns.arguments(call)
    text += '\n' if said or text else ''
    text += f'<tool_call>\n{{"name": "{call["name"]}", "arguments": '
    text += f'{arguments}}}\n</tool_call>'
  return text


def _result(message: chat_turns.Message) -> str:
  return f'\n<tool_response>\n{message["content"]}\n</tool_response>'


def _recognizes(jinja: str) -> bool:
  """Returns whether a Jinja template has the switch between both forms.

  Qwen2.5's template has the same marks, and a default system text.
  """
  return MARKS.start in jinja and 'enable_thinking' in jinja


# The default form of published templates comes first.
TEMPLATES = {
  'qwen3': chat_turns.Template(render, JINJA, MARKS, _recognizes),
  'qwen3_no_thinking': chat_turns.Template(
    render_without_thinking, NO_THINKING_JINJA, MARKS, _recognizes
  ),
}
