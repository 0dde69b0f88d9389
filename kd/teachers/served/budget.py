"""Counts what a served teacher costs; raises before a limit is exceeded."""

from collections.abc import Mapping
import dataclasses
import os
import threading

from kd.config import check as config_check
from kd.config import legal
from kd.config import schema
from kd.core import atomic_files
from kd.core import errors
from kd.core import json_files

FILE = 'spent.json'

_PATH = 'teacher.server.budget'
_MILLION = 1_000_000
# The file is ahead of what was spent by this many requests, so that it need not
# be written before each: a run that is killed has spent what it says, or less.
_AHEAD = 16
_NUMBER = legal.Number(at_least=0)
_COUNTED = schema.Section(
  'What was spent.',
  {
    name: schema.Field(schema.REQUIRED, _NUMBER, '')
    for name in ('requests', 'tokens', 'money')
  },
)


@dataclasses.dataclass(frozen=True)
class Prices:
  """Prices of a million tokens.

  Attributes:
    prompt: of prompts.
    generated: of what is generated.
  """

  prompt: float
  generated: float


class Budget:
  """What all runs with a folder have spent together, and may spend.

  Thread-safe.
  """

  def __init__(
    self,
    folder: str,
    limits: Mapping[str, float],
    prices: Prices,
    ahead: int = _AHEAD,
  ):
    """Reads what was spent.

    Args:
      folder: exists.
      limits: most `requests`, `tokens` and `money`; 0: no limit.
      prices: of tokens.
      ahead: requests by which the file is ahead.

    Raises:
      ConfigError: the file is damaged.
    """
    self._path = os.path.join(folder, FILE)
    self._limits, self._prices, self._ahead = dict(limits), prices, ahead
    self._lock = threading.Condition()
    self._under_way = 0
    self._spent = {'requests': 0, 'tokens': 0, 'money': 0.0}
    if os.path.exists(self._path):
      found = json_files.read(self._path, 'teacher.server.folder')
      config_check.check_node(_COUNTED, found, self._path)
      self._spent = found
    self._written = dict(self._spent)

  @property
  def spent(self) -> dict[str, float]:
    """Returns `requests`, `tokens` and `money`."""
    with self._lock:
      return dict(self._spent)

  def told(self) -> str:
    """Returns a phrase of what is spent, for the user."""
    spent = self.spent
    money = f', {spent["money"]:.4g} of money' if spent['money'] else ''
    return (
      f'{spent["requests"]:,} requests and {spent["tokens"]:,} tokens{money}'
    )

  def take(self, prompt: int, generated: int) -> None:
    """Counts a request that is about to be sent; call `finish` after it.

    Waits while requests are under way which may turn out to cost less.

    Args:
      prompt: most tokens of its prompt.
      generated: tokens that are generated at most.

    Raises:
      ConfigError: the budget could be exceeded; nothing is counted.
    """
    cost = self._cost(prompt, generated)
    with self._lock:
      while self._over(cost) and self._under_way:
        self._lock.wait()
      if name := self._over(cost):
        self._write(self._spent)
        raise errors.ConfigError(
          f'{_PATH}.{name}',
          f'found {self._limits[name]:g}, of which {self._spent[name]:g} is '
          'spent; the next request could make it '
          f'{self._spent[name] + cost[name]:g}',
          legal='more, and the same command: it resumes, and replies that '
          'have come are not asked for again',
        )
      self._under_way += 1
      for name, value in cost.items():
        self._spent[name] += value
      if any(self._spent[k] > self._written[k] for k in cost):
        ahead = {k: self._spent[k] + self._ahead * cost[k] for k in cost}
        self._write({k: min(x, self._limits[k] or x) for k, x in ahead.items()})

  def finish(
    self, prompt: int, generated: int, used: tuple[int, int] | None
  ) -> None:
    """Counts what a request has really used.

    Args:
      prompt: as `take` counted it.
      generated: likewise.
      used: tokens of its prompt, and generated ones; None: not known, and what
        was counted stays.
    """
    with self._lock:
      self._under_way -= 1
      if used is not None:
        counted, cost = self._cost(prompt, generated), self._cost(*used)
        for name, value in cost.items():
          self._spent[name] += value - counted[name]
      self._lock.notify_all()

  def _cost(self, prompt, generated):
    price = prompt * self._prices.prompt + generated * self._prices.generated
    return {
      'requests': 1,
      'tokens': prompt + generated,
      'money': price / _MILLION,
    }

  def _over(self, cost):
    """Returns the first limit that one more request exceeds; '' if none."""
    for name, most in self._limits.items():
      if most and self._spent[name] + cost[name] > most:
        return name
    return ''

  def close(self) -> None:
    """Writes what was spent."""
    with self._lock:
      self._write(self._spent)

  def _write(self, spent):
    self._written = dict(spent)
    atomic_files.write_json(self._path, spent)
