// Draws the report. Every number, text and order of things was prepared in Python; this file places them.
// Names come from users: they enter the page as text nodes and attributes, and plotly's labels through plain().
(async () => {
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const { members, marks, cloud } = data;
const axes = new Map(data.axes.map((axis) => [axis.key, axis]));
const count = members.ids.length;
const root = document.documentElement;
const byId = (id) => document.getElementById(id);
const tabled = data.axes.filter((axis) => axis.split !== "order" && axis.known);
const narrow = () => root.clientWidth < 720;
const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const state = {
  selected: null,
  across: data.start.across,
  up: data.start.up,
  color: data.start.color,
  log: new Map(data.axes.map((axis) => [axis.key, axis.log])),
  table: data.tables.length ? data.tables[0].key : null,
  compared: 0,
  optimism: 0,
  predicted: 0, // the objective whose predictions are drawn
  ranges: new Map(), // axis of the parallel coordinates -> [lower, upper] height that is kept
  sorted: { key: null, descending: false },
  hidden: new Set(), // methods whose recipes are not drawn
  opened: new Set(data.methods.length === 1 ? [0] : []), // methods whose recipes are listed
  allGenes: false,
  takenOnly: false, // the bars' axis ends where the steps of the selected member do
};

// ---------------------------------------------------------------- elements and colors

function el(tag, attributes = {}, ...children) {
  const node = tag.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4))
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

function fill(id, ...children) {
  byId(id).replaceChildren(...children);
}

function ink(name) {
  return getComputedStyle(root).getPropertyValue(`--${name}`).trim();
}

function viridis(t) {
  const place = Math.min(Math.max(t, 0), 1) * (VIRIDIS.length - 1);
  const left = Math.min(Math.floor(place), VIRIDIS.length - 2);
  const part = (color, at) => parseInt(color.slice(1 + 2 * at, 3 + 2 * at), 16);
  const mixed = [0, 1, 2].map((at) =>
    Math.round(part(VIRIDIS[left], at) + (place - left) * (part(VIRIDIS[left + 1], at) - part(VIRIDIS[left], at))));
  return `rgb(${mixed.join(",")})`;
}

// the cheapest is the darkest and the most expensive the brightest in every report, so that reports can be compared
const stepColor = (step) => (!step ? ink("absent") : step.level === null ? ink("untouched") : viridis(0.08 + 0.87 * step.level));
const stepInk = (step) => (step.level === null ? ink("ink") : step.level <= 0.5 ? "#ffffff" : "#18212c");

/** What a table says about a layer on a member: the step, null where the layer is left out, undefined where it says nothing. */
function decision(table, i, layer) {
  const at = table.columns.indexOf(layer);
  const place = at < 0 ? undefined : table.rows[i][at];
  return place === null || place === undefined ? place : { ...table.steps[place], text: table.texts[i]?.[at] };
}

function chip(step) {
  if (!step) return "";
  return el("span", { class: "bit", style: `background:${stepColor(step)};color:${stepInk(step)}` }, step.text ?? step.label);
}

/** Text that plotly shows as it is: it would take tags for formatting, and draw entities. */
function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

const isLog = (axis) => axis.floor !== null && state.log.get(axis.key);
/** Values as they are drawn: in the unit of the axis's title, and never below what its logarithm can show. */
const drawn = (axis, values, log = isLog(axis)) =>
  values.map((v) => (v === null || v === undefined ? null : (log ? Math.max(v, axis.floor) : v) / axis.divisor));
const inside = (i) =>
  data.parallel.every((axis) => {
    const range = state.ranges.get(axis.key);
    const height = axis.heights[i];
    return !range || (height !== null && height >= range[0] && height <= range[1]);
  });

function picker(label, options, value, change) {
  const select = el("select", { change: () => change(select.value) },
    ...options.map(([key, text]) => el("option", { value: key, selected: key === value }, text)));
  return el("label", {}, label, select);
}

// ---------------------------------------------------------------- the page around the plots

function head() {
  // without a front these have nothing to show, and the page says why there is none
  for (const id of ["bits-card", "optimism-card", "members-card"]) byId(id).hidden = !count;
  byId("run").textContent = data.run;
  byId("subtitle").textContent = data.subtitle;
  byId("searched").textContent = data.searched;
  fill("badges", ...data.statuses.map((s) => el("li", { class: `badge ${s.kind}` }, s.title)));
  fill("banners", ...data.statuses.filter((s) => s.text).map((s) =>
    el("p", { class: "banner" }, el("strong", {}, `${s.title}. `), s.text)));
  fill("figures", ...data.figures.map((figure) =>
    el("div", { class: "figure" },
      el("dt", {}, figure.label),
      el("dd", { class: "value" }, figure.value, ...(figure.unit ? [el("small", {}, figure.unit)] : [])),
      el("dd", { class: "detail" }, figure.detail))));
}

function facts(pairs) {
  return el("dl", { class: "facts" }, ...pairs.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
}

function about() {
  const { space, samples, versions, notes, failures, failed, settings } = data.about;
  byId("cost").textContent = data.cost;
  const blocks = [["What was searched", space], ["Samples", samples], ["Versions", versions]]
    .filter(([, pairs]) => pairs.length)
    .map(([title, pairs]) => el("div", {}, el("h3", {}, title), facts(pairs)));
  const list = (title, texts) =>
    texts.length ? [el("h3", {}, title), el("ul", {}, ...texts.map((text) => el("li", {}, text)))] : [];
  fill("about",
    el("div", { class: "columns" }, ...blocks),
    ...list("Notes", notes),
    ...list(`Failed candidates (${failed})`, failures),
    ...(settings ? [el("details", {}, el("summary", {}, "Settings of the run"), el("pre", {}, settings))] : []));
}

function seeds() {
  byId("seeds-caption").textContent = data.verdict_sentence;
  const explained = {
    dominated: ["dominated", "The front’s member is better on the test split, too."],
    tied: ["tied", "The 95 % interval of the difference on the test split, by the paired bootstrap, covers zero."],
    not: ["not beaten", "On the test split the recipe is better than the member that beats it on the search split."],
  };
  const row = (name, i) => {
    const verdict = marks.reference[i] ? null : data.verdicts[i - 1];
    let told = el("span", { class: "missing" }, "–");
    if (verdict) told = el("span", { class: `badge ${verdict}`, title: explained[verdict][1] }, explained[verdict][0]);
    else if (marks.reference[i]) told = el("span", { class: "badge plain" }, "reference");
    else if (!marks.feasible[i]) told = el("span", { class: "badge warning", title: "It failed, or breaks a constraint." }, "infeasible");
    return el("tr", marks.reference[i] ? {} : { class: "of-group" },
      el("th", { scope: "row" }, name),
      el("td", { class: "words" }, told),
      ...tabled.map((axis) => cell(marks.points, axis, i)));
  };
  const badges = (method) => method.counts.map(([kind, , text]) =>
    el("span", { class: `badge ${{ infeasible: "warning", open: "plain" }[kind] ?? kind}`, title: explained[kind]?.[1] }, text));
  const groups = data.methods.map((method, at) => {
    const rows = method.marks.map((i) => row(marks.names[i], i));
    const show = () => {
      toggle.setAttribute("aria-expanded", String(state.opened.has(at)));
      for (const each of rows) each.hidden = !state.opened.has(at);
    };
    const toggle = el("button", {
      type: "button",
      click: () => { if (!state.opened.delete(at)) state.opened.add(at); show(); },
    }, method.name);
    show();
    return el("tbody", {},
      el("tr", { class: "group" },
        el("th", { scope: "rowgroup" }, toggle),
        el("td", { class: "words", colspan: 1 + tabled.length }, `${rows.length} measured`, ...badges(method))),
      ...rows);
  });
  fill("seeds", el("table", {},
    el("thead", {}, el("tr", {},
      el("th", { scope: "col" }, "recipe"),
      el("th", { scope: "col", class: "words" }, "on the test split"),
      ...tabled.map((axis) => el("th", { scope: "col" }, axis.heading)))),
    el("tbody", {}, row(marks.names[0], 0)),
    ...groups));
  if (data.verdicts.some((verdict) => verdict)) {
    byId("seeds-note").textContent =
      "Every recipe is compared with the member that is at least as good in all objectives on the search split. " +
      "Dominated: the member is better on the test split, too. Tied: the 95 % interval of the difference, by the paired " +
      "bootstrap over test samples, covers zero. Not beaten: the recipe is better on the test split.";
  }
  unmeasured();
  allocations();
}

/** The methods that the run could have begun with. */
function unmeasured() {
  if (!data.unmeasured) return;
  const { methods, setting, command } = data.unmeasured;
  fill("unmeasured",
    el("h3", {}, "Recipes that were not measured"),
    el("ul", {}, ...methods.map(([name, about]) => el("li", {}, el("strong", {}, name), about ? `: ${about}` : ""))),
    el("p", { class: "note" }, "A run measures them before it searches where its settings name them; one of them alone chooses a policy within a budget:"),
    ...[setting, command].map((text) => el("div", { class: "command" }, el("code", {}, ...words(text)))));
}

/** What allocation methods chose beside the run. */
function allocations() {
  if (!data.allocations) return;
  const { names, ids, member, points } = data.allocations;
  const title = "Single choices of allocation methods";
  fill("allocations",
    el("h3", {}, title),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "choice"), el("th", { scope: "col", class: "words" }, "id"),
        ...tabled.map((axis) => el("th", { scope: "col" }, axis.heading)))),
      el("tbody", {}, ...names.map((name, i) => el("tr", {},
        el("th", { scope: "row" }, name),
        el("td", { class: "words" }, member[i] === null ? el("code", {}, ids[i]) : el("a", { href: `#${ids[i]}` }, el("code", {}, ids[i]))),
        ...tabled.map((axis) => cell(points, axis, i))))))),
    el("p", { class: "note" }, "Made by evo-mpq allocate in the directory of this run; evo-mpq export writes the file of one by its id, like that of a member."));
}

function cell(points, axis, i) {
  const interval = points.intervals[axis.key]?.[i];
  return el("td", points.values[axis.key][i] === null ? { class: "missing" } : {},
    points.texts[axis.key][i], ...(interval ? [el("small", {}, interval)] : []));
}

// ---------------------------------------------------------------- the table of members

