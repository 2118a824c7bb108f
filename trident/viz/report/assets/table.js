// The table of slides. Only the rows in sight exist, so its size does not depend on the cohort's.

const ROW_PX = 60;
const SPARE_ROWS = 6;

const COLUMNS = [
  { key: "pictures", title: "Tissue, patches", width: 152, cell: pictureCell },
  { key: "name", title: "Slide", value: (slide) => slide.name, cell: nameCell },
  { key: "status", title: "Status", width: 116, value: (slide) => STATUS_ORDER.indexOf(slide.status), cell: (slide) => tag(slide.status, STATUS_TEXT[slide.status]) },
  { key: "mpp", title: "µm/px", width: 76, number: true, value: (slide) => slide.mpp, cell: (slide) => odd(slide, "mpp", mppText(slide.mpp)) },
  { key: "tissue", title: "Tissue mm²", width: 98, number: true, value: (slide) => slide.tissue_mm2, cell: (slide) => odd(slide, "tissue", short(slide.tissue_mm2)) },
  { key: "patches", title: "Patches", width: 88, number: true, value: (slide) => slide.patches[gridIndex] ?? null, cell: (slide) => odd(slide, "patches", slide.patches[gridIndex] == null ? "–" : whole(slide.patches[gridIndex])) },
  { key: "seconds", title: "Time", width: 82, number: true, value: (slide) => slide.seconds, cell: (slide) => odd(slide, "seconds", duration(slide.seconds)) },
  { key: "bottleneck", title: "Longest stage", width: 150, value: bottleneckText, cell: bottleneckCell },
  { key: "review", title: "Review", width: 168, value: (slide) => review.of(slide).qc, cell: reviewCell },
];

const tag = (kind, text) => el("span", { class: `tag ${kind}` }, text);

function odd(slide, key, text) {
  return slide.odd.has(key) ? el("span", { class: "odd", title: "unusual in this cohort" }, text, el("span", { class: "visually-hidden" }, " (unusual)")) : text;
}

function pictureCell(slide) {
  const patches = slide.patch_pictures[gridIndex];
  return el("div", { class: "thumbs" }, thumb(slide.tissue_picture, "no tissue"), thumb(patches, "no patches"));
}

function thumb(picture, otherwise) {
  const source = pictureSource(picture?.id);
  return el("span", {}, source ? el("img", { src: source, alt: "", decoding: "async" }) : otherwise.replace("no ", "– "));
}

function nameCell(slide) {
  const below = slide.errors.length
    ? el("div", { class: "sub error", title: slide.errors[0].text }, withoutPath(slide.errors[0].text, slide))
    : el("div", { class: "sub muted", title: slide.id }, review.of(slide).note || slide.folder || slide.id);
  return [el("div", { class: "name", title: slide.name }, slide.name), below];
}

/** A message without the path that it begins with: the row names the slide already. */
const withoutPath = (text, slide) => (slide.abs_path && text.startsWith(`${slide.abs_path}: `) ? text.slice(slide.abs_path.length + 2) : text);

function bottleneckCell(slide) {
  if (!slide.bottleneck) return "–";
  const share = slide.seconds ? `${percent(slide.bottleneck.seconds, slide.seconds)} of its time` : "";
  return [el("div", { class: "sub", title: bottleneckText(slide) }, bottleneckText(slide)), el("div", { class: "sub muted" }, share)];
}

function reviewCell(slide) {
  const { qc } = review.of(slide);
  const button = (value, sign, name) =>
    el("button", {
      type: "button", tabIndex: -1, title: name, "aria-label": `${name} ${slide.name}`, "aria-pressed": String(qc === value),
      onclick: (event) => {
        event.stopPropagation();
        review.set(slide, { qc: qc === value ? "" : value });
      },
    }, sign);
  return el("div", { class: "row-actions" }, button("accept", "✓", "Accept"), button("flag", "⚑", "Flag"), tag(qc, REVIEW_TEXT[qc]));
}

