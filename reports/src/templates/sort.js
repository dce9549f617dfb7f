for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => {
        const cell = row.cells[column];
        const number = cell.dataset.key;
        return number === undefined ? [1, cell.textContent.trim()] : [0, Number(number)];
      };
      const order = (a, b) => a[0] - b[0] || (a[0] ? a[1].localeCompare(b[1]) : (a[1] - b[1]) * (up ? 1 : -1));
      body.append(...[...body.rows].sort((a, b) => order(key(a), key(b))));
    });
  });
}
