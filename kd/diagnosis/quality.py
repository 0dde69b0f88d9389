"""Diagnoses of quality: the teacher, chat templates, masks and data."""

from kd.core import errors
from kd.diagnosis import comparison
from kd.diagnosis import findings
from kd.diagnosis import run_record
from kd.diagnosis import training
from kd.evaluation import measures
from kd.input_pipeline import chat_templates

TEACHER, TEMPLATE, BOS = 'a poor teacher', 'the wrong template', 'no BOS'
MASK, LEAKAGE = 'too few target tokens', 'leakage'
_COUNTED = 0.005  # smallest plausible share of target positions
_EMPTY = 0.1  # batches without a target
_SHARED = 0.02  # of the held-out prompts


@findings.DIAGNOSES.register(TEACHER)
def poor_teacher(record: run_record.RunRecord) -> findings.Finding | None:
  """The teacher's NLL on held-out data is above the baseline's."""
  name, label = record.first_set, 'the student trained on labels only'
  other = record.baseline and record.baseline.last
  if other is None:
    other, label = record.evaluations.get(0), 'the student before training'
  if record.teacher is None or other is None:
    return None
  worse = comparison.increase(other, record.teacher, name)
  if worse is None:
    return None
  key = f'eval/{name}/{measures.NLL}'
  own, others = record.teacher.metrics[key], other.metrics[key]
  return findings.Finding(
    f'on {name} the teacher has {own:.3f} nats per token, and {label} '
    f'{others:.3f}: {comparison.interval(worse)} more',
    'fine-tune the teacher on such data, use another one, or add a '
    'cross_entropy term; its template or tokenizer may be wrong, too',
    0.8,
    # A student of a poor teacher moves away from the held-out labels.
    hides=(training.OVERFITTING, training.TEMPERATURE),
  )


@findings.DIAGNOSES.register(TEMPLATE)
def wrong_template(record: run_record.RunRecord) -> findings.Finding | None:
  """The chat template of the weights differs from data.template."""
  template, lines = record.get('data.template'), []
  teachers = {'teacher': record.get('teacher', {})}
  others = record.get('teacher.others', {})
  teachers |= {f'teacher.others.{k}': v for k, v in others.items()}
  if record.get('teacher.source') == 'none':
    teachers = {}
  for path, spec in {**teachers, 'student': record.get('student', {})}.items():
    try:
      problem = chat_templates.warning(template, spec.get('init', ''))
    except (errors.ConfigError, OSError):
      continue  # The weights may be gone.
    if problem:
      lines.append(f'{path}.init: {problem}')
  if not lines:
    return None
  return findings.Finding(
    '; '.join(lines),
    'train in a new workdir with the template that the weights were trained '
    'with',
    0.9,
    hides=(TEACHER, BOS),
  )


@findings.DIAGNOSES.register(BOS)
def no_bos(record: run_record.RunRecord) -> findings.Finding | None:
  """The tokenizer has a BOS token, but no example begins with it."""
  tasks = record.run.get('rows', {}).get('train', ())
  without = [
    task['task'] for task in tasks if task['begins'] and task['with_bos'] == 0
  ]
  if not without:
    return None
  return findings.Finding(
    f'no row of {", ".join(without)} begins with the BOS of the tokenizer',
    f'data.template is {record.get("data.template")!r}: a template that begins '
    'with BOS, as the weights expect; --mode=data shows rows as text',
    0.6,
    hides=(TEACHER,),
  )


@findings.DIAGNOSES.register(MASK)
def too_few_targets(record: run_record.RunRecord) -> findings.Finding | None:
  """Few tokens or batches have targets, or a loss term counts none."""
  parts = []
  tasks = record.run.get('rows', {}).get('train', ())
  for task in tasks:
    share = task['target_weight'] / max(task['tokens'], 1)
    if share < _COUNTED:
      parts.append(f'{share:.2%} of the tokens of {task["task"]} are targets')
  empty = record.values('train/empty_batches')
  if empty and sum(empty) / len(empty) > _EMPTY:
    parts.append(f'{sum(empty) / len(empty):.0%} of the batches have no target')
  for key in record.get('losses', {}):
    weights = record.values(f'train/target_weight/{key}')
    if weights and not any(weights):
      parts.append(f'losses.{key} counts no token of any batch')
  if not parts:
    return None
  return findings.Finding(
    '; '.join(parts),
    '--mode=data shows which tokens are targets: look at weights of messages, '
    "a term's part, data.length, and objective.positions",
    0.9,
  )


@findings.DIAGNOSES.register(LEAKAGE)
def leakage(record: run_record.RunRecord) -> findings.Finding | None:
  """More than 2 % of the held-out prompts are also in the training data."""
  parts = [
    f'{both:,} of {asked:,} prompts of {name} are also in the training data'
    for name, (both, asked) in record.shared_prompts.items()
    if both > _SHARED * asked
  ]
  if not parts:
    return None
  return findings.Finding(
    '; '.join(parts),
    'hold out prompts that are not in the training data (data.held_out, or a '
    'separate split): the scores of these sets are too good',
    0.7,
  )
