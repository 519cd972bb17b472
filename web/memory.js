// The memory view: what the cache holds of each picture after each answer, laid over the picture.

import { $, element } from "./dom.js";
import { describeCell, describeWord, isAbsorbed, layerRows, makeCellMap, makeWordMap, pictureSpans, precision, selectHeads } from "./cell_map.js";

const NO_CELL = $("cell").textContent;

// Viridis, from not held to the most precise, as in `rkv inspect --png`.
const LADDER = [
  [68, 1, 84],
  [59, 82, 139],
  [33, 145, 140],
  [94, 201, 98],
  [253, 231, 37],
];

function ladderColor(value) {
  const at = Math.min(Math.max(value, 0), 1) * (LADDER.length - 1);
  const low = Math.min(Math.floor(at), LADDER.length - 2);
  return `rgb(${LADDER[low].map((from, c) => Math.round(from + (at - low) * (LADDER[low + 1][c] - from)))})`;
}

// Dark to bright: what was not read is dimmed.
function readStyle(value) {
  return { fill: "rgb(15, 15, 30)", opacity: 0.75 * (1 - Math.sqrt(Math.min(value, 1))) };
}

function svgElement(name, attributes, parent) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}

export function formatBytes(bytes) {
  if (bytes >= 10 * 2 ** 30) return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  if (bytes >= 10 * 2 ** 20) return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  return `${(bytes / 2 ** 10).toFixed(1)} KiB`;
}

// Some words of a text, for a line that has others too.
function shorten(text, length) {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > length ? `${line.slice(0, length)}…` : line;
}

export class MemoryView {
  constructor() {
    this.turns = []; // { question, answer, pictures, memory, timings, usage }
    this.word = null; // of an answer, that maps are shown for: { turn, text, tokens, span }
    this.pinned = null; // the one that they go back to
    $("turn").addEventListener("input", () => this.show());
    for (const select of [$("layer"), $("kv-head")]) select.addEventListener("change", () => this.show());
    $("views").addEventListener("change", () => this.show());
  }

  // What came of each turn; shows the last.
  setTurns(turns) {
    this.turns = turns;
    $("turn").max = turns.length;
    $("turn").value = turns.length;
    if (turns.length) this.fillSelects(turns.at(-1).memory);
    this.show();
  }

  fillSelects(memory) {
    const fill = (select, n, all) => {
      if (select.options.length === n + 1) return;
      select.replaceChildren(new Option(all, ""), ...Array.from({ length: n }, (_, i) => new Option(i, i)));
    };
    fill($("layer"), memory.layers.length, "mean of all");
    fill($("kv-head"), Math.max(...memory.layers.map((layer) => layer.n_kv_head), 0), "mean of all");
  }

  // Shows what a word was read from, or what was shown before if it is null.
  showWord(word) {
    word ??= this.pinned;
    if (word === this.word) return;
    this.word = word;
    this.showMaps();
  }

  // Keeps a word's maps until another is pinned, or something else is asked for; null: none.
  pin(word) {
    this.setPinned(word);
    this.showWord(word);
  }

  setPinned(word) {
    this.pinned?.span.classList.remove("pinned");
    word?.span.classList.add("pinned");
    this.pinned = word;
  }

  show() {
    this.word = null;
    this.setPinned(null);
    $("no-memory").hidden = this.turns.length > 0;
    $("memory-view").hidden = this.turns.length === 0;
    if (this.turns.length === 0) return;
    const turn = this.turns[$("turn").value - 1];
    $("turn-row").hidden = this.turns.length === 1;
    $("turn").setAttribute("aria-valuetext", `turn ${$("turn").value} of ${this.turns.length}`);
    $("turn-name").textContent = `Turn ${$("turn").value} of ${this.turns.length}: “${shorten(turn.question, 16)}” → “${shorten(turn.answer, 200)}”`;
    this.showFigures(turn);
    this.showMaps();
    this.showLayers(turn.memory);
    URL.revokeObjectURL($("json").href);
    $("json").href = URL.createObjectURL(new Blob([JSON.stringify(turn.memory)], { type: "application/json" }));
  }

