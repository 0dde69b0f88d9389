"""What a diagnosis finds, and the registry of diagnoses.

A diagnosis is a function of a RunRecord; the first line of its docstring says
when it names its cause. A plugin may register more (docs/extend.md).
"""

from collections.abc import Sequence
import dataclasses
import inspect

from kd.core import registry
from kd.diagnosis import run_record

# Functions from a run_record.RunRecord to a Finding or None, by their cause.
DIAGNOSES = registry.Registry('diagnosis')


@dataclasses.dataclass(frozen=True)
class Finding:
  """A cause of what went wrong.

  Attributes:
    evidence: what the run wrote that shows it.
    remedy: what to do.
    likelihood: how sure it is, from 0 to 1.
    hides: causes that are not named in addition, since this one explains what
      shows them.
    cause: its name in DIAGNOSES; `diagnose` sets it.
  """

  evidence: str
  remedy: str
  likelihood: float
  hides: tuple[str, ...] = ()
  cause: str = ''


def diagnose(record: run_record.RunRecord) -> list[Finding]:
  """Returns the causes that a run shows, the most likely first."""
  named = []
  for cause in DIAGNOSES.names():
    finding = DIAGNOSES[cause](record)
    if finding is not None:
      named.append(dataclasses.replace(finding, cause=cause))
  hidden = {cause for finding in named for cause in finding.hides}
  shown = [f for f in named if f.cause not in hidden]
  return sorted(shown, key=lambda f: (-f.likelihood, f.cause))


def about(cause: str) -> str:
  """Returns when a cause is named."""
  return inspect.getdoc(DIAGNOSES[cause]).splitlines()[0]


def lines(shown: Sequence[Finding]) -> list[str]:
  """Returns the findings as lines for a terminal."""
  text = []
  for number, finding in enumerate(shown, 1):
    text.append(f'{number}. {finding.cause}: {finding.evidence}')
    text.append(f'   {finding.remedy}')
  return text
