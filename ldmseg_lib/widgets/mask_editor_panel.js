// The controls: built once, then told what to show. Every focusable node keeps JupyterLab's shortcuts away from itself.

const ICONS = {
  brush: "M4 20c2.5 0 4-1.2 4-3.4 0-1.6-1.2-2.8-2.7-2.8S2.8 15 2.8 16.600c0 1.600-.3 2.600-1.300 3.400zM8.500 13 18.500 2.500l3 3L11 15.500z",
  eraser: "M9 20h12M3.500 14.500 13.500 4l7 7-9 9H8z M8.500 9.500l7 7",
  box: "M4 5.500h16v13H4z",
  lasso: "M12 4c5 0 9 2.400 9 5.500S17 15 12 15 3 12.600 3 9.500 7 4 12 4z M7 14.500c-1.500 1-1.500 3 .5 3.500 1.500.4 1.500 2 .5 3",
  segment: "M5 3l6 15 2.200-6.200L19.500 9.500z M14 13l5.500 6",
  pan: "M12 3v18M3 12h18M12 3 9.500 5.500M12 3l2.500 2.500M12 21l-2.500-2.500M12 21l2.500-2.500M3 12l2.500-2.500M3 12l2.500 2.500M21 12l-2.500-2.500M21 12l-2.500 2.500",
  undo: "M8.500 5 4 9.500 8.500 14M4 9.500h10a5.500 5.500 0 0 1 0 11H9",
  redo: "M15.500 5 20 9.500 15.500 14M20 9.500H10a5.500 5.500 0 0 0 0 11h5",
  zoomIn: "M10.500 4a6.500 6.500 0 1 0 0 13 6.500 6.500 0 0 0 0-13zM15.500 15.500 21 21M7.500 10.500h6M10.500 7.500v6",
  zoomOut: "M10.500 4a6.500 6.500 0 1 0 0 13 6.500 6.500 0 0 0 0-13zM15.500 15.500 21 21M7.500 10.500h6",
  fit: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  outlines: "M4 4h16v16H4zM12 4v7l-8 3M12 11l8 5",
  dice: "M4 4h16v16H4zM8.500 8.500h.01M15.500 8.500h.01M12 12h.01M8.500 15.500h.01M15.500 15.500h.01",
};

const TOOL_NAMES = {
  brush: ["Brush: hide (B)", "B"], eraser: ["Eraser: show again (E)", "E"], box: ["Rectangle: hide, with Alt show (R)", "R"],
  lasso: ["Lasso: hide, with Alt show (L)", "L"], segment: ["Segment: click to hide or show (S)", "S"], pan: ["Move the picture (H)", "H"],
};

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  if (["button", "input", "select", "canvas"].includes(tag)) node.setAttribute("data-lm-suppress-shortcuts", "true");
  node.append(...children);
  return node;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

const iconButton = (name, label, onclick, attributes = {}) =>
  element("button", { type: "button", class: "me-icon", title: label, "aria-label": label, onclick, ...attributes }, icon(name));
const textButton = (text, title, onclick, attributes = {}) =>
  element("button", { type: "button", class: "me-button", title, onclick, ...attributes }, text);
const group = (label, ...children) => element("div", { class: "me-group", role: "group", "aria-label": label }, ...children);

let fieldCount = 0;
function field(label, control) {
  control.id = `me-field-${++fieldCount}-${Math.random().toString(36).slice(2, 8)}`;
  return element("div", { class: "me-field" }, element("label", { for: control.id }, label), control);
}