  showFigures({ memory, timings, usage }) {
    const kv = memory.kv;
    const share = kv.full_bytes ? kv.held_bytes / kv.full_bytes : 0;
    const meter = $("bytes");
    meter.firstElementChild.style.width = `${Math.min(100 * share, 100)}%`;
    meter.setAttribute("aria-valuemax", kv.full_bytes);
    meter.setAttribute("aria-valuenow", kv.held_bytes);
    meter.setAttribute("aria-valuetext", `${formatBytes(kv.held_bytes)} of ${formatBytes(kv.full_bytes)}`);
    $("held").textContent = `Holds ${formatBytes(kv.held_bytes)} of ${formatBytes(kv.full_bytes)} (${(100 * share).toFixed(0)} %)`;
    const figures = [
      ["Budget", kv.budget === "none" ? "none" : `${kv.budget} (${formatBytes(kv.budget_bytes)})`],
      ["Policy", kv.policy],
      ["Tokens", `${kv.tokens_seen} seen, ${kv.tokens_exact} exact, ${kv.tokens_absorbed} absorbed`],
      ["States", `${kv.states}, ${kv.reactivated} reactivations`],
      ["Prompt", `${timings.prompt_n} read, ${usage?.prompt_tokens_details.cached_tokens ?? 0} cached`],
      ["Speed", `${timings.predicted_per_second.toFixed(0)} tokens/s, prompt ${timings.prompt_per_second.toFixed(0)} tokens/s`],
    ];
    $("figures").replaceChildren();
    for (const [name, value] of figures) {
      const row = element("div", undefined, $("figures"));
      element("dt", name, row);
      element("dd", value, row);
    }
  }

  showMaps() {
    const { memory, pictures } = this.word?.turn ?? this.turns[$("turn").value - 1];
    const number = (select) => (select.value === "" ? null : Number(select.value));
    const heads = selectHeads(memory, number($("layer")), number($("kv-head")));
    const view = this.word ? "read" : $("views").querySelector(":checked").value;
    const spans = pictureSpans(memory);
    const maps = spans.map((span) => (this.word ? makeWordMap(memory, span, this.word) : makeCellMap(memory, span, heads)));
    // A model that reads a picture as several has no one picture for each map.
    const shown = spans.length === pictures.length ? pictures : [];
    $("maps").replaceChildren();
    maps.forEach((map, i) => this.addMap(map, shown[i], i, view));
    if (spans.length === 0) element("p", "The conversation has no pictures.", $("maps"));
    $("cell").textContent = this.word ? describeWord(maps) : NO_CELL;
    this.showLegend(memory, view);
  }

  addMap(map, picture, number, view) {
    const { rows, columns } = map.span;
    const figure = element("figure", undefined, $("maps"));
    const frame = element("div", undefined, figure);
    frame.className = "map";
    if (picture) {
      const image = element("img", undefined, frame);
      image.src = picture;
      image.alt = "";
    } else {
      frame.style.aspectRatio = `${columns} / ${rows}`;
    }
    const svg = svgElement("svg", { viewBox: `0 0 ${columns} ${rows}`, preserveAspectRatio: "none", tabindex: 0, role: "application" }, frame);
    const held = map.cells.reduce((sum, cell) => sum + cell.rungs.reduce((a, b) => a + b, 0), 0);
    const read = `${(100 * map.cells.reduce((sum, cell) => sum + cell.read, 0)).toFixed(1)} %`;
    svg.setAttribute("aria-roledescription", "map of cells");
    svg.setAttribute(
      "aria-label",
      `Picture ${number + 1}: ${columns} by ${rows} cells, ${((100 * held) / map.cells.length).toFixed(0)} % held. ${map.reader} read ${read} from it. Arrow keys move over the cells.`,
    );
    map.cells.forEach((cell, i) => this.drawCell(svg, map, cell, i, view));
    const marks = svgElement("g", { class: "marks" }, svg);
    this.watch(svg, marks, map);
    element("figcaption", `Picture ${number + 1}, ${columns} × ${rows} cells. ${map.reader} read ${read} from it`, figure);
  }

