// Loads the chat of this service into a page of another site. Its attributes are described in docs/widget.md:
// <script src="https://glm.example/web/widget.js" data-token-url="/glm-token" async></script>
{
  const script = document.currentScript;
  import(new URL("widget_chat.js", script.src).href)
    .then(({ start }) => start({ ...script.dataset }))
    .catch((error) => console.error(`The chat could not be loaded from ${script.src}: ${error.message}`));
}