function memberTable() {
  if (!count) return;
  const rows = new Map();
  const body = el("tbody");
  for (let i = 0; i < count; i += 1) {
    const id = members.ids[i];
    rows.set(i, el("tr", { "data-id": id, click: () => select(i) },
      el("th", { scope: "row" }, el("a", { href: `#${id}` }, id), i === data.knee ? " ★" : ""),
      ...tabled.map((axis) => cell(members, axis, i))));
  }
  const order = () => {
    const places = [...rows.keys()];
    const { key, descending } = state.sorted;
    const values = key === "id" ? members.ids : members.values[key];
    if (key) {
      places.sort((a, b) => {
        if (values[a] === null || values[b] === null) return (values[a] === null) - (values[b] === null);
        return (values[a] < values[b] ? -1 : values[a] > values[b] ? 1 : 0) * (descending ? -1 : 1);
      });
    }
    body.replaceChildren(...places.map((i) => rows.get(i)));
  };
  const columns = [["id", "id"], ...tabled.map((axis) => [axis.key, axis.heading])].map(([key, label]) => {
    const header = el("th", { scope: "col", "aria-sort": "none" }, el("button", {
      type: "button",
      click: () => {
        state.sorted = { key, descending: state.sorted.key === key && !state.sorted.descending };
        for (const other of columns) other.setAttribute("aria-sort", "none");
        header.setAttribute("aria-sort", state.sorted.descending ? "descending" : "ascending");
        order();
      },
    }, label));
    return header;
  });
  order();
  fill("members", el("table", {}, el("thead", {}, el("tr", {}, ...columns)), body));
  const test = tabled.some((axis) => axis.split === "test");
  byId("members-caption").textContent =
    "Click a heading to sort, a row to select." +
    (test ? " Values on the test split stand with their 95 % intervals." : " Values on the test split are not shown yet.") +
    (data.knee === null ? "" : " ★ marks the knee.");
}

function download() {
  const link = el("a", { href: URL.createObjectURL(new Blob([data.csv], { type: "text/csv" })), download: data.csv_name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ---------------------------------------------------------------- the selected member

function selection() {
  const i = state.selected;
  if (i === null) {
    fill("selection", el("h2", { id: "selection-title" }, "No front"), el("p", { class: "empty" }, data.emptiness));
    return;
  }
  const id = members.ids[i];
  const place = walk().indexOf(i);
  const step = (by, label, sign) => el("button", {
    type: "button", "aria-label": label, title: label, disabled: !(place + by in walk()), click: () => move(by),
  }, sign);
  const gains = members.gains[i];
  fill("selection",
    el("div", { class: "head" },
      el("h2", { id: "selection-title" }, id),
      el("span", { class: "walk" }, step(-1, "previous member", "←"), step(1, "next member", "→"))),
    el("p", { class: "where" },
      `${place + 1} of ${count} on the front`,
      ...(i === data.knee ? [el("span", { class: "badge knee" }, "★ knee")] : []),
      ...(data.knee !== null && i !== data.knee ? [el("a", { href: `#${members.ids[data.knee]}` }, "go to the knee")] : [])),
    ...(gains.length ? [el("ul", { class: "gains", "aria-label": "Against the uncompressed network" }, ...gains.map((text) => el("li", {}, text)))] : []),
    el("p", { class: "path", title: PATH_TERMS }, members.paths[i]),
    comparison(i),
    ...sizeBar(i),
    el("h3", {}, "Export"),
    el("div", { class: "command" }, el("code", { id: "command" }, ...words(members.commands[i])), el("button", { type: "button", id: "copy", click: copy }, "Copy")),
    el("div", { class: "command" }, el("code", { id: "onnx-command" }, ...words(members.onnx_commands[i]))),
    ...(members.verified[i].length ? [el("ul", { class: "gains", id: "verified", "aria-label": "Exported files" }, ...members.verified[i].map((text) => el("li", {}, text)))] : []),
    el("h3", {}, "Policy"),
    policyTable(i));
}

const PATH_TERMS = "Prunable channels: output channels of the layers in it that may lose some. Weight bits: mean over the weights that remain. " +
  "Activations: mean over the layers that are left.";

/** The bytes of the uncompressed network: what each kind of choice saves, and what remains. */
function sizeBar(i) {
  const parts = members.sizes[i];
  return [
    el("h3", { title: "What each kind of choice saves, averaged over all orders of applying them to the uncompressed network." }, "Where the bytes went"),
    el("div", { class: "sizes", "aria-hidden": "true" }, ...parts.map((part) => el("span", { class: part.key, style: `width:${(100 * part.share).toFixed(2)}%` }))),
    el("ul", { class: "legend", id: "sizes" }, ...parts.map((part) => el("li", {}, el("span", { class: `swatch ${part.key}` }), `${part.label} ${part.text}`))),
  ];
}

function policyTable(i) {
  const heading = (table) => el("th", { scope: "col", class: table.texts.length ? "counts" : "bits", title: table.label, "aria-label": table.label }, table.label[0]);
  const rows = data.layers.map((layer, at) => {
    const [left, share] = members.parameters[i][at];
    const steps = data.tables.map((table) => decision(table, i, at));
    const gone = steps.includes(null);
    const whole = layer.parameters === left ? "" : ` of ${layer.parameters}`;
    return el("tr", gone ? { class: "gone" } : {},
      el("th", { scope: "row", title: `${layer.name}: ${[layer.kind, layer.shape].join(" ").trim()}, ${layer.macs} MACs` }, layer.label),
      el("td", { class: "share", title: gone ? "" : `${left}${whole}`, style: `--share:${(100 * share).toFixed(2)}%` }, left),
      ...(gone ? [el("td", { colspan: steps.length }, "left out")] : steps.map((step) => el("td", {}, chip(step)))));
  });
  return el("div", { class: "policy", tabindex: "0", role: "region", "aria-label": `Policy of ${members.ids[i]}` },
    el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "layer"), el("th", { scope: "col", class: "parameters" }, "parameters"), ...data.tables.map(heading))),
      el("tbody", {}, ...rows)));
}

/** A command whose lines break between its words only. */
function words(command) {
  return command.split(" ").flatMap((word, at) => [...(at ? [" "] : []), el("span", {}, word)]);
}

/** A name whose lines may break after underscores. */
function breakable(name) {
  return name.split(/(?<=_)/).flatMap((part, at) => (at ? [el("wbr"), part] : [part]));
}

/** The networks that a member can be compared with; by method where recipes are of several. */
function comparable() {
  const option = (at) => el("option", { value: at, selected: at === state.compared }, marks.names[at]);
  if (data.methods.length < 2) return marks.names.map((_, at) => option(at));
  return [option(0), ...data.methods.map((method) => el("optgroup", { label: method.name }, ...method.marks.map(option)))];
}

function comparison(i) {
  const names = new Map();
  for (const axis of data.axes) {
    if (axis.split === "order") continue;
    if (!names.has(axis.name)) names.set(axis.name, {});
    names.get(axis.name)[axis.split] = axis.key;
  }
  const rows = [...names].map(([name, keys]) => {
    const both = (points, at) => {
      const interval = keys.test && points.intervals[keys.test][at];
      return [
        keys.search ? points.texts[keys.search][at] : "",
        ...(keys.test ? [el("small", {}, `test ${points.texts[keys.test][at]}`)] : []),
        ...(interval ? [el("small", {}, interval)] : []),
      ];
    };
    return el("tr", {}, el("th", { scope: "row" }, ...breakable(keys.search ? axes.get(keys.search).heading : name)),
      el("td", {}, ...both(members, i)),
      el("td", {}, ...both(marks.points, state.compared)));
  });
  const against = el("select", {
    "aria-label": "Compare with",
    change: () => { state.compared = Number(against.value); selection(); byId("compared").focus(); },
    id: "compared",
  }, ...comparable());
  return el("table", { class: "compared" },
    el("thead", {}, el("tr", {}, el("td"), el("th", { scope: "col" }, "this member"), el("th", { scope: "col" }, against))),
    el("tbody", {}, ...rows));
}

async function copy() {
  const text = byId("command").textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // a page without clipboard access (an iframe, an old browser) still has the selection
    const range = document.createRange();
    range.selectNodeContents(byId("command"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    document.execCommand("copy");
  }
  const button = byId("copy");
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1400);
}

// ---------------------------------------------------------------- plots

// the buttons are named one by one: plotly's own choice has one that uploads the data
const config = { responsive: true, displaylogo: false, displayModeBar: true, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };

function layout(id, changes) {
  const { clientWidth: width, clientHeight: height } = byId(id);
  const family = getComputedStyle(document.body).fontFamily;
  return {
    // paper does not wait for plotly to notice that its container shrank
    ...(root.classList.contains("printing") ? { width, height } : {}),
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family, size: 12.5, color: ink("muted") },
    margin: { l: 68, r: 16, t: 8, b: 48 },
    showlegend: false,
    hovermode: "closest",
    dragmode: narrow() ? false : "zoom", // on a phone a finger scrolls the page
    hoverlabel: { bgcolor: ink("surface"), bordercolor: ink("line"), font: { family, color: ink("ink"), size: 12.5 }, align: "left" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: ink("faint"), activecolor: ink("accent") },
    ...changes,
  };
}

/** An axis with room for some labels. On logarithmic ones plotly would write 0.00002, so they have their own. */
function scale(axis, labels, log = isLog(axis)) {
  const written = log ? thinned(axis.ticks, labels) : [];
  return {
    type: log ? "log" : "linear",
    title: { text: plain(axis.title), standoff: 12, font: { color: ink("ink"), size: 13 } },
    tickmode: written.length > 1 ? "array" : "auto",
    tickvals: written.map(([value]) => value),
    ticktext: written.map(([, text]) => text),
    nticks: Math.min(7, labels),
    separatethousands: true,
    gridcolor: ink("grid"),
    linecolor: ink("line"),
    zeroline: false,
    automargin: true,
  };
}

function thinned(ticks, labels) {
  const kept = ticks.length <= labels ? ticks : ticks.filter(([, , decade]) => decade);
  const every = Math.ceil(kept.length / Math.max(2, labels));
  return kept.filter((_, i) => i % every === 0);
}

/** Inside a zoomed range plotly finds the ticks; coming back, the written ones return. */
function retick(event) {
  const changes = {};
  for (const name of ["xaxis", "yaxis"]) {
    const { tickvals } = byId("front").layout[name];
    if (`${name}.range[0]` in event) changes[`${name}.tickmode`] = "auto";
    else if (`${name}.autorange` in event && tickvals.length > 1) changes[`${name}.tickmode`] = "array";
  }
  if (Object.keys(changes).length) Plotly.relayout("front", changes);
}

