// Heading, warnings, key figures, stages and runs.

function drawHeading() {
  byId("job-name").textContent = data.job_name;
  byId("job-facts").append(
    el("span", {}, data.job_dir),
    ...(data.wsi_dir ? [el("span", {}, `slides from ${data.wsi_dir}`)] : []),
    el("span", {}, `written ${moment(data.generated_at)}`),
    el("span", {}, `trident ${data.version}`),
  );
}

function drawBanners() {
  const banners = [];
  const latest = data.runs[0];
  if (data.running) banners.push(el("p", { class: "banner busy" }, "A run is at work on this job directory. Reload the page for newer figures."));
  else if (latest?.status === "error" && latest.error) banners.push(el("p", { class: "banner error" }, `The last run ended in an error: ${latest.error}`));
  if (data.problems.length) {
    const list = el("ul", {}, data.problems.map((problem) => el("li", {}, problem)));
    banners.push(el("details", { class: "banner warning", open: data.problems.length < 4 }, el("summary", {}, `${plural(data.problems.length, "file")} could not be used`), list));
  }
  if (data.pictures_left_out) banners.push(el("p", { class: "banner warning" }, `${plural(data.pictures_left_out, "picture")} left out: more do not fit in one page. They lie in the job directory.`));
  if (review.isBroken()) banners.push(el("p", { class: "banner warning" }, "This browser does not keep decisions of the review: save them as CSV before you close the page."));
  byId("banners").replaceChildren(...banners);
}

function drawTiles() {
  const count = (...statuses) => slides.filter((slide) => statuses.includes(slide.status)).length;
  const sum = (values) => {
    const known = values.filter((value) => value !== null && value !== undefined);
    return known.length ? known.reduce((total, value) => total + value, 0) : null;
  };
  const shown = (value, format) => (value === null ? "–" : format(value)); // nothing known is not nothing
  const tiles = [
    ["Slides", whole(slides.length)],
    ["Done", whole(count("done"))],
    ["Failed", whole(count("error")), count("error") ? "bad" : ""],
    ["Running", whole(count("running"))],
    ["Unfinished", whole(count("interrupted", "missing", "partial", "waiting")), count("interrupted", "missing") ? "warn" : ""],
    ["Tissue", shown(sum(slides.map((slide) => slide.tissue_mm2)), (area) => `${short(area)} mm²`)],
    ["Patches", shown(sum(slides.map((slide) => slide.patches[gridIndex])), whole)],
    ["Time in stages", shown(sum(slides.map((slide) => slide.seconds)), duration)],
  ];
  byId("tiles").replaceChildren(...tiles.map(([name, value, kind]) => el("li", { class: kind ?? "" }, el("span", {}, name), el("strong", {}, value))));
}

function drawStages(openSlide) {
  const all = stages.map((stage) => {
    const cells = slides.map((slide) => slide.cells[stage.index]);
    const timed = slides.filter((slide) => slide.cells[stage.index].seconds !== undefined);
    const seconds = timed.map((slide) => slide.cells[stage.index].seconds).sort((a, b) => a - b);
    const slowest = timed.reduce((most, slide) => (most === null || slide.cells[stage.index].seconds > most.cells[stage.index].seconds ? slide : most), null);
    return { stage, cells, seconds, slowest, total: seconds.reduce((sum, value) => sum + value, 0) };
  });
  const total = all.reduce((sum, one) => sum + one.total, 0);
  const most = Math.max(...all.map((one) => one.total));
  const head = ["Stage", "Patch grid", "Slides", "Total", "Share", "Median", "Slowest slide", "Where the time went"];
  const rows = all.map((one) => {
    const isMost = total > 0 && one.total === most;
    return el("tr", {},
      el("td", {}, el("strong", {}, one.stage.what), ...(isMost ? [" ", el("span", { class: "tag partial" }, "bottleneck")] : []), el("div", { class: "muted" }, KIND_TEXT[one.stage.kind])),
      el("td", {}, one.stage.grid ?? "–"),
      el("td", { class: "counts" }, ...countsOf(one.cells)),
      el("td", { class: "number" }, one.seconds.length ? duration(one.total) : "–"),
      el("td", { class: "number" }, one.seconds.length ? percent(one.total, total) : "–"),
      el("td", { class: "number" }, one.seconds.length ? duration(quantile(one.seconds, 0.5)) : "–"),
      el("td", {}, ...(one.slowest ? [el("button", { type: "button", class: "link", onclick: () => openSlide(one.slowest) }, one.slowest.name), el("div", { class: "muted" }, duration(one.seconds.at(-1)))] : ["–"])),
      el("td", { class: "parts" }, one.stage.spent ?? "–"),
    );
  });
  const numbers = new Set(["Total", "Share", "Median"]);
  byId("stages").replaceChildren(
    el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col", class: numbers.has(text) ? "number" : "" }, text)))),
    el("tbody", {}, rows),
  );
}

/** How many slides stand how with a stage, in words and as a bar. */
function countsOf(cells) {
  const counts = {};
  for (const cell of cells) counts[cell.status] = (counts[cell.status] ?? 0) + 1;
  const shown = ["done", "error", "interrupted", "missing", "running", "waiting"].filter((status) => counts[status]);
  const bar = el("div", { class: "stack", "aria-hidden": "true" }, shown.map((status) => {
    const piece = el("i", { class: `fill-${status}` });
    piece.style.width = `${(100 * counts[status]) / cells.length}%`;
    return piece;
  }));
  return [shown.map((status) => `${whole(counts[status])} ${STATUS_TEXT[status]}`).join(", ") || "–", bar];
}

function drawRuns() {
  byId("runs-heading").textContent = `Runs (${whole(data.n_runs)})`;
  const rows = data.runs.map((run) =>
    el("tr", {},
      el("td", {}, moment(run.started_at)),
      el("td", {}, moment(run.finished_at)),
      el("td", {}, run.tool ?? "–", el("div", { class: "muted" }, run.run_id ?? "")),
      el("td", {}, el("span", { class: `tag ${{ completed: "done", error: "error" }[run.status] ?? ""}` }, run.status ?? "unknown")),
      el("td", {}, run.error ?? "–"),
      el("td", {}, Object.entries(run.args).map(([name, value]) => el("div", {}, el("code", {}, `${name} = ${typeof value === "string" ? value : JSON.stringify(value)}`)))),
    ),
  );
  const head = ["Started", "Ended", "Command", "Status", "Error", "Options given"];
  byId("runs").replaceChildren(el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, rows));
}
