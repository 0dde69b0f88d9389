"""Defines the result of a diagnosis and the registry of diagnoses.

A diagnosis is a function of a RunRecord. The first line of its docstring is the
condition under which its cause is reported. Plugins may register more
(docs/extend.md).
"""

from collections.abc import Sequence
import dataclasses
import inspect

from kd.core import registry
from kd.diagnosis import run_record

# Functions from a run_record.RunRecord to a Finding or None, by cause.
DIAGNOSES = registry.Registry('diagnosis')


@dataclasses.dataclass(frozen=True)
class Finding:
  """A likely cause of a problem of a run.

  Attributes:
    evidence: the observations that support it.
    remedy: the recommended changes.
    likelihood: confidence in the cause, from 0 to 1.
    hides: other causes that are not reported, since this one explains their
      evidence.
    cause: its name in DIAGNOSES; set by `diagnose`.
  """

  evidence: str
  remedy: str
  likelihood: float
  hides: tuple[str, ...] = ()
  cause: str = ''


def diagnose(record: run_record.RunRecord) -> list[Finding]:
  """Returns the likely causes of a run's problems, the most likely first."""
  named = []
  for cause in DIAGNOSES.names():
    finding = DIAGNOSES[cause](record)
    if finding is not None:
      named.append(dataclasses.replace(finding, cause=cause))
  hidden = {cause for finding in named for cause in finding.hides}
  shown = [f for f in named if f.cause not in hidden]
  return sorted(shown, key=lambda f: (-f.likelihood, f.cause))


def about(cause: str) -> str:
  """Returns the condition under which a cause is reported."""
  return inspect.getdoc(DIAGNOSES[cause]).splitlines()[0]


def lines(shown: Sequence[Finding]) -> list[str]:
  """Returns the findings as lines for a terminal."""
  text = []
  for number, finding in enumerate(shown, 1):
    text.append(f'{number}. {finding.cause}: {finding.evidence}')
    text.append(f'   {finding.remedy}')
  return text
