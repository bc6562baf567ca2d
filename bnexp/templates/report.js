// Each figure's static picture gives way to the interactive chart when it comes near the window.
// `ast: true` evaluates chart expressions without eval, so that the page's policy need not allow it.
const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, hover: false, defaultStyle: false };

// Data come column by column, texts as places in a list: see rendering.packed.
function unpacked(columns) {
  const known = Object.entries(columns).map(([name, cells]) => [name, cells.of ? cells.at.map((at) => cells.of[at]) : cells]);
  const rows = known.length ? known[0][1] : [];
  return rows.map((_, row) => Object.fromEntries(known.map(([name, cells]) => [name, cells[row]])));
}

function specOf(element) {
  const spec = JSON.parse(element.querySelector('script[type="application/json"]').textContent);
  for (const name of Object.keys(spec.datasets)) spec.datasets[name] = unpacked(spec.datasets[name]);
  return spec;
}

async function enliven(figure) {
  const chart = figure.querySelector(".chart");
  const live = document.createElement("div");
  try {
    await vegaEmbed(live, specOf(figure), options);
    chart.replaceChildren(live);
  } catch (error) {
    console.warn(`figure ${figure.id} stays static:`, error);
  }
}

const observer = new IntersectionObserver(
  (entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      observer.unobserve(entry.target);
      enliven(entry.target);
    }
  },
  { rootMargin: "400px" },
);
for (const figure of document.querySelectorAll("figure")) observer.observe(figure);
for (const hint of document.querySelectorAll(".live")) hint.hidden = false;

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
