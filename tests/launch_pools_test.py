"""Tests that launch/gke creates and deletes a node pool for each slice."""

import pytest

from tests.fakes import cloud as cloud_lib


@pytest.fixture
def cloud(tmp_path):
  return cloud_lib.Cloud(tmp_path, cloud_lib.GKE_SETTINGS)


def pools(c, verb, *arguments):
  return c.gke(verb, *cloud_lib.POOL_FLAGS, *arguments)


@pytest.mark.parametrize(
  ('flags', 'wanted'),
  [
    ([], ['--tpu-topology=4x4', '--num-nodes=4']),
    (
      ['--capacity=spot', '--internal_ips=yes', '--create_flag=--tags=a,b'],
      [
        *('--tpu-topology=4x4', '--spot', '--num-nodes=4'),
        *('--enable-private-nodes', '--tags=a,b'),
      ],
    ),
    (
      ['--capacity=reserved', '--reservation=projects/p/reservations/r'],
      [
        *('--tpu-topology=4x4', '--reservation-affinity=specific'),
        *('--reservation=projects/p/reservations/r', '--num-nodes=4'),
      ],
    ),
    (
      [
        *('--machine_type=ct6e-standard-8t', '--topology=2x4'),
        *('--capacity=flex-start', '--max_run_hours=12'),
      ],
      [
        *('--flex-start', '--enable-autoscaling', '--num-nodes=0'),
        *('--max-nodes=1', '--location-policy=ANY'),
        *('--reservation-affinity=none', '--no-enable-autorepair'),
        '--max-run-duration=43200s',
      ],
    ),
    # A single host of TPU7x needs only a topology, several hosts a policy.
    (
      ['--machine_type=tpu7x-standard-4t', '--topology=2x2x1'],
      ['--num-nodes=1'],
    ),
    (
      ['--machine_type=tpu7x-standard-4t', '--topology=2x2x4'],
      ['--placement-policy=kd', '--num-nodes=4'],
    ),
  ],
)
def test_pools_have_the_requested_slice(cloud, flags, wanted):
  code, _, err = pools(cloud, 'create-pools', *flags)
  assert code == 0, err
  (call,) = cloud.calls('node-pools', 'create')
  machine = next(
    (f for f in flags if 'machine_type' in f), '--machine_type=ct5lp-hightpu-4t'
  )
  token = cloud.slice('pool.kd-0')['token']
  assert call[4] == 'kd-0'
  assert set(call[5:]) == {
    *('--cluster=kd', '--location=us-west4', '--project=my-project'),
    *('--node-locations=us-west4-a', machine.replace('_', '-')),
    f'--labels=kd_launch={token}',
    *wanted,
  }
  policies = cloud.calls('workload-policy')
  assert bool(policies) == ('--placement-policy=kd' in wanted)
  for policy in policies:
    assert policy[5:] == [
      *('kd', '--type=HIGH_THROUGHPUT', '--accelerator-topology=2x2x4'),
      *('--region=us-west4', '--project=my-project'),
    ]


def test_pools_are_created_and_deleted_for_each_slice(cloud):
  # kd-0 exists as if an earlier call had failed halfway.
  assert pools(cloud, 'create-pools')[0] == 0
  code, _, err = pools(cloud, 'create-pools', '--slices=3')
  assert (code, 'kd-0 is there already' in err) == (0, True), err
  names = [c[4] for c in cloud.calls('node-pools', 'create')]
  assert names == ['kd-0', 'kd-1', 'kd-2']
  code, _, err = pools(cloud, 'delete-pools', '--slices=3')
  assert code == 0, err
  assert [c[4] for c in cloud.calls('node-pools', 'delete')] == names
  code, _, err = pools(cloud, 'delete-pools')
  assert (code, 'there is no node pool kd-0' in err) == (0, True), err


def test_pools_of_others_are_left_alone(cloud):
  cloud.put_slice('pool.kd-0', {'token': 'another'})
  for verb in ('create-pools', 'delete-pools'):
    code, _, err = pools(cloud, verb)
    assert (code, 'was not created here' in err) == (1, True), err
  assert cloud.slice('pool.kd-0')
  assert not cloud.calls('node-pools', 'delete')


def test_all_pools_that_were_created_are_deleted(cloud):
  assert pools(cloud, 'create-pools', '--slices=2')[0] == 0
  code, _, err = pools(cloud, 'delete-pools')
  assert code == 0, err
  deleted = [c[4] for c in cloud.calls('node-pools', 'delete')]
  assert deleted == ['kd-0', 'kd-1']


def test_policies_of_others_are_kept(cloud):
  tpu7x = '--machine_type=tpu7x-standard-4t', '--topology=2x2x4'
  assert pools(cloud, 'create-pools', *tpu7x)[0] == 0
  code, _, err = pools(cloud, 'delete-pools', *tpu7x)
  assert code == 0, err
  assert len(cloud.calls('resource-policies', 'delete')) == 1
  # Without the record the policy belongs to someone else.
  cloud.put_slice('policy.kd', {'token': ''})
  code, _, err = pools(cloud, 'delete-pools', *tpu7x)
  assert code == 0, err
  assert len(cloud.calls('resource-policies', 'delete')) == 1


def test_pools_need_a_cluster(cloud):
  code, _, err = cloud.gke('create-pools', '--project=p-1')
  assert (code, 'cluster: not given' in err) == (2, True), err
