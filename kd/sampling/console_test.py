"""Tests messages from lines, and generated text on a terminal."""

import io
import sys

import pytest

from kd.core import errors
from kd.sampling import console as console_lib


def _console(monkeypatch, data):
  monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(data)))
  return console_lib.Console()


def _messages(console):
  return list(iter(console.read, None))


def test_each_line_of_a_pipe_is_a_message(monkeypatch):
  data = '\n  \nEins\r\nzwei\\\ndrei\\\n\nvier ü\n\\\n\nlast\\'
  console = _console(monkeypatch, data.encode('utf-8'))
  assert not console.interactive
  assert _messages(console) == ['Eins', 'zwei\ndrei\n', 'vier ü', 'last']
  assert console.where == 'stdin:10'


def test_a_single_backslash_is_not_a_message(monkeypatch):
  assert _messages(_console(monkeypatch, b'a\n\\\n')) == ['a']


def test_a_closed_input_has_no_messages(monkeypatch):
  monkeypatch.setattr(sys, 'stdin', None)
  assert console_lib.Console().read() is None


def test_bytes_that_are_not_utf8_are_refused_with_their_line(monkeypatch):
  console = _console(monkeypatch, b'good\nb\xe4d\n')
  assert console.read() == 'good'
  with pytest.raises(errors.ConfigError, match='^stdin:2: .*0xe4'):
    console.read()


def test_errors_name_the_line_of_a_pipe(monkeypatch, capsys):
  console = _console(monkeypatch, b'a\nb\n')
  assert _messages(console) == ['a', 'b']
  with pytest.raises(errors.ConfigError, match='^stdin:2: is wrong; legal: x'):
    console.refuse(errors.ConfigError('message', 'is wrong', legal='x'))
  console.interactive = True
  console.refuse(errors.ConfigError('message', 'is wrong', legal='x'))
  assert capsys.readouterr().out == 'error: is wrong; legal: x\n'


def test_text_cannot_control_a_terminal(monkeypatch, capsys):
  console = _console(monkeypatch, b'')
  text = '\x1b]0;title\x07 a\tb\n\x9b2J ü€😀\r'
  console.write(text)
  assert capsys.readouterr().out == text
  # Also if the messages come from a pipe.
  monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
  console = _console(monkeypatch, b'')
  assert not console.interactive
  console.write(text)
  assert capsys.readouterr().out == '�]0;title� a\tb\n�2J ü€😀�'
