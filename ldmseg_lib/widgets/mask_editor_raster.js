// Which pixels an edit covers, as raster.py defines it: the same integers, so the same pixels. Also the codecs of the traits.

const UNITS = 4;
const quantise = (v) => Math.min(Math.max(Math.floor(v * UNITS + 0.5), -8192), 24576);
const reachOf = (radius) => Math.min(Math.max(Math.floor(radius * UNITS + 0.5), 3), 1024);
const firstPixel = (q) => Math.ceil((q - 2) / UNITS);
const clamp = (v, low, high) => Math.min(Math.max(v, low), high);

// Set the pixels of `mask` within `reach` of the segment a-b, all in quarter pixels.
function coverSegment(mask, width, height, [ax, ay], [bx, by], reach, value) {
  const left = Math.max(firstPixel(Math.min(ax, bx) - reach), 0);
  const right = Math.min(firstPixel(Math.max(ax, bx) + reach + 1), width);
  const top = Math.max(firstPixel(Math.min(ay, by) - reach), 0);
  const bottom = Math.min(firstPixel(Math.max(ay, by) + reach + 1), height);
  const dx = bx - ax, dy = by - ay, length = dx * dx + dy * dy, square = reach * reach;
  const beside = Math.floor(Math.sqrt(square * length));
  for (let y = top; y < bottom; y++) {
    const wy = UNITS * y + 2 - ay;
    for (let x = left; x < right; x++) {
      const wx = UNITS * x + 2 - ax, along = wx * dx + wy * dy;
      let inside;
      if (along <= 0) inside = wx * wx + wy * wy <= square;
      else if (along >= length) inside = (wx - dx) ** 2 + (wy - dy) ** 2 <= square;
      else inside = Math.abs(dx * wy - dy * wx) <= beside;
      if (inside) mask[y * width + x] = value;
    }
  }
}

function coverStroke(mask, width, height, points, radius, value) {
  const places = points.map(([x, y]) => [quantise(x), quantise(y)]), reach = reachOf(radius);
  if (places.length === 1) coverSegment(mask, width, height, places[0], places[0], reach, value);
  for (let i = 1; i < places.length; i++) coverSegment(mask, width, height, places[i - 1], places[i], reach, value);
}

function coverRectangle(mask, width, height, x0, y0, x1, y1, value) {
  const [ax, ay, bx, by] = [x0, y0, x1, y1].map(quantise);
  const left = clamp(firstPixel(Math.min(ax, bx)), 0, width), right = clamp(firstPixel(Math.max(ax, bx)), 0, width);
  const top = clamp(firstPixel(Math.min(ay, by)), 0, height), bottom = clamp(firstPixel(Math.max(ay, by)), 0, height);
  for (let y = top; y < bottom; y++) mask.fill(value, y * width + left, y * width + right);
}

function coverLasso(mask, width, height, points, value) {
  const places = points.map(([x, y]) => [quantise(x), quantise(y)]);
  const turns = new Int32Array(height * (width + 1));
  places.forEach(([ax, ay], i) => {
    let [bx, by] = places[(i + 1) % places.length], sign = 1;
    if (ay > by) [ax, ay, bx, by, sign] = [bx, by, ax, ay, -1];
    for (let y = Math.max(firstPixel(ay), 0); y < Math.min(firstPixel(by), height); y++) {
      const above = (bx - ax) * (UNITS * y + 2 - ay) + (ax - 2) * (by - ay);
      turns[y * (width + 1) + clamp(Math.ceil(above / (UNITS * (by - ay))), 0, width)] += sign;
    }
  });
  for (let y = 0; y < height; y++)
    for (let x = 0, winding = 0; x < width; x++) {
      winding += turns[y * (width + 1) + x];
      if (winding !== 0) mask[y * width + x] = value;
    }
}

// The box [left, top, right, bottom] of pixels that a stroke can reach.
function strokeBox(width, height, points, radius) {
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]), reach = radius + 2;
  return [clamp(Math.floor(Math.min(...xs) - reach), 0, width), clamp(Math.floor(Math.min(...ys) - reach), 0, height),
    clamp(Math.ceil(Math.max(...xs) + reach), 0, width), clamp(Math.ceil(Math.max(...ys) + reach), 0, height)];
}

// The operations that a view draws by itself, before Python has seen them.
const DRAWING = {
  paint: (e, mask, w, h) => coverStroke(mask, w, h, e.points, e.radius, 1),
  erase: (e, mask, w, h) => coverStroke(mask, w, h, e.points, e.radius, 0),
  box: (e, mask, w, h) => coverRectangle(mask, w, h, e.x0, e.y0, e.x1, e.y1, e.hide ? 1 : 0),
  lasso: (e, mask, w, h) => coverLasso(mask, w, h, e.points, e.hide ? 1 : 0),
  drop_segment: (e, mask, w, h, ids) => ids.forEach((id, i) => { if (id === e.id) mask[i] = e.hide ? 1 : 0; }),
  hide_all: (e, mask) => mask.fill(1),
  show_all: (e, mask) => mask.fill(0),
};

// The drawing operations among edits that Python has not confirmed, after the undos and redos among them.
function standing(edits) {
  const done = [], undone = [];
  for (const edit of edits) {
    if (edit.op === "undo") { if (done.length) undone.push(done.pop()); }
    else if (edit.op === "redo") { if (undone.length) done.push(undone.pop()); }
    else if (edit.op in DRAWING) { done.push(edit); undone.length = 0; }
  }
  return done;
}

async function inflate(view) {
  if (!view || view.byteLength === 0) return new Uint8Array(0);
  const stream = new Blob([view]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function sameBytes(a, b) {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

function unpackBits(bytes, count) {
  const mask = new Uint8Array(count);
  for (let i = 0; i < count; i++) mask[i] = (bytes[i >> 3] >> (i & 7)) & 1;
  return mask;
}

// A PNG of ids in COCO's colouring, id = R + 256 G + 65536 B, made by the page alone.
function idsAsPng(ids, width, height) {
  const canvas = new OffscreenCanvas(width, height), ctx = canvas.getContext("2d");
  const image = ctx.createImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < ids.length; i++) pixels[i] = (ids[i] | 0xff000000) >>> 0;
  ctx.putImageData(image, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}
