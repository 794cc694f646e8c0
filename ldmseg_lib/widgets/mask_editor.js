// One view of the editor. State comes from Python in traits; edits go to Python as numbered messages and are drawn here at
// once, on top of what Python sent last, so that drawing never waits. The parts above this file are put before it as they are.

const REPLY_LATE = 2500;
const PART = 1 << 20;
const MAX_UPLOAD = 64 * PART;
const GONE = ["restarting", "autorestarting", "dead", "terminating"];

class View {
  constructor(model, el, signal) {
    Object.assign(this, { model, signal });
    this.client = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
    this.seq = this.acked = 0;
    this.pending = [];
    this.raw = {};
    this.candidates = [];
    this.size = [1, 1];
    this.canvas = element("canvas", { class: "me-canvas", tabindex: 0, role: "application", "aria-roledescription": "picture to paint on",
      "aria-label": "Picture with segments. Arrow keys move a cross hair, with Shift faster; Space or Enter starts and ends a "
        + "stroke; in a lasso Space adds a corner and Enter closes it; Escape drops it. B brush, E eraser, R rectangle, L lasso, S "
        + "segment, H move, brackets change the brush size, plus, minus and zero zoom, Control Z undoes." });
    this.picture = new Picture(this.canvas);
    this.tools = new Tools(this.canvas, this.picture, this, signal);
    this.panel = new Panel(this);
    this.help = new Help(this);
    this.panel.bar.append(this.help.button);
    this.stage = element("div", { class: "me-stage" }, this.canvas, this.help.node);
    this.root = element("div", { class: "mask-editor", "data-seq": 0, "data-ack": 0 }, this.panel.bar,
      element("div", { class: "me-body" }, this.stage, this.panel.side), this.panel.message, this.panel.foot);
    this.root.maskEditor = this;
    this.root.addEventListener("keydown", (e) => this.key(e), { signal });
    // a click on a button or beside one leaves the keyboard with the picture; Tab still goes through the controls
    this.root.addEventListener("click", (e) => { if (e.detail && !e.target.closest("label, input, select")) this.canvas.focus({ preventScroll: true }); }, { signal });
    el.append(this.root);
    this.chooseTool("brush");
    const observer = new ResizeObserver(() => this.layout());
    observer.observe(this.stage);
    signal.addEventListener("abort", () => observer.disconnect());
    this.listen(model);
    this.watchKernel(model.widget_manager);
    this.applying = Promise.resolve();
    this.refresh();
  }

  listen(model) {
    const view = this, handlers = { "change:rev": () => this.refresh(), "change:progress": () => this.panel.showProgress(model.get("progress")),
      // anywidget calls this with its own view as `this`; a channel that came back is no reason to stop
      comm_live_update() { if (!this?.model?.comm_live) view.kernelGone(); } };
    for (const [name, handler] of Object.entries(handlers)) {
      model.on(name, handler);
      this.signal.addEventListener("abort", () => model.off(name, handler));
    }
  }

  watchKernel(manager) {
    const kernel = manager?.kernel;
    if (!kernel?.statusChanged) return;
    const status = (_, value) => { if (GONE.includes(value)) this.kernelGone(); };
    const connection = (_, value) => { if (value === "connected") for (const edit of this.pending) this.post(edit); };
    const disposed = () => this.kernelGone();
    kernel.statusChanged.connect(status);
    kernel.connectionStatusChanged.connect(connection);
    kernel.disposed.connect(disposed);
    this.signal.addEventListener("abort", () => {
      kernel.statusChanged.disconnect(status);
      kernel.connectionStatusChanged.disconnect(connection);
      kernel.disposed.disconnect(disposed);
    });
  }

  // From Python to the page

  refresh() {
    this.applying = this.applying.then(() => this.apply()).catch((error) => { if (!this.signal.aborted) throw error; });
  }

  async apply() {
    const get = (name) => this.model.get(name), state = get("state"), acks = get("acks"), raw = {};
    if (!state.size) return;
    for (const name of ["photo", "ids_z", "region_z", "candidates_z"]) raw[name] = get(name);
    const changed = (name) => raw[name] !== this.raw[name];
    const count = state.size[0] * state.size[1];
    const ids = changed("ids_z") ? new Int32Array((await inflate(raw.ids_z)).buffer) : this.ids;
    const base = changed("region_z") ? unpackBits(await inflate(raw.region_z), count) : this.base;
    const stack = changed("candidates_z") ? new Int32Array((await inflate(raw.candidates_z)).buffer) : null;
    const photo = changed("photo") ? await createImageBitmap(new Blob([raw.photo])) : this.picture.photo;
    const newSize = String(this.size) !== String(state.size);
    Object.assign(this, { raw, state, ids, base, size: state.size });
    this.picture.photo = photo;
    if (newSize) {
      this.layout();
      this.picture.setSize(state.size[1], state.size[0]);
      this.panel.size.max = this.largest = clamp(Math.round(Math.min(...state.size) / 2), 16, 512);
      this.chooseSize(Math.max(2, Math.round(Math.min(...state.size) / 10)));
    }
    this.acked = acks[this.client] ?? 0;
    this.pending = this.pending.filter((edit) => edit.seq > this.acked);
    if (stack) this.takeCandidates(stack, count);
    this.panel.show(state);
    this.panel.showProgress(get("progress"));
    this.panel.markChosen(state.chosen);
    this.rebuild();
    if (this.gone) this.kernelGone();
    if (!this.root.dataset.ready) { this.root.dataset.ready = "true"; this.takeOver(); }
    this.root.dataset.ack = this.acked;
  }

