// A button that asks again, after the time that the service said (Retry-After).

import { button } from "./dom.js";
import { text } from "./language.js";

/** `error` has `retryAfter`, in seconds; until then the button shows how long it takes. */
export function retryButton({ retryAfter = 0 }, onClick) {
  const retry = button(text("retry"), onClick);
  if (retryAfter) wait(retry, performance.now() + retryAfter * 1000);
  return retry;
}

function wait(retry, end) {
  const show = () => {
    const left = Math.ceil((end - performance.now()) / 1000);
    retry.disabled = left > 0;
    retry.textContent = left > 0 ? text("retryIn", left) : text("retry");
    return left > 0;
  };
  show();
  const timer = setInterval(() => { if (!show() || !retry.isConnected) clearInterval(timer); }, 250);
}
