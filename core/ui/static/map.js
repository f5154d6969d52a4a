/* The tab "Map": fetches a gallery's points, keeps both maps in step, and lists what is taken out of
   them. Loaded when the tab is first opened. */
(() => {
  "use strict";
  const page = window.twolens;
  if (page.map) return;
  const { make, button, bridgeOf } = page;

  const TITLES = { captions: "Caption lens", clip: "CLIP lens" };
  const MOST_LISTED = 100;
  const SORRY = "The map could not be fetched. Reload the page to try again.";
  const NO_QUERY = { query: "", hits: {}, places: {} };

  let data = null; // of the gallery that is shown
  let shown = ""; // the address that it came from
  let host = null; // the area that the maps stand in

  /* ---- what is pointed at ----------------------------------------------------------------- */

  const tip = make("ol", "tl-row tl-map-tip");
  const details = new Map();
  let waiting = 0;

  const detailOf = async (row) => {
    const address = `map/${data.slug}/${data.ids[row]}.json`;
    if (!details.has(address)) {
      const answer = await fetch(address);
      if (!answer.ok) throw new Error(SORRY);
      details.set(address, await answer.json());
    }
    return { ...details.get(address), query: data.query.query };
  };

  const cardOf = (row) => {
    const item = make("li", "tl-item");
    const card = button("tl-card", "");
    const frame = make("span", "tl-frame");
    const image = make("img");
    image.src = data.thumbnail(row);
    image.alt = "";
    frame.append(image);
    const caption = make("span", "tl-map-caption");
    caption.append(make("span", "", "…"));
    card.append(frame, caption);
    item.append(card);
    return item;
  };

  /** Fills the card of a row with what the server knows of it; null if another came meanwhile. */
  const filled = async (row) => {
    const card = tip.querySelector(".tl-card");
    const picture = await detailOf(row);
    if (!card || !card.isConnected || data.pointed !== row) return null;
    card.dataset.picture = JSON.stringify(picture);
    card.querySelector("img").alt = picture.alt;
    card.querySelector(".tl-map-caption > span").textContent = picture.caption || "no caption";
    return card;
  };

  const say = (row) =>
    filled(row).then(
      (card) => card && tip.classList.contains("is-kept") && page.announce(card.innerText),
      () => {},
    );

  const point = (row, chart, kept = false) => {
    if (!data || (data.pointed === row && tip.parentElement === chart.box)) return;
    data.pointed = row;
    for (const each of charts) each.draw();
    clearTimeout(waiting);
    tip.classList.toggle("is-kept", kept);
    if (row < 0) return tip.remove();
    const [x, y] = chart.screenOf(row);
    const [width, height] = chart.size();
    tip.classList.toggle("is-left", x > width / 2);
    tip.classList.toggle("is-top", y > height / 2);
    tip.replaceChildren(cardOf(row));
    chart.box.append(tip);
    waiting = setTimeout(say, kept ? 0 : 90, row);
  };

  const open = async (row) => {
    if (!data || row < 0) return;
    try {
      const card = await filled(row);
      if (card) page.open(card);
    } catch (error) {
      page.announce(error.message);
    }
  };

  /* ---- what is taken out ------------------------------------------------------------------ */

  const select = (rows) => {
    data.chosen = new Set(rows);
    for (const each of charts) each.draw();
  };

  const lasso = (rows, chart) => {
    select(rows);
    const { places } = data[chart.lens];
    const mean = [0, 1].map((axis) => rows.reduce((sum, row) => sum + places[2 * row + axis], 0) / rows.length);
    const away = (row) => (places[2 * row] - mean[0]) ** 2 + (places[2 * row + 1] - mean[1]) ** 2;
    const nearest = [...rows].sort((a, b) => away(a) - away(b)).slice(0, MOST_LISTED);
    const ids = nearest.map((row) => data.ids[row]).join(" ");
    host.twolensTrigger("lasso", { ids, count: String(rows.length), lens: chart.lens });
  };

  const clear = () => {
    if (!data || !data.chosen.size) return;
    select([]);
    host.twolensTrigger("lasso", { ids: "", count: "", lens: "" });
  };

  document.addEventListener("click", (event) => {
    if (event.target instanceof Element && event.target.closest("[data-map-clear]")) clear();
  });

  /* ---- both maps -------------------------------------------------------------------------- */

  const on = { data: () => data, point, open, lasso, clear };
  const charts = Object.entries(TITLES).map(([lens, title]) => page.mapChart(lens, title, on));
  const stage = make("div", "tl-map-stage captions");
  const turn = make("div", "tl-map-turn");
  for (const chart of charts) {
    const choice = button("tl-chip", TITLES[chart.lens], () => {
      stage.className = `tl-map-stage ${chart.lens}`;
      for (const each of turn.children)
        each.setAttribute("aria-pressed", String(each === choice));
    });
    choice.setAttribute("aria-pressed", String(chart === charts[0]));
    turn.append(choice);
  }
  const pair = make("div", "tl-lenses tl-map-pair");
  pair.append(...charts.map((chart) => chart.node));
  stage.append(turn, pair);

  const read = async (told) => {
    const answer = await fetch(told.points);
    if (!answer.ok) throw new Error(SORRY);
    const content = await answer.arrayBuffer();
    const count = told.count;
    const bytes = new Uint8Array(content, 0, 8 * count);
    const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    const ids = Array.from({ length: count }, (_, row) => hex.slice(16 * row, 16 * row + 16));
    const captions = new Float32Array(content, 8 * count, 2 * count);
    const clip = new Float32Array(content, 16 * count, 2 * count);
    /** A map, and the box of its points: the two lenses' axes have nothing to do with each other. */
    const mapOf = (places) => {
      const bounds = [Infinity, Infinity, -Infinity, -Infinity];
      places.forEach((value, at) => {
        const axis = at % 2;
        bounds[axis] = Math.min(bounds[axis], value);
        bounds[2 + axis] = Math.max(bounds[2 + axis], value);
      });
      return { places, bounds };
    };
    const thumbnail = (row) => told.thumbnail.replace("ID", ids[row]);
    const rest = { slug: told.slug, query: NO_QUERY, pointed: -1, chosen: new Set(), passing: null };
    return { count, ids, captions: mapOf(captions), clip: mapOf(clip), thumbnail, ...rest };
  };

  const whenSeen = (place) =>
    new IntersectionObserver((seen, observer) => {
      if (!seen.some((each) => each.isIntersecting)) return;
      observer.disconnect();
      mount(place);
    }).observe(place);

  const mount = async (place) => {
    host = bridgeOf(place);
    if (place.dataset.begin !== undefined) {
      if (host.offsetParent === null) return whenSeen(place); // a view of another tab was restored
      const field = host.closest('[role="tabpanel"]').querySelector(".tl-query input");
      const words = (field && field.value.trim()) || page.asked;
      place.removeAttribute("data-begin");
      place.closest(".tl-stage").dataset.asked = words; // nobody need ask once more
      return host.twolensTrigger("pick", { query: words });
    }
    const told = JSON.parse(place.dataset.map);
    place.replaceChildren(stage);
    try {
      if (shown !== told.points) {
        shown = told.points;
        data = null;
        const fetched = await read(told);
        if (shown !== told.points) return;
        data = fetched;
      }
    } catch (error) {
      shown = "";
      return place.replaceChildren(make("p", "tl-notice", error.message));
    }
    if (!data) return; // it is on its way for an earlier answer
    data.query = { query: told.query, hits: told.hits, places: told.places };
    data.passing = told.passing && new Set(told.passing);
    data.pointed = -1;
    tip.remove();
    for (const chart of charts) chart.whole();
  };

  const placeIn = (area) => area.querySelector(".tl-map");
  window.addEventListener("twolens:shown", (event) => {
    const place = placeIn(event.detail);
    if (place) mount(place);
  });
  window.addEventListener("twolens:ready", (event) => {
    const place = placeIn(event.detail);
    if (place && !place.contains(stage)) mount(place);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const chart of charts) setTimeout(chart.draw, 50);
  });
  page.map = { mount, charts, data: () => data };
  const place = placeIn(document);
  if (place) mount(place);
})();
