// A photograph by the camera: a live picture on secure pages, otherwise the device's own camera program.

import { text } from "./language.js";

let connected = false;

/** `taken` gets the photograph as a file; `fallback` is called where the page may not use the camera. */
export async function openCamera({ dialog, video, error, capture, close }, taken, fallback) {
  if (!navigator.mediaDevices?.getUserMedia || matchMedia("(pointer: coarse)").matches) return fallback();
  error.hidden = true;
  capture.disabled = true;
  dialog.showModal();
  if (!connected) {
    connected = true;
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => video.srcObject?.getTracks().forEach((track) => track.stop()));
    capture.addEventListener("click", async () => {
      const file = await photograph(video);
      dialog.close();
      taken(file);
    });
  }
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 3840 }, height: { ideal: 2160 } } });
    await video.play();
    capture.disabled = false;
    if (!dialog.open) dialog.dispatchEvent(new Event("close")); // it was closed while the camera was being opened
  } catch (problem) {
    error.textContent = text("cameraRefused", problem.message);
    error.hidden = false;
  }
}

async function photograph(video) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  return new File([blob], "photo.jpg", { type: "image/jpeg" });
}
