'use strict';
// The moving parts of report.html: the before/after comparison and the curves. Everything shown comes from the JSON
// element #data and is set as text or as an attribute, never as markup, so that no name can become part of the page.

const SVG_TAGS = new Set(['svg', 'path', 'line', 'text', 'circle', 'g']);
const byId = id => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const space = SVG_TAGS.has(tag) ? 'http://www.w3.org/2000/svg' : 'http://www.w3.org/1999/xhtml';
  const node = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter(child => child !== null));
  return node;
}

function makeButton(action, attributes, ...children) {
  const button = make('button', {type: 'button', ...attributes}, ...children);
  button.addEventListener('click', () => action(button));
  return button;
}

function press(buttons, chosen) {
  for (const button of buttons) button.setAttribute('aria-pressed', String(button === chosen));
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const integer = value => value.toLocaleString('en');

// ---------------------------------------------------------------------------------------------------- comparison

const NAMES = ['Before', 'After', 'Clean'];
const LARGEST_ZOOM = 3; // small pictures are not blown up further
const KEY_STEPS = {
  ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100,
};

class Comparison {
  constructor(examples) {
    this.examples = examples;
    this.pair = [0, 1];
    this.position = 50;
    this.stage = byId('stage');
    this.handle = byId('handle');
    this.listen();
    this.offerGroups();
    byId('compare').hidden = false;
    this.enterGroup(null);
  }

  listen() {
    const {stage, handle} = this;
    const follow = event => {
      const box = stage.getBoundingClientRect();
      this.moveTo((100 * (event.clientX - box.left)) / box.width);
    };
    stage.addEventListener('pointerdown', event => {
      if (event.button !== 0) return;
      event.preventDefault();
      stage.setPointerCapture(event.pointerId);
      handle.focus({preventScroll: true});
      if (event.pointerType === 'mouse') follow(event); // a finger may be about to scroll the page
    });
    stage.addEventListener('click', follow);
    stage.addEventListener('pointermove', event => stage.hasPointerCapture(event.pointerId) && follow(event));
    handle.addEventListener('keydown', event => {
      const step = KEY_STEPS[event.key];
      if (step === undefined) return;
      event.preventDefault();
      this.moveTo(this.position + step * (event.shiftKey ? 5 : 1));
    });
    byId('right-image').addEventListener('load', event => {
      const {naturalWidth: width, naturalHeight: height} = event.target;
      stage.style.setProperty('--ratio', width / height);
      stage.style.setProperty('--largest', `${LARGEST_ZOOM * width}px`);
    });
  }

  moveTo(percent) {
    this.position = clamp(percent, 0, 100);
    const rounded = Math.round(this.position), [left, right] = this.pair.map(index => NAMES[index]);
    this.stage.style.setProperty('--x', `${this.position}%`);
    this.handle.setAttribute('aria-valuenow', rounded);
    this.handle.setAttribute('aria-valuetext', `${rounded} % ${left}, ${100 - rounded} % ${right}`);
    byId('left-tag').style.opacity = this.position < 14 ? 0 : 1;
    byId('right-tag').style.opacity = this.position > 86 ? 0 : 1;
  }

  offerGroups() {
    const names = [...new Set(this.examples.map(example => example.group))];
    if (names.length < 2) return;
    const buttons = [null, ...names].map(name => {
      const count = make('small', {}, String(this.inGroup(name).length));
      const enter = button => (press(buttons, button), this.enterGroup(name));
      const text = name === null ? 'All' : name || 'other';
      return makeButton(enter, {'aria-pressed': String(name === null)}, `${text} `, count);
    });
    byId('groups').append(...buttons);
  }

  inGroup(name) {
    return this.examples.filter(example => name === null || example.group === name);
  }

  enterGroup(name) {
    const inside = this.inGroup(name);
    this.thumbs = new Map(inside.map(example => [example, this.makeThumb(example)]));
    byId('thumbs').replaceChildren(...this.thumbs.values());
    const rated = inside.filter(example => example.gain !== null).sort((a, b) => a.gain - b.gain);
    const ends = [['Smallest gain', rated[0]], ['Largest gain', rated[rated.length - 1]]];
    const jumps = ends.map(([text, example]) => makeButton(() => this.show(example, true), {}, text));
    const compared = new Set(rated.map(example => example.main.label)).size === 1; // dB and points are not compared
    byId('jumps').replaceChildren(...(compared && rated.length > 2 ? jumps : []));
    this.show(inside[0], true);
  }

  makeThumb(example) {
    const {change, unit} = example.main || {change: '', unit: ''};
    const text = change && change !== '–' ? `${change} ${unit}` : '\u00a0';
    const image = make('img', {src: example.images[1], alt: '', loading: 'lazy'});
    const attributes = {title: example.key, 'aria-label': `${example.key} ${text}`};
    return makeButton(() => this.show(example), attributes, image, text);
  }

  show(example, scroll = false) {
    this.shown = example;
    this.offerPairs();
    byId('who').textContent = example.key;
    byId('where').textContent = [example.group, `iteration ${integer(example.iter)}`].filter(Boolean).join(' · ');
    byId('stats').replaceChildren(...example.stats.map(makeStat));
    const thumb = this.thumbs.get(example), strip = byId('thumbs');
    press(this.thumbs.values(), thumb);
    if (scroll) strip.scrollTo({left: thumb.offsetLeft - strip.offsetLeft - 120, behavior: 'smooth'});
  }

  offerPairs() {
    const {images} = this.shown;
    const pairs = [[0, 1], [1, 2], [0, 2]].filter(pair => pair.every(index => images[index]));
    const chosen = pairs.findIndex(pair => String(pair) === String(this.pair));
    const buttons = pairs.map(pair => {
      const choose = button => (press(buttons, button), this.drawPair(pair));
      return makeButton(choose, {}, `${NAMES[pair[0]]} | ${NAMES[pair[1]]}`);
    });
    press(buttons, buttons[Math.max(chosen, 0)]);
    byId('pairs').replaceChildren(...buttons);
    this.drawPair(pairs[Math.max(chosen, 0)]);
  }

  drawPair(pair) {
    this.pair = pair;
    ['left', 'right'].forEach((side, k) => {
      const name = NAMES[pair[k]];
      Object.assign(byId(`${side}-image`), {src: this.shown.images[pair[k]], alt: `${name}: ${this.shown.key}`});
      byId(`${side}-tag`).textContent = name;
    });
    this.moveTo(this.position);
  }
}

function makeStat(stat) {
  const values = stat.before === '–' ? stat.after : `${stat.before} → ${stat.after}`;
  const kind = stat.better === null ? '' : stat.better ? 'good' : 'bad';
  const change = stat.change === '–' ? null : make('em', {class: kind}, stat.change);
  return make('div', {}, make('span', {}, `${stat.label} ${stat.arrow}`), `${values} ${stat.unit} `, change);
}

// ---------------------------------------------------------------------------------------------------- curves

const HEIGHT = 270;
const PAD = {left: 52, right: 14, top: 26, bottom: 36};
const COLOURS = 7;
const DOTS_UP_TO = 25;
const BIN_COLOURS = ['var(--low)', 'var(--mid)', 'var(--high)']; // of the first bin, the middle, the last

function format(value, unit = '') {
  if (value === null || value === undefined) return '–';
  const size = Math.abs(value);
  let text = value.toFixed(size >= 10 ? 2 : 4);
  if (size && size < 1e-3) text = value.toExponential(2);
  if (size >= 1000) text = integer(Math.round(value));
  return unit ? `${text} ${unit}` : text;
}

function tickTexts(ticks) {
  const tiny = ticks.some(value => value && Math.abs(value) < 1e-3);
  const round = value => value.toLocaleString('en', {maximumFractionDigits: 6});
  return ticks.map(value => (tiny && value ? value.toExponential() : round(value)));
}

// Round numbers from low to high, about count of them.
function linearTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(factor => factor * power >= rough * 0.75);
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) ticks.push(Number((k * step).toPrecision(12)));
  return ticks;
}

