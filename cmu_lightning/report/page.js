"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const hidden = new Set();
const views = new Map();

/** Draw a figure from its specification, as wide as there is room, in the colours of the theme. */
async function draw(figure) {
  const spec = structuredClone(DATA.figures[figure.dataset.figure]);
  if (!spec.facet) Object.assign(spec, { width: "container", autosize: { type: "fit-x", contains: "padding" } });
  spec.params.find((each) => each.name === "hidden").value = [...hidden];
  const [theme, plot] = [root.dataset.theme, figure.querySelector(".plot")];
  // The bar above is the legend of methods; where there is little room, the others stand below the chart.
  const below = { orient: "bottom", columns: 4, layout: { bottom: { anchor: "start", direction: "vertical" } } };
  const legend = { ...DATA.themes[theme].legend, disable: true, ...(plot.clientWidth < 480 ? below : {}) };
  const options = { config: { ...DATA.themes[theme], legend }, renderer: "svg", actions: false, tooltip: { theme } };
  const before = views.get(figure);
  const drawn = await vegaEmbed(plot, spec, options);
  drawn.view.signal("hidden", [...hidden]);
  await drawn.view.runAsync();
  views.set(figure, drawn);
  before?.finalize();
}

/** Draw all figures, one after the other; a later call, as after a change of the theme, ends an earlier one. */
let calls = 0;
async function drawAll() {
  const call = ++calls;
  delete root.dataset.drawn;
  for (const figure of document.querySelectorAll("figure")) {
    if (call !== calls) return;
    await draw(figure);
    await new Promise((resolve) => setTimeout(resolve));
  }
  root.dataset.drawn = root.dataset.theme;
}

/** Show or hide a method in all figures. */
async function toggle(button) {
  const shown = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", shown);
  shown ? hidden.delete(button.dataset.method) : hidden.add(button.dataset.method);
  await Promise.all([...views.values()].map(({ view }) => view.signal("hidden", [...hidden]).runAsync()));
}

const wished = matchMedia("(prefers-color-scheme: dark)");
function follow() {
  root.dataset.theme = wished.matches ? "dark" : "light";
  drawAll();
}

wished.addEventListener("change", follow);
document.getElementById("theme").addEventListener("click", () => {
  wished.removeEventListener("change", follow);
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  drawAll();
});
for (const button of document.querySelectorAll("#legend button")) button.addEventListener("click", () => toggle(button));
follow();
