/* Wires the page: every picture that has its data becomes a chart, and a parameter can be chosen. */
const content = (id) => JSON.parse(document.getElementById(id).textContent);

/* Numbers 0 … 999 back to where they were: `low` and `high` are the ends. */
const unpack = (low, high, values) => values.map((v) => (v === null ? null : low + ((high - low) * v) / 999));
const even = (low, high, count) => Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));

function summed(y) {
  let total = 0;
  const sums = y.map((v, i) => (total += i ? (v + y[i - 1]) / 2 : 0));
  return sums.map((v) => (total ? v / total : 0));
}

/* The posterior of one parameter as a chart: a line for each fit, the reference filled. */
function posterior(chosen, pens) {
  const lines = Object.entries(chosen.fits).map(([fit, found]) => {
    const y = unpack(0, found.top, found.y);
    return { ...pens[fit], name: pens[fit].label, x: even(...found.ends, y.length), y, below: summed(y), fill: pens[fit].reference };
  });
  lines.sort((one, two) => (two.fill ? 1 : 0) - (one.fill ? 1 : 0));
  return { x: chosen.name, lines, window: chosen.window, bare: true, keyed: true, floor: 0, snap: false, height: 280,
    text: `Posterior of ${chosen.name}. ${chosen.said}` };
}

/* The draws of one parameter, chain by chain, of the fits that have chains. */
function walks(chosen, pens) {
  const found = chosen.chains || {}, lines = [];
  for (const [fit, walk] of Object.entries(found))
    walk.draws.forEach((draws, chain) => {
      const x = draws.map((_, i) => 1 + i * walk.every), colour = `var(--spare-${chain % 5})`;
      const name = Object.keys(found).length > 1 ? `${pens[fit].label}, chain ${chain}` : `chain ${chain}`;
      lines.push({ name, colour, x, y: unpack(...walk.ends, draws), thin: true });
    });
  if (!lines.length) return null;
  return { x: "draw", lines, whole: true, height: 260, text: `Draws of ${chosen.name} by chain. ${chosen.said}` };
}

function chooser() {
  const box = document.getElementById("closer");
  if (!box) return;
  const { pens, parameters } = content("parameters");
  const select = box.querySelector("select"), table = box.querySelector("tbody");
  const options = new Map();
  parameters.forEach((parameter, i) => {
    const option = element("option", "", null, parameter.note ? `${parameter.name} (${parameter.note})` : parameter.name);
    option.value = String(i);
    const site = parameter.site;
    if (!options.has(site)) {
      const group = element("optgroup", "", select);
      group.label = site;
      options.set(site, group);
    }
    options.get(site).append(option);
  });
  box.hidden = false;
  const density = new Chart(document.getElementById("closer-density"), posterior(parameters[0], pens));
  const traces = document.getElementById("closer-chains");
  let chains = null;
  const choose = () => {
    const chosen = parameters[Number(select.value)];
    density.show(posterior(chosen, pens));
    const spec = walks(chosen, pens);
    traces.hidden = !spec;
    if (spec && chains) chains.show(spec);
    else if (spec) chains = new Chart(traces, spec);
    table.replaceChildren();
    for (const row of chosen.rows) {
      const line = element("tr", "", table);
      const head = element("th", "", line);
      head.scope = "row";
      element("span", "fit", head, pens[row[0]].label).style.setProperty("--c", pens[row[0]].colour);
      for (const text of row.slice(1)) element("td", "", line, text);
    }
  };
  select.addEventListener("change", choose);
  choose();
  parameters.forEach((parameter, i) => {
    for (const code of document.querySelectorAll("#posteriors figure > .above code")) {
      if (code.textContent !== parameter.name) continue;
      const button = element("button", "look", null, parameter.name);
      button.type = "button";
      button.title = "Look closer";
      button.addEventListener("click", () => {
        select.value = String(i);
        choose();
        select.focus({ preventScroll: true });
        box.scrollIntoView({ behavior: "auto", block: "start" });
      });
      code.replaceChildren(button);
    }
  });
}

function start() {
  for (const data of document.querySelectorAll("script[data-chart]")) {
    const box = document.getElementById(data.dataset.chart);
    box.hidden = false;
    box.closest("figure").classList.add("lively");
    new Chart(box, JSON.parse(data.textContent));
  }
  chooser();
  document.documentElement.classList.add("ready");
}
start();
