"""Writes the advice of a NonFiniteError: its cause and what to change."""

from collections.abc import Sequence
import dataclasses


@dataclasses.dataclass(frozen=True)
class Checkpoints:
  """The checkpoints of a run.

  Attributes:
    steps: steps of the kept checkpoints, increasing.
    best: step of the checkpoint with the best evaluation, if there is one.
    folder: folder of the checkpoints.
  """

  steps: Sequence[int]
  best: int | None
  folder: str


def advice(
  teachers: Sequence[str],
  unchanged_since: int,
  student_init: str,
  checkpoints: Checkpoints,
) -> str:
  """Returns which checkpoint or weights are at fault, and what to change.

  A nonfinite step changes no parameter, and a resumed run repeats the same
  steps. A checkpoint is thus at fault exactly if it was saved after the last
  update that changed the parameters.

  Args:
    teachers: names of the nonfinite teachers, if any.
    unchanged_since: number of updates when the parameters last changed.
    student_init: value of student.init.
    checkpoints: checkpoints of the run.

  Returns:
    The end of an error message, without a period.
  """
  if teachers:
    return 'the student was not changed by it: repair the teacher'
  steps, folder = checkpoints.steps, checkpoints.folder
  bad = [step for step in steps if step >= unchanged_since]
  good = [step for step in steps if step < unchanged_since]
  names = ', '.join(f'{folder}/{step}' for step in bad)
  if not unchanged_since:
    first = f"the student's initial weights cause this ({student_init})"
  elif bad:
    first = f'the parameters of the last checkpoint cause this ({names})'
  elif good:
    first = f'checkpoint {good[-1]} was saved before and gave a finite step'
  else:
    first = 'no checkpoint was saved before'
  parts = [first, 'the same command ends at this step again']
  if bad and good:
    best = checkpoints.best
    note = f', the best so far is {best}' if best in good else ''
    parts.append(f'the last good checkpoint is {good[-1]}{note}')
  cure = 'train in a new workdir with a lower optimizer.lr.peak'
  if not unchanged_since:
    cure = 'repair student.init'
    if student_init in ('random', 'teacher'):
      cure = 'look at the losses, their weights and temperatures'
  elif bad and good:
    cure += f', or remove {names}'
  return '; '.join([*parts, cure])
