"""The interface of chat templates: messages, turns and their marks."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import re
from typing import Any, NamedTuple

from kd.core import errors

# Placeholders of the ids in a rendered text, removed before tokenization.
BOS = '<bos>'
EOS = '<eos>'
# Placeholder of an image in a content. Users' texts never contain it.
IMAGE = '\0'
ROLES = ('system', 'user', 'assistant', 'model', 'tool')
ORDER = '[system,] user, assistant, [tool, ..., assistant,] user, ...'

# A dict of role and content. A model's message may also have weight, rationale
# and tool_calls; a user's may have images, a base64 file for each IMAGE.
Message = Mapping[str, Any]


class Turn(NamedTuple):
  """A turn of the model in a text, as offsets in characters.

  Attributes:
    begin: start of the model's text.
    answer: end of its rationale; `begin` without a rationale.
    end: end of the mark that ends the turn.
    weight: weight of each of its tokens.
  """

  begin: int
  answer: int
  end: int
  weight: float = 1.0


class Marks(NamedTuple):
  """The texts that begin and end a turn, one token each."""

  start: str
  end: str


@dataclasses.dataclass(frozen=True)
class Template:
  """A format of messages as text.

  Attributes:
    render: called with messages and whether the model continues them; see
      kd.input_pipeline.templates.render.
    jinja: the same template for transformers and vLLM.
    marks: marks of a turn; None for a template without turns, in which EOS ends
      the answer.
    recognizes: returns whether a published Jinja template writes these turns.
    images: whether users' messages may have images.
  """

  render: Callable[[Sequence[Message], bool], tuple[str, list[Turn]]]
  jinja: str
  marks: Marks | None = None
  recognizes: Callable[[str], bool] = lambda jinja: False
  images: bool = False

  @property
  def jinja_of_gguf(self) -> str:
    """Returns `jinja` without its `generation` blocks.

    Releases of llama-cpp-python before May 2026 cannot parse these blocks.
    """
    return re.sub(r'{%- (end)?generation -%}', "{{- '' -}}", self.jinja)


def rationale(message: Message) -> str:
  """Returns a message's rationale, a prefix of its content."""
  return message['rationale'] if 'rationale' in message else ''


def weight(message: Message) -> float:
  """Returns the weight of each token of a model's message."""
  return message['weight'] if 'weight' in message else 1.0


def tool_calls(message: Message) -> Sequence[Mapping[str, Any]]:
  """Returns a message's tool calls, each with name and arguments."""
  return message['tool_calls'] if 'tool_calls' in message else ()


def images(message: Message) -> Sequence[str]:
  """Returns a message's images, each as a base64 file."""
  return message['images'] if 'images' in message else ()


def arguments(call: Mapping[str, Any]) -> str:
  """Returns the arguments of a call as JSON; strings are JSON already."""
  given = call['arguments']
  if isinstance(given, str):
    return given
  return json.dumps(given, ensure_ascii=False)


def is_model(message: Message) -> bool:
  """Returns whether a message is the model's."""
  return message['role'] in ('assistant', 'model')


def out_of_order(messages: Sequence[Message]) -> tuple[int, str] | None:
  """Finds the first turn that cannot follow the one before it.

  Args:
    messages: the chat; a system text may come first.

  Returns:
    Its index from 0, and the legal roles there; None if all are in order.
  """
  after = {'': 'user', 'user': 'model', 'model': 'user', 'tool': 'model'}
  before = ''
  for i, message in enumerate(messages):
    role = 'model' if is_model(message) else message['role']
    if role == 'system' and i == 0:
      continue
    # Several tools may respond, but only after a model's turn.
    if role != after[before] and (role, before) not in _TOOL_TURNS:
      more = ' or tool' if before in ('model', 'tool') else ''
      return i, after[before].replace('model', 'assistant') + more
    before = role
  return None


_TOOL_TURNS = (('tool', 'model'), ('tool', 'tool'))


def split(
  messages: Sequence[Message], generate: bool
) -> tuple[str | None, list[list[Message]]]:
  """Checks the order of a chat's messages and divides it into turns.

  Args:
    messages: the chat.
    generate: whether the model continues it.

  Returns:
    The system text, None without one; the turns, each with one message, or with
    the results of all tools that were called together.

  Raises:
    ConfigError: user and model do not alternate, starting with the user, or the
      last turn leaves nothing to generate.
  """
  system = None
  place = out_of_order(messages)
  if messages and messages[0]['role'] == 'system':
    system, messages = messages[0]['content'], messages[1:]
  if not messages:
    raise errors.ConfigError('messages', 'contain no user turn', legal=ORDER)
  if place is not None:
    at, expected = place[0] - (system is not None), place[1]
    role = 'model' if is_model(messages[at]) else messages[at]['role']
    raise errors.ConfigError(
      f'messages, turn {at + 1}',
      f'is a {role} turn',
      nearest=expected,
      legal=ORDER,
    )
  if generate and is_model(messages[-1]):
    raise errors.ConfigError(
      'messages',
      'end with a model turn, so there is nothing to generate',
      legal='a user turn at the end',
    )
  turns: list[list[Message]] = []
  for message in messages:
    if turns and message['role'] == turns[-1][0]['role'] == 'tool':
      turns[-1].append(message)
    else:
      turns.append([message])
  return system, turns
