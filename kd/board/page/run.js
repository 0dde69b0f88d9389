// The page of one run: evaluations with intervals, answers, curves, config.

import {answersOf} from './answers.js';
import {Chart} from './chart.js';
import {age, get, h, number, problem, status, table} from './dom.js';

class Run {
  constructor(name) {
    this.name = name;
    this.title = name;
    this.head = h('div', {class: 'run-head'});
    this.tables = h('section', {'aria-label': 'Evaluations'},
      h('h2', {}, 'Evaluation'), h('p', {class: 'muted'}, 'computing intervals …'));
    this.answers = h('section', {'aria-label': 'Answers'});
    this.panels = h('div', {class: 'panels'});
    this.facts = h('section', {});
    this.charts = new Map();
    this.element = h('div', {class: 'run'}, this.head, this.tables,
      h('h2', {}, 'Curves'), this.panels, this.answers, this.facts);
  }

  async update() {
    await this.read();
    if (this.evaluatedMark !== this.mark) await this.evaluate();
  }

  /** Draws what the run has written, if it has changed. */
  async read() {
    const run = await get('/api/run', {run: this.name});
    const mark = JSON.stringify({...run, modified: 0});
    this.drawHead(run);
    if (mark === this.mark) return;
    this.drawFacts(run);
    await this.drawCurves(run);
    this.mark = mark;  // What failed above is drawn next time.
  }

  /** Draws tables and answers, whose intervals take a moment. */
  evaluate() {
    this.evaluating ||= this.drawEvaluations().finally(() => { this.evaluating = null; });
    return this.evaluating;
  }

  async drawEvaluations() {
    const mark = this.mark;
    const evaluated = await get('/api/tables', {run: this.name});
    const text = JSON.stringify(evaluated);
    if (text !== this.evaluated) {
      this.drawTables(evaluated);
      await this.drawAnswers(evaluated);
      this.evaluated = text;
    }
    this.evaluatedMark = mark;
  }

  drawHead(run) {
    const steps = run.steps ? `step ${number(run.step)} of ${number(run.steps)}` : `step ${number(run.step)}`;
    this.head.replaceChildren(
      h('p', {class: 'back'}, h('a', {href: '#/runs'}, '← all runs')),
      h('h1', {}, run.run, ' ', status(run.status, run.why)),
      h('p', {class: 'muted'}, `${steps} · ${run.why} · wrote ${age(Date.now() / 1000 - run.modified)} ago · `,
        h('code', {}, run.folder)),
      ...(run.steps ? [h('progress', {max: 1, value: Math.min(1, run.step / run.steps), 'aria-label': 'steps'})] : []),
      ...run.problems.map(problem));
  }

  drawTables(run) {
    this.tables.replaceChildren(h('h2', {}, 'Evaluation'));
    if (!run.tables.length) {
      this.tables.append(h('p', {class: 'muted'}, run.files
        ? 'The files in evaluations/ are damaged, or another version of kd wrote them.' : 'No evaluation yet.'));
    }
    for (const set of run.tables) {
      if (set.problem) { this.tables.append(problem(set.problem)); continue; }
      this.tables.append(h('h3', {}, set.name, ' ', h('span', {class: 'muted'}, set.title)),
        table(['', ...set.columns], set.rows.map((row) => [row.name, ...row.cells.map((cell) => interval(cell, row))]),
              {class: 'numbers', label: `evaluation of ${set.name}`}),
        h('ul', {class: 'notes'}, set.notes.map((note) => h('li', {}, note.replace(/^brackets/, 'small numbers and bars')))));
    }
  }

  async drawAnswers(run) {
    const sets = run.tables.filter((t) => !t.problem).map((t) => t.name);
    const drawn = [];
    for (const name of sets) {
      const answers = await get('/api/answers', {run: this.name, set: name});
      if (answers.examples.length) drawn.push(answersOf(name, answers));
    }
    this.answers.replaceChildren(...drawn);
  }

  async drawCurves(run) {
    const metrics = run.metrics.filter((m) => /^(eval\/[^/]+\/(nll|kl|exact_match)|train\/(loss|grad_norm|lr)|perf\/tokens_per_s)$/.test(m));
    const curves = await get('/api/curves', {run: this.name, metric: metrics});
    for (const metric of metrics) {
      if (!this.charts.has(metric)) {
        const chart = new Chart(metric);
        this.charts.set(metric, chart);
        this.panels.append(chart.element);
      }
      this.charts.get(metric).set(curves.filter((c) => c.metric === metric).map((c) => ({
        ...c, name: c.baseline ? 'baseline' : 'student', faint: c.baseline,
        color: c.baseline ? 'var(--c1)' : 'var(--c0)',
      })), {log: false, smoothing: 0});
    }
  }

  drawFacts(run) {
    const facts = [['command', [run.command || []].flat().join(' ')], ['devices', [run.devices || []].flat().join(', ')],
                   ['libraries', Object.entries(run.packages || {}).map((x) => x.join(' ')).join(', ')]];
    this.facts.replaceChildren(
      h('h2', {}, 'Run'),
      h('dl', {}, facts.filter(([, text]) => text).map(([name, text]) => [h('dt', {}, name), h('dd', {}, h('code', {}, text))])),
      ...(run.changes && run.changes.length ? [h('h3', {}, 'Changed on resume'), table(['date', 'step', 'fields'],
        run.changes.map((c) => [c.date, number(c.step), Object.entries(c.fields || {}).map(([k, v]) => `${k}: ${JSON.stringify(v)}`).join('; ')]))] : []),
      h('details', {}, h('summary', {}, 'Config'), h('pre', {}, JSON.stringify(run.config, null, 2))));
  }
}

/** Returns a value with its interval, as text and as a bar over the row's range. */
function interval(cell, row) {
  if (cell.low === undefined) return h('span', {}, number(cell.value));
  const all = row.cells.flatMap((c) => (c.low === undefined ? [] : [c.low, c.high]));
  const low = Math.min(...all), high = Math.max(...all), span = high - low || 1;
  const at = (x) => `${(100 * (x - low)) / span}%`;
  return h('div', {class: 'interval'},
    h('span', {}, number(cell.value)),
    h('small', {}, `${number(cell.low, 3)} to ${number(cell.high, 3)}`),
    h('span', {class: 'bar', 'aria-hidden': 'true'},
      h('span', {style: {left: at(cell.low), width: `max(3px, ${(100 * (cell.high - cell.low)) / span}%)`}})));
}

/** Opens the page of a run. */
export async function open(name) {
  const page = new Run(name);
  await page.read();
  setTimeout(() => page.evaluate().catch((error) => page.tables.replaceChildren(problem(error.message))), 0);
  return page;
}
