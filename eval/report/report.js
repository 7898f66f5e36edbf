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
{
  const form = document.getElementById("filter");
  const chosen = (name) => document.getElementById(`filter-${name}`)?.value ?? "";
  const rows = document.querySelectorAll("main tbody tr:not(:has(.between)), .helps tbody tr");
  const apply = () => {
    const name = chosen("name").trim().toLowerCase();
    const [kind, model, task, mode] = ["kind", "model", "task", "mode"].map(chosen);
    for (const row of rows) {
      const label = row.querySelector("th").textContent.toLowerCase();
      const other = row.classList.contains("reference") ? false : kind && !row.classList.contains(kind);
      row.hidden = Boolean((name && !label.includes(name)) || other);
    }
    for (const section of document.querySelectorAll("main > section[data-task]")) {
      section.hidden = Boolean((model && section.dataset.model !== model) || (task && section.dataset.task !== task));
    }
    for (const table of document.querySelectorAll("main .scroll[data-mode]")) {
      table.hidden = Boolean((mode && table.dataset.mode !== mode) || [...table.querySelectorAll("tbody tr:not(:has(.between))")].every((row) => row.hidden));
    }
    const boards = [...document.querySelectorAll("table.board tbody:not(.references) tr")];
    const shown = boards.filter((row) => !row.hidden && !row.closest("[hidden]")).length;
    document.getElementById("filter-count").textContent = `${shown.toLocaleString("en")} of ${boards.length.toLocaleString("en")} runs shown`;
  };
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", apply);
  apply();
}
