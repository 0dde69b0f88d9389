"""Builds prompts for worked steps, with few-shot examples or a chat."""

from collections.abc import Sequence
import os

from kd.core import errors
from kd.input_pipeline import templates
from kd.models import chat_turns
from kd.reasoning.arithmetic import answers
from kd.reasoning.chains import questions as questions_lib

STYLES = ('few_shot', 'chat')
Question = questions_lib.Question

_SEPARATOR = '\n\n'  # Between examples.
_MAX_STOP_CHARS = 24


def messages(
  style: str,
  instruction: str,
  shots: Sequence[Question],
  question: Question,
  keep_chat: bool = False,
) -> list[templates.Message]:
  """Returns the messages of a prompt, for templates.render.

  Args:
    style: few_shot (the examples are text before the question) or chat (the
      examples are previous turns).
    instruction: text before the first question of a chat.
    shots: worked examples.
    question: the question to solve.
    keep_chat: whether a question that is a chat keeps its turns; otherwise it
      is one text.

  Raises:
    ConfigError: such a chat has images.
  """
  if style == 'few_shot':
    examples = (f'{s.inputs}{_solution(s)}{_SEPARATOR}' for s in shots)
    return templates.exchange(''.join(examples) + question.inputs)
  turns = []
  for shot in shots:
    turns += templates.exchange(shot.inputs, _solution(shot), shot.rationale)
  keeps = keep_chat and question.chat
  if keeps and any(chat_turns.images(m) for m in question.chat):
    raise errors.ConfigError(
      'reasoning.model',
      f"found 'server', and {question.id!r} has images, which it is not sent",
      legal='examples without images',
    )
  turns += question.chat if keeps else templates.exchange(question.inputs)
  first = dict(turns[0])
  if instruction:
    first['content'] = f'{instruction}{_SEPARATOR}{first["content"]}'
  return [first, *turns[1:]]


def _solution(shot: Question) -> str:
  """Returns the solution of an example without calculator marks."""
  return answers.without_marks(shot.solution)


def stop_strings(style: str, questions: Sequence[Question]) -> tuple[str, ...]:
  """Returns the strings that end a reply: the common prefix of questions.

  A few-shot reply may continue with another question.

  Args:
    style: see `messages`; a chat needs no stop string.
    questions: all questions and examples.

  Returns:
    One string, or none if the questions have no common prefix.
  """
  if style != 'few_shot':
    return ()
  common = os.path.commonprefix([q.inputs for q in questions]).partition('\n')[
    0
  ]
  head, colon, _ = common.partition(':')
  opening = (head + colon if colon else common)[:_MAX_STOP_CHARS].strip()
  return (f'\n{opening}',) if opening else ()


def check(style: str, shots: int, template: str) -> None:
  """Raises if the template does not support the style.

  Raises:
    ConfigError: the style is unknown, or a chat with examples has a template
      without turns.
  """
  if style not in STYLES:
    raise errors.unknown('reasoning.style', 'style', style, STYLES)
  if style == 'chat' and shots and not templates.has_turns(template):
    raise errors.ConfigError(
      'reasoning.style',
      f"found 'chat' with {shots} examples, and data.template {template!r} has "
      'one turn',
      legal="'few_shot', reasoning.shots=0, or data.template "
      f'{templates.with_turns()}',
    )
