"use strict";
const search = document.getElementById("search");
const boxes = [...document.querySelectorAll("input[data-mark]")];
const rows = [...document.querySelectorAll("details.problem")];
const shown = document.getElementById("shown");
function update() {
  const wanted = search.value.toLowerCase().trim();
  const marks = boxes.filter((box) => box.checked).map((box) => box.dataset.mark);
  let count = 0;
  for (const row of rows) {
    const own = row.dataset.marks.split(" ");
    const visible = marks.every((mark) => own.includes(mark)) && (!wanted || row.textContent.toLowerCase().includes(wanted));
    row.hidden = !visible;
    count += visible ? 1 : 0;
    for (const sample of row.querySelectorAll("[data-sample]")) {
      const its = sample.dataset.sample.split(" ");
      sample.hidden = !marks.every((mark) => its.includes(mark));
    }
  }
  shown.textContent = count + " of " + rows.length + " problems shown";
}
if (search) {
  document.getElementById("filters").hidden = false;
  search.addEventListener("input", update);
  boxes.forEach((box) => box.addEventListener("change", update));
  update();
}
