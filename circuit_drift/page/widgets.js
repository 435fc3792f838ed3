"use strict";
// Figures that a reader chooses in: drawn as SVG from the data beside them, without a server.
const Widgets = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const LOOKS = { // dash, side that edges bow to, sign in their middle, word
    gained: ["", 1, "+", "gained"], lost: ["2 5", -1, "×", "lost"], strengthened: ["13 4", 0.55, "▲", "stronger"],
    weakened: ["7 5", -0.55, "▼", "weaker"], flipped: ["12 4 2 4", 0.2, "⇄", "sign flipped"], kept: ["", 0.05, "", "kept"], uncertain: ["1 4", -0.05, "?", "uncertain"], beyond: ["3 3", 0.35, "○", "changed outside the circuits"],
  };
  const QUIET = ["beyond", "kept", "uncertain"]; // classes that are off; the first there is goes on where nothing else is to draw
  const MOST_LINES = 60; // more cross until none can be followed
  const byId = new Map();

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function draw(tag, attributes = {}, ...children) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function shown(value) {
    const size = Math.abs(value), digits = size < 0.01 ? 2 : 3;
    return (size === 0 ? "0" : size >= 1e-4 && size < 1e4 ? value.toPrecision(digits) : value.toExponential(1)).replace(/^-/, "−");
  }
  const signed = (value) => (value > 0 ? "+" : "") + shown(value);

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  function choice(label, options, picked, change) {
    const select = make("select", {}, ...options.map(([value, text]) => make("option", { value }, text)));
    select.value = String(picked);
    select.addEventListener("change", () => change(select.value));
    return make("label", {}, label + " ", select);
  }

  function slider(label, from, to, picked, told, change) {
    const input = make("input", { type: "range", min: from, max: to, step: 1 }), output = make("output", {}, told(picked));
    input.value = picked;
    input.addEventListener("input", () => { output.textContent = told(Number(input.value)); change(Number(input.value)); });
    return make("label", {}, label + " ", input, " ", output);
  }

  function toggle(text, pressed, change) {
    const button = make("button", { type: "button", "aria-pressed": String(pressed) }, ...[text].flat());
    button.addEventListener("click", () => {
      const now = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(now));
      change(now);
    });
    return button;
  }

  const sample = (status, dash = LOOKS[status][0]) => draw("svg", { width: 34, height: 12, "aria-hidden": "true" },
    draw("line", { x1: 1, y1: 6, x2: 33, y2: 6, class: "edge " + status, "stroke-width": 3, "stroke-dasharray": dash }));

  function table(heads, rows, label) {
    const body = make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, cell)))));
    const head = make("thead", {}, make("tr", {}, ...heads.map((name) => make("th", { scope: "col" }, name))));
    const found = make("table", {}, head, body);
    const holder = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, found), outer = make("div", {}, holder);
    if (rows.length) window.dressTable(found, holder);
    return outer;
  }

  // Three to six round numbers within a range.
  function roundTicks(from, to) {
    const rough = (to - from) / 4 || 1, tens = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].find((each) => each * tens >= rough) * tens;
    const first = Math.ceil(from / step - 1e-9);
    return Array.from({ length: Math.floor(to / step + 1e-9) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(6)));
  }

  // Lines over checkpoints: { name, values, low, high, dash }; nulls are gaps. One axis, from `from` to `to`.
  function chart(labels, lines, { from, to, mark, label, invert = false, log = false }) {
    const width = 640, height = 210, left = 52, bottom = 36, count = labels.length;
    const scale = (value) => (log ? Math.log10(value) : value), span = scale(to) - scale(from) || 1;
    const x = (i) => left + 12 + (count > 1 ? i / (count - 1) : 0.5) * (width - left - 30);
    const y = (value) => { const share = (scale(value) - scale(from)) / span; return 10 + (invert ? share : 1 - share) * (height - bottom - 16); };
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": label });
    const ticks = log ? Array.from({ length: Math.floor(scale(to)) + 1 }, (_, i) => 10 ** i) : roundTicks(from, to);
    for (const tick of ticks) svg.append(draw("line", { x1: left, x2: width - 8, y1: y(tick), y2: y(tick), class: "row" }), draw("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end", class: "axis" }, tick.toLocaleString("en").replace("-", "−")));
    const every = Math.ceil(count / 9);
    labels.forEach((text, i) => { if (i % every === 0) svg.append(draw("text", { x: x(i), y: height - 18, "text-anchor": "middle", class: "axis" }, text)); });
    svg.append(draw("text", { x: (left + width) / 2, y: height - 3, "text-anchor": "middle", class: "axis" }, "step (checkpoints evenly spaced)"));
    if (mark !== undefined) svg.append(draw("line", { x1: left, x2: width - 8, y1: y(mark), y2: y(mark), class: "edge kept", "stroke-dasharray": "2 4" }));
    lines.forEach((line) => {
      line.values.forEach((value, i) => {
        if (value === null) return;
        const text = `${line.name} at step ${labels[i]}: ${shown(value)}` + (line.low?.[i] == null ? "" : ` [${shown(line.low[i])}, ${shown(line.high[i])}]`);
        const point = draw("g", {}, draw("title", {}, text));
        if (line.low?.[i] != null) point.append(draw("line", { x1: x(i), x2: x(i), y1: y(line.low[i]), y2: y(line.high[i]), class: "edge " + line.look, "stroke-width": 2 }));
        point.append(draw("circle", { cx: x(i), cy: y(value), r: 3.5, class: "dot " + line.look }));
        if (i && line.values[i - 1] !== null) point.prepend(draw("line", { x1: x(i - 1), y1: y(line.values[i - 1]), x2: x(i), y2: y(value), class: "edge " + line.look, "stroke-width": 2, "stroke-dasharray": line.dash }));
        svg.append(point);
      });
    });
    const key = make("p", { class: "key" }, ...lines.map((line) => make("span", {}, sample(line.look, line.dash), ` ${line.name}`)));
    return make("div", {}, key, make("div", { class: "wide", tabindex: 0, role: "region", "aria-label": label }, svg));
  }

  // A table whose first column opens a card beneath it.
  function cards(place, heads, rows, label, card) {
    const open = make("div", { class: "panel card", "aria-live": "polite" });
    const opener = (text, i) => {
      const button = make("button", { type: "button", class: "opener" }, text);
      button.addEventListener("click", () => { open.replaceChildren(card(i)); open.scrollIntoView({ block: "nearest" }); });
      return button;
    };
    place.replaceChildren(table(heads, rows.map(([first, ...others], i) => [opener(first, i), ...others]), label), open);
    if (rows.length) open.replaceChildren(card(0));
  }

  // --- what rewired ---------------------------------------------------------------------------------------------

  function rewired(place, atlas) {
    const state = { group: 0, a: atlas.start[0], b: atlas.start[1], level: atlas.level, size: Math.min(atlas.usual, atlas.groups[0].largest), view: "graph", hidden: new Set(QUIET), chosen: false, node: null };
    const told = make("p", { class: "told", "aria-live": "polite" }), canvas = make("div", { class: "canvas" });
    const panel = make("div", { class: "panel", "aria-live": "polite" }), controls = make("div", { class: "controls" }), legend = make("div", { class: "controls legend", role: "group", "aria-label": "Classes of edges" });
    let facts = null;
    place.replaceChildren(controls, told, legend, canvas, panel);

    function setControls() {
      const points = atlas.labels.map((label, i) => [i, label]);
      const swap = make("button", { type: "button", "aria-label": "Swap A and B" }, "⇄");
      swap.addEventListener("click", () => { [state.a, state.b] = [state.b, state.a]; setControls(); update(); });
      const change = (name) => (value) => { state[name] = Number(value); update(); };
      const views = choice("View", [["graph", "graph"], ["layers", "layer by layer"]], state.view, (value) => { state.view = value; update(); });
      const groups = choice("Facts", atlas.groups.map((group, i) => [i, group.name]), state.group, (value) => {
        state.group = Number(value);
        state.size = Math.min(state.size, atlas.groups[state.group].largest);
        setControls();
        update();
      });
      facts = groups.querySelector("select");
      controls.replaceChildren(
        choice("A", points, state.a, change("a")), swap, choice("B", points, state.b, change("b")), groups, views,
        slider("q at most", 0, atlas.levels.length - 1, state.level, (at) => String(atlas.levels[at]), change("level")),
        slider("Circuit", 1, atlas.groups[state.group].largest, state.size, (at) => `${at} edges`, change("size")));
    }

    const tellGroups = () => atlas.groups.forEach((group, i) => {
      facts.options[i].textContent = `${group.name}: ${Atlas.tested(atlas, { ...state, group: i }).changed.toLocaleString("en")} changed`;
    });

    function update() {
      const found = Atlas.between(atlas, state);
      tellGroups();
      told.textContent = Atlas.headline(atlas, state, found);
      if (!state.chosen) {
        const loud = Atlas.CHANGES.some((name) => found.counts[name]), next = QUIET.find((name) => found.counts[name]);
        state.hidden = new Set(QUIET.filter((name) => loud || name !== next));
      }
      legend.replaceChildren(...Atlas.STATUSES.filter((name) => found.counts[name]).map((name) => toggle([sample(name), ` ${LOOKS[name][2]} ${LOOKS[name][3]} (${found.counts[name]})`], !state.hidden.has(name), (on) => {
        state.chosen = true;
        state.hidden[on ? "delete" : "add"](name);
        drawView(found);
      })));
      drawView(found);
    }

    function drawView(found) {
      const rows = found.rows.filter((row) => !state.hidden.has(row.status));
      canvas.replaceChildren(rows.length ? (state.view === "graph" ? graph(rows) : heat(rows)) : make("p", { class: "sub" }, found.rows.length ? "Nothing to draw of the classes that are on; others are switched on above." : "No edge of either circuit, and no change, among the edges on this page."));
      tell(found);
    }

    function tell(found) {
      const node = state.node, rows = node ? found.rows.filter((row) => row.writer === node || Atlas.nodeOf(row.reader) === node) : found.rows;
      const [a, b] = [atlas.labels[state.a], atlas.labels[state.b]];
      const bound = (row) => (row.stop < atlas.levels.length ? `≤ ${atlas.levels[row.stop]}` : `> ${atlas.levels.at(-1)}`);
      const cells = rows.map((row) => [`${row.writer} → ${row.reader}`, signed(row.a), signed(row.b), signed(row.delta), bound(row), LOOKS[row.status][3]]);
      const heads = ["edge", `score at ${a}`, `score at ${b}`, "change", "q", "became"];
      const save = make("a", { class: "csv", download: "edges.csv", href: "data:text/csv;charset=utf-8," + encodeURIComponent(Atlas.csv(atlas, state, rows)) }, "Download these edges as CSV");
      if (!node) {
        const all = make("details", { class: "data" }, make("summary", {}, `All ${rows.length} edges at this choice`), table(heads, cells, "Edges at this choice"), make("p", {}, save));
        panel.replaceChildren(all);
        return;
      }
      const close = make("button", { type: "button" }, "Close");
      close.addEventListener("click", () => select(null));
      const card = byId.get("heads")?.card(node);
      panel.replaceChildren(make("h4", {}, `${node}: ${Atlas.kindOf(node)}`, " ", close),
        rows.length ? table(heads, cells, `Edges of ${node}`) : make("p", { class: "sub" }, "No edge of either circuit at this choice."), make("p", {}, save), ...(card ? [card] : []));
    }

    function select(node) {
      state.node = node;
      const found = Atlas.between(atlas, state);
      tell(found);
      mark();
      if (node) panel.scrollIntoView({ block: "nearest" });
    }

    function mark() {
      canvas.querySelectorAll("[data-ends]").forEach((line) => line.classList.toggle("dim", state.node !== null && !line.dataset.ends.split(" ").includes(state.node)));
      canvas.querySelectorAll("[data-node]").forEach((node) => node.setAttribute("aria-pressed", String(node.dataset.node === state.node)));
    }

    function graph(rows) {
      const lines = Atlas.bundles(rows).slice(0, MOST_LINES), used = lines.flatMap((line) => line.rows);
      const layers = Atlas.layers(atlas.shape, used), most = Math.max(...layers.map((row) => row.heads.length));
      const width = Math.max(224 + 56 * most, canvas.clientWidth || 900);
      const step = Math.min(110, Math.max(58, 600 / layers.length)), height = step * (layers.length - 1) + 78;
      const at = new Map(), left = 74, right = width - 150;
      layers.forEach((row, i) => {
        const y = height - 34 - i * step;
        row.heads.forEach((node, k) => at.set(node, [left + (k + 0.5) / row.heads.length * (right - left), y]));
        if (row.mlp) at.set(row.mlp, [width - 84, y - step * 0.28]);
      });
      const largest = Math.max(...lines.map((line) => line.size)) || 1;
      const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": told.textContent });
      layers.forEach((row, i) => svg.append(draw("text", { x: 4, y: height - 30 - i * step, class: "axis" }, Atlas.layerName(atlas.shape, row.layer)), draw("line", { x1: left - 10, x2: width - 10, y1: height - 34 - i * step, y2: height - 34 - i * step, class: "row" })));
      [...lines].reverse().forEach((line) => svg.append(edge(line, at.get(line.from), at.get(line.to), largest)));
      for (const [node, [x, y]] of at) svg.append(mark_(node, x, y));
      const rest = Atlas.bundles(rows).length - lines.length;
      const holder = make("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "What rewired" }, svg);
      return rest > 0 ? make("div", {}, holder, make("p", { class: "sub" }, `Drawn are the ${MOST_LINES} strongest lines; ${rest} more are in the table.`)) : holder;
    }

    function edge(line, [x1, y1], [x2, y2], largest) {
      const [dash, side, sign, word] = LOOKS[line.status], rise = Math.abs(y1 - y2);
      const bend = side * (26 + rise * 0.28), [cx, cy] = [(x1 + x2) / 2 + bend, (y1 + y2) / 2];
      const path = `M${x1},${y1}Q${cx},${cy} ${x2},${y2}`, [mx, my] = [(x1 + 2 * cx + x2) / 4, (y1 + 2 * cy + y2) / 4];
      const text = line.rows.map((row) => `${row.writer} → ${row.reader}: ${signed(row.a)} → ${signed(row.b)}, ${word}`).join("\n");
      const title = draw("title", {}, text), group = draw("g", { "data-ends": `${line.from} ${line.to}`, class: "line" }, title);
      group.append(draw("path", { d: path, class: "hit" }), draw("path", { d: path, class: "edge " + line.status, "stroke-dasharray": dash, "stroke-width": (1.4 + 4.2 * line.size / largest).toFixed(1) }));
      if (sign) group.append(draw("text", { x: mx, y: my + 4, class: "sign " + line.status }, line.rows.length > 1 ? sign + line.rows.length : sign));
      return group;
    }

    function mark_(node, x, y) {
      const kind = Atlas.kindOf(node), group = draw("g", { "data-node": node, class: "node", tabindex: 0, role: "button", "aria-pressed": String(node === state.node), "aria-label": `${node}, ${kind}` });
      const shapes = {
        "attention head": () => draw("circle", { cx: x, cy: y, r: 7 }), "MLP": () => draw("rect", { x: x - 8, y: y - 8, width: 16, height: 16, class: "mlp" }),
        "shared key/value head": () => draw("path", { d: `M${x},${y - 9}l9,9l-9,9l-9,-9z` }), "input or logits": () => draw("path", { d: `M${x - 9},${y}l5,-8h8l5,8l-5,8h-8z`, class: "end" }),
      };
      group.append(shapes[kind](), draw("text", { x: x + 11, y: y - 9 }, node));
      group.addEventListener("click", () => select(state.node === node ? null : node));
      group.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); select(state.node === node ? null : node); } });
      return group;
    }

    function heat(rows) {
      const { writes, reads, cells } = Atlas.matrix(atlas.shape, rows), size = Math.min(46, Math.max(18, 620 / Math.max(writes.length, reads.length)));
      const left = 74, width = left + size * writes.length + 20, height = size * reads.length + 66, most = Math.max(...cells.flat().map((cell) => cell.length));
      const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${told.textContent}; by layer that writes, across, and layer that reads, up` });
      const name = (layer) => Atlas.layerName(atlas.shape, layer);
      reads.forEach((read, i) => {
        const y = height - 66 - (i + 1) * size + 6;
        svg.append(draw("text", { x: 4, y: y + size / 2 + 4, class: "axis" }, name(read)));
        writes.forEach((write, j) => {
          const cell = cells[i][j], x = left + j * size;
          if (!cell.length) return;
          const title = draw("title", {}, `${name(write)} → ${name(read)}: ${cell.length}\n` + cell.slice(0, 8).map((row) => `${row.writer} → ${row.reader} ${signed(row.delta)}, ${LOOKS[row.status][3]}`).join("\n"));
          svg.append(draw("g", { class: "cell" }, title, draw("rect", { x: x + 1, y: y + 1, width: size - 2, height: size - 2, "fill-opacity": (0.12 + 0.88 * cell.length / most).toFixed(2) }), draw("text", { x: x + size / 2, y: y + size / 2 + 4, class: cell.length / most > 0.5 ? "on" : "off" }, String(cell.length))));
        });
      });
      writes.forEach((write, j) => svg.append(draw("text", { x: left + (j + 0.5) * size, y: height - 52, class: "axis down", transform: `rotate(60 ${left + (j + 0.5) * size} ${height - 52})` }, name(write))));
      return make("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "What rewired, layer by layer" }, svg, make("p", { class: "sub" }, "Edges in each cell, by the layer that writes (across) and the layer that reads (up)."));
    }

    setControls();
    update();
    let width = canvas.clientWidth;
    window.addEventListener("resize", () => { if (canvas.clientWidth && canvas.clientWidth !== width) { width = canvas.clientWidth; update(); mark(); } });
  }

  // --- a head, a fact -------------------------------------------------------------------------------------------

  const told = (value) => (value === null || value === undefined ? "n/a" : shown(value));
  const list = (title, items) => (items.length ? [make("p", {}, make("b", {}, title)), make("ul", {}, ...items.map((item) => make("li", {}, item)))] : []);

  // What a head reads on the example prompt: the tokens around the needle, the question's end and every key that weighs.
  function reading(example, head) {
    const state = { point: example.labels.length - 1, row: 0 }, out = make("div", { "aria-live": "polite" });
    const inside = (spans, at) => spans.some(([start, stop]) => at >= start && at < stop);
    const text = (token) => token.replace(/\n/g, "↵") || "·", quoted = (token) => `“${text(token)}”`;
    const from = (at) => (at >= example.tokens.length ? "answer" : inside(example.gold, at) ? "needle's answer" : inside(example.needle, at) ? "needle" : at === 0 ? "first token" : at === example.tokens.length - 1 + state.row ? "where it stands" : "other text");
    const tokenAt = (at) => example.tokens[at] ?? example.answer[at - example.tokens.length];

    function update() {
      const row = head.reads[state.point][state.row], share = new Map(row), every = [...example.tokens, ...example.answer.slice(0, state.row)];
      const near = (at) => at < 2 || at >= every.length - 10 || example.needle.some(([start, stop]) => at >= start - 3 && at < stop + 3) || row.some(([key]) => Math.abs(key - at) <= 2);
      const parts = [];
      every.forEach((token, at) => {
        if (!near(at)) { if (parts.at(-1) !== " … ") parts.push(" … "); return; }
        const kind = inside(example.gold, at) ? "token gold" : inside(example.needle, at) ? "token in-needle" : "token";
        const weight = share.get(at);
        parts.push(weight ? make("mark", { class: kind, style: `--weight: ${weight}%` }, text(token), make("sup", {}, `${weight} %`)) : make("span", { class: kind }, text(token)));
      });
      const told = row.map(([at, weight]) => `${weight} % on ${quoted(tokenAt(at))} (${from(at)})`).join(", ");
      out.replaceChildren(make("p", {}, `Before ${quoted(example.answer[state.row])}: ${told || "no key weighs 1 % by itself, or the layer has no attention rows"}.`), make("p", { class: "tokens" }, ...parts));
    }

    const change = (name) => (value) => { state[name] = Number(value); update(); };
    const steps = choice("Step", example.labels.map((label, i) => [i, label]), state.point, change("point"));
    const rows = choice("Before", example.answer.map((token, i) => [i, text(token)]), state.row, change("row"));
    update();
    return [make("p", {}, make("b", {}, "What it reads on a needle prompt")), make("div", { class: "controls" }, steps, rows), out,
      make("p", { class: "sub" }, `The ${example.tokens.length} tokens of one prompt, shortened. Underlined: the needle; twice: its answer. Shaded: the keys with the largest attention weights, with their share.`)];
  }

  function headCard(data, head) {
    const values = head.score.map((row) => row[0]), every = [...head.score.flat(), ...head.beside].filter((value) => value !== null);
    const lines = [{ name: data.score, look: "gained", dash: "", values, low: head.score.map((row) => row[1]), high: head.score.map((row) => row[2]) }];
    if (head.beside.some((value) => value !== null)) lines.push({ name: data.beside, look: "lost", dash: "5 4", values: head.beside });
    const to = Math.max(1, ...every), from = Math.min(0, ...every);
    return make("div", {}, make("h4", {}, head.name), make("p", {}, head.told), chart(data.labels, lines, { from, to, mark: data.threshold, label: `${data.score} of ${head.name} over training` }),
      ...(data.example && head.reads.length ? reading(data.example, head) : []), ...list("What it reads on the prompts of facts", head.on_facts), ...list("Roles in the circuits of facts", head.roles), ...list("What taking it away, patching and its own write did", head.effects));
  }

  function heads(place, data) {
    const byName = new Map(data.heads.map((head) => [head.name, head]));
    byId.set("heads", { card: (name) => (byName.has(name) ? headCard(data, byName.get(name)) : null) });
    const last = (row) => told(row.at(-1)), best = (head) => Math.max(...head.score.map((row) => row[0] ?? -Infinity));
    const rows = data.heads.map((head) => [head.name, told(head.score[0][0]), Number.isFinite(best(head)) ? shown(best(head)) : "n/a", told(head.score.at(-1)[0]), `[${told(head.score.at(-1)[1])}, ${told(head.score.at(-1)[2])}]`, last(head.beside), head.roles.join("; ") || "none"]);
    cards(place, ["head", `${data.score}, first`, "best", "last", "95 % interval", `${data.beside}, last`, "roles"], rows, "Heads", (i) => headCard(data, data.heads[i]));
  }

  function factCard(data, fact) {
    const worst = Math.max(10, ...fact.rank), metric = fact.metric, from = Math.min(0, ...metric), to = Math.max(0, ...metric);
    const parts = [make("h4", {}, fact.name), make("p", {}, (fact.group ? `Group: ${fact.group}. ` : "") + fact.told),
      chart(data.labels, [{ name: "rank of the answer among all tokens, 1 = recalled", look: "gained", dash: "", values: fact.rank }], { from: 1, to: worst, log: true, invert: true, label: "Rank of the answer over training, 1 = recalled" }),
      chart(data.labels, [{ name: data.metric, look: "lost", dash: "5 4", values: metric }], { from, to, mark: 0, label: `${data.metric} over training` })];
    parts.push(...list("Heads that write most towards or against its answer", fact.heads));
    if (fact.lens.length) parts.push(table(["layer", ...fact.lens.map(([label]) => `rank at step ${label}`)], fact.lens[0][1].map((_, layer) => [layer ? `after ${layer - 1}` : "input", ...fact.lens.map(([, ranks]) => ranks[layer].toLocaleString("en"))]), "Rank by layer"));
    return make("div", {}, ...parts);
  }

  function facts(place, data) {
    const recalled = (fact) => fact.rank.filter((rank) => rank === 1).length;
    const rows = data.facts.map((fact) => [fact.name, fact.group || "all", String(recalled(fact)), fact.rank[0].toLocaleString("en"), fact.rank.at(-1).toLocaleString("en"), told(fact.metric.at(-1))]);
    cards(place, ["fact", "group", `recalled at, of ${data.labels.length}`, "rank, first", "rank, last", `${data.metric}, last`], rows, "Facts", (i) => factCard(data, data.facts[i]));
  }

  const KINDS = { rewired, heads, facts };

  const texts = new Map(); // unpacked

  async function prepare(wanted = holders()) {
    for (const holder of wanted) if (!texts.has(holder)) texts.set(holder, await unpacked(holder.textContent));
  }

  function mount(holder) {
    const place = document.getElementById(holder.dataset.widget);
    if (place.dataset.drawn || !texts.has(holder)) return;
    place.dataset.drawn = "yes";
    KINDS[holder.dataset.kind](place, JSON.parse(texts.get(holder)));
  }

  const holders = () => [...document.querySelectorAll("script[data-widget]")];
  // What lies in a closed fold has boxes in newer browsers, and is visible in none.
  const isShown = (element) => (element.checkVisibility ? element.checkVisibility() : element.getClientRects().length > 0);
  const visible = (holder) => isShown(document.getElementById(holder.dataset.widget));
  // The heads come first, since nodes of circuits show their cards.
  const wantedNow = () => {
    const wanted = holders().filter(visible);
    if (wanted.some((holder) => holder.dataset.kind === "rewired")) wanted.unshift(...holders().filter((holder) => holder.dataset.kind === "heads"));
    return wanted;
  };
  const mountReady = () => wantedNow().forEach(mount); // at once, as a printer asks
  const mountShown = async () => {
    const wanted = wantedNow();
    await prepare(wanted);
    wanted.forEach(mount);
  };
  return { mountShown, mountReady, prepare, isShown, unpacked };
})();
