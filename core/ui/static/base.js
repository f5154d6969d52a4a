/* What all of the page's scripts share. */
(() => {
  "use strict";
  if (window.twolens) return;

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text) node.textContent = text;
    return node;
  };

  const button = (className, label, onClick) => {
    const node = make("button", className, label);
    node.type = "button";
    node.addEventListener("click", onClick);
    return node;
  };

  /** An icon of one stroke; its name is for who cannot see it. */
  const icon = (path) => {
    const names = { viewBox: "0 0 24 24", width: "20", height: "20", fill: "none" };
    const stroke = { stroke: "currentColor", "stroke-width": "2", "stroke-linecap": "round" };
    const draw = (tag, values) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(values)) node.setAttribute(name, value);
      return node;
    };
    const picture = draw("svg", { ...names, ...stroke, "aria-hidden": "true" });
    picture.append(draw("path", { d: path, "stroke-linejoin": "round" }));
    return picture;
  };

  /** The results area that a node stands in: it sends events to the server. */
  const bridgeOf = (node) => {
    while (node && !node.twolensTrigger) node = node.parentElement;
    return node;
  };

  /** Where dialogs and hidden parts are put: inside gradio's container, for its styles. */
  const root = () => document.querySelector(".gradio-container") || document.body;

  /** Puts text on the clipboard; by way of a field in a node where the page is not on https. */
  const copy = async (text, where) => {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const field = make("textarea");
    field.value = text;
    where.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  };

  window.twolens = { make, button, icon, bridgeOf, root, copy };
})();
