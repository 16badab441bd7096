"""Text of a compiled program with loops, a gather and a library kernel."""

from vit_jax_repro.analysis import hlo

# A loop of 6 steps of 2 around a gather, whose length follows from its
# condition, as in a TPU's text; a kernel in a loop whose length XLA gives.
TEXT = """
HloModule jit_step, is_scheduled=true

%condition (c: (u32[], f32[8,4])) -> pred[] {
  %c = (u32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) parameter(0)
  %count = u32[]{:T(128)} get-tuple-element(%c), index=0
  %end = u32[]{:T(128)} constant(12)
  ROOT %less = pred[]{:T(512)} compare(%count, %end), direction=LT
}

%body (b: (u32[], f32[8,4])) -> (u32[], f32[8,4]) {
  %b = (u32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%b), index=0
  %two = u32[]{:T(128)} constant(2)
  %next = u32[]{:T(128)} add(%i, %two)
  %x = f32[8,4]{1,0:T(8,128)} get-tuple-element(%b), index=1
  %part = f32[2,4]{1,0:T(8,128)S(1)} slice(%x), slice={[0:2], [0:4]}
  %whole = f32[8,4]{1,0:T(8,128)} all-gather(%part), channel_id=1, GROUPS
  ROOT %out = (u32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) tuple(%next, %whole)
}

%kernel_body (k: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %k = (s32[], bf16[8]{0}) parameter(0)
  %n = s32[] get-tuple-element(%k), index=0
  %y = bf16[8]{0} get-tuple-element(%k), index=1
  %call = bf16[8]{0} custom-call(%y), custom_call_target="__cudnn$fmhaSoftmax"
  ROOT %t = (s32[], bf16[8]{0}) tuple(%n, /*index=1*/%call)
}

%kernel_condition (m: (s32[], bf16[8])) -> pred[] {
  %m = (s32[], bf16[8]{0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (p0: f32[8,4], p1: bf16[8]) -> f32[8,4] {
  %p0 = f32[8,4]{1,0:T(8,128)} parameter(0)
  %p1 = bf16[8]{0} parameter(1)
  %zero = u32[]{:T(128)} constant(0)
  %start = (u32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) tuple(%zero, %p0)
  %loop = (u32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) while(%start), LOOP
  %none = s32[] constant(0)
  %begin = (s32[], bf16[8]{0}) tuple(%none, %p1)
  %calls = (s32[], bf16[8]{0}) while(%begin), CALLS
  ROOT %result = f32[8,4]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


def read(groups='replica_groups={{0,1,2,3},{4,5,6,7}}'):
  """Returns the module of `TEXT` with the groups of its gather."""
  text = TEXT.replace('GROUPS', groups)
  text = text.replace('LOOP', 'condition=%condition, body=%body')
  return hlo.HloModule(
    text.replace(
      'CALLS',
      'condition=%kernel_condition, body=%kernel_body, '
      'backend_config={"known_trip_count":{"n":"5"},"other":1}',
    )
  )
