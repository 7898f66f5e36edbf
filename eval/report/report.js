"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = table.tHead.querySelectorAll(".heads th");
  const value = (row, index) => {
    const cell = row.cells[index];
    if (index === 0) return cell.textContent.trim();
    return "order" in cell.dataset ? Number(cell.dataset.order) : null;
  };
  const sort = (head, index) => {
    const before = head.getAttribute("aria-sort");
    const up = index === 0 ? before !== "ascending" : before === "descending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const compare = (a, b) => {
      const [x, y] = [value(a, index), value(b, index)];
      if (x === null || y === null) return (x === null) - (y === null);
      const order = typeof x === "string" ? x.localeCompare(y) : x - y;
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  };
  heads.forEach((head, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(head, index));
    head.append(button);
  });
}
