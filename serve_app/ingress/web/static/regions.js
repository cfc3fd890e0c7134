// Regions that the model marked: boxes on the pictures and a button for each of them.

import { element } from "./dom.js";
import { text } from "./language.js";

/** Draws the boxes on the frames of their pictures, removing earlier ones; returns [{label, marks, name}]. */
export function regionsOn(boxed, frames) {
  for (const frame of new Set(frames)) frame?.querySelectorAll(".region").forEach((each) => each.remove());
  const regions = [];
  for (const { text: name, boxes } of boxed) {
    for (const { box_1000: [left, top, right, bottom], box_pixels: pixels, image } of boxes) {
      const label = text("box", regions.length + 1);
      const where = (pixels ?? [left, top, right, bottom]).join(", ");
      const frame = frames[image ?? 0];
      const region = { label, name, where, mark: null, chosen: null };
      if (frame) {
        region.mark = element("button", {
          type: "button", className: "region", title: where, "aria-label": `${label}: ${where}`, "aria-pressed": "false",
          click: () => choose(regions, region),
        }, String(regions.length + 1));
        Object.assign(region.mark.style, {
          left: `${left / 10}%`, top: `${top / 10}%`, width: `${(right - left) / 10}%`, height: `${(bottom - top) / 10}%`,
        });
        frame.append(region.mark);
      }
      regions.push(region);
    }
  }
  return regions;
}

/** A list with a button for each region; a click marks the region in its picture. */
export function regionButtons(regions) {
  const buttons = regions.map((region) => {
    region.chosen = element("button", { type: "button", "aria-pressed": "false", click: () => choose(regions, region) },
      `${region.label}: ${region.where}`);
    return element("li", {}, region.chosen);
  });
  return element("div", { className: "regions" }, element("p", {}, text("boxes")), element("ul", {}, ...buttons));
}

function choose(regions, region) {
  const chosen = region.chosen?.getAttribute("aria-pressed") !== "true";
  for (const each of regions) {
    for (const node of [each.mark, each.chosen]) node?.setAttribute("aria-pressed", String(chosen && each === region));
  }
  if (chosen) region.mark?.scrollIntoView({ block: "nearest" });
}
