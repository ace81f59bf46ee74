// The list of sweeps: starts one, and keeps the running ones up to date.

import { call, stateBadge } from "./http.js";

const form = document.getElementById("start");
if (form) {
  const status = document.getElementById("start-status");
  const button = form.querySelector("button");

  const offerSpaces = () => {
    const spaces = (form.definition.selectedOptions[0]?.dataset.spaces || "").split(" ").filter(Boolean);
    form.space.replaceChildren(new Option("the one that fits", ""), ...spaces.map((name) => new Option(name, name)));
  };
  form.definition.addEventListener("change", offerSpaces);
  offerSpaces();

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    status.className = "";
    status.textContent = "Starting workers, this takes some seconds.";
    const wanted = { definition: form.definition.value, max_trials: Number(form.max_trials.value), sampler: form.sampler.value };
    if (form.space.value) wanted.space = form.space.value;
    if (form.target.value) wanted.target = form.target.value;
    if (form.budget_s.value) wanted.budget_s = Number(form.budget_s.value);
    try {
      const started = await call("POST", "/api/v1/sweeps", wanted);
      location.assign(started.url);
    } catch (error) {
      status.className = "warn";
      status.textContent = error.message;
      button.disabled = false;
    }
  });
}

const rows = new Map([...document.querySelectorAll("tr[data-sweep]")].map((row) => [Number(row.dataset.sweep), row]));

async function refresh() {
  const { sweeps } = await call("GET", "/api/v1/sweeps?limit=50");
  for (const sweep of sweeps) {
    const row = rows.get(sweep.id);
    if (!row) continue;
    row.querySelector(".count").textContent = sweep.trials;
    const bar = row.querySelector("progress");
    if (bar && sweep.max_trials) bar.value = sweep.trials;
    if (row.dataset.state !== sweep.state) {
      row.dataset.state = sweep.state;
      row.querySelector(".state").replaceWith(stateBadge(sweep.state));
      if (bar && sweep.state !== "RUNNING") bar.remove();
    }
  }
}

setInterval(() => {
  const running = [...rows.values()].some((row) => row.dataset.state === "RUNNING");
  if (running && !document.hidden) refresh().catch(() => {});
}, 2000);
