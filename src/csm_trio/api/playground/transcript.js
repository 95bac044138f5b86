// The text as it is spoken: words light up. Text only, never markup.

export class Transcript {
  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.spans = [];
    this.lit = -1;
    this.element.replaceChildren();
  }

  /** Show the words sent so far, and light those that are spoken until a time. */
  show(wordTimes, heardMs) {
    wordTimes.words.slice(Math.max(0, this.spans.length - 1)).forEach((word, offset, shown) => {
      const index = wordTimes.words.length - shown.length + offset;
      this.spans[index] ??= this.element.appendChild(document.createElement("span"));
      this.spans[index].textContent = word.text;
    });
    const now = heardMs > 0 ? wordTimes.wordAt(heardMs) : -1;
    if (now === this.lit) return;
    this.lit = now;
    this.spans.forEach((span, index) => {
      span.className = index < now ? "spoken" : index === now ? "spoken now" : "";
    });
  }

  /** Show no word as the one being spoken: playback has ended. */
  settle() {
    for (const span of this.element.querySelectorAll(".now")) span.classList.remove("now");
  }
}
