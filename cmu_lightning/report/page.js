"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const BOX = { width: 560, height: 330, left: 62, right: 14, top: 12, bottom: 46 };
const SHAPES = {
  circle: "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
  square: "M-3.5,-3.5h7v7h-7z",
  diamond: "M0,-5L5,0L0,5L-5,0z",
  triangle: "M0,-5L4.6,3.5H-4.6z",
  "triangle-down": "M0,5L4.6,-3.5H-4.6z",
  plus: "M-1.6,-4.8h3.2v3.2h3.2v3.2h-3.2v3.2h-3.2v-3.2h-3.2v-3.2h3.2z",
  cross: "M-4.4,-2.2L-2.2,-4.4L0,-2.2L2.2,-4.4L4.4,-2.2L2.2,0L4.4,2.2L2.2,4.4L0,2.2L-2.2,4.4L-4.4,2.2L-2.2,0z",
  star: "M0,-6L1.5,-2L5.7,-1.9L2.4,0.8L3.5,4.9L0,2.5L-3.5,4.9L-2.4,0.8L-5.7,-1.9L-1.5,-2z",
  ring: "M-7,0a7,7 0 1,0 14,0a7,7 0 1,0 -14,0",
};

function draw(name, attributes, parent, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function mark([colour, shape], x, y, parent) {
  if (shape === "none") return null;
  const at = { d: SHAPES[shape], transform: `translate(${x.toFixed(1)},${y.toFixed(1)})`, class: "mark", fill: colour };
  const ring = { fill: "none", style: `stroke:${colour};stroke-width:1.6;pointer-events:none` };
  return draw("path", shape === "ring" ? { ...at, ...ring } : at, parent);
}

const dashed = (dashes) => dashes.map((length) => length * 1.6).join(" ");

function swatch(style, joined) {
  const holder = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  holder.setAttribute("class", "swatch");
  holder.setAttribute("width", joined ? 34 : 16);
  holder.setAttribute("height", 16);
  if (joined) draw("path", { d: "M1,8H33", stroke: style[0], "stroke-width": 2, "stroke-dasharray": dashed(style[2]) }, holder);
  mark(style, joined ? 17 : 8, 8, holder);
  return holder;
}

function powers(low, high) {
  const [first, last] = [Math.ceil(Math.log10(low)), Math.floor(Math.log10(high))];
  const step = Math.max(1, Math.ceil((last - first) / 7));
  return Array.from({ length: Math.max(0, Math.floor((last - first) / step) + 1) }, (_, i) => 10 ** (first + i * step));
}

function rounds(low, high) {
  const rough = (high - low) / 6;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 5, 10].find((each) => each * size >= rough);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step);
}

function scale({ low, high, log }, from, to) {
  const at = log ? Math.log10 : (value) => value;
  const place = (value) => from + ((at(Math.max(value, low)) - at(low)) / (at(high) - at(low))) * (to - from);
  return { place, ticks: log ? powers(low, high) : rounds(low, high) };
}

const tick = (value, axis) => (axis.log ? value.toExponential(0).replace("e+", "e") : String(+value.toPrecision(6)));

function frame(plot, chart, x, y) {
  const [right, bottom] = [BOX.width - BOX.right, BOX.height - BOX.bottom];
  for (const value of x.ticks) {
    draw("path", { class: "grid", d: `M${x.place(value)},${BOX.top}V${bottom}` }, plot);
    draw("text", { x: x.place(value), y: bottom + 17, "text-anchor": "middle" }, plot, tick(value, chart.x));
  }
  for (const value of y.ticks) {
    draw("path", { class: "grid", d: `M${BOX.left},${y.place(value)}H${right}` }, plot);
    draw("text", { x: BOX.left - 7, y: y.place(value) + 4, "text-anchor": "end" }, plot, tick(value, chart.y));
  }
  draw("path", { class: "axis", d: `M${BOX.left},${BOX.top}V${bottom}H${right}`, fill: "none" }, plot);
  draw("text", { x: (BOX.left + right) / 2, y: BOX.height - 8, "text-anchor": "middle" }, plot, chart.x.label);
  const middle = (BOX.top + bottom) / 2;
  draw("text", { x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }, plot, chart.y.label);
}

function level(plot, { name, style, level: [mean, std, n] }, y) {
  const [across, group] = [BOX.width - BOX.right - BOX.left, draw("g", { class: "reference" }, plot)];
  if (std) draw("rect", { x: BOX.left, width: across, y: y.place(mean + std), height: y.place(mean - std) - y.place(mean + std), fill: style[0], opacity: 0.12 }, group);
  draw("path", { d: `M${BOX.left},${y.place(mean)}h${across}`, stroke: style[0], "stroke-width": 1.6, "stroke-dasharray": dashed(style[2]) }, group);
  const said = `${name}: ${mean.toFixed(3)}${std === null ? "" : ` ± ${std.toFixed(3)}`}, ${n} seed${n === 1 ? "" : "s"}`;
  draw("path", { d: `M${BOX.left},${y.place(mean)}h${across}`, stroke: "transparent", "stroke-width": 10, "data-tip": said }, group);
}