// Powers of ten from low to high, with twice and five times each where there are few.
function logTicks(low, high) {
  const powers = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++) powers.push(10 ** e);
  const inside = factors => powers.flatMap(p => factors.map(f => f * p)).filter(v => v >= low && v <= high);
  return inside([1]).length > 3 ? inside([1]) : inside([1, 2, 5]);
}

const lastValue = line => line.y.reduce((kept, y) => (y === null ? kept : y), null);
const firstValue = line => line.y.find(y => y !== null);

class Chart {
  constructor(chart) {
    this.view = chart.views[0];
    this.focus = null; // the line chosen in the legend
    this.index = null; // the point under the pointer
    this.plain = !chart.views.some(view => view.lines.some(line => line.style === 'task'));
    this.svg = make('svg', {tabindex: 0, role: 'img'});
    this.tip = make('div', {class: 'tip', role: 'status'});
    this.legend = make('div', {class: 'legend'});
    const note = chart.note ? make('p', {class: 'note'}, chart.note) : null;
    const head = [make('h3', {}, chart.title), this.makeChips(chart.views)];
    byId('charts').append(make('figure', {}, ...head, this.svg, this.tip, this.legend, note));
    this.listen();
    this.offerLines();
    new ResizeObserver(() => this.draw()).observe(this.svg);
    this.draw();
  }

