// The same calls as text: Python, curl and the command line.

/**
 * @typedef {object} Call
 * @property {string} rest base URL, without a slash at its end
 * @property {string} grpc HOST:PORT
 * @property {boolean} tls
 * @property {boolean} token whether calls need a bearer token
 * @property {string} file name of the image, or of the tokens
 * @property {boolean} sample whether this service has the image, at /playground/samples
 * @property {boolean} tokensOnly whether there are only tokens
 * @property {number} k
 * @property {string | null} target such as ssim=0.5, instead of k
 * @property {string} fit
 * @property {string | null} tokenizer null: the default one
 */
/** @typedef {"python" | "curl" | "cli"} Language */

/**
 * Encode an image and decode its tokens.
 * @param {Language} language
 * @param {Call} call
 */
export function encodeSnippet(language, call) {
  return { python: encodePython, curl: encodeCurl, cli: encodeCli }[language](call);
}

/**
 * Generate an image.
 * @param {Language} language
 * @param {Call} call
 * @param {Record<string, unknown>} parameters of POST /v1/generate
 * @param {number} given tokens of the image to go on from; 0: none
 */
export function generateSnippet(language, call, parameters, given) {
  return { python: generatePython, curl: generateCurl, cli: generateCli }[language](call, parameters, given);
}

/** A file's name without its suffix, safe in quotes. @param {Call} call */
function stem({ file }) {
  return file.replace(/\.[^.]*$/, "");
}

/** The line that fetches a sample. @param {Call} call */
function fetching(call) {
  return call.sample ? `curl -s ${call.rest}/playground/samples/${call.file} -o ${call.file}\n` : "";
}

/** @param {Call} call */
function connect({ grpc, tls, token }) {
  const more = (tls ? ", credentials=grpc.ssl_channel_credentials()" : "")
    + (token ? ', bearer_token=os.environ["CHANNELTOK_BEARER_TOKEN"]' : "");
  return `with Client("${grpc}"${more}) as client:\n`;
}

/** @param {Call} call @param {string[]} names from channeltok */
function imports({ tls, token }, names) {
  return (token ? "import os\n\n" : "") + (tls ? "import grpc\n" : "")
    + `from channeltok import ${names.join(", ")}\n\n`;
}

/** @param {Call} call */
function encodePython(call) {
  const { file, k, target, fit, tokenizer, tokensOnly } = call;
  if (tokensOnly) {
    return `${imports(call, ["Client", "Tokens"])}tokens = Tokens.from_bytes(open("${file}", "rb").read())\n`
      + `${connect(call)}    image = client.decode(tokens.prefix(${k}), "png")\n`
      + `open("${stem(call)}.png", "wb").write(image)\n`;
  }
  const aspect = fit === "pad" ? "  # tokens know the image's shape" : "";
  const options = [
    target ? `quality=Quality(${target})` : `k=${k}`,
    ...(fit === "pad" ? ['fit="pad"'] : []),
    ...(tokenizer ? [`tokenizer="${tokenizer}"`] : []),
  ];
  return `${imports(call, target ? ["Client", "Quality"] : ["Client"])}`
    + `image = open("${file}", "rb").read()\n`
    + `${connect(call)}    tokens = client.encode(image, ${options.join(", ")})\n`
    + `    print(tokens.ids)  # ${k} whole numbers, ${2 * k} bytes\n`
    + `    back = client.decode(tokens, "png")${aspect}\n`
    + `open("${stem(call)}.png", "wb").write(back)\n`;
}

/** @param {Call} call */
function encodeCurl(call) {
  const { rest, file, k, target, fit, tokenizer, token, tokensOnly } = call;
  const header = token ? ' -H "Authorization: Bearer $CHANNELTOK_BEARER_TOKEN"' : "";
  const png = `-H 'Accept: image/png'${header} \\\n    ${rest}/v1/decode -o ${stem(call)}.png\n`;
  if (tokensOnly) return `curl -s --data-binary @${file} ${png}`;
  const query = [
    target ? `quality=${target}` : `k=${k}`,
    ...(fit === "pad" ? ["fit=pad"] : []),
    ...(tokenizer ? [`tokenizer=${encodeURIComponent(tokenizer)}`] : []),
  ].join("&");
  return `${fetching(call)}curl -s --data-binary @${file}${header} \\\n    '${rest}/v1/encode?${query}' -o ${stem(call)}.json\n`
    + `curl -s --json @${stem(call)}.json ${png}`;
}

/** @param {Call} call */
function server({ grpc, tls }) {
  return `--server ${grpc}${tls ? " --tls" : ""}`;
}

/** @param {Call} call */
function tokenLine({ token }) {
  return token ? "export CHANNELTOK_BEARER_TOKEN=...\n" : "";
}

/** @param {Call} call */
function encodeCli(call) {
  const { file, k, target, fit, tokenizer, tokensOnly } = call;
  const decode = (/** @type {string} */ tokens) => `channeltok decode ${tokens} -o ${stem(call)}.png ${server(call)}\n`;
  if (tokensOnly) return tokenLine(call) + decode(file);
  const options = (target ? `--quality ${target}` : `-k ${k}`)
    + (fit === "pad" ? " --fit pad" : "") + (tokenizer ? ` --tokenizer ${tokenizer}` : "");
  return `${tokenLine(call)}${fetching(call)}channeltok encode ${file} ${options} -o ${stem(call)}.ctok ${server(call)}\n`
    + decode(`${stem(call)}.ctok`);
}

/** @param {Call} call @param {Record<string, unknown>} parameters @param {number} given */
function generatePython(call, parameters, given) {
  const fields = Object.entries(parameters)
    .map(([name, value]) => `${name === "class" ? "class_name" : name}=${JSON.stringify(value)}`);
  if (given) fields.push(`prefix=Tokens.from_bytes(open("${stem(call)}.ctok", "rb").read()).prefix(${given})`);
  return `${imports(call, ["Client", "Generated", "GenerateParams", ...(given ? ["Tokens"] : [])])}`
    + `params = GenerateParams(\n${fields.map((field) => `    ${field},\n`).join("")})\n`
    + `${connect(call)}    for event in client.generate(params):\n`
    + "        if isinstance(event, Generated):\n"
    + '            image = client.decode(event.tokens, "png")\n'
    + 'open("generated.png", "wb").write(image)\n';
}

/** Text as one word of a shell. @param {string} text */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** @param {Call} call @param {Record<string, unknown>} parameters @param {number} given */
function generateCurl(call, parameters, given) {
  const header = call.token ? ' -H "Authorization: Bearer $CHANNELTOK_BEARER_TOKEN"' : "";
  const body = given ? { ...parameters, prefix: `the JSON of encode?k=${given}` } : parameters;
  const json = quoted(JSON.stringify(body));
  return `curl -sN --json ${json}${header} \\\n    ${call.rest}/v1/generate\n`;
}

/** @param {Call} call @param {Record<string, unknown>} parameters @param {number} given */
function generateCli(call, parameters, given) {
  const options = Object.entries(parameters).map(([name, value]) => {
    const flag = name === "k" ? "-k" : `--${name.replaceAll("_", "-")}`;
    return `${flag} ${typeof value === "string" && !/^\w[\w-]*$/.test(value) ? quoted(value) : value}`;
  });
  if (given) options.push(`--prefix ${stem(call)}.ctok`);
  return `${tokenLine(call)}channeltok generate ${options.join(" ")} -o generated.png ${server(call)}\n`;
}