function told(label, points, at) {
  const lines = tabled
    .filter((axis) => (points.values[axis.key]?.[at] ?? null) !== null)
    .map((axis) => `${plain(axis.heading)}  <b>${plain(points.texts[axis.key][at])}</b> ${plain(points.intervals?.[axis.key]?.[at] ?? "")}`);
  return [`<b>${plain(label)}</b>`, ...lines].join("<br>");
}

function column(source, axis) {
  return source[axis.key] ? drawn(axis, source[axis.key]) : null;
}

/** A trace of points, without those that lack a value on one of the axes. */
function scatter(values, rows, changes, row) {
  const [across, up] = [axes.get(state.across), axes.get(state.up)];
  const x = column(values, across) ?? [];
  const y = column(values, up) ?? [];
  const kept = rows.filter((i) => (x[i] ?? null) !== null && (y[i] ?? null) !== null);
  return {
    type: "scatter", mode: "markers", hoverinfo: "text",
    x: kept.map((i) => x[i]), y: kept.map((i) => y[i]),
    hovertext: kept.map((i) => row(i).text),
    customdata: kept.map((i) => row(i).member),
    ...changes(kept),
  };
}

function errorBars(axis, kept) {
  if (axis.split !== "test") return { visible: false };
  const centre = drawn(axis, members.values[axis.key]);
  const [low, high] = [drawn(axis, members.low[axis.key]), drawn(axis, members.high[axis.key])];
  return {
    type: "data", symmetric: false, color: ink("faint"), thickness: 1, width: 0,
    array: kept.map((i) => (high[i] ?? centre[i]) - centre[i]), arrayminus: kept.map((i) => centre[i] - (low[i] ?? centre[i])),
  };
}

function frontLine() {
  const [across, up] = [axes.get(state.across), axes.get(state.up)];
  const line = { type: "scatter", mode: "lines", hoverinfo: "skip", line: { color: ink("accent"), width: 1.5 } };
  if (state.across === "order" && data.best[up.key]) {
    const [x, y] = data.best[up.key];
    return { ...line, x, y: drawn(up, y), line: { ...line.line, shape: "hv" } };
  }
  const places = data.fronts[`${state.across}|${state.up}`] ?? [];
  const value = (axis) => drawn(axis, members.values[axis.key]);
  // the stairs that bound what some member dominates
  const shape = across.direction === "maximize" ? "vh" : "hv";
  return { ...line, x: places.map((i) => value(across)[i]), y: places.map((i) => value(up)[i]), line: { ...line.line, shape } };
}

function frontTraces() {
  const all = [...Array(count).keys()];
  const candidate = (i) => ({
    text: told(`candidate ${cloud.texts.order[i]}`, cloud, i) +
      (cloud.feasible[i]
        ? cloud.member[i] === null ? "" : `<br>dominated by ${members.ids[cloud.member[i]]}`
        : "<br>breaks a constraint"),
    member: cloud.member[i],
  });
  const rows = [...cloud.feasible.keys()];
  const colors = state.color && axes.get(state.color);
  const colored = colors && drawn(colors, members.values[colors.key]).map((v) => (isLog(colors) ? Math.log10(v) : v));
  const traces = [
    scatter(cloud.values, rows.filter((i) => !cloud.feasible[i]),
      () => ({ marker: { size: 5, symbol: "x-thin", opacity: 0.55, line: { color: ink("cloud"), width: 1 } } }), candidate),
    scatter(cloud.values, rows.filter((i) => cloud.feasible[i]),
      () => ({ marker: { size: 5, color: ink("cloud"), opacity: 0.6 } }), candidate),
    frontLine(),
    scatter(members.values, all, (kept) => ({
      marker: {
        size: count > 150 ? 7 : 9,
        opacity: kept.map((i) => (inside(i) ? 1 : 0.12)),
        line: { color: ink("surface"), width: 1 },
        ...(colors ? colorScale(colors, kept.map((i) => colored[i])) : { color: ink("accent") }),
      },
      error_x: errorBars(axes.get(state.across), kept),
      error_y: errorBars(axes.get(state.up), kept),
    }), (i) => ({ text: told(members.ids[i], members, i), member: i })),
    ...data.methods.filter((method) => !state.hidden.has(method.name)).map((method) => scatter(marks.points.values, method.marks, (kept) => ({
      mode: method.labelled && kept.length <= 24 ? "markers+text" : "markers",
      text: kept.map((i) => plain(shortened(marks.labels[i]))), textposition: "top right", // until placeLabels() has seen them all
      textfont: { size: 11, color: ink("mark"), shadow: halo() }, cliponaxis: false,
      marker: { size: 9, ...recipeMark(method), opacity: kept.map((i) => (marks.feasible[i] ? 1 : 0.4)), line: { width: 1.5 } },
    }), (i) => ({ text: told(marks.names[i], marks.points, i) + (marks.feasible[i] ? "" : "<br>infeasible"), member: marks.member[i] }))),
    scatter(marks.points.values, [0], (kept) => ({
      mode: "markers+text", text: kept.map((i) => marks.labels[i]), textposition: "top left", cliponaxis: false,
      textfont: { size: 11, color: ink("mark"), shadow: halo() }, marker: { size: 10, symbol: "square", color: ink("mark") },
    }), (i) => ({ text: told(marks.names[i], marks.points, i), member: null })),
    scatter(members.values, data.knee === null ? [] : [data.knee], () => ({
      marker: { size: 17, symbol: "star", color: ink("knee"), line: { color: ink("surface"), width: 1.2 } },
    }), (i) => ({ text: told(`${members.ids[i]}, the knee`, members, i), member: i })),
  ];
  placeLabels(traces);
  return traces;
}

const polygon = (n, r = 5) => Array.from({ length: n }, (_, i) =>
  `${i ? "L" : "M"}${(r * Math.sin((2 * Math.PI * i) / n)).toFixed(2)},${(-r * Math.cos((2 * Math.PI * i) / n)).toFixed(2)}`).join("") + "Z";

/** Shapes that tell methods apart: what plotly calls them, and as a path for the legend. */
const SHAPES = [
  ["diamond-open", polygon(4)], ["triangle-up-open", "M0,-4.6L4.8,3.6H-4.8Z"], ["triangle-down-open", "M0,4.6L4.8,-3.6H-4.8Z"],
  ["square-open", "M-4,-4H4V4H-4Z"], ["pentagon-open", polygon(5)], ["triangle-left-open", "M-4.6,0L3.6,4.8V-4.8Z"],
  ["cross-open", "M-1.7,-5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5V-1.7H-1.7Z"], ["triangle-right-open", "M4.6,0L-3.6,4.8V-4.8Z"],
  ["hexagon-open", polygon(6)], ["hourglass-open", "M-4.2,-4.5H4.2L-4.2,4.5H4.2Z"], ["bowtie-open", "M-4.5,-4.2V4.2L4.5,-4.2V4.2Z"], ["octagon-open", polygon(8)],
];

/** The shape and the color of the recipes of a method. */
function recipeMark(method) {
  const at = data.methods.indexOf(method);
  return { symbol: SHAPES[at % SHAPES.length][0], color: ink(recipeInk(method)) };
}

const methodOf = (i) => data.methods.find((method) => method.marks.includes(i));
const recipeInk = (method) => (method.labelled || data.methods.length === 1 ? "mark" : `recipe-${1 + (data.methods.indexOf(method) % 5)}`);

/** Puts the names of recipes where they neither cover each other nor the marks of other recipes. */
function placeLabels(traces) {
  const [across, up] = [axes.get(state.across), axes.get(state.up)].map((axis) => (isLog(axis) ? Math.log10 : (v) => v));
  const place = (values, to, pixels) => {
    const all = traces.flatMap((trace) => trace[values]).map(to);
    const [low, high] = [all.reduce((a, b) => Math.min(a, b), Infinity), all.reduce((a, b) => Math.max(a, b), -Infinity)];
    return (v) => ((to(v) - low) / (high - low || 1)) * pixels;
  };
  const [right, above] = [place("x", across, byId("front").clientWidth - 160), place("y", up, byId("front").clientHeight - 110)];
  const named = traces.filter((trace) => trace.mode === "markers+text");
  const taken = named.flatMap((trace) => trace.x.map((x, i) => ({ x: right(x) - 6, y: above(trace.y[i]) - 6, w: 12, h: 12 })));
  const free = (box) => taken.every((t) => box.x + box.w < t.x || t.x + t.w < box.x || box.y + box.h < t.y || t.y + t.h < box.y);
  for (const trace of named) {
    trace.textposition = trace.x.map((x, i) => {
      const [w, h] = [6.6 * trace.text[i].length, 13];
      const corners = [["top right", 7, 3], ["bottom right", 7, -3 - h], ["middle right", 9, -h / 2], ["top left", -7 - w, 3], ["bottom left", -7 - w, -3 - h]];
      if (trace.marker.symbol === "square") corners.reverse();
      const boxes = corners.map(([name, dx, dy]) => [name, { x: right(x) + dx, y: above(trace.y[i]) + dy, w, h }]);
      const [name, box] = boxes.find(([, candidate]) => free(candidate)) ?? boxes[0];
      taken.push(box);
      return name;
    });
  }
}

/** Keeps text readable on top of points. */
const halo = () => [[1, 0], [-1, 0], [0, 1], [0, -1]].map(([x, y]) => `${x}px ${y}px 1px ${ink("surface")}`).join(", ");

const shortened = (name, longest = 18) => (name.length > longest ? `${name.slice(0, longest - 1)}…` : name);

function colorScale(axis, values) {
  const known = values.filter((v) => v !== null && Number.isFinite(v));
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const steps = [0, 1, 2, 3].map((k) => low + (k * (high - low)) / 3);
  const near = (v) => {
    const at = values.map((value) => (value === null ? Infinity : Math.abs(value - v)));
    return at.indexOf(Math.min(...at));
  };
  const texts = members.texts[axis.key];
  const ticks = [...new Set(steps.map(near))];
  return {
    color: values, colorscale: VIRIDIS.map((color, i) => [i / (VIRIDIS.length - 1), color]), showscale: true,
    colorbar: {
      title: { text: plain(axis.heading), side: "right", font: { size: 12.5, color: ink("ink") } }, thickness: 11, outlinewidth: 0, len: 0.94,
      tickvals: ticks.map((i) => values[i]), ticktext: ticks.map((i) => plain(texts[i])), tickfont: { size: 11 },
    },
  };
}

