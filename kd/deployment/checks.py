"""Checks whether this machine and config are ready to serve a model.

Each check is a function of a Target that returns its result as text, or raises
_FailError with advice.
"""

from collections.abc import Callable, Iterator
import dataclasses
import os
import shutil
import socket
from typing import Any

import jax

from kd.checkpoints import gguf_parts
from kd.checkpoints import weights
from kd.config.fields import serve as serve_fields
from kd.core import addresses
from kd.core import errors
from kd.core import run_info
from kd.deployment import memory
from kd.deployment import monitors
from kd.deployment import packages
from kd.input_pipeline import lookup
from kd.monitoring import webhook
from kd.versions import compatibility

_GIB = 2**30
_ACCELERATORS = ('gpu', 'tpu')


@dataclasses.dataclass(frozen=True)
class Target:
  """The model to serve.

  Attributes:
    config: the config.
    init: location of the weights: 'hf:DIR' or 'gguf:FILE'.
    problems: differences of the files from their digests.
    files: number of files compared.
    versions: maximum number of models loaded at the same time: a new version of
      a registry, the running one, its fallback, the canary, and a teacher to
      compare answers with.
  """

  config: Any
  init: str
  problems: tuple[str, ...]
  files: int
  versions: int = 1


@dataclasses.dataclass(frozen=True)
class Finding:
  """The result of a check.

  Attributes:
    name: name of the check, one of NAMES.
    passed: whether it passed.
    text: the result.
    advice: advice to the user; '' if it passed.
  """

  name: str
  passed: bool
  text: str
  advice: str = ''

  def line(self) -> str:
    """Returns the finding as a line for the user."""
    line = f'{"pass" if self.passed else "FAIL"}  {self.name}: {self.text}'
    return f'{line}; {self.advice}' if self.advice else line


class _FailError(Exception):
  """Raised if a check fails.

  Attributes:
    advice: advice to the user.
  """

  def __init__(self, text: str, advice: str):
    super().__init__(text)
    self.advice = advice


def run(target: Target) -> Iterator[Finding]:
  """Yields the findings of the checks in `deploy.checks`, in order."""
  for name in target.config.deploy.checks:
    try:
      yield Finding(name, True, _CHECKS[name](target))
    except _FailError as e:
      yield Finding(name, False, str(e), e.advice)
    except (errors.KdError, OSError) as e:
      yield Finding(name, False, str(e), 'fix the reported problem')


def _hardware(target: Target) -> str:
  devices = jax.devices()
  kind = devices[0].platform
  seen = f'{len(devices)} {devices[0].device_kind} ({kind})'
  wanted = target.config.deploy.devices.lower()
  named = [x for x in _ACCELERATORS if x in wanted]
  if named and kind not in named:
    raise _FailError(
      f'{seen}, and deploy.devices asks for {wanted}',
      f'check the driver and that jax is installed for {named[0]}, or set '
      "deploy.devices=''",
    )
  cpus = len(os.sched_getaffinity(0))
  if cpus < target.config.deploy.cpus:
    raise _FailError(
      f'{cpus} CPUs, and deploy.cpus is {target.config.deploy.cpus:g}',
      'take a larger machine, or lower deploy.cpus',
    )
  return f'{seen}, {cpus} CPUs'


def need(target: Target) -> memory.Need:
  """Returns the memory needed for serving."""
  model = weights.model_config(target.init, 'command line')
  serve = target.config.serve
  length = min(serve.max_length, model.context)
  return memory.needed(model, serve.dtype, serve.max_batch, length).times(
    target.versions
  )


def _memory(target: Target) -> str:
  needed = need(target)
  there = memory.free(jax.devices())
  several = f' for {target.versions} versions' if target.versions > 1 else ''
  parts = (
    f'{needed.total / _GIB:.2f} GiB needed{several}: parameters '
    f'{needed.params / _GIB:.2f}, for decoding {needed.decoding / _GIB:.2f}, '
    f'KV cache {needed.cache / _GIB:.2f}'
  )
  if there is None:
    raise _FailError(
      f'{parts}; the system does not report free memory',
      'make sure of it yourself, and leave `memory` out of deploy.checks',
    )
  if needed.total > there:
    raise _FailError(
      f'{parts}; {there / _GIB:.2f} GiB free',
      'lower serve.max_batch or serve.max_length, take serve.dtype=bfloat16, '
      'or a machine with more',
    )
  return f'{parts}; {there / _GIB:.2f} GiB free'


def _versions(target: Target) -> str:
  del target
  lines, count = packages.differences()
  if lines:
    raise _FailError(
      errors.first_of(lines),
      'install from requirements.lock, or run the image that was built from it',
    )
  return f'{count} packages are those of {packages.source()}'


