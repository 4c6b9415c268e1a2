// The titles of icons are no text: Sphinx's highlighting of a search's words fails in them.
document.addEventListener("DOMContentLoaded", () => {
  for (const title of document.querySelectorAll("svg title")) title.classList.add("nohighlight");
});
