"""Tests kd deploy: its page, and the arguments of the container and of vLLM."""

import os
import shlex

import pytest
import yaml

from kd.config import base
from kd.core import errors
from kd.modes import deploy as deploy_mode
from kd.versions import changes
from kd.versions import version_cases
from tests import page_commands

# Flags with a value, from https://docs.vllm.ai/en/latest/cli/serve/.
_VLLM = (
  *('--served-model-name', '--host', '--port', '--dtype'),
  *('--max-model-len', '--max-num-seqs'),
)


def test_commands_on_the_page(tmp_path, monkeypatch, capsys):
  (tmp_path / 'kd-run' / 'export').mkdir(parents=True)
  version_cases.export(tmp_path / 'kd-run' / 'export' / 'hf')
  commands = page_commands.commands('docs/deploy.md')
  check, *others = [page_commands.parse(x) for x in commands]
  monkeypatch.chdir(tmp_path)
  words = [shlex.split(flags['words']) for _, flags in (check, *others)]
  config = check[0]
  config.serve.port = 0  # Another program may use the page's port.
  # There is no Prometheus or webhook in the test.
  with pytest.raises(errors.KdError, match='2 of 10 .*: monitoring, alarms'):
    deploy_mode.main(config, None, words[0])
  for (config, _), more in zip(others, words[1:], strict=True):
    deploy_mode.main(config, None, more)
  files = ['alarms.yaml', 'dashboard.json', 'kubernetes.yaml']
  assert sorted(os.listdir('kd-deploy')) == files
  line = shlex.split(capsys.readouterr().out.splitlines()[-1])
  assert line[:3] == ['vllm', 'serve', 'kd-run/export/hf']
  flags = dict(zip(line[3::2], line[4::2], strict=True))
  assert flags.keys() == {*_VLLM}
  # The model's context length; vLLM refuses more.
  assert flags['--max-model-len'] == '1024'
  assert flags['--dtype'] == 'float32'


def test_the_containers_arguments_set_the_config(tmp_path):
  config = base.get_config()
  changed = {
    'serve.max_batch': 7,
    'serve.log_prompts': True,
    'registry.admit': ('ship', 'not distinguishable'),
    'alarms.webhook': 'https://host/a?b=c',
    'alarms.prometheus': 'https://host/a?b=$(HOME)&c=d',
    'generate.quantize.weights': 'q4_0',
    'alarms.p95_ms': 250.5,
    'follow.canary_share': 0.25,
    'deploy.folder': str(tmp_path / 'deploy'),
  }
  config.update_from_flattened_dict(changed)
  # Use a model from a registry.
  model = version_cases.export(tmp_path / 'model')
  config.registry.folder = str(tmp_path / 'registry')
  report = version_cases.report(tmp_path, 'ship')
  changes.add(config.registry.folder, model, report, print)
  with pytest.raises(errors.ConfigError, match='no version is in production'):
    deploy_mode.main(config, None, ['manifests'])
  changes.promote(
    *(config.registry.folder, config.registry, 'v1', 'production', print)
  )
  with pytest.raises(errors.ConfigError, match='alarms.webhook: .*a secret'):
    deploy_mode.main(config, None, ['manifests'])
  config.deploy.webhook_secret = 'kd-webhook'
  deploy_mode.main(config, None, ['manifests'])
  with open(tmp_path / 'deploy' / 'kubernetes.yaml', encoding='utf-8') as f:
    deployment, *_ = yaml.safe_load_all(f)
  pod = deployment['spec']['template']['spec']
  (container,) = pod['containers']
  _, pause = container['lifecycle']['preStop']['exec']['command']
  needed_s = int(pause) + config.serve.stop_s
  assert pod['terminationGracePeriodSeconds'] > needed_s
  _, variable = container['env']
  source = {'name': 'kd-webhook', 'key': 'webhook'}
  assert variable == {
    'name': 'KD_ALARMS_WEBHOOK',
    'valueFrom': {'secretKeyRef': source},
  }
  config.alarms.webhook = ''
  mode, model, *flags = container['args']
  assert (mode, model) == ('serve', f'kd-serve={config.registry.folder}')
  # Escaped for Kubernetes, which would replace $(HOME) with the variable.
  assert any('$$(HOME)' in flag for flag in flags)
  flags = [flag.replace('$$(', '$(') for flag in flags]
  there, _ = page_commands.parse(['deploy', 'check', *flags])
  config.serve.host, config.serve.without_key = '0.0.0.0', True
  for section in ('serve', 'alarms', 'follow', 'registry', 'generate'):
    assert there[section].to_dict() == config[section].to_dict()


def test_invalid_deployments_are_refused(tmp_path):
  config = base.get_config()
  config.deploy.folder = str(tmp_path / 'deploy')
  model = version_cases.export(tmp_path / 'model')
  for words, message in (
    (['chek', model], "unknown command of kd deploy 'chek'.*mean 'check'"),
    (['check', model, model], 'found 2 words after check'),
    (['check', str(tmp_path)], r'has no provenance\.json'),
    (['manifests', model], 'deploy.model: .* an absolute path in the contai'),
  ):
    with pytest.raises(errors.ConfigError, match=message):
      deploy_mode.main(config, None, words)
  # The versions of a registry need more memory than one model.
  registry = tmp_path / 'registry'
  changes.add(str(registry), model, '', print)
  config.deploy.model = str(registry)
  with pytest.raises(errors.ConfigError, match='deploy.model: .*a registry'):
    deploy_mode.main(config, None, ['manifests', model])
  assert not (tmp_path / 'deploy').exists()
