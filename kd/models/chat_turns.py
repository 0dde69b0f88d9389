"""The contract of chat templates: messages, turns and their marks."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import NamedTuple

from kd.core import errors

# Stand for the ids in a rendered text; not read as tokens.
BOS = '<bos>'
EOS = '<eos>'
ROLES = ('system', 'user', 'assistant', 'model')

Message = Mapping[str, str]


class Turn(NamedTuple):
  """A turn of the model in a text, in numbers of characters before it.

  Attributes:
    begin: where the model's text begins.
    answer: where its rationale ends; `begin` without a rationale.
    end: after the mark that ends the turn.
  """

  begin: int
  answer: int
  end: int


class Marks(NamedTuple):
  """The texts that begin and end a turn, one token each."""

  start: str
  end: str


@dataclasses.dataclass(frozen=True)
class Template:
  """One way to write messages as text.

  Attributes:
    render: called with messages and whether the model continues them; see
      kd.input_pipeline.templates.render.
    jinja: the same template for transformers and vLLM.
    marks: begin and end a turn; None for a template without turns, whose answer
      ends with EOS.
    recognizes: whether a published Jinja text writes these turns.
  """

  render: Callable[[Sequence[Message], bool], tuple[str, list[Turn]]]
  jinja: str
  marks: Marks | None = None
  recognizes: Callable[[str], bool] = lambda jinja: False


def rationale(message: Message) -> str:
  """Returns the beginning of a message's content that is its rationale."""
  return message['rationale'] if 'rationale' in message else ''


def is_model(message: Message) -> bool:
  """Returns whether the model says a message."""
  return message['role'] in ('assistant', 'model')


def split(
  messages: Sequence[Message], generate: bool
) -> tuple[str | None, Sequence[Message]]:
  """Checks the order of a chat's turns.

  Args:
    messages: the chat.
    generate: whether the model continues it.

  Returns:
    The system text, None without one, and the other messages.

  Raises:
    ConfigError: user and model do not take turns, the user first, or the last
      turn leaves nothing to generate.
  """
  legal = '[system,] user, assistant, user, ... in turn'
  system = None
  if messages and messages[0]['role'] == 'system':
    system, messages = messages[0]['content'], messages[1:]
  if not messages:
    raise errors.ConfigError('messages', 'hold no user turn', legal=legal)
  for i, message in enumerate(messages):
    role = 'model' if is_model(message) else message['role']
    expected = ('user', 'model')[i % 2]
    if role != expected:
      raise errors.ConfigError(
        f'messages, turn {i + 1}',
        f'is a {role} turn',
        nearest=expected,
        legal=legal,
      )
  if generate and is_model(messages[-1]):
    raise errors.ConfigError(
      'messages',
      'end with a model turn, so nothing is to generate',
      legal='a user turn at the end',
    )
  return system, messages
