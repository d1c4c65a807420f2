// For comfort only: the page does everything without it.
"use strict";
const search = document.querySelector("input[type=search]");
if (search) {
  const rows = [...document.querySelectorAll("tbody tr")];
  const found = document.getElementById("found");
  const told = found ? found.textContent : "";
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    if (found) {
      found.textContent = words.length ? `${shown} of the ${rows.length} shown here; Show searches all` : told;
    }
  });
}
// One click is one request; later, so that the button's own value is sent.
document.addEventListener("submit", (event) => {
  setTimeout(() => {
    for (const button of event.target.querySelectorAll("button")) {
      button.disabled = true;
    }
  }, 0);
});
// Back from the next page, the browser may show this one as it was left.
window.addEventListener("pageshow", () => {
  for (const button of document.querySelectorAll("button:disabled")) {
    button.disabled = false;
  }
});
