// The page: controls, charts, and words.

import {allCliffs, curves} from "./curves.js";
import {DTYPES} from "./floats.js";
import {beyond, parseMargins, shares} from "./margins.js";
import {START, format, parse} from "./state.js";

/* global chart, scales: of the scripts of all pages */
const NAMES = {
  torchvision: "torchvision", monai: "MONAI", kornia: "kornia", smoothed: "parfocal, smoothed",
  exact: "parfocal, exact",
};
const COLOURS = {
  torchvision: "--of-original", monai: "--line-1", kornia: "--line-7", smoothed: "--of-smoothed",
  exact: "--of-exact",
};
const NUMBERS = ["gamma", "alpha", "epsilon", "target", "from", "to"];

const get = id => document.getElementById(id);
const controls = get("controls");
let state = parse(location.hash), histogram = null, found = null, drawn = {};

const finite = v => (v === undefined ? undefined : Number.isFinite(v) ? v : null);
const percent = v => `${scales.words(100 * v, 3)} %`;

/** A figure of lines by logit. */
function draw(id, title, label, y, lines, more = {}) {
  const spec = {
    label, x: {title: "logit", scale: "linear"}, y: {title, ...y},
    lines: lines.map(({colour, style}) => ({colour, style})), height: 300, ...more,
  };
  const columns = {
    names: ["logit", ...lines.map(line => line.name)], x: more.x ?? found.x,
    lines: lines.map(line => line.values.map(finite)),
  };
  drawn[id] = chart.draw(get(id), spec, columns);
}

const ofLosses = column => state.losses.map(name => ({
  name: NAMES[name], colour: COLOURS[name], style: "line", values: found.losses[name][column],
}));

const line = (name, values, style = "broad") => ({name, values, style, colour: "--of-true"});

/** The places where a loss ends to have a gradient, as far as they are in view. */
function cliffBands(all) {
  return Object.entries(all).filter(([, cliff]) => cliff.notFinite !== null).map(([name, cliff]) => {
    const x = state.target >= 0.5 ? cliff.notFinite : -cliff.notFinite;
    return {axis: "x", low: x, high: x, words: `${NAMES[name]}: not finite`};
  }).filter(band => band.low >= state.from && band.low <= state.to);
}

function drawCurves(bands) {
  const {dtype, target, gamma} = state, at = `gamma ${gamma}, target ${target}, in ${dtype}`;
  const tiny = DTYPES[dtype].tiny * DTYPES[dtype].eps;
  draw("loss", "loss", `The loss by the logit at ${at}.`,
    {scale: "symlog", threshold: 1e-6},
    [line("the truth", found.truth.loss), ...ofLosses("loss")]);
  draw("gradient", "gradient", `The gradient by the logit at ${at}.`,
    {scale: "symlog", threshold: Math.max(tiny, 1e-12)},
    [line("the truth", found.truth.gradient), ...ofLosses("gradient")], {bands});
  draw("relative", "share of the cross-entropy's gradient",
    `The gradient as a share of that of the cross-entropy at ${at}.`,
    {scale: "symlog", threshold: 1e-6},
    [line("the truth", found.truth.relative), ...ofLosses("relative")], {bands});
  draw("ulp", "error of the gradient in ULP", `The error of the gradient in ULP at ${at}.`,
    {scale: "symlog", threshold: 1}, ofLosses("ulp"), {bands});
}

function cell(row, text, tag = "td") {
  const made = document.createElement(tag);
  if (tag === "th") made.scope = "row";
  made.textContent = text;
  row.append(made);
}

const place = x => (x === null ? "nowhere" : scales.words(x, 4));

/** What a cliff is, in words. */
function sentence(name, cliff) {
  const {dtype} = state, logit = state.target >= 0.5 ? "a logit of" : "a logit of −";
  if (cliff.notFinite === null) return null;
  return `${NAMES[name]}: NaN from ${logit}${state.target >= 0.5 ? " " : ""}` +
    `${scales.words(cliff.notFinite, 4)} (${dtype})`;
}

function tell(all) {
  const rows = state.losses.map(name => {
    const row = document.createElement("tr"), {notFinite, percent: off} = all[name];
    const worst = found.losses[name].ulp.reduce((a, b) => Math.max(a, b), 0);
    cell(row, NAMES[name], "th");
    for (const text of [
      place(notFinite), place(off), Number.isFinite(worst) ? scales.words(worst, 3) : "not finite",
      histogram ? share(all[name].notFinite) : "", histogram ? share(all[name].percent) : "",
    ]) cell(row, text);
    return row;
  });
  get("cliffs").tBodies[0].replaceChildren(...rows);
  const told = state.losses.map(name => sentence(name, all[name])).filter(Boolean);
  const nothing = rows.length
    ? `No gradient is infinite or NaN up to a logit of 120 (${state.dtype}).` : "No loss is chosen.";
  get("verdict").textContent = told.length ? `${told.join("; ")}.` : nothing;
  get("verdict").className = told.length ? "verdict bad" : "verdict";
  get("cliffs").classList.toggle("with-margins", histogram !== null);
}