  makeChips(views) {
    if (views.length < 2) return null;
    const buttons = views.map(view =>
      makeButton(button => {
        press(buttons, button);
        Object.assign(this, {view, focus: null, index: null});
        this.offerLines();
        this.draw();
      }, {}, view.label),
    );
    press(buttons, buttons[0]);
    return make('div', {class: 'chips', role: 'group', 'aria-label': 'What to draw'}, ...buttons);
  }

  listen() {
    const {svg} = this;
    const hover = event => this.point(this.nearest(event.clientX - svg.getBoundingClientRect().left));
    svg.addEventListener('pointermove', hover);
    svg.addEventListener('pointerdown', hover);
    svg.addEventListener('pointerleave', event => event.pointerType === 'mouse' && this.point(null));
    svg.addEventListener('blur', () => this.point(null));
    svg.addEventListener('keydown', event => {
      const end = this.view.lines[0].x.length - 1, now = this.index ?? end + 1;
      const target = {ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: end, Escape: null}[event.key];
      if (target === undefined) return;
      event.preventDefault();
      this.point(target === null ? null : clamp(target, 0, end));
    });
  }

  offerLines() {
    const {lines} = this.view;
    const buttons = lines.map(line => {
      const choose = button => {
        this.focus = this.focus === line ? null : line;
        press(buttons, this.focus ? button : null);
        this.draw();
      };
      const dot = make('i', {style: `background: ${this.colour(line)}; opacity: ${line.style === 'faint' ? 0.5 : 1}`});
      const value = make('span', {}, this.write(lastValue(line)));
      return makeButton(choose, {'aria-pressed': 'false'}, dot, `${line.name} `, value);
    });
    this.legend.replaceChildren(...(lines.length > 1 ? buttons : []));
  }

  // A value of the drawn view; of shares, one decimal says enough.
  write(value, unit = '') {
    return this.view.stack ? `${value.toFixed(1)} %` : format(value, unit);
  }

  colour(line) {
    if (line.style === 'bin') {
      const {lines} = this.view, place = (2 * lines.indexOf(line)) / Math.max(lines.length - 1, 1);
      const from = Math.min(Math.floor(place), 1), share = (100 * (place - from)).toFixed(1);
      return `color-mix(in oklab, ${BIN_COLOURS[from + 1]} ${share}%, ${BIN_COLOURS[from]})`;
    }
    if (line.style !== 'task') return this.plain ? 'var(--accent)' : 'var(--fg)';
    return `var(--c${this.view.lines.filter(other => other.style === 'task').indexOf(line) % COLOURS})`;
  }

  nearest(pixel) {
    const distances = this.view.lines[0].x.map(x => Math.abs(this.px(x) - pixel));
    return distances.indexOf(Math.min(...distances));
  }

  point(index) {
    if (index === this.index) return;
    this.index = index;
    this.draw();
  }

  // The lines whose value before restoration is drawn dashed.
  withBase() {
    const shown = line => (this.focus ? line === this.focus : line.style === 'main');
    return this.view.lines.filter(line => line.base !== null && shown(line));
  }

  setScale() {
    const {lines, log, stack} = this.view, xs = lines[0].x;
    const ys = [...lines.flatMap(line => line.y), ...this.withBase().map(line => line.base)].filter(y => y !== null);
    let low = Math.min(...ys), high = Math.max(...ys);
    const room = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
    if (stack) [low, high] = [0, 100];
    else if (log) [low, high] = [low * 0.93, high * 1.07];
    else [low, high] = [low >= 0 ? Math.max(low - room, 0) : low - room, high + room];
    const [first, last] = xs.length > 1 ? [xs[0], xs[xs.length - 1]] : [xs[0] - 1, xs[0] + 1];
    const level = log ? Math.log : y => y;
    const share = y => (level(y) - level(low)) / (level(high) - level(low));
    this.range = {low, high, first, last};
    this.width = this.svg.clientWidth || 440;
    this.px = x => PAD.left + ((x - first) / (last - first)) * (this.width - PAD.left - PAD.right);
    this.py = y => HEIGHT - PAD.bottom - share(y) * (HEIGHT - PAD.top - PAD.bottom);
  }

