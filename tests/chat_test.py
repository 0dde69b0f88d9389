"""Tests --mode=chat on a terminal and through pipes, with a real model."""

import io
import json
import os
import pty
import re
import select
import sys
import time

import pytest

from kd.config import base
from kd.config import command_line
from kd.core import config as config_lib
from kd.core import errors
from kd.modes import chat as chat_mode
from kd.modes import generate as generate_mode
from kd.run import workdirs
from tests import command

_INIT = 'hf:data/fixtures/quickstart_teacher'
_ROOM = 74  # Maximum number of tokens in a prompt.
_TOKENS = 1024 - _ROOM  # Maximum number of tokens in an answer.
_FIELDS = (
  f'--config.student.init={_INIT}',
  '--config.student.dtype=float32',
  '--config.data.template=gemma',
  f'--config.generate.max_new_tokens={_TOKENS}',
)
_PROMPT = '>>> '
_ENDLESS = 'count'  # The model answers this with endless 9s.


def _config(template, **sampling):
  config = base.get_config()
  config.student.update(init=_INIT, dtype='float32')
  config.data.template = template
  config.generate.update(sampling)
  return config


class _Terminal:
  """A chat on a pseudo-terminal."""

  def __init__(self, *arguments):
    self._pid, self._fd = pty.fork()
    if not self._pid:
      python = [sys.executable, '-m', 'kd', '--mode=chat', *arguments]
      # Programs send no cursor movements to a dumb terminal.
      os.execve(python[0], python, {**command.environment(), 'TERM': 'dumb'})
    self._unread = ''

  def until(self, words):
    """Waits for these words and returns the text before them."""
    assert self._waits_for(words, 300), self._unread
    shown, self._unread = self._unread.split(words, 1)
    return shown.replace('\r\n', '\n')

  def _read(self):
    try:
      data = os.read(self._fd, 65536)
    except OSError:  # On Linux this means that the program has ended.
      data = b''
    assert data, f'ended: {self._unread}'
    return data.decode('ascii')

  def type(self, text):
    os.write(self._fd, text.encode())

  def interrupt(self, words):
    """Presses Ctrl-C until these words are shown; returns the text before them.

    A signal just before the program starts to wait for a key is only noticed at
    the next key.
    """
    self.type('\x03')
    while not self._waits_for(words, 20):
      self.type('\x03')
    return self.until(words)

  def _waits_for(self, words, seconds):
    """Returns whether the words are shown within this time."""
    end = time.monotonic() + seconds
    while words not in self._unread and time.monotonic() < end:
      if select.select([self._fd], [], [], 1.0)[0]:
        self._unread += self._read()
    return words in self._unread

  def ask(self, line):
    """Types a line and returns the text before the next prompt."""
    self.type(f'{line}\n')
    self.until('\n')  # The echo of the line.
    return self.until(_PROMPT)

  def code(self):
    """Returns the exit code."""
    status = os.waitpid(self._pid, 0)[1]
    os.close(self._fd)
    return os.waitstatus_to_exitcode(status)


def _generated(folder, *dialogues):
  """Returns the answers of --mode=generate to dialogues."""
  roles = ('user', 'assistant', 'user')
  lines = [
    {'messages': [{'role': r, 'content': t} for r, t in zip(roles, texts)]}
    for texts in dialogues
  ]
  path = folder / 'prompts.jsonl'
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  config = base.get_config()
  config.student.update(init=_INIT, dtype='float32')
  config.data.template = 'gemma'
  config.generate.update(prompts=str(path), max_new_tokens=64, batch_size=1)
  generate_mode.main(config, str(folder))
  written = (folder / 'completions.jsonl').read_text().splitlines()
  return [json.loads(line)['samples'][0]['text'] for line in written]


def test_a_dialogue_on_a_terminal(tmp_path):
  terminal = _Terminal(f'--workdir={tmp_path}/none', *_FIELDS)
  start = terminal.until(_PROMPT)
  for words in (f'{_INIT}: 1,167,872 parameters', 'ready after', '/help'):
    assert words in start
  assert "warning: student.init: data.template is 'gemma', but" in start
  report = r'(.*)\n\[\d+ tokens, [0-9.]+ tokens/s, first after [0-9.]+ s\]\n'
  first = re.fullmatch(report, terminal.ask('Q: 1+2=?'))[1]
  second = re.fullmatch(report, terminal.ask('hi'))[1]
  shown = terminal.ask('x')
  dropped = 'the context is full; oldest messages dropped with their answers: 1'
  third = re.fullmatch(rf'{dropped}\n{report}', shown)[1]
  assert "did you mean '/reset'?" in terminal.ask('/rest')
  assert 'forgotten' in terminal.ask('/reset')
  # Ctrl-C ends an answer, and the chat continues.
  terminal.type(f'{_ENDLESS}\n')
  terminal.until('999')
  terminal.type('\x03')
  assert re.search(r'\n\[\d+ tokens, .*, stopped\]', terminal.until(_PROMPT))
  terminal.type('Q: 1+\\\n')
  terminal.until('... ')
  # At the prompt Ctrl-C drops the typed text; the second one ends the chat.
  assert 'Ctrl-C again' in terminal.interrupt(_PROMPT)
  terminal.type('again')
  terminal.until('again')  # The echo: the driver drops text it still buffers.
  assert 'Ctrl-C again' in terminal.interrupt(_PROMPT)
  terminal.type('\x03')
  assert terminal.code() == 0
  assert not (tmp_path / 'none').exists()
  dialogues = ['Q: 1+2=?', first, 'hi'], ['hi', second, 'x']
  assert _generated(tmp_path, *dialogues) == [second, third]


def test_a_pipe_receives_only_answers(tmp_path, monkeypatch, capsys):
  """Ends with a line that is too long. The stop string spans four slices."""
  question = 'Q: 42+15-9=?\\\nA:\\\n\n'
  data = f'{question}/reset\n{question}{"x" * _ROOM}'
  stdin = io.TextIOWrapper(io.BytesIO(data.encode()))
  monkeypatch.setattr(sys, 'stdin', stdin)
  config = _config('plain', max_new_tokens=_TOKENS, stop_strings=('9=48',))
  refused = rf'^stdin:8: takes {_ROOM + 1} tokens; legal: at most {_ROOM}, '
  with (
    command.compiled_once(),
    pytest.raises(errors.ConfigError, match=refused),
  ):
    chat_mode.main(config, str(tmp_path))
  out, err = capsys.readouterr()
  assert out == '42+15=57 57-\n' * 2
  assert 'answered without the earlier' in err and 'forgotten' in err


def test_without_a_config_the_workdirs_config_is_used(tmp_path):
  assert workdirs.recorded_config(str(tmp_path)) is None
  config = command_line.load('configs/all_terms.py')
  text = config_lib.to_json(base.checked(config))
  (tmp_path / 'config.json').write_text(text)
  recorded = workdirs.recorded_config(str(tmp_path))
  assert config_lib.to_json(recorded) == text
  assert workdirs.check(recorded, str(tmp_path)) == workdirs.Changes({}, {})
  # Like flags, the file can change a field to another value of its type.
  assert isinstance(recorded.generate.stop_strings, tuple)
  (tmp_path / 'config.json').write_text(text.replace('"steps"', '"stepz"'))
  wrong = re.escape(f"{tmp_path}/config.json: stepz: unknown field 'stepz'")
  with pytest.raises(errors.ConfigError, match=wrong):
    workdirs.recorded_config(str(tmp_path))
