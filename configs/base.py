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


def term(name: str, weight: float = 1.0, **arguments):
  """A loss term: a name of kd/losses, its weight, and its arguments."""
  return ml_collections.ConfigDict(dict(name=name, weight=weight, **arguments))


def schedule(name: str, **arguments):
  """A learning-rate schedule: a name of kd/optimizers and its arguments."""
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


def get_config() -> ml_collections.ConfigDict:
  """The config with every field at its default."""
  c = ml_collections.ConfigDict()
  c.steps = 1000  # optimizer updates, > 0
  c.seed = 0  # of parameters and data order

  c.student = ml_collections.ConfigDict()
  c.student.variant = ''  # a name of configs/models.py; '': as init says
  # random | teacher | hf:DIR | gguf:FILE | workdir:DIR
  c.student.init = 'random'
  c.student.keep_layers = ()  # layers of init to keep, from 0, rising; (): all
  c.student.dtype = 'bfloat16'  # of activations: bfloat16 | float32
  c.student.remat = 'none'  # saved for the backward pass: none | block | dots

  c.teacher = ml_collections.ConfigDict()
  c.teacher.source = 'live'  # live: scores each batch | none: no teacher
  c.teacher.variant = ''  # a name of configs/models.py; '': as init says
  c.teacher.init = ''  # hf:DIR | gguf:FILE | workdir:DIR
  c.teacher.dtype = 'bfloat16'  # of activations: bfloat16 | float32

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
  c.data.examples = -1  # use the first so many examples; -1: all
  c.data.folder = '~/.cache/kd/rows'  # where prepared rows are kept

  c.losses = ml_collections.ConfigDict()
  # forward_kl: temperature > 0, the loss is multiplied by its square
  c.losses.kl = term('forward_kl', weight=1.0, temperature=1.0)

  c.objective = ml_collections.ConfigDict()
  c.objective.chunk_tokens = 256  # tokens whose logits exist at one time

  # adamw(...) | adafactor(...), with a schedule of warmup_cosine |
  # warmup_linear (peak, warmup_steps, final), constant (peak, warmup_steps) |
  # inverse_sqrt (peak, warmup_steps); rates per update
  c.optimizer = adamw(
    schedule('warmup_cosine', peak=1e-4, warmup_steps=100, final=1e-5)
  )

  c.mesh = ml_collections.ConfigDict()  # devices by axis; -1: what is left
  c.mesh.data = 1  # rows are split over data and fsdp
  c.mesh.fsdp = -1  # parameters and optimizer state are split over it
  c.mesh.tensor = 1  # heads, MLP width and vocabulary are split over it

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

  c.export = ml_collections.ConfigDict()  # --mode=export
  c.export.dtype = 'bfloat16'  # of the written weights: bfloat16 | float32
  c.export.checkpoint = 'last'  # last | best

  c.lock()
  return c
