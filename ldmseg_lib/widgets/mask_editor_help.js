// The overlay with the keys.

const KEYS = [
  ["B, E", "brush, eraser"], ["R, L", "rectangle, lasso (Alt: show instead of hide)"], ["S, H", "segment, move the picture"],
  ["[ and ]", "smaller, larger brush"], ["+, −, 0", "zoom in, out, fit"], ["Ctrl + wheel, pinch", "zoom"],
  ["O, V", "outlines, before and after"], ["Ctrl+Z, Ctrl+Shift+Z", "undo, redo"], ["Arrows (Shift: faster)", "move the cross hair"],
  ["Space, Enter", "start and end a stroke; in a lasso add a corner, close it"], ["Escape", "drop the stroke"], ["?", "this help"],
];

class Help {
  constructor(host) {
    this.host = host;
    this.button = element("button", { type: "button", class: "me-icon", title: "Keys (?)", "aria-label": "Keys", "aria-expanded": "false",
      "data-do": "help", onclick: () => this.toggle() }, "?");
    this.node = element("div", { class: "me-help", role: "dialog", "aria-label": "Keys", hidden: true }, element("h4", {}, "Keys"),
      element("dl", {}, ...KEYS.flatMap(([keys, what]) => [element("dt", {}, keys), element("dd", {}, what)])));
  }

  get open() {
    return !this.node.hidden;
  }

  toggle(open = !this.open) {
    this.node.hidden = !open;
    this.button.setAttribute("aria-expanded", String(open));
  }
}
