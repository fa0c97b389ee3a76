/** Server-sent events of an answer to `fetch`, which, unlike EventSource, may post and carry a key. */

/**
 * @param {Response} response
 * @returns {AsyncGenerator<{kind: string, data: any, id: number | null}>}
 */
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        const found = parse(block);
        if (found) yield found;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @param {string} block */
function parse(block) {
  const fields = Object.fromEntries(block.split("\n").map((line) => {
    const colon = line.indexOf(": ");
    return [line.slice(0, colon), line.slice(colon + 2)];
  }));
  if (!fields.event || fields.data === undefined) return null; // a comment keeps the line open
  return { kind: fields.event, data: JSON.parse(fields.data), id: fields.id ? Number(fields.id) : null };
}
