"""One value of a config: its default, legal values and meaning."""

import dataclasses
from typing import Any

from kd.config import legal as legal_lib


class _Required:
  """Marks an argument without a default."""

  def __repr__(self):
    return 'required'


REQUIRED = _Required()


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
  """One value of a config.

  Attributes:
    default: its default, or REQUIRED.
    legal: its legal values.
    doc: what it means, with its unit.
    formerly: the name it had in earlier versions, which is refused with the
      new one suggested; '' if it never had another.
  """

  default: Any
  legal: legal_lib.Legal
  doc: str
  formerly: str = ''
