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

  /** Buttons and a field that search again with a picture as a part of the query. */
  page.withPicture = (picture, search) => {
    const more = `like:${picture.id}`;
    const less = `-${more}`;
    const box = make("div", "tl-with-picture");
    box.append(
      button("tl-chip", "More like this", () => search(withToken(picture.query, more, less))),
    );
    if (picture.query)
      box.append(
        button("tl-chip", "Less like this", () => search(withToken(picture.query, less, more))),
      );
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
      if (words) search(withToken(words, more));
    });
    box.append(form);
    return box;
  };

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
