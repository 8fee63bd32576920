// Server-sent events from a response to POST, which EventSource cannot send.

/** @typedef {{ name: string, data: any }} ServerEvent */

/**
 * The events of a text/event-stream, as they come; data is parsed as JSON.
 * @param {Response} response
 * @returns {AsyncGenerator<ServerEvent, void, void>}
 */
export async function* readEvents(response) {
  if (!response.body) return;
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += decoder.decode(value, { stream: true });
      const blocks = text.split("\n\n");
      text = blocks.pop() ?? "";
      for (const block of blocks) yield parse(block);
    }
  } finally {
    await reader.cancel();
  }
}

/** @param {string} block @returns {ServerEvent} */
function parse(block) {
  let name = "message";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    if (line.startsWith("data:")) data += line.slice(5);
  }
  return { name, data: JSON.parse(data) };
}