function frontShapes() {
  const [across, up] = [axes.get(state.across), axes.get(state.up)];
  const shapes = [];
  const reference = marks.points.values[up.key]?.[0];
  if (state.across === "order" && reference !== null && reference !== undefined) {
    const y = drawn(up, [reference])[0]; // the uncompressed network is measured outside of the order
    shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: ink("mark"), width: 1, dash: "dot" },
      label: { text: "uncompressed", textposition: "end", yanchor: "bottom", font: { size: 11, color: ink("mark") } } });
  }
  if (state.selected !== null) {
    const [x] = drawn(across, [members.values[across.key][state.selected]]);
    const [y] = drawn(up, [members.values[up.key][state.selected]]);
    if (x !== null && y !== null) shapes.push(ring(x, y, state.selected === data.knee ? 14 : 11));
  }
  return shapes;
}

/** A circle in pixels around a point. A path, because plotly takes logarithms of a circle's negative offsets. */
function ring(x, y, r) {
  const k = 0.5523 * r;
  return {
    type: "path", xsizemode: "pixel", ysizemode: "pixel", xanchor: x, yanchor: y, line: { color: ink("ink"), width: 2.2 },
    path: `M${r},0C${r},${k} ${k},${r} 0,${r}C${-k},${r} ${-r},${k} ${-r},0C${-r},${-k} ${-k},${-r} 0,${-r}C${k},${-r} ${r},${-k} ${r},0Z`,
  };
}

function drawFront() {
  const [across, up] = [axes.get(state.across), axes.get(state.up)];
  byId("front").setAttribute("aria-label",
    `Plot of ${up.label} against ${across.label}: ${count} members of the front. Arrow keys walk along it.`);
  const single = data.objectives.length === 1;
  byId("front-caption").textContent = count
    ? `Every point was measured${data.about.samples.length ? ` on ${sampleText()}` : ""}. ` +
      (single ? "With one objective, the front is the best candidate; the line is the best so far." : "Click a point, or walk along the front with the arrow keys.")
    : "";
  const floored = [across, up].filter((axis) => axis.below && isLog(axis));
  byId("front-note").textContent = [
    cloud.feasible.length < cloud.measured
      ? `Of ${cloud.measured.toLocaleString("en")} candidates beside the front ${cloud.feasible.length.toLocaleString("en")} are drawn; those left out lie where others are drawn, or are a random choice.`
      : "",
    ...floored.map((axis) => `Values of ${axis.label} below ${axis.below} stand at the edge of the logarithmic axis.`),
    state.across !== "order" && across.split === "test" !== (up.split === "test") ? "One axis shows the test split, the other the search split." : "",
  ].filter(Boolean).join(" ");
  return Plotly.react("front", frontTraces(), layout("front", {
    xaxis: scale(across, Math.floor((byId("front").clientWidth - 80) / 58)), yaxis: scale(up, Math.floor(byId("front").clientHeight / 24)),
    shapes: frontShapes(), margin: { l: 64, r: 20, t: 22, b: 50 },
    uirevision: `${state.across}|${state.up}|${isLog(across)}|${isLog(up)}`,
  }), config);
}

function sampleText() {
  const found = data.about.samples.find(([name]) => name === "search");
  return found ? `the search split (${found[1]} samples)` : "the search split";
}

function frontLegend() {
  const icon = (shape) => el("svg:svg", { width: 16, height: 16, viewBox: "-8 -8 16 16", "aria-hidden": "true" }, shape);
  const path = (d, attributes) => icon(el("svg:path", { d, ...attributes }));
  const star = Array.from({ length: 10 }, (_, i) => {
    const [radius, angle] = [i % 2 ? 3 : 7.5, (Math.PI * i) / 5];
    return `${i ? "L" : "M"}${radius * Math.sin(angle)},${-radius * Math.cos(angle)}`;
  }).join("") + "Z";
  const entries = [
    [count > 0, icon(el("svg:circle", { r: 4.5, style: "fill:var(--accent)" })), "member of the front"],
    [data.knee !== null, path(star, { style: "fill:var(--knee)" }), "knee"],
    ...data.methods.map((method, at) => [true,
      path(SHAPES[at % SHAPES.length][1], { style: `fill:none;stroke:var(--${recipeInk(method)});stroke-width:1.5` }),
      data.methods.length === 1 ? `recipe (${shortened(method.name, 30)})` : shortened(method.name, 30),
      data.methods.length === 1 ? null : method]),
    [true, path("M-4.5,-4.5H4.5V4.5H-4.5Z", { style: "fill:var(--mark)" }), "uncompressed"],
    [cloud.feasible.some((ok) => ok), icon(el("svg:circle", { r: 3, style: "fill:var(--cloud)" })), "other candidate"],
    [cloud.feasible.some((ok) => !ok), path("M-3,-3L3,3M-3,3L3,-3", { style: "stroke:var(--cloud);stroke-width:1.3" }), "breaks a constraint"],
  ];
  const entry = (mark, text, method) => {
    if (!method) return [mark, text];
    const button = el("button", {
      type: "button", title: `Draw the recipes of ${method.name}, or not`, "aria-pressed": String(!state.hidden.has(method.name)),
      click: () => {
        if (!state.hidden.delete(method.name)) state.hidden.add(method.name);
        button.setAttribute("aria-pressed", String(!state.hidden.has(method.name)));
        drawFront();
      },
    }, mark, text);
    return [button];
  };
  fill("front-legend", ...entries.filter(([shown]) => shown).map(([, mark, text, method]) => el("li", {}, ...entry(mark, text, method))));
}

function axisPickers() {
  const options = data.axes.filter((axis) => axis.known).map((axis) => [axis.key, axis.split === "search" && axes.get(`test:${axis.name}`)?.known ? `${axis.label}, search` : axis.label]);
  const change = (which) => (key) => { state[which] = key; axisPickers(); redrawFront(); };
  const logBox = (which) => {
    const axis = axes.get(state[which]);
    if (axis.floor === null) return [];
    const box = el("input", {
      type: "checkbox", checked: isLog(axis), "aria-label": `logarithmic ${axis.label}`,
      change: () => { state.log.set(axis.key, box.checked); redrawFront(); },
    });
    return [el("label", {}, box, "log")];
  };
  const colorable = options.filter(([key]) => key !== "order" && members.values[key]?.some((v) => v !== null));
  fill("axis-pickers",
    picker("across", options, state.across, change("across")), ...logBox("across"),
    picker("up", options.filter(([key]) => key !== "order"), state.up, change("up")), ...logBox("up"),
    ...(data.objectives.length > 2 ? [picker("color", [["", "none"], ...colorable], state.color ?? "", (key) => { state.color = key || null; redrawFront(); })] : []));
}

function redrawFront() {
  drawFront();
  selection(); // the order of walking follows the horizontal axis
}

// ---------------------------------------------------------------- bits and channels of layers

const layerTable = () => data.tables.find((table) => table.key === state.table);
const rowOrder = data.row_order.members;

const bitsHeight = () => Math.min(Math.max(count * (count > 30 ? 8 : 18), 60), 560);

function bitsAxis(changes = {}) {
  const { columns } = layerTable();
  const n = columns.length;
  const every = Math.max(1, Math.ceil(n / Math.max(6, (byId("bits").clientWidth - 90) / 13)));
  const at = columns.map((_, i) => i).filter((i) => i % every === 0);
  return {
    tickvals: at, ticktext: at.map((i) => plain(data.layers[columns[i]].label)), range: [-0.5, n - 0.5], fixedrange: true, tickangle: n > 8 || narrow() ? -90 : 0,
    showgrid: false, zeroline: false, tickfont: { size: n > 40 ? 9.5 : 11 }, ...changes,
  };
}

/** Everything that a member does to a layer. */
function done(i, at) {
  const { name, block } = data.layers[at];
  const steps = data.tables.map((table) => [table.label, decision(table, i, at)]).filter(([, step]) => step !== undefined);
  const lines = steps.some(([, step]) => step === null)
    ? [`<b>left out</b>${block ? ` with ${plain(block)}` : ""}`]
    : steps.map(([label, step]) => `${label}: <b>${step.text ? `${step.text}, ${step.legend}` : step.label}</b>`);
  return [plain(name), ...lines].join("<br>");
}

function drawBits() {
  if (!count) return null;
  const table = layerTable();
  const { steps, columns } = table;
  const rowAxis = axes.get(data.row_order.axis);
  const height = bitsHeight();
  const labels = columns.map((at) => data.layers[at].label.length);
  const bottom = columns.length > 8 || narrow() ? 16 + 5.6 * Math.min(28, Math.max(...labels)) : 40;
  byId("bits").style.height = `${height + bottom + 8}px`;
  const shades = [null, ...steps]; // what is left out stands at -1
  const colors = shades.flatMap((step, i) => [[i / shades.length, stepColor(step)], [(i + 1) / shades.length, stepColor(step)]]);
  const every = Math.max(1, Math.ceil(count / Math.max(1, Math.floor(height / 17))));
  const labeled = [...Array(count).keys()].filter((place) => place % every === 0);
  const wide = (byId("bits").clientWidth - 90) / columns.length;
  const rows = rowOrder.map((i) => table.rows[i]);
  const trace = {
    type: "heatmap", z: rows.map((row) => row.map((place) => place ?? -1)), zmin: -1.5, zmax: steps.length - 0.5,
    colorscale: colors, showscale: false, xgap: wide > 8 ? 1 : 0, ygap: height / count > 8 ? 1 : 0,
    text: rows.map((row) => row.map((place) => (place === null && height / count > 12 ? "×" : ""))), texttemplate: "%{text}", textfont: { color: ink("faint") },
    hoverinfo: "text",
    hovertext: rowOrder.map((i) => columns.map((at) => `<b>${members.ids[i]}</b>, ${plain(members.texts[rowAxis.key][i])}<br>${done(i, at)}`)),
  };
  byId("bits").setAttribute("role", "img");
  byId("bits").setAttribute("aria-label", `Heatmap of ${table.label.toLowerCase()}: ${count} members in rows, ${columns.length} layers in columns.`);
  return Plotly.react("bits", [trace], layout("bits", {
    margin: { l: 76, r: 14, t: 8, b: bottom }, dragmode: false,
    xaxis: bitsAxis(),
    yaxis: {
      range: [count - 0.5, -0.5], fixedrange: true, showgrid: false, zeroline: false, tickvals: labeled,
      ticktext: labeled.map((place) => plain(members.texts[rowAxis.key][rowOrder[place]])), tickfont: { size: 11 },
      title: { text: height < 120 ? "" : plain(rowAxis.label), standoff: 6, font: { color: ink("ink"), size: 13 } },
    },
    shapes: bitsShapes(),
  }), { ...config, displayModeBar: false });
}

