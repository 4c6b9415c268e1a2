// The explorer: a decoder that runs in the page, from the run's own weights.
// A spec names the layers; their weights are float16 in one base64 text.
"use strict";

/** Float16 numbers of a base64 text, as float32. */
function halves(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const bits = new Uint16Array(bytes.buffer);
  const numbers = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) {
    const sign = bits[i] >> 15 ? -1 : 1;
    const exponent = (bits[i] >> 10) & 31;
    const fraction = bits[i] & 1023;
    numbers[i] = exponent
      ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024)
      : sign * 2 ** -14 * (fraction / 1024);
  }
  return numbers;
}

/** h' = W h + b. */
function linear(h, { inputs, outputs, weight, bias }) {
  const out = new Float32Array(outputs);
  for (let o = 0; o < outputs; o++) {
    let sum = bias[o];
    const row = o * inputs;
    for (let i = 0; i < inputs; i++) sum += weight[row + i] * h[i];
    out[o] = sum;
  }
  return out;
}

/** A transposed convolution; weights lie by input channel, output channel, row, column. */
function conv(h, { shape, channels, kernel, stride, padding, out, weight, bias }) {
  const [inputs, rows, columns] = shape;
  const [height, width] = out;
  const image = new Float32Array(channels * height * width);
  for (let o = 0; o < channels; o++) {
    image.fill(bias[o], o * height * width, (o + 1) * height * width);
  }
  for (let i = 0; i < inputs; i++) {
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        const value = h[(i * rows + r) * columns + c];
        if (value === 0) continue;
        for (let o = 0; o < channels; o++) {
          const from = (i * channels + o) * kernel[0] * kernel[1];
          for (let y = 0; y < kernel[0]; y++) {
            const row = r * stride[0] - padding[0] + y;
            if (row < 0 || row >= height) continue;
            for (let x = 0; x < kernel[1]; x++) {
              const column = c * stride[1] - padding[1] + x;
              if (column < 0 || column >= width) continue;
              image[(o * height + row) * width + column] += value * weight[from + y * kernel[1] + x];
            }
          }
        }
      }
    }
  }
  return image;
}

const sigmoid = (v) => 1 / (1 + Math.exp(-v));

const FUNCTIONS = {
  relu: (v) => (v > 0 ? v : 0),
  sigmoid,
  silu: (v) => v * sigmoid(v),
  tanh: Math.tanh,
  leaky: (v, s) => (v > 0 ? v : s.negative_slope * v),
  elu: (v, s) => (v > 0 ? v : s.alpha * Math.expm1(v)),
  softplus: (v, s) =>
    s.beta * v > s.threshold ? v : Math.log1p(Math.exp(s.beta * v)) / s.beta,
};

/** What the decoder gives for latents z and a class y. */
function decoded(layers, z, y) {
  let h = Float32Array.from(z);
  for (const layer of layers) {
    if (layer.kind === "linear") h = linear(h, layer);
    else if (layer.kind === "conv") h = conv(h, layer);
    else if (layer.kind === "first") h = h.subarray(0, layer.count);
    else if (layer.kind === "class") {
      const joined = new Float32Array(h.length + layer.classes);
      joined.set(h);
      joined[h.length + y] = 1;
      h = joined;
    } else if (layer.kind === "glu") {
      const half = h.length / 2;
      h = h.subarray(0, half).map((v, i) => v * sigmoid(h[half + i]));
    } else {
      const f = FUNCTIONS[layer.kind];
      h = h.map((v) => f(v, layer));
    }
  }
  return h;
}

/** Layers with their weights, which lie one after the other. */
function withWeights(layers, text) {
  const numbers = halves(text);
  let place = 0;
  const take = (count) => numbers.subarray(place, (place += count));
  return layers.map((layer) =>
    layer.counts.length
      ? { ...layer, weight: take(layer.counts[0]), bias: take(layer.counts[1]) }
      : layer,
  );
}

/** Paints numbers as an image; grey ones from white to black, colours as they are. */
function painted(spec, x) {
  const { channels, height, width } = spec.image;
  const image = new ImageData(width, height);
  const size = height * width;
  const level = (v) => Math.round(255 * Math.min(1, Math.max(0, v)));
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++) {
      image.data[4 * i + c] = channels === 3 ? level(x[c * size + i]) : 255 - level(x[i]);
    }
    image.data[4 * i + 3] = 255;
  }
  return image;
}

