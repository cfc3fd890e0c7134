// Loads the chat of this service into a page of another site; docs/widget.md describes the attributes of its script element.
{
  const script = document.currentScript;
  import(new URL("widget_chat.js", script.src).href)
    .then(({ start }) => start({ ...script.dataset }))
    .catch((error) => console.error(`The chat could not be loaded from ${script.src}: ${error.message}`));
}
