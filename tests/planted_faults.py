"""Plants faults in the files of a run, each with the expected diagnosis."""

import json
import os
import shutil

from kd.config import base
from kd.diagnosis import memory
from kd.diagnosis import quality
from kd.diagnosis import speed
from kd.diagnosis import stability
from kd.diagnosis import training
from kd.models.gemma3 import chat_template

STEPS = 12


def set_times(line):
  for name in [name for name in line if name.startswith('perf/')]:
    del line[name]
  first = line['step'] == 1
  if line['phase'] == 'eval':
    line['perf/evaluation_s'] = 1.0
    return
  line |= {
    'perf/step_time_s': 1.0,
    'perf/data_wait_share': 0.02,
    'perf/checkpoint_s': 0.1,
    'perf/compile_s': 40.0 if first else 0.0,
    'perf/programs_compiled': 9.0 if first else 0.0,
    'perf/programs_cached': 0.0,
    'perf/host_peak_bytes': 2.0 * 2**30,
  }


def edit(workdir, name, change):
  path = os.path.join(workdir, name)
  with open(path, encoding='utf-8') as f:
    value = json.load(f)
  change(value)
  with open(path, 'w', encoding='utf-8') as f:
    json.dump(value, f)


def edit_lines(workdir, change, phase=None):
  path = os.path.join(workdir, 'metrics.jsonl')
  with open(path, encoding='utf-8') as f:
    lines = [json.loads(x) for x in f]
  for line in lines:
    if phase in (None, line['phase']):
      change(line)
  with open(path, 'w', encoding='utf-8') as f:
    f.writelines(json.dumps(line) + '\n' for line in lines)


def _set(**values):
  names = {f'perf/{k}': v for k, v in values.items()}
  return lambda workdir: edit_lines(workdir, lambda x: x.update(names), 'train')


def _series(name, values):
  def change(line):
    line[name] = values[line['step'] - 1]

  return lambda workdir: edit_lines(workdir, change, 'train')


def _config(path, value):
  def change(config):
    *parents, last = path.split('.')
    for key in parents:
      config = config[key]
    config[last] = value

  return lambda workdir: edit(workdir, 'config.json', change)


def _run(**values):
  return lambda workdir: edit(workdir, 'run.json', lambda x: x.update(values))


def _did_not_end(workdir):
  edit(workdir, 'run.json', lambda x: x.pop('ends'))
  os.unlink(os.path.join(workdir, 'report.md'))


def _failed(error, message):
  def plant(workdir):
    _did_not_end(workdir)
    fields = {'date': 'today', 'error': f'{error}: {message}', 'code': 1}
    with open(os.path.join(workdir, 'exit.json'), 'w', encoding='utf-8') as f:
      json.dump(fields, f)

  return plant


def _copy_evaluation(source, target):
  def plant(workdir):
    folder = os.path.join(workdir, 'evaluations')
    for ending in ('.json', '.answers.jsonl'):
      shutil.copy(f'{folder}/{source}{ending}', f'{folder}/{target}{ending}')

  return plant


def _rows(**values):
  def change(run):
    run['rows']['train'][0].update(values)

  return lambda workdir: edit(workdir, 'run.json', change)


def _other_template(workdir):
  with open(os.path.join(workdir, 'config.json'), encoding='utf-8') as f:
    teacher = json.load(f)['teacher']['init'].removeprefix('hf:')
  folder = os.path.join(workdir, 'teacher')
  shutil.copytree(teacher, folder)
  template = chat_template.TEMPLATES['gemma'].jinja
  with open(f'{folder}/chat_template.jinja', 'w', encoding='utf-8') as f:
    f.write(template)
  _config('teacher.init', f'hf:{folder}')(workdir)


def _shared(workdir):
  def change(run):
    ((task, folder),) = run['rows']['held_out']['held_out'].items()
    run['rows']['train'][0].update(task=task, folder=folder)

  edit(workdir, 'run.json', change)


def _tpu(variant, rows, length, mfu):
  """Changes the run to one on four TPU chips that uses only labels."""

  def plant(workdir):
    _config('teacher.source', 'none')(workdir)
    _config('teacher.init', '')(workdir)
    ce = base.term('cross_entropy').to_dict()
    _config('losses', {'ce': ce})(workdir)
    _config('student.variant', variant)(workdir)
    _config('student.dtype', 'bfloat16')(workdir)
    _config('data.batch_size', rows)(workdir)
    _config('data.length', length)(workdir)
    devices = [f'TPU_{i}' for i in range(4)]
    _run(device_kind='TPU v5 lite', devices=devices)(workdir)
    _set(mfu=mfu)(workdir)

  return plant


def _all(*plants):
  def plant(workdir):
    for one in plants:
      one(workdir)

  return plant


_FALLING = [5.0 - 0.4 * i for i in range(STEPS)]
FAULTS = {
  'allocation': (
    _failed('XlaRuntimeError', 'RESOURCE_EXHAUSTED: Out of memory'),
    memory.OUT,
  ),
  'killed': (
    _all(_did_not_end, _set(host_peak_bytes=63.0 * 2**30)),
    memory.OUT,
  ),
  'full': (_set(host_peak_bytes=63.0 * 2**30), memory.NEARLY),
  'waiting': (_set(data_wait_share=0.6), speed.DATA),
  'compiling': (_set(compile_s=100.0, programs_compiled=2.0), speed.COMPILING),
  'sampling': (_set(rollout_share=0.8), speed.SAMPLING),
  'pauses': (_set(checkpoint_s=5.0), speed.PAUSES),
  'small': (_tpu('270m', 4, 256, 0.01), speed.SMALL),
  'roofline': (_tpu('1b', 64, 2048, 0.05), speed.ROOFLINE),
  'teacher': (_copy_evaluation('step_0', 'teacher'), quality.TEACHER),
  'template': (
    _all(_other_template, _copy_evaluation('step_0', 'teacher')),
    quality.TEMPLATE,
  ),
  'bos': (_rows(with_bos=0), quality.BOS),
  'mask': (_rows(target_weight=1.0, tokens=1000), quality.MASK),
  'term': (_series('train/target_weight/kl', [0.0] * STEPS), quality.MASK),
  'leakage': (_shared, quality.LEAKAGE),
  'diverging': (
    _series('train/loss', [5, 4, 3, 2.5, 2, 2, 2.4, 3, 4, 4.4, 4.8, 5]),
    training.HIGH,
  ),
  'too slow': (
    _all(
      _series('train/loss', [5.0 - 0.001 * i for i in range(STEPS)]),
      _series('train/lr', [1e-9] * STEPS),
    ),
    training.LOW,
  ),
  'overfitting': (
    _all(
      _series('train/loss', _FALLING),
      _copy_evaluation('step_0', f'step_{STEPS}'),
    ),
    training.OVERFITTING,
  ),
  'temperature': (
    _all(
      _series('train/loss/kl', _FALLING),
      _series('train/loss', _FALLING),
      _config('losses.kl.temperature', 30.0),
      _copy_evaluation('step_0', f'step_{STEPS}'),
    ),
    training.TEMPERATURE,
  ),
  'spikes': (
    _series('train/grad_norm_max', [2, 2, 2, 80, 2, 2, 2, 2, 90, 2, 2, 2]),
    stability.SPIKES,
  ),
  'skipped': (
    _series('train/nonfinite', [0.0] * 5 + [1.0] * 7),
    stability.NOT_FINITE,
  ),
}
