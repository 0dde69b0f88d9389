"""Tests byte counts of small programs against counts by hand."""

from kd.planning.hlo import traffic

_KIB = 1024

# A loop of five trips reads a slice of a stack [5, 16, 16] and multiplies; what
# is gathered is in two fusions, the start and the end of one collective.
_PROGRAM = """\
HloModule test, is_scheduled=true

%start (p.0: f32[4,16]) -> f32[16,16] {
  %p.0 = f32[4,16]{1,0} parameter(0)
  ROOT %all-gather.1 = f32[16,16]{1,0} all-gather(%p.0), channel_id=7, \
replica_groups=mesh['axis_0'=2, 'axis_1'=4] {'axis_1'}, dimensions={0}
}

%end (p.1: f32[4,16]) -> f32[16,16] {
  %p.1 = f32[4,16]{1,0} parameter(0)
  ROOT %all-gather.2 = f32[16,16]{1,0} all-gather(%p.1), channel_id=7, \
replica_groups=mesh['axis_0'=2, 'axis_1'=4] {'axis_1'}, dimensions={0}
}

%slice (p.2: f32[5,16,16], p.3: s32[]) -> f32[1,16,16] {
  %p.2 = f32[5,16,16]{2,1,0} parameter(0)
  %p.3 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %ds = f32[1,16,16]{2,1,0} dynamic-slice(%p.2, %p.3, %zero, %zero), \
dynamic_slice_sizes={1,16,16}
}

%body (state: (s32[], f32[5,16,16])) -> (s32[], f32[5,16,16]) {
  %state = (s32[], f32[5,16,16]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %one = s32[] constant(1)
  %next = s32[]{:S(2)} add(%i, %one)
  %stack = f32[5,16,16]{2,1,0} get-tuple-element(%state), index=1
  %piece = f32[1,16,16]{2,1,0:S(1)} fusion(%stack, %i), kind=kLoop, \
calls=%slice
  ROOT %out = (s32[], f32[5,16,16]{2,1,0}) tuple(%next, %stack)
}

%condition (state.1: (s32[], f32[5,16,16])) -> pred[] {
  %state.1 = (s32[], f32[5,16,16]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %five = s32[] constant(5)
  ROOT %lt = pred[] compare(%i.1, %five), direction=LT
}

ENTRY %main (a: f32[4,16], w: f32[5,16,16]) -> f32[16,16] {
  %a = f32[4,16]{1,0} parameter(0)
  %w = f32[5,16,16]{2,1,0} parameter(1)
  %begin = f32[16,16]{1,0:S(1)} fusion(%a), kind=kCustom, calls=%start
  %finish = f32[16,16]{1,0} fusion(%a), kind=kCustom, calls=%end
  %zero.1 = s32[] constant(0)
  %init = (s32[], f32[5,16,16]{2,1,0}) tuple(%zero.1, %w)
  %loop = (s32[], f32[5,16,16]{2,1,0}) while(%init), condition=%condition, \
body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %fetch = (f32[16,16]{1,0:S(1)}, f32[16,16]{1,0}, u32[]{:S(2)}) \
copy-start(%finish)
  ROOT %fetched = f32[16,16]{1,0:S(1)} copy-done(%fetch)
}
"""


def test_traffic_equals_a_manual_count():
  counted = traffic.count(_PROGRAM, None)
  # Three of four parts of 256 bytes come in, once.
  assert counted.ici == 3 * 256
  counters = 5 * 4  # `next` is on the chip, its operand is in HBM.
  constants = 5 * 4
  index = 5 * 4  # The position of a slice is read, too.
  gathered = 2 * 256 + _KIB  # One of the two results stays on the chip.
  slices = 5 * _KIB  # Read from HBM, kept on the chip.
  assert counted.hbm == (
    gathered + slices + counters + constants + index + _KIB  # and fetched.
  )


def test_reduce_scatter_counts_half_of_all_reduce():
  whole = """\
ENTRY %main (a: bf16[64]) -> bf16[64] {
  %a = bf16[64]{0} parameter(0)
  ROOT %sum = bf16[64]{0} all-reduce(%a), replica_groups={{0,1},{2,3}}
}
"""
  parts = whole.replace('all-reduce(', 'reduce-scatter(').replace(
    '{{0,1},{2,3}}', '[2,2]<=[4]'
  )
  assert traffic.count(whole, None).ici == 2 * 64
  assert traffic.count(parts, None).ici == 64


def test_traffic_between_slices_is_counted_per_receiver():
  receive = """\
  %%received.%d = (f32[4,16]{1,0:T(8,128)}, u32[], token[]) recv(%%token), \
channel_id=3, is_host_transfer=true, frontend_attributes={\
_xla_host_transfer_handler_name="xla_megascale_runtime"}, \
backend_config={"dcn_collective_permute_recv":{"non_target_slice_ids":[%d]}}
  %%done.%d = (f32[4,16]{1,0}, token[]) recv-done(%%received.%d), \
channel_id=3, frontend_attributes={\
_xla_host_transfer_handler_name="xla_megascale_runtime"}
"""
  inside = '  ROOT %out = (s32[]'
  assert _PROGRAM.count(inside) == 1
  # Slice 0 receives the second and the third, slice 1 the first.
  three = ''.join(
    receive % (i, other, i, i) for i, other in enumerate((0, 1, 1))
  )
  counted = traffic.count(_PROGRAM.replace(inside, three + inside), None)
  assert counted.dcn == 2 * 5 * 4 * 16 * 4
  without = traffic.count(_PROGRAM, None)
  assert counted.ici == without.ici and without.dcn == 0
