// The picture: photo, segments, outlines and what is hidden, under zoom and pan. Knows nothing of Python or of tools.

// The borders between unlike neighbours of `parts`, as one path of horizontal and vertical runs; none beside a negative part.
function borderPath(width, height, parts) {
  const path = new Path2D();
  for (let y = 1; y < height; y++)
    for (let x = 0, start = -1; x <= width; x++) {
      const i = y * width + x, a = parts[i], b = parts[i - width];
      const border = x < width && a !== b && a >= 0 && b >= 0;
      if (border && start < 0) start = x;
      else if (!border && start >= 0) { path.moveTo(start, y); path.lineTo(x, y); start = -1; }
    }
  for (let x = 1; x < width; x++)
    for (let y = 0, start = -1; y <= height; y++) {
      const i = y * width + x, a = parts[i], b = parts[i - 1];
      const border = y < height && a !== b && a >= 0 && b >= 0;
      if (border && start < 0) start = y;
      else if (!border && start >= 0) { path.moveTo(x, start); path.lineTo(x, y); start = -1; }
    }
  return path;
}

const packedColour = (hex) => (0xff000000 | (parseInt(hex.slice(5, 7), 16) << 16) | (parseInt(hex.slice(3, 5), 16) << 8)
  | parseInt(hex.slice(1, 3), 16)) >>> 0;

function layer(width, height) {
  const canvas = new OffscreenCanvas(Math.max(width, 1), Math.max(height, 1));
  const ctx = canvas.getContext("2d"), image = ctx.createImageData(canvas.width, canvas.height);
  return { canvas, ctx, image, pixels: new Uint32Array(image.data.buffer) };
}

const colourTable = (colours) => new Map(Object.entries(colours).map(([id, hex]) => [Number(id), packedColour(hex)]));

// Segments as colours within the box [left, top, right, bottom]; hidden and void pixels stay clear.
function fillColours(target, ids, region, table, [left, top, right, bottom]) {
  const { width } = target.canvas;
  for (let y = top; y < bottom; y++)
    for (let i = y * width + left, end = y * width + right, last = 0, colour = 0; i < end; i++) {
      if (ids[i] !== last) { last = ids[i]; colour = last === 0 ? 0 : table.get(last) ?? 0xff888888; }
      target.pixels[i] = region && region[i] ? 0 : colour;
    }
  target.ctx.putImageData(target.image, 0, 0, left, top, right - left, bottom - top);
}

class Picture {
  constructor(canvas) {
    this.canvas = canvas;
    this.ctx = canvas.getContext("2d");
    this.width = this.height = 1;
    this.opacity = 0.5;
    this.outlines = true;
    this.zoom = 1;
    this.offset = [0, 0];
    this.fitted = true;
    this.feedback = () => {};
  }

  setSize(width, height) {
    [this.width, this.height] = [width, height];
    this.colours = layer(width, height);
    this.hidden = layer(width, height);
    this.resize();
  }

  // `preview`: a candidate is shown, for which nothing is hidden and the region is an outline alone.
  setSegments(ids, region, colours, preview) {
    const { width, height } = this;
    this.preview = preview;
    this.table = colourTable(colours);
    this.setRegion(ids, region, [0, 0, width, height]);
    this.segmentPath = borderPath(width, height, preview ? ids : ids.map((id, i) => (region[i] ? -1 : id)));
    this.regionPath = borderPath(width, height, region);
    this.draw();
  }

  // What is hidden changed within a box. Outlines follow with the next setSegments: under the brush this is quick.
  setRegion(ids, region, [left, top, right, bottom]) {
    if (left >= right || top >= bottom) return;
    fillColours(this.colours, ids, this.preview ? null : region, this.table, [left, top, right, bottom]);
    for (let y = top; y < bottom; y++)
      for (let i = y * this.width + left, end = y * this.width + right; i < end; i++)
        this.hidden.pixels[i] = region[i] && !this.preview ? 0xffffffff : 0;
    this.hidden.ctx.putImageData(this.hidden.image, 0, 0, left, top, right - left, bottom - top);
    this.draw();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1, box = this.canvas.getBoundingClientRect();
    if (!box.width || !box.height) return;
    this.canvas.width = Math.round(box.width * ratio);
    this.canvas.height = Math.round(box.height * ratio);
    this.screen = new OffscreenCanvas(this.canvas.width, this.canvas.height);
    this.box = box;
    if (this.fitted) this.fit();
    else this.draw();
  }

