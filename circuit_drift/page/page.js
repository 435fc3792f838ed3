"use strict";
// Figures are drawn when their chapter is opened, in the page's colours; tables are sorted and searched; the chapter in view is marked.
(() => {
  const root = document.documentElement;
  const config = { responsive: true, displaylogo: false, showSendToCloud: false, modeBarButtonsToRemove: ["sendChartToCloud", "lasso2d", "select2d"] };
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  function inPageColours(layout) {
    const change = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", "font.color": colour("--ink"), "modebar.bgcolor": "rgba(0,0,0,0)", "modebar.color": colour("--soft"), "modebar.activecolor": colour("--ink") };
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(key)) {
        change[key + ".gridcolor"] = colour("--line");
        change[key + ".zerolinecolor"] = colour("--line");
        change[key + ".linecolor"] = colour("--line");
      }
    }
    return change;
  }

  const BLACK = /^(black|#000|#000000|rgb\(0, ?0, ?0\))$/;

  const isBlack = (found) => typeof found === "string" && BLACK.test(found);

  // Black lines with their markers, and markers without a line (with the bars that take their colour), in the colour of text.
  function inkBlackLines(place) {
    place._black ??= ["line", "marker"].map((part) => place.data.flatMap((trace, index) => (isBlack(trace[part]?.color) ? [index] : [])));
    const [lines, markers] = place._black, ink = colour("--ink");
    if (lines.length) Plotly.restyle(place, { "line.color": ink, "marker.color": ink }, lines);
    const alone = markers.filter((index) => !lines.includes(index) && !place.data.some((trace) => trace.type === "heatmap"));
    if (alone.length) Plotly.restyle(place, { "marker.color": ink }, alone);
  }

  function inPageLook(place) {
    Plotly.relayout(place, inPageColours(place._fullLayout));
    inkBlackLines(place);
  }

  const HEADING = 50, WIDE = 1000, NARROW = 860, PAPER = 700; // pixels: of a title with its subtitle; of figures as they are made; below that labels turn; of a printed page
  const BREAK = /<br>/g, TITLE_LINE = 21, SUBTITLE_LINE = 16; // as checkpoints/results/figure.py breaks them

  // Title and subtitle stand above the figure, where they wrap.
  function lift(place, figure) {
    const title = figure.layout.title, written = (text) => new DOMParser().parseFromString((text ?? "").replace(BREAK, " "), "text/html").body.textContent;
    if (!title?.text || figure.layout.updatemenus?.length || figure.frames?.some((frame) => frame.layout?.title) || !(figure.layout.margin?.t > HEADING)) return;
    const lines = [["figure-title", title.text], ["sub", title.subtitle?.text]].filter(([, text]) => text);
    place.before(...lines.map(([name, text]) => Object.assign(document.createElement("p"), { className: name, textContent: written(text) })));
    const breaks = (text) => text?.match(BREAK)?.length ?? 0, above = HEADING + TITLE_LINE * breaks(title.text) + SUBTITLE_LINE * breaks(title.subtitle?.text);
    delete figure.layout.title;
    figure.layout.margin.t -= above;
    figure.layout.height -= above;
  }

  // The height that a width asks for: rows of the legend that wrapped, and labels of the axis that turned.
  function fitted({ data, layout }, width) {
    const names = data.filter((trace) => trace.name && trace.showlegend !== false).length, across = layout.legend?.orientation === "h" && names > 1;
    const rows = (wide) => Math.ceil(names / Math.max(1, Math.floor((wide - 130) / 170)));
    const turned = width < NARROW ? 30 : 0;
    return layout.height + turned + (across ? 20 * Math.max(0, rows(width) - rows(WIDE)) : 0);
  }

  const PANEL = 300, BESIDE = 150, LABEL = 18; // pixels: the least of one of several panels side by side; beside the plot; of a turned label

  const axesOf = (layout, letter = "x") => Object.entries(layout).filter(([name]) => new RegExp(`^${letter}axis\\d*$`).test(name));
  const panels = (layout) => new Set(axesOf(layout).map(([, axis]) => axis.domain?.[0] ?? 0)).size;

  // Names of steps that would lie on each other leave out every second, third, ...
  function thinnedLabels({ layout }, width) {
    const axes = axesOf(layout).filter(([, axis]) => axis.ticktext?.length);
    return Object.fromEntries(axes.map(([name, axis]) => {
      const every = Math.ceil(axis.ticktext.length * LABEL / Math.max(LABEL, width / panels(layout) - BESIDE));
      return [`${name}.ticktext`, axis.ticktext.map((text, i) => (i % every ? "" : text))];
    }));
  }

  const made = new Map();
  // Panels side by side are not squeezed: on a narrow screen the figure scrolls.
  let paper = null; // the width that is printed on, while it is
  function fit(place) {
    const room = paper ?? place.clientWidth;
    if (!made.get(place)?.layout.height || !shown(place)) return;
    const { layout } = made.get(place), across = panels(layout), width = across > 1 ? Math.max(room, PANEL * across) : room;
    const height = fitted(made.get(place), width), before = place._fullLayout;
    place.style.height = `${height}px`;
    if (width > room) place.tabIndex = 0; else place.removeAttribute("tabindex");
    const labels = thinnedLabels(made.get(place), width), told = JSON.stringify(labels);
    if (before.width === width && before.height === height && made.get(place).told === told) return;
    made.get(place).told = told;
    return Plotly.relayout(place, { height, width, ...labels }).then(() => Plotly.redraw(place)); // again, since the legend is placed by the margins of before
  }

  function draw(holder) {
    const place = document.getElementById(holder.dataset.figure);
    if (place.dataset.drawn) return;
    place.dataset.drawn = "yes";
    const figure = JSON.parse(holder.textContent);
    lift(place, figure);
    made.set(place, { data: figure.data, layout: structuredClone(figure.layout) });
    Plotly.newPlot(place, figure.data, figure.layout, config).then(() => {
      if (figure.frames) Plotly.addFrames(place, figure.frames);
      inPageLook(place);
      fit(place);
    });
  }

  const shown = Widgets.isShown;
  const holders = [...document.querySelectorAll("script[data-figure]")];
  const drawShown = () => {
    if (window.Plotly) holders.filter((holder) => shown(document.getElementById(holder.dataset.figure))).forEach(draw);
    [...made.keys()].filter((place) => place._fullLayout).forEach((place) => fit(place));
    Widgets.mountShown();
    document.querySelectorAll(".scroll > template").forEach((held) => { if (shown(held.parentElement)) fill(held); });
  };

  let waiting = 0;
  window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => [...made.keys()].forEach((place) => fit(place)), 200); });

  function recolour() {
    for (const holder of holders) {
      const place = document.getElementById(holder.dataset.figure);
      if (place.dataset.drawn && place._fullLayout) inPageLook(place);
    }
  }

  const button = document.getElementById("theme");
  const systemDark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);
  const tellTheme = () => button.setAttribute("aria-pressed", String(isDark()));
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; tellTheme(); recolour(); });
  systemDark.addEventListener("change", () => { tellTheme(); recolour(); });
  tellTheme();

  document.querySelectorAll("details").forEach((part) => part.addEventListener("toggle", drawShown));

  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    drawShown();
    target.scrollIntoView();
  }
  window.addEventListener("hashchange", reveal);
  document.querySelectorAll(".chapters a").forEach((link) => link.addEventListener("click", () => {
    if (link.hash === location.hash) reveal();
  }));

  const links = new Map([...document.querySelectorAll(".chapters a")].map((link) => [link.hash.slice(1), link]));
  function markChapter() {
    let current = null;
    for (const [slug, link] of links) {
      link.removeAttribute("aria-current");
      if (document.getElementById(slug).getBoundingClientRect().top < window.innerHeight / 3) current = link;
    }
    (current || links.values().next().value).setAttribute("aria-current", "true");
  }
  window.addEventListener("scroll", markChapter, { passive: true });

  const value = (cell) => {
    const text = cell.textContent.trim();
    const number = Number(text.replace(/[,%+≤>\s]/g, "").replace("−", "-"));
    return text === "" || text === "n/a" ? null : Number.isNaN(number) ? text : number;
  };
  const SAMPLED = 30; // rows that tell what a column holds
  const isWords = (found) => typeof found === "string" && !/^\[/.test(found);
  const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));

  function sortBy(table, column, head) {
    const down = head.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row) => [value(row.cells[column]), row]);
    rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : down ? order(b, a) : order(a, b)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  function dress(table, holder = table.parentElement) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const control = document.createElement("button");
      control.type = "button";
      control.textContent = head.textContent;
      head.replaceChildren(control);
      control.addEventListener("click", () => sortBy(table, column, head));
      const cells = [...table.tBodies[0].rows].map((row) => row.cells[column]);
      if (column && cells.slice(0, SAMPLED).some((cell) => isWords(value(cell)))) [head, ...cells].forEach((cell) => cell.classList.add("words"));
    });
    if (table.tBodies[0].rows.length < 12) return;
    const search = Object.assign(document.createElement("input"), { type: "search", className: "search", placeholder: "Search rows" });
    search.setAttribute("aria-label", "Search rows of " + holder.getAttribute("aria-label"));
    search.addEventListener("input", () => {
      const wanted = search.value.toLowerCase();
      for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
    table.parentElement.before(search);
  }
  window.dressTable = dress;
  document.querySelectorAll(".scroll > table").forEach((table) => dress(table));

  // A long table is put in when its fold is opened: thousands of cells nobody looks at slow everything else.
  function fill(held) {
    const holder = held.parentElement;
    holder.replaceChildren(held.content);
    dress(holder.querySelector("table"));
  }

  window.addEventListener("beforeprint", () => {
    paper = PAPER;
    document.querySelectorAll("details.chapter, details.pair").forEach((part) => { part.open = true; });
    drawShown();
    Widgets.mountReady();
  });
  window.addEventListener("afterprint", () => { paper = null; [...made.keys()].forEach((place) => fit(place)); });
  window.addEventListener("load", () => Widgets.prepare());

  const packed = document.getElementById("plotly-js");

  async function loadPlotly() {
    document.head.append(Object.assign(document.createElement("script"), { textContent: await Widgets.unpacked(packed.textContent) }));
    drawShown();
    if (location.hash) reveal(); // figures have pushed what was in view
  }

  drawShown();
  markChapter();
  if (location.hash) reveal();
  if (packed) loadPlotly().catch(() => {
    const told = "This browser cannot unpack the figures. Open the page in one from 2023 on, or write it with pictures: run.report(\"page.html\", figures=\"svg\").";
    document.querySelector("#verdict").append(Object.assign(document.createElement("p"), { className: "warning", textContent: told }));
  });
})();
