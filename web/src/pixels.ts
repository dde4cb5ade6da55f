import { BhvitError } from "./errors.js";

/** Decoded pixels, RGBA or with as many channels as a model takes; rows from the top, no padding. */
export interface RawImage {
  readonly data: Uint8Array | Uint8ClampedArray;
  readonly width: number;
  readonly height: number;
}

/** What can be classified: decoded pixels, a picture file, or whatever a canvas can draw. */
export type ImageInput =
  | RawImage
  | Blob
  | ImageBitmap
  | HTMLCanvasElement
  | OffscreenCanvas
  | HTMLImageElement
  | HTMLVideoElement
  | VideoFrame;

/** A part of an image, in its pixels, which need not be whole. */
export interface Part {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** Pixels of the largest picture that is decoded. */
export const MAX_PIXELS = 89_478_485;

/** The RGBA pixels of an image. Throws BhvitError for what is no picture, and for one that is too large. */
export async function pixelsOf(image: ImageInput): Promise<RawImage> {
  if (isRaw(image)) return checked(image);
  if (typeof OffscreenCanvas === "undefined") {
    throw new BhvitError("argument", "only { data, width, height } can be used here: there is no canvas");
  }
  if (!(image instanceof Blob)) return drawn(image);
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(image, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch (error) {
    throw new BhvitError("argument", "the file is not a picture that this browser can decode", { cause: error });
  }
  try {
    return drawn(bitmap);
  } finally {
    bitmap.close();
  }
}

/** The part of an image that a model sees: the centre of what just covers the size that its preprocessing names. */
export function seenPart(
  image: { readonly width: number; readonly height: number },
  model: { readonly width: number; readonly height: number; readonly coverWidth: number; readonly coverHeight: number },
): Part {
  const scale = Math.max(model.coverWidth / image.width, model.coverHeight / image.height);
  const [width, height] = [model.width / scale, model.height / scale];
  return { x: (image.width - width) / 2, y: (image.height - height) / 2, width, height };
}

function isRaw(image: unknown): image is RawImage {
  return typeof image === "object" && image !== null && "data" in image && ArrayBuffer.isView(image.data);
}

function checked(image: RawImage): RawImage {
  const { data, width, height } = image;
  const kind = Object.prototype.toString.call(data).slice(8, -1); // a page in a frame has an Uint8Array of its own
  if (kind !== "Uint8Array" && kind !== "Uint8ClampedArray") {
    throw new BhvitError("argument", `the pixels of a picture are bytes (Uint8Array or Uint8ClampedArray), not ${kind}`);
  }
  const whole = Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0;
  if (!whole || data.length === 0 || data.length % (width * height) !== 0) {
    throw new BhvitError("argument", `${data.length} bytes are no picture of ${width}x${height} pixels`);
  }
  checkSize(width, height);
  return image;
}

function checkSize(width: number, height: number): void {
  if (width * height > MAX_PIXELS) {
    throw new BhvitError("argument", `a picture of ${width}x${height} pixels is larger than the ${MAX_PIXELS} allowed`);
  }
}

function drawn(source: Exclude<ImageInput, RawImage | Blob>): RawImage {
  const [width, height] = sizeOf(source);
  if (!(width > 0 && height > 0)) throw new BhvitError("argument", "the picture has no pixels yet");
  checkSize(width, height);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (!context) throw new BhvitError("system", "the browser gives no canvas");
  try {
    context.drawImage(source, 0, 0, width, height);
    return context.getImageData(0, 0, width, height);
  } catch (error) {
    throw new BhvitError("argument", reasonOf(error), { cause: error });
  }
}

/** Why a canvas does not draw a picture or give its pixels. */
function reasonOf(error: unknown): string {
  if (error instanceof DOMException && error.name === "SecurityError") {
    return "the picture comes from another site, which does not let this page read it";
  }
  return `the picture cannot be drawn: ${error instanceof Error ? error.message : String(error)}`;
}

function sizeOf(source: Exclude<ImageInput, RawImage | Blob>): [number, number] {
  if ("videoWidth" in source) return [source.videoWidth, source.videoHeight];
  if ("naturalWidth" in source) return [source.naturalWidth, source.naturalHeight];
  if ("displayWidth" in source) return [source.displayWidth, source.displayHeight];
  return [source.width, source.height];
}
