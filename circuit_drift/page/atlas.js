"use strict";
// What became of edges between two checkpoints, from thinned scores: the rules of circuits.diff, without a figure.
const Atlas = (() => {
  const STATUSES = ["gained", "lost", "strengthened", "weakened", "flipped", "kept", "uncertain", "beyond"]; // beyond: changed, in neither circuit
  const CHANGES = STATUSES.slice(0, 5);
  const LEVEL = 0.05; // of the test that the graph changed at all

  const nodeOf = (reader) => reader.split("<")[0];

  function kindOf(node) {
    if (node === "input" || node === "logits") return "input or logits";
    if (node.startsWith("m")) return "MLP";
    return node.includes(".kv") ? "shared key/value head" : "attention head";
  }

  function layerOf(shape, node) {
    if (node === "input") return -1;
    return node === "logits" ? shape.n_layers : Number(/\d+/.exec(node)[0]);
  }

  function headsReading(shape, reader) {
    const node = nodeOf(reader);
    const shared = /^(a\d+)\.kv(\d+)$/.exec(node);
    if (!shared) return [node];
    const size = shape.n_heads / shape.n_kv_heads;
    return Array.from({ length: size }, (_, i) => `${shared[1]}.h${Number(shared[2]) * size + i}`);
  }

  // Which of the kept edges are in the circuit pruned from the n strongest: dead ends go until none is left.
  function circuit(shape, edges, mean, n) {
    const order = mean.map((_, i) => i).sort((i, j) => Math.abs(mean[j]) - Math.abs(mean[i]) || i - j).slice(0, n);
    let inside = new Set(order);
    for (let before = -1; before !== inside.size;) {
      before = inside.size;
      const writes = new Set(), computed = new Set(["input"]);
      for (const i of inside) {
        writes.add(edges[i][0]);
        headsReading(shape, edges[i][1]).forEach((node) => computed.add(node));
      }
      const alive = (node) => computed.has(node) && writes.has(node);
      inside = new Set([...inside].filter((i) => alive(edges[i][0]) && (edges[i][1] === "logits" || headsReading(shape, edges[i][1]).some(alive))));
    }
    return mean.map((_, i) => inside.has(i));
  }

  const pairPlace = (count, a, b) => a * (2 * count - a - 1) / 2 + (b - a - 1);

  function statusOf(a, b, inA, inB, changed, apart) {
    const turned = a * b < 0, both = turned && apart;
    if (!inA && !inB) return "outside";
    if (changed && inB && (!inA || (turned && !both)) && Math.abs(b) > Math.abs(a)) return "gained";
    if (changed && inA && (!inB || (turned && !both)) && Math.abs(b) < Math.abs(a)) return "lost";
    if (changed && both) return "flipped";
    if (changed && Math.abs(b) > Math.abs(a)) return "strengthened";
    if (changed && Math.abs(b) < Math.abs(a)) return "weakened";
    return inA && inB ? "kept" : "uncertain";
  }

  // What a test of the chosen pair says: its place, p that the graph changed, edges that changed at the level.
  function tested(atlas, choice) {
    const group = atlas.groups[choice.group];
    const first = Math.min(choice.a, choice.b), second = Math.max(choice.a, choice.b);
    const place = first === second ? null : pairPlace(atlas.labels.length, first, second);
    const whole = place === null ? 1 : group.whole[place], real = whole <= LEVEL;
    return { place, whole, real, changed: place !== null && real ? group.changed[place][choice.level] : 0 };
  }

  // choice: { group, a, b, level, size }, places in the atlas. Rows: strongest change first.
  function between(atlas, choice) {
    const group = atlas.groups[choice.group], edges = group.edges.map((name) => name.split("->"));
    const { place, whole, real, changed } = tested(atlas, choice);
    const meanA = group.mean[choice.a], meanB = group.mean[choice.b];
    const inA = circuit(atlas.shape, edges, meanA, choice.size), inB = circuit(atlas.shape, edges, meanB, choice.size);
    const rows = edges.map(([writer, reader], i) => {
      const stop = place === null ? atlas.levels.length : Number(group.stops[place][i]);
      const apart = group.apart[choice.a][i] === "1" && group.apart[choice.b][i] === "1";
      const moved = real && stop <= choice.level, found = statusOf(meanA[i], meanB[i], inA[i], inB[i], moved, apart);
      const status = moved && found === "outside" ? "beyond" : found;
      return { writer, reader, a: meanA[i], b: meanB[i], delta: meanB[i] - meanA[i], stop, status };
    }).filter((row) => row.status !== "outside").sort((x, y) => Math.abs(y.delta) - Math.abs(x.delta));
    const counts = Object.fromEntries(STATUSES.map((name) => [name, rows.filter((row) => row.status === name).length]));
    return { rows, counts, whole, changed };
  }

  function headline(atlas, choice, found) {
    const group = atlas.groups[choice.group], words = { strengthened: "stronger", weakened: "weaker" };
    const told = CHANGES.filter((name) => found.counts[name]).map((name) => `${found.counts[name]} ${words[name] || name}`);
    const span = `${atlas.labels[choice.a]} → ${atlas.labels[choice.b]}`;
    const p = `p = ${Number(found.whole.toPrecision(2))}, ${group.facts} facts`;
    if (choice.a === choice.b) return `${span}: one checkpoint; what its circuit holds is under "kept"`;
    if (found.whole > LEVEL) return `${span}: the graph did not change beyond the noise of the prompts (${p})`;
    const inside = told.length ? `in the circuits ${told.join(", ")}` : "none of them in a circuit";
    return `${span}: ${found.changed.toLocaleString("en")} of ${atlas.total.toLocaleString("en")} edges changed at q ≤ ${atlas.levels[choice.level]}; ${inside} (${p})`;
  }

  // Edges of one class between the same two nodes as one line.
  function bundles(rows) {
    const found = new Map();
    for (const row of rows) {
      const key = [row.writer, nodeOf(row.reader), row.status].join(" ");
      if (!found.has(key)) found.set(key, { from: row.writer, to: nodeOf(row.reader), status: row.status, rows: [], size: 0 });
      const bundle = found.get(key);
      bundle.rows.push(row);
      bundle.size += Math.abs(row.status === "kept" ? row.b : row.delta);
    }
    return [...found.values()];
  }

  const headPlace = (shape, node) => {
    const number = Number(/\.(?:h|kv)(\d+)/.exec(node)?.[1] ?? 0), size = shape.n_heads / shape.n_kv_heads;
    return node.includes(".kv") ? number * size + (size - 1) / 2 + 0.01 : number;
  };

  // Rows of nodes from the input up: { layer, heads, mlp }, of touched nodes alone.
  function layers(shape, rows) {
    const nodes = new Set(rows.flatMap((row) => [row.writer, nodeOf(row.reader)])), found = new Map();
    for (const node of nodes) {
      const layer = layerOf(shape, node);
      if (!found.has(layer)) found.set(layer, { layer, heads: [], mlp: null });
      if (kindOf(node) === "MLP") found.get(layer).mlp = node;
      else found.get(layer).heads.push(node);
    }
    for (const row of found.values()) row.heads.sort((x, y) => headPlace(shape, x) - headPlace(shape, y));
    return [...found.values()].sort((x, y) => x.layer - y.layer);
  }

  // [reading layer][writing layer] of counts, of the layers that rows touch.
  function matrix(shape, rows) {
    const at = (node) => layerOf(shape, node);
    const used = (picked) => [...new Set(rows.map(picked))].sort((x, y) => x - y);
    const writes = used((row) => at(row.writer)), reads = used((row) => at(nodeOf(row.reader)));
    const cells = reads.map((read) => writes.map((write) => rows.filter((row) => at(row.writer) === write && at(nodeOf(row.reader)) === read)));
    return { writes, reads, cells };
  }

  const layerName = (shape, layer) => (layer < 0 ? "input" : layer === shape.n_layers ? "logits" : `layer ${layer}`);

  function csv(atlas, choice, rows) {
    const bound = (row) => (row.stop < atlas.levels.length ? atlas.levels[row.stop] : "");
    const lines = rows.map((row) => [`${row.writer}->${row.reader}`, row.a, row.b, Number(row.delta.toPrecision(6)), bound(row), row.status].join(","));
    const head = ["edge", `score at ${atlas.labels[choice.a]}`, `score at ${atlas.labels[choice.b]}`, "change", "q at most", "status"];
    return [head.map((name) => (name.includes(",") ? `"${name}"` : name)).join(","), ...lines].join("\n") + "\n";
  }

  return { STATUSES, CHANGES, nodeOf, kindOf, layerOf, headsReading, circuit, tested, between, headline, bundles, layers, matrix, layerName, csv };
})();
if (typeof module !== "undefined") module.exports = Atlas;
