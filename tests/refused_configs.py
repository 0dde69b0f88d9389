"""Changes of configs that check mode must refuse, and the field in its error.

Each is a statement that changes `c`, the config of configs/quickstart.py;
`base` is kd.config.base.
"""

CHANGES = (
  ('c.seed = 2**32', 'seed'),
  ('c.seed = 2**70', 'seed'),
  ("c.data.read.wait_s = float('nan')", 'data.read.wait_s'),
  ('c.steps = 10.0', 'steps'),
  ("c.steps = '10'", 'steps'),
  ('c.profile.update(steps=3, first_step=798)', 'profile.steps'),
  (
    'c.profile.update(steps=3, first_step=98); c.checkpoint.every = 100',
    'profile.steps',
  ),
  ('c.rollout = 5', 'rollout'),
  ('c.optimizer = 5', 'optimizer'),
  ("c.optimizer = 'adamw'", 'optimizer'),
  ('c.losses = 5', 'losses'),
  ('c.losses = {}', 'losses'),
  ("c.unlock(); del c['mesh']", 'mesh'),
  ("c.unlock(); c.data.name = 'x'", 'data.name'),
  ('c.unlock(); c.name = 5', 'name'),
  ("c.student.init = 'teacher:1'", 'student.init'),
  ('c.student.quantize.dither = 0.25', 'student.quantize.dither'),
  (
    "c.student.quantize.update(weights='q4_0', dither=0.25); "
    'c.student.lora.rank = 4',
    'student.quantize.dither',
  ),
  ("c.student.init = 'workdir:gs://bucket/'", 'student.init'),
  (
    "c.student.quantize.activation_range = 'running'",
    'student.quantize.activation_range',
  ),
  ('c.student.keep_layers = (0.5,)', 'student.keep_layers'),
  ('c.student.keep_layers = ((0,),)', 'student.keep_layers'),
  ('c.student.keep_layers = (None,)', 'student.keep_layers'),
  ('c.teacher.others = dict(second=5)', 'teacher.others.second'),
  (
    "c.teacher.others = dict(a=base.other_teacher(weight=float('inf')))",
    'teacher.others.a.weight',
  ),
  ('c.teacher.others = dict(x=dict(nonsense=1))', 'teacher.others.x.nonsense'),
  (
    "c.teacher.source = 'none'; c.teacher.others = "
    'dict(x=base.other_teacher(init="hf:y"))',
    'teacher.others',
  ),
  ("c.teacher.source = 'none'; c.teacher.tasks = ('a',)", 'teacher.tasks'),
  ("c.teacher.field_values = ('1',)", 'teacher.field'),
  ("c.teacher.field = 'subject'", 'teacher.field'),
  (
    "c.teacher.tasks = ('a',); c.teacher.others = "
    'dict(teacher=base.other_teacher(init=c.teacher.init))',
    'teacher.others',
  ),
  ("c.data.module = '../evil'", 'data.module'),
  ("c.data.module = 'data..mixtures'", 'data.module'),
  ("c.data.module = 'kd.data.mixtures\\n'", 'data.module'),
  ("c.benchmark.reference = 'earlier'", 'benchmark.reference'),
  ('c.benchmark.pass_at = (9,)', 'benchmark.pass_at'),
  ('c.benchmark.stride = 129', 'benchmark.stride'),
  ("c.data.folder = ''", 'data.folder'),
  ("c.data.folder = 's3://bucket'", 'data.folder'),
  ("c.generate.output = 'gs://b/o.jsonl'", 'generate.output'),
  ("c.data.folder = '/tmp/' + 'x' * 300", 'data.folder'),
  ("c.losses.kl.weight = float('inf')", 'losses.kl.weight'),
  ("c.losses.kl.temperature = float('inf')", 'losses.kl.temperature'),
  ('c.losses.kl.clip = None', 'losses.kl.clip'),
  ("c.losses.kl.part = ['all']", 'losses.kl.part'),
  ('c.losses = dict(kl=1.0)', 'losses.kl'),
  ("c.losses = dict(kl='forward_kl')", 'losses.kl'),
  ("c.losses = {'$x^$': base.term('forward_kl')}", 'losses.$x^$'),
  (
    "c.losses = dict(h=base.term('hidden_states', norm='no'))",
    'losses.h.norm',
  ),
  (
    "c.losses = dict(a=base.term('attention_maps', block=1.5))",
    'losses.a.block',
  ),
  (
    "c.losses = dict(a=base.term('attention_relations', of=5))",
    'losses.a.of',
  ),
  (
    "c.losses.kl.weight = base.schedule('linear', begin='a', end=0.0, "
    'first_step=0, last_step=2)',
    'losses.kl.weight.begin',
  ),
  ('c.losses.kl.weight = dict(begin=1.0)', 'losses.kl.weight.name'),
  ('c.objective.positions = dict(fraction=0.5)', 'objective.positions.rule'),
  ("c.objective.positions = dict(rule='all')", 'objective.positions.fraction'),
  ('c.objective.positions = 5', 'objective.positions'),
  ('c.optimizer = base.adamw(1e-3)', 'optimizer.lr'),
  ("c.optimizer = dict(name='adamw')", 'optimizer.lr'),
  ('c.optimizer = base.adamw(dict(peak=1e-3))', 'optimizer.lr.name'),
  ("c.optimizer.lr.peak = float('inf')", 'optimizer.lr.peak'),
  (
    "c.optimizer.lr = base.schedule('linear', begin=-1e-3, end=-1e-3, "
    'first_step=0, last_step=3)',
    'optimizer.lr',
  ),
  ('c.optimizer.lr.warmup_steps = 2**40', 'optimizer.lr.warmup_steps'),
  ('c.optimizer.lr.warmup_steps = 900', 'optimizer.lr.warmup_steps'),
  ('c.optimizer.epsilon = -1.0', 'optimizer.epsilon'),
  ('c.optimizer.epsilon = 1e-60', 'optimizer.epsilon'),
  ('c.optimizer.weight_decay = -1.0', 'optimizer.weight_decay'),
  ("c.optimizer.weight_decay = float('nan')", 'optimizer.weight_decay'),
  (
    "c.optimizer = base.adafactor(base.schedule('constant', peak=1e-3, "
    'warmup_steps=1), clip_update=0.0)',
    'optimizer.clip_update',
  ),
  ("c.processes.coordinator = 'localhost:99999'", 'processes.coordinator'),
  ("c.processes.coordinator = 'localhost:'", 'processes.coordinator'),
  ("c.processes.coordinator = 'h:\\u00b2'", 'processes.coordinator'),
  ('c.processes.count = 2', 'processes.coordinator'),
  ("c.processes.dead_after_s = float('nan')", 'processes.dead_after_s'),
  ('c.evaluation.max_new_tokens = 100000', 'evaluation.max_new_tokens'),
  ('c.evaluation.sets = dict(held_out=5)', 'evaluation.sets.held_out'),
  (
    "c.evaluation.sets = {'a/b': base.evaluation_set()}",
    'evaluation.sets.a/b',
  ),
  (
    'c.evaluation.sets.held_out.update(examples=0, answers=0)',
    'evaluation.sets.held_out.examples',
  ),
  ("c.generate.stop_strings = 'abc'", 'generate.stop_strings'),
  ('c.rollout.buffer = 10**12', 'rollout.buffer'),
  ("c.rollout.fraction = float('nan')", 'rollout.fraction'),
  ("c.rollout.fraction = 'half'", 'rollout.fraction'),
  (
    # Exceeds 1 only near update 50, which a coarse sample of 6400 would miss.
    "c.steps = 6400; c.rollout.fraction = base.schedule('inverse_sqrt', "
    'peak=1.3, warmup_steps=50)',
    'rollout.fraction',
  ),
  ("c.plan.price = float('nan')", 'plan.price'),
  ('c.plan.lengths = (10**9,)', 'plan.lengths'),
  # Required contents of parts of the config.
  ('c.losses = dict(kl=None)', 'losses.kl'),
  ('c.losses.kl.part = 5', 'losses.kl.part'),
  (
    "c.losses = dict(a=base.term('cross_entropy', z_loss=float('inf')))",
    'losses.a.z_loss',
  ),
  ("c.losses = dict(h=base.term('hidden_states', kind=5))", 'losses.h.kind'),
  (
    "c.losses = dict(h=base.term('hidden_states', map='adaptive', "
    "remap_every='5'))",
    'losses.h.remap_every',
  ),
  (
    "c.losses = dict(h=base.term('hidden_states', dropout='0'))",
    'losses.h.dropout',
  ),
  (
    "c.losses = dict(h=base.term('hidden_states', norm=None))",
    'losses.h.norm',
  ),
  (
    "c.losses = dict(a=base.term('attention_maps', block='512'))",
    'losses.a.block',
  ),
  (
    "c.losses.kl.weight = base.schedule('constant', peak='x', warmup_steps=1)",
    'losses.kl.weight.peak',
  ),
  ('c.objective.positions = dict()', 'objective.positions.rule'),
  ("c.optimizer = base.adamw('1e-3')", 'optimizer.lr'),
  (
    "c.optimizer = base.adafactor(base.schedule('constant', peak=1e-3, "
    "warmup_steps=1), decay_rate=float('nan'))",
    'optimizer.decay_rate',
  ),
  (
    "c.optimizer = base.adafactor(base.schedule('constant', peak=1e-3, "
    "warmup_steps=1), weight_decay=float('nan'))",
    'optimizer.weight_decay',
  ),
  (
    "c.optimizer = base.adafactor(base.schedule('constant', peak=1e-3, "
    'warmup_steps=1), clip_update=-1.0)',
    'optimizer.clip_update',
  ),
  ("c.student.keep_layers = ('a',)", 'student.keep_layers'),
  ('c.student.prune.layers = -1', 'student.prune.layers'),
  ('c.student.prune.mlp_dim = 32', 'student.prune.mlp_dim'),
  (
    "c.student.update(init='teacher', variant='', keep_layers=(0,)); "
    'c.student.prune.layers = 2',
    'student.prune.layers',
  ),
  (
    "c.teacher.update(source='none', init=''); c.data.tokenizer = 'bytes'; "
    "c.losses = dict(ce=base.term('cross_entropy')); "
    'c.teacher.others = dict(x=dict(nonsense=1))',
    'teacher.others.x.nonsense',
  ),
  ("c.processes.start_timeout_s = float('nan')", 'processes.start_timeout_s'),
  # Names and folders that are looked up.
  ("c.data.module = 'nonexist'", 'data.module'),
  ("c.data.mixture = ''", 'data.mixture'),
  ("c.data.mixture = '\u6570\u5b66'", 'data.mixture'),
  ("c.data.split = 'nope'", 'data.split'),
  ("c.data.mixture = 'traces_cot'", 'KD_TRACES'),
  ("c.data.folder = '/etc/passwd'", 'data.folder'),
  ("c.data.folder = '/proc/1'", 'data.folder'),
  (
    "c.data.mixture = 'arithmetic_answer'; "
    "c.losses = dict(kl=base.term('forward_kl', part='rationale'))",
    'losses.kl.part',
  ),
  (
    "c.evaluation.sets.held_out.mixture = 'nope'",
    'evaluation.sets.held_out.mixture',
  ),
  ("c.student.init = 'workdir:/nonexistent'", 'student.init'),
)

# The same for other configs.
OF_OTHERS = (
  (
    'configs/gkd.py',
    'c.steps = 6400; '
    "c.rollout.fraction = base.schedule('inverse_sqrt', peak=1.3, "
    'warmup_steps=50)',
    'rollout.fraction',
  ),
  ('configs/on_policy.py:workdir:/nonexistent', '', 'student.init'),
  (
    'configs/all_terms.py',
    "c.data.mixture = 'arithmetic_answer'",
    'losses.steps.part',
  ),
  (
    'configs/gemma3_tpu.py',
    'c.plan.lengths = (10**9,)',
    'plan.lengths',
  ),
)

# Modules that register no task.
MODULES = ('os', 'sys', 'builtins', 'this', 'numpy', 'kd', '__main__')

# Folders that no run can write to.
WORKDIRS = ('/etc/passwd', '/dev/null', '/tmp/w/' + 'y' * 300)
