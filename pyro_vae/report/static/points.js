// The slider below a chart of examples: it chooses one, for who cannot point at it.
"use strict";

for (const root of document.querySelectorAll("[data-points]")) {
  const points = JSON.parse(document.getElementById(root.dataset.points).textContent);
  const thumbnail = root.querySelector(".thumbnail");
  root.querySelector("input").addEventListener("input", (event) => {
    const chosen = Number(event.target.value);
    const [x, y, label] = points[chosen];
    root.querySelector("output").textContent = `${label}, example ${chosen}`;
    if (thumbnail) {
      thumbnail.hidden = false;
      thumbnail.style.backgroundImage = "var(--examples)";
      thumbnail.style.backgroundPositionY = `${-chosen * thumbnail.dataset.height}px`;
    }
    const source = Bokeh.documents.map((d) => d.get_model_by_name("chosen")).find(Boolean);
    source.data = { x: [x], y: [y] };
  });
}
