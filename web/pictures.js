// Pictures as they are sent: upright, PNG or JPEG, and no larger than is asked for.

import { formatBytes } from "./memory.js";

const SMALL_BYTES = 2 ** 20; // what may stay, or become, a PNG
const SMALL_PIXELS = 2 ** 18; // a JPEG that has to be drawn anew loses nothing by it up to here
const VECTOR_SIDE = 1024; // the longer one of an SVG, which has no pixels of its own

const urls = new WeakMap();
const dataUrls = new WeakMap();

// Of a blob, for an <img>.
export function pictureUrl(blob) {
  if (!urls.has(blob)) urls.set(blob, URL.createObjectURL(blob));
  return urls.get(blob);
}

// Of a blob, for the server: always the same, since the server knows pictures by their bytes.
export function dataUrl(blob) {
  const read = () =>
    new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(new Error("A picture cannot be read any more."));
      reader.readAsDataURL(blob);
    });
  if (!dataUrls.has(blob)) dataUrls.set(blob, read());
  return dataUrls.get(blob);
}

async function load(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () =>
        reject(new Error(`${file.name || "The dropped item"} is not a picture that this browser can read.`));
    });
  } finally {
    URL.revokeObjectURL(image.src);
  }
  return image;
}

function draw(image, width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  // What shines through is white, as for the model.
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
  return canvas;
}

function encode(canvas, type, quality) {
  return new Promise((resolve, reject) =>
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The picture is too large for this browser."))), type, quality),
  );
}

// Photos may say in EXIF how they are to be turned. Others may have the word by chance, which does no harm.
async function mayHaveExif(file) {
  return /Exif\0\0|eXIf/.test(new TextDecoder("latin1").decode(await file.arrayBuffer()));
}

// What is sent of a file: { blob, width, height, note }, where the note says what was changed.
export async function preparePicture(file, maxPixels) {
  const image = await load(file);
  const isVector = file.type === "image/svg+xml";
  let [width, height] = [image.naturalWidth, image.naturalHeight];
  if (isVector) {
    const scale = VECTOR_SIDE / Math.max(width, height, 1);
    [width, height] = [width * scale || VECTOR_SIDE, height * scale || VECTOR_SIDE];
  }
  const scale = Math.min(1, Math.sqrt(maxPixels / (width * height)));
  const [sentWidth, sentHeight] = [width, height].map((side) => Math.max(1, Math.floor(side * scale)));
  const isPng = file.type === "image/png";
  const isJpeg = file.type === "image/jpeg";
  const isSmall = scale === 1 && (isPng || isJpeg) && file.size <= SMALL_BYTES;
  if (isSmall && !(await mayHaveExif(file))) {
    // A copy, since the file may change.
    return { blob: new Blob([await file.arrayBuffer()], { type: file.type }), width, height, note: "" };
  }

  // Scaled in one go by createImageBitmap(), which averages; a canvas alone leaves out lines of what is much larger.
  const size = { resizeWidth: sentWidth, resizeHeight: sentHeight, resizeQuality: "high" };
  const canvas = draw(isVector ? image : await createImageBitmap(image, size), sentWidth, sentHeight);
  let blob = null;
  if (!isJpeg || sentWidth * sentHeight <= SMALL_PIXELS) blob = await encode(canvas, "image/png");
  if (!blob || blob.size > SMALL_BYTES) blob = await encode(canvas, "image/jpeg", 0.92);
  const name = blob.type === "image/png" ? "PNG" : "JPEG";
  const from = isVector ? "SVG" : `${width} × ${height}, ${formatBytes(file.size)}`;
  return { blob, width: sentWidth, height: sentHeight, note: `${from} → ${sentWidth} × ${sentHeight} ${name}, ${formatBytes(blob.size)}` };
}
