"""Tests the formulas against arrays, arithmetic and common sense."""

import functools

import jax
import ml_collections
import pytest

from kd.config import base
from kd.configs import gemma3_27b_4b
from kd.configs import gemma3_tpu
from kd.core import config as config_lib
from kd.core import errors
from kd.losses import dense_distributions
from kd.losses import sparse_distributions
from kd.models import decoding
from kd.partitioning import mesh as mesh_lib
from kd.planning import planned_run
from kd.planning import programs
from kd.planning import search
from kd.planning import suggestions
from kd.planning import tables
from kd.planning.cost import analytic_cost
from kd.planning.cost import chips
from kd.planning.cost import costs

_CHOSEN = chips.parse('v5e:2x4')


def _config(**changes):
  config = gemma3_tpu.get_config()
  config.update_from_flattened_dict(
    {
      'teacher.variant': 'tiny',
      'student.variant': 'nano',
      'data.batch_size': 16,
      'data.length': 256,
      **changes,
    }
  )
  return config


def _estimate(**changes):
  return _of_changes(tuple(sorted(changes.items())))


@functools.cache
def _of_changes(changes):
  return suggestions.estimate(_config(**dict(changes)), _CHOSEN)


def test_resident_memory_equals_the_bytes_of_real_arrays():
  run = planned_run.on_abstract_mesh(_config(), 1)
  # Compiled: eager initializers take longer.
  init = lambda model: jax.jit(model.module.init_params)(jax.random.key(0))
  params = init(run.student)
  size = sum(x.nbytes for x in jax.tree.leaves(params))
  moments = sum(
    x.nbytes for x in jax.tree.leaves(jax.jit(run.optimizer.init)((params, {})))
  )
  teacher = init(run.teacher)
  resident = costs.resident_memory(run)
  assert resident.parameters == size
  assert resident.optimizer == moments
  assert resident.teachers == (
    sum(x.nbytes for x in jax.tree.leaves(teacher)) / 2,
  )
  assert resident.embedding == params['embedding'].nbytes


def test_gradients_and_moments_cover_only_trained_parameters():
  config = _config()
  plain = costs.model_flops(planned_run.on_abstract_mesh(config, 1))
  with config.unlocked():
    config.optimizer.groups = {
      'rest': base.parameter_group(r'layers\.\d+\.mlp|embedding', frozen=True)
    }
  run = planned_run.on_abstract_mesh(config, 1)
  resident, c = costs.resident_memory(run), run.student.config
  mlps = c.num_layers * 3 * c.embed_dim * c.mlp_dim
  less = {k: plain[k] - v for k, v in costs.model_flops(run).items()}
  positions = 2 * 16 * 256  # Multiplications and additions.
  assert less.pop('student_backward') == positions * mlps
  assert less.pop('objective') == positions * c.vocab_size * c.embed_dim
  assert not any(less.values())
  trained = resident.parameters - resident.embedding - 4 * mlps
  assert resident.gradients == trained
  assert resident.optimizer == 2 * trained + 4  # And a counter.


def test_meshes_divide_resident_memory():
  whole, parts = (
    costs.resident_memory(planned_run.on_abstract_mesh(_config(), chips))
    for chips in (1, 8)
  )
  norms = 0.01 * whole.parameters
  assert abs(parts.parameters - whole.parameters / 8) < norms
  assert abs(parts.teachers[0] - whole.teachers[0] / 8) < norms


def test_copies_of_split_tables_are_counted():
  changes = {'teacher.variant': '4b', 'student.variant': '1b'}
  resident = costs.resident_memory(
    planned_run.on_abstract_mesh(_config(**changes), 8)
  )
  rows, width = 262_144, 2560
  assert resident.copied_bytes == rows * width * 2 // 8
  assert _estimate(**changes).phases[programs.DECODE]['teacher'] == (
    resident.teachers[0] + resident.copied_bytes
  )


def test_remat_trades_memory_for_operations():
  sizes, work = zip(
    *(
      (estimate.peaks[programs.STEP], estimate.step_costs[-1].flops)
      for estimate in (
        _estimate(**{'student.remat': remat})
        for remat in ('none', 'dots', 'block')
      )
    ),
    strict=True,
  )
  assert sizes[0] > sizes[1] > sizes[2]
  assert work[0] < work[1] < work[2]
  halved = _estimate(**{'optimizer.micro_batches': 2, 'student.remat': 'none'})
  assert halved.peaks[programs.STEP] < sizes[0]


def test_teachers_on_reserved_chips_share_neither_memory_nor_time():
  together = _estimate(**{'student.remat': 'none'})
  apart = _estimate(**{'student.remat': 'none', 'teacher.devices': 4})
  own, copied = apart.resident.teachers[0], apart.resident.unembeddings[0]
  assert own > 1.9 * together.resident.teachers[0]  # On half of the chips.
  assert apart.resident.copied_bytes == copied
  assert apart.phases[programs.TEACHER]['parameters'] == 0
  assert apart.phases[programs.DECODE]['teacher'] == copied
  chip = _CHOSEN.chip
  seconds = [c.seconds(chip) for c in apart.step_costs]
  assert apart.seconds == max(seconds) < sum(seconds)
  assert together.seconds == sum(c.seconds(chip) for c in together.step_costs)


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    # Of two hosts.
    ({'teacher.devices': 3}, 'teacher.devices: found 3.*multiple of 2'),
    (
      {'teacher.devices': 4, 'mesh.fsdp': 1, 'mesh.sequence': 4},
      'teacher.mesh: a process would have other rows',
    ),
  ],
)
def test_reserved_chips_that_a_run_would_refuse_are_not_planned(changes, words):
  with pytest.raises(errors.ConfigError, match=words):
    _estimate(**changes)


