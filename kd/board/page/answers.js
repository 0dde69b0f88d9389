// The answers of all models to the same examples, colored by the KL to the teacher.

import {h, number} from './dom.js';

const BEFORE = 'student before';  // The column of the untrained student.
const ANSWERS = 20;  // Examples shown before "more".
const PERCENTILE = 0.95;  // Of the tokens' KL, at the strongest color.
const LOWEST = 0.1;  // Smallest KL in nats with the strongest color.

const KINDS = {
  all: () => true,
  'models differ': (e) => new Set(trained(e).map((m) => m.verdict)).size > 1,
  'student wrong': (e) => e.models['student after'] && e.models['student after'].verdict !== 'right',
};

/** Returns an example's models without the untrained one, next to which all others look alike. */
function trained(e) {
  return Object.entries(e.models).filter(([title]) => title !== BEFORE).map(([, m]) => m);
}

/** Returns the answers to a set, from /api/answers. */
export function answersOf(name, {examples, uncolored}) {
  const box = h('div', {class: 'examples'});
  const count = h('p', {class: 'muted', role: 'status'});
  let most = ANSWERS;
  const kind = h('select', {id: `kind-${name}`, onchange: () => { most = ANSWERS; draw(); }},
    Object.keys(KINDS).map((k) => h('option', {}, k)));
  const highest = {tokens: highestToken(examples), mean: highestMean(examples)};
  function draw() {
    const chosen = examples.filter(KINDS[kind.value]);
    count.textContent = `${chosen.length} of ${examples.length} examples`;
    box.replaceChildren(...chosen.slice(0, most).map((e) => example(e, highest)));
    if (chosen.length > most) {
      box.append(h('button', {type: 'button', class: 'more', onclick: () => { most += 100; draw(); }}, 'Show more'));
    }
  }
  draw();
  return h('div', {}, h('h2', {}, `Answers: ${name}`),
    h('div', {class: 'tools'}, h('label', {for: `kind-${name}`}, 'Show', kind), count, ...legends(highest)),
    uncolored ? h('p', {class: 'muted'}, uncolored) : null,
    box);
}

function legends({tokens, mean}) {
  const ramp = h('span', {class: tokens ? 'ramp tokens' : 'ramp', 'aria-hidden': 'true'});
  const from = ': from where an answer leaves the teacher’s';
  if (tokens) {
    return [
      h('span', {class: 'scale muted'}, 'KL to the teacher at each token, nats: 0', ramp, `${number(tokens, 3)} or more`),
      h('span', {class: 'muted'}, h('span', {}, h('span', {class: 'departed'}, 'underlined'), from)),
      h('span', {class: 'muted'}, 'A token’s KL: point at it, or use the arrow keys in an answer. ⊣: its end.')];
  }
  return [
    mean ? h('span', {class: 'scale muted'}, 'KL to the teacher on the reference, nats per token: 0', ramp, number(mean, 3)) : null,
    h('span', {class: 'muted'}, h('span', {}, h('mark', {}, 'marked'), from))];
}

function highestMean(examples) {
  const kls = examples.flatMap((e) => trained(e).map((m) => m.kl)).filter((x) => typeof x === 'number');
  return kls.reduce((a, b) => Math.max(a, b), 0);
}

function highestToken(examples) {
  const kls = examples.flatMap((e) => trained(e).flatMap((m) => (m.tokens || []).flatMap((t) => t.kl)))
    .filter((x) => typeof x === 'number').sort((a, b) => a - b);
  return kls.length ? Math.max(LOWEST, kls[Math.floor(PERCENTILE * (kls.length - 1))]) : 0;
}

function example(e, highest) {
  const teacher = e.models.teacher;
  return h('article', {class: 'example'},
    h('div', {class: 'asked'}, e.images.map((src, i) => h('img', {src, alt: `image ${i + 1} of the prompt`})), h('pre', {}, e.prompt.trim()), h('p', {class: 'muted'}, 'reference'), h('pre', {}, e.reference)),
    h('div', {class: 'models'}, Object.entries(e.models).map(([title, m]) => answer(title, m, teacher, highest))));
}

