"""Serves models with the OpenAI API."""

from collections.abc import Mapping, Sequence
import os

import ml_collections

from kd.config.fields import serve as serve_fields
from kd.core import errors
from kd.core import paths
from kd.monitoring import webhook
from kd.run import any_model
from kd.run import session
from kd.serving import alarm_bell
from kd.serving import app as app_lib
from kd.serving import drift as drift_lib
from kd.serving import follower as follower_lib
from kd.serving import listener as listener_lib
from kd.serving import metrics as metrics_lib
from kd.serving import prompts
from kd.serving import router as router_lib
from kd.serving import scheduler as scheduler_lib
from kd.serving import served_model
from kd.serving import server_alarms
from kd.serving import wire
from kd.train import preemption
from kd.versions import journal

ARGUMENTS = '[NAME=]MODEL... | [NAME=]REGISTRY'
CONFIG_OPTIONAL = True


def main(
  config: ml_collections.ConfigDict,
  workdir: str | None,
  arguments: Sequence[str],
) -> None:
  """Serves models until SIGTERM or Ctrl-C.

  Args:
    config: the config; `serve`, `generate.quantize` and `data.images.urls` are
      used, and other fields come from each model.
    workdir: the run to serve if `arguments` names no model.
    arguments: models for any_model.load, or a registry whose versions are
      followed. Each may be NAME=MODEL; the default name is that of the file or
      folder.

  Raises:
    ConfigError: a model or a field is wrong, or the port is in use.
  """
  say, fields = session.say, config.serve
  key = os.environ.get(serve_fields.KEY_VARIABLE, '')
  listener_lib.check_host(fields.host, bool(key), fields.without_key)
  places = _by_name(arguments or ([workdir] if workdir else []))
  listening = listener_lib.bind(fields.host, fields.port)
  metrics, service = metrics_lib.Metrics(), '+'.join(places)
  bell = alarm_bell.AlarmBell(webhook.url(config), service, say)
  load = lambda name, place: _load(name, place, config)
  follower, registry = None, _registry(places)
  if registry:
    follower = follower_lib.Follower(
      registry, service, config, load, bell, metrics
    )
    models, router = follower.models, follower.router
  else:
    models = [load(name, place) for name, place in places.items()]
    router = router_lib.Router(models)
  drift = drift_lib.make(service, models, config, load, metrics)
  if drift:
    models.append(drift.teacher)
  session.check_one_process('serve')
  scheduler = scheduler_lib.Scheduler(
    models, fields.queue, metrics, say, lambda: listener.stop()
  )
  alarms = server_alarms.ServerAlarms(config, metrics, bell)
  settings = _settings(config, key)
  server = app_lib.Server(scheduler, router, metrics, settings, say, drift)
  listener = listener_lib.Listener(server.app(), fields.stop_s)
  host, port = listening.getsockname()[:2]
  address = f'[{host}]' if ':' in host else host
  say(f'listening on http://{address}:{port}')

  def stop():
    if follower:
      follower.close()
    scheduler.close()
    listener.stop()

  with preemption.STOP_REQUESTS.stopped_by(stop):
    scheduler.start()
    alarms.start()
    if follower:
      follower.start(scheduler)
    listener.run(listening)
    scheduler.close()
    # All requests have ended; does not wait for compilations.
    scheduler.join(timeout_s=5)
    alarms.close()
    if follower:
      follower.close()
      follower.join(timeout_s=5)
    bell.close()
  if scheduler.error:
    raise scheduler.error
  say('stopped')


def _by_name(words: Sequence[str]) -> dict[str, str]:
  """Returns the paths of the models by name."""
  places = {}
  for word in words:
    name, equals, path = word.partition('=')
    if not equals or os.path.exists(word):
      path = word
      last = os.path.basename(os.path.normpath(word.split(':')[-1]))
      name = last.removesuffix('.gguf')
    if not name or name in places:
      raise errors.ConfigError(
        'command line',
        f'found two models of the name {name!r}' if name else f'found {word!r}',
        legal=f'{ARGUMENTS}, each with a name of its own',
      )
    places[name] = path
  if not places:
    raise errors.ConfigError(
      'command line', 'found no model', legal=f'{ARGUMENTS}, or --workdir'
    )
  return places


def _registry(places: Mapping[str, str]) -> str | None:
  """Returns the folder of the registry; None if models are named.

  Raises:
    ConfigError: a registry and something else are named.
  """
  for place in places.values():
    folder = paths.expand(place)
    if os.path.isfile(os.path.join(folder, journal.FILE)):
      if len(places) > 1:
        raise errors.ConfigError(
          'command line',
          f'found a registry, {place!r}, and {len(places) - 1} more',
          legal=ARGUMENTS,
        )
      return folder
  return None


def _settings(config: ml_collections.ConfigDict, key: str) -> app_lib.Settings:
  fields = config.serve
  return app_lib.Settings(
    key,
    fields.max_request_bytes,
    wire.Limits(
      fields.max_batch,
      fields.timeout_ms / 1000,
      prompts.ImageLimits(
        fields.max_images, fields.max_pixels, config.data.images.urls
      ),
    ),
    fields.log_prompts,
  )


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
    *(name, *loaded, fields.max_batch, fields.max_length, fields.steps),
    fields.max_images,
  )
