// Plotly figures in the page's own colours, in light and dark.

const dark = matchMedia("(prefers-color-scheme: dark)");
const drawn = new Map();

export function draw(element, figure) {
  if (!figure || !window.Plotly) {
    element.replaceChildren(Object.assign(document.createElement("p"), { className: "soft", textContent: element.dataset.none || "" }));
    drawn.delete(element);
    return;
  }
  if (!drawn.has(element)) element.replaceChildren();
  drawn.set(element, figure);
  window.Plotly.react(element, figure.data, coloured(figure.layout, element), { displaylogo: false, responsive: true, displayModeBar: false });
}

function coloured(layout, element) {
  const style = getComputedStyle(document.body);
  const text = style.color;
  const grid = dark.matches ? "#313843" : "#dfe3e8";
  const small = element.clientWidth < 560;
  const copy = { ...layout, font: { ...layout.font, color: text }, hoverlabel: { align: "left" }, autosize: true };
  delete copy.width;
  for (const axis of Object.keys(copy).filter((key) => /^[xy]axis/.test(key))) {
    copy[axis] = { automargin: true, ...copy[axis], gridcolor: grid, zerolinecolor: grid, linecolor: grid };
  }
  if (small) copy.margin = { ...copy.margin, l: 44, r: 8 };
  return copy;
}

dark.addEventListener("change", () => drawn.forEach((figure, element) => draw(element, figure)));
