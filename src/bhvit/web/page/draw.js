// What lies over a picture: the map of an explanation, or the labels of a segmentation.

const GOLDEN = 0.61803398875;

/** The colour of a class, as `bhvit segment` draws it: hues far apart for neighbours. */
export function colourOf(index) {
  const hue = 6 * ((index * GOLDEN) % 1);
  const value = 255 * (index % 2 === 0 ? 0.95 : 0.7);
  return [5, 3, 1].map((turn) => {
    const sector = (hue + turn) % 6;
    return Math.round(value * (1 - 0.85 * Math.max(0, Math.min(sector, 4 - sector, 1))));
  });
}

/** Draws labels over a canvas of any size. */
export function drawLabels(canvas, { labels, width, height }, classes) {
  const colours = Array.from({ length: classes }, (_, index) => colourOf(index));
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let row = 0, at = 0; row < canvas.height; row++) {
    const from = Math.floor((row + 0.5) * height / canvas.height) * width;
    for (let column = 0; column < canvas.width; column++, at += 4) {
      const label = labels[from + Math.floor((column + 0.5) * width / canvas.width)];
      image.data.set(colours[label], at);
      image.data[at + 3] = 128;
    }
  }
  context.putImageData(image, 0, 0);
}

/** Draws the map of an explanation over the part of a picture of so many pixels that it is about. */
export function drawHeat(canvas, { heat, width, height, part }, picture) {
  const map = document.createElement("canvas");
  [map.width, map.height] = [width, height];
  const image = new ImageData(width, height);
  heat.forEach((value, i) => { // from blue through yellow to red, as strong as the map
    image.data.set([Math.min(1, 2 * value), 1 - Math.abs(2 * value - 1), Math.max(0, 1 - 2 * value), 0.7 * value]
      .map((share) => 255 * share), 4 * i);
  });
  map.getContext("2d").putImageData(image, 0, 0);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  const [x, y] = [canvas.width / picture.width, canvas.height / picture.height];
  context.drawImage(map, part.x * x, part.y * y, part.width * x, part.height * y);
}

/** Where a map is strongest, in words. */
export function placeOf({ heat, width, height }) {
  let [sum, x, y] = [0, 0, 0];
  heat.forEach((value, i) => {
    const strength = value ** 4; // of the strongest parts
    sum += strength;
    x += strength * (i % width + 0.5) / width;
    y += strength * (Math.floor(i / width) + 0.5) / height;
  });
  if (sum === 0) return "";
  const third = (share, names) => names[Math.min(2, Math.floor(3 * share / sum))];
  const words = [third(y, ["top", "", "bottom"]), third(x, ["left", "", "right"])].filter(Boolean);
  return words.length ? `at the ${words.join(" ")}` : "in the middle";
}

/** Classes of a label map with their shares, the largest first. */
export function sharesOf({ labels }, names) {
  const counts = new Uint32Array(names.length);
  for (const label of labels) counts[label] += 1;
  return Array.from(counts, (count, index) => ({ index, name: names[index], share: count / labels.length }))
    .filter(({ share }) => share > 0)
    .sort((a, b) => b.share - a.share);
}
