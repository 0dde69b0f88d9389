"""Every legal field, once, with its default, unit and legal values.

A config starts from get_config() and changes what it needs:

  from configs import base

  def get_config(arg=''):
    c = base.get_config()
    c.student.variant = '1b'
    c.losses = dict(kl=base.term('forward_kl', weight=1.0, temperature=2.0))
    return c

Any field can be changed on the command line: --config.optimizer.lr.peak=3e-4.
"""

import ml_collections

from configs import thoughts

# Arguments that a term of divergence has beside those that are its own.
_SOFT = dict(
  temperature=1.0,  # > 0, of both models; a number or a schedule
  clip=0.0,  # nats a token's loss is cut to; 0: not cut
  # targets that count: all | answer | rationale | sampled (the student's)
  part='all',
)
_ATTENTION = dict(
  map='uniform',  # which layers are compared: uniform | last
  pairs=1,  # how many pairs of layers
  temperature=1.0,  # as above
  block=512,  # queries whose attention exists at one time
  part='all',  # as above
)
_TERMS = dict(
  forward_kl=_SOFT,
  reverse_kl=_SOFT,
  jensen_shannon=dict(_SOFT, beta=0.5),  # the teacher's share, (0, 1)
  skewed_forward_kl=dict(_SOFT, skew=0.1),  # the mixture's other share, [0, 1)
  skewed_reverse_kl=dict(_SOFT, skew=0.1),
  total_variation=_SOFT,
  alpha_beta=dict(_SOFT, alpha=0.5, beta=0.5),  # powers of p and q, >= 0
  adaptive_kl=dict(_SOFT, head_mass=0.5),  # the teacher's mass that is its head
  cross_entropy=dict(
    label_smoothing=0.0,  # of the target, spread over all ids, [0, 1)
    z_loss=0.0,  # x log(Z)^2 is added, >= 0
    part='all',  # as above
  ),
  hidden_states=dict(
    kind='mse',  # mse | cosine
    map='uniform',  # uniform | last | adaptive
    pairs=1,  # how many pairs of layers
    remap_every=0,  # updates between measurements, for map adaptive
    norm=True,  # an RMSNorm before the projection
    dropout=0.0,  # between them, [0, 1)
    part='all',  # as above
  ),
  attention_maps=dict(
    _ATTENTION,
    heads='mean',  # each: head by head | mean: of the mean over heads
  ),
  attention_relations=dict(
    _ATTENTION,
    of=('query', 'key', 'value'),  # one or more of these
    relation_heads=1,  # divides heads x width of each
  ),
)


def term(name: str, weight=1.0, **changes):
  """A loss term: a name of kd/losses, its weight, and its arguments.

  The weight may be a schedule.
  """
  return ml_collections.ConfigDict(
    dict(dict(name=name, weight=weight, **_TERMS.get(name, {})), **changes)
  )


def schedule(name: str, **arguments):
  """A number that changes with updates: a name of kd/core/schedules.py."""
  return ml_collections.ConfigDict(dict(name=name, **arguments))


def adamw(lr, **changes):
  """AdamW with the settings that are usual for language models."""
  return ml_collections.ConfigDict(
    dict(
      dict(
        name='adamw',
        lr=lr,
        clip_norm=1.0,  # global gradient norm is cut to it; 0: no clipping
        micro_batches=1,  # parts of a batch whose gradients are summed
        state_memory='device',  # holds moments between updates: device | host
        weight_decay=0.01,  # on matrices; never on norms
        b1=0.9,  # decay of the gradient's mean, [0, 1)
        b2=0.99,  # decay of its square, [0, 1)
        epsilon=1e-8,  # added to the root of the square
      ),
      **changes,
    )
  )


def adafactor(lr, **changes):
  """Adafactor (arXiv 1804.04235) as T5 was trained with it."""
  return ml_collections.ConfigDict(
    dict(
      dict(
        name='adafactor',
        lr=lr,
        clip_norm=1.0,  # as for adamw
        micro_batches=1,  # as for adamw
        state_memory='device',  # as for adamw
        weight_decay=0.0,  # on matrices; never on norms
        decay_rate=0.8,  # b2 at step t is 1 - t ** -decay_rate
        clip_update=1.0,  # root mean square that an update is cut to
        scale_by_parameter=True,  # steps relative to a parameter's own size
      ),
      **changes,
    )
  )


