// One trial: the samples of each workload.

import { draw } from "./plots.js";

const data = document.getElementById("samples-data");
if (data) draw(document.getElementById("samples"), JSON.parse(data.textContent));
