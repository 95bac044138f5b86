// Adds a button that copies the command to each endpoint; without a script the page lacks only them.
for (const section of document.querySelectorAll("section")) {
  const command = section.querySelector(":scope > pre");
  if (command === null) continue;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy curl";
  button.addEventListener("click", async () => {
    const text = command.textContent.replaceAll("$SERVER", new URL(".", location.href).href.slice(0, -1));
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      // Pages served without TLS have no clipboard.
      getSelection().selectAllChildren(command);
      button.textContent = "Selected: copy it";
    }
    setTimeout(() => { button.textContent = "Copy curl"; }, 2000);
  });
  command.before(button);
}
