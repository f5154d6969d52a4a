/* Words and results stay together: what was asked follows from tab to tab, is remembered in this
   browser, and leaves as a file. window.twolens.asked is the one place that knows it. */
(() => {
  "use strict";
  const page = window.twolens;
  if (page.asked !== undefined) return;
  page.asked = "";
  const { make, button, root } = page;

  const RECENT = "twolens-recent"; // localStorage: this browser only
  const MOST_RECENT = 12;
  const NARROW = matchMedia("(max-width: 640px)");
  const NAMES = { captions: "Caption lens", clip: "CLIP lens", both: "Best of both" };

  const visible = (node) => node.offsetParent !== null;
  page.fieldOf = (where) => [...where.querySelectorAll(".tl-query input")].find(visible);

  /* ---- from tab to tab -------------------------------------------------------------------- */

  const stageOf = (field) => {
    const panel = field.closest('[role="tabpanel"]');
    return panel && panel.querySelector(".tl-stage");
  };

  /** Puts words into a field as if they were typed, and searches. */
  page.ask = (field, words) => {
    field.value = words;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    setTimeout(() => field.closest(".tl-search").querySelector(".tl-go").click());
  };

  const follow = (words) => {
    const field = page.fieldOf(document);
    const stage = field && stageOf(field);
    if (!words || !stage || stage.dataset.asked === words) return;
    if (field.closest("#upload-query") && !document.querySelector("#upload-results .tl-card")) return;
    page.ask(field, words);
  };

  document.addEventListener(
    "click",
    (event) => {
      if (!(event.target instanceof Element)) return;
      if (!event.target.closest('[role="tab"]')) return;
      const left = page.fieldOf(document); // still that of the tab that is left
      const words = (left && left.value.trim()) || page.asked;
      setTimeout(() => {
        follow(words);
        const chosen = document.querySelector('.tl-tabs [role="tab"][aria-selected="true"]');
        chosen.scrollIntoView({ block: "nearest", inline: "center" });
      }, 80);
    },
    true,
  );

  /* ---- what was asked before -------------------------------------------------------------- */

  const recent = () => {
    try {
      return JSON.parse(localStorage.getItem(RECENT) || "[]").filter((q) => typeof q === "string");
    } catch {
      return []; // nothing is kept where the browser forbids it
    }
  };

  const remember = (query) => {
    const kept = [query, ...recent().filter((old) => old !== query)].slice(0, MOST_RECENT);
    try {
      localStorage.setItem(RECENT, JSON.stringify(kept));
    } catch {
      return; // likewise
    }
  };

  let offered = null; // the list under an empty field that has the focus

  const withdraw = () => {
    if (offered) offered.remove();
    offered = null;
  };

  const offer = (field) => {
    withdraw();
    if (field.value || !recent().length) return;
    offered = make("div", "tl-recent");
    offered.append(make("p", "", "Recent searches, kept in this browser"));
    for (const query of recent())
      offered.append(
        button("tl-chip", query, () => {
          page.ask(field, query);
          withdraw();
        }),
      );
    field.closest(".tl-search").append(offered);
  };

  document.addEventListener("focusin", (event) => {
    const field = event.target.closest(".tl-query input");
    if (field) {
      field.enterKeyHint = "search";
      return offer(field);
    }
    if (offered && !offered.contains(event.target)) withdraw();
  });
  document.addEventListener("pointerdown", (event) => {
    if (offered && !event.target.closest(".tl-search")) withdraw();
  });
  document.addEventListener("input", (event) => {
    const field = event.target.closest(".tl-query input");
    if (field) offer(field);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") withdraw();
  });

  window.addEventListener("twolens:shown", (event) => {
    const stage = event.detail.querySelector(".tl-stage");
    if (!stage || !stage.dataset.asked || !visible(stage)) return;
    page.asked = stage.dataset.asked;
    // On a phone the keyboard and the number of pictures give way to the results.
    const field = document.activeElement;
    if (NARROW.matches && field.closest(".tl-search")) field.blur();
    if (!event.detail.closest("#upload-results")) remember(page.asked);
  });

  /* ---- taking results along --------------------------------------------------------------- */

  const absolute = (address) => new URL(address, document.baseURI).href;

  const rowsOf = (answer) =>
    [...answer.querySelectorAll("section.tl-lens .tl-row .tl-card")].map((card) => {
      const picture = JSON.parse(card.dataset.picture);
      const text = (selector) => (card.querySelector(selector) || {}).textContent || "";
      const lens = Object.keys(NAMES).find((name) => card.closest("section").matches(`.${name}`));
      const kept = picture.src.startsWith("uploads/") ? "" : absolute(picture.large || picture.src);
      return {
        query: picture.query,
        lens: NAMES[lens] || "",
        rank: text(".tl-rank"),
        score: text(".tl-score").replace(/[^\d.-]/g, ""),
        file: picture.file,
        caption: picture.caption,
        licence: picture.licence,
        source: picture.source,
        picture: kept, // the address of a visitor's own photo holds a secret
      };
    });

  /** A cell of a CSV file; what a spreadsheet would run as a formula begins with an apostrophe. */
  const cell = (value) => {
    const safe = /^[\s"']*[=+\-@＝＋－＠]/.test(value) && !/^-?[\d.]+$/.test(value) ? `'${value}` : value;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };

  const take = async (button) => {
    const rows = rowsOf(button.closest(".tl-answer"));
    if (button.dataset.export === "links") {
      await page.copy([...new Set(rows.map((row) => row.picture))].filter(Boolean).join("\n"), root());
      return page.announce(`${rows.length} links copied.`);
    }
    const names = Object.keys(rows[0] || {});
    const lines = [names, ...rows.map((row) => names.map((name) => row[name]))];
    const text = lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv" }));
    link.download = "twolens-results.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  };

  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element)) return;
    const button = event.target.closest("[data-export]");
    if (button) take(button);
    if (event.target.closest("[data-forget-recent]")) {
      localStorage.removeItem(RECENT);
      page.announce("Recent searches are forgotten.");
    }
  });
})();