def _digests(target: Target) -> str:
  if target.problems:
    raise _FailError(
      errors.first_of(target.problems), 'export or add the model again'
    )
  return f'{target.files} files have the digests that were recorded'


def _configs(target: Target) -> str:
  config = target.config
  described = compatibility.describe(target.init, 'command line')
  serve = config.serve
  is_open = not addresses.is_loopback(serve.host) and not serve.without_key
  if is_open and not os.environ.get(serve_fields.KEY_VARIABLE):
    raise _FailError(
      f'serve.host is {serve.host}, and there is no API key',
      f'set {serve_fields.KEY_VARIABLE} or serve.without_key=True',
    )
  if config.deploy.min_replicas > config.deploy.max_replicas:
    raise _FailError(
      f'deploy.min_replicas is {config.deploy.min_replicas}, '
      f'deploy.max_replicas {config.deploy.max_replicas}',
      'raise deploy.max_replicas',
    )
  if config.alarms.p95_ms > serve.timeout_ms:
    raise _FailError(
      f'alarms.p95_ms is {config.alarms.p95_ms:g}, and serve.timeout_ms '
      f'{serve.timeout_ms} ends requests before it can be reached',
      'lower alarms.p95_ms',
    )
  return (
    f'{described["family"]}, {described["parameters"]:,} parameters, template '
    f'{described[compatibility.TEMPLATE] or "none"}, requests of up to '
    f'{min(serve.max_length, described[compatibility.CONTEXT])} tokens'
  )


def _data(target: Target) -> str:
  config = target.config
  if config.data.mixture:
    return lookup.check(config, ()).removeprefix('data: ')
  lookup.check_held_out(config)
  names = [k for k, x in config.evaluation.sets.items() if x.mixture]
  return f'{", ".join(names)} exist' if names else 'no data sets in the config'


def _ports(target: Target) -> str:
  serve = target.config.serve
  family = socket.AF_INET6 if ':' in serve.host else socket.AF_INET
  with socket.socket(family, socket.SOCK_STREAM) as s:
    # As servers do, treats a port with lingering connections as free.
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      s.bind((serve.host.strip('[]'), serve.port))
    except OSError as e:
      raise _FailError(
        f'{serve.host}:{serve.port}: {e.strerror}',
        'stop the process that uses the port, or choose another serve.port or '
        'serve.host',
      ) from e
  return f'{serve.host}:{serve.port} is free'


def _disk(target: Target) -> str:
  place = target.init.partition(':')[2]
  if os.path.isdir(place):
    folder, files = place, [entry.path for entry in os.scandir(place)]
  else:
    folder = os.path.dirname(place) or '.'
    # A model may be split into several files.
    files = {x.file for x in gguf_parts.read(place).tensors.values()}
  size = sum(map(os.path.getsize, files))
  lines = []
  # The next version is stored next to this one, and compiled programs in the
  # home folder.
  for path, wanted in ((folder, size), (os.path.expanduser('~'), _GIB)):
    there = shutil.disk_usage(path).free
    if there < wanted:
      raise _FailError(
        f'{path}: {there / _GIB:.2f} GiB free, {wanted / _GIB:.2f} GiB wanted',
        'kd registry prune, or a larger disk',
      )
    lines.append(f'{path}: {there / _GIB:.1f} GiB free')
  return ', '.join(lines)


def _monitoring(target: Target) -> str:
  alarms = target.config.alarms
  if not alarms.prometheus:
    raise _FailError(
      'alarms.prometheus is not set',
      'set it to the URL of the Prometheus server that scrapes /metrics',
    )
  missing, count = monitors.missing_rules(target.config)
  if missing:
    raise _FailError(
      f'{alarms.prometheus} lacks the alarms {", ".join(missing)}',
      'load alarms.yaml of `kd deploy manifests` as a rule file',
    )
  return f'{alarms.prometheus} has all {count} alarms'


def _alarms(target: Target) -> str:
  if not webhook.url(target.config):
    raise _FailError(
      'alarms.webhook is not set',
      f'set it to the URL that alarms are posted to, or {webhook.VARIABLE}',
    )
  try:
    monitors.deliver_test(target.config)
  except OSError as e:
    raise _FailError(
      f'a test alarm was not delivered: {e}',
      'check alarms.webhook, and that this machine may reach it',
    ) from e
  return f'a test alarm was delivered at {run_info.now()}'


_CHECKS: dict[str, Callable[[Target], str]] = {
  'hardware': _hardware,
  'memory': _memory,
  'versions': _versions,
  'digests': _digests,
  'configs': _configs,
  'data': _data,
  'ports': _ports,
  'disk': _disk,
  'monitoring': _monitoring,
  'alarms': _alarms,
}
NAMES = tuple(_CHECKS)
