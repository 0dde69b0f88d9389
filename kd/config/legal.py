"""Legal values of a field: how to check, describe and parse them."""

import ast
from collections.abc import Mapping
import dataclasses
import re
import reprlib
from typing import Any

import numpy as np

from kd.core import errors
from kd.core import registry

INT32 = 2**31 - 1
_NAMES = re.compile(r'[\w.~/][\w.~/:-]*(,[\w.~/][\w.~/:-]*)*,?')
SEEDS = 2**32 - 1  # jax.random.key reads the low 32 bits of a seed.
SECONDS = 864_000.0  # Ten days; a longer wait is as good as endless.


def shown(value: Any) -> str:
  """Formats a value for a message, shortened if necessary."""
  if isinstance(value, int) and not isinstance(value, bool):
    if value.bit_length() > 128:
      return f'an integer of {value.bit_length()} bits'
    return repr(value)
  if isinstance(value, str):
    return repr(value if len(value) <= 120 else value[:117] + '...')
  return reprlib.repr(value)


class Legal:
  """The legal values of a field.

  Attributes:
    text: description of the values for messages.
    kind: type of the values, such as 'a whole number'.
  """

  text = ''
  kind = ''

  def fault(self, value: Any) -> str:
    """Returns what is wrong with a value, or '' if it is legal."""
    raise NotImplementedError

  def nearest(self, value: Any) -> str:
    """Returns the legal name closest to an illegal value, or ''."""
    del value
    return ''

  def normal(self, value: Any) -> Any:
    """Returns a legal value in its normalized form."""
    return value

  def parse(self, text: str) -> Any:
    """Parses a value from the command line.

    Raises:
      ValueError: the text is not such a value.
    """
    raise NotImplementedError

  def _wrong_type(self, value: Any) -> str:
    return f'found {shown(value)} of type {type(value).__name__}'


@dataclasses.dataclass(frozen=True)
class Integer(Legal):
  """Integers in [least, most], and some with a special meaning (`also`)."""

  least: int
  most: int = INT32
  also: Mapping[int, str] = dataclasses.field(default_factory=dict)

  kind = 'a whole number'

  @property
  def text(self) -> str:
    special = [f'{value} ({meaning})' for value, meaning in self.also.items()]
    if self.most != INT32:
      usual = f'{self.least} to {self.most}'
    else:
      usual = f'{self.least} or more'
    return ', '.join((f'a whole number, {usual}', *special))

  def fault(self, value):
    if isinstance(value, bool) or not isinstance(value, int):
      return self._wrong_type(value)
    if value in self.also or self.least <= value <= self.most:
      return ''
    return f'found {shown(value)}'

  def normal(self, value):
    return int(value)

  def parse(self, text):
    if not re.fullmatch(r'[+-]?[0-9_]{1,40}', text, re.ASCII):
      raise ValueError
    return int(text)


@dataclasses.dataclass(frozen=True)
class Number(Legal):
  """Finite numbers in an interval, each end open or closed.

  Most of the program uses float32, so a number must be in the interval both
  before and after rounding to float32: 1e-60 is not above 0.
  """

  above: float | None = None
  at_least: float | None = None
  below: float | None = None
  at_most: float | None = None
  also: Mapping[float, str] = dataclasses.field(default_factory=dict)

  kind = 'a number'

  @property
  def text(self) -> str:
    ends = [
      f'above {self.above:g}' if self.above is not None else '',
      f'{self.at_least:g} or more' if self.at_least is not None else '',
      f'below {self.below:g}' if self.below is not None else '',
      f'at most {self.at_most:g}' if self.at_most is not None else '',
    ]
    usual = 'a number, ' + (' and '.join(x for x in ends if x) or 'finite')
    special = [f'{value:g} ({meaning})' for value, meaning in self.also.items()]
    return ', '.join((usual, *special))

  def holds(self, value: float) -> bool:
    """Returns whether a number is finite and in the interval as a float32.

    Args:
      value: the number, which is rounded to float32.
    """
    with np.errstate(over='ignore'):
      value = np.float32(value)
    return bool(np.isfinite(value)) and self._between(value, np.float32)

  def _between(self, value, kind) -> bool:
    """Returns whether a value is in the interval, with ends of type `kind`."""
    return (
      (self.above is None or value > kind(self.above))
      and (self.at_least is None or value >= kind(self.at_least))
      and (self.below is None or value < kind(self.below))
      and (self.at_most is None or value <= kind(self.at_most))
    )

  def fault(self, value):
    if isinstance(value, bool) or not isinstance(value, int | float):
      return self._wrong_type(value)
    if value in self.also:
      return ''
    try:
      if self.holds(float(value)) and self._between(float(value), float):
        return ''
    except OverflowError:
      pass
    return f'found {shown(value)}'

  def normal(self, value):
    return float(value)

  def parse(self, text):
    if not text.isascii():
      raise ValueError
    return float(text)


class Boolean(Legal):
  """True or False."""

  text = 'True or False'
  kind = 'True or False'
  _TEXTS = {'true': True, 't': True, '1': True}
  _TEXTS |= {'false': False, 'f': False, '0': False}

  def fault(self, value):
    return '' if isinstance(value, bool) else self._wrong_type(value)

  def parse(self, text):
    if text.lower() not in self._TEXTS:
      raise ValueError
    return self._TEXTS[text.lower()]


