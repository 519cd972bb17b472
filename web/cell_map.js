// What heads hold of the cells of a picture: the same reckoning as `rkv inspect`'s.

const REACTIVATED = 0.05; // a state that took more of a head's softmax was reactivated

// The heads of a memory that are looked at; null: all layers, or all KV heads.
export function selectHeads(memory, layer, kvHead) {
  return memory.heads.filter(
    (head) => (layer === null || head.layer === layer) && (kvHead === null || head.kv_head === kvHead),
  );
}

export function pictureSpans(memory) {
  return memory.media.filter((span) => span.modality === "image");
}

// For each cell, as means over the heads: `rungs` (share of heads that hold it on each), `absorbed`,
// `forgotten`, `read` (share of the last answer's softmax), `state` (what states that are named for
// it took of that), and `root` (the token that most heads absorbed it into, or null). Of the map:
// `reader`, who read, `reactivated`, the roots whose state was, and `scale`, the share that counts as 1.
export function makeCellMap(memory, span, heads) {
  const part = heads.length ? 1 / heads.length : 0;
  const cells = Array.from({ length: span.rows * span.columns }, (_, i) => {
    const token = span.first_token + i;
    const cell = { token, rungs: memory.rungs.map(() => 0), absorbed: 0, forgotten: 0, read: 0, state: 0, root: null };
    const roots = new Map();
    for (const head of heads) {
      const rung = head.rung[token];
      const root = head.root[token];
      if (rung !== null && rung !== undefined) {
        cell.rungs[rung] += part;
      } else if (root !== null && root !== undefined) {
        cell.absorbed += part;
        roots.set(root, (roots.get(root) ?? 0) + 1);
      } else {
        cell.forgotten += part;
      }
      cell.read += part * (head.share[token] ?? 0);
    }
    const most = [...roots].sort((a, b) => b[1] - a[1])[0];
    if (most) cell.root = most[0];
    return cell;
  });
  for (const head of heads) {
    for (const state of head.states) {
      const cell = cells[state.root - span.first_token];
      if (cell) cell.state += part * state.share;
    }
  }
  const states = heads.flatMap((head) => head.states).filter((state) => state.share > REACTIVATED);
  return {
    span,
    cells,
    rungs: memory.rungs,
    nHeads: heads.length,
    scale: readScale(cells),
    reader: "The answer",
    reactivated: new Set(states.map((state) => state.root)),
  };
}

// The largest share of any cell, but at least a tenth of what each would have if nothing else were
// read, so that noise does not stand out.
function readScale(cells) {
  const largest = Math.max(...cells.map((cell) => cell.read + cell.state), 0);
  return Math.max(largest, 0.1 / cells.length);
}

// The same with what a word of the answer was read from, as a mean over all heads and over the word's
// tokens, which are entries of memory.answer; what states took is in `read` of their roots.
export function makeWordMap(memory, span, word) {
  const map = makeCellMap(memory, span, memory.heads);
  const medium = memory.media.indexOf(span);
  const part = 1 / word.tokens.length;
  map.cells.forEach((cell, i) => {
    cell.read = word.tokens.reduce((sum, token) => sum + part * token.read[medium][i], 0);
    cell.state = 0;
  });
  const reactivated = new Set(word.tokens.flatMap((token) => token.reactivated));
  return { ...map, scale: readScale(map.cells), reader: `“${word.text}”`, reactivated };
}

// Mean place on the ladder: 1 for the most precise rung everywhere, 0 for held nowhere.
export function precision(cell) {
  return cell.rungs.reduce((sum, share, i) => sum + share * (1 - i / cell.rungs.length), 0);
}

// Absorbed in most heads.
export function isAbsorbed(cell) {
  return cell.absorbed > Math.max(...cell.rungs, 0) && cell.absorbed >= cell.forgotten;
}

const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;

export function describeCell(map, index) {
  const cell = map.cells[index];
  const row = Math.floor(index / map.span.columns) + 1;
  const column = (index % map.span.columns) + 1;
  const held = [];
  const add = (what, share) => {
    if (share > 0.0005) held.push(map.nHeads === 1 ? what : `${what} in ${percent(share)} of heads`);
  };
  map.rungs.forEach((rung, i) => add(rung, cell.rungs[i]));
  add("absorbed", cell.absorbed);
  add("forgotten", cell.forgotten);
  let text = `Row ${row}, column ${column} (token ${cell.token}): ${held.join(", ")}`;
  if (cell.root !== null) text += `, into the state of token ${cell.root}`;
  text += `. ${map.reader} read ${percent(cell.read, 2)} from it`;
  if (cell.state > 0) text += ` and ${percent(cell.state, 2)} from its state`;
  return `${text}.`;
}

// What a word read of the pictures, of which `maps` are its maps.
export function describeWord(maps) {
  const cells = maps.flatMap((map, picture) => map.cells.map((cell, i) => ({ ...cell, picture, i })));
  const place = ({ picture, i }) => {
    const { columns } = maps[picture].span;
    const where = `row ${Math.floor(i / columns) + 1}, column ${(i % columns) + 1}`;
    return maps.length > 1 ? `picture ${picture + 1}, ${where}` : where;
  };
  const most = cells.reduce((best, cell) => (cell.read > best.read ? cell : best));
  const total = cells.reduce((sum, cell) => sum + cell.read, 0);
  const roots = cells.filter((cell) => maps[0].reactivated.has(cell.token)).map(place);
  let text = `${maps[0].reader} read ${percent(total, 1)} from the picture${maps.length > 1 ? "s" : ""}`;
  text += ` as a mean over all heads, most of it at ${place(most)} (${percent(most.read, 2)}).`;
  return text + (roots.length ? ` Reactivated: the state${roots.length > 1 ? "s" : ""} of ${roots.join("; ")}.` : " No state was reactivated.");
}

// Means over the KV heads of each layer: tokens on each rung, absorbed, forgotten, states; shares of
// the softmax that pictures, text and states had.
export function layerRows(memory) {
  const inPicture = new Set();
  for (const span of pictureSpans(memory)) {
    for (let i = 0; i < span.rows * span.columns; ++i) inPicture.add(span.first_token + i);
  }
  return memory.layers.map((_, layer) => {
    const heads = selectHeads(memory, layer, null);
    const row = { layer, rungs: memory.rungs.map(() => 0), absorbed: 0, forgotten: 0, states: 0, picture: 0, text: 0, state: 0 };
    const part = heads.length ? 1 / heads.length : 0;
    for (const head of heads) {
      head.rung.forEach((rung, token) => {
        if (rung !== null) row.rungs[rung] += part;
        else row[head.root[token] !== null ? "absorbed" : "forgotten"] += part;
        row[inPicture.has(token) ? "picture" : "text"] += part * head.share[token];
      });
      row.states += part * head.states.length;
      for (const state of head.states) row.state += part * state.share;
    }
    return row;
  });
}