  takeCandidates(stack, count) {
    this.candidates = [];
    for (let at = 0; at < stack.length; at += count) this.candidates.push(stack.subarray(at, at + count));
    this.beforeShown = false;
    this.panel.showCandidates(this.candidates, this.state.candidates, this.state.chosen, (canvas, ids) => this.thumbnail(canvas, ids));
  }

  thumbnail(canvas, ids) {
    const [height, width] = this.size, colours = layer(width, height), scale = Math.min(1, 192 / Math.max(width, height));
    fillColours(colours, ids, null, colourTable(this.state.colours), [0, 0, width, height]);
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    const ctx = canvas.getContext("2d");
    ctx.drawImage(this.picture.photo, 0, 0, canvas.width, canvas.height);
    ctx.globalAlpha = 0.7;
    ctx.imageSmoothingEnabled = false;
    ctx.drawImage(colours.canvas, 0, 0, canvas.width, canvas.height);
  }

  // What Python sent, and on top of it what Python has not confirmed yet.
  rebuild() {
    const [height, width] = this.size;
    this.region = this.base.slice();
    for (const edit of [...standing(this.pending), ...(this.unfinished ? [this.unfinished] : [])])
      DRAWING[edit.op](edit, this.region, width, height, this.ids);
    this.show();
  }

  show() {
    if (this.showing) return;
    this.showing = requestAnimationFrame(() => {
      this.showing = 0;
      const candidate = this.candidates[this.state.chosen], preview = Boolean(candidate) && !this.beforeShown;
      const ids = preview ? candidate : this.ids, key = JSON.stringify([preview, this.state.colours, this.size]);
      this.panel.before.setAttribute("aria-pressed", String(Boolean(candidate) && !preview));
      const { shown } = this;
      if (shown?.ids === ids && shown.key === key && sameBytes(shown.region, this.region)) return;
      this.shown = { ids, key, region: this.region.slice() };
      this.picture.setSegments(ids, this.region, this.state.colours, preview);
    });
  }

  layout() {
    const [height, width] = this.size, room = this.stage.clientWidth;
    if (!room) return;
    this.canvas.style.height = `${Math.round(Math.min((room * height) / width, Math.max(360, window.innerHeight * 0.72)))}px`;
    this.picture.resize();
  }

  // From the page to Python

  editable() {
    return !this.gone && Boolean(this.ids);
  }

  live(edit, from = 0) {
    const [height, width] = this.size;
    const points = edit.points.slice(from);
    this.unfinished = edit;
    this.shown = null; // the picture runs ahead of what show() drew
    if (this.picture.preview) { this.showBefore(); this.show(); }
    DRAWING[edit.op]({ ...edit, points }, this.region, width, height);
    this.picture.setRegion(this.ids, this.region, strokeBox(width, height, points, edit.radius));
  }

  abandon() {
    this.unfinished = null;
    this.rebuild();
  }

  commit(edit) {
    this.unfinished = null;
    if (!this.editable()) { if (this.ids) this.rebuild(); return; }
    this.showBefore();
    this.send(edit);
    this.rebuild();
  }

  showBefore() {
    if (this.candidates.length) this.beforeShown = true;
  }

  // An edit: kept here until Python has confirmed its number.
  send(edit) {
    if (!this.editable()) return;
    const message = { type: "edit", client: this.client, seq: ++this.seq, ...edit };
    this.pending.push(message);
    this.root.dataset.seq = this.seq;
    this.post(message);
    if (edit.op === "undo" || edit.op === "redo") this.rebuild();
    setTimeout(() => {
      if (this.acked >= message.seq || this.gone || this.signal.aborted) return;
      this.panel.say("warning", "Python is busy. Draw on: it takes your edits as soon as it is free.");
    }, REPLY_LATE);
  }

  // A request whose order among the edits does not matter.
  ask(message) {
    if (!this.gone) this.post({ type: "request", ...message });
  }

  post(message, buffers) {
    try {
      this.model.send(message, undefined, buffers);
    } catch {
      this.kernelGone();
    }
  }

  inpaint() {
    this.send({ op: "start", ...this.panel.chosenSettings() });
  }

  choose(k) {
    this.beforeShown = false;
    this.send({ op: "choose", k });
    this.show();
  }

  async upload(file) {
    if (!this.editable()) return;
    if (file.size > MAX_UPLOAD) {
      this.panel.say("error", `${file.name} has ${Math.round(file.size / PART)} MB; the editor takes files up to 64 MB: make it smaller first.`);
      return;
    }
    const data = await file.arrayBuffer(), upload = `${this.client}-${Date.now()}`, parts = Math.max(1, Math.ceil(data.byteLength / PART));
    this.panel.say("info", `Sending ${file.name}…`);
    for (let part = 0; part < parts; part++)
      this.post({ type: "upload", upload, part, parts, name: file.name }, [data.slice(part * PART, (part + 1) * PART)]);
  }

