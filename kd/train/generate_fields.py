"""The fields of a config's `generate`: what is legal, what they amount to."""

import ml_collections

from kd.core import errors
from kd.sampling import fields
from kd.sampling import requests

_LEAST = dict(samples=1, batch_size=1, seed=0)


def check(generate: ml_collections.ConfigDict) -> None:
  """Refuses what is illegal in a config's `generate`.

  Raises:
    ConfigError: names the first field.
  """
  fields.check(generate, 'generate')
  for name, least in _LEAST.items():
    if generate[name] < least:
      raise errors.ConfigError(
        f'generate.{name}', f'found {generate[name]}', legal=f'{least} or more'
      )
  for string in generate.stop_strings:
    if not isinstance(string, str) or not string:
      raise errors.ConfigError(
        'generate.stop_strings',
        f'holds {string!r}',
        legal='texts of a character or more',
      )


def settings_of(generate: ml_collections.ConfigDict) -> requests.Settings:
  """How answers are sampled."""
  return fields.settings(generate, tuple(generate.stop_strings))
