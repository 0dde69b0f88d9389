import json

import gguf
import numpy as np
import pytest

from kd.input_pipeline import chat_templates
from kd.input_pipeline import templates

# Similar to the published template; ours differs in every line.
_GEMMA = (
  "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m['role'] + "
  "'\\n' + m['content'] + '<end_of_turn>\\n' }}{% endfor %}"
)
_LLAMA = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"


def _config(template):
  return {'tokenizer_config.json': json.dumps({'chat_template': template})}


_FOLDERS = {
  'its own file': ({'chat_template.jinja': _GEMMA}, 'chat_template.jinja'),
  'the tokenizer': (_config(_GEMMA), 'tokenizer_config.json'),
  'a list': (
    _config(
      [
        {'name': ['odd'], 'template': _LLAMA},
        {'name': 'default', 'template': _GEMMA},
      ]
    ),
    'tokenizer_config.json',
  ),
  'the processor': (
    {'chat_template.json': json.dumps({'chat_template': _GEMMA})},
    'chat_template.json',
  ),
  'the newest file first': (
    {'chat_template.jinja': _GEMMA, **_config(_LLAMA)},
    'chat_template.jinja',
  ),
}


def _write(folder, files):
  for name, text in files.items():
    (folder / name).write_text(text)
  return f'hf:{folder}'


@pytest.mark.parametrize('case', _FOLDERS)
def test_a_folder_with_gemmas_template(tmp_path, case):
  files, file = _FOLDERS[case]
  init = _write(tmp_path, files)
  text = chat_templates.warning('plain', init)
  assert f'{tmp_path}/{file}' in text
  assert text.endswith('--config.data.template=gemma')
  assert chat_templates.warning('gemma', init) == ''


def test_templates_of_exports_are_recognized(tmp_path):
  init = _write(tmp_path, _config(templates.TEMPLATES['plain'].jinja))
  assert chat_templates.warning('plain', init) == ''
  text = chat_templates.warning('gemma', init)
  assert text.endswith('--config.data.template=plain')
  _write(tmp_path, _config(templates.TEMPLATES['gemma'].jinja))
  assert chat_templates.warning('gemma', init) == ''


def test_a_template_with_thoughts_renders_both_forms(tmp_path):
  """Like the published template of Qwen3, which has a switch."""
  published = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}"
    "{% endfor %}{% if enable_thinking is false %}{{ '<think>' }}{% endif %}"
  )
  init = _write(tmp_path, {'chat_template.jinja': published})
  for name in ('qwen3', 'qwen3_no_thinking'):
    assert chat_templates.warning(name, init) == ''
  text = chat_templates.warning('plain', init)
  assert "'qwen3' or 'qwen3_no_thinking'" in text
  assert text.endswith('--config.data.template=qwen3')
  # Qwen2.5's template adds a default system text.
  other = published.replace('enable_thinking', 'x')
  _write(tmp_path, {'chat_template.jinja': other})
  assert 'is none of' in chat_templates.warning('qwen3', init)
  ours = templates.TEMPLATES['qwen3_no_thinking'].jinja
  _write(tmp_path, {'chat_template.jinja': ours})
  assert chat_templates.warning('qwen3_no_thinking', init) == ''
  text = chat_templates.warning('qwen3', init)
  assert text.endswith('=qwen3_no_thinking')


def test_a_template_of_another_family(tmp_path):
  init = _write(tmp_path, _config(_LLAMA))
  text = chat_templates.warning('plain', init)
  assert "none of 'gemma', 'plain'" in text


@pytest.mark.parametrize('value', [None, 5, [], [5], {'default': _GEMMA}])
def test_unreadable_templates_give_no_warning(tmp_path, value):
  init = _write(tmp_path, _config(value))
  assert chat_templates.warning('plain', init) == ''


def test_gguf(tmp_path):
  file = tmp_path / 'some.gguf'
  writer = gguf.GGUFWriter(file, 'gemma3')
  writer.add_chat_template(_GEMMA)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.close()
  text = chat_templates.warning('plain', f'gguf:{file}')
  assert str(file) in text and "is 'gemma'" in text
  assert chat_templates.warning('gemma', f'gguf:{file}') == ''


def test_any_part_of_a_split_gguf(tmp_path):
  writer = gguf.GGUFWriter(
    tmp_path / 'some.gguf', 'gemma3', split_max_tensors=1
  )
  writer.add_chat_template(_GEMMA)
  for name in ('a', 'b'):
    writer.add_tensor(name, np.zeros(32, np.float32))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  for part in sorted(tmp_path.iterdir()):
    text = chat_templates.warning('plain', f'gguf:{part}')
    assert "is 'gemma'" in text, part


def test_workdir_and_sources_without_a_template(tmp_path):
  config = {'data': {'template': 'gemma'}}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  init = f'workdir:{tmp_path}'
  assert "is 'gemma'" in chat_templates.warning('plain', init)
  assert chat_templates.warning('gemma', init) == ''
  (tmp_path / 'config.json').write_text('{}')
  assert chat_templates.warning('plain', init) == ''
  for init in ('random', 'teacher'):
    assert chat_templates.warning('plain', init) == ''
