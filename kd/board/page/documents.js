// The page of plans, caches and trees of thought.

import {bytes, get, h, number, problem, table} from './dom.js';

const SHAPES = {solution: '✓', failed: '✕', fault: '!', pruned: '–', expanded: '▾', same: '='};

class Documents {
  constructor(listed) {
    this.title = 'Plans, caches, trees';
    this.element = h('div', {class: 'documents'},
      h('h1', {}, 'Plans'), listed.plans.length ? listed.plans.map(plan) : none('kd plan'),
      h('h1', {}, 'Caches of targets'), listed.caches.length ? caches(listed.caches) : none('kd cache'),
      h('h1', {}, 'Trees of thought'), listed.searches.length ? listed.searches.map(search) : none('kd search'));
  }
}

function none(mode) {
  return h('p', {class: 'muted'}, 'None below these folders; ', h('code', {}, mode), ' writes them.');
}

function plan(one) {
  if (one.problem) return problem(one.problem);
  const rows = one.rows.map((r) => {
    const total = Object.values(r.bytes || {}).reduce((a, b) => a + b, 0);
    return [`${r.teacher} → ${r.student}`, r.topology, number(r.length), number(r.batch_size), r.source,
      memory(r.peak_bytes || total, r.hbm_bytes), r.fits ? '✓ fits' : '✕ does not fit', r.bound,
      number(r.expected?.seconds, 3), number(r.expected?.hours, 3)];
  });
  return h('section', {}, h('h3', {}, one.name), table(['teacher → student', 'slice', 'tokens per row', 'rows', 'source',
    'memory per chip', 'fits', 'bound by', 'step, s', 'run, h'], rows, {label: `plans of ${one.name}`, class: 'numbers'}));
}

function memory(used, limit) {
  if (!used || !limit) return bytes(used);
  return h('span', {class: 'memory'}, `${bytes(used)} of ${bytes(limit)}`,
    h('meter', {min: 0, max: 1, high: 0.95, value: Math.min(1, used / limit), 'aria-label': 'share of the memory'}));
}

function caches(list) {
  return table(['cache', 'method', 'rows', 'targets', 'size', 'bytes per target', 'coverage', 'tail mass', 'teacher NLL', 'entropy'],
    list.map((c) => c.problem ? [c.name, problem(c.problem)] : [c.name, c.method?.name || '–', number(c.rows), number(c.targets), bytes(c.bytes),
      number(c.bytes_per_target, 3), percent(c.coverage), percent(c.tail_mass), number(c.nll), number(c.entropy)]),
    {label: 'caches', class: 'numbers'});
}

function percent(x) {
  return typeof x === 'number' ? `${number(100 * x, 3)} %` : '–';
}

function search(one) {
  const box = h('div', {class: 'trees'});
  const settings = one.settings || {};
  const open = async (event) => {
    if (!event.target.open || box.childElementCount) return;
    const trees = await get('/api/trees', {search: one.name});
    box.append(table(['instance', 'question', 'nodes', 'solutions'], trees.map((t) => [
      h('button', {type: 'button', class: 'link', onclick: () => show(one.name, t.name, drawn)}, t.name),
      t.question, number(t.nodes), t.solutions ? `✓ ${t.solutions}` : '0']), {label: `trees of ${one.name}`}));
  };
  const drawn = h('div', {class: 'tree'});
  return h('details', {ontoggle: open}, h('summary', {}, `${one.name}: ${one.trees} tree${one.trees === 1 ? '' : 's'}`,
    h('span', {class: 'muted'}, ` ${settings.problem || ''} ${settings.method || ''} ${settings.evaluator || ''}`)),
    settings.problem && settings.problem.startsWith('search.json') ? problem(settings.problem) : null, box, drawn);
}

async function show(name, tree, place) {
  place.replaceChildren(h('p', {class: 'muted'}, 'reading …'));
  try {
    place.replaceChildren(draw(await get('/api/tree', {search: name, tree})));
  } catch (error) {
    place.replaceChildren(problem(error.message));
  }
}

/** Returns a tree as nested lists; paths to solutions are open. */
export function draw(tree) {
  if (tree.problem) return problem(tree.problem);
  const nodes = Array.isArray(tree.nodes) ? tree.nodes : [];
  const children = new Map();
  for (const node of nodes) children.set(node.parent, [...(children.get(node.parent) || []), node]);
  const good = new Set();
  for (const node of nodes.filter((n) => n.status === 'solution')) {
    for (let at = node; at && !good.has(at.id); at = nodes[at.parent]) good.add(at.id);
  }
  const used = [...new Set(nodes.map((n) => n.status))];
  const line = (node) => h('span', {class: `node ${node.status}`},
    h('span', {class: 'shape', 'aria-hidden': 'true'}, SHAPES[node.status] || '·'),
    h('span', {class: 'thought'}, node.parent < 0 ? tree.question : node.thought || '(empty)'),
    typeof node.value === 'number' ? h('meter', {min: 0, max: 1, value: node.value, title: `value ${number(node.value, 3)}`,
                                                 'aria-label': `value ${number(node.value, 3)}`}) : null,
    h('small', {}, [node.parent < 0 ? null : node.status, node.fault || null, node.count > 1 ? `×${node.count}` : null]
      .filter(Boolean).join(', ')));
  const branch = (node, depth) => {
    const below = children.get(node.id) || [];
    if (!below.length || depth > 200) return h('li', {}, line(node));
    return h('li', {}, h('details', {open: good.has(node.id) || node.parent < 0}, h('summary', {}, line(node)),
      h('ul', {}, below.map((child) => branch(child, depth + 1)))));
  };
  const spent = tree.spent || {};
  return h('section', {}, h('h3', {}, tree.instance), h('p', {class: 'muted'},
    `${number(nodes.length)} nodes, ${number(spent.calls)} calls, ${number(spent.new_tokens)} new tokens` +
    (tree.answer ? `; answer ${tree.answer}` : '') + (tree.stopped ? `; stopped by ${tree.stopped}` : '')),
    h('ul', {class: 'root'}, (children.get(-1) || []).map((node) => branch(node, 0))),
    h('dl', {class: 'statuses'}, used.map((name) => [h('dt', {class: name}, `${SHAPES[name] || '·'} ${name}`),
      h('dd', {}, tree.statuses?.[name] || '')])));
}

/** Opens the page. */
export async function open() {
  return new Documents(await get('/api/documents'));
}
