// Histograms over the cohort. A bar is a button that narrows the table to its range; unusual values are hatched.

const BINS = 24;

function drawCharts(onChange) {
  byId("charts").replaceChildren(...METRICS.map((metric) => chart(metric, onChange)));
}

function chart(metric, onChange) {
  const title = el("h3", {}, metric.unit ? `${metric.title} (${metric.unit})` : metric.title);
  const head = el("div", { class: "chart-head" }, title);
  if (!metric.values.length) {
    return el("div", { class: "chart" }, head, el("div", { class: "chart-empty" }, "no values yet"), el("div", { class: "chart-foot" }, "\u00a0"));
  }
  const median = quantile(metric.values, 0.5);
  head.append(el("span", { class: "muted number" }, `median ${metric.format(median)}`));
  const bins = histogram(metric);
  const most = Math.max(...bins.map((bin) => bin.count));
  const picked = filters.ranges.get(metric.key);
  const bars = el("div", { class: "bars", role: "toolbar", "aria-label": `${metric.title}: bars narrow the table` });
  const pickedAt = bins.findIndex((bin) => picked && bin.low === picked.low && bin.high === picked.high);
  const firstStop = pickedAt >= 0 ? pickedAt : bins.findIndex((bin) => bin.count > 0);
  bins.forEach((bin, at) => {
    // The least bar must still be seen beside the tallest.
    const height = bin.count ? Math.max(4, (100 * bin.count) / most) : 0;
    const fill = [["out", bin.odd], ["", bin.count - bin.odd]].filter(([, count]) => count).map(([kind, count]) => {
      const piece = el("i", { class: kind });
      piece.style.height = `${(height * count) / bin.count}%`;
      return piece;
    });
    const label = `${rangeText(metric, bin)}: ${plural(bin.count, "slide")}${bin.odd ? `, ${whole(bin.odd)} unusual` : ""}`;
    const pick = () => {
      if (at === pickedAt) filters.ranges.delete(metric.key);
      else filters.ranges.set(metric.key, bin);
      onChange();
      byId("charts").querySelector(`[data-metric="${metric.key}"] [tabindex="0"]`)?.focus();
    };
    bars.append(
      el("button", {
        type: "button", title: label, "aria-label": label, tabIndex: at === firstStop ? 0 : -1,
        "aria-pressed": String(at === pickedAt), onclick: pick,
      }, fill),
    );
  });
  bars.addEventListener("keydown", moveAmongBars);
  const axis = el("div", { class: "axis" }, el("span", {}, metric.format(metric.values[0])), el("span", {}, metric.format(metric.values.at(-1))));
  const foot = el("div", { class: "chart-foot" });
  if (metric.oddCount) {
    const show = () => {
      filters.ranges.set(metric.key, { odd: true, has: metric.isOdd });
      onChange();
    };
    foot.append(el("button", { type: "button", class: "link", onclick: show }, plural(metric.oddCount, "outlier")));
  } else foot.append("no outliers");
  const unknown = slides.length - metric.values.length;
  if (unknown) foot.append(el("span", {}, `${whole(unknown)} without a value`));
  return el("div", { class: "chart", "data-metric": metric.key }, head, bars, axis, foot);
}

function moveAmongBars(event) {
  const bars = [...event.currentTarget.children];
  const at = bars.indexOf(document.activeElement);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: bars.length - 1 }[event.key];
  if (to === undefined || at < 0 || !bars[to]) return;
  event.preventDefault();
  bars[at].tabIndex = -1;
  bars[to].tabIndex = 0;
  bars[to].focus();
}

function histogram(metric) {
  const [low, high] = [metric.values[0], metric.values.at(-1)];
  const width = (high - low) / BINS || 1;
  const bins = Array.from({ length: high > low ? BINS : 1 }, (_, at) => {
    const from = low + at * width;
    const last = high === low || at === BINS - 1;
    const to = last ? high : from + width;
    return { low: from, high: to, count: 0, odd: 0, has: (value) => value >= from && (last ? value <= high : value < to) };
  });
  for (const value of metric.values) {
    const bin = bins.find((one) => one.has(value));
    bin.count += 1;
    if (metric.isOdd(value)) bin.odd += 1;
  }
  return bins;
}

function rangeText(metric, range) {
  if (range.odd === true && range.low === undefined) return `${metric.title}: outliers`;
  const [low, high] = [metric.format(range.low), metric.format(range.high)];
  return `${metric.title}: ${low === high ? low : `${low} to ${high}`} ${metric.unit}`.trimEnd();
}
