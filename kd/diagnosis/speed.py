"""Diagnoses of speed: waiting, compilation, pauses and utilization."""

from kd.diagnosis import findings
from kd.diagnosis import run_record

DATA, COMPILING, SAMPLING = 'waiting for data', 'compilation', 'sampling'
PAUSES, SMALL = 'evaluations and checkpoints', 'small batches'
ROOFLINE = 'far below the roofline'
_WAITING = 0.2  # share of the steps' time
_SAMPLING = 0.6  # share of the steps' time
_PAUSES = 0.6  # share of the training time
_COMPILING, _COMPILING_S = 0.3, 300.0  # share of the total time, and seconds
_OF_ROOFLINE = 0.5
_MIB = 2**20


@findings.DIAGNOSES.register(DATA)
def waits_for_data(record: run_record.RunRecord) -> findings.Finding | None:
  """Waiting for rows or their copy to devices took 20 % of the step time."""
  share = record.share('perf/data_wait_share')
  if share < _WAITING:
    return None
  evidence = f'{share:.0%} of the step time was spent waiting for rows'
  tasks = record.run.get('rows', {}).get('train', ())
  rows = sum(task['rows'] for task in tasks)
  if rows and record.seconds['steps']:
    size = sum(task['bytes'] for task in tasks) / rows
    trained = sum(record.window_steps) * record.get('data.batch_size')
    speed = trained / record.seconds['steps']
    folders = ', '.join(dict.fromkeys(task['folder'] for task in tasks))
    evidence += (
      f': {speed:,.0f} rows per second, {speed * size / _MIB:,.2f} MiB/s, came '
      f'from {folders}'
    )
  return findings.Finding(
    evidence,
    'put data.folder (and the cache.folder of cached targets) on a local disk, '
    'and look for other programs that use the disk or the cores',
    0.4 + share / 2,
    hides=(ROOFLINE,),
  )


@findings.DIAGNOSES.register(COMPILING)
def compiles(record: run_record.RunRecord) -> findings.Finding | None:
  """Compilation took at least 30 % of the time and five minutes."""
  seconds = record.seconds
  total = sum(seconds.values())
  if seconds['compilation'] < max(_COMPILING_S, _COMPILING * total):
    return None
  new = sum(record.values('perf/programs_compiled'))
  cached = sum(record.values('perf/programs_cached'))
  windows = [x for x in record.values('perf/programs_compiled')[1:] if x]
  evidence = (
    f'{seconds["compilation"]:,.0f} s of {total:,.0f} s went to compilation: '
    f'{new:,.0f} programs, and {cached:,.0f} from the cache'
  )
  remedy = (
    'keep the folder of compiled programs from one start to the next: '
    '$JAX_COMPILATION_CACHE_DIR, on a disk that outlives the machine'
  )
  if len(windows) > 1:
    evidence += f'; {len(windows)} windows compiled after the first one'
    remedy = (
      'look for shapes that change from step to step: prompts of many lengths '
      'in rollouts'
    )
  return findings.Finding(
    evidence, remedy, 0.3 + seconds['compilation'] / total / 2
  )


@findings.DIAGNOSES.register(SAMPLING)
def samples(record: run_record.RunRecord) -> findings.Finding | None:
  """Sampling from the student took 60 % of the step time."""
  share = record.share('perf/rollout_share')
  if share < _SAMPLING:
    return None
  return findings.Finding(
    f'sampling from the student took {share:.0%} of the step time',
    'use samples more often (rollout.every=4 with a rollout.buffer), sample '
    'more at once (rollout.batch_size), or shorter answers '
    '(rollout.max_new_tokens)',
    0.3 + share / 2,
    hides=(ROOFLINE,),
  )


@findings.DIAGNOSES.register(PAUSES)
def pauses(record: run_record.RunRecord) -> findings.Finding | None:
  """Evaluations and checkpoints took 60 % of the training time."""
  seconds = record.seconds
  paused = seconds['evaluations'] + seconds['checkpoints']
  total = paused + seconds['steps']
  if not total or paused < _PAUSES * total:
    return None
  return findings.Finding(
    f'evaluations took {seconds["evaluations"]:,.0f} s and checkpoints '
    f'{seconds["checkpoints"]:,.0f} s, steps {seconds["steps"]:,.0f} s',
    'raise evaluation.every and checkpoint.every, or lower the examples and '
    'answers of evaluation.sets',
    0.2 + paused / total / 2,
  )


@findings.DIAGNOSES.register(SMALL)
def small_batches(record: run_record.RunRecord) -> findings.Finding | None:
  """HBM or the network limits the step, as its batch is too small."""
  estimate = record.chip and record.estimate
  if not estimate or estimate.bound == 'compute':
    return None
  if estimate.limit.mfu >= record.get('plan.mfu'):
    return None
  tokens = record.get('data.batch_size') * record.get('data.length')
  each = tokens // estimate.chosen.count
  limited = 'the network' if estimate.bound == 'network' else 'HBM'
  return findings.Finding(
    f'{each:,} tokens per chip and step: {limited} limits the step, and no '
    f'more than {estimate.limit.mfu:.0%} MFU can be reached'
    + _achieved(record),
    'raise data.batch_size or data.length, or use fewer chips; lower '
    'optimizer.micro_batches if memory allows it',
    0.6,
    hides=(ROOFLINE,),
  )


@findings.DIAGNOSES.register(ROOFLINE)
def below_roofline(record: run_record.RunRecord) -> findings.Finding | None:
  """A TPU run has less than half of the MFU that its plan expects."""
  achieved = record.values('perf/mfu')
  estimate = record.chip and record.estimate
  if not estimate or not achieved:
    return None
  expected = estimate.expected.mfu
  if achieved[-1] >= _OF_ROOFLINE * expected:
    return None
  return findings.Finding(
    f'MFU is {achieved[-1]:.1%}; the plan expects {expected:.0%}, and the '
    f'roofline allows {estimate.limit.mfu:.0%}',
    '--config.profile.steps=5 lists the longest operations; --mode=plan '
    'compares meshes',
    0.3,
  )


def _achieved(record) -> str:
  achieved = record.values('perf/mfu')
  return f'; it was {achieved[-1]:.1%}' if achieved else ''