  async download() {
    const blob = await idsAsPng(this.ids.map((id) => this.state.originals[id] ?? id), this.size[1], this.size[0]);
    const link = element("a", { href: URL.createObjectURL(blob), download: "ids.png" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  toggleSegment(x, y) {
    const [height, width] = this.size, column = Math.floor(x), row = Math.floor(y);
    if (column < 0 || row < 0 || column >= width || row >= height) return;
    const id = this.ids[row * width + column];
    this.commit({ op: "drop_segment", id, hide: this.ids.some((other, i) => other === id && !this.region[i]) });
  }

  // The kernel is gone: what it had confirmed is saved, what it had not is left for the next view of this session.
  kernelGone() {
    this.gone = true;
    const edits = standing(this.pending);
    if (edits.length && this.state) sessionStorage.setItem(`mask-editor:${this.state.key}`, JSON.stringify(edits));
    this.root.classList.add("me-gone");
    for (const node of this.root.querySelectorAll(".me-side :is(button, input, select):not(.me-always), [data-do=undo], [data-do=redo]"))
      node.disabled = true;
    this.panel.showProgress({ running: false, step: 0, total: 0, stage: "" });
    this.panel.say("error", "The kernel of this editor is gone. " + (this.state?.saved
      ? `Every edit is in ${this.state.saved}: run the cell again to go on. ` : "Its edits were not saved to disk. ")
      + "“Ids as PNG” takes the ids from this page.");
  }

  takeOver() {
    const key = `mask-editor:${this.state.key}`, left = sessionStorage.getItem(key);
    if (!left) return;
    sessionStorage.removeItem(key);
    for (const { type, client, seq, ...edit } of JSON.parse(left)) this.commit(edit);
  }

  // What concerns this view alone

  chooseTool(tool) {
    this.tools.abandon();
    this.tools.tool = tool;
    for (const [name, button] of Object.entries(this.panel.tools)) button.setAttribute("aria-pressed", String(name === tool));
    this.canvas.dataset.tool = tool;
    this.picture.draw();
  }

  chooseSize(size) {
    this.tools.size = clamp(size, 1, this.largest ?? 160);
    this.panel.size.value = this.tools.size;
    this.panel.size.title = `${this.tools.size} pixels`;
    this.picture.draw();
  }

  chooseOpacity(opacity) {
    this.picture.opacity = opacity;
    this.picture.draw();
  }

  toggleOutlines() {
    this.picture.outlines = !this.picture.outlines;
    this.panel.outlines.setAttribute("aria-pressed", String(this.picture.outlines));
    this.picture.draw();
  }

  toggleBefore() {
    this.beforeShown = !this.beforeShown;
    this.show();
  }

  hover(place) {
    const [height, width] = this.size, column = Math.floor(place?.[0] ?? -1), row = Math.floor(place?.[1] ?? -1);
    if (!this.ids || column < 0 || row < 0 || column >= width || row >= height) { this.panel.place.textContent = ""; return; }
    const i = row * width + column, id = (this.candidates[this.state.chosen] && !this.beforeShown ? this.candidates[this.state.chosen] : this.ids)[i];
    const name = this.state.names[id] ? ` (${this.state.names[id]})` : "";
    this.panel.place.textContent = `x ${column}, y ${row}: ${id === 0 ? "void" : `segment ${id}${name}`}${this.region[i] ? ", hidden" : ""}`;
  }

  key(event) {
    const held = event.ctrlKey || event.metaKey, letter = event.key.toLowerCase();
    let used = true;
    if (held && letter === "z") this.send({ op: event.shiftKey ? "redo" : "undo" });
    else if (held && letter === "y") this.send({ op: "redo" });
    else if (held || event.target.matches("input:not([type=range]), select")) used = false;
    else if (event.key === "?" || (event.key === "Escape" && this.help.open)) this.help.toggle();
    else if (event.target === this.canvas && this.tools.key(event)) used = true;
    else {
      const tool = Object.keys(TOOL_NAMES).find((name) => TOOL_NAMES[name][1].toLowerCase() === letter);
      if (tool) this.chooseTool(tool);
      else if (letter === "o") this.toggleOutlines();
      else if (letter === "v") this.toggleBefore();
      else if (letter === "[" || letter === "]") this.chooseSize(this.tools.size + (letter === "]" ? 1 : -1) * Math.max(1, Math.round(this.tools.size / 8)));
      else if (letter === "+" || letter === "=") this.picture.zoomBy(1.4);
      else if (letter === "-") this.picture.zoomBy(1 / 1.4);
      else if (letter === "0") this.picture.fit();
      else used = false;
    }
    if (used) { event.preventDefault(); event.stopPropagation(); }
  }
}

export default {
  render({ model, el, signal }) {
    new View(model, el, signal);
  },
};
