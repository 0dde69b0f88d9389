"""A value of a config, with its default, legal values and meaning."""

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
  """A value of a config.

  Attributes:
    default: default value, or REQUIRED.
    legal: legal values.
    doc: meaning of the value, with its unit.
    formerly: name of the field in earlier versions, which is refused with the
      new name suggested; '' if it was never renamed.
  """

  default: Any
  legal: legal_lib.Legal
  doc: str
  formerly: str = ''