function bitsShapes() {
  if (state.selected === null) return [];
  const pad = 0.5 + (2 * count) / bitsHeight(); // two pixels, so that thin rows stay visible inside
  const place = rowOrder.indexOf(state.selected);
  const box = { type: "rect", x0: -0.5, x1: layerTable().columns.length - 0.5, y0: place - pad, y1: place + pad };
  return [["surface", 4.5], ["knee", 2]].map(([color, width]) => ({ ...box, line: { color: ink(color), width } }));
}

/** The selected row of the heatmap, large; float is higher than all bits, what is left out is hatched. */
function drawProfile() {
  if (state.selected === null) return byId("profile").replaceChildren();
  const table = layerTable();
  const steps = table.columns.map((at) => decision(table, state.selected, at));
  byId("profile").setAttribute("role", "img");
  byId("profile").setAttribute("aria-label", `${table.label} of ${members.ids[state.selected]}: ${steps.map((step) => step?.text ?? step?.label ?? "left out").join(", ")}`);
  const wide = (byId("profile").clientWidth - 90) / steps.length;
  return Plotly.react("profile", [{
    type: "bar", x: steps.map((_, i) => i), y: steps.map((step) => step?.height ?? table.top), width: wide > 60 ? 0.6 : 0.82, hoverinfo: "text", textposition: "none",
    marker: { color: steps.map(stepColor), pattern: { shape: steps.map((step) => (step ? "" : "/")), fgcolor: ink("cloud"), size: 7, solidity: 0.2 } },
    hovertext: table.columns.map((at) => done(state.selected, at)),
  }], layout("profile", {
    margin: { l: 76, r: 14, t: 8, b: 6 }, dragmode: false,
    xaxis: bitsAxis({ showticklabels: false, tickvals: [] }),
    yaxis: {
      range: [0, table.top], fixedrange: true, tickvals: table.ticks, ticksuffix: table.suffix, gridcolor: ink("grid"), zeroline: false,
      title: { text: "selected", standoff: 22, font: { color: ink("knee"), size: 13 } },
    },
  }), { ...config, displayModeBar: false });
}

function bitsControls() {
  if (!count) return;
  const table = layerTable();
  const gone = table.rows.some((row) => row.includes(null));
  byId("bits-caption").textContent = data.row_order.caption;
  fill("bits-legend",
    ...table.steps.map((step) => el("li", {}, el("span", { class: "swatch", style: `background:${stepColor(step)}` }), step.legend)),
    ...(gone ? [el("li", {}, el("span", { class: "swatch absent" }, "×"), "left out")] : []));
  fill("bits-pickers", ...(data.tables.length > 1 ? [el("div", { class: "segments", role: "group", "aria-label": "What is shown" },
    ...data.tables.map((other) => el("button", {
      type: "button", "aria-pressed": String(other.key === state.table),
      click: () => { state.table = other.key; bitsControls(); drawBits(); drawProfile(); },
    }, other.label)))] : []));
}

// ---------------------------------------------------------------- what matters

const MOST_BARS = 30;
const shownBars = () => (state.allGenes ? data.contributions.bars : data.contributions.bars.slice(0, MOST_BARS));

/** Where the selected member stands on a gene: its option, null where its layers are left out, undefined without a member. */
const optionOf = (bar) => (state.selected === null ? undefined : data.contributions.options[state.selected][bar.gene]);
const isTaken = (bar, segment) => (optionOf(bar) ?? Infinity) <= segment.option;

/** What the selected member has of a gene, to read. */
function chosenText(bar) {
  const option = optionOf(bar);
  if (option === undefined) return "";
  return option === null ? "×" : bar.values[option]?.label ?? "out";
}

function drawMatters() {
  if (!data.contributions) return null;
  const { title, unit, divisor } = data.contributions;
  mattersWords();
  const bars = shownBars();
  const longest = Math.max(...bars.map((bar) => bar.label.length + 3 + chosenText(bar).length));
  const left = Math.min(16 + 6.6 * longest, narrow() ? 0.46 * byId("matters").clientWidth : 320);
  const letters = Math.floor((left - 16) / 6.6);
  byId("matters").style.height = `${bars.length * 21 + 62}px`;
  const segments = bars.flatMap((bar, row) => bar.segments.map((segment) => ({ bar, row, segment, taken: isTaken(bar, segment) })));
  const color = ({ bar, taken }) => (taken ? stepColor(bar.values[optionOf(bar)]) : ink("pale"));
  const isOut = ({ bar, taken }) => taken && !bar.values[optionOf(bar)]; // the block itself
  const verb = (bar, taken) => (optionOf(bar) === undefined ? "" : optionOf(bar) === null ? "<br>left out on the selected point" :
    `<br>${taken ? "taken" : "not taken"} by the selected point (${plain(chosenText(bar))})`);
  const drawnEnd = (v) => v / divisor;
  const withUnit = (text) => plain(`${text} ${unit}`);
  const steps = {
    type: "bar", orientation: "h", width: 0.72, hoverinfo: "text", textposition: "none",
    y: segments.map(({ row }) => row), base: segments.map(({ segment }) => drawnEnd(segment.start)),
    x: segments.map(({ segment }) => drawnEnd(segment.end - segment.start)),
    marker: {
      color: segments.map(color), line: { width: 1, color: segments.map((each) => (each.taken && !isOut(each) ? ink("surface") : ink("cloud"))) },
      pattern: {
        shape: segments.map((each) => (isOut(each) || optionOf(each.bar) === null ? "/" : "")), size: 7, solidity: 0.2,
        fgcolor: segments.map((each) => ink(isOut(each) ? "mark" : "cloud")),
      },
    },
    hovertext: segments.map(({ bar, segment, taken }) => `${plain(bar.name)}<br><b>${plain(segment.label)}</b>  ${withUnit(segment.text)}${verb(bar, taken)}`),
  };
  const totals = {
    type: "scatter", mode: "markers", hoverinfo: "text", x: bars.map((bar) => drawnEnd(bar.total)), y: bars.map((_, row) => row),
    marker: { symbol: "line-ns", size: 9, line: { width: 1.6, color: ink("ink") } },
    error_x: {
      type: "data", symmetric: false, color: ink("ink"), thickness: 1.2, width: 3,
      array: bars.map((bar) => (bar.high === null ? 0 : drawnEnd(bar.high - bar.total))), arrayminus: bars.map((bar) => (bar.low === null ? 0 : drawnEnd(bar.total - bar.low))),
    },
    hovertext: bars.map((bar) => `${plain(bar.name)}<br><b>all steps</b>  ${withUnit(bar.text)}${bar.shared.length ? `<br>shared by ${plain(shortened(bar.shared.join(", "), 90))}` : ""}`),
  };
  byId("matters").setAttribute("role", "img");
  byId("matters").setAttribute("aria-label", `${title} by choice, largest first: ${bars.map((bar) => `${bar.label} ${bar.text}`).join("; ")}`);
  return Plotly.react("matters", [steps, totals], layout("matters", {
    barmode: "overlay", dragmode: false, margin: { l: left, r: 18, t: 6, b: 48 },
    xaxis: {
      title: { text: plain(title), standoff: 10, font: { color: ink("ink"), size: 13 } }, gridcolor: ink("grid"), linecolor: ink("line"),
      ...(state.takenOnly && segments.some(({ taken }) => taken) ? { range: takenRange(segments).map(drawnEnd) } : { autorange: true }),
      exponentformat: "e", zerolinecolor: ink("faint"), zerolinewidth: 1, nticks: narrow() ? 4 : 7, fixedrange: true, automargin: false,
    },
    yaxis: {
      range: [bars.length - 0.4, -0.6], fixedrange: true, showgrid: false, zeroline: false, tickvals: bars.map((_, row) => row), tickfont: { size: 11.5 }, ticklen: 4, tickcolor: "rgba(0,0,0,0)",
      ticktext: bars.map((bar) => `${plain(shortened(bar.label, Math.max(6, letters - 2 - chosenText(bar).length)))}  <b>${plain(chosenText(bar))}</b>`),
    },
  }), { ...config, displayModeBar: false });
}

/** From the lowest to the highest end of the steps that the selected member has taken, and a bit more. */
function takenRange(segments) {
  const ends = segments.filter(({ taken }) => taken).flatMap(({ segment }) => [segment.start, segment.end]);
  const [low, high] = [Math.min(0, ...ends), Math.max(0, ...ends)];
  const pad = 0.08 * (high - low) || 1;
  return [low - pad, high + 2 * pad];
}

