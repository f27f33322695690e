// Sorts the rows of each section by the column whose heading is pressed: down, up, then in the table's own order.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const own = new Map([...table.tBodies].map((body) => [body, [...body.rows]]));
  const value = (row, column) => {
    const cell = row.cells[column];
    if (cell.classList.contains("none")) return null;
    return cell.dataset.order !== undefined ? Number(cell.dataset.order) : cell.textContent.trim();
  };
  const compare = (one, other) =>
    typeof one === "number" && typeof other === "number"
      ? one - other
      : String(one).localeCompare(String(other), "en", { numeric: true });
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const next = { none: "descending", descending: "ascending", ascending: "none" }[heading.ariaSort ?? "none"];
      headings.forEach((each) => each.removeAttribute("aria-sort"));
      if (next !== "none") heading.setAttribute("aria-sort", next);
      const sign = next === "descending" ? -1 : 1;
      for (const [body, [first, ...rows]] of own) {
        if (next !== "none") {
          rows.sort((a, b) => {
            const one = value(a, column), other = value(b, column);
            if (one === null || other === null) return (one === null) - (other === null);
            return sign * compare(one, other);
          });
        }
        body.append(first, ...rows);
      }
    });
  });
}
