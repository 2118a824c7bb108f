// Puts the parts together.

measure();
drawHeading();
drawBanners();
drawTiles();
drawRuns();

const detail = new Detail((slide) => {
  const at = table.view.indexOf(slide);
  table.focus(at >= 0 ? at : table.active);
});
const table = new SlideTable(
  (at) => detail.open(table.view, at, false),
  (column) => {
    order.descending = order.column === column && !order.descending;
    order.column = column;
    table.drawHead(table.onSort);
    update();
    byId("head").querySelector(`[data-column="${column}"]`).focus();
  },
);

drawStages((slide) => {
  const at = table.view.indexOf(slide);
  if (at >= 0) detail.open(table.view, at, false);
  else detail.open([slide], 0, false);
});

/** Shows the table, the bars and the counts as the filters have them. */
function update() {
  const view = shownSlides(COLUMNS);
  const none = slides.length ? "No slide fits these filters." : "No slide has been begun in this job directory.";
  table.show(view, none);
  byId("shown").textContent = view.length === slides.length ? plural(slides.length, "slide") : `${whole(view.length)} of ${plural(slides.length, "slide")}`;
  drawCharts(update);
  byId("chips").replaceChildren(...[...filters.ranges].map(([key, range]) => {
    const metric = METRICS.find((one) => one.key === key);
    const remove = () => {
      filters.ranges.delete(key);
      update();
      byId("search").focus();
    };
    return el("li", {}, el("button", { type: "button", onclick: remove, "aria-label": `Remove: ${rangeText(metric, range)}` }, `${rangeText(metric, range)} ✕`));
  }));
}

function updateReview() {
  const [accepted, flagged] = [review.count("accept"), review.count("flag")];
  const unlisted = slides.filter((slide) => !slide.rel_path).length;
  const note = unlisted ? `; ${plural(unlisted, "slide")} cannot be saved: the path of its file is not known` : "";
  byId("review-counts").textContent = `${whole(accepted)} accepted, ${whole(flagged)} flagged, ${whole(slides.length - accepted - flagged)} undecided${note}`;
  byId("start-review").disabled = accepted + flagged === slides.length;
  byId("save-accepted").disabled = accepted === 0;
  byId("save-flagged").disabled = flagged === 0;
  byId("save-all").disabled = slides.length === 0;
  drawBanners();
}

review.onChange(() => {
  updateReview();
  if (filters.review) update();
  else table.refresh();
});

function fillSelect(id, options) {
  byId(id).replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
}

fillSelect("filter-status", [["", "all"], ...STATUS_ORDER.filter((status) => slides.some((slide) => slide.status === status)).map((status) => [status, STATUS_TEXT[status]])]);
fillSelect("filter-review", [["", "all"], ["accept", "accepted"], ["flag", "flagged"], ["undecided", "undecided"]]);
fillSelect("filter-stage", [["", "all"], ...stages.flatMap((stage) => [[`${stage.index}:done`, `${stage.label}: done`], [`${stage.index}:open`, `${stage.label}: not done`], [`${stage.index}:error`, `${stage.label}: failed`]])]);
fillSelect("grid", data.grids.map((grid, at) => [String(at), grid]));
byId("grid-label").hidden = !severalGrids;

let typing;
byId("search").addEventListener("input", (event) => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    filters.query = event.target.value;
    update();
  }, 80);
});
for (const [id, name] of [["filter-status", "status"], ["filter-review", "review"], ["filter-stage", "stage"]]) {
  byId(id).addEventListener("change", (event) => {
    filters[name] = event.target.value;
    update();
  });
}
byId("outliers").addEventListener("change", (event) => {
  filters.outliers = event.target.checked;
  update();
});
byId("grid").addEventListener("change", (event) => {
  gridIndex = Number(event.target.value);
  filters.ranges.delete("patches");
  measure();
  drawTiles();
  update();
});
byId("clear").addEventListener("click", () => {
  clearTimeout(typing);
  Object.assign(filters, { query: "", status: "", review: "", stage: "", outliers: false });
  filters.ranges.clear();
  for (const id of ["search", "filter-status", "filter-review", "filter-stage"]) byId(id).value = "";
  byId("outliers").checked = false;
  update();
});

byId("start-review").addEventListener("click", () => {
  // The table's own order and filters first; where they show nothing undecided, the whole cohort.
  const list = table.view.some((slide) => !review.of(slide).qc) ? table.view : slides;
  detail.open(list, list.findIndex((slide) => !review.of(slide).qc), true);
});
const jobFile = data.job_name.replace(/[^\w.-]+/g, "_") || "job";
for (const [id, suffix, keep] of [
  ["save-accepted", "accepted", (slide) => review.of(slide).qc === "accept"],
  ["save-flagged", "flagged", (slide) => review.of(slide).qc === "flag"],
  ["save-all", "review", () => true],
]) {
  byId(id).addEventListener("click", () => saveCsv(`${jobFile}-${suffix}.csv`, reviewCsv(slides.filter(keep))));
}
byId("load-review").addEventListener("click", () => byId("load-file").click());
byId("load-file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (file) {
    const said = loadCsv(await file.text());
    updateReview();
    byId("review-counts").textContent += `. ${said}`;
  }
  event.target.value = "";
});

// Light, dark, or as the system has it; a matter of this page view only.
const THEMES = ["auto", "light", "dark"];
let theme = 0;
function showTheme() {
  if (THEMES[theme] === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = THEMES[theme];
  byId("theme").textContent = `Colours: ${THEMES[theme]}`;
}
byId("theme").addEventListener("click", () => {
  theme = (theme + 1) % THEMES.length;
  showTheme();
});
showTheme();
update();
updateReview();