/** The words around the bars, and their numbers as a table. */
function mattersWords() {
  const { bars, caption, sentences } = data.contributions;
  byId("matters-card").hidden = false;
  byId("matters-caption").textContent = caption;
  fill("matters-sentence", ...(state.selected === null ? [] : [el("strong", {}, `${members.ids[state.selected]}. `), sentences[state.selected]]));
  const reached = new Map();
  for (const bar of bars) {
    const option = optionOf(bar);
    if (typeof option === "number" && option < bar.values.length - 1) {
      const step = bar.values[option];
      reached.set(step?.legend ?? "block left out", step);
    }
  }
  const colors = [...reached].filter(([, step]) => step).sort(([, a], [, b]) => (a.level ?? 2) - (b.level ?? 2));
  const swatch = (attributes, text) => el("li", {}, el("span", attributes), text);
  fill("matters-legend",
    ...colors.map(([legend, step]) => swatch({ class: "swatch", style: `background:${stepColor(step)}` }, `taken, down to ${legend}`)),
    ...(bars.some((bar) => optionOf(bar) === null || (typeof optionOf(bar) === "number" && !bar.values[optionOf(bar)])) ? [el("li", {}, el("span", { class: "swatch absent" }, "×"), "left out")] : []),
    swatch({ class: "swatch pale" }, state.selected === null ? "step" : "not taken by the selected point"),
    swatch({ class: "swatch whisker" }, "95 % interval of the total"));
  const zoom = (takenOnly, text, id) => el("button", {
    type: "button", id, "aria-pressed": String(state.takenOnly === takenOnly),
    click: () => { state.takenOnly = takenOnly; drawMatters(); byId(id).focus(); },
  }, text);
  const pickers = state.selected === null ? [] : [el("div", { class: "segments", role: "group", "aria-label": "How far the axis goes" },
    zoom(false, "Whole way", "matters-whole"), zoom(true, "Steps taken", "matters-taken"))];
  fill("matters-pickers", ...pickers, ...(bars.length > MOST_BARS ? [el("button", {
    type: "button", "aria-expanded": String(state.allGenes), id: "matters-all",
    click: () => { state.allGenes = !state.allGenes; drawMatters(); byId("matters-all").focus(); },
  }, state.allGenes ? `Show the ${MOST_BARS} largest` : `Show all ${bars.length}`)] : []));
  if (byId("matters-details").open) mattersTable();
}

function mattersTable() {
  const heading = (text, style = "") => el("th", { scope: "col", class: style }, text);
  fill("matters-table", el("table", {},
    el("thead", {}, el("tr", {}, heading("choice"), heading("selected"), heading(`all steps${data.contributions.unit && ` (${data.contributions.unit})`}`), heading("step by step, the selected point’s in bold", "words"))),
    el("tbody", {}, ...data.contributions.bars.map((bar) => {
      const option = optionOf(bar);
      const chosen = option === null || option === undefined ? chosenText(bar) : bar.values[option] ? chip(bar.values[option]) : "out";
      return el("tr", {},
        el("th", { scope: "row", title: bar.shared.length ? `${bar.name}, shared by ${bar.shared.join(", ")}` : bar.name }, bar.label),
        el("td", {}, chosen), el("td", {}, bar.text),
        el("td", { class: "words steps" }, ...bar.segments.map((segment) =>
          el("span", { class: isTaken(bar, segment) ? "taken" : "" }, `${segment.label}: ${segment.text}`))));
    }))));
}

// ---------------------------------------------------------------- parallel coordinates

function drawParallel() {
  byId("parallel-card").hidden = !data.parallel.length || !count;
  if (byId("parallel-card").hidden) return;
  const width = Math.max(560, byId("parallel").clientWidth);
  const [height, top, bottom, side] = [340, 44, 18, 96];
  const across = (k) => side + (k * (width - 2 * side)) / (data.parallel.length - 1);
  const down = (h) => top + (1 - h) * (height - top - bottom);
  const up = (y) => Math.min(1, Math.max(0, 1 - (y - top) / (height - top - bottom)));
  const svg = el("svg:svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Parallel coordinates of ${count} members on ${data.parallel.length} objectives.` });
  const opacity = count > 120 ? 0.45 : 0.75;
  for (let i = 0; i < count; i += 1) {
    const d = data.parallel.map((axis, k) => [across(k), axis.heights[i]]).filter(([, h]) => h !== null)
      .map(([x, h], at) => `${at ? "L" : "M"}${x},${down(h)}`).join("");
    svg.append(el("svg:path", {
      d, "data-member": i, class: inside(i) ? "" : "outside",
      style: `stroke:${viridis(0.92 * (1 - (data.parallel[0].heights[i] ?? 0)))};opacity:${opacity}`,
    }));
  }
  svg.append(el("svg:path", { class: "selected", id: "parallel-selected" }));
  data.parallel.forEach((axis, k) => {
    const x = across(k);
    svg.append(el("svg:line", { class: "axis", x1: x, x2: x, y1: top, y2: height - bottom }));
    const anchor = k === data.parallel.length - 1 ? "start" : k === 0 ? "end" : "start";
    const shift = anchor === "end" ? -8 : 8;
    for (const [h, text] of axis.ticks) {
      svg.append(el("svg:line", { class: "axis", x1: x - 3, x2: x + 3, y1: down(h), y2: down(h) }));
      svg.append(el("svg:text", { x: x + shift, y: down(h) + 4, "text-anchor": anchor, style: "paint-order:stroke;stroke:var(--surface);stroke-width:4px" }, text));
    }
    svg.append(el("svg:text", { class: "name", x, y: 20, "text-anchor": k === 0 ? "start" : k === data.parallel.length - 1 ? "end" : "middle",
      ...(k === 0 ? { dx: -side + 4 } : k === data.parallel.length - 1 ? { dx: side - 4 } : {}) },
      shortened(axis.label, 30), el("svg:title", {}, axis.label)));
    const range = state.ranges.get(axis.key);
    if (range) svg.append(el("svg:rect", { class: "range", x: x - 7, width: 14, y: down(range[1]), height: Math.max(2, down(range[0]) - down(range[1])), rx: 3 }));
    const grip = el("svg:rect", { class: "grip", x: x - 14, width: 28, y: top - 8, height: height - top - bottom + 16 });
    grip.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      const start = up(local(svg, event)[1]);
      const finish = (last) => {
        document.removeEventListener("pointerup", finish);
        const end = up(local(svg, last)[1]);
        // a click takes the range away
        if (Math.abs(end - start) < 0.02) state.ranges.delete(axis.key);
        else state.ranges.set(axis.key, [Math.min(start, end) - 1e-9, Math.max(start, end) + 1e-9]);
        filtered();
      };
      document.addEventListener("pointerup", finish);
    });
    svg.append(grip);
  });
  svg.addEventListener("click", (event) => {
    if (event.target.classList.contains("grip")) return;
    const [x, y] = local(svg, event);
    const k = Math.min(data.parallel.length - 2, Math.max(0, Math.floor(((x - side) / (width - 2 * side)) * (data.parallel.length - 1))));
    const t = (x - across(k)) / (across(k + 1) - across(k));
    const gap = (i) => {
      const [a, b] = [data.parallel[k].heights[i], data.parallel[k + 1].heights[i]];
      return a === null || b === null || !inside(i) ? Infinity : Math.abs(down(a + t * (b - a)) - y);
    };
    const nearest = [...Array(count).keys()].sort((a, b) => gap(a) - gap(b))[0];
    if (gap(nearest) < 14) select(nearest);
  });
  fill("parallel", svg);
  markParallel();
  const kept = [...Array(count).keys()].filter(inside).length;
  fill("parallel-pickers", ...(state.ranges.size ? [
    el("span", {}, `${kept} of ${count} members are in the ranges`),
    el("button", { type: "button", click: () => { state.ranges.clear(); filtered(); } }, "Show all"),
  ] : []));
}

function local(svg, event) {
  const box = svg.getBoundingClientRect();
  const view = svg.viewBox.baseVal;
  return [((event.clientX - box.left) / box.width) * view.width, ((event.clientY - box.top) / box.height) * view.height];
}

function markParallel() {
  const line = byId("parallel-selected");
  if (!line || state.selected === null) return;
  line.setAttribute("d", document.querySelector(`#parallel path[data-member="${state.selected}"]`).getAttribute("d"));
}

function filtered() {
  drawParallel();
  drawFront();
  for (const row of document.querySelectorAll("#members tbody tr")) {
    row.classList.toggle("outside", !inside(members.ids.indexOf(row.dataset.id)));
  }
}

// ---------------------------------------------------------------- progress and optimism

const BOX = "Hypervolume that the front dominates, on the scales of the objectives, in the box that was fixed at the start.";

function drawHypervolume() {
  const { across, up, across_label: label, levels } = data.hypervolume;
  byId("hypervolume-caption").textContent = BOX;
  if (!up.length) {
    return fill("hypervolume", el("p", { class: "empty" }, "No hypervolume was recorded: its box is fixed after the first generation."));
  }
  byId("hypervolume").setAttribute("role", "img");
  byId("hypervolume").setAttribute("aria-label", `Hypervolume from ${up[0].toPrecision(4)} to ${up[up.length - 1].toPrecision(4)} over ${label}. ${levels.sentence}`.trim());
  byId("hypervolume-card").parentNode.classList.toggle("alone", !count);
  const [least, most] = [Math.min(...up), Math.max(...up)];
  // what is farther below would press the curve flat; the words have it
  const shown = levels.drawn.filter((level) => level.up >= least - 1.2 * (most - least || most));
  if (shown.length) byId("hypervolume-caption").textContent = `${BOX} Dotted: what the measurements for one purpose alone would give, of the final value.`;
  const low = Math.min(least, ...shown.map((level) => level.up));
  const pad = 0.06 * (most - low) || 0.05 * Math.abs(most) || 1;
  const range = [low - pad, most + pad];
  return Plotly.react("hypervolume", [{
    type: "scatter", mode: up.length > 60 ? "lines" : "lines+markers", x: across, y: up, line: { color: ink("accent"), width: 2, shape: "hv" }, marker: { size: 4.5 },
    hoverinfo: "text", hovertext: up.map((v, i) => `<b>${v.toPrecision(5)}</b><br>${across[i].toLocaleString("en")} ${label}`),
  }], layout("hypervolume", {
    xaxis: { title: { text: label, standoff: 10, font: { color: ink("ink"), size: 13 } }, gridcolor: ink("grid"), linecolor: ink("line"), zeroline: false, nticks: 7 },
    yaxis: { range, title: { text: "hypervolume", standoff: 8, font: { color: ink("ink"), size: 13 } }, gridcolor: ink("grid"), zeroline: false, nticks: 6, automargin: true },
    margin: { l: 60, r: 12, t: 8, b: 46 },
    shapes: shown.map((level) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: level.up, y1: level.up, layer: "below", line: { color: ink(purposeInk(level.keys[0])), width: 1.3, dash: "dot" } })),
    annotations: levelLabels(shown, range),
  }), config);
}

/** Names of levels above their lines at the right end; below them, or pushed down, where they would cover each other. */
function levelLabels(shown, [low, high]) {
  const pixels = byId("hypervolume").clientHeight - 54;
  let ceiling = Infinity;
  return shown.map((level) => {
    const above = ((level.up - low) / (high - low)) * pixels;
    const place = above + 8 <= ceiling ? above + 8 : Math.min(above - 8, ceiling);
    ceiling = place - 14;
    return {
      xref: "paper", x: 1, xanchor: "right", y: level.up, yanchor: "middle", yshift: place - above, showarrow: false,
      text: plain(shortened(level.label, narrow() ? 44 : 56)), font: { size: 11, color: ink(wordsInk(level.keys[0])), shadow: halo() },
    };
  });
}

