(() => {
  "use strict";
  const ERRORS = 1; // a source that has nothing to draw is no reason to warn
  const { specs, themes } = JSON.parse(document.getElementById("drawn").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const views = new Map();
  const select = document.getElementById("source");

  async function draw(theme) {
    document.documentElement.dataset.drawn = "";
    for (const element of document.querySelectorAll("[data-chart]")) {
      views.get(element.id)?.finalize();
      const options = { actions: false, renderer: "svg", ast: true, logLevel: ERRORS, config: themes[theme], tooltip: { theme } };
      views.set(element.id, (await vegaEmbed(element, specs[element.id], options)).view);
    }
    await choose();
    document.documentElement.dataset.drawn = theme;
  }

  async function choose() {
    if (!select) return;
    for (const [name, view] of views) {
      if (specs[name].params?.some((param) => param.name === "source")) await view.signal("source", select.value).runAsync();
    }
    const all = select.value === select.options[0].value;
    for (const row of document.querySelectorAll("tr[data-source]")) row.hidden = !all && row.dataset.source !== select.value;
    for (const flow of document.querySelectorAll(".flow")) flow.hidden = flow.dataset.source !== select.value;
  }

  const filter = document.getElementById("filter");
  const rows = [...document.querySelectorAll("#catalogue tbody tr")].map((row) => [row, row.textContent.toLowerCase()]);
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    for (const [row, text] of rows) row.hidden = !words.every((word) => text.includes(word));
    const found = rows.filter(([row]) => !row.hidden).length;
    document.getElementById("found").textContent = found === rows.length ? `${found} features` : `${found} of ${rows.length} features`;
  });
  select?.addEventListener("change", choose);

  let last = draw(dark.matches ? "dark" : "light");
  const again = (theme) => { last = last.then(() => draw(theme)); };
  dark.addEventListener("change", () => again(dark.matches ? "dark" : "light"));
  // paper is white; the charts follow after the dialog closes
  addEventListener("beforeprint", () => { document.querySelectorAll("details").forEach((item) => { item.open = true; }); if (dark.matches) again("light"); });
  addEventListener("afterprint", () => { if (dark.matches) again("dark"); });
})();
