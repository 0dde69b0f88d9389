"""kd.main, told by $KD_TEST_READER what its reader of rows does."""

import importlib
import json
import os
import time

import jax


def _watch_reader(file: str, sleeps: dict[str, float]) -> None:
  """Writes down which rows are read, and sleeps before some steps' rows."""
  rows = importlib.import_module('kd.input_pipeline.rows')
  read = rows.Rows.__call__

  def read_and_tell(self, step, numbers):
    where = f'{jax.process_index()}'
    with open(f'{file}.{where}', 'a', encoding='utf-8') as f:
      f.write(json.dumps([step, *map(int, numbers)]) + '\n')
    time.sleep(sleeps.get(f'{where}:{step}', 0.0))
    return read(self, step, numbers)

  rows.Rows.__call__ = read_and_tell


if __name__ == '__main__':
  _watch_reader(**json.loads(os.environ['KD_TEST_READER']))
  importlib.import_module('kd.main').run()