def test_cost_and_time_equal_a_manual_calculation():
  estimate = _estimate(**{'plan.price': 2.0, 'steps': 7200})
  hours = 7200 * estimate.seconds / 3600
  assert estimate.limit.dollars == pytest.approx(hours * 8 * 2.0)
  a_day = 16 * 256 * 86_400 / estimate.seconds
  assert estimate.limit.tokens_a_day == pytest.approx(a_day)
  chip = _CHOSEN.chip
  slowest = [
    max(c.flops / chip.flops, c.hbm / chip.hbm_bandwidth)
    for c in estimate.step_costs
  ]
  assert estimate.seconds >= sum(slowest)


def test_the_expected_speed_follows_its_mfu_below_the_roofline():
  chip, config = _CHOSEN.chip, {'plan.price': 2.0, 'steps': 7200}
  slow = _estimate(**config, **{'plan.mfu': 0.01})
  needed = costs.model_flops(slow.run)
  needed = sum(needed.values()) - needed['recomputed']
  assert slow.expected.mfu == pytest.approx(0.01)
  seconds = needed / (0.01 * 8 * chip.flops)
  assert slow.expected.seconds == pytest.approx(seconds)
  assert slow.expected.dollars == pytest.approx(seconds * 7200 / 3600 * 8 * 2)
  fast = _estimate(**config, **{'plan.mfu': 1.0})
  assert fast.expected.seconds == pytest.approx(fast.limit.seconds)
  assert (
    fast.expected.mfu == pytest.approx(fast.limit.mfu) and fast.limit.mfu < 1
  )


def test_decoding_stores_the_student_and_a_copy_for_reading():
  run = _estimate().run
  resident = costs.resident_memory(run)
  params = programs.decode(run).arguments[:2]
  phase = _estimate().phases[programs.DECODE]
  trained, copy = (programs.local_bytes(tree) for tree in params)
  assert trained == resident.student == resident.parameters
  # The norms of the copy are float32.
  assert phase['parameters'] == pytest.approx(trained + copy, rel=0.02)


def test_decoding_reads_codes_of_a_quantized_student():
  changes = {f'student.quantize.{k}': 'q4_0' for k in ('weights', 'tables')}
  estimate = _estimate(**changes, **{'student.variant': '1b'})
  trained = costs.resident_memory(estimate.run).student
  copy = estimate.phases[programs.DECODE]['parameters'] - trained
  # 4 of 32 bits, split over 8 chips; some scales are on several of them.
  codes = trained / 8
  assert codes < copy < 1.6 * codes


@pytest.mark.parametrize('prompt', [16, 2048])
def test_local_layers_cache_only_their_window_of_a_long_prompt(prompt):
  changes = {'student.variant': '1b', 'plan.prompt_length': prompt}
  config = _config(**changes, **{'evaluation.batch_size': 8})
  estimate = suggestions.estimate(config, _CHOSEN)
  rows, slots = 8 // 8, prompt + config.evaluation.max_new_tokens
  model = estimate.run.student.module
  cache = jax.eval_shape(lambda: decoding.empty(model, rows, slots))
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache))
  assert estimate.phases[programs.DECODE]['kv_cache'] == size


def test_every_mesh_of_a_slice_uses_all_its_chips():
  meshes = list(search.meshes(8))
  ones = dict.fromkeys(mesh_lib.AXES, 1)
  assert ones | {'fsdp': 8} in meshes
  products = set()
  for mesh in meshes:
    product = 1
    for size in mesh.values():
      product *= size
    products.add(product)
  assert products == {8} and len({tuple(m.values()) for m in meshes}) == len(
    meshes
  )


