"""Extracts the messages, the prompt and the answer of examples."""

from collections.abc import Mapping
from typing import Any

from kd.input_pipeline import templates
from kd.models import chat_turns

Example = Mapping[str, Any]

IMAGE = '[image]'  # Replaces an image in text that is displayed.


def is_document(example: Example) -> bool:
  """Returns whether an example is a text without turns."""
  return 'text' in example


def messages(example: Example) -> list[chat_turns.Message]:
  """Returns the messages of an example that is not a document.

  Args:
    example: contains messages, or inputs, targets and rationale.
  """
  if 'messages' in example:
    return list(example['messages'])
  texts = (example[field] for field in ('inputs', 'targets', 'rationale'))
  return templates.exchange(*texts)


def prompt(example: Example) -> list[chat_turns.Message]:
  """Returns the messages before the last answer; [] for a document."""
  if is_document(example):
    return []
  chat = messages(example)
  while chat and not chat_turns.is_model(chat[-1]):
    chat.pop()
  return chat[:-1]


def reference(example: Example, template: str = '') -> str:
  """Returns the last answer, with which generated answers are compared.

  Args:
    example: an example that is not a document.
    template: name of the template that formats tool calls; '' for a readable
      format.
  """
  if 'targets' in example:
    return example['targets']
  chat = messages(example)
  while not chat_turns.is_model(chat[-1]):
    chat.pop()
  if not chat_turns.tool_calls(chat[-1]):
    return chat[-1]['content']
  if not template:
    return _said(chat[-1])
  text, turns = templates.render(template, chat)
  marks = templates.TEMPLATES[template].marks
  return text[turns[-1].begin : turns[-1].end].removesuffix(marks.end)


def prompt_text(example: Example) -> str:
  """Returns the prompt as readable text; a chat includes its roles."""
  if 'inputs' in example:
    return example['inputs']
  return '\n'.join(map(_line, prompt(example)))


def _line(message: chat_turns.Message) -> str:
  return f'{message["role"]}: {_said(message)}'


def _said(message: chat_turns.Message) -> str:
  calls = [
    f'{call["name"]}({chat_turns.arguments(call)})'
    for call in chat_turns.tool_calls(message)
  ]
  content = message['content']
  if chat_turns.images(message):
    content = content.replace(chat_turns.IMAGE, IMAGE)
  return ' '.join(filter(None, [content, *calls]))
