/* What a query says beyond words, written by buttons and fields: pictures as parts of it, filters. */
(() => {
  "use strict";
  const page = window.twolens;
  if (page.withPicture) return;
  const { make, button, bridgeOf } = page;

  /** A query with one token at its end, and without the tokens that it stands in for. */
  const withToken = (query, token, ...instead) =>
    [...query.split(" ").filter((word) => word && word !== token && !instead.includes(word)), token]
      .join(" ");

  const pictureOf = (card) => JSON.parse(card.dataset.picture);

  /** The query that a card answers: words that ranked it, or filters that it passes. */
  page.askedFor = (card) => {
    const among = card.closest("[data-within]");
    return pictureOf(card).query || (among ? among.dataset.within : "");
  };

  /** That query with the card's picture as a part of it. */
  const withLike = (card, less) => {
    const query = page.askedFor(card);
    const like = `like:${pictureOf(card).id}`;
    return less ? withToken(query, `-${like}`, like) : withToken(query, like, `-${like}`);
  };

  const MORE = "More like this";
  const LESS = "Less like this";

  /** Buttons and a field that search again with a picture as a part of the query. */
  page.withPicture = (card, search) => {
    const { id, query } = pictureOf(card);
    const box = make("div", "tl-with-picture");
    box.append(button("tl-chip", MORE, () => search(withLike(card))));
    // A query cannot only leave out.
    if (query) box.append(button("tl-chip", LESS, () => search(withLike(card, true))));
    const form = make("form", "tl-but");
    const label = make("label", "", "This, but");
    const field = make("input");
    field.type = "text";
    field.maxLength = 200;
    field.placeholder = "at night";
    const go = make("button", "tl-chip", "Search");
    go.type = "submit";
    label.append(field);
    form.append(label, go);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const words = field.value.trim();
      // Beside a picture words count twice; docs/search.md has the figures.
      const asked = /["^:]|(^|\s)[-−]/.test(words) ? words : `"${words}"^2`;
      if (words) search(withToken(asked, `like:${id}`));
    });
    box.append(form);
    return box;
  };

  /* ---- the same from a card: its buttons are made here, so that no card carries them -------- */

  const NAMES = { dots: `${MORE}, or less`, more: MORE, less: LESS };
  const likes = make("span", "tl-likes");
  for (const [kind, label] of Object.entries({ dots: "", more: "+ more", less: "− less" })) {
    const press = make("button", "", label);
    press.type = "button";
    press.dataset.like = kind;
    press.title = NAMES[kind];
    likes.append(press);
  }

  const equip = (host) => {
    const panel = host.closest('[role="tabpanel"]');
    if (!panel || !panel.querySelector(".tl-k")) return; // no search: a duel, or a pair of queries
    const spare = host.querySelector(".tl-mix-spare");
    for (const part of spare ? [host, spare.content] : [host])
      for (const card of part.querySelectorAll(".tl-card:not(:has(+ .tl-likes))")) {
        const picture = pictureOf(card);
        const own = likes.cloneNode(true);
        if (!picture.query) own.lastChild.remove();
        for (const press of own.children)
          press.setAttribute("aria-label", `${NAMES[press.dataset.like]}: ${picture.alt}`);
        card.after(own);
      }
  };

  window.addEventListener("twolens:ready", (event) => setTimeout(equip, 0, event.detail));
  window.addEventListener("twolens:shown", (event) => equip(event.detail));

  document.addEventListener("click", (event) => {
    const press = event.target instanceof Element && event.target.closest("[data-like]");
    for (const open of document.querySelectorAll(".tl-likes.is-open")) open.classList.remove("is-open");
    if (!press) return;
    const own = press.parentElement;
    if (press.dataset.like === "dots") {
      own.classList.add("is-open");
      return own.children[1].focus();
    }
    const bridge = bridgeOf(own);
    bridge.twolensFocus = true;
    const query = withLike(own.previousElementSibling, press.dataset.like === "less");
    bridge.twolensTrigger("pick", { query });
  });

  /* ---- a third lens: switched on until it is switched off ---------------------------------- */

  document.addEventListener("click", (event) => {
    const chip = event.target instanceof Element && event.target.closest("[data-more]");
    const bridge = chip && bridgeOf(chip);
    if (bridge) bridge.twolensTrigger("more", { more: chip.dataset.more, query: chip.dataset.words });
  });

  /* ---- filters ---------------------------------------------------------------------------- */

  let unfolded = false; // as the visitor left it; results come anew with each search

  document.addEventListener(
    "toggle",
    (event) => {
      if (event.target.matches && event.target.matches(".tl-filters")) unfolded = event.target.open;
    },
    true,
  );

  window.addEventListener("twolens:shown", (event) => {
    const panel = unfolded && event.detail.querySelector(".tl-filters");
    if (panel) panel.open = true;
  });

  const apply = (form) => {
    const words = [form.dataset.base];
    for (const field of form.querySelectorAll("select, input")) {
      const value = field.value.replaceAll('"', "").trim();
      if (value) words.push(/\s/.test(value) ? `${field.name}:"${value}"` : `${field.name}:${value}`);
    }
    bridgeOf(form).twolensTrigger("pick", { query: words.join(" ") });
  };

  document.addEventListener("change", (event) => {
    const select = event.target instanceof Element && event.target.closest(".tl-filter-form select");
    if (select) apply(select.closest("form"));
  });

  document.addEventListener("submit", (event) => {
    const form = event.target.closest(".tl-filter-form");
    if (!form) return;
    event.preventDefault();
    apply(form);
  });
})();
