// Sorts the rows of each section by the column whose heading is pressed: down, up, then in the table's own order.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const own = new Map([...table.tBodies].map((body) => [body, [...body.rows]]));
  const rowsOf = ([, ...rows]) => rows;
  const isNumeric = (column) => [...own.values()].some((all) => rowsOf(all).some((row) => "order" in row.cells[column].dataset));
  const value = (row, column, numeric) => {
    const cell = row.cells[column];
    if (numeric) return "order" in cell.dataset ? Number(cell.dataset.order) : null;
    return cell.classList.contains("none") ? null : cell.textContent.trim();
  };
  const compare = (one, other, numeric) =>
    numeric ? one - other : one.localeCompare(other, "en", { numeric: true });
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const next = { none: "descending", descending: "ascending", ascending: "none" }[heading.ariaSort ?? "none"];
      headings.forEach((each) => each.removeAttribute("aria-sort"));
      if (next !== "none") heading.setAttribute("aria-sort", next);
      const sign = next === "descending" ? -1 : 1, numeric = isNumeric(column);
      for (const [body, all] of own) {
        const rows = rowsOf(all);
        if (next !== "none") {
          rows.sort((a, b) => {
            const one = value(a, column, numeric), other = value(b, column, numeric);
            if (one === null || other === null) return (one === null) - (other === null);
            return sign * compare(one, other, numeric);
          });
        }
        body.append(all[0], ...rows);
      }
    });
  });
}