  fit() {
    if (!this.box) return;
    this.zoom = Math.min(this.box.width / this.width, this.box.height / this.height);
    this.offset = [(this.box.width - this.width * this.zoom) / 2, (this.box.height - this.height * this.zoom) / 2];
    this.fitted = true;
    this.draw();
  }

  zoomBy(factor, [x, y] = [this.box.width / 2, this.box.height / 2]) {
    const least = Math.min(this.box.width / this.width, this.box.height / this.height);
    const zoom = clamp(this.zoom * factor, least, Math.max(64, least));
    this.offset = [x - (x - this.offset[0]) * (zoom / this.zoom), y - (y - this.offset[1]) * (zoom / this.zoom)];
    this.zoom = zoom;
    this.fitted = zoom === least;
    if (this.fitted) this.fit();
    else this.panBy(0, 0);
  }

  panBy(dx, dy) {
    const size = [this.width * this.zoom, this.height * this.zoom], room = [this.box.width, this.box.height];
    // at least a third of the room stays filled
    this.offset = [dx, dy].map((d, i) => clamp(this.offset[i] + d, room[i] / 3 - size[i], (room[i] * 2) / 3));
    this.draw();
  }

  toImage(x, y) {
    return [(x - this.offset[0]) / this.zoom, (y - this.offset[1]) / this.zoom];
  }

  toScreen(x, y) {
    return [x * this.zoom + this.offset[0], y * this.zoom + this.offset[1]];
  }

  draw() {
    if (!this.pending) this.pending = requestAnimationFrame(() => { this.pending = 0; this.paint(); });
  }

  paint() {
    if (!this.screen || !this.colours) return;
    const { ctx, canvas } = this, ratio = canvas.width / this.box.width, scale = this.zoom * ratio;
    const place = (c) => c.setTransform(scale, 0, 0, scale, this.offset[0] * ratio, this.offset[1] * ratio);
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.clearRect(0, 0, canvas.width, canvas.height);
    place(ctx);
    ctx.imageSmoothingEnabled = scale < 2;
    if (this.photo) ctx.drawImage(this.photo, 0, 0, this.width, this.height);
    ctx.imageSmoothingEnabled = false;
    ctx.globalAlpha = this.opacity;
    ctx.drawImage(this.colours.canvas, 0, 0);
    ctx.globalAlpha = 1;
    if (!this.preview) this.paintStripes(place, ratio);
    if (this.outlines && this.segmentPath) this.strokePath(this.segmentPath, scale, ratio, 1.25, []);
    if (this.regionPath) this.strokePath(this.regionPath, scale, ratio, 1.75, this.preview ? [4, 3] : []);
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.feedback(ctx);
  }

  paintStripes(place, ratio) {
    const { screen } = this, c = screen.getContext("2d");
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.globalCompositeOperation = "source-over";
    c.clearRect(0, 0, screen.width, screen.height);
    place(c);
    c.imageSmoothingEnabled = false;
    c.drawImage(this.hidden.canvas, 0, 0);
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.globalCompositeOperation = "source-in";
    c.fillStyle = this.stripes(c, ratio);
    c.fillRect(0, 0, screen.width, screen.height);
    this.ctx.setTransform(1, 0, 0, 1, 0, 0);
    this.ctx.drawImage(screen, 0, 0);
    place(this.ctx);
  }

  stripes(ctx, ratio) {
    if (this.pattern?.ratio === ratio) return this.pattern.fill;
    const side = Math.round(8 * ratio), tile = new OffscreenCanvas(side, side), t = tile.getContext("2d");
    t.fillStyle = "rgba(20, 20, 28, 0.62)";
    t.fillRect(0, 0, side, side);
    t.strokeStyle = "rgba(255, 255, 255, 0.62)";
    t.lineWidth = side / 5;
    for (const shift of [-side, 0, side]) {
      t.beginPath();
      t.moveTo(shift - 2, side + 2);
      t.lineTo(shift + side + 2, -2);
      t.stroke();
    }
    this.pattern = { ratio, fill: ctx.createPattern(tile, "repeat") };
    return this.pattern.fill;
  }

  strokePath(path, scale, ratio, width, dash) {
    const { ctx } = this, line = ratio / scale;
    ctx.lineCap = "square";
    ctx.setLineDash(dash.map((d) => d * line));
    ctx.strokeStyle = "rgba(0, 0, 0, 0.55)";
    ctx.lineWidth = (width + 1.5) * line;
    ctx.stroke(path);
    ctx.strokeStyle = "#ffffff";
    ctx.lineWidth = width * line;
    ctx.stroke(path);
    ctx.setLineDash([]);
  }
}
