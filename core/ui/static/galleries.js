/* The list of galleries: opens from the button that names the chosen one; arrows move in it. */
(() => {
  "use strict";
  const page = window.twolens;
  if (page.galleries) return;
  page.galleries = true;

  const listOf = (node) => node.closest(".tl-gallery").querySelector(".tl-gallery-list");

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
    // At once; the answer draws the whole list anew.
    now.querySelector(".tl-gallery-name").textContent = item.dataset.gallery;
    now.querySelector("img").src = item.querySelector("img").src;
    const field = page.fieldOf(document);
    const tab = field ? field.closest(".tl-query").id.replace("-query", "") : "";
    host.twolensTrigger("choose", { name: item.dataset.gallery, tab });
  };

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
