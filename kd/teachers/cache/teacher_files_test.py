import os

from kd.teachers.cache import teacher_files


def _cache(tmp_path, init):
  """Returns a function from an init to the warnings of a cache of `init`."""
  cache = tmp_path / 'cache'
  cache.mkdir()
  (cache / 'manifest.json').write_text('{}')
  digests = str(tmp_path / 'digests')
  described = teacher_files.describe({'teacher.init': init}, digests)
  teacher_files.record(str(cache), described)
  return lambda now: teacher_files.warnings(
    str(cache), {'teacher.init': now}, digests
  )


def test_changed_and_missing_files_are_named(tmp_path):
  folder = tmp_path / 'teacher'
  folder.mkdir()
  (folder / 'config.json').write_text('{}')
  (folder / 'model-1.safetensors').write_bytes(b'one')
  (folder / 'model-2.safetensors').write_bytes(b'two')
  init = f'hf:{folder}'
  warnings = _cache(tmp_path, init)
  assert not warnings(init)
  (folder / 'model-1.safetensors').write_bytes(b'eno')
  (folder / 'model-2.safetensors').rename(folder / 'model-3.safetensors')
  (line,) = warnings(init)
  # SHA-256 as sha256sum prints it.
  assert 'model-1.safetensors (SHA-256 7692c3ad3540bb80 then, ' in line
  assert 'model-2.safetensors (SHA-256 3fc4ccfe745870e2 then, absent no' in line
  assert 'model-3.safetensors (SHA-256 absent then, 3fc4ccfe745870e2' in line
  assert 'config.json' not in line


def test_a_gguf_file(tmp_path):
  file = tmp_path / 'a [8].gguf'
  file.write_bytes(b'GGUF')
  warnings = _cache(tmp_path, f'gguf:{file}')
  os.utime(file, (1, 1))
  assert not warnings('')
  file.write_bytes(b'GGUG')
  assert 'a [8].gguf (SHA-256 ' in warnings('')[0]


def test_all_parts_of_a_split_gguf_model(tmp_path):
  first, second = (tmp_path / f'a-0000{i}-of-00002.gguf' for i in (1, 2))
  for file in (first, second):
    file.write_bytes(b'GGUF')
  (tmp_path / 'b-00002-of-00002.gguf').write_bytes(b'GGUF')
  warnings = _cache(tmp_path, f'gguf:{first}')
  (tmp_path / 'b-00002-of-00002.gguf').write_bytes(b'GGUG')
  assert not warnings('')
  second.write_bytes(b'GGUG')
  (line,) = warnings('')
  assert 'differ: a-00002-of-00002.gguf (SHA-256 ' in line
  assert 'a-00001' not in line.partition('differ')[2]


def test_a_workdir_with_further_training(tmp_path):
  workdir = tmp_path / 'run'

  def save(step):
    (workdir / 'checkpoints' / str(step)).mkdir(parents=True)
    file = workdir / 'checkpoints' / str(step) / 'digests.json'
    file.write_text(f'{{"step": {step}, "files": {{}}}}')

  save(2)
  warnings = _cache(tmp_path, f'workdir:{workdir}')
  assert not warnings(f'workdir:{workdir}')
  save(4)
  assert 'digests.json' in warnings(f'workdir:{workdir}')[0]
