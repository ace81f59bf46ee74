// One sweep: its plots, its progress while it runs, and the buttons that stop and resume it.

import { call, configBadges, make, microseconds, stateBadge } from "./http.js";
import { draw } from "./plots.js";

const FIGURES_EVERY_MS = 3000; // or ten times as long as the server needs for them
const SHOWN = 50;

const page = document.getElementById("sweep");
const id = page.dataset.id;
const live = document.getElementById("live");

async function drawFigures() {
  const figures = await call("GET", `/sweeps/${id}/figures`);
  for (const element of document.querySelectorAll("[data-figure]")) draw(element, figures[element.dataset.figure]);
}

let drawAgain;
let tookMs;
function drawSoon() {
  const pauseMs = tookMs === undefined ? 0 : Math.max(FIGURES_EVERY_MS, 10 * tookMs); // the first one at once
  drawAgain ??= setTimeout(async () => {
    drawAgain = undefined;
    const began = performance.now();
    const drawn = await drawFigures().then(() => true, () => false);
    tookMs = performance.now() - began;
    if (!drawn) drawSoon();
  }, pauseMs);
}

function addTrial(trial) {
  const link = make("a", { href: `/sweeps/${id}/trials/${trial.number}`, textContent: trial.number });
  const row = make(
    "tr",
    { className: "fresh" },
    make("td", { className: "n" }, link),
    make("td", { className: "short", textContent: trial.regime || "all" }),
    make("td", {}, stateBadge(trial.state)),
    make("td", { className: "n", textContent: microseconds(trial.latency_us) }),
    make("td", { className: "whole" }, configBadges(trial.config)),
  );
  const body = document.getElementById("trials");
  body.prepend(row);
  while (body.rows.length > SHOWN) body.lastElementChild.remove();
}

function show(sweep) {
  document.getElementById("count").textContent = sweep.trials;
  document.getElementById("state").replaceChildren(stateBadge(sweep.state));
  page.dataset.state = sweep.state;
  const bar = document.querySelector("#bar progress");
  if (bar && sweep.max_trials) bar.value = sweep.trials;
}

function watch() {
  const events = new EventSource(`/api/v1/sweeps/${id}/events?after=${page.dataset.last}`);
  events.addEventListener("trial", (event) => {
    const trial = JSON.parse(event.data);
    addTrial(trial);
    if (live) live.textContent = `Trial ${trial.number}: ${trial.state}${trial.latency_us ? `, ${microseconds(trial.latency_us)}` : ""}.`;
    drawSoon();
  });
  events.addEventListener("state", (event) => {
    const sweep = JSON.parse(event.data);
    show(sweep);
    if (live && sweep.max_trials && sweep.trials >= sweep.max_trials) live.textContent = "Measuring the finalists again, interleaved.";
  });
  events.addEventListener("end", () => {
    events.close();
    location.reload(); // winners, tables and the buttons come from the server
  });
  events.addEventListener("error", () => {
    if (live && events.readyState !== EventSource.CLOSED) live.textContent = "The server does not answer; trying again.";
  });
}

function act(button, method, path, meanwhile) {
  button?.addEventListener("click", async () => {
    const status = document.getElementById("action-status");
    button.disabled = true;
    status.className = "";
    status.textContent = meanwhile;
    try {
      await call(method, path);
      if (method === "POST") location.reload();
    } catch (error) {
      status.className = "warn";
      status.textContent = error.message;
      button.disabled = false;
    }
  });
}

act(document.getElementById("stop"), "DELETE", `/api/v1/sweeps/${id}`, "Stopping; what is finished is kept.");
act(document.getElementById("resume"), "POST", `/api/v1/sweeps/${id}/resume`, "Starting workers, this takes some seconds.");
drawSoon();
if (page.dataset.state === "RUNNING") watch();
