"use strict";
// Sort a table by the column whose title is clicked. Empty cells come last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const original = [...body.rows];
  const compare = (a, b) => {
    const [left, right] = [Number(a), Number(b)];
    return Number.isNaN(left) || Number.isNaN(right) ? a.localeCompare(b, undefined, { numeric: true }) : left - right;
  };
  heads.forEach((head, index) => {
    head.querySelector("button").addEventListener("click", () => {
      // The first click sorts numbers from the largest and words from A; the third click restores the original order.
      const first = head.classList.contains("number") ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      const before = head.getAttribute("aria-sort");
      const now = before === null ? first : before === first ? second : null;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      if (now !== null) head.setAttribute("aria-sort", now);
      const sign = now === "descending" ? -1 : 1;
      const key = (row) => row.cells[index].dataset.key;
      const rows = now === null ? original : [...original].sort((a, b) => {
        const [left, right] = [key(a), key(b)];
        if (left === "" || right === "") return (left === "") - (right === "");
        return sign * compare(left, right);
      });
      body.append(...rows);
    });
  });
}