class Panel {
  constructor(host) {
    this.host = host;
    const number = (min, max, value) => element("input", { type: "number", min, max, value, step: 1 });
    const range = (min, max, value, step, oninput) => element("input", { type: "range", min, max, value, step, oninput });

    this.tools = {};
    for (const tool of TOOLS) {
      this.tools[tool] = iconButton(tool, TOOL_NAMES[tool][0], () => host.chooseTool(tool), { "aria-pressed": "false", "data-tool": tool });
    }
    this.size = range(1, 160, 24, 1, () => host.chooseSize(Number(this.size.value)));
    this.opacity = range(0, 100, 50, 1, () => host.chooseOpacity(Number(this.opacity.value) / 100));
    this.outlines = iconButton("outlines", "Outlines (O)", () => host.toggleOutlines(), { "aria-pressed": "true" });
    this.undo = iconButton("undo", "Undo", () => host.send({ op: "undo" }), { "data-do": "undo" });
    this.redo = iconButton("redo", "Redo", () => host.send({ op: "redo" }), { "data-do": "redo" });
    this.bar = element("div", { class: "me-bar", role: "toolbar", "aria-label": "Editing tools" },
      group("Tools", ...Object.values(this.tools)),
      group("History", this.undo, this.redo),
      group("Zoom", iconButton("zoomOut", "Zoom out (-)", () => host.picture.zoomBy(1 / 1.4)),
        iconButton("fit", "Fit the picture (0)", () => host.picture.fit()),
        iconButton("zoomIn", "Zoom in (+)", () => host.picture.zoomBy(1.4))),
      group("Appearance", this.outlines),
      element("div", { class: "me-sliders" }, field("Brush size", this.size), field("Opacity", this.opacity)));

    this.steps = number(1, 1000, 20);
    this.count = number(1, 16, 1);
    this.seed = number(0, Number.MAX_SAFE_INTEGER, 0);
    this.sampler = element("select");
    this.inpaint = textButton("Inpaint", "Let the model imagine the hidden region anew", () => host.inpaint(), { class: "me-button me-primary", "data-do": "inpaint" });
    this.cancel = textButton("Cancel", "Stop before the next step", () => host.ask({ op: "cancel" }), { "data-do": "cancel" });
    this.bars = element("progress", { max: 1, value: 0, "aria-label": "Denoising steps" });
    this.stage = element("span", { class: "me-stage-text", "aria-live": "polite" });
    this.progress = element("div", { class: "me-progress", hidden: true }, this.bars, this.stage, this.cancel);
    this.thumbs = element("div", { class: "me-thumbs", role: "radiogroup", "aria-label": "Candidates" });
    this.before = textButton("Before", "Show the segments before (hold them against the candidate) (V)", () => host.toggleBefore(), { "aria-pressed": "false", "data-do": "before" });
    this.accept = textButton("Accept", "Take this candidate as the segmentation", () => host.send({ op: "accept" }), { class: "me-button me-primary", "data-do": "accept" });
    this.discard = textButton("Discard", "Let the candidates go", () => host.send({ op: "discard" }), { "data-do": "discard" });
    this.results = element("section", { class: "me-section", "aria-label": "Result", hidden: true }, element("h4", {}, "Candidates"),
      this.thumbs, element("div", { class: "me-row" }, this.before, this.accept, this.discard));
    this.file = element("input", { type: "file", accept: "image/*", class: "me-file", tabindex: -1, "aria-label": "Photo file",
      onchange: () => { if (this.file.files[0]) host.upload(this.file.files[0]); this.file.value = ""; } });
    this.keep = textButton("Ids as PNG", "Download the ids from this page, in COCO's colouring", () => host.download(), { "data-do": "png", class: "me-button me-always" });
    this.side = element("div", { class: "me-side" },
      element("section", { class: "me-section", "aria-label": "Inpaint" }, element("h4", {}, "Inpaint"),
        element("div", { class: "me-fields" }, field("Steps", this.steps), field("Candidates", this.count),
          element("div", { class: "me-seed" }, field("Seed", this.seed), iconButton("dice", "Another seed", () => { this.seed.value = Math.floor(Math.random() * 1e6); })),
          field("Sampler", this.sampler)),
        this.inpaint, this.progress),
      this.results,
      element("section", { class: "me-section", "aria-label": "Hidden region" }, element("h4", {}, "Hidden region"),
        element("div", { class: "me-row" }, textButton("Hide all", "Hide everything", () => host.commit({ op: "hide_all" }), { "data-do": "hide_all" }),
          textButton("Show all", "Hide nothing", () => host.commit({ op: "show_all" }), { "data-do": "show_all" }))),
      element("section", { class: "me-section", "aria-label": "Files" }, element("h4", {}, "Files"),
        element("div", { class: "me-row" }, textButton("Open photo…", "Segment a photo of your own", () => this.file.click(), { "data-do": "open" }), this.file,
          textButton("Export", "Write id PNG, COCO panoptic and NumPy files into the run folder", () => host.ask({ op: "export" }), { "data-do": "export" }),
          this.keep)));
    this.message = element("div", { class: "me-message", role: "status", "aria-live": "polite" });
    this.place = element("div", { class: "me-place", "aria-hidden": "true" });
    this.saved = element("div", { class: "me-saved" });
    this.foot = element("div", { class: "me-foot" }, this.place, this.saved);
  }

