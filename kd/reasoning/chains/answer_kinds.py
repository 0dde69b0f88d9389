"""Defines the kinds of answers: a number in the reply, or its whole text."""

from collections.abc import Callable
import dataclasses
import fractions

from kd.reasoning.arithmetic import answers

Value = fractions.Fraction | str


@dataclasses.dataclass(frozen=True)
class Text:
  """The whole text of a reply as its answer; see answers.Answer.

  Attributes:
    value: the text, with one space between words; None if it is empty.
    reason: why there is no value; '' if there is one.
    markers: 0, because only numbers have markers.
  """

  value: str | None
  reason: str
  markers: int = 0


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of answer.

  Attributes:
    read: finds the answer of a reply or of a reference solution.
    shown: writes an answer as text.
    has_steps: whether worked steps with checkable statements precede it.
  """

  read: Callable[[str], answers.Answer | Text]
  shown: Callable[[Value], str]
  has_steps: bool


def _text(reply: str) -> Text:
  value = ' '.join(reply.split())
  return Text(value, '') if value else Text(None, 'empty')


NUMBER = Kind(answers.extract, answers.to_text, has_steps=True)
# Kinds by the value of reasoning.answer.
KINDS = {'number': NUMBER, 'text': Kind(_text, str, has_steps=False)}
