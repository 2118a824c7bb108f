// One slide in full: pictures, decision, facts, errors, stages.

class Detail {
  constructor(onClose) {
    this.dialog = byId("detail");
    this.list = [];
    this.at = 0;
    this.onClose = onClose;
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      this.close();
    });
    this.dialog.addEventListener("keydown", (event) => this.onKey(event));
    byId("close").addEventListener("click", () => this.close());
    byId("previous").addEventListener("click", () => this.go(this.at - 1));
    byId("next").addEventListener("click", () => this.go(this.at + 1));
    for (const [id, qc] of [["accept", "accept"], ["flag", "flag"], ["undecide", ""]]) {
      byId(id).addEventListener("click", () => this.decide(qc));
    }
    byId("note").addEventListener("input", () => review.set(this.slide, { note: byId("note").value }));
  }

  get slide() {
    return this.list[this.at];
  }

  /** Opens the slide at place `at` of a list, through which one can then go. */
  open(list, at, advance = byId("advance").checked) {
    if (!list[at]) return;
    this.list = [...list]; // decisions may change what the table shows, but not this walk
    byId("advance").checked = advance;
    if (!this.dialog.open) this.dialog.showModal();
    this.go(at);
  }

  go(at) {
    if (!this.list[at]) return;
    this.at = at;
    const slide = this.slide;
    byId("detail-name").textContent = slide.name;
    byId("detail-path").textContent = slide.abs_path ?? slide.rel_path ?? "The file of this slide is not known.";
    byId("detail-position").textContent = `${whole(at + 1)} of ${whole(this.list.length)}`;
    byId("previous").disabled = at === 0;
    byId("next").disabled = at === this.list.length - 1;
    byId("note").value = review.of(slide).note;
    byId("detail-pictures").replaceChildren(...picturesOf(slide));
    byId("detail-facts").replaceChildren(...factsOf(slide));
    byId("detail-errors").replaceChildren(...errorsOf(slide));
    drawSlideStages(slide);
    this.showDecision();
    this.dialog.querySelector(".detail-body").scrollTop = 0;
    byId("detail-name").focus();
  }

  /** Closes at once: the dialog's own `close` event comes later, when the next key may have moved the focus already. */
  close() {
    this.dialog.close();
    this.onClose(this.slide);
  }

  showDecision() {
    const { qc } = review.of(this.slide);
    byId("accept").setAttribute("aria-pressed", String(qc === "accept"));
    byId("flag").setAttribute("aria-pressed", String(qc === "flag"));
  }

  decide(qc) {
    review.set(this.slide, { qc });
    this.showDecision();
    if (qc && byId("advance").checked) {
      const next = this.list.findIndex((slide, at) => at > this.at && !review.of(slide).qc);
      if (next >= 0) this.go(next);
    }
  }

  onKey(event) {
    if (event.target.closest("textarea, input") || event.ctrlKey || event.altKey || event.metaKey) return;
    const decision = { a: "accept", f: "flag", u: "" }[event.key.toLowerCase()];
    if (event.key === "ArrowLeft") this.go(this.at - 1);
    else if (event.key === "ArrowRight") this.go(this.at + 1);
    else if (decision !== undefined) this.decide(decision);
    else return;
    event.preventDefault();
  }
}

function picturesOf(slide) {
  const figures = [figure(slide.tissue_picture, `Tissue of ${slide.name}`, "Tissue outlines")];
  data.grids.forEach((grid, at) => {
    const count = slide.patches[at] === null || slide.patches[at] === undefined ? "" : `, ${plural(slide.patches[at], "patch", "patches")}`;
    figures.push(figure(slide.patch_pictures[at], `Patches of ${slide.name}, ${grid}`, `Patches ${grid}${count}`));
  });
  return figures;
}

function figure(picture, alt, caption) {
  const source = pictureSource(picture?.id);
  const why = picture ? `not in this page; it lies in the job directory: ${picture.file}` : "no picture yet";
  const content = source ? el("img", { src: source, alt }) : el("div", { class: "none" }, why);
  const link = picture?.link ? [" · ", el("a", { href: picture.link, target: "_blank", rel: "noopener" }, "full size")] : [];
  return el("figure", {}, content, el("figcaption", {}, caption, ...link));
}

