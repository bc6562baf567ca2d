// Each figure's static picture gives way to the interactive chart when it comes near the window.
// `ast: true` evaluates chart expressions without eval, so that the page's policy need not allow it.
const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, hover: false, defaultStyle: false };

async function enliven(figure) {
  const chart = figure.querySelector(".chart");
  const spec = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
  const live = document.createElement("div");
  live.ariaHidden = "true"; // the figure is one picture with a text of its own
  try {
    await vegaEmbed(live, spec, options);
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
