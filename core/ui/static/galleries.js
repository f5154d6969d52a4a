/* The list of galleries: opens from the button that names the chosen one; arrows move in it. */
(() => {
  "use strict";
  const page = window.twolens;
  if (page.galleries) return;
  page.galleries = true;

  const listOf = (node) => node.closest(".tl-gallery").querySelector(".tl-gallery-list");

  /** Gradio's own field of the chosen gallery, which every search takes along. */
  const nameField = () => document.querySelector("#gallery :is(input, textarea)");

  let left = null; // the gallery before the chosen one

  const setName = (name) => {
    const field = nameField();
    left = field.value;
    field.value = name;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  };

  const show = (button) => {
    const list = listOf(button);
    const box = button.getBoundingClientRect();
    const narrow = window.innerWidth <= 640;
    list.style.top = `${Math.round(box.bottom + 6)}px`;
    list.style.right = narrow ? "16px" : `${Math.round(document.documentElement.clientWidth - box.right)}px`;
    list.style.maxHeight = `${Math.round(window.innerHeight - box.bottom - 22)}px`;
    list.showPopover();
    (list.querySelector('[aria-current="true"]') || list.querySelector("button")).focus();
  };

  const choose = (item) => {
    const host = page.bridgeOf(item);
    const list = listOf(item);
    const now = host.querySelector(".tl-gallery-now");
    list.hidePopover();
    now.focus();
    if (item.getAttribute("aria-current") === "true") return;
    // At once, so that what is asked meanwhile is asked of it; the answer draws the list anew.
    setName(item.dataset.gallery);
    now.querySelector(".tl-gallery-name").textContent = item.dataset.gallery;
    now.querySelector("img").src = item.querySelector("img").src;
    const field = page.fieldOf(document);
    const tab = field ? field.closest(".tl-query").id.replace("-query", "") : "";
    host.twolensTrigger("choose", { name: item.dataset.gallery, tab });
  };

  // Results that were on their way here when another gallery was chosen are asked for again.
  window.addEventListener("twolens:shown", (event) => {
    const told = event.detail.querySelector("[data-address]");
    const field = page.fieldOf(document);
    if (!told || !field || !event.detail.offsetParent) return;
    const { q, g } = JSON.parse(told.dataset.address);
    if (q && g === left && g !== nameField().value) page.ask(field, q);
  });

  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element)) return;
    const button = event.target.closest(".tl-gallery-now");
    if (button) return show(button);
    const item = event.target.closest(".tl-gallery-item");
    if (item) choose(item);
  });

  document.addEventListener("keydown", (event) => {
    const item = event.target instanceof Element && event.target.closest(".tl-gallery-item");
    if (!item) return;
    const items = [...listOf(item).querySelectorAll(".tl-gallery-item")];
    const at = items.indexOf(item);
    const places = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 };
    if (!(event.key in places)) return;
    event.preventDefault();
    items[(places[event.key] + items.length) % items.length].focus();
  });

  document.addEventListener("focusout", (event) => {
    const list = event.target instanceof Element && event.target.closest(".tl-gallery-list");
    const next = event.relatedTarget;
    if (list && next && !list.contains(next) && list.matches(":popover-open")) list.hidePopover();
  });
})();