/** The color of a purpose: recipes have that of their method. */
function purposeInk(purpose) {
  const method = data.methods.find(({ name }) => name === purpose);
  if (method) return recipeInk(method);
  return { uniform: "mark", "table of single options": "cloud", "tables for the surrogate": "faint", nsga2: "part-prune" }[purpose]
    ?? (["surrogate", "random", "exhaustive"].includes(purpose) ? "accent" : "part-activations");
}

const wordsInk = (purpose) => ({ cloud: "muted", faint: "muted" }[purposeInk(purpose)] ?? purposeInk(purpose));

function drawSpent() {
  byId("spent-card").hidden = !data.spent;
  if (!data.spent) return;
  const { parts, sentence } = data.spent;
  byId("spent-caption").textContent = sentence;
  const written = (part) => part.measurements.toLocaleString("en");
  // a number stands inside where it has room on a phone
  const fits = (part) => 280 * part.share > 7.5 * written(part).length + 4;
  const inside = (part) => ({ cloud: "color:var(--ink)", "part-prune": "color:#18212c" }[purposeInk(part.key)] ?? "");
  fill("spent", ...parts.map((part) => el("span", {
    style: `flex:${part.measurements} 1 0;background:var(--${purposeInk(part.key)});${inside(part)}`, title: `${part.label}: ${part.text}`,
  }, fits(part) ? written(part) : "")));
  fill("spent-legend", ...parts.map((part) => el("li", {},
    el("span", { class: "swatch", style: `background:var(--${purposeInk(part.key)})` }), el("span", {}, `${part.label} `, el("strong", {}, part.text)))));
}

// ---------------------------------------------------------------- how well the search predicted

/** Early batches are dark and late ones bright, as far as both can be seen on the ground. */
const batchShade = (t) => viridis(root.dataset.theme === "dark" ? 0.28 + 0.72 * t : 0.9 * t);

function batchColor(at) {
  const { batches } = data.predictions;
  const [first, last] = [batches[0].before, batches[batches.length - 1].before];
  return batchShade(last > first ? (batches[at].before - first) / (last - first) : 0.4);
}

const PROPOSERS = { surrogate: ["circle", "surrogate"], nsga2: ["diamond", "NSGA-II"] };
const proposerOf = (batch) => PROPOSERS[batch.proposer] ?? PROPOSERS.surrogate;
const batchText = (batch) => `batch of ${batch.size.toLocaleString("en")} after ${batch.before.toLocaleString("en")} measurements, chosen by ${batch.proposer === "nsga2" ? "NSGA-II" : "the surrogate"}`;
const tauText = (tau) => (tau === null ? "–" : tau.toFixed(2).replace("-0.00", "0.00").replace("-", "−"));

function drawPredictions() {
  byId("predictions-card").hidden = !data.predictions;
  if (!data.predictions) return null;
  const { objectives, batches, chosen } = data.predictions;
  const entry = objectives[state.predicted];
  byId("predictions-caption").textContent = entry.sentence;
  byId("predictions-note").textContent = [entry.batches, chosen].filter(Boolean).join(" ");
  fill("predictions-pickers", ...(objectives.length > 1
    ? [picker("of", objectives.map((other, i) => [String(i), other.name]), String(state.predicted),
      (value) => { state.predicted = Number(value); drawPredictions(); byId("predictions-pickers").querySelector("select").focus(); })] : []));
  const icon = (shape) => el("svg:svg", { width: 16, height: 16, viewBox: "-8 -8 16 16", "aria-hidden": "true" }, shape);
  const ramp = `linear-gradient(90deg, ${[0, 0.25, 0.5, 0.75, 1].map(batchShade).join(", ")})`;
  const both = ["surrogate", "nsga2"].filter((name) => batches.some((batch) => batch.proposer === name));
  const shapes = { surrogate: el("svg:circle", { r: 4.5, style: "fill:var(--faint)" }), nsga2: el("svg:path", { d: polygon(4, 6), style: "fill:var(--faint)" }) };
  fill("predictions-legend",
    ...(batches.length > 1 ? [el("li", {}, "early batches", el("span", { class: "swatch ramp", style: `background:${ramp}` }), "late ones")] : []),
    ...both.map((name) => el("li", {}, icon(shapes[name]), `chosen by ${name === "nsga2" ? "NSGA-II" : "the surrogate"}`)),
    el("li", {}, el("span", { class: "swatch dotted" }), "exactly as predicted"),
    ...(entry.latest.length ? [el("li", {}, el("span", { class: "swatch whisker" }), `τ over the latest ${data.predictions.latest} predictions`)] : []));
  if (byId("predictions-details").open) predictionsTable();
  return Promise.all([drawPredicted(entry), drawTaus(entry)]);
}

function drawPredicted(entry) {
  const { batches } = data.predictions;
  const values = [...entry.predicted, ...entry.measured];
  const to = entry.log ? Math.log10 : (v) => v;
  const [low, high] = [to(values.reduce((a, b) => Math.min(a, b))), to(values.reduce((a, b) => Math.max(a, b)))];
  const pad = 0.05 * (high - low) || 0.05 * Math.abs(high) || 1;
  const range = [low - pad, high + pad];
  const ends = entry.log ? range.map((v) => 10 ** v) : range;
  byId("predicted").setAttribute("role", "group");
  byId("predicted").setAttribute("aria-label", `Measured ${entry.name} against what was predicted. ${entry.sentence}`);
  const axis = (word) => ({ ...scale({ ...entry, title: "" }, 6, entry.log), range, title: { text: plain(`${word} ${entry.title}`), standoff: 10, font: { color: ink("ink"), size: 13 } } });
  return Plotly.react("predicted", [
    { type: "scatter", mode: "lines", x: ends, y: ends, hoverinfo: "skip", line: { color: ink("faint"), width: 1, dash: "dot" } },
    {
      type: "scatter", mode: "markers", hoverinfo: "text", x: entry.predicted, y: entry.measured, customdata: entry.member,
      marker: {
        size: entry.predicted.length > 400 ? 5.5 : 7.5, symbol: entry.batch.map((at) => proposerOf(batches[at])[0]), color: entry.batch.map(batchColor),
        opacity: entry.predicted.length > 400 ? 0.7 : 0.9, line: { width: 0.8, color: ink("surface") },
      },
      hovertext: entry.texts.map(([expected, found], i) => [
        ...(entry.member[i] === null ? [] : [`<b>${members.ids[entry.member[i]]}</b>, on the front`]),
        `predicted <b>${plain(expected)}</b>`, `measured <b>${plain(found)}</b>`, batchText(batches[entry.batch[i]]),
      ].join("<br>")),
    },
  ], layout("predicted", {
    xaxis: axis("predicted"), yaxis: axis("measured"), margin: { l: 60, r: 12, t: 8, b: 46 }, shapes: predictedShapes(),
  }), config);
}

/** A ring around the selected member, if it was predicted. */
function predictedShapes() {
  if (state.selected === null || !data.predictions) return [];
  const entry = data.predictions.objectives[state.predicted];
  const at = entry.member.indexOf(state.selected);
  return at < 0 ? [] : [ring(entry.predicted[at], entry.measured[at], 9)];
}

function drawTaus(entry) {
  const { batches, least, latest } = data.predictions;
  const judged = entry.latest.length > 0 && least !== null;
  const known = batches.map((_, at) => at).filter((at) => entry.taus[at] !== null);
  const sure = judged ? batches.map((_, at) => at).filter((at) => entry.latest[at] !== null) : [];
  const after = (places) => places.map((at) => batches[at].after);
  const lowest = Math.min(judged ? least : 0, ...known.map((at) => entry.taus[at]), ...sure.map((at) => entry.latest[at]));
  const range = [Math.max(-1.08, Math.min(0, lowest) - 0.12), 1.08];
  byId("taus").setAttribute("role", "img");
  byId("taus").setAttribute("aria-label", `Kendall’s tau of ${entry.name} by batch. ${entry.batches} ${judged ? data.predictions.chosen : ""}`.trim());
  const told = (at) => [
    `Kendall’s τ <b>${tauText(entry.taus[at])}</b>`, ...(judged ? [`over the latest ${latest} <b>${tauText(entry.latest[at])}</b>`] : []), batchText(batches[at]),
  ].join("<br>");
  return Plotly.react("taus", [
    { type: "scatter", mode: "lines", x: after(sure), y: sure.map((at) => entry.latest[at]), hoverinfo: "skip", line: { color: ink("ink"), width: 1.6 } },
    {
      type: "scatter", mode: "markers", hoverinfo: "text", x: after(known), y: known.map((at) => entry.taus[at]), hovertext: known.map(told), cliponaxis: false,
      marker: {
        // a tau of two or three candidates says little
        size: known.map((at) => 5 + Math.min(6, Math.sqrt(batches[at].size) * 1.2)), symbol: known.map((at) => proposerOf(batches[at])[0]),
        color: known.map(batchColor), opacity: 1, line: { width: 0.8, color: ink("surface") },
      },
    },
  ], layout("taus", {
    xaxis: { title: { text: "candidates measured", standoff: 10, font: { color: ink("ink"), size: 13 } }, gridcolor: ink("grid"), linecolor: ink("line"), zeroline: false, nticks: 7 },
    yaxis: { range, title: { text: "Kendall’s τ", standoff: 8, font: { color: ink("ink"), size: 13 } }, gridcolor: ink("grid"), zeroline: true, zerolinecolor: ink("line"), dtick: range[0] < -0.4 ? 0.5 : 0.2, automargin: true },
    margin: { l: 60, r: 14, t: 8, b: 46 },
    shapes: judged ? [{
      type: "line", xref: "paper", x0: 0, x1: 1, y0: least, y1: least, line: { color: ink("knee"), width: 1.3, dash: "dash" },
    }] : [],
    annotations: judged ? [{
      xref: "paper", x: 0, xanchor: "left", y: least, yanchor: "top", yshift: -1, showarrow: false,
      text: `below ${least}, NSGA-II takes over`, font: { size: 11, color: ink("knee"), shadow: halo() },
    }] : [],
  }), config);
}