  drawCell(svg, map, cell, i, view) {
    const x = i % map.span.columns;
    const y = Math.floor(i / map.span.columns);
    const style =
      view === "held" ? { fill: ladderColor(precision(cell)), opacity: 0.55 } : readStyle((cell.read + cell.state) / map.scale);
    svgElement("rect", { x, y, width: 1, height: 1, fill: style.fill, "fill-opacity": style.opacity }, svg);
    if (view === "held" && isAbsorbed(cell)) {
      svgElement("ellipse", { cx: x + 0.5, cy: y + 0.5, rx: 0.12, ry: 0.12, class: "absorbed" }, svg);
    }
    if (view === "read" && map.reactivated.has(cell.token)) {
      svgElement("rect", { x: x + 0.06, y: y + 0.06, width: 0.88, height: 0.88, class: "reactivated" }, svg);
    }
  }

  // Follows the pointer and the arrow keys, and tells of the cell.
  watch(svg, marks, map) {
    const { rows, columns } = map.span;
    let at = 0;
    const select = (index) => {
      at = index;
      $("cell").textContent = describeCell(map, index);
      this.mark(marks, map, index);
    };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
      const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
      if (column >= 0 && column < columns && row >= 0 && row < rows) select(row * columns + column);
    });
    svg.addEventListener("pointerleave", () => marks.replaceChildren());
    svg.addEventListener("blur", () => marks.replaceChildren());
    svg.addEventListener("focus", () => svg.matches(":focus-visible") && select(at));
    svg.addEventListener("keydown", (event) => {
      const [right, down] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key] ?? [0, 0];
      if (!right && !down) return;
      event.preventDefault();
      const column = Math.min(Math.max((at % columns) + right, 0), columns - 1);
      const row = Math.min(Math.max(Math.floor(at / columns) + down, 0), rows - 1);
      select(row * columns + column);
    });
  }

  // The cell, and lines between it, the root that it went to, and what else went there.
  mark(marks, map, index) {
    const { columns, first_token: first } = map.span;
    const place = (i) => ({ x: (i % columns) + 0.5, y: Math.floor(i / columns) + 0.5 });
    marks.replaceChildren();
    const cell = map.cells[index];
    const root = cell.root ?? cell.token;
    const to = place(root - first);
    map.cells.forEach((other, i) => {
      if (other.root !== root || !map.cells[root - first]) return;
      const from = place(i);
      svgElement("line", { x1: from.x, y1: from.y, x2: to.x, y2: to.y, class: "root" }, marks);
    });
    const { x, y } = place(index);
    svgElement("rect", { x: x - 0.5, y: y - 0.5, width: 1, height: 1, class: "selected" }, marks);
  }

  showLegend(memory, view) {
    const legend = $("legend");
    legend.replaceChildren();
    const add = (text, className, style = {}) => {
      const item = element("li", undefined, legend);
      const sample = element("span", "", item);
      sample.className = className;
      Object.assign(sample.style, style);
      item.append(text);
    };
    if (view === "held") {
      memory.rungs.forEach((rung, i) => add(rung, "swatch", { background: ladderColor(1 - i / memory.rungs.length) }));
      add("not held", "swatch", { background: ladderColor(0) });
      add("absorbed by a state in most heads", "dot");
    } else {
      add("read most", "swatch", { background: "white" });
      add("not read", "swatch", { background: "rgb(15, 15, 30)" });
      add("state reactivated: over 5 % of a head's attention", "swatch reactivated");
    }
  }

  showLayers(memory) {
    const table = $("layers");
    table.replaceChildren();
    const percent = (share) => `${(100 * share).toFixed(1)} %`;
    const columns = [
      ["layer", (row) => row.layer],
      ...memory.rungs.map((rung, i) => [rung, (row) => row.rungs[i].toFixed(1)]),
      ...["absorbed", "forgotten", "states"].map((name) => [name, (row) => row[name].toFixed(1)]),
      ...(pictureSpans(memory).length ? [["from pictures", (row) => percent(row.picture)]] : []),
      ["from text", (row) => percent(row.text)],
      ["from states", (row) => percent(row.state)],
    ];
    const addRow = (parent, kind, texts) => {
      const row = element("tr", undefined, parent);
      texts.forEach((text) => element(kind, text, row));
    };
    addRow(element("thead", undefined, table), "th", columns.map(([name]) => name));
    const body = element("tbody", undefined, table);
    for (const row of layerRows(memory)) addRow(body, "td", columns.map(([, value]) => value(row)));
  }
}
