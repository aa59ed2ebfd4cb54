(() => {
  "use strict";
  const MILLISECONDS = 5000; // between two questions to the server
  const ERRORS = 1; // a source that has nothing to draw is no reason to warn
  const { specs, themes } = JSON.parse(document.getElementById("drawn").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const views = new Map();
  const select = document.getElementById("source");

  async function draw(theme) {
    document.documentElement.dataset.drawn = "";
    for (const element of document.querySelectorAll("[data-chart]")) {
      await new Promise((next) => setTimeout(next)); // what can be read is shown before charts are
      views.get(element.id)?.finalize();
      const options = { actions: false, renderer: "svg", ast: true, logLevel: ERRORS, config: themes[theme], tooltip: { theme } };
      views.set(element.id, (await vegaEmbed(element, specs[element.id], options)).view);
      element.querySelector("svg").setAttribute("aria-hidden", "true"); // the element says what it shows
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

  // a search finds a feature by its row and the head of its card, not by code
  const filter = document.getElementById("filter");
  const cards = [...document.querySelectorAll("#catalogue .card")].map((card) => {
    const head = card.querySelector(".head").textContent.toLowerCase();
    return { card, head, rows: [...card.querySelectorAll("tbody tr")].map((row) => [row, `${head} ${row.textContent.toLowerCase()}`]) };
  });
  const all = cards.reduce((sum, { rows }) => sum + rows.length, 0);

  function search() {
    const words = filter.value.toLowerCase().split(/\s+/);
    const matches = (text) => words.every((word) => text.includes(word));
    let found = 0;
    for (const { card, head, rows } of cards) {
      for (const [row, text] of rows) row.hidden = !matches(text);
      const n = rows.filter(([row]) => !row.hidden).length;
      card.hidden = rows.length ? !n : !matches(head);
      found += n;
    }
    document.getElementById("found").textContent = found === all ? `${all} features` : `${found} of ${all} features`;
  }

  // the address has what was searched and chosen, so that a question is a link
  function keep(name, value) {
    const address = new URL(location);
    if (value) address.searchParams.set(name, value); else address.searchParams.delete(name);
    history.replaceState(history.state, "", address);
  }

  // what a link leads to is shown, whatever was searched
  function follow() {
    const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!place?.closest("[hidden]")) return;
    filter.value = "";
    keep("q", "");
    search();
    place.scrollIntoView();
  }

  const asked = new URL(location).searchParams;
  filter.value = asked.get("q") ?? "";
  if (select && [...select.options].some(({ value }) => value === asked.get("source"))) select.value = asked.get("source");
  search();
  follow();
  filter.addEventListener("input", () => { keep("q", filter.value); search(); });
  select?.addEventListener("change", () => { keep("source", select.selectedIndex ? select.value : ""); choose(); });
  addEventListener("hashchange", follow);

  // a node that is looked at shows the way to it and from it
  const edges = [...document.querySelectorAll(".lineage path")];
  function mark(node) {
    for (const edge of edges) edge.classList.remove("on");
    for (const [near, far] of node ? [["from", "to"], ["to", "from"]] : []) {
      const reached = new Set([node.dataset.node]);
      for (const key of reached) for (const edge of edges) if (edge.dataset[near] === key) { edge.classList.add("on"); reached.add(edge.dataset[far]); }
    }
  }
  for (const node of document.querySelectorAll(".lineage a")) {
    for (const event of ["mouseenter", "focus"]) node.addEventListener(event, () => mark(node));
    for (const event of ["mouseleave", "blur"]) node.addEventListener(event, () => mark(null));
  }

  // a page that is served asks whether the home has changed; what is read stays where it is
  const { state } = document.body.dataset;
  const key = (details) => `${details.closest("[id]")?.id} ${details.querySelector("summary").textContent}`;
  const open = () => [...document.querySelectorAll("details[open]")].map(key);
  let isLeaving = false;

  function reload() {
    const places = [...document.querySelectorAll("section[id], .card[id], tr[id]")];
    const place = places.filter((item) => !item.closest("[hidden]") && item.getBoundingClientRect().top <= 1).at(-1);
    const focus = document.activeElement.id;
    sessionStorage.setItem("left", JSON.stringify({ id: place?.id, top: place?.getBoundingClientRect().top, focus, open: open() }));
    isLeaving = true;
    history.scrollRestoration = "manual"; // else the browser scrolls too, while charts are drawn
    location.reload();
  }

  function restore({ id, top, focus, open }) {
    for (const details of document.querySelectorAll("details")) details.open = open.includes(key(details));
    document.getElementById(focus)?.focus({ preventScroll: true });
    const place = document.getElementById(id);
    if (place) scrollBy({ top: place.getBoundingClientRect().top - top, behavior: "instant" });
    history.scrollRestoration = "auto";
  }

  async function ask() {
    if (document.hidden || isLeaving) return;
    const answer = await fetch(location.pathname, { method: "HEAD", cache: "no-store" }).catch(() => null);
    if (answer?.ok && answer.headers.get("etag") !== `"${state}"`) reload();
  }

  let last = draw(dark.matches ? "dark" : "light");
  if (state) {
    const left = sessionStorage.getItem("left");
    sessionStorage.removeItem("left");
    if (left) last = last.then(() => restore(JSON.parse(left)));
    setInterval(ask, MILLISECONDS);
    document.addEventListener("visibilitychange", ask);
  }
  const again = (theme) => { last = last.then(() => draw(theme)); };
  dark.addEventListener("change", () => again(dark.matches ? "dark" : "light"));
  // paper is white; the charts follow after the dialog closes
  addEventListener("beforeprint", () => { document.querySelectorAll("details").forEach((item) => { item.open = true; }); if (dark.matches) again("light"); });
  addEventListener("afterprint", () => { if (dark.matches) again("dark"); });
})();
