// Tables of runs: heads that sort, words that filter. Without this script they are plain tables.
const missing = new Set(["–", "failed", ""]);
const text = (cell) => cell.dataset.value ?? cell.textContent;

// Numbers as numbers, before text; what is missing comes last, whichever way the rest is turned.
function compare(a, b, direction) {
  if (missing.has(a) || missing.has(b)) return missing.has(a) - missing.has(b);
  const [x, y] = [Number(a), Number(b)];
  if (Number.isNaN(x) && Number.isNaN(y)) return direction * a.localeCompare(b, "en", { numeric: true });
  if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
  return direction * (x - y);
}

function sortBy(table, head) {
  const descending = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const value = (row) => text(row.cells[head.cellIndex]);
  const rows = [...table.tBodies[0].rows].sort((a, b) => compare(value(a), value(b), descending ? -1 : 1));
  table.tBodies[0].append(...rows);
}

// lr=0.1 asks for the cell under that head; a bare word for a number as it stands, or for a part of some text.
function fits(row, word, names) {
  const cells = [...row.cells];
  const [name, value] = word.split("=", 2);
  const place = value === undefined ? -1 : names.indexOf(name);
  if (place >= 0) return text(cells[place]).toLowerCase() === value;
  return cells.some((cell) => {
    const content = text(cell).toLowerCase();
    return content === word || (Number.isNaN(Number(content)) && content.includes(word));
  });
}

function filter(table, names, controls) {
  const words = controls.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...table.tBodies[0].rows];
  for (const row of rows) row.hidden = !words.every((word) => fits(row, word, names));
  controls.classList.toggle("idle", !words.length);
  controls.querySelector("output").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} runs`;
}

function enable(block) {
  const table = block.querySelector("table");
  const heads = [...table.tHead.rows[0].cells];
  const names = heads.map((head) => head.textContent.toLowerCase());
  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(table, head));
    head.append(button);
  }
  const controls = block.querySelector(".controls");
  const update = () => filter(table, names, controls);
  controls.addEventListener("input", update);
  update(); // a browser that goes back may bring words along
  controls.hidden = false;
}

for (const block of document.querySelectorAll(".runs")) enable(block);
