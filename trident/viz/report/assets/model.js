// The data of the page and everything that is computed from it.

const data = JSON.parse(byId("data").textContent);
const byName = new Intl.Collator("en", { numeric: true, sensitivity: "base" }).compare;

const STATUS_TEXT = {
  done: "done", error: "failed", running: "running", interrupted: "interrupted", missing: "output missing",
  partial: "partly done", waiting: "not begun",
};
const STATUS_ORDER = ["error", "interrupted", "missing", "running", "partial", "waiting", "done"];
const REVIEW_TEXT = { accept: "accepted", flag: "flagged", "": "undecided" };

const severalGrids = data.grids.length > 1;
const stages = data.stages.map((stage, index) => {
  const what = {
    segmentation: "Tissue", coords: "Patches", patch_features: stage.encoder, slide_features: stage.encoder,
  }[stage.kind];
  return { ...stage, index, what, label: severalGrids && stage.grid ? `${what} (${stage.grid})` : what };
});
const KIND_TEXT = {
  segmentation: "tissue outlines", coords: "patch coordinates", patch_features: "patch features",
  slide_features: "slide embedding",
};

let gridIndex = 0;

const slides = data.slides.map((raw, index) => {
  const cells = raw.cells ?? [];
  const slide = {
    pieces: null, holes: null, mpp: null, tissue_mm2: null, patches: [], patch_pictures: [], notes: [], size_px: [],
    ...raw, cells, index, id: raw.rel_path ?? raw.name,
  };
  slide.status = overallStatus(cells.map((cell) => cell.status));
  slide.errors = cells.flatMap((cell, at) => (cell.error ? [{ stage: stages[at], text: cell.error }] : []));
  const timed = cells.filter((cell) => cell.seconds !== undefined);
  slide.seconds = timed.length ? timed.reduce((sum, cell) => sum + cell.seconds, 0) : null;
  slide.bottleneck = bottleneckOf(cells);
  const folder = slide.id.lastIndexOf("/");
  slide.folder = folder >= 0 ? slide.id.slice(0, folder + 1) : "";
  slide.text = [slide.name, slide.id, ...slide.errors.map((error) => error.text), ...slide.notes].join("\n").toLowerCase();
  return slide;
});

function overallStatus(statuses) {
  for (const status of ["error", "running", "interrupted", "missing"]) if (statuses.includes(status)) return status;
  if (statuses.every((status) => status === "done")) return "done";
  return statuses.includes("done") ? "partial" : "waiting";
}

/** The stage that took longest, and within it the part that did, where stages say how their time was spent. */
function bottleneckOf(cells) {
  let longest = null;
  cells.forEach((cell, at) => {
    if (cell.seconds !== undefined && (longest === null || cell.seconds > cells[longest].seconds)) longest = at;
  });
  if (longest === null) return null;
  return { stage: stages[longest], seconds: cells[longest].seconds, part: Object.keys(cells[longest].parts ?? {})[0] ?? null };
}

const bottleneckText = (slide) =>
  slide.bottleneck ? slide.bottleneck.stage.label + (slide.bottleneck.part ? `, ${slide.bottleneck.part}` : "") : "";

// What is shown as a distribution. A slide without tissue or patches always counts as unusual; the time of one that
// failed says nothing.
const METRICS = [
  { key: "tissue", title: "Tissue area", unit: "mm²", value: (slide) => slide.tissue_mm2, format: short, zeroIsOdd: true },
  { key: "patches", title: "Patches", unit: "", value: (slide) => slide.patches[gridIndex] ?? null, format: whole, zeroIsOdd: true },
  { key: "mpp", title: "Resolution", unit: "µm/px", value: (slide) => slide.mpp, format: mppText },
  { key: "seconds", title: "Time, all stages", unit: "s", value: (slide) => (slide.errors.length ? null : slide.seconds), format: short },
];
const MIN_FOR_OUTLIERS = 5;
const LEAST_REACH = 0.1; // of the median: 0.2528 µm/px among slides of 0.25 is nothing unusual

/** Sets each metric's values, quartiles and fences (Tukey: 1.5 times the interquartile range), and the slides beyond. */
function measure() {
  for (const slide of slides) slide.odd = new Set();
  for (const metric of METRICS) {
    metric.values = slides.map(metric.value).filter((value) => value !== null).sort((a, b) => a - b);
    const [first, third] = [quantile(metric.values, 0.25), quantile(metric.values, 0.75)];
    const reach = Math.max(1.5 * (third - first), LEAST_REACH * quantile(metric.values, 0.5));
    const enough = metric.values.length >= MIN_FOR_OUTLIERS;
    metric.fences = enough ? [first - reach, third + reach] : [-Infinity, Infinity];
    metric.isOdd = (value) =>
      value < metric.fences[0] || value > metric.fences[1] || (metric.zeroIsOdd === true && value === 0);
    for (const slide of slides) {
      const value = metric.value(slide);
      if (value !== null && metric.isOdd(value)) slide.odd.add(metric.key);
    }
    metric.oddCount = slides.filter((slide) => slide.odd.has(metric.key)).length;
  }
}

function quantile(sorted, share) {
  if (!sorted.length) return NaN;
  const at = (sorted.length - 1) * share;
  const low = Math.floor(at);
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

// Which slides are shown, and in which order.
const filters = { query: "", status: "", review: "", stage: "", outliers: false, ranges: new Map() };
const order = { column: "name", descending: false };

function shownSlides(columns) {
  const words = filters.query.toLowerCase().split(/\s+/).filter(Boolean);
  const [stageAt, wanted] = filters.stage ? filters.stage.split(":") : [null, null];
  const kept = slides.filter((slide) => {
    if (filters.status && slide.status !== filters.status) return false;
    if (filters.review && (review.of(slide).qc || "undecided") !== filters.review) return false;
    if (filters.outliers && slide.odd.size === 0) return false;
    if (stageAt !== null) {
      const status = slide.cells[stageAt].status;
      if (wanted === "open" ? status === "done" : status !== wanted) return false;
    }
    for (const [key, range] of filters.ranges) {
      const value = METRICS.find((metric) => metric.key === key).value(slide);
      if (value === null || !range.has(value)) return false;
    }
    const text = words.length ? `${slide.text}\n${review.of(slide).note.toLowerCase()}` : "";
    return words.every((word) => text.includes(word));
  });
  const column = columns.find((one) => one.key === order.column);
  const sign = order.descending ? -1 : 1;
  return kept.sort((a, b) => {
    const [x, y] = [column.value(a), column.value(b)];
    const [noX, noY] = [x === null || x === "", y === null || y === ""];
    if (noX || noY) return noX - noY || byName(a.id, b.id); // what is not known comes last, whichever way
    return sign * (typeof x === "string" ? byName(x, y) : x - y) || byName(a.id, b.id);
  });
}