class SlideTable {
  constructor(onOpen, onSort) {
    this.box = byId("grid-box");
    this.body = byId("body");
    this.view = [];
    this.rows = new Map();
    this.active = 0;
    this.onOpen = onOpen;
    this.top = this.spacer();
    this.bottom = this.spacer();
    this.drawHead(onSort);
    this.box.addEventListener("scroll", () => requestAnimationFrame(() => this.render()), { passive: true });
    this.box.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => this.render()).observe(this.box);
  }

  spacer() {
    return el("tr", { class: "space", "aria-hidden": "true" }, el("td", { colSpan: COLUMNS.length }));
  }

  drawHead(onSort) {
    this.onSort = onSort;
    const cells = COLUMNS.map((column) => {
      const sorted = order.column === column.key;
      const text = sorted ? `${column.title} ${order.descending ? "▼" : "▲"}` : column.title;
      const cell = el("th", { scope: "col", class: column.number ? "number" : "" });
      if (sorted) cell.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
      if (column.width) cell.style.width = `${column.width}px`;
      cell.append(column.value ? el("button", { type: "button", "data-column": column.key, onclick: () => onSort(column.key) }, text) : el("span", {}, text));
      return cell;
    });
    byId("head").replaceChildren(el("tr", { "aria-rowindex": 1 }, cells));
  }

  /** Shows these slides; the row in focus stays with its slide where that is still shown. */
  show(view, emptyText) {
    const before = this.view[this.active];
    const hadFocus = this.body.contains(document.activeElement);
    this.view = view;
    this.active = Math.max(0, view.indexOf(before));
    this.rows.clear();
    this.body.replaceChildren(this.top, this.bottom);
    byId("table").setAttribute("aria-rowcount", view.length + 1);
    byId("nothing").hidden = view.length > 0;
    byId("nothing").textContent = emptyText;
    this.render();
    if (hadFocus) this.focus(this.active);
  }

  /** Draws again the rows in sight, after decisions have changed. */
  refresh() {
    const focused = this.body.contains(document.activeElement) ? this.active : null;
    for (const row of this.rows.values()) row.remove();
    this.rows.clear();
    this.render();
    if (focused !== null) this.focus(focused);
  }

  render() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW_PX) - SPARE_ROWS);
    const end = Math.min(this.view.length, Math.ceil((this.box.scrollTop + this.box.clientHeight) / ROW_PX) + SPARE_ROWS);
    for (const [at, row] of this.rows) {
      if (at < first || at >= end) {
        // Keys must go on working when the focused row is scrolled out of sight.
        if (row.contains(document.activeElement)) this.box.focus({ preventScroll: true });
        row.remove();
        this.rows.delete(at);
      }
    }
    let after = this.top;
    for (let at = first; at < end; at += 1) {
      const row = this.rows.get(at) ?? this.row(at);
      if (after.nextSibling !== row) after.after(row);
      this.rows.set(at, row);
      after = row;
    }
    this.top.firstChild.style.height = `${first * ROW_PX}px`;
    this.bottom.firstChild.style.height = `${(this.view.length - end) * ROW_PX}px`;
    const stop = this.rows.has(this.active) ? this.active : Math.min(Math.ceil(this.box.scrollTop / ROW_PX), end - 1);
    for (const [at, row] of this.rows) row.tabIndex = at === stop ? 0 : -1;
  }

  row(at) {
    const slide = this.view[at];
    const row = el("tr", {
      "aria-rowindex": at + 2, "data-slide": slide.id,
      onclick: () => {
        this.active = at;
        this.onOpen(at);
      },
      onfocus: () => { this.active = at; },
    });
    for (const column of COLUMNS) row.append(el("td", { class: column.number ? "number" : "" }, column.cell(slide)));
    return row;
  }

  focus(at) {
    if (!this.view.length) return;
    this.active = Math.min(Math.max(at, 0), this.view.length - 1);
    const head = byId("head").offsetHeight;
    const [top, bottom] = [this.active * ROW_PX, (this.active + 1) * ROW_PX + head];
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (bottom > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = bottom - this.box.clientHeight;
    this.render();
    const row = this.rows.get(this.active);
    for (const other of this.rows.values()) other.tabIndex = other === row ? 0 : -1;
    row.focus({ preventScroll: true });
  }

  onKey(event) {
    if (event.target.closest("thead, button") || event.ctrlKey || event.altKey || event.metaKey || !this.view.length) return;
    const page = Math.max(1, Math.floor(this.box.clientHeight / ROW_PX) - 1);
    const to = {
      ArrowDown: this.active + 1, ArrowUp: this.active - 1, PageDown: this.active + page, PageUp: this.active - page,
      Home: 0, End: this.view.length - 1,
    }[event.key];
    const decision = { a: "accept", f: "flag", u: "" }[event.key.toLowerCase()];
    if (to !== undefined) this.focus(to);
    else if (event.key === "Enter" || event.key === " ") this.onOpen(this.active);
    else if (decision !== undefined) review.set(this.view[this.active], { qc: decision });
    else return;
    event.preventDefault();
  }
}