/** Connects one explorer's elements with its decoder. */
function explorer(root, spec) {
  const layers = spec.layers ? withWeights(spec.layers, spec.weights) : null;
  const find = (name) => root.querySelector(`[data-part="${name}"]`);
  const plane = find("plane");
  const image = find("image");
  const place = find("place");
  const sliders = [...root.querySelectorAll("input[type=range]")];
  const classes = [...root.querySelectorAll("[data-class]")];
  const walk = find("walk");
  const { height, width } = spec.image;
  const [first, second] = spec.plane;
  const flat = second === undefined;
  const z = [...spec.start];
  let y = 0;
  let sheet = 0; // the number of the sheet that is being drawn
  let timer = null;
  const decode = layers ? (at, of) => decoded(layers, at, of) : null;

  image.width = width;
  image.height = height;
  plane.width = spec.size * width;
  plane.height = spec.size * height;
  const canvas = plane.getContext("2d");
  const background = document.createElement("canvas");
  background.width = plane.width;
  background.height = plane.height;

  // On an axis of the plane, 0 across and 1 up, a latent's value is a fraction of its limits.
  const clamp = (v) => Math.min(1, Math.max(0, v));
  const value = (axis, part) =>
    spec.limits[axis][0] + part * (spec.limits[axis][1] - spec.limits[axis][0]);
  const fraction = (axis) => {
    if (axis === 1 && flat) return 0.5;
    const [low, high] = spec.limits[axis];
    return clamp((z[spec.plane[axis]] - low) / (high - low));
  };
  const nearest = (axis) => Math.round(fraction(axis) * (spec.size - 1));

  /** The picture of the plane, with the point on it. */
  function mark() {
    canvas.drawImage(background, 0, 0);
    const across = width / 2 + fraction(0) * (plane.width - width);
    const down = height / 2 + (1 - fraction(1)) * (plane.height - height);
    canvas.lineWidth = Math.max(2, plane.width / 140);
    for (const [radius, colour] of [[0.022, "#ffffff"], [0.016, "#bd1f01"]]) {
      canvas.strokeStyle = colour;
      canvas.beginPath();
      canvas.arc(across, down, radius * plane.width, 0, 2 * Math.PI);
      canvas.stroke();
    }
  }

  /** Decodes the point, and writes where it is. */
  function show() {
    if (decode) image.getContext("2d").putImageData(painted(spec, decode(z, y)), 0, 0);
    else {
      const [column, row] = [nearest(0), spec.size - 1 - nearest(1)];
      image
        .getContext("2d")
        .drawImage(background, column * width, row * height, width, height, 0, 0, width, height);
    }
    for (const slider of sliders) {
      slider.value = z[slider.dataset.latent];
      slider.nextElementSibling.textContent = z[slider.dataset.latent].toFixed(2);
    }
    place.textContent = spec.plane
      .map((d) => `z${d + 1} = ${z[d].toFixed(2)}`)
      .join(", ");
    mark();
  }

  /** Decodes the grid of the plane, a few images a frame. */
  function draw() {
    const own = ++sheet;
    const at = [...z];
    let count = 0;
    const ink = background.getContext("2d");
    function some() {
      const until = performance.now() + 12;
      while (own === sheet && count < spec.size ** 2 && performance.now() < until) {
        const [row, column] = [Math.floor(count / spec.size), count % spec.size];
        at[first] = value(0, column / (spec.size - 1));
        if (!flat) at[second] = value(1, 1 - row / (spec.size - 1));
        ink.putImageData(painted(spec, decode(at, y)), column * width, row * height);
        count++;
      }
      mark();
      if (own === sheet && count < spec.size ** 2) requestAnimationFrame(some);
      else if (own === sheet) root.dataset.drawn = String(own);
    }
    some();
  }

  /** Moves to latents; the plane is drawn anew where others than its own have changed. */
  function move(changes) {
    let others = false;
    for (const [d, value] of changes) {
      z[d] = value;
      others ||= d !== first && d !== second;
    }
    show();
    if (others && decode && !timer) draw();
  }

  /** Moves the point to fractions of the plane. */
  function placeAt(across, up) {
    const moved = [[first, value(0, clamp(across))]];
    move(flat ? moved : [...moved, [second, value(1, clamp(up))]]);
  }
  function follow(event) {
    const box = plane.getBoundingClientRect();
    const part = (at, all) => (at - all / spec.size / 2) / (all - all / spec.size);
    const across = part(event.clientX - box.left, box.width);
    placeAt(across, 1 - part(event.clientY - box.top, box.height));
  }
  plane.addEventListener("pointerdown", (event) => {
    plane.setPointerCapture(event.pointerId);
    follow(event);
  });
  plane.addEventListener("pointermove", (event) => {
    if (plane.hasPointerCapture(event.pointerId)) follow(event);
  });
  const steps = {
    ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1],
  };
  plane.addEventListener("keydown", (event) => {
    if (!(event.key in steps)) return;
    event.preventDefault();
    const size = event.shiftKey ? 0.01 : 0.05;
    const [across, up] = steps[event.key];
    placeAt(fraction(0) + across * size, fraction(1) + up * size);
  });
  for (const slider of sliders) {
    slider.addEventListener("input", () => {
      move([[Number(slider.dataset.latent), Number(slider.value)]]);
    });
  }
  for (const button of classes) {
    button.addEventListener("click", () => {
      y = Number(button.dataset.class);
      for (const other of classes) other.setAttribute("aria-pressed", String(other === button));
      show();
      if (decode) draw();
      else load();
    });
  }
  find("back").addEventListener("click", () => move(spec.start.map((v, d) => [d, v])));
  function halt() {
    clearInterval(timer);
    timer = null;
    walk.setAttribute("aria-pressed", "false");
    draw();
  }
  if (walk) {
    walk.addEventListener("click", () => {
      if (timer) return halt();
      walk.setAttribute("aria-pressed", "true");
      // A stationary walk: each latent keeps the mean and the scale of the prior.
      timer = setInterval(() => {
        const normal = () =>
          Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
        move(
          z.map((v, d) => {
            const [mean, scale] = spec.moments[d];
            return [d, mean + 0.98 * (v - mean) + Math.sqrt(1 - 0.98 ** 2) * scale * normal()];
          }),
        );
      }, 100);
    });
  }
  /** Shows the grid of the class that was decoded before. */
  function load() {
    const grid = new Image();
    grid.onload = () => {
      background.getContext("2d").drawImage(grid, 0, 0);
      show();
      root.dataset.drawn = String(++sheet);
    };
    grid.src = spec.grids[y];
  }

  root.decode = decode;
  if (decode) draw();
  else load();
  show();
}

for (const root of document.querySelectorAll("[data-explorer]")) {
  explorer(root, JSON.parse(document.getElementById(root.dataset.explorer).textContent));
}