function factsOf(slide) {
  const [width, height] = slide.size_px;
  const facts = [
    ["Status", tag(slide.status, STATUS_TEXT[slide.status])],
    ["Resolution", slide.mpp === null ? "unknown" : `${mppText(slide.mpp)} µm/px${slide.mag ? `, ${short(slide.mag)}×` : ""}`],
    ["Level 0", width && height ? `${whole(width)} × ${whole(height)} px` : "–"],
    ["Levels", slide.levels ? whole(slide.levels) : "–"],
    ["Reader", slide.reader ?? "–"],
    ["Tissue", slide.tissue_mm2 === null ? "–" : `${short(slide.tissue_mm2)} mm² in ${plural(slide.pieces ?? 0, "piece")}${slide.holes ? `, ${plural(slide.holes, "hole")}` : ""}`],
    ...data.grids.map((grid, at) => ["Patches", (slide.patches[at] == null ? "–" : whole(slide.patches[at])) + (severalGrids ? ` (${grid})` : "")]),
    ["Time", duration(slide.seconds)],
    ["Longest stage", slide.bottleneck ? bottleneckText(slide) : "–"],
    ["Changed", moment(slide.updated_at)],
    ...slide.notes.map((note) => ["Note of the run", note]),
  ];
  const unusual = METRICS.filter((metric) => slide.odd.has(metric.key)).map((metric) => metric.title.toLowerCase());
  if (unusual.length) facts.push(["Unusual", el("span", { class: "odd" }, unusual.join(", "))]);
  return facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
}

function errorsOf(slide) {
  const now = slide.errors.map((error) => el("div", { class: "failure" }, el("h3", {}, `${error.stage.label} failed`), el("pre", {}, error.text)));
  const earlier = slide.cells.flatMap((cell, at) =>
    (cell.earlier ?? []).map((error) => {
      const times = error.times > 1 ? `, ${error.times} times` : "";
      return el("div", { class: "failure earlier" }, el("h3", {}, `${stages[at].label} failed before (${moment(error.at)}${times})`), el("pre", {}, error.text));
    }),
  );
  return [...now, ...earlier];
}

/** Where the time of a stage went, as shares of it and as the seconds that were measured. */
function partsOf(cell) {
  const shares = Object.entries(cell.parts ?? {}).map(([part, share]) => `${percent(share, 1)} ${part}`);
  const seconds = Object.entries(cell.timings ?? {}).filter(([, value]) => value > 0).map(([phase, value]) => `${phase} ${duration(value)}`);
  return [shares, seconds].filter((texts) => texts.length).map((texts) => el("div", { class: "parts" }, texts.join(", ")));
}

function drawSlideStages(slide) {
  const head = ["Stage", "Patch grid", "Status", "Attempts", "Seconds", "Share of the slide's time", "What it says"];
  const rows = stages.map((stage) => {
    const cell = slide.cells[stage.index];
    const share = el("div", { class: "share", "aria-hidden": "true" });
    if (slide.seconds && cell.seconds) {
      share.append(el("i", { class: slide.bottleneck?.stage === stage ? "most" : "" }));
      share.firstChild.style.width = `${(100 * cell.seconds) / slide.seconds}%`;
    }
    return el("tr", {},
      el("td", {}, el("strong", {}, stage.what), el("div", { class: "muted" }, KIND_TEXT[stage.kind])),
      el("td", {}, stage.grid ?? "–"),
      el("td", {}, tag(cell.status, STATUS_TEXT[cell.status])),
      el("td", { class: "number" }, cell.attempts ? whole(cell.attempts) : "–"),
      el("td", { class: "number" }, cell.seconds === undefined ? "–" : cell.seconds.toLocaleString("en", { maximumFractionDigits: 3 })),
      el("td", {}, share, ...partsOf(cell)),
      el("td", {}, cell.error ? "see above" : (cell.message ?? "–")),
    );
  });
  const numbers = new Set(["Attempts", "Seconds"]);
  byId("detail-stages").replaceChildren(
    el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col", class: numbers.has(text) ? "number" : "" }, text)))),
    el("tbody", {}, rows),
  );
}
