// Each figure's static picture gives way to the interactive chart when it comes near the window.
// `ast: true` evaluates chart expressions without eval, so that the page's policy need not allow it.
const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, hover: false, defaultStyle: false };

// Data come column by column, texts as places in a list: see rendering.packed.
function unpacked(columns) {
  const known = Object.entries(columns).map(([name, cells]) => [name, cells.of ? cells.at.map((at) => cells.of[at]) : cells]);
  const rows = known.length ? known[0][1] : [];
  return rows.map((_, row) => Object.fromEntries(known.map(([name, cells]) => [name, cells[row]])));
}

function read(view) {
  return JSON.parse(view.querySelector('script[type="application/json"]').textContent);
}

async function enliven(view) {
  if (view.dataset.live) return;
  view.dataset.live = "asked";
  const { spec } = read(view);
  for (const name of Object.keys(spec.datasets)) spec.datasets[name] = unpacked(spec.datasets[name]);
  const live = document.createElement("div");
  live.ariaHidden = "true"; // the figure is one picture with a text of its own
  try {
    const { view: chart } = await vegaEmbed(live, spec, options);
    view.querySelector(".chart").replaceChildren(live);
    if (!spec.params?.some(({ name }) => name === "picked")) return; // no norms in its legend
    const figures = view.closest(".figures");
    charts.set(figures, [...(charts.get(figures) ?? []), chart]);
    single(figures, [chart]);
  } catch (error) {
    console.warn(`a view of figure ${view.parentElement.id} stays static:`, error);
  }
}

// The norms that are ticked above the figures, as if they had been clicked in each legend; a legend cannot be reached by
// keyboard.
const charts = new Map();
function single(figures, drawn) {
  const ticked = [...figures.querySelectorAll(".singled input:checked")].map((box) => box.value);
  const fields = [{ type: "E", field: "norm" }];
  for (const chart of drawn) {
    chart.data("picked_store", ticked.map((norm) => ({ unit: "", fields, values: [norm] }))).runAsync();
  }
}
for (const boxes of document.querySelectorAll(".singled")) {
  const figures = boxes.closest(".figures");
  boxes.addEventListener("change", () => single(figures, charts.get(figures) ?? []));
}

const shown = (figure) => figure.querySelector(".view:not([hidden])");

// The view that has every option that is picked; where there is none, the first that has the latest one.
function choose(figure, latest) {
  const radios = [...figure.querySelectorAll(".choices input")];
  const views = [...figure.querySelectorAll(".view")];
  const offered = views.map((view) => read(view).picked);
  const has = (picked, radio) => picked[radio.dataset.place] === radio.value;
  const ticked = radios.filter((radio) => radio.checked);
  let place = offered.findIndex((picked) => ticked.every((radio) => has(picked, radio)));
  if (place < 0) place = offered.findIndex((picked) => has(picked, latest));
  for (const radio of radios) radio.checked = has(offered[place], radio);
  for (const parts of [views, [...figure.querySelectorAll("figcaption > p")]]) {
    parts.forEach((part, index) => (part.hidden = index !== place));
  }
  enliven(views[place]);
}

const observer = new IntersectionObserver(
  (entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      observer.unobserve(entry.target);
      enliven(shown(entry.target));
    }
  },
  { rootMargin: "400px" },
);
for (const figure of document.querySelectorAll("figure")) {
  observer.observe(figure);
  figure.addEventListener("change", (event) => choose(figure, event.target));
}
for (const hidden of document.querySelectorAll(".live, .choices")) hidden.hidden = false;

// Some browsers turn a wheel with shift sideways; charts ask how far it went up or down.
document.addEventListener(
  "wheel",
  (event) => {
    if (!event.shiftKey || event.deltaY || !event.deltaX || !event.target.closest(".chart")) return;
    event.preventDefault();
    event.stopPropagation();
    const { clientX, clientY, deltaX, deltaMode } = event;
    const turned = { clientX, clientY, deltaY: deltaX, deltaMode, shiftKey: true, bubbles: true, cancelable: true };
    event.target.dispatchEvent(new WheelEvent("wheel", turned));
  },
  { capture: true, passive: false },
);

// On paper nothing can be unfolded.
const folded = () => document.querySelectorAll("details:not([open])");
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...folded()];
  for (const details of opened) details.open = true;
});
window.addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
});