function predictionsTable() {
  const { batches, objectives, latest } = data.predictions;
  const heading = (text, style = "") => el("th", { scope: "col", class: style }, text);
  const judging = objectives.find((entry) => entry.latest.length);
  fill("predictions-table", el("table", {},
    el("thead", {}, el("tr", {}, heading("measured before"), heading("batch of"), heading("chosen by", "words"),
      ...objectives.map((entry) => heading(`τ of ${entry.name}`)), ...(judging ? [heading(`over the latest ${latest}`)] : []))),
    el("tbody", {}, ...batches.map((batch, at) => el("tr", {},
      el("th", { scope: "row" }, batch.before.toLocaleString("en")), el("td", {}, batch.size.toLocaleString("en")), el("td", { class: "words" }, proposerOf(batch)[1]),
      ...objectives.map((entry) => el("td", {}, tauText(entry.taus[at]))), ...(judging ? [el("td", {}, tauText(judging.latest[at]))] : []))))));
}

function drawOptimism() {
  if (!count) return null;
  if (!data.optimism.length) {
    byId("optimism-caption").textContent = "";
    return fill("optimism", el("p", { class: "empty" },
      "Search values are compared with test values here when the run has finished, for objectives that are measured on samples."));
  }
  const entry = data.optimism[state.optimism];
  const [search, test] = [axes.get(entry.search_axis), axes.get(entry.test_axis)];
  byId("optimism-caption").textContent = `${entry.sentence} Bars are 95 % intervals; on the line both splits agree.`;
  fill("optimism-pickers", ...(data.optimism.length > 1
    ? [picker("of", data.optimism.map((other, i) => [String(i), axes.get(other.search_axis).label]), String(state.optimism),
      (value) => { state.optimism = Number(value); drawOptimism(); })] : []));
  const log = optimismLog(entry);
  const at = (v) => drawn(search, [v], log)[0];
  const trace = (values, points, rows, changes, text) => {
    const kept = rows.filter((i) => (points.values[search.key][i] ?? null) !== null && (points.values[test.key][i] ?? null) !== null);
    const y = kept.map((i) => at(points.values[test.key][i]));
    return {
      type: "scatter", mode: "markers", hoverinfo: "text", x: kept.map((i) => at(points.values[search.key][i])), y,
      error_y: {
        type: "data", symmetric: false, thickness: 1, width: 0, color: changes.bars,
        array: kept.map((i, j) => (at(points.high[test.key][i]) ?? y[j]) - y[j]), arrayminus: kept.map((i, j) => y[j] - (at(points.low[test.key][i]) ?? y[j])),
      },
      hovertext: kept.map(text), customdata: kept.map((i) => values(i)), marker: changes.marker(kept),
    };
  };
  const all = [...Array(count).keys()];
  const traces = [
    trace((i) => marks.member[i], marks.points, marks.names.map((_, i) => i).filter((i) => !marks.reference[i]),
      { marker: (kept) => ({ size: 8, symbol: kept.map((i) => recipeMark(methodOf(i)).symbol), color: kept.map((i) => recipeMark(methodOf(i)).color), line: { width: 1.3 } }), bars: "rgba(0,0,0,0)" }, (i) => told(marks.names[i], marks.points, i)),
    trace((i) => i, members, all, { marker: () => ({ size: 7, color: ink("accent"), line: { color: ink("surface"), width: 0.8 } }), bars: ink("faint") }, (i) => told(members.ids[i], members, i)),
  ];
  const values = traces.flatMap((t) => [...t.x, ...t.y, ...t.y.map((v, j) => v + t.error_y.array[j]), ...t.y.map((v, j) => v - t.error_y.arrayminus[j])]);
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (log) [low, high] = [Math.log10(low), Math.log10(high)];
  const pad = 0.05 * (high - low) || 0.05 * Math.abs(high) || 1;
  const range = [low - pad, high + pad];
  const ends = log ? range.map((v) => 10 ** v) : range;
  byId("optimism").setAttribute("role", "group");
  byId("optimism").setAttribute("aria-label", `Test values of ${search.label} against search values. ${entry.sentence}`);
  const axis = (source, text) => ({ ...scale(source, 6, log), range, title: { text: plain(text), standoff: 10, font: { color: ink("ink"), size: 13 } } });
  return Plotly.react("optimism", [{ type: "scatter", mode: "lines", x: ends, y: ends, hoverinfo: "skip", line: { color: ink("faint"), width: 1, dash: "dot" } }, ...traces],
    layout("optimism", {
      xaxis: axis(search, `${search.title}, search`), yaxis: axis(test, `${search.title}, test`),
      margin: { l: 60, r: 12, t: 8, b: 46 }, shapes: optimismShapes(),
    }), config);
}

const optimismLog = (entry) => axes.get(entry.search_axis).log && axes.get(entry.test_axis).floor !== null;

function optimismShapes() {
  if (state.selected === null || !data.optimism.length) return [];
  const entry = data.optimism[state.optimism];
  const [x, y] = [members.values[entry.search_axis][state.selected], members.values[entry.test_axis][state.selected]];
  const search = axes.get(entry.search_axis);
  return x === null || y === null ? [] : [ring(...drawn(search, [x, y], optimismLog(entry)), 9)];
}

// ---------------------------------------------------------------- selecting

/** Members from left to right on the horizontal axis. */
function walk() {
  const values = members.values[state.across];
  return [...Array(count).keys()].sort((a, b) => (values[a] ?? Infinity) - (values[b] ?? Infinity) || a - b);
}

function move(by) {
  if (state.selected === null) return;
  const order = walk();
  const next = order[order.indexOf(state.selected) + by];
  if (next !== undefined) select(next);
}

function select(i, { remember = true } = {}) {
  if (i === null || i === undefined || i === state.selected) return;
  state.selected = i;
  const id = members.ids[i];
  document.body.dataset.selected = id;
  if (remember && location.hash !== `#${id}`) {
    try {
      history.replaceState(null, "", `#${id}`);
    } catch {
      // documents without an address of their own (srcdoc) have no permalinks either
    }
  }
  selection();
  for (const row of document.querySelectorAll("#members tbody tr")) {
    const selected = row.dataset.id === id;
    if (selected) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
    if (selected) reveal(row, byId("members"));
  }
  markParallel();
  if (window.Plotly && document.body.dataset.ready) {
    Plotly.relayout("front", { shapes: frontShapes() });
    Plotly.relayout("bits", { shapes: bitsShapes() });
    if (data.optimism.length) Plotly.relayout("optimism", { shapes: optimismShapes() });
    if (data.predictions) Plotly.relayout("predicted", { shapes: predictedShapes() });
    drawProfile();
    drawMatters();
  }
  const values = data.objectives.map((key) => `${axes.get(key).label} ${members.texts[key][i]}`);
  byId("announcement").textContent = `Selected ${id}: ${values.join(", ")}`;
}

/** Scroll a container, never the page. */
function reveal(row, container) {
  const above = row.offsetTop - 40 - container.scrollTop;
  const below = row.offsetTop + row.offsetHeight - container.scrollTop - container.clientHeight;
  if (above < 0) container.scrollTop += above;
  else if (below > 0) container.scrollTop += below;
}

function fromAddress() {
  const found = members.ids.indexOf(location.hash.slice(1));
  return found < 0 ? null : found;
}

// ---------------------------------------------------------------- beginning

function drawAll() {
  frontLegend();
  bitsControls();
  drawParallel();
  drawSpent();
  return Promise.all([drawFront(), drawBits(), drawProfile(), drawMatters(), drawHypervolume(), drawOptimism(), drawPredictions()]);
}

async function unpack() {
  const packed = byId("plotly");
  const bytes = Uint8Array.from(atob(packed.textContent.trim()), (c) => c.charCodeAt(0));
  packed.remove();
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = el("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

function follow() {
  byId("csv").addEventListener("click", download);
  byId("matters-details").addEventListener("toggle", () => { if (byId("matters-details").open) mattersTable(); });
  byId("predictions-details").addEventListener("toggle", () => { if (byId("predictions-details").open) predictionsTable(); });
  addEventListener("hashchange", () => select(fromAddress(), { remember: false }));
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.closest("input, select, textarea, .scroll, .policy, pre")) return;
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by || state.selected === null) return;
    event.preventDefault();
    move(by);
  });
  byId("front").on("plotly_relayout", retick);
  byId("front").on("plotly_click", ({ points }) => select(points[0].customdata));
  if (data.optimism.length) byId("optimism").on("plotly_click", ({ points }) => select(points[0].customdata));
  if (data.predictions) {
    byId("predicted").on("plotly_click", ({ points }) => { if (points[0].customdata !== undefined) select(points[0].customdata); });
  }
  if (count) byId("bits").on("plotly_click", ({ points }) => select(rowOrder[points[0].y]));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ({ matches }) => theme(matches ? "dark" : "light"));
  addEventListener("beforeprint", () => {
    root.classList.add("printing"); // as wide as paper, so that plots fit before they are drawn
    theme("light", true);
  });
  addEventListener("afterprint", () => {
    root.classList.remove("printing");
    theme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light", true);
  });
  let waiting = 0;
  addEventListener("resize", () => { // plotly fits its own plots; labels of layers and our lines follow here
    clearTimeout(waiting);
    waiting = setTimeout(() => { drawParallel(); drawBits(); drawProfile(); drawMatters(); }, 150);
  });
}

function theme(name, resized = false) {
  if (root.dataset.theme === name && !resized) return;
  root.dataset.theme = name;
  selection();
  drawAll();
  if (resized && !root.classList.contains("printing")) {
    for (const plot of document.querySelectorAll(".js-plotly-plot")) Plotly.Plots.resize(plot);
  }
}

try {
  head();
  about();
  seeds();
  axisPickers();
  memberTable();
  selection();
  const asked = count ? fromAddress() : null;
  select(asked ?? data.knee ?? (count ? 0 : null), { remember: false });
  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve))); // tables first, then plots
  await unpack();
  await drawAll();
  follow();
  document.body.dataset.ready = "yes";
} catch (error) {
  byId("banners").append(el("p", { class: "banner" }, el("strong", {}, "The plots could not be drawn. "),
    `${error.message}. Browsers of 2023 and later can (Chrome 80, Firefox 113, Safari 16.4); the tables below hold the numbers.`));
  throw error;
}
})();
