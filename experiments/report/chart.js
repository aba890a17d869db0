/* A picture that can be looked at closer: lines in an SVG, a cursor with the values, a zoom along x.
   Mouse: hover, drag to zoom, double click to see all; touch: drag sideways; keyboard: ← → move the
   cursor, + − zoom, Escape sees all. Colours are the page's CSS variables. */
const SVG = "http://www.w3.org/2000/svg";

function make(name, attributes, parent, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function element(name, className, parent, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

class Chart {
  constructor(box, spec) {
    this.box = box;
    this.box.classList.add("chart");
    this.legend = element("p", "legend", box);
    this.svg = make("svg", { role: "img", tabindex: "0" }, null);
    box.append(this.svg);
    this.tip = element("div", "tip", box);
    this.tip.hidden = true;
    this.said = element("div", "unseen", box);
    this.said.setAttribute("aria-live", "polite");
    this.all = element("button", "all", box, "See all");
    this.all.type = "button";
    this.all.hidden = true;
    this.all.addEventListener("click", () => this.zoom(this.isHome() ? this.whole : null));
    this.listen();
    this.show(spec);
    new ResizeObserver(() => this.box.clientWidth !== this.width && this.draw()).observe(box);
  }

  show(spec) {
    this.spec = spec;
    this.lines = spec.lines.filter((line) => line.x.length);
    const ends = this.lines.flatMap((line) => [line.x[0], line.x[line.x.length - 1]]);
    const extent = [Math.min(...ends), Math.max(...ends)];
    if (!(extent[1] > extent[0])) extent[1] = (extent[0] -= 0.5) + 1;
    // A window may leave a whole line out, which can then be looked for; it starts where most of them are.
    this.home = spec.window || extent;
    const peaks = this.lines.map((line) => line.x[line.y.indexOf(Math.max(...line.y))]);
    const astray = peaks.some((x) => x < this.home[0] || x > this.home[1]);
    this.whole = astray ? [Math.min(extent[0], this.home[0]), Math.max(extent[1], this.home[1])] : this.home;
    this.grid = [...new Set(this.lines.flatMap((line) => line.x))].sort((a, b) => a - b);
    this.legend.replaceChildren();
    for (const line of this.lines.filter((line) => line.name && !line.quiet && !line.ghost))
      element("span", "fit", this.legend, line.name).style.setProperty("--c", line.colour);
    this.legend.hidden = spec.keyed || this.lines.filter((line) => line.name && !line.quiet && !line.ghost).length < 2;
    this.svg.setAttribute("aria-label", `${spec.text} Arrow keys read the values; plus and minus zoom.`);
    this.zoom(null);
  }

  isHome() {
    return this.view[0] === this.home[0] && this.view[1] === this.home[1];
  }

  zoom(view) {
    const [low, high] = this.whole, least = (high - low) * 1e-5;
    this.view = view ? [Math.max(low, view[0]), Math.min(high, view[1])] : [...this.home];
    if (this.view[1] - this.view[0] < least) this.view = [...this.home];
    this.all.textContent = this.isHome() ? "See all" : "Back";
    this.all.hidden = this.isHome() && this.whole === this.home;
    this.point(null);
    this.draw();
  }

  /* The range of y that the lines take within the view. */
  range() {
    const { log, floor } = this.spec, [a, b] = this.view;
    let low = Infinity, high = -Infinity;
    for (const line of this.lines) {
      if (line.ghost) continue;
      line.x.forEach((x, i) => {
        const inside = x >= a && x <= b || (line.x[i + 1] >= a && x <= a) || (line.x[i - 1] <= b && x >= b);
        const y = line.y[i];
        if (!inside || y === null || (log && y <= 0)) return;
        low = Math.min(low, y);
        high = Math.max(high, y);
      });
    }
    if (this.isHome() && this.spec.limits) [low, high] = this.spec.limits;
    if (!(high >= low)) [low, high] = log ? [0.1, 1] : [0, 1];
    if (log) return low === high ? [low / 2, high * 2] : [low / 1.3, high * 1.3];
    const room = high > low ? 0.06 * (high - low) : Math.abs(high) || 1;
    return [floor === undefined ? low - room : floor, high + room];
  }

  draw() {
    this.width = this.box.clientWidth;
    if (!this.width) return;
    const { spec, svg, width } = this, height = spec.height || 260, log = spec.log;
    const [bottom, top] = this.range();
    const marks = log ? decades(bottom, top) : ticks(bottom, top, 5).found;
    const step = log ? 0 : ticks(bottom, top, 5).step;
    const names = marks.map((v) => (log ? shown(v, v) : shown(v, step)));
    const left = spec.bare ? 6 : 14 + 7 * Math.max(3, ...names.map((name) => name.length));
    const frame = { left, right: width - 8, top: spec.bare ? 8 : 26, bottom: height - 40 };
    const bend = log ? Math.log : (v) => v;
    const [low, high] = this.view;
    this.toX = (v) => frame.left + ((v - low) / (high - low)) * (frame.right - frame.left);
    this.fromX = (p) => low + ((p - frame.left) / (frame.right - frame.left)) * (high - low);
    this.toY = (v) => frame.bottom - ((bend(v) - bend(bottom)) / (bend(top) - bend(bottom))) * (frame.bottom - frame.top);
    this.frame = frame;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    const clip = `clip-${this.box.id}`;
    make("rect", { x: frame.left, y: 0, width: frame.right - frame.left, height: frame.bottom + 1 },
      make("clipPath", { id: clip }, svg));
    const across = ticks(low, high, Math.max(2, Math.min(8, width / 90)));
    for (const v of across.found) {
      if (spec.whole && v !== Math.round(v)) continue;
      make("line", { class: "axis", x1: this.toX(v), x2: this.toX(v), y1: frame.bottom, y2: frame.bottom + 5 }, svg);
      make("text", { x: this.toX(v), y: frame.bottom + 19, "text-anchor": "middle" }, svg, shown(v, across.step));
    }
    make("line", { class: "axis", x1: frame.left, x2: frame.right, y1: frame.bottom, y2: frame.bottom }, svg);
    make("text", { x: (frame.left + frame.right) / 2, y: height - 4, "text-anchor": "middle" }, svg, spec.x);
    if (spec.y && !spec.bare) make("text", { x: 0, y: 13 }, svg, spec.y);
    if (!spec.bare) marks.forEach((v, i) => {
      make("line", { class: "grid", x1: frame.left, x2: frame.right, y1: this.toY(v), y2: this.toY(v) }, svg);
      make("text", { x: frame.left - 8, y: this.toY(v) + 4, "text-anchor": "end" }, svg, names[i]);
    });
    const plot = make("g", { "clip-path": `url(#${clip})` }, svg);
    for (const line of this.lines) if (!line.ghost) this.stroke(plot, line);
    this.overlay = make("g", {}, svg);
  }

  /* Where a line goes, in runs of neighbouring points; a step goes level, then up. */
  runs(line) {
    const found = [];
    let run = null;
    line.x.forEach((x, i) => {
      const y = line.y[i];
      if (y === null || (this.spec.log && y <= 0)) { run = null; return; }
      if (!run) found.push(run = []);
      const [px, py] = [this.toX(x), this.toY(y)];
      if (line.step && run.length) run.push([px, run[run.length - 1][1], false]);
      run.push([px, py, true]);
    });
    return found;
  }

  stroke(plot, line) {
    const runs = this.runs(line), write = (run) => run.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
    const style = `stroke:${line.colour}`, shade = { style: `fill:${line.colour}`, "fill-opacity": 0.22 };
    if (line.fill) for (const run of runs) {
      const ends = [run[run.length - 1], run[0]].map(([x]) => [x, this.toY(0)]);
      make("path", { d: `M${write(run)}L${write(ends)}Z`, ...shade }, plot);
    }
    const above = this.lines.find((other) => other.name === line.upto);
    if (above && runs.length === 1)
      make("path", { d: `M${write(runs[0])}L${write(this.runs(above).flat().reverse())}Z`, ...shade }, plot);
    make("path", { d: runs.map((run) => `M${write(run)}`).join(""), class: "line", style,
      "stroke-dasharray": line.dash || "", "stroke-width": line.quiet || line.thin ? 0.9 : 1.9,
      "stroke-opacity": line.quiet ? 0.4 : 1 }, plot);
    const { left, right } = this.frame;
    const inside = runs.flat().filter(([x, , own]) => own && x >= left - 4 && x <= right + 4);
    if (line.dots && inside.length < 90)
      for (const [cx, cy] of inside) make("circle", { cx, cy, r: 2.6, style: `fill:${line.colour}` }, plot);
  }

  /* Put the cursor at a value of x (null: nowhere) and say what is there. */
  point(value) {
    this.at = value;
    if (this.overlay) this.overlay.replaceChildren();
    this.tip.hidden = value === null;
    if (value === null || !this.overlay) return;
    const { spec, frame } = this;
    const at = spec.snap === false ? value : this.grid[nearest(this.grid, value)];
    if (at < this.view[0] || at > this.view[1]) { this.tip.hidden = true; return; }
    const x = this.toX(at), fine = (this.view[1] - this.view[0]) / 1000;
    make("line", { class: "cursor", x1: x, x2: x, y1: frame.top, y2: frame.bottom }, this.overlay);
    this.tip.replaceChildren(element("strong", "", null, `${spec.x} ${spec.whole ? shown(at, 1) : shown(at, fine)}`));
    for (const line of this.lines.filter((line) => line.name)) {
      const i = nearest(line.x, at), y = line.y[i];
      if (at < line.x[0] || at > line.x[line.x.length - 1] || y === null) {
        if (!line.below) continue;
      } else if (!line.below && !line.ghost) make("circle", { cx: this.toX(line.x[i]), cy: this.toY(y), r: 4, class: "spot", style: `fill:${line.colour}` }, this.overlay);
      const [bottom, top] = this.range();
      const text = line.below ? `${(100 * line.below[i]).toFixed(1)} % below`
        : shown(y, this.spec.log ? Math.abs(y) / 100 : (top - bottom) / 1000);
      const row = element("span", "fit", null, `${line.name} `);
      row.style.setProperty("--c", line.colour);
      element("span", "value", row, text);
      this.tip.append(row);
    }
    const right = x > (frame.left + frame.right) / 2;
    this.tip.style.left = right ? "" : `${x + 12}px`;
    this.tip.style.right = right ? `${this.width - x + 12}px` : "";
  }

  listen() {
    const { svg } = this;
    const place = (event) => event.clientX - svg.getBoundingClientRect().left;
    const within = (p) => Math.max(this.frame.left, Math.min(this.frame.right, p));
    let from = null;
    svg.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !this.frame) return;
      from = within(place(event));
      try { svg.setPointerCapture(event.pointerId); } catch { /* a pointer that is gone */ }
    });
    svg.addEventListener("pointermove", (event) => {
      if (!this.frame) return;
      const here = within(place(event));
      this.point(this.fromX(here));
      if (from !== null && Math.abs(here - from) > 4)
        make("rect", { class: "band", x: Math.min(from, here), width: Math.abs(here - from), y: this.frame.top,
          height: this.frame.bottom - this.frame.top }, this.overlay);
    });
    const end = (event) => {
      if (from === null) return;
      const [a, b] = [from, within(place(event))].sort((one, two) => one - two);
      from = null;
      if (event.type === "pointerup" && b - a > 8) this.zoom([this.fromX(a), this.fromX(b)]);
    };
    svg.addEventListener("pointerup", end);
    svg.addEventListener("pointercancel", end);
    svg.addEventListener("pointerleave", () => from === null && this.point(null));
    svg.addEventListener("blur", () => this.point(null));
    svg.addEventListener("dblclick", () => this.zoom(null));
    svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== svg) return; // the page scrolls
      event.preventDefault();
      this.scale(event.deltaY > 0 ? 1.25 : 0.8, this.fromX(within(place(event))));
    }, { passive: false });
    svg.addEventListener("keydown", (event) => this.key(event));
  }

  scale(factor, centre) {
    const [low, high] = this.view;
    this.zoom([centre + (low - centre) * factor, centre + (high - centre) * factor]);
  }

  key(event) {
    const [low, high] = this.view, middle = (low + high) / 2;
    const here = this.at === null ? middle : this.at;
    const known = this.grid.filter((x) => x >= low && x <= high);
    const move = (by) => {
      const hop = Math.max(1, Math.round(known.length / 60));
      const i = nearest(known, here) + by * hop;
      if (known.length) this.point(known[Math.max(0, Math.min(known.length - 1, i))]);
      this.said.textContent = [...this.tip.children].map((node) => node.textContent).join("; ");
    };
    const deeds = { ArrowLeft: () => move(-1), ArrowRight: () => move(1), "+": () => this.scale(0.7, here),
      "=": () => this.scale(0.7, here), "-": () => this.scale(1.4, here), Escape: () => this.zoom(null) };
    if (!deeds[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    deeds[event.key]();
  }
}