  // What Python says; called for every new state.
  show(state) {
    this.undo.disabled = !state.undo;
    this.redo.disabled = !state.redo;
    this.undo.title = state.undo ? `Undo: ${state.undo} (Ctrl+Z)` : "Nothing to undo";
    this.redo.title = state.redo ? `Redo: ${state.redo} (Ctrl+Shift+Z)` : "Nothing to redo";
    if (this.settings !== JSON.stringify(state.settings)) {
      this.settings = JSON.stringify(state.settings);
      this.sampler.replaceChildren(element("option", { value: "" }, "default"), ...state.samplers.map((s) => element("option", { value: s }, s)));
      this.steps.value = state.settings.steps;
      this.count.value = state.settings.candidates;
      this.seed.value = state.settings.seed;
      this.sampler.value = state.settings.sampler ?? "";
    }
    this.inpaint.disabled = !state.model;
    if (!state.model) this.inpaint.title = "No model is attached";
    this.results.hidden = state.candidates.length === 0;
    this.saved.textContent = state.saved ? "Saved" : "Not saved: no run folder was given";
    this.saved.title = state.saved;
    this.say(state.message.level, state.message.text);
  }

  say(level, text) {
    if (this.message.textContent === text && this.message.dataset.level === level) return;
    this.message.dataset.level = level;
    this.message.textContent = text;
  }

  showProgress(progress) {
    this.progress.hidden = !progress.running;
    this.inpaint.hidden = progress.running;
    this.bars.max = progress.total || 1;
    this.bars.value = progress.step;
    this.stage.textContent = progress.stage;
  }

  chosenSettings() {
    const whole = (input) => (input.value.trim() === "" ? NaN : Number(input.value));
    return { steps: whole(this.steps), candidates: whole(this.count), seed: whole(this.seed), sampler: this.sampler.value || null };
  }

  // One thumbnail a candidate, drawn from the ids.
  showCandidates(candidates, summaries, chosen, draw) {
    this.thumbs.replaceChildren(...candidates.map((ids, k) => {
      const canvas = document.createElement("canvas");
      draw(canvas, ids);
      return element("button", { type: "button", role: "radio", class: "me-thumb", "aria-checked": String(k === chosen), "data-candidate": k,
        tabindex: k === chosen ? 0 : -1, "aria-label": `Candidate ${k + 1}, ${summaries[k]}`, title: `Candidate ${k + 1}`,
        onclick: () => this.host.choose(k),
        onkeydown: (e) => {
          const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
          if (!step) return;
          e.preventDefault();
          const next = (k + step + candidates.length) % candidates.length;
          this.thumbs.children[next].focus();
          this.host.choose(next);
        } }, canvas, element("span", {}, summaries[k]));
    }));
  }

  markChosen(chosen) {
    [...this.thumbs.children].forEach((thumb, k) => {
      thumb.setAttribute("aria-checked", String(k === chosen));
      thumb.tabIndex = k === chosen ? 0 : -1;
    });
  }
}
