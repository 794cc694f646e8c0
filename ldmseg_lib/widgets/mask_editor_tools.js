// Pointer and keyboard on the canvas: turns them into edits. `host` is the view: host.live(edit), host.commit(edit), ...

const TOOLS = ["brush", "eraser", "box", "lasso", "segment", "pan"];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

class Tools {
  constructor(canvas, picture, host, signal) {
    Object.assign(this, { canvas, picture, host });
    this.tool = "brush";
    this.size = 24;
    this.pointers = new Map();
    this.cursor = null;
    picture.feedback = (ctx) => this.feedback(ctx);
    const on = (name, handler, options = {}) => canvas.addEventListener(name, handler, { ...options, signal });
    on("pointerdown", (e) => this.down(e));
    on("pointermove", (e) => this.move(e));
    on("pointerup", (e) => this.up(e));
    on("pointercancel", (e) => this.up(e, true));
    on("pointerleave", () => { this.cursor = null; host.hover(null); picture.draw(); });
    on("wheel", (e) => this.wheel(e), { passive: false });
    on("blur", () => { this.keyboard = null; this.abandon(); });
    on("contextmenu", (e) => e.preventDefault());
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  get radius() {
    return this.size / 2;
  }

  down(event) {
    event.preventDefault();
    const regains = event.pointerType === "mouse" && this.canvas.getRootNode().activeElement !== this.canvas;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.at(event));
    this.keyboard = null;
    if (this.pointers.size === 2) { this.abandon(); this.panning = true; return; }
    if (this.pointers.size > 2 || this.panning) return;
    if (this.tool === "pan" || event.button === 1) { this.panning = true; return; }
    if (event.button !== 0 || !this.host.editable()) return;
    // a click that brings the focus back edits nothing; a drag does
    if (regains) this.waiting = { from: this.at(event), reverse: event.altKey };
    else this.begin(this.picture.toImage(...this.at(event)), event.altKey);
  }

  move(event) {
    const here = this.at(event), held = this.pointers.get(event.pointerId);
    this.cursor = here;
    this.host.hover(this.picture.toImage(...here));
    const { waiting } = this;
    if (held && waiting && Math.hypot(here[0] - waiting.from[0], here[1] - waiting.from[1]) > 3) {
      this.waiting = null;
      if (this.tool !== "segment") this.begin(this.picture.toImage(...waiting.from), waiting.reverse);
    }
    if (held && this.panning) this.drag(event.pointerId, held, here);
    else if (held && this.edit) {
      const events = event.getCoalescedEvents?.() ?? [];
      for (const e of events.length ? events : [event]) this.extend(this.picture.toImage(...this.at(e)));
    }
    if (held) this.pointers.set(event.pointerId, here);
    this.picture.draw();
  }

  drag(id, before, here) {
    const other = [...this.pointers].find(([key]) => key !== id)?.[1];
    if (!other) { this.picture.panBy(here[0] - before[0], here[1] - before[1]); return; }
    const span = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]);
    const middle = [(here[0] + other[0]) / 2, (here[1] + other[1]) / 2];
    if (span(before) > 0) this.picture.zoomBy(span(here) / span(before), middle);
    this.picture.panBy((here[0] - before[0]) / 2, (here[1] - before[1]) / 2);
  }

  up(event, cancelled = false) {
    this.pointers.delete(event.pointerId);
    this.waiting = null;
    if (this.panning) { if (this.pointers.size === 0) this.panning = false; return; }
    if (cancelled) this.abandon();
    else this.finish();
  }

  wheel(event) {
    // a plain wheel scrolls the notebook; with Ctrl (and as a trackpad pinch) it zooms
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.picture.zoomBy(Math.exp(-event.deltaY / 300), this.at(event));
  }

  begin([x, y], reverse) {
    const hide = !reverse;
    if (this.tool === "segment") { this.host.toggleSegment(x, y); return; }
    if (this.tool === "box") this.edit = { op: "box", x0: x, y0: y, x1: x, y1: y, hide };
    else if (this.tool === "lasso") this.edit = { op: "lasso", points: [[x, y]], hide };
    else this.edit = { op: (this.tool === "brush") === hide ? "paint" : "erase", points: [[x, y]], radius: this.radius };
    if (this.edit.radius) this.host.live(this.edit);
    this.picture.draw();
  }

  extend([x, y]) {
    const { edit } = this;
    if (edit.op === "box") { [edit.x1, edit.y1] = [x, y]; return; }
    const [px, py] = edit.points[edit.points.length - 1];
    if (quantise(px) === quantise(x) && quantise(py) === quantise(y)) return;
    edit.points.push([x, y]);
    if (edit.radius) this.host.live(edit, edit.points.length - 2);
  }

  finish() {
    const { edit } = this;
    this.edit = null;
    if (edit) this.host.commit(edit);
    this.picture.draw();
  }

  abandon() {
    this.waiting = null;
    if (!this.edit) return;
    this.edit = null;
    this.host.abandon();
    this.picture.draw();
  }

  // The keyboard moves a cross hair; Space or Enter puts the tool down and takes it up again.
  key(event) {
    if (event.key in ARROWS) {
      const step = event.shiftKey ? 10 : 1, [dx, dy] = ARROWS[event.key];
      const [x, y] = this.keyboard ?? [Math.floor(this.picture.width / 2) + 0.5, Math.floor(this.picture.height / 2) + 0.5];
      this.keyboard = [clamp(x + dx * step, 0.5, this.picture.width - 0.5), clamp(y + dy * step, 0.5, this.picture.height - 0.5)];
      if (this.edit && this.tool !== "lasso") this.extend(this.keyboard);
      this.host.hover(this.keyboard);
    } else if (event.key === " " || event.key === "Enter") {
      if (!this.host.editable()) return true;
      this.keyboard ??= [Math.floor(this.picture.width / 2) + 0.5, Math.floor(this.picture.height / 2) + 0.5];
      if (!this.edit) this.begin(this.keyboard, event.altKey);
      else if (this.tool === "lasso" && event.key === " ") this.extend(this.keyboard);
      else this.finish();
    } else if (event.key === "Escape") this.abandon();
    else return false;
    this.picture.draw();
    return true;
  }

  feedback(ctx) {
    const { picture, edit } = this;
    const place = this.keyboard ? picture.toScreen(...this.keyboard) : this.cursor;
    const trace = () => {
      ctx.beginPath();
      if (edit?.op === "box") {
        const [ax, ay] = picture.toScreen(edit.x0, edit.y0), [bx, by] = picture.toScreen(edit.x1, edit.y1);
        ctx.rect(ax, ay, bx - ax, by - ay);
      } else if (edit?.op === "lasso") edit.points.forEach((p) => ctx.lineTo(...picture.toScreen(...p)));
      if (place && (this.tool === "brush" || this.tool === "eraser")) {
        const reach = (reachOf(this.radius) / UNITS) * picture.zoom;
        ctx.moveTo(place[0] + reach, place[1]);
        ctx.arc(...place, reach, 0, 2 * Math.PI);
      }
      if (this.keyboard) {
        ctx.moveTo(place[0] - 10, place[1]);
        ctx.lineTo(place[0] + 10, place[1]);
        ctx.moveTo(place[0], place[1] - 10);
        ctx.lineTo(place[0], place[1] + 10);
      }
    };
    for (const [colour, width] of [["rgba(0, 0, 0, 0.6)", 3], ["#ffffff", 1.25]]) {
      ctx.strokeStyle = colour;
      ctx.lineWidth = width;
      trace();
      ctx.stroke();
    }
  }
}