class Text(Legal):
  """Any text that can be written to a file."""

  text = 'text'
  kind = 'text'

  def fault(self, value):
    if not isinstance(value, str):
      return self._wrong_type(value)
    try:
      value.encode()
    except UnicodeEncodeError:
      return f'found {value!a}, which is not valid Unicode'
    return self._fault(value)

  def _fault(self, value: str) -> str:
    del value
    return ''

  def parse(self, text):
    return text


@dataclasses.dataclass(frozen=True)
class Containing(Text):
  """Text that contains `part`."""

  part: str

  @property
  def text(self) -> str:
    return f'text with {self.part!r}'

  def _fault(self, value):
    return '' if self.part in value else f'found {shown(value)}'


@dataclasses.dataclass(frozen=True)
class Matching(Text):
  """Text that matches a whole pattern.

  Attributes:
    pattern: a regular expression.
    text: description of the matching values.
    formerly: current values by values of earlier versions.
  """

  pattern: str
  text: str
  formerly: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def _fault(self, value):
    if re.fullmatch(self.pattern, value):
      return ''
    return f'found {shown(value)}'


@dataclasses.dataclass(frozen=True)
class Expression(Text):
  """A regular expression of Python's `re`; may be empty if `optional`."""

  optional: bool = False

  @property
  def text(self) -> str:
    empty = "'' or " if self.optional else ''
    return f'{empty}a regular expression'

  def _fault(self, value):
    try:
      re.compile(value)
    except (re.error, RecursionError) as e:
      return f'found {shown(value)}: {e}'
    return '' if value or self.optional else 'found an empty one'


@dataclasses.dataclass(frozen=True)
class OneOf(Text):
  """One of a few names.

  Attributes:
    names: the legal names.
    formerly: current names by names of earlier versions.
    kind: kind of the registry to which plugins may add names; '' if none.
  """

  names: tuple[str, ...]
  formerly: Mapping[str, str] = dataclasses.field(default_factory=dict)
  kind: str = ''

  @property
  def text(self) -> str:
    text = ', '.join(repr(name) for name in self._all())
    if not self.kind:
      return text
    return (
      f'{text}, or one of a plugin' if text else f'a {self.kind} of a plugin'
    )

  def _all(self) -> list[str]:
    """Returns the names, including those registered by plugins."""
    known = registry.of(self.kind)
    more = known.names() if known else []
    return [*self.names, *(name for name in more if name not in self.names)]

  def _fault(self, value):
    return '' if value in self._all() else f'unknown value {shown(value)}'

  def nearest(self, value):
    if isinstance(value, str) and value in self.formerly:
      return self.formerly[value]
    return errors.nearest(str(value), filter(None, self._all()))


@dataclasses.dataclass(frozen=True)
class Tuple(Legal):
  """A tuple or list of values of one kind."""

  item: Legal
  least: int = 0

  kind = 'a tuple'

  @property
  def text(self) -> str:
    count = f' of {self.least} or more' if self.least else ''
    return f'a tuple{count}, each {self.item.text}'

  def fault(self, value):
    if not isinstance(value, tuple | list):
      return self._wrong_type(value)
    if len(value) < self.least:
      return f'found {len(value)} values'
    for item in value:
      fault = self.item.fault(item)
      if fault:
        return f'{fault} in {shown(tuple(value))}'
    return ''

  def normal(self, value):
    return tuple(self.item.normal(item) for item in value)

  def parse(self, text):
    # Names, paths and URLs need no quotes.
    if isinstance(self.item, Text) and _NAMES.fullmatch(text):
      return tuple(filter(None, text.split(',')))
    try:
      value = ast.literal_eval(text)
    except (SyntaxError, MemoryError, RecursionError, TypeError) as e:
      raise ValueError from e
    return tuple(value) if isinstance(value, tuple | list) else (value,)


@dataclasses.dataclass(frozen=True)
class Scheduled(Legal):
  """A number, or a schedule with only legal values.

  Attributes:
    number: the legal values.
    constant: whether a number is legal in place of a schedule.
    ever_positive: whether the value must be above 0 at some step.
  """

  number: Number
  constant: bool = True
  ever_positive: bool = False

  kind = 'a number or a schedule'

  @property
  def text(self) -> str:
    more = ', and not 0 throughout' if self.ever_positive else ''
    if self.constant:
      return f'{self.number.text}{more}; or a schedule of such numbers'
    return f'a schedule of {self.number.text.replace("a number", "numbers")}'

  def fault(self, value):
    if not self.constant:
      return self._wrong_type(value)
    return self.number.fault(value)

  def normal(self, value):
    return self.number.normal(value)

  def parse(self, text):
    return self.number.parse(text)


def one_of(
  *names: str, formerly: Mapping[str, str] | None = None, kind: str = ''
) -> OneOf:
  return OneOf(names, formerly or {}, kind)


POSITIVE = Integer(1)
COUNT = Integer(0)
ALL_OR_COUNT = Integer(1, also={-1: 'all'})
SEED = Integer(0, SEEDS)
BOOLEAN = Boolean()
TEXT = Text()
EXPRESSION = Expression()
SPLIT = Matching('.+', 'the name of a split')
MODULE = Matching(r'[^\W\d]\w*(\.[^\W\d]\w*)*', "a Python module's name")
DTYPE = one_of('bfloat16', 'float32')
DURATION = Number(above=0, at_most=SECONDS)
