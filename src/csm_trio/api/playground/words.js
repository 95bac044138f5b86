// Which word is spoken when: the characters of alignments, matched to the text as written.

const SEARCH_CHARS = 400; // how far a tag or an emoji that is not spoken may reach

/** The words of a text: `{text, begin, end}` in code points, and the white space between them. */
export function splitWords(text) {
  const words = [];
  let at = 0;
  for (const part of text.split(/(\s+)/u)) {
    const end = at + [...part].length;
    if (part) words.push({ text: part, begin: at, end, space: /^\s/u.test(part) });
    at = end;
  }
  return words;
}

/** Start times of a growing text's words, from alignments that count from the context's start. */
export class WordTimes {
  constructor() {
    this.text = [];
    this.words = [];
    this.starts = []; // ms by word; undefined where it is not known yet
    this.next = 0; // code point that the next aligned character is looked for from
    this.word = 0;
    this.endMs = 0;
  }

  /** Add text that has been sent. */
  addText(delta) {
    this.text.push(...delta);
    this.words = splitWords(this.text.join(""));
  }

  /** Add the characters of one message. */
  addAlignment({ chars, charStartTimesMs: starts, charDurationsMs: durations }) {
    chars.forEach((char, index) => {
      this.endMs = Math.max(this.endMs, starts[index] + durations[index]);
      if (char.trim() === "") return;
      const found = this.text.indexOf(char, this.next);
      if (found < 0 || found - this.next > SEARCH_CHARS) return;
      this.next = found + 1;
      while (this.words[this.word].end <= found) this.word += 1;
      this.starts[this.word] ??= starts[index];
    });
  }

  /** Return the index of the word that is spoken at a time; -1 before the first. */
  wordAt(ms) {
    let last = -1;
    this.starts.forEach((start, index) => {
      if (start <= ms) last = index;
    });
    return last;
  }

  /** Return the text up to and including the word that is spoken at a time. */
  textUntil(ms) {
    const last = this.wordAt(ms);
    return this.words.slice(0, last + 1).map((word) => word.text).join("").trim();
  }
}