  draw() {
    this.setScale();
    const shape = this.view.stack ? line => this.makeArea(line) : line => this.makeCurve(line);
    const curves = [...this.view.lines].reverse().map(shape);
    const bases = this.withBase().map(line => this.across(line.base, {class: 'curve base', stroke: this.colour(line)}));
    this.svg.replaceChildren(...this.makeAxes(), ...bases, ...curves, ...this.makeRule());
    const {first, last} = this.range;
    const ends = line => `${line.name}: from ${format(firstValue(line))} to ${format(lastValue(line))}`;
    const texts = this.view.lines.map(ends).join('; ');
    const label = `${this.view.axis} over iterations ${first} to ${last}. ${texts}. Arrow keys read values.`;
    this.svg.setAttribute('aria-label', label);
    this.drawTip();
  }

  across(y, attributes) {
    return make('line', {x1: PAD.left, x2: this.width - PAD.right, y1: this.py(y), y2: this.py(y), ...attributes});
  }

  makeAxes() {
    const {low, high, first, last} = this.range, bottom = HEIGHT - PAD.bottom;
    const label = (x, y, anchor, text) => make('text', {x, y, 'text-anchor': anchor}, text);
    const rows = this.view.log ? logTicks(low, high) : linearTicks(low, high, 5);
    const {x} = this.view.lines[0];
    const columns = x.length > 1 ? linearTicks(first, last, clamp(this.width / 90, 2, 6)).filter(Number.isInteger) : x;
    return [
      ...rows.map(y => this.across(y, {class: 'grid'})),
      ...tickTexts(rows).map((text, k) => label(PAD.left - 8, this.py(rows[k]) + 4, 'end', text)),
      ...columns.map(at => label(this.px(at), bottom + 17, 'middle', integer(at))),
      label(0, 12, 'start', this.view.axis),
      label(this.width - PAD.right, HEIGHT - 2, 'end', 'iteration'),
    ];
  }

  dimmed(line) {
    return this.focus && this.focus !== line ? 0.18 : 1;
  }

  makeCurve(line) {
    const place = (x, y) => (y === null ? null : [this.px(x).toFixed(1), this.py(y).toFixed(1)]);
    const points = line.x.map((x, k) => place(x, line.y[k]));
    const path = points.map((point, k) => (point ? `${points[k - 1] ? 'L' : 'M'}${point.join(' ')}` : '')).join('');
    const group = make('g', {opacity: this.dimmed(line)});
    group.append(make('path', {class: `curve ${line.style}`, stroke: this.colour(line), d: path}));
    const radius = line.style === 'main' ? 3.2 : 2.4;
    const dots = points.length <= DOTS_UP_TO ? points.filter(Boolean) : [];
    group.append(...dots.map(([cx, cy]) => make('circle', {cx, cy, r: radius, fill: this.colour(line)})));
    return group;
  }

  // One part of a whole: the area between the sum of the parts below it and the sum with it.
  makeArea(line) {
    const {lines} = this.view, below = lines.slice(0, lines.indexOf(line));
    const alone = line.x.length === 1; // one record: a bar over the whole width
    const edge = parts => line.x.flatMap((x, k) => {
      const y = this.py(parts.reduce((sum, part) => sum + part.y[k], 0)).toFixed(1);
      return alone ? [`${PAD.left} ${y}`, `${this.width - PAD.right} ${y}`] : [`${this.px(x).toFixed(1)} ${y}`];
    });
    const d = `M${[...edge([...below, line]), ...edge(below).reverse()].join('L')}Z`;
    return make('path', {class: 'area', fill: this.colour(line), d, opacity: this.dimmed(line)});
  }

  makeRule() {
    if (this.index === null) return [];
    const x = this.px(this.view.lines[0].x[this.index]);
    return [make('line', {class: 'rule', x1: x, x2: x, y1: PAD.top, y2: HEIGHT - PAD.bottom})];
  }

  drawTip() {
    const {tip, svg, index, view} = this;
    tip.hidden = index === null;
    if (tip.hidden) return;
    const x = view.lines[0].x[index];
    const shown = view.lines.filter(line => !this.focus || line === this.focus);
    const rows = (view.stack ? shown.reverse() : shown).map(line => {
      const dot = make('i', {style: `background: ${this.colour(line)}`});
      return make('div', {}, dot, `${line.name} `, make('b', {}, this.write(line.y[index], view.unit)));
    });
    tip.replaceChildren(make('div', {}, `iteration ${integer(x)}`), ...rows);
    const at = this.px(x) + svg.parentNode.clientWidth / 2 - this.width / 2;
    const left = this.px(x) > this.width / 2 ? at - tip.offsetWidth - 12 : at + 12;
    tip.style.left = `${clamp(left, 8, Math.max(8, svg.parentNode.clientWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${svg.getBoundingClientRect().top - svg.parentNode.getBoundingClientRect().top + PAD.top}px`;
  }
}

const data = JSON.parse(byId('data').textContent);
if (data.examples.length) new Comparison(data.examples);
for (const chart of data.charts) new Chart(chart);