def test_searches_rank_fitting_configs_and_print_them_as_flags(monkeypatch):
  # Two of each are enough to compare, and all of them take a minute.
  monkeypatch.setattr(search, '_BATCHES', (1, 2))
  monkeypatch.setattr(search, '_MICRO_BATCHES', (1, 2))
  config = _config(**{'teacher.variant': '4b', 'student.variant': '1b'})
  chosen = chips.parse('v5e:2x2')
  ranked = search.ranked(config, chosen)
  order = []
  for c in ranked:
    config_, shape = c.estimate.run.config, c.estimate.run.mesh.shape
    network = sum(cost.ici for cost in c.estimate.step_costs)
    tokens = config_.data.batch_size * config_.data.length
    speed = float(f'{c.estimate.limit.tokens_a_day:.3g}')
    order.append((-speed, shape['tensor'], float(f'{network / tokens:.3g}')))
  # Ties go to fewer devices in tensor, then to less network traffic.
  assert order == sorted(order)
  printed = [search.table([(c, c.estimate)]).splitlines()[1] for c in ranked]
  assert len(set(printed)) == len(printed)
  assert all(c.estimate.total < chosen.chip.hbm_bytes for c in ranked)
  best = ranked[0]
  again = ml_collections.ConfigDict(config.to_dict())
  for word in best.flags.split():
    path, value = word.removeprefix('--config.').split('=')
    again.update_from_flattened_dict(
      {path: type(config_lib.flatten(config)[path])(value)}
    )
  assert suggestions.estimate(again, chosen).total == best.estimate.total
  tried = {
    (c.changes.get('teacher.devices', 0), c.changes.get('teacher.mesh.fsdp', 0))
    for c in ranked
  }
  # As the student, over all chips whatever the student's mesh, on half.
  assert tried == {(0, 0), (0, 4), (2, 2)}
  remats = {c.changes['student.remat'] for c in ranked}
  assert remats == {'none', 'dots', 'block', 'block_offload'}


def test_a_search_without_a_fit_reports_the_closest_one():
  config = _config(**{'teacher.variant': '27b', 'student.variant': '12b'})
  with pytest.raises(errors.ConfigError, match='nothing fits v5e:1x1.*GiB'):
    search.ranked(config, chips.parse('v5e:1x1'))


def test_advice_lists_changes_and_whether_they_suffice():
  config = _config(
    **{
      'teacher.variant': '4b',
      'student.variant': '1b',
      'student.remat': 'none',
      'data.length': 8192,
    }
  )
  estimate = suggestions.estimate(config, _CHOSEN)
  assert estimate.does_not_fit == [programs.STEP]
  lines = suggestions.lines(config, estimate)
  block = [x for x in lines if x.startswith('--config.student.remat=block:')]
  config.student.remat = 'block'
  after = suggestions.estimate(config, _CHOSEN)
  saved = (estimate.total - after.total) / 2**30
  assert len(block) == 1 and f'{saved:.2f} GiB less' in block[0]
  assert block[0].endswith('fits') == (not after.does_not_fit)


def test_27b_into_4b_fits_16_chips_of_v5e():
  chosen = chips.parse('v5e:4x4')
  estimate = suggestions.estimate(gemma3_27b_4b.get_config(), chosen)
  assert not estimate.does_not_fit


def test_table_rows_have_a_cell_for_each_column():
  estimate = _estimate()
  row = tables.record(estimate, estimate, ['more chips'])
  lines = tables.markdown([row, row]).splitlines()
  assert len({line.count('|') for line in lines}) == 1 and len(lines) == 4
  text = tables.terminal([estimate, estimate], [estimate, estimate])
  assert 'tiny to nano on v5e:2x4' in text and 'MFU' in text


@pytest.mark.parametrize(
  ('method', 'kind'),
  [
    ('top_k', sparse_distributions.TopK),
    ('sampled', sparse_distributions.Sampled),
    ('stratified', sparse_distributions.Sampled),
    ('hidden', dense_distributions.DenseMixture),
  ],
)
def test_a_cached_teacher_has_no_program_and_few_bytes(method, kind):
  config = gemma3_tpu.get_config()
  with config.unlocked():
    config.cache.method = base.cache_method(method)
  config.update_from_flattened_dict(
    {'teacher.variant': 'tiny', 'student.variant': 'nano'}
    | {'data.batch_size': 16, 'data.length': 256, 'teacher.source': 'cached'}
  )
  estimate = suggestions.estimate(config, _CHOSEN)
  assert [x.name for x in programs.all_programs(estimate.run)] == [
    'step',
    'decode',
  ]
  targets = programs.targets(estimate.run)
  assert isinstance(targets.distribution, kind) and targets.taps is None
  step = analytic_cost.step(estimate.run, costs.resident_memory(estimate.run))
  assert step.bytes['teacher'] == programs.local_bytes(targets)


def test_plans_of_rollouts_include_decoding():
  config = gemma3_tpu.get_config()
  changes = {'teacher.variant': 'tiny', 'student.variant': 'nano'}
  config.update_from_flattened_dict(changes | {'data.length': 256})

  def decoding(**more):
    config.update_from_flattened_dict(more)
    estimate = suggestions.estimate(config, _CHOSEN)
    named = {x.name: x for x in programs.all_programs(estimate.run)}
    assert list(named) == ['teacher', 'step', 'decode']
    return analytic_cost.decode(
      estimate.run, costs.resident_memory(estimate.run)
    ), named['decode']

  evaluated, _ = decoding()
  on_policy = {'teacher.source': 'on_policy', 'data.pack': False}
  sampled, program = decoding(**on_policy, **{'rollout.batch_size': 32})
  assert program.trips == config.rollout.max_new_tokens == 128
  tokens = program.arguments[2]
  assert tokens.shape == (32, config.plan.prompt_length)
  # Twice the rows, as many tokens each.
  caches = [x.bytes['kv_cache'] for x in (sampled, evaluated)]
  assert caches[0] == 2 * caches[1]
