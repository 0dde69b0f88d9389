// The chat with two models at once.

import {get, h, number, problem} from './dom.js';

class Chat {
  constructor(servers) {
    this.title = 'Chat';
    const models = servers.flatMap(({url, models: names}, server) => names.map((model) => ({url, server, model})));
    this.sides = models.map((one, i) => ({...one, number: i, messages: [], log: h('div', {class: 'log', role: 'log', 'aria-live': 'polite'})}));
    this.shown = this.sides.slice(0, 2);
    this.columns = h('div', {class: 'sides'});
    this.input = h('textarea', {id: 'message', rows: 3, placeholder: 'A message to both models',
                                onkeydown: (e) => this.key(e)});
    this.temperature = h('input', {id: 'temperature', type: 'number', min: 0, max: 2, step: 0.1, value: 0});
    this.tokens = h('input', {id: 'tokens', type: 'number', min: 1, max: 2048, value: 128});
    this.alone = h('input', {id: 'alone', type: 'checkbox'});
    this.button = h('button', {type: 'submit'}, 'Send');
    this.form = h('form', {class: 'ask', onsubmit: (e) => { e.preventDefault(); this.send(); }},
      h('label', {class: 'wide', for: 'message'}, 'Message (Ctrl+Enter sends)', this.input),
      h('label', {for: 'temperature'}, 'Temperature', this.temperature),
      h('label', {for: 'tokens'}, 'Max. tokens', this.tokens),
      h('label', {class: 'inline', for: 'alone', title: 'Send each message without the previous ones: for models without multi-turn chat'},
        this.alone, 'without history'),
      this.button, h('button', {type: 'button', onclick: () => this.clear()}, 'New chat'));
    this.element = h('div', {class: 'chat'}, h('h1', {}, 'Chat with two models'),
      servers.map((x) => (x.problem ? problem(x.problem) : null)),
      servers.length ? [this.columns, this.form] : h('p', {}, 'Start the board with the server of the models, such as ',
        h('code', {}, 'kd board --config.board.models=http://127.0.0.1:8000/v1'), ' after ', h('code', {}, 'kd serve A B')));
    this.draw();
  }

  draw() {
    this.columns.replaceChildren(...this.shown.map((side, i) => h('section', {class: 'pane'},
      h('label', {for: `model-${i}`}, i ? 'Second model' : 'First model', h('select', {id: `model-${i}`, onchange: (e) => {
        this.shown[i] = this.sides[Number(e.target.value)]; this.draw();
      }}, this.sides.map((x) => h('option', {value: x.number, selected: x === side}, `${x.model}, ${x.url.replace(/^https?:\/\//, '')}`)))), side.log)));
  }

  key(event) {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) { event.preventDefault(); this.send(); }
  }

  clear() {
    for (const side of this.sides) { side.messages = []; side.log.replaceChildren(); }
    this.input.focus();
  }

  async send() {
    // As it is: a template may need its last line break.
    const text = this.input.value;
    if (!text.trim() || this.button.disabled) return;
    this.button.disabled = true;
    this.input.value = '';
    await Promise.all([...new Set(this.shown)].map((side) => this.ask(side, text)));
    this.button.disabled = false;
    this.input.focus();
  }

  async ask(side, text) {
    if (this.alone.checked) side.messages = [];
    side.messages.push({role: 'user', content: text});
    const answer = h('pre', {}), note = h('small', {class: 'muted'}, 'waiting …');
    side.log.append(h('div', {class: 'said user'}, h('pre', {}, text)), h('div', {class: 'said model'}, answer, note));
    const began = performance.now();
    let first = 0, pieces = 0;
    try {
      for await (const event of events({server: side.server, model: side.model, messages: side.messages,
                                        temperature: Number(this.temperature.value), max_tokens: Number(this.tokens.value)})) {
        if (event.error) throw new Error(event.error.message || event.error);
        const piece = event.choices?.[0]?.delta?.content;
        if (!piece) continue;
        first = first || performance.now();
        pieces += 1;
        answer.append(piece);
        note.textContent = `first token after ${number((first - began) / 1000, 2)} s`;
        side.log.scrollTop = side.log.scrollHeight;
      }
      note.textContent = first ? `first token after ${number((first - began) / 1000, 2)} s, ` +
        `${pieces} pieces in ${number((performance.now() - began) / 1000, 3)} s` : 'an empty answer';
      side.messages.push({role: 'assistant', content: answer.textContent});
    } catch (error) {
      side.messages.pop();  // The next message does not repeat this one.
      note.replaceWith(problem(error.message));
    }
  }
}

/** Yields the events of an answer. */
async function* events(request) {
  const response = await fetch('/api/chat', {method: 'POST', headers: {'Content-Type': 'application/json'},
                                             body: JSON.stringify(request)});
  if (!response.ok) throw new Error((await response.json()).error);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith('data:') && line.slice(5).trim() !== '[DONE]') yield JSON.parse(line.slice(5));
    }
  }
}

/** Opens the page. */
export async function open() {
  return new Chat(await get('/api/models'));
}
