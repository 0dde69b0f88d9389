"""The trackers' own readers find the metrics of a run and its resumption."""

import json
import os
import subprocess

import pytest

from kd.core import errors
from kd.metrics import trackers

# Runs in the trackers' environment; prints the metrics that their readers find.
_SCRIPT = '''
import glob, json, sys
import mlflow
from wandb.proto import wandb_internal_pb2
from kd.metrics import writers


def records(data):
  """Yields the records of a LevelDB log: blocks of 32 KiB, after a header."""
  at, whole = 7, b''
  while at + 7 <= len(data):
    if 32768 - at % 32768 < 7:
      at += 32768 - at % 32768
      continue
    size, kind = int.from_bytes(data[at + 4 : at + 6], 'little'), data[at + 6]
    whole += data[at + 7 : at + 7 + size]
    at += 7 + size
    if kind in (1, 4):  # The only part, or the last one.
      yield whole
      whole = b''


folder = sys.argv[1]
for first, last in ((1, 4), (3, 6)):  # The second run resumes from step 3.
  writer = writers.create(
    folder, 'student', 6, first - 1, True, False, ['wandb', 'mlflow'],
    {'steps': 6, 'optimizer': {'lr': 0.5}},
  )
  for step in range(first, last):
    writer.write_scalars(step, {'train/loss': 1 / step})
  writer.flush()
  writer.close()
  if last == 4:
    run, = mlflow.MlflowClient().search_runs(['1'])
    ends = [run.info.status]
    try:
      raise ValueError
    except ValueError:
      writers.trackers_lib.MlflowWriter(folder, 'student', {}).close()
    ends.append(mlflow.MlflowClient().get_run(run.info.run_id).info.status)

client = mlflow.MlflowClient()
experiment, = client.search_experiments(filter_string="name = 'kd'")
run, = client.search_runs([experiment.experiment_id])
history = client.get_metric_history(run.info.run_id, 'train/loss')
found = {
  'parameters': run.data.params,
  'mlflow': [[m.step, m.value] for m in history],
  'statuses': [*ends, run.info.status],
  'ids': set(), 'wandb': [],
}
for path in sorted(glob.glob(f'{folder}/wandb/offline-run-*/*.wandb')):
  for data in records(open(path, 'rb').read()):
    record = wandb_internal_pb2.Record.FromString(data)
    if record.HasField('run'):
      found['ids'].add(record.run.run_id)
    if record.HasField('history'):
      items = {
        i.key or '/'.join(i.nested_key): json.loads(i.value_json)
        for i in record.history.item
      }
      found['wandb'].append([items['step'], items['train/loss']])
found['ids'] = sorted(found['ids'])
print(json.dumps(found))
'''


def test_trackers_record_a_run_and_its_resumption(tmp_path):
  python = os.environ.get('KD_TRACKERS_PYTHON')
  if not python:
    pytest.skip('KD_TRACKERS_PYTHON names no Python with wandb and mlflow')
  folder = tmp_path / 'run'
  folder.mkdir()
  out = subprocess.check_output(
    [python, '-c', _SCRIPT, folder],
    text=True,
    env={
      **os.environ,
      'PYTHONPATH': os.getcwd(),
      'WANDB_MODE': 'offline',
      'MLFLOW_TRACKING_URI': f'sqlite:///{tmp_path}/mlflow.db',
    },
  )
  found = json.loads(out.splitlines()[-1])
  steps = [*range(1, 4), *range(3, 6)]
  assert sorted(found['wandb']) == sorted([s, 1 / s] for s in steps)
  assert sorted(found['mlflow']) == sorted([s, 1 / s] for s in steps)
  assert found['parameters'] == {'steps': '6', 'optimizer.lr': '0.5'}
  assert found['statuses'] == ['FINISHED', 'FAILED', 'FINISHED']
  assert len(found['ids']) == 1
  written = json.loads((folder / trackers.FILE).read_text())
  assert written['wandb'] == found['ids'][0]


def test_missing_trackers_are_refused_by_name(monkeypatch):
  monkeypatch.setattr(trackers.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(errors.ConfigError, match="log.trackers: found 'mlflow'"):
    trackers.check(['mlflow'])
