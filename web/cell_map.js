// What heads hold of the cells of a picture: the same reckoning as `rkv inspect`'s.

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
// it took of that), and `root` (the token that most heads absorbed it into, or null).
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
  // The share that counts as 1: the largest of any cell, but at least a tenth of what each would have
  // if nothing else were read, so that noise does not stand out.
  const largest = Math.max(...cells.map((cell) => cell.read + cell.state), 0);
  return { span, cells, rungs: memory.rungs, nHeads: heads.length, scale: Math.max(largest, 0.1 / cells.length) };
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
  text += `. The answer read ${percent(cell.read, 2)} from it`;
  if (cell.state > 0) text += ` and ${percent(cell.state, 2)} from its state`;
  return `${text}.`;
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
