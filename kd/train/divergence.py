"""What to do about steps that are not finite, in words."""

from collections.abc import Sequence


def advice(
  unchanged_since: int, steps: Sequence[int], best: int | None, folder: str
) -> str:
  """Says whether the last checkpoint is at fault, and what to change.

  A step that is not finite changes no parameter, and a run that resumes repeats
  the same steps. So a checkpoint is at fault if it was saved after the last
  update that changed the parameters, and any other is not.

  Args:
    unchanged_since: how many updates the parameters have had.
    steps: of the checkpoints that are kept, rising.
    best: the step of the checkpoint with the best evaluation, if there is one.
    folder: of the checkpoints.

  Returns:
    Sentences for the end of an error message.
  """
  bad = [step for step in steps if step >= unchanged_since]
  good = [step for step in steps if step < unchanged_since]
  if bad:
    names = ', '.join(f'{folder}/{step}' for step in bad)
    first = f'the parameters of the last checkpoint give this result ({names})'
  elif good:
    first = f'checkpoint {good[-1]} was saved before and gave a finite step'
  else:
    first = 'no checkpoint was saved before'
  parts = [first, 'the same command ends at this step again']
  if bad and good:
    note = f', the best so far is {best}' if best in good else ''
    parts.append(f'the last good checkpoint is {good[-1]}{note}')
  cure = 'train in a new workdir with a lower optimizer.lr.peak'
  if bad and good:
    cure += f', or remove {names}'
  parts.append(f'{cure}, or skip such steps with --config.nonfinite=skip')
  return '; '.join(parts)
