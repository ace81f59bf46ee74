// Looks up the best config for one size.

import { call, configBadges, make, microseconds } from "./http.js";

const form = document.getElementById("lookup");
form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = document.getElementById("answer");
  const query = new URLSearchParams({ definition: form.dataset.definition, hardware: form.hardware.value });
  for (const input of form.querySelectorAll("input")) if (input.value) query.append("axes", `${input.name}=${input.value}`);
  try {
    const best = await call("GET", `/api/v1/best-config?${query}`);
    const speedup = best.default_median_us ? `${(best.default_median_us / best.median_us).toFixed(2)}x over the default` : "";
    answer.replaceChildren(
      make("p", { className: "figure" }, `${microseconds(best.median_us)} `, make("span", { className: "soft", textContent: `[${microseconds(best.low_us)}, ${microseconds(best.high_us)}]` })),
      make("p", {}, make("b", { textContent: best.found }), `: ${best.detail}`),
      make("p", { textContent: speedup }),
      configBadges(best.config),
    );
  } catch (error) {
    answer.replaceChildren(make("p", { className: "warn", textContent: error.message }));
  }
});