function answer(title, m, teacher, highest) {
  const has = typeof m.kl === 'number', other = teacher && title !== 'teacher';
  // Tokens have a scale of their own.
  const style = has && !highest.tokens ? {'--kl': Math.min(1, m.kl / (highest.mean || 1))} : {};
  return h('div', {class: 'answer', style},
    h('h4', {}, h('span', {}, title), verdict(m), has
      ? h('span', {class: 'kl', title: 'KL to the teacher on the reference, nats per token'}, `KL ${number(m.kl, 3)}`) : null),
    m.tokens ? colored(title, m, other ? agreeing(teacher.answer, m.answer) : m.answer.length, highest.tokens)
      : h('pre', {}, other ? departing(teacher.answer, m.answer.trimEnd()) : m.answer));
}

function verdict(m) {
  const text = m.verdict || m.finish || '';
  const shape = {right: '✓', wrong: '✕', unparsed: '?'}[text] || '';
  return h('span', {class: `verdict ${text}`}, `${shape} ${text}`);
}

/** Returns the number of characters of the words before an answer leaves the teacher's. */
function agreeing(teacher, answer) {
  const theirs = teacher.match(/\s+|\S+/g) || [], ours = answer.match(/\s+|\S+/g) || [];
  let same = 0;
  while (same < ours.length && ours[same] === theirs[same]) same += 1;
  return ours.slice(0, same).join('').length;
}

/** Returns an answer, marked from the word where it leaves the teacher's. */
function departing(teacher, answer) {
  if (!answer) return h('span', {class: 'muted'}, '(empty)');
  const same = agreeing(teacher, answer), rest = answer.slice(same);
  return [answer.slice(0, same), rest ? h('mark', {}, rest) : null];
}

/** Returns an answer whose tokens have colors, and a line with the KL of one of them. */
function colored(title, m, same, highest) {
  let end = 0;
  const tokens = m.tokens.map((token) => {
    end += token.text.length;
    const kls = token.kl.filter((x) => typeof x === 'number');
    const kinds = ['token', end > same ? 'departed' : '', token.text ? '' : 'end', token.text.startsWith('\n') ? 'line' : ''];
    return h('span', {class: kinds.filter(Boolean).join(' '),
                      style: {'--kl': Math.min(1, Math.max(0, ...kls) / highest)}}, token.text);
  });
  const readout = h('p', {class: 'token-readout muted', role: 'status'});
  const text = h('pre', {tabindex: '0', role: 'group', 'aria-label': `answer of ${title}; arrow keys move along its tokens`}, tokens);
  let at = null;
  const show = (i) => {
    if (at !== null) tokens[at].classList.remove('current');
    at = i;
    if (i !== null) tokens[i].classList.add('current');
    readout.textContent = i === null ? '' : `${i + 1} of ${tokens.length}: ${described(m.tokens[i])}`;
  };
  text.addEventListener('pointerover', (event) => {
    const i = tokens.indexOf(event.target);
    if (i >= 0) show(i);
  });
  text.addEventListener('pointerleave', () => show(null));
  text.addEventListener('blur', () => show(null));
  text.addEventListener('keydown', (event) => {
    const last = tokens.length - 1;
    const to = {ArrowRight: at === null ? 0 : Math.min(last, at + 1), ArrowLeft: at === null ? last : Math.max(0, at - 1),
                Home: 0, End: last}[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    show(to);
    tokens[to].scrollIntoView({block: 'nearest'});
  });
  return [text, readout];
}

function described({text, kl}) {
  const name = text ? JSON.stringify(text) : 'end of the answer';
  if (!kl.length) return `${name} was not measured`;
  const values = kl.map((x) => number(x, 3)).join(', ');
  return `${name} KL ${values}${kl.length > 1 ? ` (${kl.length} tokens)` : ''}`;
}