def evaluation_set(**changes):
  """One held-out set: what evaluation.sets.<name> holds."""
  return ml_collections.ConfigDict(
    dict(
      dict(
        mixture='',  # a seqio task or mixture; '': data.mixture
        split='validation',  # a split of it
        examples=64,  # scored at most, one a row; -1: all
        answers=0,  # of these, answered by generation, for exact match
      ),
      **changes,
    )
  )


def positions(rule: str, share=1.0):
  """What objective.positions holds; the share may be a schedule."""
  return ml_collections.ConfigDict(dict(rule=rule, share=share))


def rationale(dropped):
  """What data.rationale holds; the share may be a schedule."""
  return ml_collections.ConfigDict(dict(dropped=dropped))


def rollout(**changes):
  """What `rollout` holds: how the student samples rows of its own training."""
  return ml_collections.ConfigDict(
    dict(
      dict(
        share=1.0,  # of a step's rows, [0, 1], a number or a schedule
        # updates from one sampling to the next, > 0; the student's rows of
        # those in between come out of the buffer
        every=1,
        # rows it keeps, the latest: 0 where every is 1, else share x
        # data.batch_size or more
        buffer=0,
        temperature=1.0,  # this and the next four as for generate
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        repetition_penalty=1.0,
        max_new_tokens=128,  # of an answer, > 0 and less than data.length
        # answers that grow at a time, > 0, a multiple of mesh.data x mesh.fsdp
        batch_size=8,
      ),
      **changes,
    )
  )


def other_teacher(**changes):
  """One teacher of several: what teacher.others.<name> holds."""
  return ml_collections.ConfigDict(
    dict(
      dict(
        variant='',  # a name of configs/models.py; '': as init says
        init='',  # hf:DIR | gguf:FILE | workdir:DIR
        dtype='bfloat16',  # of activations: bfloat16 | float32
        param_dtype='bfloat16',  # of its weights: bfloat16 | float32
        attention='auto',  # as student.attention
        # Teachers are mixed as probabilities by their shares, > 0, whose sum
        # may be anything.
        share=1.0,
      ),
      **changes,
    )
  )


_METHODS = dict(
  top_k=dict(
    entries=64,  # the most likely ids of a token that are kept, > 0
    logprobs='uint8',  # stored as: uint8 | float16
  ),
  nucleus=dict(
    mass=0.98,  # the fewest of the most likely ids with this mass, (0, 1)
    entries=256,  # but no more than so many, > 0
    logprobs='uint8',  # as above
  ),
  sampled=dict(
    draws=64,  # ids drawn of a token, with replacement, > 0
    logprobs='uint8',  # as above
  ),
  stratified=dict(
    entries=48,  # the most likely ids of a token that are kept, > 0
    draws=16,  # ids drawn from all others, with replacement, > 0
    logprobs='uint8',  # as above
  ),
  hidden=dict(
    values='bfloat16',  # stored as: bfloat16 | int8
  ),
)


def cache_method(name: str, **changes):
  """What a cache keeps: a name of kd/teachers/methods.py and its arguments."""
  return ml_collections.ConfigDict(
    dict(dict(name=name, **_METHODS.get(name, {})), **changes)
  )