function share(cliff) {
  const found = beyond(histogram, state.target, cliff);
  return found === null ? "none there" : percent(found);
}

function drawMargins() {
  get("margins").hidden = histogram === null;
  if (histogram === null) return;
  const bins = shares(histogram, state.target).filter(([x]) => x >= state.from && x <= state.to);
  draw("margins", "share of the margins",
    `The share of the margins of step ${histogram.step} in each bin, by the logit.`,
    {scale: "linear"},
    [{name: "share of a bin", values: bins.map(bin => bin[1]), style: "line", colour: "--line-4"}],
    {x: bins.map(bin => bin[0]), height: 180});
  get("margins-of").textContent =
    `Margins of ${histogram.loss} at step ${histogram.step}, logits in ${histogram.dtype}.`;
}

let waiting = 0, searching = 0;

/** Everything anew: the curves now, the cliffs, which take longer, when nothing has changed for a
    moment. The body says by `aria-busy` which are still to come. */
function update() {
  document.body.setAttribute("aria-busy", "true");
  found = curves(state);
  drawCurves([]);
  drawMargins();
  clearTimeout(searching);
  searching = setTimeout(() => {
    const all = allCliffs(state), bands = cliffBands(all);
    if (bands.length) drawCurves(bands);
    tell(all);
    document.body.setAttribute("aria-busy", "false");
  }, 100);
}

function later() {
  history.replaceState(null, "", format(state));
  document.body.setAttribute("aria-busy", "true");
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(update);
}

/** The controls as the state is. */
function show() {
  for (const key of NUMBERS) controls.elements[key].value = state[key] ?? "";
  controls.elements.slider.value = state.gamma;
  controls.elements.dtype.value = state.dtype;
  for (const box of controls.querySelectorAll("[name=losses]")) {
    box.checked = state.losses.includes(box.value);
  }
}

/** The state as the controls are; what can't be drawn leaves it as it was, and is marked. */
function take(event) {
  if (event.target.name === "slider") controls.elements.gamma.value = event.target.value;
  const text = Object.fromEntries(NUMBERS.map(key => [key, controls.elements[key].value.trim()]));
  const losses = [...controls.querySelectorAll("[name=losses]:checked")].map(box => box.value);
  const words = {...text, alpha: text.alpha || "none", dtype: controls.elements.dtype.value};
  const next = parse(format({...words, losses}));
  for (const key of NUMBERS) {
    const isTaken = String(next[key] ?? "") === (text[key] === "" ? "" : String(Number(text[key])));
    controls.elements[key].setAttribute("aria-invalid", String(!isTaken));
    if (!isTaken) next[key] = state[key];
  }
  if (next.from >= next.to) {
    for (const key of ["from", "to"]) controls.elements[key].setAttribute("aria-invalid", "true");
    [next.from, next.to] = [state.from, state.to];
  }
  state = next;
  controls.elements.slider.value = state.gamma;
  later();
}

/** The logits between which the gradient's chart is zoomed. */
function takeZoom() {
  const {min, max} = drawn.gradient.plot.scales.x;
  state = {...state, from: Number(min.toPrecision(6)), to: Number(max.toPrecision(6))};
  show();
  later();
}

async function load(file) {
  try {
    histogram = parseMargins(await file.text());
    get("file-error").textContent = "";
  } catch (error) {
    histogram = null;
    get("file-error").textContent = `${file.name}: ${error.message}`;
  }
  update();
}

controls.addEventListener("input", take);
controls.addEventListener("submit", event => event.preventDefault());
get("zoom").onclick = takeZoom;
get("reset").onclick = () => { state = {...START}; show(); later(); };
get("file").onclick = event => { event.target.value = ""; };  // so that the same file can be read again
get("file").onchange = event => { if (event.target.files.length) load(event.target.files[0]); };
for (const kind of ["dragover", "drop"]) {
  document.addEventListener(kind, event => {
    event.preventDefault();
    if (kind === "drop" && event.dataTransfer.files.length) load(event.dataTransfer.files[0]);
  });
}
addEventListener("hashchange", () => { state = parse(location.hash); show(); update(); });

show();
update();
