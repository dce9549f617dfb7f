// What the pages have beyond reading: a remembered theme and token, sorting, live updates.
"use strict";

// The theme comes before anything is painted; the rest waits for the page.
const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;

document.addEventListener("DOMContentLoaded", () => {
  rememberTheme();
  takeToken();
  countChosen();
  document.querySelectorAll("table:not(.runs)").forEach(makeSortable);
  const { rows, run, log } = document.body.dataset;
  if (rows) follow(rows, { rows: replaceRows });
  if (run) follow(run, { panel: replacePanel, status: say, stages: reloadReport, over: end });
  if (log) follow(log, { lines: appendLines, over: () => say("The stage has ended.") });
});

function rememberTheme() {
  const chosen = document.getElementById(`theme-${theme}`);
  if (chosen) chosen.checked = true;
  document.querySelector(".theme").addEventListener("change", (event) => {
    localStorage.setItem("theme", event.target.value);
    document.documentElement.dataset.theme = event.target.value;
  });
}

// The first address carries the token behind the #, which a browser never sends.
function takeToken() {
  const given = /^#token=([0-9a-f]+)$/.exec(location.hash);
  if (given) {
    localStorage.setItem("token", given[1]);
    history.replaceState(null, "", location.pathname + location.search);
  }
  const token = localStorage.getItem("token");
  if (!token) return;
  for (const field of document.querySelectorAll(".token")) {
    field.querySelector("input").value = token;
    field.hidden = true;
  }
}

function countChosen() {
  const form = document.getElementById("compare");
  if (!form) return;
  const button = form.querySelector("button");
  const count = () => {
    const chosen = form.querySelectorAll("tbody input:checked").length;
    button.disabled = chosen < 2;
    button.textContent = chosen < 2 ? "Compare chosen runs" : `Compare ${chosen} runs`;
  };
  form.addEventListener("change", count);
  count();
}

// Sorting --------------------------------------------------------------------------------------

function makeSortable(table) {
  const headings = table.tHead ? [...table.tHead.rows[0].cells] : [];
  const body = table.tBodies[0];
  // Beside the changes of a single run's models it says that they are against the first row.
  const isOrdered = table.matches(".run .chain");
  if (!body || body.rows.length < 3 || isOrdered) return;
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const ascending = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortRows(body, column, ascending);
    });
  });
}

function sortRows(body, column, ascending) {
  const text = (row) => {
    const cell = row.cells[column];
    return (cell?.querySelector("span")?.textContent ?? cell?.firstChild?.textContent ?? "").trim();
  };
  const rows = [...body.rows].map((row) => ({ row, text: text(row), number: amount(text(row)) }));
  const known = rows.filter((one) => !isAbsent(one.text));
  const byNumber = known.every((one) => one.number !== null);
  const compare = (a, b) =>
    byNumber ? a.number - b.number : a.text.localeCompare(b.text, "en", { numeric: true });
  known.sort((a, b) => (ascending ? compare(a, b) : compare(b, a)));
  // What is not known comes last, whichever way it is sorted.
  const absent = rows.filter((one) => isAbsent(one.text));
  body.append(...[...known, ...absent].map((one) => one.row));
}

const isAbsent = (text) => ["", "–", "unavailable"].includes(text);

const SCALES = {
  "": 1, "%": 0.01, k: 1e3, M: 1e6, G: 1e9, T: 1e12, B: 1, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12,
  "µs": 1e-6, ms: 1e-3, s: 1, min: 60, h: 3600, d: 86400,
};

// "5 min 15 s", "22.6 M", "−0.9 pt" as a number; null for what is none.
function amount(text) {
  const parts = [...text.replaceAll("−", "-").replaceAll(",", "").matchAll(/(-?\d[\d.]*(?:e-?\d+)?)\s*([^\s\d-]*)/g)];
  if (!parts.length || parts[0].index !== 0) return null;
  return parts.reduce((sum, [, number, unit]) => {
    const prefix = "kMGT".includes(unit[0]) ? unit[0] : "";
    const scale = SCALES[unit] ?? SCALES[prefix];
    return sum + Number(number) * scale;
  }, 0);
}

// Live updates ---------------------------------------------------------------------------------

// Browsers allow few connections to one server, so that only pages in sight are connected.
function follow(address, handlers) {
  let source = null;
  const connect = () => {
    source = new EventSource(address);
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => {
        if (name === "over") close();
        handle(event.data);
      });
    }
  };
  const close = () => {
    source?.close();
    source = null;
    document.removeEventListener("visibilitychange", turn);
  };
  const turn = () => {
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (!source) {
      connect();
    }
  };
  document.addEventListener("visibilitychange", turn);
  window.addEventListener("pagehide", () => source?.close());
  if (!document.hidden) connect();
}

function say(text) {
  const status = document.getElementById("status");
  if (status && status.textContent !== text) status.textContent = text;
}

function replaceRows(html) {
  const rows = document.getElementById("rows");
  const chosen = [...rows.querySelectorAll("input:checked")].map((box) => box.value);
  const focused = rows.contains(document.activeElement) ? document.activeElement : null;
  rows.innerHTML = html;
  for (const box of rows.querySelectorAll("input")) box.checked = chosen.includes(box.value);
  if (focused?.id) document.getElementById(focused.id)?.focus();
  else if (focused?.value) rows.querySelector(`input[value="${focused.value}"]`)?.focus();
  document.getElementById("compare")?.dispatchEvent(new Event("change"));
}

function replacePanel(html) {
  const panel = document.getElementById("panel");
  // Whoever follows a link inside is not to lose it.
  if (!panel.contains(document.activeElement)) panel.innerHTML = html;
}

async function reloadReport() {
  const answer = await fetch(location.pathname);
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const report = document.getElementById("report");
  const name = (details) => details.querySelector("summary").firstChild.textContent.trim();
  const open = [...report.querySelectorAll("details[open]")].map(name);
  report.replaceChildren(...fresh.getElementById("report").childNodes);
  for (const details of report.querySelectorAll("details")) {
    details.open = open.includes(name(details));
  }
  report.querySelectorAll("table").forEach(makeSortable);
}

async function end() {
  document.getElementById("panel").replaceChildren();
  await reloadReport();
}

function appendLines(text) {
  const log = document.getElementById("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(text.endsWith("\n") ? text : `${text}\n`);
  if (atEnd) log.scrollTop = log.scrollHeight;
}