def get_config() -> ml_collections.ConfigDict:
  """The config with every field at its default."""
  c = ml_collections.ConfigDict()
  c.steps = 1000  # optimizer updates, > 0
  c.seed = 0  # of parameters and data order
  # a step whose loss or gradient is not finite changes nothing, and then: stop
  # | skip (goes on and counts it in train/nonfinite)
  c.nonfinite = 'stop'
  c.nonfinite_limit = 10  # skipped in a row, > 0; one more stops

  c.student = ml_collections.ConfigDict()
  c.student.variant = ''  # a name of configs/models.py; '': as init says
  # random | teacher | hf:DIR | gguf:FILE | workdir:DIR
  c.student.init = 'random'
  c.student.keep_layers = ()  # layers of init to keep, from 0, rising; (): all
  c.student.dtype = 'bfloat16'  # of activations: bfloat16 | float32
  # what computes attention: auto (splash on TPU; on GPU cudnn, if rows are not
  # packed; else xla) | xla | splash | cudnn
  c.student.attention = 'auto'
  # what of a layer the backward pass finds saved: none (everything) | dots (its
  # input, products with weights) | dots_offload (the same, products in the
  # host's memory) | block (its input) | block_offload (that, in the host's)
  c.student.remat = 'dots'

  c.teacher = other_teacher()  # its fields, and four more
  # live: scores each batch | cached: has scored all rows before, see `cache` |
  # rollout: live, where the student writes some rows, see `rollout` | none
  c.teacher.source = 'live'
  c.teacher.others = ml_collections.ConfigDict()  # by name: other_teacher(...)
  # the last so many devices are the teachers' alone, which score the next batch
  # there while the student learns from this one (unless it has yet to write it,
  # see `rollout`); 0: they share all devices.
  # With several processes 0 alone
  c.teacher.devices = 0
  # the teachers' mesh, axes as for `mesh`; 0: 1, and all 0: as `mesh`, or on
  # devices of their own fsdp alone
  c.teacher.mesh = ml_collections.ConfigDict(
    dict(data=0, fsdp=0, tensor=0, sequence=0)
  )

  c.data = ml_collections.ConfigDict()
  c.data.module = 'data.mixtures'  # Python module that registers the mixture
  c.data.mixture = ''  # a seqio task or mixture
  c.data.split = 'train'  # a split of it
  # bytes | model:FILE | gguf:FILE | hf:DIR; '': the one that comes with the
  # teacher's weights, or without a teacher with the student's
  c.data.tokenizer = ''
  c.data.template = 'plain'  # plain: BOS, text, EOS | gemma: chat turns
  c.data.batch_size = 8  # rows a step, over all devices
  c.data.length = 256  # tokens a row
  c.data.pack = True  # several examples a row
  c.data.seed = -1  # of which examples share a row, >= 0; -1: as seed
  c.data.examples = -1  # use the first so many examples; -1: all
  # share of each rationale, from its beginning, that training rows are without,
  # [0, 1], a number or a schedule (arXiv 2405.14838); not with a cached teacher
  c.data.rationale = rationale(dropped=0.0)
  c.data.folder = '~/.cache/kd/rows'  # where prepared rows are kept
  c.data.read = ml_collections.ConfigDict()  # of disks and servers that fail
  c.data.read.attempts = 5  # of one read, > 0
  c.data.read.wait_s = 1.0  # seconds before the second, then doubled, >= 0
  c.data.read.timeout_s = 600.0  # seconds that a step waits for rows, > 0

  c.cache = ml_collections.ConfigDict()  # of the teacher's targets
  c.cache.folder = ''  # --mode=cache writes it, teacher.source cached reads it
  c.cache.method = cache_method('top_k')  # a name of _METHODS
  c.cache.batch_size = 8  # rows scored at a time, over all devices
  c.cache.shard_rows = 1024  # rows a file, > 0
  c.cache.verify = 0  # random rows that are scored again and compared, >= 0
  c.cache.repair = False  # damaged files are made again

  c.rollout = rollout()  # teacher.source rollout

  c.losses = ml_collections.ConfigDict()
  c.losses.kl = term('forward_kl')  # by name: see term(...) above

  c.objective = ml_collections.ConfigDict()
  # tokens a device whose logits, over the whole vocabulary, exist at one time
  c.objective.chunk_tokens = 256
  # positions that logits' terms are computed at: all | random |
  # student_entropy | teacher_entropy (the highest), and the share of each row's
  # targets that is kept, (0, 1], a number or a schedule
  c.objective.positions = positions('all')

  # adamw(...) | adafactor(...), with a schedule of warmup_cosine |
  # warmup_linear (peak, warmup_steps, final), constant (peak, warmup_steps) |
  # inverse_sqrt (peak, warmup_steps); rates per update
  c.optimizer = adamw(
    schedule('warmup_cosine', peak=1e-4, warmup_steps=100, final=1e-5)
  )

  c.mesh = ml_collections.ConfigDict()  # devices by axis; -1: what is left
  c.mesh.data = 1  # rows are split over data and fsdp
  # parameters and optimizer state are split over it; the vocabulary over both
  # it and tensor
  c.mesh.fsdp = -1
  c.mesh.tensor = 1  # heads and MLP width are split over it
  # each row's positions are split over it, and what fsdp splits too; divides
  # data.length
  c.mesh.sequence = 1

  # Of one run. What isn't set comes from $JAX_COORDINATOR_ADDRESS,
  # $JAX_NUM_PROCESSES, $JAX_PROCESS_ID, or on a Cloud TPU from its metadata.
  c.processes = ml_collections.ConfigDict()
  c.processes.coordinator = ''  # HOST:PORT of process 0; '': as above
  c.processes.count = 0  # there must be so many, > 0; 0: as above
  c.processes.index = -1  # which one this is, from 0; -1: as above
  c.processes.start_timeout_s = 300.0  # seconds until all must be there, > 0
  c.processes.dead_after_s = 30.0  # seconds without a sign of life, > 0
  c.processes.slow_after_s = 30.0  # seconds until a slow one is named, > 0

  c.checkpoint = ml_collections.ConfigDict()
  c.checkpoint.every = 500  # steps between saves, > 0; the last is always saved
  c.checkpoint.keep = 2  # latest checkpoints kept, > 0, beside the best one

  c.evaluation = ml_collections.ConfigDict()
  c.evaluation.every = 0  # steps between evaluations; 0: first and last only
  c.evaluation.baseline = False  # also train with cross-entropy alone
  c.evaluation.batch_size = 8  # rows, and prompts, at a time
  c.evaluation.max_new_tokens = 128  # an answer that is longer is cut
  c.evaluation.sets = ml_collections.ConfigDict()
  c.evaluation.sets.held_out = evaluation_set()

  c.log = ml_collections.ConfigDict()
  c.log.every = 10  # steps between writes of training metrics, > 0
  c.log.tensorboard = True  # also write TensorBoard events

  c.generate = ml_collections.ConfigDict()  # --mode=generate
  c.generate.prompts = ''  # JSON lines: {"prompt": ...} or {"messages": [...]}
  c.generate.output = ''  # '': <workdir>/completions.jsonl
  c.generate.temperature = 0.0  # of the softmax, >= 0; 0: the most likely id
  c.generate.top_k = 0  # draw from so many likely ids, >= 0; 0: all
  c.generate.top_p = 1.0  # from the likeliest ids with this mass, (0, 1]
  # no ids below this share of the likeliest one's probability, [0, 1)
  c.generate.min_p = 0.0
  # > 0; above 1, ids that prompt or answer hold are less likely
  c.generate.repetition_penalty = 1.0
  c.generate.stop_strings = ()  # texts that end an answer, and are cut off
  c.generate.samples = 1  # answers to each prompt, > 0
  c.generate.seed = 0  # of what is drawn, >= 0
  c.generate.max_new_tokens = 128  # of an answer, > 0; a longer one is cut
  # answers that grow at a time, > 0, a multiple of mesh.data x mesh.fsdp
  c.generate.batch_size = 8
  c.generate.logprobs = False  # also write ids and their log-probabilities

  c.reasoning = thoughts.chains()  # --mode=reason: fields in thoughts.py

  c.search = thoughts.trees()  # --mode=search: fields in thoughts.py

  c.export = ml_collections.ConfigDict()  # --mode=export
  c.export.dtype = 'bfloat16'  # of the written weights: bfloat16 | float32
  c.export.checkpoint = 'last'  # last | best

  c.plan = ml_collections.ConfigDict()  # --mode=plan
  # what to plan for: v4 | v5e | v5p | v6e, a colon, and chips along each axis
  # of the slice: v5e:4x4, v5p:2x2x2
  c.plan.topology = ''
  c.plan.lengths = ()  # tokens a row to plan for; (): data.length alone
  c.plan.prompt_length = 512  # tokens of a prompt, where decoding is planned
  c.plan.price = 0.0  # US dollars a chip-hour; 0: the cost isn't shown
  c.plan.compile = True  # False: count on paper alone, which takes seconds
  c.plan.search = False  # also search mesh, micro-batches, remat
  c.plan.compiled = 3  # candidates of a search that are compiled, > 0
  c.plan.folder = '~/.cache/kd/plans'  # where the compiler's answers are kept

  c.lock()
  return c
