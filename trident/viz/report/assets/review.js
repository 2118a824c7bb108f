// Decisions about slides: kept in this browser, saved and loaded as CSV.

const review = (() => {
  const key = `trident-report:${data.job_dir}`;
  const EMPTY = Object.freeze({ qc: "", note: "" });
  const listeners = [];
  let kept = {};
  let broken = false;

  function read() {
    try {
      const found = JSON.parse(localStorage.getItem(key) ?? "{}");
      kept = {};
      for (const [id, entry] of Object.entries(found)) {
        const qc = entry?.qc in REVIEW_TEXT ? entry.qc : "";
        kept[id] = { qc, note: typeof entry?.note === "string" ? entry.note : "" };
      }
    } catch (problem) {
      broken = true; // storage is off, or holds something else: the page works on, and says so
    }
  }

  function write() {
    try {
      localStorage.setItem(key, JSON.stringify(kept));
    } catch (problem) {
      broken = true;
    }
    listeners.forEach((listener) => listener());
  }

  read();
  addEventListener("storage", (event) => {
    if (event.key === key) {
      read();
      listeners.forEach((listener) => listener());
    }
  });

  return {
    of: (slide) => (Object.hasOwn(kept, slide.id) ? kept[slide.id] : EMPTY),
    set(slide, change) {
      const entry = { ...this.of(slide), ...change };
      if (entry.qc || entry.note) kept[slide.id] = entry;
      else delete kept[slide.id];
      write();
    },
    setMany(entries) {
      for (const [slide, entry] of entries) kept[slide.id] = entry;
      write();
    },
    onChange: (listener) => listeners.push(listener),
    isBroken: () => broken,
    count: (qc) => slides.filter((slide) => review.of(slide).qc === qc).length,
  };
})();

/** CSV with the column `wsi` that `--custom_list_of_wsis` reads; slides whose file is not known cannot be listed. */
function reviewCsv(chosen) {
  const listed = chosen.filter((slide) => slide.rel_path);
  const withMpp = listed.some((slide) => slide.given_mpp); // else a run with this list would lose what it was given
  const rows = listed.map((slide) => [
    slide.rel_path, review.of(slide).qc, review.of(slide).note, ...(withMpp ? [String(slide.given_mpp ?? "")] : []),
  ]);
  return [["wsi", "qc", "note", ...(withMpp ? ["mpp"] : [])], ...rows].map((row) => `${row.map(csvCell).join(",")}\n`).join("");
}

const csvCell = (value) => (/[",\r\n]|^\s|\s$/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

function saveCsv(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  const link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Takes decisions from a saved CSV; returns one line that says what was taken. */
function loadCsv(text) {
  const [head, ...rows] = csvRows(text.replace(/^\ufeff/, ""));
  const at = Object.fromEntries(["wsi", "qc", "note"].map((name) => [name, (head ?? []).map((cell) => cell.trim()).indexOf(name)]));
  if (at.wsi < 0 || at.qc < 0) return "This file has no columns wsi and qc; choose one that this page has saved.";
  const byPath = new Map(slides.filter((slide) => slide.rel_path).map((slide) => [slide.rel_path, slide]));
  const taken = [];
  let unknown = 0;
  for (const row of rows) {
    if (row.every((cell) => cell === "")) continue;
    const slide = byPath.get(row[at.wsi]);
    const qc = (row[at.qc] ?? "").trim();
    if (slide && qc in REVIEW_TEXT) taken.push([slide, { qc, note: row[at.note] ?? "" }]);
    else unknown += 1;
  }
  review.setMany(taken);
  return `${plural(taken.length, "decision")} loaded` + (unknown ? `, ${plural(unknown, "row")} left out (no such slide or decision).` : ".");
}

function csvRows(text) {
  const rows = [[""]];
  let quoted = false;
  for (let at = 0; at < text.length; at += 1) {
    const character = text[at];
    const row = rows.at(-1);
    if (character === '"') {
      if (quoted && text[at + 1] === '"') row[row.length - 1] += text[++at];
      else quoted = !quoted;
    } else if (!quoted && character === ",") row.push("");
    else if (!quoted && (character === "\n" || character === "\r")) {
      if (character === "\n" || text[at + 1] !== "\n") rows.push([""]);
    } else row[row.length - 1] += character;
  }
  return rows;
}
