"""Messages of a chat, and where the model's turns are in the text of one."""

from collections.abc import Mapping, Sequence
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
