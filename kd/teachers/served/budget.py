"""Counts the costs of a served teacher; raises before they exceed a limit."""

from collections.abc import Mapping, Sequence
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
# The file counts this many requests in advance, so that it need not be written
# before each one. A killed run has spent no more than its file says.
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
  """Prices per million tokens.

  Attributes:
    prompt: price of prompt tokens.
    generated: price of generated tokens.
  """

  prompt: float
  generated: float


class Budget:
  """The costs and limits of all runs that share a folder; thread-safe."""

  def __init__(
    self,
    folder: str,
    limits: Mapping[str, float],
    prices: Prices,
    ahead: int = _AHEAD,
  ):
    """Reads the costs so far.

    Args:
      folder: an existing folder.
      limits: limits of `requests`, `tokens` and `money`; 0 for no limit.
      prices: prices of tokens.
      ahead: number of requests that the file counts in advance.

    Raises:
      ConfigError: the file is damaged.
    """
    self._path = os.path.join(folder, FILE)
    self._limits = {name: most for name, most in limits.items() if most}
    self._own_limits = dict(self._limits)  # Of this process; see `share`.
    self._prices, self._ahead = prices, ahead
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
    """The `requests`, `tokens` and `money` so far."""
    with self._lock:
      return dict(self._spent)

  def share(self, spent: Sequence[Mapping[str, float]]) -> None:
    """Limits this budget to an equal share of what may still be spent.

    Args:
      spent: what each of the budgets with these limits has spent.
    """
    for name, most in self._limits.items():
      left = most - sum(each[name] for each in spent)
      self._own_limits[name] = self._spent[name] + left / len(spent)

  def summary(self) -> str:
    """Returns a phrase for the user with the costs so far."""
    spent = self.spent
    money = f', {spent["money"]:.4g} of money' if spent['money'] else ''
    return (
      f'{spent["requests"]:,} requests and {spent["tokens"]:,} tokens{money}'
    )

  def reserve(self, prompt: int, generated: int) -> None:
    """Counts a request before it is sent; call `settle` after it.

    Waits if requests under way may turn out to cost less than was counted.

    Args:
      prompt: maximum number of tokens of the prompt.
      generated: maximum number of generated tokens.

    Raises:
      ConfigError: the budget could be exceeded; nothing is counted.
    """
    cost = self._cost(prompt, generated)
    with self._lock:
      while self._over(cost) and self._under_way:
        self._lock.wait()
      if name := self._over(cost):
        self._write(self._spent)
        share, own = '', self._own_limits[name]
        if own != self._limits[name]:
          share = f' ({own:g} in this process)'
        raise errors.ConfigError(
          f'{_PATH}.{name}',
          f'found {self._limits[name]:g}{share}, of which '
          f'{self._spent[name]:g} is spent; the next request could raise this '
          f'to {self._spent[name] + cost[name]:g}',
          legal='a higher limit; the same command then resumes and does not '
          'repeat requests that were answered',
        )
      self._under_way += 1
      for name, value in cost.items():
        self._spent[name] += value
      if any(self._spent[k] > self._written[k] for k in cost):
        ahead = {k: self._spent[k] + self._ahead * cost[k] for k in cost}
        most = self._own_limits
        self._write({k: min(x, most.get(k, x)) for k, x in ahead.items()})

  def settle(
    self, prompt: int, generated: int, used: tuple[int, int] | None
  ) -> None:
    """Replaces the counted costs of a request by the actual ones.

    Args:
      prompt: as for `reserve`.
      generated: as for `reserve`.
      used: actual numbers of prompt tokens and generated tokens. None if
        unknown: the counted costs remain.
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
    """Returns the first limit that one more request would exceed, or ''."""
    for name, most in self._own_limits.items():
      if self._spent[name] + cost[name] > most:
        return name
    return ''

  def close(self) -> None:
    """Writes the costs so far."""
    with self._lock:
      self._write(self._spent)

  def _write(self, spent):
    self._written = dict(spent)
    atomic_files.write_json(self._path, spent)
