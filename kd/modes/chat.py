"""Chats with the student on a terminal or through pipes."""

from collections.abc import Sequence
import contextlib
import re
import time

import ml_collections

from kd.core import errors
from kd.core import notices
from kd.core import progress
from kd.core import types
from kd.input_pipeline import templates
from kd.models import families
from kd.partitioning import rules
from kd.run import generation
from kd.run import outputs
from kd.run import resolved
from kd.run import session
from kd.sampling import console as console_lib
from kd.sampling import dialogue
from kd.sampling import engine
from kd.sampling import fields as sampling_fields
from kd.sampling import requests
from kd.sampling import streaming
from kd.train import preemption

# Single steps show each token immediately. A dialogue needs few prompt lengths,
# and nearly all of them share one decoding program.
_SHAPES = engine.Shapes(steps=1, prompt=128, slots=2048)

CONFIG_OPTIONAL = True

_COMMAND = re.compile(r'/(\w*)(?:\s+(.*))?', re.DOTALL)
_HELP = """\
/system TEXT  put TEXT in front of the first message; without TEXT, remove it
/reset        forget all messages and answers
/help         list the commands
/exit         exit, like Ctrl-D
Ctrl-C stops an answer, or clears the line; the next Ctrl-C exits.
A line that ends in a backslash continues in the next one."""


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Answers messages until the input ends.

  Raises:
    ConfigError: the config leaves no room for a prompt, or a line that was not
      typed on a terminal cannot be answered.
    NonFiniteError: the model's logits are NaN or infinite.
  """
  console = console_lib.Console()
  notices.show(console.say)
  run = session.open_trained(config, workdir, warn=console.say)
  session.check_one_process('chat')
  fields = run.config.generate
  settings = sampling_fields.settings(fields, tuple(fields.stop_strings))
  context = run.student.config.context
  engine.check_room(
    run.student.module, settings.max_new_tokens, 'generate.max_new_tokens'
  )
  template = run.config.data.template
  turns = dialogue.Dialogue(
    run.tokenizer, template, context - settings.max_new_tokens
  )
  student = generation.student(run)
  with progress.Progress('loading', console.say):
    params = generation.params(run, student, workdir)
  _, title = outputs.student_source(run, workdir)
  count = run.student.config.parameter_count
  console.say(
    f'{title}: {count:,} parameters, context of {context:,} tokens, template '
    f'{template!r}'
  )
  console.say(outputs.settings_line(settings))
  if not templates.has_turns(template):
    console.say(
      f'the template {template!r} has no turns: each message is answered '
      'without the earlier ones'
    )
  with rules.active(run.mesh):
    talk = _Session(run, student, params, settings, turns, console)
    talk.compile()
    try:
      talk.talk()
    except BrokenPipeError:
      console.close()


class _Stopped(Exception):
  """Ctrl-C interrupted an answer."""


class _Session:
  """A dialogue with the model."""

  def __init__(
    self,
    run: resolved.Run,
    student: resolved.Model,
    params: types.PyTree,
    settings: requests.SamplingSettings,
    turns: dialogue.Dialogue,
    console: console_lib.Console,
  ):
    self._run, self._settings = run, settings
    self._turns, self._console = turns, console
    self._words = engine.vocabulary(run.tokenizer)
    # Rows are sharded over devices, but only one row is used.
    rows = rules.row_shards(run.mesh)
    self._engine = engine.Engine(student.module, self._words, rows, _SHAPES)
    self._params, self._weights = params, self._engine.weights(params)
    self._buckets: set[int] = set()
    self._number = 0  # of the next message
    self._answering = self._stop = False
    self._typed = False  # whether there was text at the last Ctrl-C

  def compile(self) -> None:
    """Compiles the programs for short dialogues."""
    start = time.monotonic()
    bos = requests.numbered([self._run.tokenizer.eos_id], 0, 0, samples=1)
    self._buckets.add(self._engine.bucket(bos, self._settings))
    self._console.say('compiling (once, for short prompts)')

    def stop(*unused):
      del unused
      raise _Stopped

    compiling = progress.Progress('compiling', self._console.say)
    with compiling, contextlib.suppress(_Stopped):
      list(self._stream(bos, stop))
    self._console.say(f'ready after {time.monotonic() - start:.1f} s')

  def _stream(self, request, watch):
    return self._engine.stream(
      self._params,
      [request],
      self._settings,
      watch=watch,
      weights=self._weights,
    )

  def talk(self) -> None:
    """Answers all messages."""
    interrupted = False  # by Ctrl-C since the last message
    if self._console.interactive:
      self._console.say('/help lists commands; Ctrl-D exits')
      interrupts = preemption.STOP_REQUESTS.interrupts_left_to(self._interrupt)
    else:
      interrupts = contextlib.nullcontext()
    with interrupts:
      while True:
        try:
          if not self._turn():
            return
          interrupted = self._stop
        except KeyboardInterrupt:
          if interrupted and not self._typed:
            self._console.write('\n')
            return
          interrupted = True
          self._console.say('\nto exit, press Ctrl-C again or Ctrl-D')

  def _interrupt(self, *unused) -> None:
    """Handles Ctrl-C."""
    del unused
    if self._answering:
      self._stop = True
      return
    self._typed = self._console.typed()
    raise KeyboardInterrupt

  def _turn(self) -> bool:
    """Reads and answers a message; returns False at the end of the input."""
    self._stop = False
    try:
      message = self._console.read()
      if message is None:
        return False
      command = _COMMAND.fullmatch(message.strip())
      if command:
        return self._run_command(command[1], command[2] or '')
      self._answer(message)
    except errors.ConfigError as e:
      self._console.refuse(e)
    return True

  def _run_command(self, name: str, text: str) -> bool:
    """Runs a command; returns False if the chat ends."""
    names = ('exit', 'help', 'reset', 'system')
    if name not in names:
      legal = [f'/{n}' for n in names]
      raise errors.unknown('message', 'command', f'/{name}', legal)
    if text and name != 'system':
      raise errors.ConfigError('message', f'/{name} takes no text')
    if name == 'system':
      self._set_system(text)
    elif name == 'reset':
      self._turns.reset()
      self._console.say('all messages and answers are forgotten')
    elif name == 'help':
      self._console.say(_HELP)
    return name != 'exit'

  def _set_system(self, text: str) -> None:
    template = self._run.config.data.template
    if not templates.has_turns(template):
      chat = families.of(self._run.student.config).chat_template
      raise errors.ConfigError(
        'message',
        f'/system: the template {template!r} does not support a system text',
        legal=f'data.template {templates.with_turns()}',
        nearest=chat,
      )
    self._turns.system_text = text
    self._console.say(
      'the system text is set' if text else 'the system text is removed'
    )

  def _answer(self, message: str) -> None:
    """Streams the answer to a message."""
    ids, dropped = self._turns.prompt(message)
    if dropped:
      self._console.say(
        'the context is full; oldest messages dropped with their answers: '
        f'{dropped}'
      )
    seed = self._run.config.generate.seed
    request = requests.numbered(ids, seed, self._number, samples=1)
    self._number += 1
    bucket = self._engine.bucket(request, self._settings)
    if bucket not in self._buckets:
      self._buckets.add(bucket)
      self._console.say(f'compiling for dialogues of up to {bucket:,} tokens')
    part = streaming.Stream(self._words.decode, self._settings.stop_strings)
    speed = _Speed()

    def watch(request: int, sample: int, ids: Sequence[int]) -> None:
      del request, sample  # There is only one.
      speed.count(len(ids))
      self._console.write(part.add(ids))
      if self._stop:
        raise _Stopped

    finish = 'stopped'
    self._answering = True
    try:
      ((_, (sample,)),) = self._stream(request, watch)
      speed.count(len(sample.all_ids))
      self._console.write(part.end(sample.text))
      finish = sample.finish
    except _Stopped:
      pass
    finally:
      self._answering = False
    self._console.write('\n')
    self._turns.add(message, part.text)
    self._report(speed, finish)

  def _report(self, speed: '_Speed', finish: str) -> None:
    """Shows the speed of an answer, and whether it is complete."""
    limit = self._settings.max_new_tokens
    cut = f'cut at generate.max_new_tokens ({limit})'
    ends = {'stop': '', 'length': cut, 'stopped': 'stopped'}
    if self._console.interactive:
      parts = filter(None, [*speed.parts(), ends[finish]])
      self._console.say(f'[{", ".join(parts)}]')
    elif finish == 'length':
      self._console.say(f'{self._console.where}: answer {cut}')


class _Speed:
  """Measures the generation speed of an answer."""

  def __init__(self):
    self._start = time.monotonic()
    self._first: tuple[float, int] | None = None
    self._last = (self._start, 0)

  def count(self, tokens: int) -> None:
    """Records the current number of tokens."""
    self._last = (time.monotonic(), tokens)
    self._first = self._first or self._last

  def parts(self) -> list[str]:
    """Formats the number of tokens, tokens per second and time to first token.

    The speed excludes the prompt, which is read before the first token.
    """
    end, tokens = self._last
    parts = [f'{tokens} token{"s" * (tokens != 1)}']
    if self._first is None:
      return parts
    begin, before = self._first
    if tokens > before:
      seconds = max(end - begin, 1e-9)
      parts.append(f'{(tokens - before) / seconds:.1f} tokens/s')
    return [*parts, f'first after {begin - self._start:.2f} s']
