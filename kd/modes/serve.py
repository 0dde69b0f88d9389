"""Serves models by the OpenAI API."""

from collections.abc import Sequence
import os

import ml_collections

from kd.core import errors
from kd.run import any_model
from kd.run import session
from kd.serving import app as app_lib
from kd.serving import listener as listener_lib
from kd.serving import metrics as metrics_lib
from kd.serving import scheduler as scheduler_lib
from kd.serving import served_model
from kd.serving import wire
from kd.train import preemption

ARGUMENTS = '[NAME=]MODEL...'
CONFIG_OPTIONAL = True

_KEY = 'KD_API_KEY'


def main(
  config: ml_collections.ConfigDict,
  workdir: str | None,
  arguments: Sequence[str],
) -> None:
  """Serves models until SIGTERM or Ctrl-C.

  Args:
    config: its `serve` and `generate.quantize` are read; all else is each
      model's own.
    workdir: the run that is served if `arguments` names no model.
    arguments: what any_model.load loads, or NAME=MODEL; without a name, that of
      the file or folder.

  Raises:
    ConfigError: a model or a field is wrong, or the port is taken.
  """
  say, fields = session.say, config.serve
  key = os.environ.get(_KEY, '')
  listener_lib.check_host(fields.host, bool(key), fields.without_key)
  paths = _by_name(arguments or ([workdir] if workdir else []))
  listening = listener_lib.bind(fields.host, fields.port)
  models = [_load(name, path, config) for name, path in paths.items()]
  session.check_one_process('serve')
  metrics = metrics_lib.Metrics()
  scheduler = scheduler_lib.Scheduler(
    models, fields.queue, metrics, say, lambda: listener.stop()
  )
  settings = app_lib.Settings(
    key,
    fields.max_request_bytes,
    wire.Limits(fields.max_batch, fields.timeout_ms / 1000),
    fields.log_prompts,
  )
  server = app_lib.Server(scheduler, metrics, settings, say)
  listener = listener_lib.Listener(server.app(), fields.stop_s)
  host, port = listening.getsockname()[:2]
  address = f'[{host}]' if ':' in host else host
  say(f'listening on http://{address}:{port}')

  def stop():
    scheduler.close()
    listener.stop()

  with preemption.STOP_REQUESTS.stopped_by(stop):
    scheduler.start()
    listener.run(listening)
    scheduler.close()
    # All requests have ended; what compiles is not waited for.
    scheduler.join(timeout_s=5)
  if scheduler.error:
    raise scheduler.error
  say('stopped')


def _by_name(words: Sequence[str]) -> dict[str, str]:
  """Returns the path of each model by its name."""
  paths = {}
  for word in words:
    name, equals, path = word.partition('=')
    if not equals or os.path.exists(word):
      path = word
      last = os.path.basename(os.path.normpath(word.split(':')[-1]))
      name = last.removesuffix('.gguf')
    if not name or name in paths:
      raise errors.ConfigError(
        'command line',
        f'found two models of the name {name!r}' if name else f'found {word!r}',
        legal=f'{ARGUMENTS}, each with a name of its own',
      )
    paths[name] = path
  if not paths:
    raise errors.ConfigError(
      'command line', 'found no model', legal=f'{ARGUMENTS}, or --workdir'
    )
  return paths


def _load(
  name: str, path: str, config: ml_collections.ConfigDict
) -> served_model.ServedModel:
  fields = config.serve
  try:
    loaded = any_model.load(
      path, fields.dtype, quantize=config.generate.quantize.to_dict()
    )
  except errors.ConfigError as e:
    raise (e.at(name) if e.path == 'path' else e) from e
  run, model, _ = loaded
  count = model.config.parameter_count
  session.say(
    f'{name}: {count:,} parameters, context of {model.config.context:,} '
    f'tokens, template {run.config.data.template!r}'
  )
  return served_model.make(
    *(name, *loaded, fields.max_batch, fields.max_length, fields.steps)
  )