function lines(group, series, x, y) {
  const [colour, , dashes] = series.style;
  const at = (point, shift) => `${x.place(point[0]).toFixed(1)},${y.place(point[1] + shift * (point[2] ?? 0)).toFixed(1)}`;
  const band = [...series.points.map((point) => at(point, 1)), ...series.points.map((point) => at(point, -1)).reverse()];
  draw("polygon", { points: band.join(" "), fill: colour, opacity: 0.15 }, group);
  const path = series.points.map((point) => at(point, 0)).join(" ");
  draw("polyline", { points: path, fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dashed(dashes) }, group);
  for (const point of series.points) {
    mark(series.style, x.place(point[0]), y.place(point[1]), group);
    draw("circle", { class: "hit", cx: x.place(point[0]), cy: y.place(point[1]), r: 9, "data-tip": point[3] }, group);
  }
}

function marks(group, series, x, y) {
  for (const point of series.points) mark(series.style, x.place(point[0]), y.place(point[1]), group)?.setAttribute("data-tip", point[3]);
}

function steps(group, series, x, y) {
  const [floor, colour] = [BOX.height - BOX.bottom, series.style[0]];
  const path = series.points.map((point) => `${x.place(point[0])},${point[1] > 0 ? y.place(point[1]) : floor}`);
  const stairs = path.map((here, i) => (i ? `H${here.split(",")[0]}V${here.split(",")[1]}` : `M${here.split(",")[0]},${floor}V${here.split(",")[1]}`));
  draw("path", { d: stairs.join(""), fill: colour, "fill-opacity": 0.15, stroke: colour, "stroke-width": 1.6, "stroke-dasharray": dashed(series.style[2]) }, group);
  series.points.slice(0, -1).forEach((point, i) => {
    const [left, right] = [x.place(point[0]), x.place(series.points[i + 1][0])];
    draw("rect", { class: "hit", x: left, width: right - left, y: BOX.top, height: floor - BOX.top, "data-tip": point[3] }, group);
  });
}

function show(figure) {
  const chart = DATA.charts[figure.dataset.variant][figure.dataset.chart];
  const plot = draw("svg", { class: "plot", viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "img", "aria-label": chart.title }, figure);
  figure.querySelector("figcaption").after(plot);
  const x = scale(chart.x, BOX.left, BOX.width - BOX.right);
  const y = scale(chart.y, BOX.height - BOX.bottom, BOX.top);
  frame(plot, chart, x, y);
  for (const reference of chart.references) level(plot, reference, y);
  for (const series of chart.series) {
    const group = draw("g", { class: "series", "data-method": series.method }, plot);
    ({ lines, scatter: marks, histogram: steps })[chart.kind](group, series, x, y);
  }
  if (chart.legend.length) plot.after(key(chart.legend));
}

function showMap(figure) {
  const map = DATA.maps[figure.dataset.map];
  const holder = Object.assign(document.createElement("div"), { className: "wide" });
  figure.querySelector("figcaption").after(holder);
  const plot = draw("svg", { class: "plot", width: map.width, height: map.height, viewBox: `0 0 ${map.width} ${map.height}`, role: "img", "aria-label": map.title }, holder);
  const panels = {};
  const [width, height] = map.tile;
  for (const { x, y, method, colour, ink, text, tip } of map.tiles) {
    const group = (panels[method] ??= draw("g", { class: "series", "data-method": method }, plot));
    const look = colour ? { fill: colour } : { class: "gap" };
    draw("rect", { x: x + 0.5, y: y + 0.5, width: width - 1, height: height - 1, "data-tip": tip, ...look }, group);
    if (text) draw("text", { x: x + width / 2, y: y + height / 2 + 4, "text-anchor": "middle", style: `fill:${ink};pointer-events:none` }, group, text);
  }
  const anchors = { left: "start", middle: "middle" };
  for (const { x, y, side, text, bold } of map.words) {
    draw("text", { x, y, "text-anchor": anchors[side], "font-weight": bold ? 600 : 400 }, plot, text);
  }
}

function key(legend) {
  const made = Object.assign(document.createElement("div"), { className: "key" });
  for (const [name, style] of legend) {
    const entry = document.createElement("span");
    entry.append(swatch(style, false), name);
    made.append(entry);
  }
  return made;
}

function toggle(button) {
  const shown = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", shown);
  for (const group of document.querySelectorAll(".series")) {
    if (group.dataset.method === button.dataset.method) group.toggleAttribute("hidden", !shown);
  }
}

function legend() {
  for (const [method, style] of Object.entries(DATA.styles)) {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.dataset.method = method;
    button.setAttribute("aria-pressed", "true");
    button.append(swatch(style, true), method);
    button.addEventListener("click", () => toggle(button));
    document.getElementById("legend").append(button);
  }
  for (const [name, style] of Object.entries(DATA.levels)) {
    const entry = Object.assign(document.createElement("span"), { className: "level" });
    entry.append(swatch(style, true), name);
    document.getElementById("legend").append(entry);
  }
}

function tips() {
  const tip = document.getElementById("tip");
  document.addEventListener("mousemove", (event) => {
    const said = event.target.dataset?.tip;
    tip.hidden = !said;
    if (!said) return;
    tip.textContent = said;
    const [across, down] = [event.clientX + 14, event.clientY + 14];
    tip.style.left = `${Math.min(across, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(down, innerHeight - tip.offsetHeight - 8)}px`;
  });
}

function theme() {
  const wished = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const follow = () => (root.dataset.theme = wished.matches ? "dark" : "light");
  follow();
  wished.addEventListener("change", follow);
  document.getElementById("theme").addEventListener("click", () => {
    wished.removeEventListener("change", follow);
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  });
}

theme();
legend();
tips();
document.querySelectorAll("figure").forEach((figure) => (figure.dataset.map ? showMap : show)(figure));
