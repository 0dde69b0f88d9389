"""How a model is asked for worked steps: examples in front, or a chat."""

from collections.abc import Sequence
import os

from kd.core import errors
from kd.input_pipeline import templates
from kd.reasoning.arithmetic import answers
from kd.reasoning.chains import questions as questions_lib

STYLES = ('few_shot', 'chat')
Question = questions_lib.Question

_BETWEEN = '\n\n'  # Between one example and the next.
_LONGEST_STOP = 24  # Characters.


def messages(
  style: str, instruction: str, shots: Sequence[Question], question: Question
) -> list[templates.Message]:
  """What a model is asked, as for templates.render.

  Args:
    style: few_shot (the examples stand in front of the question as text) or
      chat (they are turns that came before).
    instruction: of a chat, in front of its first question.
    shots: examples, worked.
    question: to be solved.
  """
  if style == 'few_shot':
    examples = (f'{s.inputs}{_worked(s)}{_BETWEEN}' for s in shots)
    return templates.exchange(''.join(examples) + question.inputs)
  turns = []
  for shot in shots:
    turns += templates.exchange(shot.inputs, _worked(shot), shot.rationale)
  turns += templates.exchange(question.inputs)
  first = dict(turns[0])
  first['content'] = f'{instruction}{_BETWEEN}{first["content"]}'
  return [first, *turns[1:]]


def _worked(shot: Question) -> str:
  """Returns a solution without calculator marks, as answers are wanted."""
  return answers.without_marks(shot.worked)


def stop_strings(style: str, asked: Sequence[Question]) -> tuple[str, ...]:
  """Where a reply would go on to ask: all questions' common beginning.

  Args:
    style: as above; a chat's turns end by themselves.
    asked: all questions and examples.

  Returns:
    The string that ends a reply, or none where questions begin differently.
  """
  if style != 'few_shot':
    return ()
  common = os.path.commonprefix([q.inputs for q in asked]).partition('\n')[0]
  head, colon, _ = common.partition(':')
  opening = (head + colon if colon else common)[:_LONGEST_STOP].strip()
  return (f'\n{opening}',) if opening else ()


def check(style: str, shots: int, template: str) -> None:
  """Refuses a style that the template cannot write.

  Raises:
    ConfigError: an unknown style, or a chat with examples in plain text.
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
