/* Numbers as text, round places on an axis, and where in a sorted list a number is. */

/* Write a number so that neighbours a `step` apart can be told apart. */
function shown(value, step) {
  if (value === null || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size && (size >= 1e7 || size < 1e-4)) return value.toExponential(2).replace(/-/g, "−");
  const places = step > 0 ? Math.min(8, Math.max(0, Math.ceil(-Math.log10(step) - 1e-9))) : 3;
  const text = value.toFixed(places);
  const [whole, part] = (Number(text) === 0 ? text.replace("-", "") : text).split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, "\u202f").replace("-", "−");
  return part ? `${grouped}.${part}` : grouped;
}

/* Round places between low and high, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  const found = [];
  for (let i = first; i <= last && found.length < 40; i++) found.push(i * step);
  return { step, found };
}

function decades(low, high) {
  const found = [];
  const every = Math.max(1, Math.ceil((Math.log10(high) - Math.log10(low)) / 6));
  for (let p = Math.ceil(Math.log10(low)); p <= Math.log10(high); p += every) found.push(10 ** p);
  return found.length > 1 ? found : ticks(low, high, 4).found.filter((v) => v > 0);
}

/* Index of the sorted x nearest to a value. */
function nearest(x, value) {
  let low = 0, high = x.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (x[middle] < value) low = middle; else high = middle;
  }
  return Math.abs(x[low] - value) <= Math.abs(x[high] - value) ? low : high;
}
